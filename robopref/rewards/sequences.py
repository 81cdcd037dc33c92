"""Episodes as sequences of features, and preferences between them as batches for a visual reward.

Letters used in shapes: N episodes, n frames in all, F frames of the longest episode in a batch, d features,
B pairs in a batch, P pairs.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64
from torch import Tensor

from robopref.data.frames import FrameCache
from robopref.data.preferences import Preferences
from robopref.errors import ConfigError, DataError

Batch = dict[str, Tensor]
ROUNDING = 1e-6  # of their size: numbers that differ by less are the same


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureSequences:
    """Features of the frames of episodes, one episode after the other.

    Args:
        features: (n, d), a memory map or an array.
        first: Number of each episode's first frame, and (last entry) of all frames.
        every: Steps from one frame to the next.

    Raises:
        DataError: The two do not fit, or an episode has a single frame, of which no order can be learned.
    """

    features: Float32[np.ndarray, "n d"]
    first: Int64[np.ndarray, " N1"]
    every: int

    def __post_init__(self):
        if int(self.first[-1]) != len(self.features):
            raise DataError(f"There are {len(self.features)} features for {self.first[-1]} frames.")
        short = np.flatnonzero(self.lengths < 2)
        if len(short):
            raise DataError(
                f"Episode {short[0]} has a single frame ({len(short)} such): film with a smaller every= than "
                f"{self.every}."
            )

    @classmethod
    def of(cls, cache: FrameCache, features: Float32[np.ndarray, "n d"]) -> "FeatureSequences":
        """Join a frame cache with the features of its frames."""
        return cls(features, cache.first, cache.every)

    def __len__(self) -> int:
        return len(self.first) - 1

    @property
    def lengths(self) -> Int64[np.ndarray, " N"]:
        """Frames of each episode."""
        return np.diff(self.first)

    @property
    def width(self) -> int:
        """Features of a frame, d."""
        return self.features.shape[1]

    def gather(
        self, episodes: Int[np.ndarray, " B"] | Sequence[int]
    ) -> tuple[Float[Tensor, "B F d"], Int[Tensor, " B"]]:
        """Return whole episodes, padded to the longest by its last frame, and their lengths.

        Raises:
            DataError: An episode is not there, or a feature is NaN or infinite.
        """
        episodes = np.asarray(episodes, dtype=np.int64)
        missing = (episodes < 0) | (episodes >= len(self))
        if missing.any():
            raise DataError(
                f"Episode {episodes[int(missing.argmax())]} is spoken of, but only {len(self)} are filmed."
            )
        lengths = self.lengths[episodes]
        steps = np.minimum(np.arange(int(lengths.max(initial=1))), lengths[:, None] - 1)
        found = self.features[self.first[episodes][:, None] + steps]
        bad = ~np.isfinite(found).all((1, 2))
        if bad.any():
            raise DataError(f"The features of episode {episodes[int(bad.argmax())]} hold NaN or infinity.")
        return torch.from_numpy(np.ascontiguousarray(found)), torch.from_numpy(lengths)

    def chunks(self, size: int = 64) -> Iterator[np.ndarray]:
        """Numbers of all episodes, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield np.arange(start, min(start + size, len(self)))


def spread_over_steps(values: Float[np.ndarray, " F"], every: int, actions: int) -> Float[np.ndarray, " T"]:
    """Spread numbers of frames over steps: step t has the value of the state that it leads to.

    Between two frames the value is interpolated; behind the last one it stays.
    """
    return np.interp(np.arange(1, actions + 1), np.arange(len(values)) * every, values)


