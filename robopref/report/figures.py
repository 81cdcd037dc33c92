"""Curves and bars: success, learning curves, calibration, and the reward along a rollout."""

import math
import re
from collections.abc import Sequence

import numpy as np

from robopref.report.groups import Group, Success, wilson_interval
from robopref.report.runs import Curve, Reliability, RewardMetrics, Rollout, Run
from robopref.report.style import INK, MUTED, SERIES, Drawing, Panel, canvas, to_panel

POINTS = 400
HIDDEN_METRICS = ("learning_rate", "steps_per_second", "seconds", "epoch", "lr")
MAX_PANELS = 12
INTERVAL = "Wilson's 95 % score interval of the share of episodes"


def success_bars(group: Group, *, key: str) -> Drawing:
    """Success of every evaluated policy, with intervals and, for several seeds, one dot per seed."""
    rows = group.successes
    several = len(group.runs) > 1
    row_height = 0.48
    with canvas(4.3, row_height * len(rows) + 0.55, left=0.12, right=0.2, top=0.08, bottom=0.42) as (fig, ax):
        for position, row in enumerate(rows):
            y = -float(position)
            color = SERIES[0] if row.main else MUTED
            ax.barh(y, row.rate, height=0.3, color=color, alpha=0.85 if row.main else 0.45, linewidth=0)
            ax.plot([row.low, row.high], [y, y], color=INK, linewidth=1.4, solid_capstyle="butt")
            for end in (row.low, row.high):
                ax.plot([end, end], [y - 0.11, y + 0.11], color=INK, linewidth=1.4)
            if several:
                ax.plot(row.per_seed, [y] * len(row.per_seed), "o", ms=4, mfc="none", mec=INK, mew=0.9)
            weight = "bold" if row.main else "normal"
            ax.text(0, y + 0.24, row.policy, ha="left", va="bottom", fontweight=weight)
            numbers = f"{row.wins}/{row.n} = {row.rate:.0%}  [{row.low:.0%}, {row.high:.0%}]"
            ax.text(1, y + 0.24, numbers, ha="right", va="bottom")
        ax.set(xlim=(0, 1), ylim=(-len(rows) + 0.7, 0.62), yticks=[], xlabel="share of successful episodes")
        ax.set_xticks(np.linspace(0, 1, 6), [f"{x:.0%}" for x in np.linspace(0, 1, 6)])
        ax.grid(axis="y", visible=False)
        ax.spines["left"].set_color(INK)
        panel = to_panel(fig, ax, key=key, description="Success rates with 95 % intervals")
    seeds = f"{len(group.runs)} training seeds" if several else "one training seed"
    caption = (
        f"Success on {group.first.task}; {seeds}, n = {rows[0].n} episodes of {rows[0].policy}"
        f"{'' if len({r.n for r in rows}) == 1 else ' (n of the others beside their bars)'}. "
        f"Whiskers: {INTERVAL}{', pooled over seeds' if several else ''}; "
        "it covers chance in the starts of the episodes"
    )
    if several:
        caption += " and treats all episodes as independent, so it is too narrow where trainings differ."
        caption += " Circles: each training seed alone."
    else:
        caption += ", not chance in training, which one seed cannot show."
    for pair in group.paired:
        caption += (
            f" On the same {pair.n} starts only {pair.policy} succeeded in {pair.only_policy} and only "
            f"{pair.other} in {pair.only_other} (exact sign test, p = {_p(pair.p_value)})."
        )
    return Drawing("Success of each policy", caption, (panel,), columns=1)


def success_by_round(successes: Sequence[Success], *, key: str) -> Drawing | None:
    """Success after each round of the policies ``<name>-round<n>``, and before all; None without any."""
    rows = {row.policy: row for row in successes}
    lines: dict[str, dict[int, Success]] = {}
    for policy, row in rows.items():
        if found := re.fullmatch(r"(.+)-round(\d+)", policy):
            lines.setdefault(found[1], {})[int(found[2])] = row
    if not lines:
        return None
    rounds = max(max(line) for line in lines.values())
    key_height = 0.17 * math.ceil(len(lines) / 2)
    with canvas(4.3, 2.5 + key_height, left=0.62, top=0.1 + key_height) as (fig, ax):
        for number, (name, line) in enumerate(lines.items()):
            shown = {0: rows["supervised"], **line} if "supervised" in rows else line
            at = np.array(sorted(shown))
            x, rates = at + 0.06 * (number - (len(lines) - 1) / 2), [shown[n].rate for n in at]
            ends = np.array([(shown[n].low, shown[n].high) for n in at]).T
            color = SERIES[number % len(SERIES)]
            ax.errorbar(x, rates, abs(ends - rates), fmt="o-", ms=4, color=color, linewidth=1.2, label=name)
        ax.set(xlim=(-0.3, rounds + 0.3), ylim=(0, 1), xlabel="round", ylabel="share of successful episodes")
        ax.set_xticks(range(rounds + 1))
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, handlelength=1.3, borderaxespad=0.2)
        panel = to_panel(fig, ax, key=key, description="Success after each round with 95 % intervals")
    caption = (
        "Success of the policy after each round of rollouts and alignment; round 0 is the policy that all "
        f"began with. Whiskers: {INTERVAL}, of all seeds together."
    )
    return Drawing("Success by round", caption, (panel,), columns=1)


