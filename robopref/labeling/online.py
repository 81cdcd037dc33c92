"""While people label, a small reward ensemble learns from their answers and says what to ask next.

It learns in a process of its own at low priority, so that no answer waits for it, and starts again with new
weights after every few answers. Pairs that were drawn at random are never learned from: how often the
ensemble orders them as people do is unbiased, and that share against the number of answers is the learning
curve. The curve is a file; all else follows from the label store, so a process killed at any moment loses
nothing.
"""

import multiprocessing
import os
import threading
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing, redirect_stderr
from dataclasses import asdict, dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from robopref import files
from robopref.data.label_store import LabelStore
from robopref.data.preferences import Preferences
from robopref.data.queries_informed import query_named
from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, DataError, RoboprefError, counted
from robopref.labeling.agreement import share
from robopref.labeling.clips import Segment
from robopref.labeling.desk import Desk
from robopref.labeling.learner import Learner
from robopref.labeling.plan import Pair, columns
from robopref.training.workers import WorkerPool

LEAST = 6  # answers to learn from before the first training
POLL_S = 1.0
FORMAT = "robopref-learning-curve"


@dataclass(frozen=True)
class Point:
    """One training.

    Attributes:
        labels: Answers given by then, skipped ones not counted.
        learned: Of them, those that the ensemble learned from.
        tested: Pairs drawn at random that most of those who answered prefer one way: agreement is on these.
        agreement: Share of those that the ensemble orders as people do; None while there are none.
        low: Lower end of Wilson's 95% interval.
        high: Its upper end.
    """

    labels: int
    learned: int
    tested: int
    agreement: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Round:
    """What the learning process is sent."""

    store: Path
    learner: Learner
    learned: Preferences
    tested: Preferences
    candidates: tuple[tuple[Segment, ...], ...]
    query: str
    seed: int
    folder: Path

    def __str__(self) -> str:
        return f"the training on {len(self.learned)} labels"


@dataclass(frozen=True)
class Found:
    """What it sends back: the candidates in the order to ask, and how many tested pairs it orders right."""

    order: tuple[int, ...]
    right: int
    untied: int


