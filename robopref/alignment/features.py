"""What of an episode is compared: named features, one vector per episode, standardised within a set.

A set is only ever compared with itself (Gromov-Wasserstein sees distances inside a set), so two tasks may
have observations of different meaning and size. The exception is ``statistics``: eight numbers that mean the
same in every task of an arm that moves an object, so that episodes of two tasks can be compared directly. So
do ``approach`` and ``progress``, which follow distances between hand, object and goal over six phases.

Features that follow an episode over time take each episode at the same number of equally spaced moments, from
its first to its last valid step (:data:`MOMENTS` at most, by nearest step, without interpolation). Episodes
of different lengths are so compared at the same share of their course, and padding is never read.

Letters used in shapes: N episodes, L steps of the longest one, K moments, C channels at a moment, O
observation entries, A action entries, D numbers per episode (D = K C for features over time, C for the
others).
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from robopref.data.trajectory import SegmentBatch
from robopref.errors import ConfigError, DataError, unknown_name

MOMENTS = 50
"""Most moments at which an episode is looked at."""

FRAME_ENTRIES = 18
"""Entries of a Meta-World observation that hold the present frame: gripper and its opening, two objects."""

STATISTICS = (
    "mean hand-object distance",
    "least hand-object distance",
    "last hand-object distance",
    "hand path length",
    "hand displacement",
    "object displacement",
    "action energy",
    "action roughness",
)
"""The eight statistics: six in metres, and two means of squares over steps and action entries."""


PHASES = 6
"""Parts of an episode that ``approach`` and ``progress`` tell apart."""


def episode_lengths(segments: SegmentBatch) -> Int[np.ndarray, " N"]:
    """Return the number of valid steps of each episode, after checking that each has one at least."""
    lengths = segments.mask.sum(axis=1)
    if not len(lengths):
        raise DataError("The set holds 0 episodes; a comparison needs at least 2.")
    empty = np.flatnonzero(lengths == 0)
    if empty.size:
        raise DataError(f"Episodes {empty[:10].tolist()} hold no valid step; a feature needs at least one.")
    return lengths


def _moments(lengths: Int[np.ndarray, " N"]) -> Int[np.ndarray, "N K"]:
    """Return K equally spaced steps of each episode, from 0 to ``lengths - 1``, rounded to the nearest."""
    count = min(int(lengths.max()), MOMENTS)
    shares = np.linspace(0.0, 1.0, count)
    return np.rint(shares[None] * (lengths[:, None] - 1)).astype(np.int64)


def _states(segments: SegmentBatch, entries: int | None = None) -> Float[np.ndarray, "N K C"]:
    rows = _moments(episode_lengths(segments) + 1)
    return np.take_along_axis(segments.observations[..., :entries], rows[..., None], axis=1).astype(
        np.float64
    )


def _actions(segments: SegmentBatch) -> Float[np.ndarray, "N K A"]:
    rows = _moments(episode_lengths(segments))
    return np.take_along_axis(segments.actions, rows[..., None], axis=1).astype(np.float64)


def _state_actions(segments: SegmentBatch) -> Float[np.ndarray, "N K C"]:
    rows = _moments(episode_lengths(segments))[..., None]  # each state with the action taken in it
    pairs = np.concatenate([segments.observations[:, :-1], segments.actions], axis=-1)
    return np.take_along_axis(pairs, rows, axis=1).astype(np.float64)


def _frames(segments: SegmentBatch) -> Float[np.ndarray, "N K C"]:
    size = segments.observations.shape[-1]
    if size < FRAME_ENTRIES:
        raise DataError(
            f"The feature 'frame' reads the first {FRAME_ENTRIES} entries of a Meta-World observation, "
            f"but these observations have {size}; use 'state' or 'mean'."
        )
    return _states(segments, FRAME_ENTRIES)


def _keypoint(segments: SegmentBatch, name: str) -> Float[np.ndarray, "N T 3"]:
    if name not in segments.keypoints:
        raise DataError(unknown_name("keypoint", name, segments.keypoints))
    return segments.keypoints[name].astype(np.float64)


def _path(segments: SegmentBatch, name: str) -> Float[np.ndarray, "N K 3"]:
    rows = _moments(episode_lengths(segments) + 1)
    return np.take_along_axis(_keypoint(segments, name), rows[..., None], axis=1)


def _masked_mean(
    values: Float[np.ndarray, "N L C"], mask: Bool[np.ndarray, "N L"]
) -> Float[np.ndarray, "N C"]:
    kept = np.where(mask[..., None], values, 0.0)
    return kept.sum(axis=1, dtype=np.float64) / mask.sum(axis=1)[:, None]


def _mean(segments: SegmentBatch) -> Float[np.ndarray, "N 1 C"]:
    episode_lengths(segments)
    state = _masked_mean(segments.observations[:, :-1], segments.mask)
    action = _masked_mean(segments.actions, segments.mask)
    return np.concatenate([state, action], axis=1)[:, None]


def _last_state(segments: SegmentBatch) -> Float[np.ndarray, "N 1 O"]:
    rows = episode_lengths(segments)[:, None, None]
    return np.take_along_axis(segments.observations, rows, axis=1).astype(np.float64)


def _statistics(segments: SegmentBatch) -> Float[np.ndarray, "N 1 8"]:
    lengths = episode_lengths(segments)
    hand, thing = _keypoint(segments, "hand"), _keypoint(segments, "object")
    states = np.arange(hand.shape[1])[None] <= lengths[:, None]  # T steps have T + 1 states
    last = lengths[:, None, None]
    apart = np.linalg.norm(hand - thing, axis=-1)
    moved = np.where(segments.mask, np.linalg.norm(np.diff(hand, axis=1), axis=-1), 0.0)
    both = segments.mask[:, 1:] & segments.mask[:, :-1]
    actions = np.where(segments.mask[..., None], segments.actions, 0.0).astype(np.float64)
    energy = (actions**2).mean(axis=-1).sum(axis=1) / lengths
    roughness = np.where(both, (np.diff(actions, axis=1) ** 2).mean(axis=-1), 0.0).sum(axis=1)

    def displacement(path: Float[np.ndarray, "N T 3"]) -> Float[np.ndarray, " N"]:
        return np.linalg.norm(np.take_along_axis(path, last, axis=1)[:, 0] - path[:, 0], axis=-1)

    columns = (
        np.where(states, apart, 0.0).sum(axis=1) / (lengths + 1),
        np.where(states, apart, np.inf).min(axis=1),
        np.take_along_axis(apart, lengths[:, None], axis=1)[:, 0],
        moved.sum(axis=1),
        displacement(hand),
        displacement(thing),
        energy,
        roughness / np.maximum(lengths - 1, 1),
    )
    return np.stack(columns, axis=1)[:, None]


def _phases(values: Float[np.ndarray, "N K"]) -> Float[np.ndarray, "N P"]:
    """Return the mean of each sixth of an episode; fewer parts where it has fewer moments."""
    parts = np.array_split(values, min(PHASES, values.shape[1]), axis=1)
    return np.stack([part.mean(axis=1) for part in parts], axis=1)


def _approach(segments: SegmentBatch) -> Float[np.ndarray, "N 1 C"]:
    hand, thing = _path(segments, "hand"), _path(segments, "object")
    followed = (
        np.linalg.norm(hand - thing, axis=-1),
        np.linalg.norm(thing - thing[:, :1], axis=-1),
        np.linalg.norm(np.diff(hand, axis=1), axis=-1),
    )
    columns = [_statistics(segments)[:, 0], *map(_phases, followed)]
    return np.concatenate(columns, axis=1)[:, None]


def _progress(segments: SegmentBatch) -> Float[np.ndarray, "N 1 C"]:
    remaining = np.linalg.norm(_path(segments, "object") - _path(segments, "goal"), axis=-1)
    share = np.minimum(remaining / np.maximum(remaining[:, :1], 1e-3), 3.0)  # of the way at the start
    return np.concatenate([_approach(segments), _phases(share)[:, None]], axis=2)


def hand_object_distance(segments: SegmentBatch) -> Float[np.ndarray, " N"]:
    """Return each episode's mean distance between hand and object, in metres."""
    return _statistics(segments)[:, 0, 0]


