"""A set of episodes: a labelled source, and a few episodes chosen from a set as the paper does.

Letters used in shapes: M source episodes, N episodes of any set, D numbers of a feature, K episodes chosen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.cluster.vq import ClusterError, kmeans2

from robopref.alignment.gromov import checked_weights
from robopref.alignment.transfer import check_label_matrix
from robopref.data.trajectory import SegmentBatch
from robopref.errors import DataError

KMEANS_ATTEMPTS = 50
"""Draws of k-means before it is given up that each cluster hold enough episodes."""


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """A source: episodes, what is known of their order, and (if they do not count alike) their weights.

    Args:
        name: What the record calls this source.
        segments: Its M episodes, whole ones or all cut at the same phase: with windows at random phases the
            alignment matches phase and not quality.
        labels: Chance that the row's episode is preferred, NaN where unknown.
        weights: Mass of each episode, not negative; uniform by default.

    Raises:
        DataError: No name, fewer than two episodes, shapes that do not fit, no label or nothing but ties.
    """

    name: str
    segments: SegmentBatch
    labels: Float[np.ndarray, "M M"]
    weights: Float[np.ndarray, " M"] | None = None

    def __post_init__(self):
        if not self.name or "/" in self.name:
            raise DataError(f"A source needs a name without '/', got {self.name!r}.")
        count = len(self.segments)
        if count < 2:
            raise DataError(
                f"The source '{self.name}' holds {count} episode(s); a comparison needs at least 2."
            )
        if self.labels.shape != (count, count):
            raise DataError(
                f"The source '{self.name}' holds {count} episodes, so its labels must have shape "
                f"({count}, {count}), got {self.labels.shape}."
            )
        check_label_matrix(self.labels, f"the source '{self.name}'")
        if np.count_nonzero(checked_weights(self.weights, count, self.name)) < 2:
            raise DataError(f"The source '{self.name}' has weight in one episode only; two need some.")


def check_sources(sources: Sequence[LabelledSet]) -> None:
    """Refuse no source at all, and two of one name."""
    names = [source.name for source in sources]
    if not names or len(set(names)) < len(names):
        raise DataError(f"An alignment needs one source or more, each with its own name, got {names}.")


def choose_by_clusters(
    features: Float[np.ndarray, "N D"],
    *,
    clusters: int,
    each: int,
    rng: np.random.Generator,
    owner: str = "set",
) -> Int[np.ndarray, " K"]:
    """Return ``each`` randomly drawn episodes from each of ``clusters`` k-means clusters, in ascending order.

    Raises:
        DataError: No draw of k-means gave clusters that large.
    """
    if len(features) < clusters * each:
        raise DataError(
            f"The {owner} holds {len(features)} episodes, but {clusters} clusters of {each} need "
            f"{clusters * each}."
        )
    for _ in range(KMEANS_ATTEMPTS):
        initial = features[rng.choice(len(features), clusters, replace=False)]
        if len(np.unique(initial, axis=0)) < clusters:
            continue  # duplicates chosen: a cluster would be empty from the start
        try:
            _, assigned = kmeans2(features, initial, minit="matrix", missing="raise")
        except ClusterError:  # a cluster lost all its members: draw again
            continue
        members = [np.flatnonzero(assigned == cluster) for cluster in range(clusters)]
        if min(len(group) for group in members) >= each:
            return np.sort(np.concatenate([rng.choice(group, each, replace=False) for group in members]))
    raise DataError(
        f"In {KMEANS_ATTEMPTS} draws k-means never split the {len(features)} episodes of the {owner} into "
        f"{clusters} clusters of at least {each}; take fewer clusters, or more episodes."
    )
