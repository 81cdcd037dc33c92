"""Questions that an alignment asks of its target: always the pair whose answer tells it most.

What tells most depends on every answer so far, so each question is chosen when it is asked, in a fraction of
a second. What was answered is in the book that the desk keeps of the label store: a server that is killed and
started again asks the same.

Letters used in shapes: N episodes that are asked about.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Float

from robopref.alignment.anchors import PreparedTransfer
from robopref.data.judgement import Judgement
from robopref.data.preferences import Preferences, label_matrix, whole_segments
from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, DataError
from robopref.labeling.clips import Segment
from robopref.labeling.plan import Plan

MOST_EPISODES = 200
"""Episodes that pairs are made of: drawn at random where there are more."""


def pairs_to_ask(store: TrajectoryStore, *, pairs: int, seed: int = 0, shared: float = 0.1) -> Plan:
    """Return a plan of all pairs of whole episodes, of which ``pairs`` are asked about.

    Args:
        store: The target's episodes.
        pairs: How many pairs to ask about, as far as there are.
        seed: Draws the episodes where there are more than :data:`MOST_EPISODES`, and what is shared.
        shared: Share of the pairs that every annotator is asked about.

    Raises:
        ConfigError: An option makes no sense.
        DataError: There are not two episodes.
    """
    if pairs < 1 or seed < 0 or not 0 <= shared <= 1:
        raise ConfigError(
            f"pairs must be 1 or more, seed 0 or more, shared in [0, 1]; got {pairs}, {seed} and {shared}."
        )
    if len(store) < 2:
        raise DataError(f"Comparing needs two different episodes; {store.path} has {len(store)}.")
    episodes = np.arange(len(store))
    if len(store) > MOST_EPISODES:
        episodes = np.sort(np.random.default_rng([seed, 6, 6]).permutation(episodes)[:MOST_EPISODES])
    whole = [Segment(episode, 0, int(store.lengths[episode])) for episode in episodes.tolist()]
    items = tuple(itertools.combinations(whole, 2))
    everyones = np.random.default_rng([seed, 1, 1]).random(len(items)) < shared
    words = [store.fingerprint(), "alignment", seed]
    return Plan(
        hashlib.sha256(json.dumps(words).encode()).hexdigest()[:12],
        items,
        golden=0,
        shared=frozenset(np.flatnonzero(everyones).tolist()),
        at_random=frozenset(),
        limit=min(pairs, len(items)),
    )


class Asking:
    """Says in which order to ask about the items of a plan.

    Args:
        ready: What the sources say of the target.
        plan: From :func:`pairs_to_ask`, of the same target.
        seed: Of everything random.
    """

    def __init__(self, ready: PreparedTransfer, plan: Plan, *, seed: int = 0):
        self._episodes = np.unique([segment.episode for item in plan.items for segment in item])
        self._ready = dataclasses.replace(ready, features=ready.features[self._episodes])
        self._items = plan.items
        self._seed = seed

    def __call__(self, said: Sequence[Judgement], pending: Collection[int]) -> list[int]:
        """Return what to ask now, and then what is next if its first episode is better, or its second.

        The latter two are there so that their clips are made while a person looks at the first.

        Args:
            said: What people answered. What was skipped is a tie, as what nobody could tell apart.
            pending: Items that other people have before them: ties, too, until something is known.
        """
        anchors = self._anchors(said, pending)
        if not np.isnan(anchors).any():
            return []
        i, j = self._best(anchors, len(said))
        order = [(i, j)]
        for answer in (1.0, 0.0):
            anchors[i, j], anchors[j, i] = answer, 1 - answer
            if np.isnan(anchors).any():
                order.append(self._best(anchors, len(said) + 1))
        return list(dict.fromkeys(self._index(*pair) for pair in order))

    def _best(self, anchors: Float[np.ndarray, "N N"], answers: int) -> tuple[int, int]:
        return self._ready.ask(anchors, rng=np.random.default_rng([self._seed, 7, answers]))

    def _index(self, i: int, j: int) -> int:
        """Return which item compares the i-th and the j-th episode, i < j: the plan has all, in order."""
        return i * len(self._episodes) - i * (i + 1) // 2 + j - i - 1

    def _anchors(self, said: Sequence[Judgement], pending: Collection[int]) -> Float[np.ndarray, "N N"]:
        held = [(*(segment.episode for segment in self._items[item]), None) for item in pending]
        told = [*((each.a_episode, each.b_episode, each.label) for each in said), *held]
        table = np.array(told, np.float64).reshape(-1, 3)  # a label of None is NaN
        first, second = np.searchsorted(self._episodes, table[:, :2]).T
        lengths, labels = np.ones_like(self._episodes), table[:, 2]
        given = ~np.isnan(labels)
        a, b = whole_segments(first[given], lengths), whole_segments(second[given], lengths)
        anchors = label_matrix(Preferences(a, b, labels[given], np.ones(given.sum())), len(lengths))
        for i, j in zip(first[~given], second[~given], strict=True):
            if np.isnan(anchors[i, j]):
                anchors[i, j] = anchors[j, i] = 0.5
        return anchors.astype(np.float64)
