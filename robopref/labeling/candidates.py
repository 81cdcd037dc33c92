"""Lists to rank that are candidates: what a policy proposed in one state, each tried out from it."""

import hashlib
import json

import numpy as np

from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, DataError
from robopref.labeling.clips import Segment
from robopref.labeling.plan import Plan


def candidate_lists(
    store: TrajectoryStore, *, items: int, clips: int, seed: int = 0, shared: float = 0.1
) -> Plan:
    """Take lists of candidates of one state each, in the order of the states.

    Args:
        store: Filmed candidates, one at the end of each episode.
        items: How many lists, as far as there are.
        clips: How many candidates of each, in random order.
        seed: Of everything random.
        shared: Share of the lists that every annotator is asked about.

    Raises:
        ConfigError: An option makes no sense.
        DataError: These episodes are no candidates.
    """
    about = store.metadata.get("candidates")
    if not about:
        raise DataError(
            f"{store.path} holds no candidates: query=candidates needs those that robopref run "
            "experiment=deformpam selection.labels_from=human films"
        )
    count, length = about["count"], about["length"]
    if not 2 <= clips <= count:
        raise ConfigError(f"Each state has {count} candidates: k must lie in 2..{count}, got k={clips}")
    if items < 1 or seed < 0 or not 0 <= shared <= 1:
        raise ConfigError(
            f"pairs must be 1 or more, seed 0 or more, shared in [0, 1]; got {items}, {seed} and {shared}."
        )
    chosen = []
    for state in range(min(items, len(store) // count)):
        order = np.random.default_rng([seed, state, 5]).permutation(count)[:clips]
        episodes = (state * count + order).tolist()
        chosen.append(tuple(Segment(e, int(store.lengths[e]) - length, length) for e in episodes))
    everyones = np.random.default_rng([seed, 1, 1]).random(len(chosen)) < shared
    words = [store.fingerprint(), "candidates", clips, seed]
    return Plan(
        hashlib.sha256(json.dumps(words).encode()).hexdigest()[:12],
        tuple(chosen),
        golden=0,
        shared=frozenset(np.flatnonzero(everyones).tolist()),
        at_random=frozenset(range(len(chosen))),
        limit=len(chosen),
        feedback="ranking",
    )
