"""What a run left behind, as plain frozen data; nothing here reads a file or draws.

Letters used in shapes: M source episodes, N target episodes, T steps, K bins.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

TRANSFERRED = ("transfer", "cpa")
REFERENCES = ("collecteddata", "data", "expert", "random", "behaviourcloning", "bc")


@dataclasses.dataclass(frozen=True)
class Phase:
    """Wall seconds and peak memory of one phase; ``skipped`` says that it was found finished."""

    name: str
    seconds: float
    peak_memory_mib: float | None
    skipped: bool


@dataclasses.dataclass(frozen=True)
class Curve:
    """One logged quantity of one phase, over optimiser steps."""

    phase: str
    metric: str
    steps: Float[np.ndarray, " n"]
    values: Float[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class Alignment:
    """Labels carried from the sources to the target, what they cost and how good they are.

    Attributes:
        labels: P(row's episode preferred to column's), NaN where unknown.
        accuracy: Share of pairs with a strict true order that each rule orders right, by name.
        couplings: Plans by name: a source, or ``source/feature/...`` where a source was solved several times.
        sources: Names of the sources, as the record lists them.
        clips: Frames (F, H, W, 3) of some episodes: ``source/<episode>`` of the first source, and
            ``target/<episode>``.
        clips_missing: Why there are none, or too few.
    """

    labels: Float[np.ndarray, "N N"]
    confidence: Float[np.ndarray, "N N"] | None
    true_labels: Float[np.ndarray, "N N"] | None
    couplings: dict[str, np.ndarray]
    source_labels: dict[str, np.ndarray]
    accuracy: dict[str, float]
    sources: tuple[str, ...] = ()
    clips: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    clips_missing: tuple[str, ...] = ()
    inversion: str | None = None

    @property
    def plans(self) -> dict[str, tuple[np.ndarray, ...]]:
        """Plans of one shape (M, N) of each source, in the order in which they were solved."""
        found: dict[str, tuple[np.ndarray, ...]] = {}
        for name, plan in self.couplings.items():
            source = next((s for s in self.sources if name == s or name.startswith(f"{s}/")), name)
            found[source] = (*found.get(source, ()), plan)
        return found

    @property
    def main(self) -> str | None:
        """Name under which ``accuracy`` holds the transferred labels, or None."""
        return next((name for name in self.accuracy if name.lower() in TRANSFERRED), None)

    @property
    def label_accuracy(self) -> float | None:
        """Accuracy of the transferred labels, or None where the truth is unknown."""
        return None if self.main is None else self.accuracy[self.main]

    @property
    def controls(self) -> dict[str, float]:
        """Accuracy of every rule that is not the transfer itself."""
        return {name: value for name, value in self.accuracy.items() if name != self.main}

    @property
    def judged_pairs(self) -> int | None:
        """Number of unordered pairs with a strict true order, or None where the truth is unknown."""
        if self.true_labels is None:
            return None
        upper = np.triu_indices(len(self.true_labels), 1)
        truth = self.true_labels[upper]
        return int(np.sum(np.isfinite(truth) & (truth != 0.5) & np.isfinite(self.labels[upper])))


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Stated chance against observed share, bin by bin; empty bins hold NaN or are absent."""

    confidence: Float[np.ndarray, " K"]
    accuracy: Float[np.ndarray, " K"]
    count: Float[np.ndarray, " K"]


@dataclasses.dataclass(frozen=True)
class RewardMetrics:
    """How the reward model ranks pairs that it never saw."""

    pair_accuracy: float | None
    label_accuracy: float | None
    ece: float | None
    held_out_pairs: int | None
    reliability: Reliability | None


