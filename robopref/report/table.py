"""The headline numbers of a report, as rows of text and as a table in the terminal."""

import dataclasses
from typing import TYPE_CHECKING

from robopref.report.groups import Group, Report, Spread

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

UNKNOWN = "n/a"
CLOSE = 0.02


@dataclasses.dataclass(frozen=True)
class Row:
    """One evaluated policy; ``main`` marks the policy that the run is about, the others leave blanks."""

    main: bool
    task: str
    sources: str
    method: str
    differs: str
    reward: str
    policy: str
    seeds: str
    label_accuracy: str
    reward_accuracy: str
    success: str
    interval: str
    episodes: str
    returns: str
    time: str


def headline(report: Report) -> list[Row]:
    """Return one row per group and evaluated policy, the group's own policy first."""
    return [row for group in report.groups for row in _rows(group)]


def _rows(group: Group) -> list[Row]:
    run, successes = group.first, group.successes
    shared = Row(
        main=True,
        task=run.task,
        sources=", ".join(run.sources) or UNKNOWN,
        method=run.method,
        differs=group.differs,
        reward=run.reward_kind or UNKNOWN,
        policy=run.policy_kind or UNKNOWN,
        seeds=", ".join(map(str, group.seeds)) or UNKNOWN,
        label_accuracy=number(group.label_accuracy),
        reward_accuracy=number(group.reward_accuracy),
        success=UNKNOWN,
        interval="",
        episodes="",
        returns=UNKNOWN,
        time=duration(group.seconds.mean) if group.seconds else UNKNOWN,
    )
    if not successes:
        return [shared]
    blank = dataclasses.replace(shared, **{f.name: "" for f in dataclasses.fields(Row) if f.name != "main"})
    rows = []
    for success in successes:
        result = {
            "success": f"{success.rate:.1%}",
            "interval": f"[{success.low:.1%}, {success.high:.1%}]",
            "episodes": f"{success.wins}/{success.n}",
            "returns": _returns(success.mean_return, success.returns),
        }
        if success.main:
            rows.append(dataclasses.replace(shared, **result))
        else:
            rows.append(dataclasses.replace(blank, main=False, method=success.policy, **result))
    return rows


def number(spread: Spread | None) -> str:
    """Write a share with three digits; over several seeds the mean and, in brackets, smallest and largest."""
    if spread is None:
        return UNKNOWN
    return f"{spread.mean:.3f}" + (f" [{spread.low:.3f}, {spread.high:.3f}]" if spread.n > 1 else "")


def _returns(mean: float, spread: Spread) -> str:
    return f"{mean:.1f}" + (f" [{spread.low:.1f}, {spread.high:.1f}]" if spread.n > 1 else "")


def duration(seconds: float) -> str:
    """Write seconds as ``4.2 s``, ``8 min 12 s`` or ``2 h 05 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def controls_verdict(group: Group) -> str | None:
    """Say in plain words whether the transferred labels beat every control; None without controls."""
    controls = dict(group.controls)
    alignment = next((r.alignment for r in group.runs if r.alignment is not None), None)
    main = alignment.main if alignment is not None else None
    if main is None or main not in controls:
        return None
    own = controls.pop(main)
    if not controls:
        return None
    best = max(controls, key=lambda name: controls[name].mean)
    gap = own.mean - controls[best].mean
    several = len(group.runs) > 1
    where = f"on average over {own.n} seeds" if several else "in this run"
    if gap > 0:
        sentence = (
            f"The transferred labels beat all {len(controls)} controls {where}: {own.mean:.3f} against "
            f"{controls[best].mean:.3f} of {control_name(best)}, the best of them (+{gap:.3f})."
        )
    else:
        worse = [n for n in controls if controls[n].mean < own.mean]
        beaten = ", ".join(control_name(n) for n in worse) or "none of them"
        sentence = (
            f"The transferred labels do not beat their controls {where}: {control_name(best)} orders "
            f"{controls[best].mean:.3f} of the pairs right, the transfer {own.mean:.3f} ({gap:+.3f}). "
            f"They beat {beaten}."
        )
    if abs(gap) < CLOSE:
        sentence += " A difference this small may be chance in the collected episodes."
    if own.mean < 0.5:
        sentence += (
            " They are worse than a coin: good and bad are exchanged, and a reward will learn the reverse."
        )
    if several:
        wins = sum(_beats(run.alignment) for run in group.runs)
        sentence += f" They beat every control in {wins} of {own.n} seeds."
    return sentence


def _beats(alignment) -> bool:
    if alignment is None or alignment.label_accuracy is None or not alignment.controls:
        return False
    return alignment.label_accuracy > max(alignment.controls.values())


def control_name(name: str) -> str:
    """Write ``hand_object`` as ``hand-object distance``, and so on."""
    known = {
        "transfer": "the transfer",
        "cpa": "the transfer",
        "shuffled": "shuffled source labels",
        "shuffled_labels": "shuffled source labels",
        "wasserstein": "plain Wasserstein on shared statistics",
        "medoid": "distance to the medoid",
        "hand_object": "hand-object distance",
        "hand_object_distance": "hand-object distance",
    }
    return known.get(name.lower().replace("-", "_"), name.replace("_", " "))


def results_table(report: Report) -> "Table":
    """Return the headline table for a terminal of 80 columns or more; ranges over seeds are on the page."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption_justify="left", show_edge=False
    )
    for title in ("task", "method"):
        table.add_column(title, overflow="fold")
    for title in ("labels", "reward", "success", "return"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("time", justify="right", max_width=6)
    for group in report.groups:
        for row in _rows(group):
            parts = [f"{row.reward} -> {row.policy}", f"seed {row.seeds}", row.differs] if row.main else []
            sources = [f"< {source}" for source in row.sources.split(", ")] if row.main else []
            table.add_row(
                _stacked(row.task, sources),
                _stacked(row.method, parts, bold=row.main),
                row.label_accuracy.partition(" ")[0],
                row.reward_accuracy.partition(" ")[0],
                _stacked(row.success, [row.interval.replace("%", ""), row.episodes], bold=row.main),
                row.returns.partition(" ")[0],
                row.time,
            )
        table.add_section()
    caption = "task < sources of its labels; labels, reward: share of pairs ordered right; "
    caption += "success: Wilson's 95 % interval"
    if any(len(group.runs) > 1 for group in report.groups):
        caption += " over the episodes of all seeds; the rest: means over seeds"
    table.caption = Text(f"{caption}.", style="dim")
    for group in report.groups:
        if verdict := controls_verdict(group):
            name = f"{group.first.task}: " if len(report.groups) > 1 else ""
            table.caption.append(f"\n{name}{verdict}", style="not dim")
    return table


def _stacked(first: str, below: list[str], *, bold: bool = False) -> "Text":
    from rich.text import Text

    text = Text(first, style="bold" if bold else "")
    for line in filter(None, below):
        text.append(f"\n{line}", style="not bold dim")
    return text
