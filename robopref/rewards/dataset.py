"""Preferences and the steps that they speak of, as batches of tensors.

Episodes are stored once, as rows; a pair holds row numbers, and its steps are gathered when a batch is drawn.
Thousands of pairs of whole episodes thus take no more memory than the episodes themselves.

Letters used in shapes: P pairs (or lists), B of them in a batch, K segments in each (2 in a pair), L steps of
the longest segment, N rows, O observation size, A action size, U different segments.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from robopref.data.graded_lists import GradedLists
from robopref.data.preferences import Preferences, Ratings, Segments
from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, DataError
from robopref.objectives.scores import SIDES

RESIDENT_BYTES = 2 << 30
Batch = dict[str, Tensor]


class PreferencePairs:
    """Pairs of segments with labels and weights, for the training loop; built by :func:`preference_tensors`.

    ``first`` and ``length`` (K, P) say which rows each segment covers.

    A batch holds ``observations_a`` (B, L, O) with the state before each action, ``actions_a`` (B, L, A),
    ``mask_a`` (B, L), the same for ``b``, ``labels`` (B,) and ``weights`` (B,); where any is above 0,
    also the chance ``flip_prob`` (B,) that a label was reversed. Where the mask is False the segment is over,
    and its last step is repeated. Where there are ``goals`` (2, P), what is asked of each segment follows its
    observations as one more entry; 1, the best, of demonstrations.
    """

    demonstrations: Segments | None = None

    def __init__(
        self,
        observations: Tensor | np.ndarray,
        actions: Tensor | np.ndarray,
        first: np.ndarray,
        length: np.ndarray,
        labels: np.ndarray,
        weights: np.ndarray,
        device: torch.device,
        flips: np.ndarray | None = None,
        goals: np.ndarray | None = None,
    ) -> None:
        self.device = device
        self.labels = torch.as_tensor(labels, dtype=torch.float32, device=device)
        self.weights = torch.as_tensor(weights, dtype=torch.float32, device=device)
        flips = None if flips is None or not flips.any() else flips
        self.flips = None if flips is None else torch.as_tensor(flips, dtype=torch.float32, device=device)
        self.goals = None if goals is None else torch.as_tensor(goals, dtype=torch.float32, device=device)
        self._observations, self._actions = observations, actions
        spans = np.stack([first, length], axis=-1)  # (K, P, 2)
        unique, where = np.unique(spans.reshape(-1, 2), axis=0, return_inverse=True)
        self._index_device = observations.device if isinstance(observations, Tensor) else torch.device("cpu")
        self._spans = torch.as_tensor(unique, device=self._index_device)  # (U, 2): first row, length
        self.segment_of = torch.as_tensor(where.reshape(first.shape), device=self._index_device)  # (K, P)
        self._steps = torch.arange(int(length.max()), device=self._index_device)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def segments(self) -> int:
        """Number of different segments, U."""
        return len(self._spans)

    @property
    def resident(self) -> bool:
        """Whether all steps lie on the device, as opposed to being read from disk for each batch."""
        return isinstance(self._observations, Tensor)

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw pairs independently and with replacement, so that the generator is all the state there is."""
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        return self.batch(torch.randint(len(self), (batch_size,), generator=generator))

    def batch(self, index: Tensor) -> Batch:
        """The pairs of these numbers, as one batch."""
        batch = {"labels": self.labels[index.to(self.device)], "weights": self.weights[index.to(self.device)]}
        if self.flips is not None:
            batch["flip_prob"] = self.flips[index.to(self.device)]
        for side, (name, which) in enumerate(zip(SIDES, self.segment_of, strict=False)):
            observations, actions, mask = self.gather(which[index.to(self._index_device)])
            if self.goals is not None:
                asked = (
                    self.goals[side, index.to(self.device)] if side < 2 else torch.ones_like(batch["labels"])
                )
                observations = _told(observations, asked)
            batch |= {f"observations_{name}": observations, f"actions_{name}": actions, f"mask_{name}": mask}
        return batch

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Every pair once, in order."""
        for index in torch.arange(len(self)).split(batch_size):
            yield self.batch(index)

    def gather(self, segments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Observations (B, L, O), actions (B, L, A) and mask (B, L) of the segments of these numbers."""
        first, length = self._spans[segments.to(self._index_device)].unbind(-1)
        rows = first[:, None] + torch.minimum(self._steps, length[:, None] - 1)
        mask = self._steps < length[:, None]
        return self._take(self._observations, rows), self._take(self._actions, rows), mask.to(self.device)

    def observations(self, limit: int = 200_000) -> Float[Tensor, "N O"]:
        """At most ``limit`` of the states that segments cover, evenly chosen, to fit a normaliser to."""
        rows = torch.unique(torch.cat([torch.arange(f, f + n) for f, n in self._spans.tolist()]))
        if len(rows) > limit:
            rows = rows[torch.linspace(0, len(rows) - 1, limit, dtype=torch.float64).long()]
        return self._take(self._observations, rows.to(self._index_device))

    def _take(self, array: Tensor | np.ndarray, rows: Tensor) -> Tensor:
        if isinstance(array, Tensor):
            return array[rows]
        return torch.from_numpy(np.asarray(array[rows.numpy()], dtype=np.float32)).to(self.device)


