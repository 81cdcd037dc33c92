"""Preferences in memory: which of two segments is better, and how sure that is.

Letters used in shapes: B pairs (or segments), N episodes. Z is a label matrix: Z_ij is the chance that
episode i is preferred to episode j.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Bool, Float32, Int, Int64, Shaped

from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, DataError


@no_type_check  # __post_init__ converts and checks, always
@dataclass(frozen=True, eq=False)
class Segments:
    """Pieces of episodes, as three columns: which episode, first step, number of actions."""

    episode: Int64[np.ndarray, " B"]
    start: Int64[np.ndarray, " B"]
    length: Int64[np.ndarray, " B"]

    def __post_init__(self):
        for name, least in (("episode", 0), ("start", 0), ("length", 1)):
            column = np.asarray(getattr(self, name))
            if column.ndim != 1 or (column.dtype.kind not in "iu" and column.size):
                got = f"{column.dtype} of shape {column.shape}"
                raise DataError(f"Segments: {name} must be one column of integers, got {got}.")
            column = column.astype(np.int64)
            _name_first("Segments", name, column, column < least, f"at least {least}")
            object.__setattr__(self, name, column)
        sizes = {name: len(getattr(self, name)) for name in ("episode", "start", "length")}
        if len(set(sizes.values())) > 1:
            raise DataError(f"Segments: the columns must be equally long, got {sizes}.")

    def __len__(self) -> int:
        return len(self.episode)

    def select(self, index: Int[np.ndarray, " n"] | Bool[np.ndarray, " B"]) -> "Segments":
        """Return some of the segments, by position or by mask."""
        return Segments(self.episode[index], self.start[index], self.length[index])

    def cut(
        self,
        index: Int[np.ndarray, " n"],
        start: Int[np.ndarray, " n"],
        length: Int[np.ndarray, " n"],
    ) -> "Segments":
        """Return the segments with those at ``index`` cut down to a part of ``length`` from ``start`` on.

        A part that reaches beyond a segment ends with it; at least its last action stays.
        """
        first = np.minimum(start, self.length[index] - 1)
        starts, lengths = self.start.copy(), self.length.copy()
        starts[index] += first
        lengths[index] = np.minimum(length, self.length[index] - first)
        return Segments(self.episode, starts, lengths)


@no_type_check  # __post_init__ converts and checks, always
@dataclass(frozen=True, eq=False)
class Preferences:
    """Judgements about pairs of segments.

    Args:
        a: First segment of each pair.
        b: Second segment of each pair.
        label: Chance that ``a`` is preferred, in [0, 1]; 0.5 is a tie.
        confidence: Weight of the judgement, in [0, 1].
        flip: Chance that who judged said the opposite of what they meant, in [0, 0.5); 0 by default.
    """

    a: Segments
    b: Segments
    label: Float32[np.ndarray, " B"]
    confidence: Float32[np.ndarray, " B"]
    flip: Float32[np.ndarray, " B"] = None  # type: ignore[assignment]  # zeros, below

    def __post_init__(self):
        if self.flip is None:
            object.__setattr__(self, "flip", np.zeros(len(self.label), np.float32))
        for name in ("label", "confidence", "flip"):
            column = np.asarray(getattr(self, name), dtype=np.float32)
            if column.ndim != 1:
                raise DataError(f"Preferences: {name} must be one column, got shape {column.shape}.")
            if name == "flip":
                _name_first("Preferences", name, column, ~((column >= 0) & (column < 0.5)), "in [0, 0.5)")
            _name_first("Preferences", name, column, ~((column >= 0) & (column <= 1)), "in [0, 1]")
            object.__setattr__(self, name, column)
        sizes = {name: len(getattr(self, name)) for name in ("a", "b", "label", "confidence", "flip")}
        if len(set(sizes.values())) > 1:
            raise DataError(f"Preferences: the columns must be equally long, got {sizes}.")

    def __len__(self) -> int:
        return len(self.label)

    def select(self, index: Int[np.ndarray, " n"] | Bool[np.ndarray, " B"]) -> "Preferences":
        """Return some of the judgements, by position or by mask."""
        columns = (self.label[index], self.confidence[index], self.flip[index])
        return Preferences(self.a.select(index), self.b.select(index), *columns)

    def split(self, fraction: float, rng: np.random.Generator) -> tuple["Preferences", "Preferences"]:
        """Split at random into (train, held out).

        Args:
            fraction: Share of the pairs that is held out, in [0, 1).
            rng: Source of randomness.
        """
        if not 0 <= fraction < 1:
            raise ConfigError(f"The held-out fraction must lie in [0, 1), got {fraction}.")
        order = rng.permutation(len(self))
        held_out = round(fraction * len(self))
        return self.select(np.sort(order[held_out:])), self.select(np.sort(order[:held_out]))

    @classmethod
    def concatenate(cls, parts: Sequence["Preferences"]) -> "Preferences":
        """Return all judgements of several sets, in order."""
        empty = Segments(*(np.empty(0, np.int64) for _ in range(3)))
        parts = [cls(empty, empty, np.empty(0, np.float32), np.empty(0, np.float32)), *parts]

        def segments(side: str) -> Segments:
            sides = [getattr(part, side) for part in parts]
            return Segments(*(np.concatenate([getattr(s, c) for s in sides]) for c in _COLUMNS))

        return cls(
            segments("a"),
            segments("b"),
            np.concatenate([part.label for part in parts]),
            np.concatenate([part.confidence for part in parts]),
            np.concatenate([part.flip for part in parts]),
        )


@no_type_check  # __post_init__ converts and checks, always
@dataclass(frozen=True, eq=False)
class Ratings:
    """Judgements about single segments: what objectives without pairs (KTO, BCO) learn from.

    Args:
        segments: What was judged.
        label: Chance that it is good, in [0, 1].
        confidence: Weight of the judgement, in [0, 1].
    """

    segments: Segments
    label: Float32[np.ndarray, " B"]
    confidence: Float32[np.ndarray, " B"]

    def __post_init__(self):
        for name in ("label", "confidence"):
            column = np.asarray(getattr(self, name), dtype=np.float32)
            _name_first("Ratings", name, column, ~((column >= 0) & (column <= 1)), "in [0, 1]")
            object.__setattr__(self, name, column)
        if not len(self.segments) == len(self.label) == len(self.confidence):
            sizes = [len(self.segments), len(self.label), len(self.confidence)]
            raise DataError(f"Ratings: the columns must be equally long, got {sizes}.")

    def __len__(self) -> int:
        return len(self.label)

    def select(self, index: Int[np.ndarray, " n"] | Bool[np.ndarray, " B"]) -> "Ratings":
        """Return some of the judgements, by position or by mask."""
        return Ratings(self.segments.select(index), self.label[index], self.confidence[index])

    def and_both_of(self, preferences: Preferences) -> "Ratings":
        """Return these and, of each pair, both segments: one as good as it was preferred, one as its rest."""
        parts = [self.segments, preferences.a, preferences.b]
        return Ratings(
            Segments(*(np.concatenate([getattr(part, c) for part in parts]) for c in _COLUMNS)),
            np.concatenate([self.label, preferences.label, 1 - preferences.label]),
            np.concatenate([self.confidence, preferences.confidence, preferences.confidence]),
        )

    def implied(self, most: int = 1000) -> Preferences:
        """Return pairs of a segment judged good (above one half) and one judged bad: for measuring an order.

        Every such pair, or ``most`` of them, evenly taken; none where all judgements agree.
        """
        good, bad = np.flatnonzero(self.label > 0.5), np.flatnonzero(self.label < 0.5)
        count = len(good) * len(bad)
        chosen = np.linspace(0, count - 1, most).astype(np.int64) if count > most else np.arange(count)
        first, second = (good[chosen // len(bad)], bad[chosen % len(bad)]) if count else (good[:0], bad[:0])
        sure = np.minimum(self.confidence[first], self.confidence[second])
        a, b = self.segments.select(first), self.segments.select(second)
        return Preferences(a, b, np.ones(len(first), np.float32), sure)


_COLUMNS = ("episode", "start", "length")


def all_episode_pairs(store: TrajectoryStore) -> tuple[Segments, Segments]:
    """Return every pair of different whole episodes once, the earlier episode first."""
    first, second = np.triu_indices(len(store), k=1)
    return whole_segments(first, store.lengths), whole_segments(second, store.lengths)


def label_matrix(preferences: Preferences, n_episodes: int) -> Float32[np.ndarray, "N N"]:
    """Return the label matrix Z of judgements about episodes.

    Several judgements of one pair are averaged, weighted by confidence; a pair with no judgement, or none of
    positive confidence, is NaN. The diagonal is 0.5 and Z + Z' is exactly 1 where known.

    Raises:
        DataError: A judgement compares an episode with itself or names one that does not exist.
    """
    a, b = preferences.a.episode, preferences.b.episode
    for column in (a, b):
        _name_first("Label matrix", "episode", column, column >= n_episodes, f"below {n_episodes}")
    _name_first("Label matrix", "episode of both sides", a, a == b, "different for the two sides")
    low, high = np.minimum(a, b), np.maximum(a, b)
    label = np.where(a < b, preferences.label, 1 - preferences.label.astype(np.float64))
    weights, sums = np.zeros((n_episodes, n_episodes)), np.zeros((n_episodes, n_episodes))
    np.add.at(weights, (low, high), preferences.confidence)
    np.add.at(sums, (low, high), preferences.confidence * label)
    with np.errstate(invalid="ignore"):
        upper = np.clip(sums / weights, 0, 1).astype(np.float32)
    matrix = np.where(np.tri(n_episodes, dtype=bool), 1 - upper.T, upper)
    np.fill_diagonal(matrix, 0.5)
    return matrix


def preferences_from_matrix(
    labels: Float32[np.ndarray, "N N"],
    lengths: Int[np.ndarray, " N"],
    *,
    confidence: Shaped[np.ndarray, "N N"] | None = None,
    max_pairs: int | None = None,
    rng: np.random.Generator | None = None,
) -> Preferences:
    """Return the known entries of a label matrix as judgements about whole episodes, each pair once.

    Args:
        labels: Z, with NaN where nothing is known.
        lengths: Number of actions of each episode.
        confidence: Confidence of each entry, 1 by default.
        max_pairs: Keep at most so many pairs, drawn at random.
        rng: Source of randomness, needed with ``max_pairs``.

    Raises:
        DataError: The matrix is not square, leaves [0, 1], or Z + Z' is not 1.
        ConfigError: ``max_pairs`` is not positive, or comes without ``rng``.
    """
    size = len(lengths)
    if labels.shape != (size, size) or (confidence is not None and confidence.shape != (size, size)):
        got = [labels.shape] + ([] if confidence is None else [confidence.shape])
        raise DataError(f"A label matrix of {size} episodes has shape ({size}, {size}), got {got}.")
    first, second = np.triu_indices(size, k=1)
    label, mirrored = labels[first, second], labels[second, first]
    known = ~np.isnan(label)
    if (known != ~np.isnan(mirrored)).any() or (np.abs(label + mirrored - 1)[known] > 1e-4).any():
        raise DataError("A label matrix needs Z + Z' = 1 wherever Z is known; this one breaks it.")
    chosen = np.flatnonzero(known)
    if max_pairs is not None:
        if max_pairs < 1 or rng is None:
            raise ConfigError(f"max_pairs must be positive and come with rng, got {max_pairs} and {rng}.")
        if len(chosen) > max_pairs:
            chosen = np.sort(rng.choice(chosen, max_pairs, replace=False))
    first, second = first[chosen], second[chosen]
    weight = np.ones(len(chosen)) if confidence is None else confidence[first, second]
    return Preferences(
        whole_segments(first, lengths),
        whole_segments(second, lengths),
        label[chosen].astype(np.float32),
        weight.astype(np.float32),
    )


def whole_segments(episodes: Int[np.ndarray, " B"], lengths: Int[np.ndarray, " N"]) -> Segments:
    """Return whole episodes as segments, given the number of actions of every episode."""
    return Segments(episodes, np.zeros_like(episodes), lengths[episodes])


def _name_first(what: str, name: str, column: np.ndarray, bad: np.ndarray, wanted: str) -> None:
    """Raise a sentence about the first row that is wrong, if there is one."""
    if bad.any():
        row, count = int(bad.argmax()), int(bad.sum())
        raise DataError(
            f"{what}: {name} must be {wanted}, but row {row} holds {column[row]} ({count} wrong)."
        )