def _p(value: float) -> str:
    return f"{value:.1e}" if value < 0.001 else f"{value:.3f}"


def learning_curves(runs: Sequence[Run], *, key: str) -> Drawing | None:
    """One panel per logged quantity and phase; a held-out twin is drawn beside its training curve."""
    panels: list[Panel] = []
    wanted = _panels(runs)
    for (phase, metric), curves in list(wanted.items())[:MAX_PANELS]:
        with canvas(4.0, 2.35, left=0.62) as (fig, ax):
            for held_out, color in ((False, SERIES[0]), (True, SERIES[1])):
                chosen = [c for c in curves if c.metric.startswith("held_out/") == held_out]
                _draw_curves(ax, chosen, color, "held-out" if held_out else "training")
            ax.set_title(f"{phase}: {metric}")
            ax.set_xlabel("optimiser step")
            ax.margins(x=0.01)
            ax.xaxis.set_major_locator(_few_ticks())
            if any(c.metric.startswith("held_out/") for c in curves):
                ax.legend(loc="best", handlelength=1.3)
            panels.append(
                to_panel(fig, ax, key=f"{key}-{len(panels)}", description=f"{phase}: {metric} over steps")
            )
    if not panels:
        return None
    caption = "Quantities logged while training, over optimiser steps. "
    if len(runs) > 1:
        caption += f"Thin lines: the {len(runs)} seeds; thick line: their mean where all have logged. "
    else:
        caption += "Pale: as logged; full: mean of up to nine neighbouring entries. "
    caption += "Held-out curves are measured on pairs that training never used."
    if any(len(c.steps) > POINTS for cs in wanted.values() for c in cs):
        caption += f" Long curves are averaged into {POINTS} bins."
    if len(wanted) > MAX_PANELS:
        names = ", ".join(f"{p}: {m}" for p, m in list(wanted)[MAX_PANELS:])
        caption += f" Logged but not drawn: {names}."
    return Drawing("Learning curves", caption, tuple(panels))


def _panels(runs: Sequence[Run]) -> dict[tuple[str, str], list[Curve]]:
    wanted: dict[tuple[str, str], list[Curve]] = {}
    for run in runs:
        for curve in run.curves:
            metric = curve.metric.removeprefix("held_out/")
            if metric not in HIDDEN_METRICS and np.isfinite(curve.values).any():
                wanted.setdefault((curve.phase, metric), []).append(curve)
    return wanted


def _draw_curves(ax, curves: Sequence[Curve], color: str, label: str) -> None:
    for curve in curves:
        steps, values = _binned(curve.steps, curve.values)
        style = "o-" if len(steps) == 1 else "-"
        if len(curves) > 1:
            ax.plot(steps, values, style, ms=3, color=color, alpha=0.35, linewidth=0.8)
        elif len(steps) > 30:
            ax.plot(steps, values, color=color, alpha=0.3, linewidth=0.9)
            ax.plot(steps, _smooth(values), color=color, label=label)
        else:
            ax.plot(steps, values, style, ms=3, color=color, label=label)
    if len(curves) > 1:
        common = sorted(set.intersection(*({float(s) for s in c.steps} for c in curves)))
        if common:
            mean = np.mean([c.values[np.isin(c.steps, common)] for c in curves], axis=0)
            ax.plot(*_binned(np.array(common), mean), color=color, label=label)


def _binned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(steps) <= POINTS:
        return steps, values
    means = [
        (s.mean(), v.mean())
        for s, v in zip(*(np.array_split(a, POINTS) for a in (steps, values)), strict=True)
    ]
    return np.array([m[0] for m in means]), np.array([m[1] for m in means])


def _smooth(values: np.ndarray, width: int = 9) -> np.ndarray:
    half = width // 2
    return np.array([np.nanmean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))])


def _few_ticks():
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(5, integer=True)


def reliability(metrics: RewardMetrics, *, key: str) -> Drawing | None:
    """Stated chance against observed share of held-out pairs, with the number of pairs in each bin."""
    curve = metrics.reliability
    if curve is None:
        return None
    used = (curve.count > 0) & np.isfinite(curve.accuracy) & np.isfinite(curve.confidence)
    low = 0.0 if (curve.confidence[used] < 0.45).any() else 0.5
    panels = (
        _reliability_panel(curve, used, low, metrics.ece, f"{key}-curve"),
        _count_panel(curve, used, low, f"{key}-count"),
    )
    n = int(curve.count.sum())
    ece = f" Expected calibration error (ECE): {metrics.ece:.3f}." if metrics.ece is not None else ""
    caption = (
        f"Calibration of the reward model on n = {n} held-out pairs of the target task. Left: "
        "share of pairs ordered right among those to which the model gives a like chance; the dashed line is "
        "perfect calibration. Whiskers: Wilson's 95 % interval of each bin's share as if its pairs were "
        "independent; pairs share episodes, so the true interval is wider. Right: pairs per bin." + ece
    )
    return Drawing("Calibration of the reward", caption, panels)