FEATURES: Mapping[str, Callable[[SegmentBatch], Float[np.ndarray, "N K C"]]] = {
    "mean": _mean,
    "state": _states,
    "action": _actions,
    "state_action": _state_actions,
    "frame": _frames,
    "last_state": _last_state,
    "eef": lambda segments: _path(segments, "hand"),
    "object": lambda segments: _path(segments, "object"),
    "eef_object": lambda segments: np.concatenate(
        [_path(segments, "hand"), _path(segments, "object")], axis=-1
    ),
    "statistics": _statistics,
    "approach": _approach,
    "progress": _progress,
}
"""Name of a feature -> its channels at each moment, not yet standardised."""


def standardise(
    channels: Float[np.ndarray, "N K C"], *, name: str = "feature", floor: float = 1e-6
) -> Float[np.ndarray, "N D"]:
    """Centre each number on the episodes' mean, divide by its channel's deviation, flatten the moments.

    The deviation of a channel is that between episodes, pooled over its moments, so that a channel which
    episodes share at the start and not at the end keeps that shape. A channel whose deviation is at most
    ``floor`` times the larger of 1 and its magnitude is constant but for rounding (goal and absent objects in
    Meta-World): it becomes zeros, not amplified noise.

    Raises:
        DataError: Fewer than two episodes, values that are not finite, or no channel that varies.
    """
    episodes = channels.shape[0]
    if episodes < 2:
        raise DataError(f"The set holds {episodes} episode(s); a comparison needs at least 2.")
    bad = np.flatnonzero(~np.isfinite(channels).all(axis=(1, 2)))
    if bad.size:
        raise DataError(
            f"The feature '{name}' is NaN or infinite in {bad.size} of {episodes} episodes "
            f"(first: {bad[:10].tolist()}); every number must be finite."
        )
    mean = channels.mean(axis=0)
    deviation = np.sqrt(((channels - mean) ** 2).mean(axis=(0, 1)))
    varies = deviation > floor * np.maximum(1.0, np.abs(channels).max(axis=(0, 1)))
    if not varies.any():
        raise DataError(
            f"The feature '{name}' is the same in all {episodes} episodes, so none differs from another; "
            "choose another feature or look at how the episodes were recorded."
        )
    scaled = np.where(varies, (channels - mean) / np.where(varies, deviation, 1.0), 0.0)
    return scaled.reshape(episodes, -1)


def compute_features(name: str, segments: SegmentBatch, *, floor: float = 1e-6) -> Float[np.ndarray, "N D"]:
    """Return the standardised feature ``name`` of each episode.

    Raises:
        ConfigError: No feature has that name.
        DataError: As :func:`standardise`, or the segments lack what the feature reads.
    """
    check_feature_names([name])
    return standardise(FEATURES[name](segments), name=name, floor=floor)


def check_feature_names(names: Sequence[str]) -> None:
    """Refuse names that are not in :data:`FEATURES`."""
    for name in names:
        if name not in FEATURES:
            raise ConfigError(unknown_name("feature", name, FEATURES))
