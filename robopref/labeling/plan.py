"""Which pairs a study asks about, in which order; the same for the same data and options.

A longer plan begins like a shorter one, so a study may be extended. A new strategy is a :data:`Query`:
register it in :data:`QUERIES`.

Letters used in shapes: n pairs.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from robopref.data.queries import random_pairs
from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, unknown_name
from robopref.labeling.clips import Segment

_DRAWN_AT_ONCE = 64
_FRUITLESS_DRAWS = 50  # after so many draws without a new pair, there are no more

Pair = tuple[Segment, Segment]
Query = Callable[[TrajectoryStore, int | None, int], Iterator[Pair]]  # (store, segment length, seed)


def random_query(store: TrajectoryStore, length: int | None, seed: int) -> Iterator[Pair]:
    """Yield random pairs, each once."""
    seen: set[frozenset[Segment]] = set()
    fruitless = 0
    for draw in range(2**32):
        rng = np.random.default_rng([seed, draw])
        a, b = random_pairs(store, _DRAWN_AT_ONCE, length, rng)
        before = len(seen)
        columns = (a.episode, a.start, a.length, b.episode, b.start, b.length)
        for row in zip(*(column.tolist() for column in columns), strict=True):
            pair = Segment(*row[:3]), Segment(*row[3:])
            if frozenset(pair) not in seen:
                seen.add(frozenset(pair))
                yield pair
        fruitless = fruitless + 1 if len(seen) == before else 0
        if fruitless >= _FRUITLESS_DRAWS:
            return


QUERIES: dict[str, Query] = {"random": random_query}


@dataclass(frozen=True)
class Plan:
    """The pairs of a study.

    Attributes:
        name: Tells this plan from others: a hash of the data and of what chose the pairs.
        pairs: What is asked about, easy checks first, then in the order of the query.
        golden: How many of the first are checks, whose better half the environment's reward shows.
        shared: Which pairs every annotator is asked about; the others are asked of one.
    """

    name: str
    pairs: tuple[Pair, ...]
    golden: int
    shared: frozenset[int]


def make_plan(
    store: TrajectoryStore,
    *,
    pairs: int,
    segment_length: int | None = None,
    query: str = "random",
    seed: int = 0,
    gold: int = 0,
    shared: float = 0.1,
) -> Plan:
    """Choose the pairs of a study.

    Args:
        store: The episodes.
        pairs: How many to ask about; fewer where there are no more.
        segment_length: Actions of each clip, or None for whole episodes.
        query: How they are chosen, one of :data:`QUERIES`.
        seed: Of everything random.
        gold: How many checks to begin with: whole episodes that the environment's reward tells apart.
        shared: Share of the pairs that every annotator is asked about, so that their agreement can be
            measured.

    Raises:
        ConfigError: An option makes no sense.
        DataError: There are not two segments to compare.
    """
    if query not in QUERIES:
        raise ConfigError(unknown_name("query", query, QUERIES))
    if pairs < 1 or gold < 0 or seed < 0:
        raise ConfigError(f"pairs must be 1 or more, gold and seed 0 or more, got {pairs}, {gold}, {seed}.")
    if not 0 <= shared <= 1:
        raise ConfigError(f"shared must lie in [0, 1]: it is a share of the pairs. Got {shared}.")
    checks = golden_pairs(store, gold, seed)
    chosen = dict.fromkeys(checks)
    known = {frozenset(pair) for pair in checks}
    for pair in QUERIES[query](store, segment_length, seed):
        if len(chosen) >= pairs + len(checks):
            break
        if frozenset(pair) not in known:
            chosen[pair] = None
    everyones = np.random.default_rng([seed, 1, 1]).random(len(chosen)) < shared
    everyones[: len(checks)] = True
    words = [store.fingerprint(), query, segment_length, seed, gold]
    return Plan(
        hashlib.sha256(json.dumps(words).encode()).hexdigest()[:12],
        tuple(chosen),
        len(checks),
        frozenset(np.flatnonzero(everyones).tolist()),
    )


def golden_pairs(store: TrajectoryStore, n: int, seed: int) -> list[Pair]:
    """Pair one of the best quarter of the episodes with one of the worst, the better one first.

    Raises:
        ConfigError: The episodes carry no rewards that tell them apart, or are too few.
    """
    if n == 0:
        return []
    quarter = len(store) // 4
    order = np.argsort(store.returns, kind="stable")
    if quarter < 1 or store.returns[order[-quarter]] <= store.returns[order[quarter - 1]]:
        raise ConfigError(
            f"gold={n} needs episodes that the environment's reward tells apart, at least four; "
            f"{store.path} has {len(store)}, with returns from {store.returns.min(initial=0):g} to "
            f"{store.returns.max(initial=0):g}."
        )
    if n > quarter**2:
        raise ConfigError(f"gold={n} is more than the {quarter**2} clear pairs of {len(store)} episodes.")
    chosen = np.random.default_rng([seed, 2, 2]).permutation(quarter**2)[:n]
    good, bad = order[-quarter:][chosen // quarter], order[:quarter][chosen % quarter]
    return [(_whole(store, int(g)), _whole(store, int(b))) for g, b in zip(good, bad, strict=True)]


def _whole(store: TrajectoryStore, episode: int) -> Segment:
    return Segment(episode, 0, int(store.lengths[episode]))
