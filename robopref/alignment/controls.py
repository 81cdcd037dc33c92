"""Controls: labels of the target from rules that use less than a transfer does.

A transfer says something only where it beats all four. ``shuffled`` gives the source's labels to the wrong
source episodes (chance); ``wasserstein`` matches episodes by shared statistics, without Gromov-Wasserstein;
``medoid`` and ``hand_object`` use no source at all: the most central episode is best, or the one whose hand
stays nearest the object (Meta-World's shaped reward pays for reaching, so this one is hard to beat there).

Letters used in shapes: M source episodes, N target episodes.
"""

import logging
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from robopref.alignment.distances import cross_distances
from robopref.alignment.features import compute_features, hand_object_distance
from robopref.alignment.gromov import wasserstein
from robopref.alignment.sets import LabelledSet
from robopref.alignment.transfer import labels_from_scores, plan_over_all, transfer_labels, vote
from robopref.data.trajectory import SegmentBatch
from robopref.errors import DataError

log = logging.getLogger(__name__)


def all_controls(
    plans: Sequence[tuple[LabelledSet, Float[np.ndarray, "_ N"]]],
    chosen: Sequence[tuple[LabelledSet, Int[np.ndarray, " _"], Int[np.ndarray, " _"]]],
    target: SegmentBatch,
    *,
    weights: Float[np.ndarray, " N"],
    distances: Callable[[], Float[np.ndarray, "N N"]],
    rng: np.random.Generator,
) -> tuple[dict[str, Float[np.ndarray, "N N"]], dict[str, str]]:
    """Return each control's labels, and why a control is missing where the data do not allow it.

    Args:
        plans: Over all episodes, each with its source: what ``shuffled`` carries wrong labels over.
        chosen: Which episodes of a source and of the target were coupled: ``wasserstein`` matches the same.
        target: Whole episodes.
        weights: Mass of each target episode.
        distances: Between the target's episodes, where ``medoid`` asks for them.
        rng: Draws the wrong source episodes.
    """
    rules: dict[str, Callable[[], np.ndarray]] = {
        "shuffled": lambda: shuffled_labels(
            [plan for _, plan in plans], [source.labels for source, _ in plans], rng
        ),
        "wasserstein": lambda: wasserstein_labels(chosen, target, weights),
        "medoid": lambda: medoid_labels(distances()),
        "hand_object": lambda: hand_object_labels(target),
    }
    controls, left_out = {}, {}
    for name, rule in rules.items():
        try:
            controls[name] = rule()
        except DataError as error:
            left_out[name] = str(error)
            log.warning("The control '%s' was left out: %s", name, error)
    return controls, left_out


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


def wasserstein_labels(
    chosen: Sequence[tuple[LabelledSet, Int[np.ndarray, " _"], Int[np.ndarray, " _"]]],
    target: SegmentBatch,
    weights: Float[np.ndarray, " N"],
) -> Float[np.ndarray, "N N"]:
    """Carry labels over plain Wasserstein plans between the episodes that were coupled, as they were chosen.

    Statistics mean the same in both tasks; each set is standardised by itself.
    """
    segments = {source.name: source.segments for source, _, _ in chosen}
    second = compute_features("statistics", target)
    first = {name: compute_features("statistics", each) for name, each in segments.items()}
    matrices = []
    for source, rows, columns in chosen:
        costs = cross_distances(first[source.name][rows], second[columns])
        p = None if source.weights is None else source.weights[rows]
        plan = wasserstein(costs, p, weights[columns])
        plan = plan_over_all(plan, rows, columns, (len(source.segments), len(target)))
        matrices.append(transfer_labels(plan, source.labels))
    return vote(matrices)


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
