"""What a study asks about that does not compare pairs: clips alone, and lists to rank.

They are drawn at random, or ordered from a pool of random ones: a list by what a query strategy says of its
pairs, clips alone so that they lie far from each other. As with pairs, a longer plan begins like a shorter.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from robopref.data.judgement import Feedback
from robopref.data.queries_informed import query_named
from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, DataError
from robopref.labeling.clips import Segment
from robopref.labeling.plan import Plan, columns, content_of, distinct_pairs

MOST_CLIPS = 26  # of a list: they are called A to Z


def make_items(
    store: TrajectoryStore,
    feedback: Feedback,
    *,
    items: int,
    clips: int = 1,
    segment_length: int | None = None,
    seed: int = 0,
    shared: float = 0.1,
    query: str = "random",
    random_share: float = 0.2,
    pool: int = 1000,
    reward_dir: str | Path | None = None,
) -> Plan:
    """Choose clips to judge alone, or lists to rank.

    Args:
        store: The episodes.
        feedback: ``updown`` or ``ranking``.
        items: How many clips or lists, as far as there are different ones.
        clips: How many clips a list has; a clip may be in several lists.
        segment_length: Actions of each clip; None takes whole episodes.
        seed: Of everything random.
        shared: Share of the items that every annotator is asked about.
        query: What orders them, one of :data:`robopref.data.queries_informed.QUERIES`; clips alone know
            ``k_center`` alone, since the others compare two.
        random_share: Share of the items that is drawn at random whatever the query.
        pool: From how many random items the query chooses.
        reward_dir: A saved reward ensemble, for the strategies that choose by what it is unsure of.

    Raises:
        ConfigError: An option makes no sense, or the query needs a reward and there is none.
        DataError: There are not enough different clips.
    """
    size = clips if feedback == "ranking" else 1
    _check_numbers(feedback, items, clips, seed, shared)
    _check_query(query, feedback, items, pool, random_share)
    drawn = itertools.chain.from_iterable(distinct_pairs(store, segment_length, seed))
    several = _different(drawn, size)
    chosen = list(itertools.islice(several, items if query == "random" else pool))
    if not chosen:
        raise DataError(f"A list of {size} clips needs {size} different ones; {store.path} has fewer.")
    words: list[object] = [store.fingerprint(), feedback, size, segment_length, seed]
    at_random = np.ones(len(chosen), bool)
    if query != "random":
        words += [query, random_share, pool, None if reward_dir is None else content_of(Path(reward_dir))]
        best = _best_first(store, chosen, query, reward_dir, np.random.default_rng([seed, 3, 3]))
        order, at_random = _scattered(best, random_share, np.random.default_rng([seed, 4, 4]))
        chosen = [chosen[index] for index in order[:items]]
    everyones = np.random.default_rng([seed, 1, 1]).random(len(chosen)) < shared
    name = hashlib.sha256(json.dumps(words).encode()).hexdigest()[:12]
    return Plan(
        name,
        tuple(chosen),
        golden=0,
        shared=frozenset(np.flatnonzero(everyones).tolist()),
        at_random=frozenset(np.flatnonzero(at_random[: len(chosen)]).tolist()),
        limit=len(chosen),
        feedback=feedback,
    )


def _check_numbers(feedback: Feedback, items: int, clips: int, seed: int, shared: float) -> None:
    if items < 1 or seed < 0 or not 0 <= shared <= 1:
        raise ConfigError(
            f"pairs must be 1 or more, seed 0 or more, shared in [0, 1]; got {items}, {seed} and {shared}."
        )
    if feedback == "ranking" and not 2 <= clips <= MOST_CLIPS:
        raise ConfigError(f"A ranking needs 2 to {MOST_CLIPS} clips, got k={clips}.")


def _check_query(query: str, feedback: Feedback, items: int, pool: int, random_share: float) -> None:
    query_named(query)
    if query == "random":
        return
    if feedback == "updown" and query != "k_center":
        raise ConfigError(
            f"query={query} says which two clips to compare, and feedback=updown shows one at a time: "
            "there it can be random or k_center."
        )
    if items > pool:
        raise ConfigError(f"query={query} chooses pairs={items} from pool={pool}: it must be larger.")
    if not 0 <= random_share <= 1:
        raise ConfigError(f"random_share must lie in [0, 1], got {random_share}.")


def _best_first(
    store: TrajectoryStore,
    items: Sequence[tuple[Segment, ...]],
    query: str,
    reward_dir: str | Path | None,
    rng: np.random.Generator,
) -> list[int]:
    """Order items by the mean place of their pairs; a clip alone counts as a pair with itself."""
    from robopref.rewards.knowledge import candidates
    from robopref.rewards.saved import load_reward

    pairs = [
        [(item[0], item[0])] if len(item) == 1 else list(itertools.combinations(item, 2)) for item in items
    ]
    of = np.repeat(np.arange(len(items)), [len(each) for each in pairs])
    reward = None if reward_dir is None else load_reward(reward_dir)
    known = candidates(store, columns([pair for each in pairs for pair in each]), query, reward=reward)
    found = query_named(query)(known, len(of), rng, random_share=0.0)
    place = np.empty(len(of))
    place[found.index] = np.arange(len(of))
    mean = np.bincount(of, place) / np.bincount(of)
    return np.argsort(mean, kind="stable").tolist()


def _scattered(best: list[int], share: float, rng: np.random.Generator) -> tuple[list[int], np.ndarray]:
    """Put a share of items in random order among those that are in the best; say which they are."""
    at_random = rng.random(len(best)) < share
    drawn, first = iter(rng.permutation(len(best)).tolist()), iter(best)
    order: dict[int, None] = {}
    for random in at_random:
        order[next(item for item in (drawn if random else first) if item not in order)] = None
    return list(order), at_random


def _different(drawn: Iterator[Segment], size: int) -> Iterator[tuple[Segment, ...]]:
    """Gather what is drawn into items of so many different clips, and yield each item once."""
    seen: set[frozenset[Segment]] = set()
    item: dict[Segment, None] = {}
    for segment in drawn:
        item[segment] = None
        if len(item) == size:
            if frozenset(item) not in seen:
                seen.add(frozenset(item))
                yield tuple(item)
            item = {}
