"""Pool runs that differ only in their seed, and say how sure the pooled numbers are."""

import dataclasses
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robopref.report.gather import find_runs, read_run
from robopref.report.runs import Run, plain

BOOKKEEPING = ("seed", "out", "name", "hydra", "wandb", "workers", "threads")
SHOWN_ELSEWHERE = ("env.task", "alignment.sources", "method")


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a binomial share (Wilson 1927), without continuity correction."""
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"0 <= successes <= n and n > 0 are needed, got {successes} of {n}")
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact sign test (McNemar's exact test): chance of a split at least this uneven by luck."""
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean and range over seeds of a number that each run states once."""

    mean: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float | None]) -> "Spread | None":
        """Summarise the values that are known; None if none is."""
        known = [v for v in values if v is not None]
        return cls(statistics.fmean(known), min(known), max(known), len(known)) if known else None


@dataclasses.dataclass(frozen=True)
class Success:
    """Episodes of one policy, pooled over the seeds of a group.

    Attributes:
        low, high: Wilson's 95 % interval over all episodes, taken as independent.
        per_seed: Success share of each run, in the group's order of seeds.
        mean_return: Mean over all episodes.
    """

    policy: str
    main: bool
    wins: int
    n: int
    low: float
    high: float
    per_seed: tuple[float, ...]
    mean_return: float
    returns: Spread

    @property
    def rate(self) -> float:
        """Share of successful episodes."""
        return self.wins / self.n


@dataclasses.dataclass(frozen=True)
class Paired:
    """Two policies on the same starts: how often only one of them succeeded."""

    policy: str
    other: str
    only_policy: int
    only_other: int
    n: int
    p_value: float


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs with the same settings and different seeds, in the order of their seeds."""

    runs: tuple[Run, ...]
    differs: str = ""

    @property
    def first(self) -> Run:
        """The run with the lowest seed; stands for the group where one run is shown."""
        return self.runs[0]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds, ascending."""
        return tuple(r.seed for r in self.runs if r.seed is not None)

    @property
    def title(self) -> str:
        """``drawer-open from button-press, window-open``."""
        sources = ", ".join(self.first.sources)
        return f"{self.first.task} from {sources}" if sources else self.first.task

    @property
    def label_accuracy(self) -> Spread | None:
        """Accuracy of the labels."""
        return Spread.of([r.label_accuracy for r in self.runs])

    @property
    def reward_accuracy(self) -> Spread | None:
        """Accuracy of the reward on held-out pairs."""
        return Spread.of([r.reward.pair_accuracy if r.reward else None for r in self.runs])

    @property
    def seconds(self) -> Spread | None:
        """Wall seconds of a run."""
        return Spread.of([r.seconds for r in self.runs])

    @property
    def controls(self) -> dict[str, Spread]:
        """Accuracy of each label rule over seeds, the transfer first."""
        names: dict[str, list[float]] = {}
        for run in self.runs:
            if run.alignment is not None:
                main = {run.alignment.main: run.alignment.label_accuracy} if run.alignment.main else {}
                for name, value in {**main, **run.alignment.controls}.items():
                    if value is not None:
                        names.setdefault(str(name), []).append(value)
        return {name: spread for name, values in names.items() if (spread := Spread.of(values))}

    @property
    def successes(self) -> list[Success]:
        """One entry per evaluated policy, the run's own first."""
        found: dict[str, list] = {}
        for run in self.runs:
            for evaluation in run.evaluations:
                found.setdefault(evaluation.policy, []).append(evaluation)
        own = self.first.main_evaluation
        pooled = []
        for policy, evaluations in found.items():
            wins, n = sum(e.wins for e in evaluations), sum(len(e.seeds) for e in evaluations)
            low, high = wilson_interval(wins, n)
            means = [statistics.fmean(e.returns) for e in evaluations]
            returns = Spread.of(means)
            assert returns is not None  # every evaluation has an episode
            pooled.append(
                Success(
                    policy=policy,
                    main=own is not None and policy == own.policy,
                    wins=wins,
                    n=n,
                    low=low,
                    high=high,
                    per_seed=tuple(e.wins / len(e.seeds) for e in evaluations),
                    mean_return=statistics.fmean(r for e in evaluations for r in e.returns),
                    returns=returns,
                )
            )
        return sorted(pooled, key=lambda s: not s.main)

    @property
    def paired(self) -> list[Paired]:
        """The main policy against each other one, where both met the same starts in the same runs."""
        main = next((s for s in self.successes if s.main), None)
        if main is None:
            return []
        found = []
        for other in self.successes[1:]:
            outcomes = [o for run in self.runs for o in _same_starts(run, main.policy, other.policy)]
            if outcomes:
                wins, losses = outcomes.count((True, False)), outcomes.count((False, True))
                chance = sign_test(wins, losses)
                found.append(Paired(main.policy, other.policy, wins, losses, len(outcomes), chance))
        return found


