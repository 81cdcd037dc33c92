"""From an observation to the chunk that is sent: sample, drop what is not feasible, rank, walk the ranking.

A deadline is kept by using less (fewer candidates, then no ranking, then the fallback), planned by what each
step takes here. Where a step takes longer than ever before, the answer is what is known by then.
What is drawn depends on the seed and the decision's index alone, so that a decision can be repeated.

Letters used in shapes: O observation entries, K candidates, H actions in a chunk, A entries of an action.
"""

import copy
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from robopref.deploy.bundle import Bundle
from robopref.deploy.pace import Pace
from robopref.deploy.punctual import Punctual
from robopref.deploy.runtime import TimeUp
from robopref.errors import ConfigError, RoboprefError, unknown_name
from robopref.scores import Scores

FALLBACKS = ("hold", "home")
Feasible = Callable[[np.ndarray, np.ndarray], bool | str]  # (O,), (H, A) as sent -> True, or False or why not


class NoActionError(RoboprefError, RuntimeError):
    """No candidate is feasible, and there is nothing to fall back to."""


@dataclasses.dataclass(frozen=True)
class Decision:
    """What was decided, and on what grounds.

    Attributes:
        actions: (H, A) as sent, in the manifest's units.
        chosen: Index of the candidate; None for the fallback.
        fallback: Why there was one; None if a candidate was chosen.
        candidates: (K, H, A) in [-1, 1].
        refused: For each candidate why it is not feasible, or None.
        scores: Of each candidate with its doubts, NaN for those that were refused before, and for an error
            that is not known; None where nothing was scored.
        value: (K,), what the ranking went by; None where nothing was scored.
        milliseconds: What sampling, filtering, scoring and all of it took.
    """

    index: int
    observation: np.ndarray
    actions: np.ndarray
    chosen: int | None
    fallback: str | None
    candidates: np.ndarray
    refused: list[str | None]
    scores: Scores | None
    value: np.ndarray | None
    milliseconds: dict[str, float]

    def score_parts(self) -> dict[str, Any] | None:
        """Mean and doubts of each candidate as lists of five digits; None for what is not known."""
        return None if self.scores is None else {k: digits(v) for k, v in self.scores._asdict().items()}

    def record(self) -> dict[str, Any]:
        """As JSON values, five digits each."""
        return {
            "index": self.index,
            "observation": digits(self.observation),
            "actions": digits(self.actions),
            "chosen": self.chosen,
            "fallback": self.fallback,
            "candidates": digits(self.candidates),
            "refused": self.refused,
            "scores": self.score_parts(),
            "value": None if self.value is None else digits(self.value),
            "milliseconds": {k: round(v, 3) for k, v in self.milliseconds.items()},
        }


def digits(values: np.ndarray) -> Any:
    """Nested lists of numbers with five digits behind the point; None where a value is not finite."""
    rounded = np.round(np.asarray(values, np.float64), 5)
    plain = rounded.astype(object)
    plain[~np.isfinite(rounded)] = None
    return plain.tolist()