def ordered_by_scores(
    steps: Sequence[Float[np.ndarray, " _"]], scores: Float[np.ndarray, " N"]
) -> list[Float[np.ndarray, " _"]]:
    """Shift the rewards of each episode so that their sums order the episodes as the scores do.

    Preferences train the score of an episode. Rewards of single frames need not add up to it: a reward that
    says how good it is to be somewhere prefers who stays there longest. Within an episode, differences stay;
    over episodes, sums keep their mean and deviation. Where sums did not differ, they are spread by the
    deviation of all steps' rewards times the mean length, or by 1 if all steps have the same reward. Scores
    that are equal but for rounding give equal sums. It is the sum that follows the score, so each step of a
    short episode is shifted by more than each of a long one.

    Args:
        steps: Of each of N episodes, the rewards of its steps.
        scores: Of each episode.
    """
    sums = np.array([values.sum() for values in steps])
    if _equal(scores):
        wanted = np.full_like(sums, sums.mean())
    else:
        every = np.concatenate(steps)
        alike = every.std() * len(every) / len(steps) if not _equal(every) else 1.0
        unit = alike if _equal(sums) else sums.std()
        wanted = sums.mean() + (scores - scores.mean()) / scores.std() * unit
    return [
        values + (total - own) / len(values) for values, total, own in zip(steps, wanted, sums, strict=True)
    ]


def _equal(values: Float[np.ndarray, " _"]) -> bool:
    """Whether they differ by no more than the rounding of single precision."""
    return bool(values.std() <= ROUNDING * np.abs(values).max())


class SequencePairs:
    """Preferences between whole episodes, for the training loop.

    A batch holds ``features_a`` (B, F, d), ``lengths_a`` (B,), the same for ``b``, ``labels`` and ``weights``
    (B,); with triplets also ``features_anchor`` and ``lengths_anchor``.

    Args:
        sequences: The episodes.
        preferences: Of whole episodes or of parts; a part stands for its episode.
        anchors: Episode that both of a pair are compared with; None for demonstrations of the reward.
        device: Where batches shall lie.

    Raises:
        DataError: There are no preferences, or one is of an episode that is not filmed.
    """

    def __init__(
        self,
        sequences: FeatureSequences,
        preferences: Preferences,
        *,
        anchors: Int[np.ndarray, " P"] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        if not len(preferences):
            raise DataError("There are no preferences: at least one labelled pair is needed")
        if (preferences.label == 0.5).all():
            raise DataError(f"All {len(preferences)} preferences are ties: nothing can be learned")
        sides = [preferences.a.episode, preferences.b.episode]
        sides += [] if anchors is None else [anchors]
        used, where = np.unique(np.stack(sides), return_inverse=True)
        features, lengths = sequences.gather(used)
        self.features, self.lengths = features.to(device), lengths.to(device)
        self.places = torch.as_tensor(where.reshape(len(sides), -1), device=device)
        self.labels = torch.as_tensor(preferences.label, device=device)
        self.weights = torch.as_tensor(preferences.confidence, device=device)
        self.preferences = preferences

    def __len__(self) -> int:
        return len(self.labels)

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw pairs independently and with replacement."""
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        return self.batch(torch.randint(len(self), (batch_size,), generator=generator))

    def batch(self, index: Tensor) -> Batch:
        """The pairs of these numbers, as one batch."""
        index = index.to(self.labels.device)
        batch = {"labels": self.labels[index], "weights": self.weights[index]}
        for name, place in zip(("a", "b", "anchor"), self.places, strict=False):
            batch[f"features_{name}"] = self.features[place[index]]
            batch[f"lengths_{name}"] = self.lengths[place[index]]
        return batch

    def all(self) -> Batch:
        """Every pair once, in order."""
        return self.batch(torch.arange(len(self)))


def triplets(preferences: Preferences) -> tuple[Preferences, Int64[np.ndarray, " P"]]:
    """Return rankings i > j > k that follow from the pairs: i is the anchor, to which j is nearer than k.

    This is what RAPL asks of a person who ranks three videos.

    Raises:
        DataError: No episode both wins and loses.
    """
    sure = preferences.label != 0.5
    swap = preferences.label < 0.5
    winner = np.where(swap, preferences.b.episode, preferences.a.episode)
    loser = np.where(swap, preferences.a.episode, preferences.b.episode)
    chains = [
        (first, second)
        for first in np.flatnonzero(sure)
        for second in np.flatnonzero(sure & (winner == loser[first]) & (loser != winner[first]))
    ]
    if not chains:
        raise DataError(
            f"No three episodes are ranked by the {len(preferences)} preferences. Ask about fewer "
            "episodes, or "
            "anchor them to demonstrations."
        )
    upper, lower = np.array(chains).T
    found = preferences.select(lower)  # j > k
    return dataclasses.replace(found), winner[upper].astype(np.int64)