def _told(observations: Float[Tensor, "B L O"], goals: Float[Tensor, " B"]) -> Float[Tensor, "B L _"]:
    return torch.cat([observations, goals[:, None, None].expand(*observations.shape[:2], 1)], -1)


class RatedSegments(PreferencePairs):
    """Segments that were judged one by one, likewise; built by :func:`rating_tensors`.

    A batch holds ``observations`` (B, L, O), ``actions`` (B, L, A), ``mask`` (B, L), ``labels`` (B,), the
    chance that the segment is good, and ``weights`` (B,).
    """

    def batch(self, index: Tensor) -> Batch:
        """The segments of these numbers, as one batch."""
        observations, actions, mask = self.gather(self.segment_of[0, index.to(self._index_device)])
        index = index.to(self.device)
        if self.goals is not None:
            observations = _told(observations, self.goals[0, index])
        return {
            "observations": observations,
            "actions": actions,
            "mask": mask,
            "labels": self.labels[index],
            "weights": self.weights[index],
        }


class PreferenceLists(PreferencePairs):
    """Lists of segments with grades, likewise; built by :func:`list_tensors`.

    A batch holds ``observations`` (B K, L, O), ``actions`` (B K, L, A) and ``mask`` (B K, L), one list after
    the other, ``labels`` (B, K), the grades, ``items`` (B, K), False where a list is shorter, and ``weights``
    (B,).
    """

    def __init__(self, *parts: Any, items: np.ndarray) -> None:
        super().__init__(*parts)
        self.items = torch.as_tensor(items, device=self.device)

    def batch(self, index: Tensor) -> Batch:
        """The lists of these numbers, as one batch."""
        segments = self.segment_of[:, index.to(self._index_device)].T.flatten()
        batch = dict(zip(("observations", "actions", "mask"), self.gather(segments), strict=True))
        index = index.to(self.device)
        return batch | {
            "labels": self.labels[index],
            "items": self.items[index],
            "weights": self.weights[index],
        }


