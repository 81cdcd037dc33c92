"""Which pairs a study asks about, in which order; the same for the same data and options.

A longer plan begins like a shorter one, so a study may be extended. Strategies are those of
:mod:`robopref.data.queries_informed`: they order a pool of random pairs, of which a stated share stays in
random order, so that there are pairs on which accuracy can be measured without bias.

Letters used in shapes: n pairs.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robopref.data.judgement import Feedback
from robopref.data.preferences import Segments
from robopref.data.queries import ALIGNMENT, SAME_START, pairs_of_states, random_pairs
from robopref.data.queries_informed import QUERIES
from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, DataError, unknown_name
from robopref.labeling.clips import Segment

_DRAWN_AT_ONCE = 64
_FRUITLESS_DRAWS = 50  # after so many draws without a new pair, there are no more

Pair = tuple[Segment, Segment]


def distinct_pairs(store: TrajectoryStore, length: int | None, seed: int) -> Iterator[Pair]:
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


@dataclass(frozen=True)
class Plan:
    """What a study asks about.

    Attributes:
        name: Tells this plan from others: a hash of the data and of what chose the items.
        items: Pairs, clips alone, or lists to rank; easy checks first, then in the order of the query.
        golden: How many of the first are checks, whose better half the environment's reward shows.
        shared: Which items every annotator is asked about; the others are asked of one.
        at_random: Which items were drawn evenly from all there are: on those alone accuracy is unbiased.
        limit: How many items are asked about; there are more of them where the order may still change.
        feedback: What is asked of an item: a pair, a thumb, or a ranking.
    """

    name: str
    items: tuple[tuple[Segment, ...], ...]
    golden: int
    shared: frozenset[int]
    at_random: frozenset[int]
    limit: int
    feedback: Feedback = "pair"


def make_plan(
    store: TrajectoryStore,
    *,
    pairs: int,
    segment_length: int | None = None,
    query: str = "random",
    seed: int = 0,
    gold: int = 0,
    shared: float = 0.1,
    random_share: float = 0.2,
    pool: int = 1000,
    reward_dir: str | Path | None = None,
    online: bool = False,
) -> Plan:
    """Choose the pairs of a study.

    Args:
        store: The episodes.
        pairs: How many to ask about; fewer where there are no more.
        segment_length: Actions of each clip, or None for whole episodes.
        query: How they are chosen, one of :data:`robopref.data.queries_informed.QUERIES`; or ``same_start``:
            whole episodes that began in the same state, in random order.
        seed: Of everything random.
        gold: How many checks to begin with: whole episodes that the environment's reward tells apart.
        shared: Share of the pairs that every annotator is asked about, so that their agreement can be
            measured.
        random_share: Share of the pairs that is drawn at random whatever the query, and never learned from
            while people label.
        pool: From how many random pairs the query chooses.
        reward_dir: A saved reward ensemble, for the strategies that choose by what it is unsure of.
        online: Whether the order will change while people label: the plan then holds the whole pool.

    Raises:
        ConfigError: An option makes no sense, or the query needs a reward and there is none.
        DataError: There are not two segments to compare, or the reward cannot be read.
    """
    _check_query(query, segment_length, gold, online)
    _check_numbers(pairs, gold, seed, shared=shared, random_share=random_share)
    checks = golden_pairs(store, gold, seed)
    known = {frozenset(pair) for pair in checks}
    drawn = _of_states(store, seed) if query == SAME_START else distinct_pairs(store, segment_length, seed)
    fresh = (pair for pair in drawn if frozenset(pair) not in known)
    words: list[object] = [store.fingerprint(), query, segment_length, seed, gold]
    if query in ("random", SAME_START):
        chosen = list(itertools.islice(fresh, pairs))
        at_random = np.ones(len(chosen), bool)
        if online:  # all are random, but what is learned from cannot be tested on
            at_random = np.random.default_rng([seed, 3, 3]).random(len(chosen)) < random_share
            words += [random_share, online]
    else:
        if pairs > pool:
            raise ConfigError(f"query={query} chooses pairs={pairs} from pool={pool}: it must be larger.")
        chosen, at_random = _ordered(
            store, list(itertools.islice(fresh, pool)), query, seed, random_share, reward_dir, online
        )
        words += [random_share, pool, online, None if reward_dir is None else content_of(Path(reward_dir))]
    limit = len(checks) + min(pairs, len(chosen))
    if not online:
        chosen = chosen[:pairs]
    everyones = np.random.default_rng([seed, 1, 1]).random(len(checks) + len(chosen)) < shared
    everyones[: len(checks)] = True
    return Plan(
        hashlib.sha256(json.dumps(words).encode()).hexdigest()[:12],
        (*checks, *chosen),
        len(checks),
        frozenset(np.flatnonzero(everyones).tolist()),
        frozenset((len(checks) + np.flatnonzero(at_random[: len(chosen)])).tolist()),
        limit,
    )


def columns(pairs: Sequence[tuple[Segment, ...]]) -> tuple[Segments, Segments]:
    """Return pairs as columns: the first and the second segments."""
    table = np.array([(s.episode, s.start, s.length) for pair in pairs for s in pair], np.int64)
    a, b = table.reshape(-1, 2, 3).transpose(1, 2, 0)
    return Segments(*a), Segments(*b)


def _check_query(query: str, segment_length: int | None, gold: int, online: bool) -> None:
    if query == ALIGNMENT:
        raise ConfigError(
            "query=alignment asks what tells a transfer most: only robopref label does, given its sources."
        )
    if query not in (*QUERIES, SAME_START):
        raise ConfigError(unknown_name("query strategy", query, (*QUERIES, SAME_START, ALIGNMENT)))
    if query == SAME_START and (segment_length is not None or online or gold):
        raise ConfigError(
            f"query={query} compares whole episodes of one state, in an order that stays: leave out "
            "segment_length, gold and online."
        )


def _check_numbers(pairs: int, gold: int, seed: int, **shares: float) -> None:
    if pairs < 1 or gold < 0 or seed < 0:
        raise ConfigError(f"pairs must be 1 or more, gold and seed 0 or more, got {pairs}, {gold}, {seed}.")
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ConfigError(f"{name} must lie in [0, 1]: it is a share of the pairs. Got {share}.")


def _ordered(
    store: TrajectoryStore,
    pool: list[Pair],
    query: str,
    seed: int,
    random_share: float,
    reward_dir: str | Path | None,
    online: bool,
) -> tuple[list[Pair], np.ndarray]:
    """Order the whole pool, so that a longer plan begins like a shorter one; and say what is random in it."""
    from robopref.rewards.knowledge import candidates, needs_reward
    from robopref.rewards.saved import load_reward

    if not pool:
        return [], np.zeros(0, bool)
    reward = None if reward_dir is None else load_reward(reward_dir)
    if needs_reward(query) and reward is None:
        if not online:
            raise ConfigError(
                f"query={query} chooses by what a reward model is unsure of: name one with "
                "reward_dir=<folder> (from robopref train-reward), or learn it while people label with "
                "online=true."
            )
        drawn = np.random.default_rng([seed, 3, 3]).random(len(pool)) < random_share
        return pool, drawn  # nothing is known yet, so they are asked in the order they were drawn
    known = candidates(store, columns(pool), query, reward=reward)
    rng = np.random.default_rng([seed, 3, 3])
    found = QUERIES[query](known, len(pool), rng, random_share=random_share)
    return [pool[i] for i in found.index.tolist()], found.at_random


def content_of(folder: Path) -> str:
    """Return a hash of a saved reward.

    Raises:
        DataError: There is none.
    """
    digest = hashlib.sha256()
    for name in ("config.json", "model.safetensors"):
        path = folder / name
        if not path.is_file():
            raise DataError(f"There is no {path}: the folder of a trained reward holds one.")
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


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


def _of_states(store: TrajectoryStore, seed: int) -> Iterator[Pair]:
    for a, b in pairs_of_states(store, seed):
        yield _whole(store, a), _whole(store, b)


def _whole(store: TrajectoryStore, episode: int) -> Segment:
    return Segment(episode, 0, int(store.lengths[episode]))
