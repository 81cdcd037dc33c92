"""Which pairs of segments to ask about.

Letters used in shapes: n pairs, D features of a pair.
"""

import itertools

import numpy as np
from jaxtyping import Float64, Int64

from robopref.data.preferences import Segments
from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, DataError

SAME_START = "same_start"  # name of the query that asks of pairs_of_states
ALIGNMENT = "alignment"  # and of that which asks what tells a transfer most


def random_pairs(
    store: TrajectoryStore, n: int, length: int | None, rng: np.random.Generator
) -> tuple[Segments, Segments]:
    """Draw pairs of segments: two different episodes at random, and in each a random start.

    Every start is possible, the last included (B-Pref's sampler never draws it). With a single episode long
    enough, the two segments start at different steps of it. The same pair may be drawn twice.

    Args:
        store: Where the episodes are.
        n: Number of pairs.
        length: Actions in each segment, or None for whole episodes.
        rng: Source of randomness.

    Raises:
        ConfigError: ``n`` or ``length`` is not positive.
        DataError: Fewer than two different segments of that length exist.
    """
    if n < 1 or (length is not None and length < 1):
        raise ConfigError(f"Pairs and segment length must be positive, got {n} pairs of length {length}.")
    lengths = store.lengths
    eligible = np.flatnonzero(lengths >= (1 if length is None else length))
    room = np.zeros(len(lengths), np.int64) if length is None else lengths - length
    if len(eligible) == 0 or (len(eligible) == 1 and room[eligible[0]] == 0):
        longest = int(lengths.max(initial=0))
        wanted = "whole episodes" if length is None else f"segments of {length} actions"
        raise DataError(
            f"A pair needs two different {wanted}; {store.path} has {len(store)} episodes, the longest of "
            f"{longest} actions."
        )
    first = rng.integers(len(eligible), size=n)
    other = rng.integers(max(len(eligible) - 1, 1), size=n)
    second = other + (other >= first) if len(eligible) > 1 else first
    a, b = eligible[first], eligible[second]
    start_a = rng.integers(room[a] + 1)
    if len(eligible) > 1:
        start_b = rng.integers(room[b] + 1)
    else:
        start_b = (start_a + rng.integers(1, room[b] + 1)) % (room[b] + 1)
    return (
        Segments(a, start_a, lengths[a] if length is None else np.full(n, length)),
        Segments(b, start_b, lengths[b] if length is None else np.full(n, length)),
    )


def pairs_of_states(store: TrajectoryStore, seed: int) -> list[tuple[int, int]]:
    """Return all pairs of different episodes that began in the same state, in random order and orientation.

    Raises:
        DataError: No two episodes did, as far as is known.
    """
    found = [
        pair
        for episodes in initial_states(store).values()
        for pair in itertools.combinations(episodes.tolist(), 2)
    ]
    if not found:
        raise DataError(
            f"{store.path} has no two episodes that began in the same state, so there is no pair."
        )
    rng = np.random.default_rng([seed, 5, 5])
    turned = rng.random(len(found)) < 0.5
    return [found[i][::-1] if turned[i] else found[i] for i in rng.permutation(len(found)).tolist()]


def initial_states(store: TrajectoryStore) -> dict[str, Int64[np.ndarray, " n"]]:
    """Return the episodes of each known initial state, by the hash of the simulator's state after the reset.

    Episodes of which no such hash is known, as most that come from another format, are left out: nothing says
    that two of them began alike.
    """
    found: dict[str, list[int]] = {}
    for episode in range(len(store)):
        state = store.provenance(episode).initial_state_hash
        if state:
            found.setdefault(state, []).append(episode)
    return {state: np.array(episodes, np.int64) for state, episodes in found.items()}


def pair_features(store: TrajectoryStore, a: Segments, b: Segments) -> Float64[np.ndarray, "n D"]:
    """Say where pairs lie in a space in which near ones teach the same; it needs no model.

    A segment is the mean of its standardised observations and actions; a pair is the sum and the absolute
    difference of its two, so that turning it round changes nothing.
    """
    rows = store.transition_rows()
    means = []
    for name in ("observations", "actions"):
        values = np.asarray(store.array(name)[rows], np.float64)
        spread = values.std(axis=0)
        scaled = (values - values.mean(axis=0)) / np.where(spread > 1e-6, spread, 1)
        means.append(_window_means(store, scaled, a, b))
    first, second = np.concatenate(means, axis=2)
    return np.concatenate([first + second, np.abs(first - second)], axis=1)


def _window_means(store: TrajectoryStore, values: np.ndarray, a: Segments, b: Segments) -> np.ndarray:
    """Average rows, of which each episode has as many as actions, over both segments of each pair."""
    total = np.vstack([np.zeros(values.shape[1]), np.cumsum(values, axis=0)])
    first = np.cumsum(store.lengths) - store.lengths
    starts = np.stack([first[side.episode] + side.start for side in (a, b)])
    lengths = np.stack([a.length, b.length])
    return (total[starts + lengths] - total[starts]) / lengths[..., None]