class StepPairs(PreferencePairs):
    """Pairs as steps drawn from both segments, for learners to which each step is a transition of its own.

    Built by :func:`step_tensors`. A batch of N steps holds B = N / (2 S) pairs, at least one:
    ``observations`` and ``next_observations`` (2, B, S, O), ``actions`` (2, B, S, A) and ``terminals``
    (2, B, S), 1 where the task ended, with ``labels`` and ``weights`` (B,).
    """

    def __init__(self, *parts: Any, ends: np.ndarray, steps: int) -> None:
        super().__init__(*parts)
        self.ends = torch.as_tensor(ends, device=self.device)  # (2, P): the task ends with the last step
        self.steps = steps

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw pairs, and steps of each of their segments, all with replacement."""
        pairs = max(1, batch_size // (2 * self.steps))
        index = torch.randint(len(self), (pairs,), generator=generator)
        return self.drawn(index, torch.rand(2, pairs, self.steps, generator=generator))

    def drawn(self, index: Int[Tensor, " B"], share: Float[Tensor, "2 B S"]) -> Batch:
        """The pairs of these numbers, and of each segment the steps at these shares of its length."""
        first, length = self._spans[self.segment_of[:, index.to(self._index_device)]].unbind(-1)
        step = (share.to(self._index_device) * length[..., None]).long()
        rows = first[..., None] + step
        index = index.to(self.device)
        last = (step == length[..., None] - 1).to(self.device)
        return {
            "observations": self._take(self._observations, rows),
            "next_observations": self._take(self._observations, rows + 1),
            "actions": self._take(self._actions, rows),
            "terminals": (last & self.ends[:, index, None]).float(),
            "labels": self.labels[index],
            "weights": self.weights[index],
        }


def step_tensors(
    store: TrajectoryStore, preferences: Preferences, device: str | torch.device = "cpu", *, steps: int
) -> StepPairs:
    """Join preferences with the episodes that they speak of, for batches of ``steps`` of each segment.

    Raises:
        DataError: as :func:`preference_tensors`.
    """
    labels, weights = np.asarray(preferences.label), np.asarray(preferences.confidence)
    _check_labels(labels, weights, allow_only_ties=False)
    sides = {"a": preferences.a, "b": preferences.b}
    parts = _steps(store, sides, device, RESIDENT_BYTES)
    ended, lengths = np.asarray(store.terminated), np.asarray(store.lengths)
    ends = np.stack([ended[x.episode] & (x.start + x.length == lengths[x.episode]) for x in sides.values()])
    return StepPairs(*parts, labels, weights, torch.device(device), ends=ends, steps=steps)


def preference_tensors(
    store: TrajectoryStore,
    preferences: Preferences,
    device: str | torch.device = "cpu",
    *,
    resident_bytes: int = RESIDENT_BYTES,
    allow_only_ties: bool = False,
    demonstrations: Segments | None = None,
    goals: Float[np.ndarray, "2 P"] | None = None,
) -> PreferencePairs:
    """Join preferences with the episodes that they speak of.

    Args:
        store: Holds the episodes.
        preferences: Pairs; their confidence becomes the weight of the pair.
        device: Where batches shall lie.
        resident_bytes: Episodes that are spoken of are copied to the device when they take no more than this;
            otherwise each batch is read from the memory-mapped store.
        allow_only_ties: Whether to accept pairs of which nothing can be learned (all equal, or all of zero
            confidence); for evaluation.
        demonstrations: Segments that are shown beside the pairs, one with each in turn: a batch then holds
            ``observations_demonstration`` and so on, too.
        goals: What is asked of the first and of the second segment of each pair, in [-1, 1].

    Raises:
        DataError: for zero pairs, nothing but ties, segments outside their episode, or copied
            steps that hold NaN or infinity.
    """
    labels, weights = np.asarray(preferences.label), np.asarray(preferences.confidence)
    _check_labels(labels, weights, allow_only_ties=allow_only_ties)
    sides = [preferences.a, preferences.b]
    if demonstrations is not None:
        if not len(demonstrations):
            raise DataError("There are no demonstrations: at least one segment is needed")
        sides.append(demonstrations.select(np.arange(len(preferences)) % len(demonstrations)))
    parts = _steps(store, dict(zip(SIDES, sides, strict=False)), device, resident_bytes)
    pairs = PreferencePairs(
        *parts, labels, weights, torch.device(device), np.asarray(preferences.flip), goals
    )
    pairs.demonstrations = demonstrations
    return pairs


def rating_tensors(
    store: TrajectoryStore,
    ratings: Ratings,
    device: str | torch.device = "cpu",
    *,
    resident_bytes: int = RESIDENT_BYTES,
    goals: Float[np.ndarray, " P"] | None = None,
) -> RatedSegments:
    """Join judgements of single segments with the episodes that they speak of; arguments as above.

    Raises:
        DataError: for no judgements, none of any confidence, segments outside their episode, or copied steps
            that hold NaN or infinity.
    """
    if not (ratings.confidence > 0).any():
        raise DataError(
            "There are no judgements of single segments of any confidence: at least one is needed"
        )
    parts = _steps(store, {"rated": ratings.segments}, device, resident_bytes)
    told = None if goals is None else goals[None]
    columns = (ratings.label, ratings.confidence, torch.device(device))
    return RatedSegments(*parts, *columns, goals=told)


def list_tensors(
    store: TrajectoryStore,
    lists: GradedLists,
    device: str | torch.device = "cpu",
    *,
    resident_bytes: int = RESIDENT_BYTES,
) -> PreferenceLists:
    """Join ranked lists with the episodes that they speak of; arguments as of :func:`preference_tensors`.

    Raises:
        DataError: for zero lists, nothing but ties, segments outside their episode, or copied steps that hold
            NaN or infinity.
    """
    grades = np.where(lists.items, lists.grades, np.nan)
    if not len(lists):
        raise DataError("There are no lists: at least one is needed")
    if not (np.nanmax(grades, 1) > np.nanmin(grades, 1))[lists.confidence > 0].any():
        raise DataError(
            f"All {len(lists)} lists are ties or have confidence 0: nothing can be learned from them"
        )
    size = lists.grades.shape[1]
    sides = {str(k): lists.segments.select(np.arange(k, lists.grades.size, size)) for k in range(size)}
    parts = _steps(store, sides, device, resident_bytes)
    return PreferenceLists(*parts, lists.grades, lists.confidence, torch.device(device), items=lists.items)


def _steps(
    store: TrajectoryStore, sides: Mapping[str, Segments], device: str | torch.device, resident_bytes: int
) -> tuple[Tensor | np.ndarray, Tensor | np.ndarray, np.ndarray, np.ndarray]:
    """Observations and actions of all rows that are needed, and which of them each segment covers (K, P)."""
    for name, side in sides.items():
        _check_segments(name, side, np.asarray(store.lengths))
    episode = np.stack([np.asarray(side.episode) for side in sides.values()])  # (K, P)
    used, position = np.unique(episode, return_inverse=True)
    first_row = np.asarray(store.first_rows)[used]
    rows_of = [
        np.arange(r, r + n + 1) for r, n in zip(first_row, np.asarray(store.lengths)[used], strict=True)
    ]
    observations, actions = store.array("observations"), store.array("actions")
    row_bytes = 4 * (observations.shape[1] + actions.shape[1])
    if sum(map(len, rows_of)) * row_bytes <= resident_bytes:
        rows = np.concatenate(rows_of)
        observations = torch.from_numpy(np.asarray(observations[rows], dtype=np.float32)).to(device)
        actions = torch.from_numpy(np.asarray(actions[rows], dtype=np.float32)).to(device)
        first_row = np.cumsum([0, *map(len, rows_of[:-1])])
        _refuse_not_finite(
            torch.isfinite(observations).all(1) & torch.isfinite(actions).all(1), rows_of, used
        )
    start = np.stack([np.asarray(side.start) for side in sides.values()])
    length = np.stack([np.asarray(side.length) for side in sides.values()])
    return observations, actions, first_row[position.reshape(episode.shape)] + start, length


def _check_labels(labels: np.ndarray, weights: np.ndarray, *, allow_only_ties: bool) -> None:
    if len(labels) == 0:
        raise DataError("There are no preferences: at least one labelled pair is needed")
    if allow_only_ties:
        return
    if (labels == 0.5).all():
        raise DataError(f"All {len(labels)} preferences are ties, so nothing can be learned from them")
    if not ((labels != 0.5) & (weights > 0)).any():
        raise DataError("Every pair that is not a tie has confidence 0, so nothing can be learned")


def _check_segments(name: str, segments: Segments, lengths: np.ndarray) -> None:
    episode, start, length = (np.asarray(x) for x in (segments.episode, segments.start, segments.length))
    unknown = np.flatnonzero((episode < 0) | (episode >= len(lengths)))
    if len(unknown):
        i = unknown[0]
        raise DataError(
            f"Segment {name} of pair {i} is in episode {episode[i]}; the store has {len(lengths)}"
        )
    outside = np.flatnonzero((start < 0) | (length < 1) | (start + length > lengths[episode]))
    if len(outside):
        i = outside[0]
        raise DataError(
            f"Segment {name} of pair {i} covers steps {start[i]} to {start[i] + length[i]} of episode "
            f"{episode[i]}, which has {lengths[episode[i]]}"
        )


def _refuse_not_finite(finite: Tensor, rows_of: list[np.ndarray], used: np.ndarray) -> None:
    bad = torch.nonzero(~finite).flatten()
    if len(bad):
        ends = np.cumsum([len(rows) for rows in rows_of])
        episode = used[np.searchsorted(ends, bad[0].item(), side="right")]
        raise DataError(f"Episode {episode} holds NaN or infinity in its observations or actions")