class Online:
    """Learns beside the desk, and tells it in which order to ask.

    Args:
        desk: Asks the questions; its plan must have been made with ``online=True``.
        labels: Where the answers are.
        store: The episodes.
        folder: Where the learning curve is kept, and where the learning process works.
        query: How pairs are chosen.
        random_share: Share of the questions that stays random.
        seed: Of everything random.
        every: Answers between two trainings.
        learner: What learns.
        workers: Processes that learn; 0 learns in :meth:`step`'s own, for tests.

    Raises:
        ConfigError: ``every`` is not positive.
        DataError: The learning curve cannot be read.
    """

    def __init__(
        self,
        desk: Desk,
        labels: LabelStore,
        store: TrajectoryStore,
        folder: Path,
        *,
        query: str,
        random_share: float,
        seed: int = 0,
        every: int = 5,
        learner: Learner | None = None,
        workers: int = 1,
    ):
        if every < 1:
            raise ConfigError(f"every must be 1 or more, got {every}.")
        self._desk, self._labels, self._store, self._folder = desk, labels, store, Path(folder)
        self._query, self._share, self._seed, self._every = query, random_share, seed, every
        self._learner = learner or Learner()
        self._pool: WorkerPool[Round, Found] = WorkerPool(_Apprentice(), workers)
        self._lock = threading.Lock()
        self._points = self._read()
        self._trained_at: int | None = None  # answers there were at the last training of this process
        self._training, self._message = False, "Waiting for the first answers."
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True, name="online")

    @property
    def path(self) -> Path:
        """The file that holds the learning curve of this study."""
        return self._folder / f"{self._desk.plan.name}.json"

    def start(self) -> None:
        """Begin to learn in the background."""
        self._thread.start()

    def close(self) -> None:
        """Stop at once; what was being learned is learned again after the next start."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(2.0)  # one that learns is ended with this process

    def status(self) -> dict[str, Any]:
        """Return the learning curve and what is going on, as JSON values.

        ``points`` (each with ``labels``, ``learned``, ``tested``, ``agreement``, ``low``, ``high``),
        ``training`` (whether it learns now), ``query`` and ``message`` (a sentence).
        """
        with self._lock:
            return {
                "points": [asdict(point) for point in self._points],
                "training": self._training,
                "query": self._query,
                "message": self._message,
            }

    def step(self) -> bool:
        """Learn from what is there, if that is enough and new; return whether it learned.

        Raises:
            RoboprefError: The answers teach nothing yet, or the process died.
        """
        count = self._labels.count(source="human")
        if self._trained_at is not None and count < self._trained_at + self._every:
            return False
        answers = self._answers()
        learned = len(answers.learned.label)
        if learned < LEAST:
            self._say(f"{counted(LEAST - learned, 'more answer')} before the first training.")
            return False
        self._say(f"Learning from {counted(learned, 'answer')}.", training=True)
        self._trained_at = count
        free = [i for i in self._desk.unanswered() if i not in self._desk.plan.at_random]
        pairs = self._desk.plan.items
        task = Round(
            Path(self._store.path),
            self._learner,
            answers.learned.preferences(),
            answers.tested.preferences(),
            tuple(pairs[i] for i in free),
            self._query,
            self._seed,
            self._folder / "training",
        )
        try:
            with closing(self._pool.map([task])) as results:
                found = next(results)
        except RoboprefError as error:
            self._say(str(error))
            raise
        self._reorder([free[i] for i in found.order], count)
        agreed = share(found.right, found.untied)
        given = len(answers.learned.label) + answers.aside
        point = Point(given, len(answers.learned.label), found.untied, agreed.value, agreed.low, agreed.high)
        self._keep(point)
        return True

    # -- small parts -----------------------------------------------------------------------------------------

    def _work(self) -> None:
        with self._pool:
            while not self._stop.wait(POLL_S):
                try:
                    self.step()
                except (RoboprefError, OSError) as error:
                    self._say(str(error))

    def _say(self, message: str, *, training: bool = False) -> None:
        with self._lock:
            self._training, self._message = training, message

    def _answers(self) -> "_Answers":
        """Sort the answers: pairs drawn at random are tested on, all others learned from.

        A pair is tested on once, by the mean of each person's first answer: several are not independent.
        """
        plan = self._desk.plan
        drawn = {frozenset(plan.items[i]): plan.items[i] for i in plan.at_random}
        answers, said = _Answers(), defaultdict[tuple[Segment, ...], dict[str, float]](dict)
        for judgement in self._labels.judgements(source="human").values():
            if judgement.label is None or judgement.feedback != "pair" or judgement.b is None:
                continue
            a, b = Segment(*judgement.a), Segment(*judgement.b)
            pair = drawn.get(frozenset((a, b)))
            if pair is None:
                answers.learned.add((a, b), judgement.label)
            else:  # of whom asked twice, the first answer
                label = judgement.label if pair == (a, b) else 1 - judgement.label
                said[pair].setdefault(judgement.annotator, label)
        for (a, b), labels in said.items():
            answers.aside += len(labels)
            answers.tested.add((a, b), float(np.mean(list(labels.values()))))
        return answers

    def _reorder(self, informed: Sequence[int], count: int) -> None:
        """Scatter the random pairs that are left among the informed ones."""
        plan = self._desk.plan
        drawn = [i for i in self._desk.unanswered() if i in plan.at_random]
        slots = np.random.default_rng([self._seed, 5, count]).random(len(drawn) + len(informed))
        order, rest = [], list(informed)
        for slot in slots < self._share:
            source = drawn if (slot and drawn) or not rest else rest
            order.append(source.pop(0))
        self._desk.reorder(order)

    def _keep(self, point: Point) -> None:
        """Write the curve first and show it then: nobody has seen a point that a killed process loses."""
        others = [p for p in self._points if p.labels != point.labels]
        points = sorted([*others, point], key=lambda p: p.labels)
        record = {"format": FORMAT, "query": self._query, "points": [asdict(p) for p in points]}
        files.write_json(self.path, record)
        with self._lock:
            self._points = points
            self._training = False
            self._message = _sentence(point)

    def _read(self) -> list[Point]:
        if not self.path.exists():
            return []
        record = files.read_json(self.path)
        try:
            if record["format"] != FORMAT:
                raise KeyError("format")
            return [Point(**point) for point in record["points"]]
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{self.path} is no learning curve ({error}). Move it away, and a new one is begun."
            ) from error


@dataclass
class _Labelled:
    pairs: list[Pair] = field(default_factory=list)
    label: list[float] = field(default_factory=list)

    def add(self, pair: Pair, label: float) -> None:
        self.pairs.append(pair)
        self.label.append(label)

    def preferences(self) -> Preferences:
        return Preferences(*columns(self.pairs), np.array(self.label), np.ones(len(self.label)))


@dataclass
class _Answers:
    learned: _Labelled = field(default_factory=_Labelled)
    tested: _Labelled = field(default_factory=_Labelled)
    aside: int = 0  # answers on what is tested


class _Apprentice:
    """Learns and ranks, in a process of its own; the store stays open between rounds."""

    def __init__(self) -> None:
        self._store: TrajectoryStore | None = None

    def __call__(self, task: Round) -> Found:
        from robopref.rewards.dataset import preference_tensors
        from robopref.rewards.knowledge import candidates
        from robopref.rewards.metrics import predicted_preferences

        if self._store is None:
            self._store = TrajectoryStore.open(task.store)
            if multiprocessing.parent_process() is not None and hasattr(os, "nice"):
                os.nice(5)
        with redirect_stderr(StringIO()):  # of the training's progress
            reward = task.learner.learn(self._store, task.learned, seed=task.seed, folder=task.folder)
        right = untied = 0
        if len(task.tested):
            tensors = preference_tensors(self._store, task.tested, allow_only_ties=True)
            decided = task.tested.label != 0.5
            agree = (predicted_preferences(reward, tensors) > 0.5) == (task.tested.label > 0.5)
            right, untied = int(agree[decided].sum()), int(decided.sum())
        if not task.candidates:
            return Found((), right, untied)
        asked = task.learned.a, task.learned.b
        known = candidates(self._store, columns(task.candidates), task.query, reward=reward, asked=asked)
        rng = np.random.default_rng([task.seed, len(task.learned)])
        chosen = query_named(task.query)(known, len(task.candidates), rng, random_share=0.0)
        return Found(tuple(chosen.index.tolist()), right, untied)


def _sentence(point: Point) -> str:
    if point.agreement is None:
        return f"Learned from {point.learned} answers; none on a pair drawn at random to measure it by yet."
    return (
        f"Learned from {point.learned} answers; agrees with people on {point.agreement:.0%} of "
        f"{point.tested} pairs drawn at random, 95% interval {point.low:.0%} to {point.high:.0%}."
    )
