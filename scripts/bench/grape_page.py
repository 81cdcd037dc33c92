"""The tables of GRAPE's results, from runs that are finished: levels, gains, and differences of pairs.

Policies are compared state by state. Intervals are percentiles of 10,000 bootstrap samples over seeds and,
within each, over states: first runs are drawn with replacement, then, of each, as many initial states as it
has. (Of three runs, that understates how much runs differ by a third of the variance; the spread between
states is counted in full.)

Letters used in shapes: n initial states of a run, R bootstrap samples.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from grape_runs import (
    BEFORE,
    KEPT,
    SEEN,
    Finished,
    check_alike,
    pairs,
    places,
    policies_of,
    rounds_of,
    tried_along,
)
from scipy.stats import binomtest

CONTROL, ALIGNED = "filtered-bc", "grape-last"
GENTLE = "filtered-bc-small-steps"  # moves less in a round, so that the gate takes fewer back
LIKE_SEEN = "object"  # painted blue, it is as easy as ever: what is unseen is told without it, too
OBJECTIVES = {"task completion": ALIGNED, "safety": "safety", "efficiency": "efficiency"}
MEASURES = ("success", "collision", "steps")
RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def text(self, form: str, unit: str = "") -> str:
        """Format all three alike, the unit behind."""
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]{unit}"


def resampled(found: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Means (R, 2) of bootstrap samples over runs and, within each, over states."""
    drawn = rng.integers(len(found), size=(RESAMPLES, len(found)))
    sums, counts = np.zeros((RESAMPLES, 2)), np.zeros(RESAMPLES)
    for number, both in enumerate(found):
        size = both.shape[1]
        for times in range(1, len(found) + 1):  # a run that was drawn twice has twice its states drawn
            rows = np.flatnonzero((drawn == number).sum(1) == times)
            which = rng.integers(size, size=(len(rows), times * size))
            sums[rows] += both[:, which].sum(-1).T
            counts[rows] += times * size
    return sums / counts[:, None]


def difference(found: Sequence[np.ndarray]) -> Estimate:
    """Mean of a minus b, state by state."""
    means = resampled(found, np.random.default_rng(0))
    a, b = np.concatenate(found, 1).mean(1)
    low, high = np.quantile(means[:, 0] - means[:, 1], [0.025, 0.975])
    return Estimate(float(a - b), float(low), float(high))


def relative(found: Sequence[np.ndarray]) -> Estimate:
    """Mean of a over that of b, less one; infinite over nothing, and zero where both are nothing."""
    means = resampled(found, np.random.default_rng(0))
    low, high = np.quantile(_gain(means), [0.025, 0.975], method="inverted_cdf")
    return Estimate(float(_gain(np.concatenate(found, 1).mean(1)[None])[0]), float(low), float(high))


def _gain(means: np.ndarray) -> np.ndarray:
    a, b = means.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(a == b, 0.0, a / b - 1)


