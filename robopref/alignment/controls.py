"""Controls: labels of the target from rules that use less than a transfer does.

A transfer says something only where it beats all four. ``shuffled`` gives the source's labels to the wrong
source episodes (chance); ``wasserstein`` matches episodes by shared statistics, without Gromov-Wasserstein;
``medoid`` and ``hand_object`` use no source at all: the most central episode is best, or the one whose hand
stays nearest the object (Meta-World's shaped reward pays for reaching, so this one is hard to beat there).

Letters used in shapes: M source episodes, N target episodes.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from robopref.alignment.distances import cross_distances
from robopref.alignment.features import hand_object_distance
from robopref.alignment.gromov import wasserstein
from robopref.alignment.transfer import labels_from_scores, transfer_labels, vote
from robopref.data.trajectory import SegmentBatch
from robopref.errors import DataError


def shuffled_labels(
    plans: Sequence[Float[np.ndarray, "_ N"]],
    source_labels: Sequence[Float[np.ndarray, "_ _"]],
    rng: np.random.Generator,
) -> Float[np.ndarray, "N N"]:
    """Carry each source's labels over the same plans after giving them to randomly chosen source episodes."""
    matrices = []
    for plan, labels in zip(plans, source_labels, strict=True):
        order = rng.permutation(len(labels))
        matrices.append(transfer_labels(plan, labels[np.ix_(order, order)]))
    return vote(matrices)


def wasserstein_plan(
    source: Float[np.ndarray, "M D"],
    target: Float[np.ndarray, "N D"],
    source_weights: Float[np.ndarray, " M"] | None = None,
    target_weights: Float[np.ndarray, " N"] | None = None,
) -> Float[np.ndarray, "M N"]:
    """Match episodes by a feature that means the same in both tasks, each set standardised by itself."""
    return wasserstein(cross_distances(source, target), source_weights, target_weights)


def medoid_labels(distances: Float[np.ndarray, "N N"]) -> Float[np.ndarray, "N N"]:
    """Prefer the episode nearer the medoid, the episode with the least total distance to all others."""
    medoid = int(np.argmin(distances.sum(axis=1)))
    return labels_from_scores(-distances[medoid])


def hand_object_labels(target: SegmentBatch) -> Float[np.ndarray, "N N"]:
    """Prefer the episode with the smaller mean distance between hand and object.

    Raises:
        DataError: The keypoints ``hand`` and ``object`` are missing or not finite.
    """
    distance = hand_object_distance(target)
    if not np.isfinite(distance).all():
        bad = np.flatnonzero(~np.isfinite(distance))
        raise DataError(f"The hand-object distance is NaN or infinite in episodes {bad[:10].tolist()}.")
    return labels_from_scores(-distance)