class Selector:
    """Decides, one observation after the other. With a deadline, on a thread that may be left behind.

    Args:
        bundle: What to decide with.
        candidates: K, the most that are drawn.
        pessimism: k of mean - k * epistemic, the rule of :mod:`robopref.scores`; 0 takes the mean.
        deadline_s: Longest time for a decision; None for no bound.
        fallback: What to do when nothing remains: "hold" or "home", of the manifest.
        feasible: Further check of a chunk, such as inverse kinematics; called along the ranking until one
            passes. With a deadline it runs on a thread of its own.
        seed: Of all that is drawn.
        clock: Seconds, monotonic.

    Raises:
        ConfigError: An option makes no sense, or the manifest has no home to fall back to.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        candidates: int = 16,
        pessimism: float = 1.0,
        deadline_s: float | None = None,
        fallback: str = "hold",
        feasible: Feasible | None = None,
        seed: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if candidates < 1:
            raise ConfigError(f"candidates must be 1 or more, got {candidates}")
        if seed < 0:
            raise ConfigError(f"seed must be 0 or more, got {seed}")
        if not 0 <= pessimism < float("inf"):
            raise ConfigError(f"pessimism must be 0 or more, got {pessimism}")
        if deadline_s is not None and not 0 < deadline_s < float("inf"):
            raise ConfigError(f"The deadline must be positive, got {deadline_s} s")
        if fallback not in FALLBACKS:
            raise ConfigError(unknown_name("fallback", fallback, FALLBACKS))
        if fallback == "home" and bundle.manifest.action.home is None:
            raise ConfigError(f"fallback is home, but the manifest of {bundle.path} has no home")
        self.bundle, self.candidates, self.pessimism = bundle, candidates, pessimism
        self.deadline_s, self.fallback, self.feasible, self.seed = deadline_s, fallback, feasible, seed
        self._clock = clock
        self.pace = Pace(candidates, clock)
        self._punctual = Punctual(clock)

    def warm_up(self, rounds: int = 3) -> None:
        """Decide on zeros with every number of candidates, to learn how long that takes here."""
        observation = np.zeros(self.bundle.manifest.observation_size, np.float32)
        for count in self.pace.ladder:
            self._grounds(observation, count, 0, None, _nothing, _nothing)  # the first one prepares buffers
            for _ in range(rounds):
                with self.pace.timed(count, None) as pause:
                    self._grounds(observation, count, 0, None, pause, _nothing)
        self.pace.keep_as_floor()

    def decide(
        self,
        observation: np.ndarray,
        *,
        index: int,
        previous: np.ndarray | None = None,
        deadline_s: float | None = None,
    ) -> Decision:
        """Choose a chunk.

        Args:
            observation: (O,) float32, from :meth:`.Bundle.flatten`.
            index: Of the decision: with the seed it settles what is drawn.
            previous: (A,), the action that was sent last, for the rate limit and to hold.
            deadline_s: Instead of the selector's own.

        Raises:
            NoActionError: Nothing is feasible, holding means to repeat the last action, and there was none.
        """
        started = self._clock()
        limit = self.deadline_s if deadline_s is None else deadline_s
        end = None if limit is None else started + limit
        count = self.pace.affordable(limit)
        if count == 0:
            return self._fall_back(index, observation, previous, _Grounds(self._none()), "no time", started)
        found = [_Grounds(self._none())]  # what is known, the latest last

        def work() -> None:
            found.append(self._consider(observation, count, index, previous, end, found.append))

        finished = True
        if end is None:
            work()
        else:
            finished = self._punctual.attempt(work, end)
        grounds = found[-1]
        if not finished and grounds.chosen is None:
            grounds.time_up = True
            grounds.chosen = grounds.order[0] if grounds.order and self.feasible is None else None
        if grounds.chosen is None:
            return self._fall_back(index, observation, previous, grounds, self._why(grounds), started)
        return self._decision(index, observation, grounds, grounds.chunks[grounds.chosen], None, started)

    def overdue_s(self) -> float:
        """For how long a decision that was given up at its deadline has been running; 0 if there is none."""
        return self._punctual.overdue_s()

    # --- the steps ----------------------------------------------------------------------------------------

    def _consider(
        self,
        observation: np.ndarray,
        count: int,
        index: int,
        previous: np.ndarray | None,
        end: float | None,
        publish: Callable[["_Grounds"], None],
    ) -> "_Grounds":
        """All steps, the choice included."""
        with self.pace.timed(count, end) as pause:
            grounds = self._grounds(observation, count, index, previous, pause, publish)
        grounds.chosen = self._walk(observation, grounds, end)
        return grounds

    def _grounds(
        self,
        observation: np.ndarray,
        count: int,
        index: int,
        previous: np.ndarray | None,
        pause: Callable[[], None],
        publish: Callable[["_Grounds"], None],
    ) -> "_Grounds":
        """Sample, filter and score, as far as time allows; publishes what there is before it is scored."""
        manifest, begun = self.bundle.manifest, self._clock()
        rng = np.random.default_rng([self.seed, index])
        noise = self.bundle.sampler.noise(rng, self.candidates)[:count]
        grounds = _Grounds(self._none())
        try:
            unit = self.bundle.sampler.sample(observation, noise, pause)
        except TimeUp:
            grounds.time_up = True
            return grounds
        sampled = self._clock()
        chunks = manifest.action.physical(unit)
        refused = manifest.limits.violations(chunks, manifest.control_hz, previous)
        filtered = self._clock()
        grounds.unit, grounds.chunks, grounds.refused = unit, chunks, refused
        grounds.order = [k for k, reason in enumerate(refused) if reason is None]
        publish(grounds.as_of_now())
        if self.bundle.scorer is not None and len(grounds.order) > 1:
            try:
                found = self.bundle.scorer.score(observation, unit[grounds.order], rng, pause)
                grounds.rank(found, self.pessimism)
            except TimeUp:
                grounds.time_up = True
        ends = (begun, sampled, filtered, self._clock())
        for name, first, last in zip(("sample", "filter", "score"), ends, ends[1:], strict=False):
            grounds.milliseconds[name] = 1e3 * (last - first)
        return grounds

    def _walk(self, observation: np.ndarray, grounds: "_Grounds", end: float | None) -> int | None:
        """The first candidate along the ranking that passes the user's check."""
        for k in grounds.order:
            if self.feasible is None:
                return k
            if end is not None and self._clock() >= end:
                grounds.time_up = True
                return None
            verdict = self.feasible(observation, grounds.chunks[k])
            if verdict is True:
                return k
            grounds.refused[k] = verdict if isinstance(verdict, str) else "is not feasible"
        return None

    def _why(self, grounds: "_Grounds") -> str:
        if grounds.time_up:
            return "no time"
        reasons = [reason for reason in grounds.refused if reason]
        common = max(set(reasons), key=reasons.count)
        return f"no candidate of {len(grounds.refused)} is feasible: most often it {common}"

    def _fall_back(
        self,
        index: int,
        observation: np.ndarray,
        previous: np.ndarray | None,
        grounds: "_Grounds",
        why: str,
        started: float,
    ) -> Decision:
        action = self.bundle.manifest.action
        still = action.home if self.fallback == "home" else action.hold
        still = previous if still is None else still
        if still is None:
            raise NoActionError(f"{why}, and there is no earlier action to hold.")
        actions = np.tile(np.asarray(still, np.float32), (action.horizon, 1))
        return self._decision(index, observation, grounds, actions, f"{self.fallback}: {why}", started)

    def _decision(
        self,
        index: int,
        observation: np.ndarray,
        grounds: "_Grounds",
        actions: np.ndarray,
        fallback: str | None,
        started: float,
    ) -> Decision:
        timings = {**grounds.milliseconds, "total": 1e3 * (self._clock() - started)}
        return Decision(
            index=index,
            observation=observation,
            actions=actions,
            chosen=grounds.chosen,
            fallback=fallback,
            candidates=grounds.unit,
            refused=grounds.refused,
            scores=grounds.scores,
            value=grounds.value,
            milliseconds=timings,
        )

    def _none(self) -> np.ndarray:
        action = self.bundle.manifest.action
        return np.zeros((0, action.horizon, action.size), np.float32)