def levels(runs: Sequence[Finished]) -> str:
    """One line per policy and axis, pooled over the runs that have it."""
    lines = [
        "| policy | axis | runs | episodes | success | 95 % interval | collisions | steps | per seed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for policy in policies_of(runs):
        for axis in dict.fromkeys(axis for run in runs for axis in run.results.get(policy, ())):
            having = [run for run in runs if axis in run.results.get(policy, ())]
            success, collided, steps = (
                np.concatenate([run.column(policy, [axis], name) for run in having]) for name in MEASURES
            )
            bounds = binomtest(int(success.sum()), len(success)).proportion_ci(method="wilson")
            each = [f"{run.results[policy][axis]['rate']:.0%}" if run in having else "-" for run in runs]
            cells = [policy, axis, len(having), len(success), f"{success.mean():.1%}"]
            cells += [
                f"{bounds.low:.1%} to {bounds.high:.1%}",
                f"{collided.mean():.0%}",
                f"{steps.mean():.1f}",
            ]
            lines.append("| " + " | ".join(map(str, [*cells, ", ".join(each)])) + " |")
    return "\n".join(lines)


def by_round(runs: Sequence[Finished]) -> str:
    """What every round made, greedily in new states, beside the start; in the runs that came so far."""
    lines = ["| policy | runs | success | over the start | per seed |", "|---|---|---|---|---|"]
    for policy in [BEFORE, *rounds_of(runs)]:
        having = [run for run in runs if policy in run.results]
        found = pairs(having, policy, BEFORE, [SEEN], "success")
        each = [f"{run.results[policy][SEEN]['rate']:.0%}" if run in having else "-" for run in runs]
        change = "" if policy == BEFORE else gap("success", found)
        level = np.concatenate(found, 1)[0].mean()
        lines.append(f"| {policy} | {len(having)} | {level:.1%} | {change} | {', '.join(each)} |")
    return "\n".join(lines)


def by_task(runs: Sequence[Finished]) -> str:
    """Success in each task, greedily in new states, in the runs that have a policy; and what was gained."""
    there = [policy for policy in (BEFORE, CONTROL, ALIGNED) if policy in policies_of(runs)]
    lines = [f"| task | {' | '.join(there)} | {ALIGNED} over the start | seed by seed |"]
    lines.append("|---" * (len(there) + 3) + "|")
    for task in sorted({task for task, _ in runs[0].states(BEFORE, SEEN)}):
        found = {policy: pairs_of_task(runs, policy, task) for policy in there}
        rates = [f"{np.concatenate(each, 1)[0].mean():.0%}" for each in found.values()]
        gains = [gap("success", found[ALIGNED]), run_by_run(found[ALIGNED])] if ALIGNED in found else ["", ""]
        lines.append(f"| {' | '.join([task, *rates, *gains])} |")
    return "\n".join(lines)


def pairs_of_task(runs: Sequence[Finished], policy: str, task: str) -> list[np.ndarray]:
    """Successes of a policy and of the start in the same states of one task, as in training, of each run."""
    found = []
    for run in runs:
        for both in pairs([run], policy, BEFORE, [SEEN], "success"):
            found.append(both[:, [one == task for one, _ in run.states(BEFORE, SEEN)]])
    return found


def objectives(runs: Sequence[Finished]) -> str:
    """Before and after, for each of the three objectives that was run."""
    measures = "success | change | collisions | change | steps | change | where both succeed"
    lines = [f"| states | aligned for | {measures} |", "|---" * 9 + "|"]
    there = policies_of(runs)
    for place, axes in places(runs).items():
        rows = {"(before)": BEFORE, **OBJECTIVES}
        for name, policy in rows.items():
            where, along = tried_along(runs, place, axes, policy) if policy in there else ("", [])
            if not along:
                continue
            cells = [where, name]
            for measure in MEASURES:
                found = pairs(runs, policy, BEFORE, along, measure)
                level = np.concatenate(found, 1)[0].mean()
                cells.append(f"{level:.1f}" if measure == "steps" else f"{level:.1%}")
                cells.append("" if policy == BEFORE else gain(measure, found))
            cells.append(where_both_succeed(runs, policy, along))
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def run_by_run(found: Sequence[np.ndarray]) -> str:
    """How success differs in each run, in points."""
    return ", ".join(f"{100 * (a - b).mean():+.1f}" for a, b in found)


def where_both_succeed(runs: Sequence[Finished], policy: str, axes: Sequence[str]) -> str:
    """Relative change of the steps until success, in the states that a policy and the start both solve.

    Elsewhere a failure has all steps of an episode, so that more successes alone make fewer steps.
    """
    if policy == BEFORE or len(axes) != 1:
        return ""
    both = zip(
        pairs(runs, policy, BEFORE, axes, "steps"),
        pairs(runs, policy, BEFORE, axes, "success"),
        strict=True,
    )
    found = [steps[:, succeeded.all(0)] for steps, succeeded in both]
    return gain("steps", found) if all(each.size for each in found) else ""


def gain(measure: str, found: Sequence[np.ndarray]) -> str:
    """A relative change in per cent."""
    return relative(found).text("+.0%")


def gap(measure: str, found: Sequence[np.ndarray]) -> str:
    """A difference: of shares in points, of steps in steps."""
    if measure == "steps":
        return difference(found).text("+.1f")
    return difference([100 * both for both in found]).text("+.1f", " points")


def compared(
    runs: Sequence[Finished],
    couples: Sequence[tuple[str, str]],
    say: Callable[[str, Sequence[np.ndarray]], str],
) -> str:
    """Policies against others, by place; at the end, how success differs in each run."""
    measures = "success | collisions | steps | success, seed by seed"
    lines = [f"| policy | against | states | runs | {measures} |", "|---" * 8 + "|"]
    for policy, other in couples:
        for place, axes in places(runs).items():
            where, along = tried_along(runs, place, axes, policy, other)
            if along:
                found = {measure: pairs(runs, policy, other, along, measure) for measure in MEASURES}
                cells = [policy, other, where, str(len(found["success"]))]
                cells += [say(name, each) for name, each in found.items()]
                cells.append(run_by_run(found["success"]))
                lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def by_axis(runs: Sequence[Finished]) -> str:
    """Success along every axis, and over the start and the controls, from the same states."""
    there = policies_of(runs)
    rivals = [policy for policy in (BEFORE, CONTROL, GENTLE) if policy in there]
    lines = [f"| axis | start | {ALIGNED} | {' | '.join(f'over `{rival}`' for rival in rivals)} |"]
    lines.append("|---" * (3 + len(rivals)) + "|")
    unseen = places(runs).get("unseen", [])
    rows = {axis: [axis] for axis in dict.fromkeys(axis for along in places(runs).values() for axis in along)}
    if LIKE_SEEN in unseen and len(unseen) > 1:
        rows[f"unseen without {LIKE_SEEN}"] = [axis for axis in unseen if axis != LIKE_SEEN]
    for name, axes in rows.items() if ALIGNED in there else ():
        after, before = np.concatenate(pairs(runs, ALIGNED, BEFORE, axes, "success"), 1).mean(1)
        cells = [name, f"{before:.1%}", f"{after:.1%}"]
        for rival in rivals:
            _, along = tried_along(runs, name, axes, ALIGNED, rival)
            cells.append(
                gap("success", pairs(runs, ALIGNED, rival, axes, "success")) if along == axes else ""
            )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def fates(runs: Sequence[Finished]) -> str:
    """Of each run, what was kept, whether it ends below its start, and what the gate stopped."""
    lines = ["| seed | kept | states | success before | of the kept policy |", "|---|---|---|---|---|"]
    for run in runs:
        for place, axes in places(runs).items():
            where, along = tried_along([run], place, axes, BEFORE, "grape")
            before, after = (run.column(policy, along, "success").mean() for policy in (BEFORE, "grape"))
            note = " (below)" if after < before else ""
            lines.append(f"| {run.seed} | {run.kept} | {where} | {before:.1%} | {after:.1%}{note} |")
    measures = "error of its actions, start and now | change of preferred"
    drift = "divergence from the start of its round | from the supervised policy"
    lines += ["", f"| policy | runs | collapsed | {measures} | {drift} |", "|---" * 7 + "|"]
    for policy in dict.fromkeys(policy for run in runs for policy in run.gates):
        found = [run.gates[policy] for run in runs if policy in run.gates]
        start, now, change = (
            float(np.mean([gate[name] for gate in found]))
            for name in ("start_error", "error", "chosen_change")
        )
        collapsed = sum(bool(gate["collapsed"]) for gate in found)
        cells = [policy, str(len(found)), str(collapsed), f"{start:.3f}, {now:.3f}", f"{change:+.3f}"]
        for name in ("kl", "kl_from_first"):
            cells.append(", ".join(f"{gate[name]:.2f}" for gate in found if gate[name] is not None))
        lines.append(f"| {' | '.join(cells)} |")
    reasons = [
        f"- seed {run.seed}, {policy}: {gate['reason']}."
        for run in runs
        for policy, gate in run.gates.items()
        if gate["collapsed"]
    ]
    return "\n".join([*lines, *(["", *reasons] if reasons else [])])


def durations(runs: Sequence[Finished]) -> str:
    """Minutes of each part of a run, as it was busy with it."""
    parts = list(dict.fromkeys(re.split("[/-]", phase)[0] for run in runs for phase in run.phases))
    lines = ["| seed | " + " | ".join(parts) + " | all |", "|---" * (len(parts) + 2) + "|"]
    for run in runs:
        minutes = [
            sum(seconds for phase, seconds in run.phases.items() if re.split("[/-]", phase)[0] == part) / 60
            for part in parts
        ]
        lines.append(f"| {run.seed} | " + " | ".join(f"{m:.1f}" for m in [*minutes, sum(minutes)]) + " |")
    return "\n".join(lines)


def tables(runs: Sequence[Finished]) -> str:
    """All tables of some runs, as Markdown.

    Raises:
        DataError: The runs differ in more than their seed, or two policies were tried from different states.
    """
    check_alike(runs)
    machine = runs[0].machine
    unsaid = ("seed", "out", "data_dir", "wandb.mode")
    words = [word for word in runs[0].command.split() if word.partition("=")[0] not in unsaid]
    about = (
        f"Runs of seeds {', '.join(str(run.seed) for run in runs)}, begun {runs[0].started[:10]}, of\n"
        f"`{' '.join(words)}`\non {machine['processor']}, {machine['cores']} core(s), "
        f"GPU: {machine['gpu'] or 'none'}."
    )
    others = [policy for policy in policies_of(runs) if policy != BEFORE]
    less = [(ALIGNED, each) for each in policies_of(runs) if each not in (ALIGNED, *KEPT)]
    firsts = [
        (f"{ALIGNED.removesuffix('-last')}-round1", each)
        for each in (BEFORE, *others)
        if each not in (ALIGNED, *KEPT) and not any(f"{each}-round1" in run.results for run in runs)
    ]
    unseen = ", ".join(places(runs).get("unseen", [])) or "nothing"
    texts = {
        "Before and after": objectives(runs),
        f"Relative change over `{BEFORE}`": compared(runs, [(each, BEFORE) for each in others], gain),
        f"Difference of `{ALIGNED}`, state by state": compared(runs, [*less, KEPT], gap),
        "Difference of its first round to policies of one round": compared(runs, firsts, gap),
        "Axis by axis": by_axis(runs),
        "Round by round": by_round(runs),
        "Task by task": by_task(runs),
        "Levels": levels(runs),
        "What each run kept, and what its gate said": fates(runs),
        "Minutes": durations(runs),
    }
    kinds = f"*Seen* is {SEEN}, *drawn* the same with actions drawn as in rollouts; *unseen* pools {unseen}."
    parts = [about, f"{kinds} Brackets are 95 % intervals."]
    for title, text in texts.items():
        parts += [f"### {title}", text]
    return "\n\n".join(parts)