def _reliability_panel(
    curve: Reliability, used: np.ndarray, low: float, ece: float | None, key: str
) -> Panel:
    with canvas(4.0, 2.7) as (fig, ax):
        ax.plot([low, 1], [low, 1], "--", color=MUTED, linewidth=1)
        x, y = curve.confidence[used], curve.accuracy[used]
        for at, share, count in zip(x, y, curve.count[used], strict=True):
            n = round(count)
            bottom, top = wilson_interval(min(n, round(share * n)), n)
            ax.plot([at, at], [bottom, top], color=SERIES[0], linewidth=1.2, alpha=0.7)
        ax.plot(x, y, "o-", color=SERIES[0], ms=4)
        if ece is not None:
            ax.text(0.97, 0.06, f"ECE {ece:.3f}", ha="right", transform=ax.transAxes, fontweight="bold")
        ax.set(xlim=(low, 1.01), ylim=(min(low, float(y.min(initial=1)) - 0.05), 1.03))
        ax.set(xlabel="stated chance of the answer", ylabel="share ordered right")
        return to_panel(fig, ax, key=key, description="Reliability curve of the reward model")


def _count_panel(curve: Reliability, used: np.ndarray, low: float, key: str) -> Panel:
    with canvas(4.0, 2.7, left=0.62) as (fig, ax):
        x, counts = curve.confidence[used], curve.count[used]
        width = 0.7 * float(np.min(np.diff(np.sort(x)), initial=(1 - low) / max(len(curve.count), 1)))
        ax.bar(x, counts, width=max(width, 0.01), color=SERIES[0], alpha=0.75, linewidth=0)
        for at, count in zip(x, counts, strict=True):
            ax.text(at, count, f"{count:.0f}", ha="center", va="bottom", fontsize=7)
        ax.set(xlim=(low, 1.01), xlabel="stated chance of the answer", ylabel="held-out pairs")
        ax.margins(y=0.12)
        ax.grid(axis="x", visible=False)
        return to_panel(fig, ax, key=key, description="Number of held-out pairs per bin")


def reward_trace(rollout: Rollout, *, key: str) -> Panel:
    """Predicted reward (mean and deviation) and true reward along one episode, each on its own axis."""
    steps = np.arange(len(rollout.rewards))
    with canvas(4.3, 2.15, left=0.5, right=0.5, top=0.34, bottom=0.42) as (fig, ax):
        true_axis = ax
        ax.set_xlim(0, max(len(steps), 1))
        ax.set_xlabel("step")
        if rollout.predicted is not None:
            true_axis = ax.twinx()
            true_axis.spines["right"].set(visible=True, color=SERIES[1])
            true_axis.grid(visible=False)
            mean = rollout.predicted
            deviation = np.zeros_like(mean) if rollout.deviation is None else rollout.deviation
            ax.fill_between(
                steps, mean - deviation, mean + deviation, color=SERIES[0], alpha=0.2, linewidth=0
            )
            ax.plot(steps, mean, color=SERIES[0])
            _own_axis(ax, mean - deviation, mean + deviation, SERIES[0])
            ax.text(0, 1.04, "predicted reward", color=SERIES[0], transform=ax.transAxes, fontweight="bold")
        true_axis.plot(steps, rollout.rewards, color=SERIES[1], linewidth=1.3, linestyle=(0, (4, 1.5)))
        _own_axis(true_axis, rollout.rewards, rollout.rewards, SERIES[1])
        ax.text(
            1, 1.04, "true reward", color=SERIES[1], ha="right", transform=ax.transAxes, fontweight="bold"
        )
        if rollout.successes.any():
            first = int(np.argmax(rollout.successes))
            ax.axvline(first, color=INK, linewidth=1, linestyle=":")
            side = "right" if first > len(steps) * 0.6 else "left"
            gap = -0.015 if side == "right" else 0.015
            ax.text(first + gap * len(steps), 0.04, "success", ha=side, transform=ax.get_xaxis_transform())
        return to_panel(fig, ax, key=key, description="Predicted and true reward along the rollout")


def _own_axis(ax, low: np.ndarray, high: np.ndarray, color: str) -> None:
    bottom, top = float(np.nanmin(low)), float(np.nanmax(high))
    room = (top - bottom) * 0.08 or 0.5
    ax.set_ylim(bottom - room, top + room)
    ax.tick_params(axis="y", colors=color)
    ax.locator_params(axis="y", nbins=5)


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """Spearman's rank correlation, ties sharing their mean rank; None if either does not vary."""
    ranks = []
    for values in (x, y):
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[inverse.reshape(-1)])
    if any(np.ptp(r) == 0 for r in ranks):
        return None
    return float(np.corrcoef(*ranks)[0, 1])
