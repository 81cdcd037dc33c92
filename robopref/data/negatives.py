"""Worse twins: segments spoiled on purpose, so that the original is preferred without asking anyone.

Policies and rewards that see one step at a time do not notice whole steps that change places. So what moves
is the action while the observation stays (after TEMPLE's temporal perturbations), or the observation is
hidden while the action stays (after BDHS and MMedPO).

Letters used in shapes: B segments, L steps, O observation size, A action size.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from robopref.data.preferences import Preferences, Segments
from robopref.data.store import TrajectoryStore
from robopref.data.trajectory import Provenance, SegmentBatch, Trajectory
from robopref.errors import ConfigError, DataError, unknown_name

Actions = Float[np.ndarray, "n A"]


def shuffle(actions: Actions, rng: np.random.Generator) -> Actions:
    """The actions in another order."""
    return actions[rng.permutation(len(actions))]


def reverse(actions: Actions, rng: np.random.Generator) -> Actions:
    """The actions backwards."""
    return actions[::-1]


def hold(actions: Actions, rng: np.random.Generator) -> Actions:
    """The first action throughout, as if the others had been dropped."""
    return np.repeat(actions[:1], len(actions), axis=0)


def redraw(actions: Actions, rng: np.random.Generator) -> Actions:
    """Actions drawn evenly from the range."""
    return rng.uniform(-1, 1, actions.shape).astype(actions.dtype)


KINDS: dict[str, Callable[[Actions, np.random.Generator], Actions]] = {
    "shuffle": shuffle,
    "reverse": reverse,
    "hold": hold,
    "redraw": redraw,
}

SPOILS = (*KINDS, "hide")  # hide leaves the actions and takes away what was seen


def spoil(batch: SegmentBatch, kind: str, *, share: float, rng: np.random.Generator) -> SegmentBatch:
    """Spoil segments in one of the ways of ``SPOILS``.

    Args:
        batch: The originals.
        kind: A key of ``KINDS`` for :func:`perturb_actions`, or ``hide`` for :func:`hide_observations`.
        share: Of the steps of each segment, or of the entries of the observations, which are drawn.
        rng: Draws places, orders and entries.
    """
    if kind not in SPOILS:
        raise ConfigError(unknown_name("kind of perturbation", kind, SPOILS))
    if kind != "hide":
        return perturb_actions(batch, kind, share=share, rng=rng)
    size = batch.observations.shape[-1]
    return hide_observations(
        batch, np.sort(rng.choice(size, max(1, round(share * size)), replace=False)).tolist()
    )


def perturb_actions(
    batch: SegmentBatch, kind: str, *, share: float, rng: np.random.Generator
) -> SegmentBatch:
    """Spoil the actions in one window of each segment; nothing else changes, padding least of all.

    Args:
        batch: The originals.
        kind: A key of ``KINDS``.
        share: Length of the window as a share of the segment, in [0, 1]; its place is drawn.
        rng: Draws places and orders.

    Raises:
        ConfigError: An unknown kind, or a share outside [0, 1].
    """
    if kind not in KINDS:
        raise ConfigError(unknown_name("kind of perturbation", kind, KINDS))
    if not 0 <= share <= 1:
        raise ConfigError(f"share must lie in [0, 1], got {share}")
    actions = batch.actions.copy()
    for row, length in zip(actions, batch.mask.sum(1), strict=True):
        window = round(share * int(length))
        if window:
            start = int(rng.integers(length - window + 1))
            row[start : start + window] = KINDS[kind](row[start : start + window], rng)
    return SegmentBatch(
        batch.observations, actions, batch.rewards, batch.successes, batch.mask, batch.keypoints
    )


def hide_observations(batch: SegmentBatch, dimensions: Sequence[int]) -> SegmentBatch:
    """Replace some dimensions of the observations by their mean over the batch: what was done without seeing.

    Raises:
        DataError: A dimension does not exist.
    """
    size = batch.observations.shape[-1]
    if any(not 0 <= d < size for d in dimensions):
        raise DataError(f"Observations have dimensions 0 ... {size - 1}, got {list(dimensions)}")
    observations = batch.observations.copy()
    chosen = list(dimensions)
    observations[..., chosen] = observations[:, :-1][batch.mask][:, chosen].mean(0)
    return SegmentBatch(
        observations, batch.actions, batch.rewards, batch.successes, batch.mask, batch.keypoints
    )


def store_with_twins(
    path: str | Path, store: TrajectoryStore, episodes: Int[np.ndarray, " B"], twins: SegmentBatch
) -> tuple[TrajectoryStore, Preferences]:
    """Write originals and twins as a store of their own, with the preference for each original.

    The twins never happened: their rewards are zero, their provenance says ``perturbed``, and they cannot be
    replayed. Reward models and policies learn from the new store as from any other.

    Args:
        path: Of the new store.
        store: Holds the originals.
        episodes: Whole episodes of ``store``.
        twins: Their spoiled copies, in the same order.

    Raises:
        DataError: Another number of twins, or another length.
    """
    if len(episodes) != len(twins) or (twins.mask.sum(1) != store.lengths[episodes]).any():
        raise DataError(f"There must be a twin of equal length for each of {len(episodes)} episodes.")
    with TrajectoryStore.create(
        path,
        observation_size=store.layout.observation_size,
        action_size=store.layout.action_size,
        keypoints=(),
        control_hz=store.control_hz,
    ) as writing:
        for index, number in enumerate(episodes):
            original = store.episode(int(number))
            writing.append(_bare(original, original.observations, original.actions, original.rewards, ""))
            steps = original.length
            o, a = twins.observations[index, : steps + 1], twins.actions[index, :steps]
            writing.append(_bare(original, o, a, np.zeros(steps, np.float32), "perturbed "))
    written = TrajectoryStore.open(path)
    first = np.arange(0, 2 * len(episodes), 2)
    ones = np.ones(len(episodes), np.float32)
    a, b = (Segments(e, np.zeros_like(e), written.lengths[e]) for e in (first, first + 1))
    return written, Preferences(a, b, ones, ones)


def _bare(
    original: Trajectory, observations: np.ndarray, actions: np.ndarray, rewards: np.ndarray, note: str
) -> Trajectory:
    """An episode without keypoints and frames, which a twin has not."""
    p = original.provenance
    provenance = Provenance(
        p.task, p.env_id, p.seed, note + p.behaviour, p.options, p.initial_state_hash, p.versions
    )
    successes = original.successes if not note else np.zeros(len(actions), bool)
    return Trajectory(observations, actions, rewards, successes, {}, original.terminated, provenance)