def _nothing(*_: object) -> None:
    pass


class _Grounds:
    """What is known of the candidates so far; ``order`` lists the feasible ones, the best first.

    ``chosen`` is the one to send; None where there is none, or not yet.
    """

    def __init__(self, none: np.ndarray) -> None:
        self.unit = self.chunks = none
        self.refused: list[str | None] = []
        self.order: list[int] = []
        self.chosen: int | None = None
        self.scores: Scores | None = None
        self.value: np.ndarray | None = None
        self.milliseconds: dict[str, float] = {}
        self.time_up = False

    def as_of_now(self) -> "_Grounds":
        """A copy that later steps do not change."""
        now = copy.copy(self)
        now.refused, now.milliseconds = list(self.refused), dict(self.milliseconds)
        return now

    def rank(self, found: Scores, pessimism: float) -> None:
        """Sort by score; a score that is not a number refuses its candidate."""
        value = found.value(pessimism)
        for k in np.flatnonzero(~np.isfinite(value)):
            self.refused[self.order[k]] = "has no finite score"
        ranked = [self.order[k] for k in np.argsort(-value, kind="stable") if np.isfinite(value[k])]
        self.scores = Scores(*(self._spread(column) for column in found))
        self.value = self._spread(value)
        self.order = ranked

    def _spread(self, column: np.ndarray) -> np.ndarray:
        """To all candidates, NaN for those that were not scored."""
        every = np.full(len(self.unit), np.nan)
        every[self.order] = column
        return every
