"""From scores to preferences: within each initial state, the best rollouts against the worst.

Letters used in shapes: N rollouts, B pairs.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from robopref.data.preferences import Preferences, Segments
from robopref.data.queries import initial_states
from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, DataError


@dataclass(frozen=True)
class Pairing:
    """How pairs are made from the ranked rollouts of one initial state.

    Attributes:
        top: m; the best m rollouts are paired with the worst m, m^2 pairs (GRAPE's algorithm 1; its
            experiments take 1). None pairs every two rollouts.
        gap: Least difference of the two scores; a smaller one, and every tie, gives no pair.
    """

    top: int | None = 1
    gap: float = 0.0

    def __post_init__(self):
        if self.top is not None and self.top < 1:
            raise ConfigError(f"top must be at least 1, got {self.top}")
        if not 0 <= self.gap < np.inf:
            raise ConfigError(f"gap must be a number of at least 0, got {self.gap}")


def ranked_pairs(store: TrajectoryStore, scores: Float[np.ndarray, " N"], pairing: Pairing) -> Preferences:
    """Pair the rollouts of each initial state; the first of each pair is the better.

    Whole episodes are compared. A state with one rollout, or whose rollouts are all alike, gives no pair.

    Raises:
        DataError: There is not one finite score per episode.
    """
    _check_scores(store, scores)
    better, worse = [], []
    for episodes in initial_states(store).values():
        order = episodes[np.argsort(-scores[episodes], kind="stable")]
        if pairing.top is None:
            pairs = itertools.combinations(order, 2)
        else:
            count = min(pairing.top, len(order) // 2)
            pairs = itertools.product(order[:count], order[len(order) - count :])
        for first, second in pairs:
            difference = scores[first] - scores[second]
            if difference > 0 and difference >= pairing.gap:
                better.append(first)
                worse.append(second)
    return whole_episode_preferences(store, np.array(better, np.int64), np.array(worse, np.int64))


def ranked_lists(
    store: TrajectoryStore, scores: Float[np.ndarray, " N"]
) -> list[tuple[Int64[np.ndarray, " n"], Float[np.ndarray, " n"]]]:
    """Return every initial state's episodes, best first, with their scores: all that have a known start."""
    _check_scores(store, scores)
    lists = []
    for episodes in initial_states(store).values():
        order = episodes[np.argsort(-scores[episodes], kind="stable")]
        lists.append((order, scores[order]))
    return lists


def random_pairs_of_states(store: TrajectoryStore, count: int, rng: np.random.Generator) -> Preferences:
    """Pair rollouts of the same initial state in random order: the control that a ranking has to beat."""
    groups = [episodes for episodes in initial_states(store).values() if len(episodes) > 1]
    if not groups:
        raise DataError(f"{store.path} has no two rollouts from one initial state, so there are no pairs.")
    chosen = [rng.choice(groups[rng.integers(len(groups))], 2, replace=False) for _ in range(count)]
    first, second = np.array(chosen, np.int64).reshape(-1, 2).T
    return whole_episode_preferences(store, first, second)


def whole_episode_preferences(
    store: TrajectoryStore, better: Int64[np.ndarray, " B"], worse: Int64[np.ndarray, " B"]
) -> Preferences:
    """Return judgements about whole episodes, the first of each pair preferred.

    Raises:
        DataError: A pair compares rollouts from different initial states; the message names the episodes.
    """
    check_same_start(store, better, worse)
    sides = [Segments(side, np.zeros_like(side), store.lengths[side]) for side in (better, worse)]
    ones = np.ones(len(better), np.float32)
    return Preferences(sides[0], sides[1], ones, ones)


def check_same_start(
    store: TrajectoryStore,
    first: Int64[np.ndarray, " B"],
    second: Int64[np.ndarray, " B"],
    *,
    where: str = "",
) -> None:
    """Refuse pairs whose members began in different states: they differ by more than what was done.

    Members of which nobody knows where they began are refused too.

    Args:
        store: The episodes.
        first: Of each pair.
        second: Likewise.
        where: What the pairs were read from, for the message.

    Raises:
        DataError: Naming the first such pair, its number, and where it was read from.
    """
    for row, (a, b) in enumerate(zip(first.tolist(), second.tolist(), strict=True), start=1):
        one, other = store.provenance(a), store.provenance(b)
        place = f"{where}, label {row}: " if where else ""
        if not (one.initial_state_hash and other.initial_state_hash):
            raise DataError(
                f"{place}{store.path} does not say in which states episodes {a} and {b} began: only rollouts "
                "from one state compare."
            )
        if one.initial_state_hash != other.initial_state_hash or one.task != other.task:
            raise DataError(
                f"{place}Episodes {a} and {b} of {store.path} began in different states (seeds {one.seed} "
                f"and {other.seed} of {one.task} and {other.task}): only rollouts from one state compare."
            )


def check_rollout_pairs(store: TrajectoryStore, pairs: Preferences, *, where: str = "") -> None:
    """Refuse judgements that are not of whole rollouts from one state, as people may give them of clips.

    Args:
        store: The rollouts.
        pairs: Judgements of them.
        where: What they were read from, for the message.

    Raises:
        DataError: Naming the first other judgement, its number, and where it was read from.
    """
    check_same_start(store, pairs.a.episode, pairs.b.episode, where=where)
    sides = (pairs.a, pairs.b)
    whole = [(side.start == 0) & (side.length == store.lengths[side.episode]) for side in sides]
    for row in np.flatnonzero(~(whole[0] & whole[1])).tolist():
        side = sides[int(whole[0][row])]
        episode, start, length = (int(x[row]) for x in (side.episode, side.start, side.length))
        raise DataError(
            f"{where}{', ' if where else ''}label {row + 1}: it judges {length} actions from action {start} "
            f"on of episode {episode}, which has {store.lengths[episode]}; rollouts are compared as a whole."
        )


def _check_scores(store: TrajectoryStore, scores: np.ndarray) -> None:
    if scores.shape != (len(store),) or not np.isfinite(scores).all():
        raise DataError(
            f"{store.path} needs {len(store)} finite scores, one per episode, got {scores.shape}."
        )
