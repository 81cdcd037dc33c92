"""What was said of a store's episodes: what a model learns from, and what measures it afterwards.

Letters used in shapes: N episodes.
"""

import dataclasses
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool

from robopref.data.preferences import Preferences, Ratings
from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, DataError
from robopref.methods.phases.comparisons import Comparisons, read_judgements, without_ties
from robopref.methods.phases.label import content, true_labels
from robopref.objectives.description import Objective
from robopref.rewards.dataset import PreferencePairs, preference_tensors


@dataclasses.dataclass(frozen=True)
class Split:
    """What a model learns from, and pairs that it never sees."""

    train: Preferences
    ratings: Ratings
    kept: Preferences


@dataclasses.dataclass(frozen=True)
class Judged:
    """The labels of a store, and how a model shall learn from them.

    Attributes:
        store: The episodes that the labels speak of.
        objective: What the model minimises.
        preferences: Labelled pairs.
        ratings: Segments that were judged one by one, where they count.
        comparisons: What is made of both.
        held_out: Share of episodes that the model never sees.
        max_pairs: Learn from so many pairs, drawn at random; None takes all.
    """

    store: TrajectoryStore
    objective: Objective
    preferences: Preferences
    ratings: Ratings
    comparisons: Comparisons
    held_out: float
    max_pairs: int | None

    @classmethod
    def read(
        cls,
        store: TrajectoryStore,
        url: str,
        objective: Objective,
        comparisons: Comparisons,
        *,
        held_out: float,
        max_pairs: int | None,
        **filters: Any,
    ) -> "Judged":
        """Read them from a label store; ``filters`` as of ``comparisons.read_judgements``."""
        preferences, ratings = read_judgements(store, url, objective, comparisons, **filters)
        return cls(store, objective, preferences, ratings, comparisons, held_out, max_pairs)

    def settings(self) -> dict[str, Any]:
        """What a phase that learns from them depends on."""
        return {
            "data": self.store.fingerprint(),
            "labels": content(self.preferences, self.ratings),
            "held_out": self.held_out,
            "max_pairs": self.max_pairs,
            "comparisons": dataclasses.asdict(self.comparisons),
        }

    def split(self, rng: np.random.Generator) -> Split:
        """Split by episode, and draw ``max_pairs`` of the pairs to learn from at random.

        Held-out segments that were judged one by one become pairs of a good and a bad one.

        Raises:
            DataError: Nothing is left to learn from.
        """
        aside = _aside(len(self.store), self.held_out, rng)
        train, kept = _split(self.preferences, aside)
        rated = aside[self.ratings.segments.episode]
        singles = self.ratings.select(np.flatnonzero(~rated))
        if not len(train) and not len(singles):
            raise DataError(
                f"None of the {len(self.preferences)} labelled pairs is left to learn from: "
                f"held_out={self.held_out} keeps episodes aside, and pairs with one of them are not learned "
                "from."
            )
        if self.max_pairs is not None and self.max_pairs < len(train):
            train = train.select(np.sort(rng.choice(len(train), self.max_pairs, replace=False)))
        implied = self.ratings.select(np.flatnonzero(rated)).implied()
        return Split(train, singles, Preferences.concatenate([kept, implied]) if len(implied) else kept)

    def counts(self, parts: Split, pairs: PreferencePairs) -> dict[str, int]:
        """How many of each kind there are; ``pairs`` is what became of those to learn from."""
        found = {"pairs": len(pairs) if len(parts.train) else 0, "held_out_pairs": len(parts.kept)}
        return found | ({"ratings": len(parts.ratings)} if len(self.ratings) else {})

    def in_true_order(self, kept: Preferences) -> Preferences:
        """Held-out pairs in their true order, where the environment gives rewards; else as labelled."""
        return without_ties(self.objective, true_labels(kept, self.store))

    def measuring(
        self, ordered: Preferences, device: torch.device, demonstrations: Any = None
    ) -> PreferencePairs | None:
        """Tensors of pairs from :meth:`in_true_order`; None where all are tied."""
        if not (ordered.label != 0.5).any():
            return None
        return preference_tensors(
            self.store, ordered, device, allow_only_ties=True, demonstrations=demonstrations
        )


def split_by_episode(
    preferences: Preferences, episodes: int, share: float, rng: np.random.Generator
) -> tuple[Preferences, Preferences]:
    """Keep a share of the episodes aside: pairs without any of them, and pairs of two of them."""
    return _split(preferences, _aside(episodes, share, rng))


def _aside(episodes: int, share: float, rng: np.random.Generator) -> Bool[np.ndarray, " N"]:
    if not 0 <= share < 1:
        raise ConfigError(f"held_out must lie in [0, 1), got {share}")
    aside = np.zeros(episodes, bool)
    aside[rng.choice(episodes, round(share * episodes), replace=False)] = True
    return aside


def _split(preferences: Preferences, aside: Bool[np.ndarray, " N"]) -> tuple[Preferences, Preferences]:
    a, b = aside[preferences.a.episode], aside[preferences.b.episode]
    return preferences.select(np.flatnonzero(~a & ~b)), preferences.select(np.flatnonzero(a & b))