@dataclasses.dataclass(frozen=True)
class Matches:
    """What alignment did to a reward of frames.

    Attributes:
        episodes: The preferred and the disliked one of a pair.
        plans: Coupling (F, G) of frames with the nearest demonstration, by side and stage.
        distances: What that coupling costs.
        spaces: Frames on the two main axes (n, 2), by stage.
        won: Share of its comparisons that each frame's episode won, (n,).
    """

    episodes: tuple[int, int]
    plans: dict[tuple[str, str], np.ndarray]
    distances: dict[tuple[str, str], float]
    spaces: dict[str, np.ndarray]
    won: Float[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Episodes of one policy; ``seeds[i]`` fixes the start of episode ``i``."""

    policy: str
    seeds: tuple[int, ...]
    successes: tuple[bool, ...]
    returns: tuple[float, ...]

    @property
    def wins(self) -> int:
        """Number of successful episodes."""
        return sum(self.successes)


@dataclasses.dataclass(frozen=True)
class Rollout:
    """One recorded episode: true and predicted reward per step, and its film if there is one."""

    index: int
    policy: str
    seed: int | None
    success: bool
    drawn_by: str | None
    reason: str | None
    rewards: Float[np.ndarray, " T"]
    predicted: Float[np.ndarray, " T"] | None
    deviation: Float[np.ndarray, " T"] | None
    successes: Bool[np.ndarray, " T"]
    video: Path | None


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that one run directory says.

    Attributes:
        notes: What is missing or odd, one sentence each; shown, never swallowed.
    """

    directory: Path
    name: str
    method: str
    task: str
    seed: int | None
    command: str
    status: str
    started: str
    machine: dict[str, Any]
    versions: dict[str, Any]
    phases: tuple[Phase, ...]
    config: dict[str, Any]
    config_text: str
    curves: tuple[Curve, ...]
    alignment: Alignment | None
    reward: RewardMetrics | None
    matches: Matches | None
    reward_kind: str | None
    policy_kind: str | None
    evaluations: tuple[Evaluation, ...]
    rollouts: tuple[Rollout, ...]
    notes: tuple[str, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        """Tasks whose labels were used: from the couplings, else from the configuration."""
        if self.alignment is not None and self.alignment.couplings:
            return tuple(self.alignment.plans)
        alignment = self.config.get("alignment")
        named = alignment.get("sources") if isinstance(alignment, dict) else None
        return tuple(str(s) for s in named) if isinstance(named, list) else ()

    @property
    def label_accuracy(self) -> float | None:
        """Accuracy of the labels that the reward learned from."""
        found = self.alignment.label_accuracy if self.alignment is not None else None
        return self.reward.label_accuracy if found is None and self.reward is not None else found

    @property
    def seconds(self) -> float | None:
        """Wall seconds of all phases, those found finished included; None without any phase."""
        return sum(p.seconds for p in self.phases) if self.phases else None

    @property
    def main_evaluation(self) -> Evaluation | None:
        """What the run is about: the policy named like its method, or its last round, else no baseline."""
        phases = [phase.name.removeprefix("evaluate/") for phase in self.phases]
        in_order = sorted(
            self.evaluations, key=lambda e: phases.index(e.policy) if e.policy in phases else len(phases)
        )
        rounds = {
            int(found[1]): e
            for e in self.evaluations
            if (found := re.fullmatch(rf"{re.escape(self.method)}-round(\d+)", e.policy))
        }
        baselines = self.config.get("baselines")
        known = {plain(b) for b in baselines} if isinstance(baselines, dict) else set()
        for wanted in (
            lambda e: plain(e.policy) == plain(self.method),
            lambda e: e is rounds.get(max(rounds, default=0)),
            lambda e: plain(e.policy) not in known and plain(e.policy) not in REFERENCES,
            lambda e: plain(e.policy) not in known,
            lambda e: True,
        ):
            for evaluation in in_order:
                if wanted(evaluation):
                    return evaluation
        return None


def plain(name: str) -> str:
    """Return a name with case, spaces and punctuation removed, for comparison."""
    return "".join(c for c in str(name).lower() if c.isalnum())