def _same_starts(run: Run, policy: str, other: str) -> list[tuple[bool, bool]]:
    by_policy = {e.policy: dict(zip(e.seeds, e.successes, strict=True)) for e in run.evaluations}
    mine, theirs = by_policy.get(policy, {}), by_policy.get(other, {})
    return [(mine[s], theirs[s]) for s in mine if s in theirs] if mine.keys() == theirs.keys() else []


@dataclasses.dataclass(frozen=True)
class Report:
    """Groups of runs, and what could not be used."""

    groups: tuple[Group, ...]
    skipped: tuple[str, ...] = ()

    @property
    def runs(self) -> tuple[Run, ...]:
        """All runs, group by group."""
        return tuple(run for group in self.groups for run in group.runs)


def gather(paths: Sequence[Path | str]) -> Report:
    """Read all runs at or below ``paths`` and group those that differ only in their seed.

    Raises:
        DataError: There is no run, or a file of one is damaged.
    """
    directories, skipped = find_runs(paths)
    groups, notes = group_runs([read_run(d) for d in directories])
    return Report(groups, (*skipped, *notes))


def group_runs(runs: Sequence[Run]) -> tuple[tuple[Group, ...], list[str]]:
    """Group runs by task, method and settings; of two with the same seed the one begun last counts."""
    gathered: dict[str, dict[Any, Run]] = {}
    notes = []
    for run in sorted(runs, key=lambda r: r.started):
        seeds = gathered.setdefault(_key(run), {})
        seed = run.seed if run.seed is not None else str(run.directory)
        if seed in seeds:
            notes.append(
                f"{seeds[seed].directory} is left out: {run.directory} has the same settings and seed "
                "and was begun later, and counting both would count the same episodes twice."
            )
        seeds[seed] = run
    members = [
        tuple(sorted(g.values(), key=lambda r: (r.seed is None, r.seed or 0))) for g in gathered.values()
    ]
    members.sort(key=lambda g: (g[0].task, g[0].method, str(g[0].directory)))
    settings = [_flat(_settings(g[0])) for g in members]
    groups = tuple(Group(g, _difference(s, settings)) for g, s in zip(members, settings, strict=True))
    return groups, notes


def _settings(run: Run) -> dict[str, Any]:
    return {k: v for k, v in run.config.items() if k not in BOOKKEEPING}


def _key(run: Run) -> str:
    settings = json.dumps(_settings(run), sort_keys=True, default=str)
    return json.dumps([run.task, plain(run.method), run.sources if not run.config else None, settings])


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat


def _difference(mine: dict[str, Any], everyone: list[dict[str, Any]], limit: int = 4) -> str:
    """Name the settings in which one group differs from the others, where the table does not show them."""
    found = []
    for key, value in mine.items():
        shown = key in SHOWN_ELSEWHERE or key.endswith("_target_")
        if not shown and any(other.get(key, value) != value for other in everyone):
            found.append(f"{key}={value}")
    return ", ".join(found[:limit]) + (f" and {len(found) - limit} more" if len(found) > limit else "")
