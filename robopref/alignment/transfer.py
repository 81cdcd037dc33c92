"""From a coupling and the labels of the source to labels of the target (cross-task preference alignment).

Letters used in shapes: M source episodes, N target episodes, I and J of them that were coupled. A label
matrix Z holds at [i, i'] the chance that episode i is preferred to episode i': 0.5 on the diagonal,
Z + Z' = 1, NaN where nothing is known.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from robopref.errors import DataError


def check_label_matrix(labels: np.ndarray, name: str, *, informative: bool = True) -> None:
    """Refuse what is not a label matrix, or (if ``informative``) one that prefers no episode to any other.

    Raises:
        DataError: Not square, outside [0, 1], one half known without the other, Z + Z' not 1, no label at all
            or nothing but ties.
    """
    if labels.ndim != 2 or labels.shape[0] != labels.shape[1]:
        raise DataError(f"The labels of {name} must be a square matrix, got shape {labels.shape}.")
    known = ~np.isnan(labels)
    if np.isinf(labels).any() or (labels[known] < 0).any() or (labels[known] > 1).any():
        raise DataError(f"The labels of {name} must lie in [0, 1] or be NaN where unknown.")
    if (known != known.T).any() or not np.allclose((labels + labels.T)[known], 1.0, atol=1e-5):
        raise DataError(
            f"The labels of {name} must say the opposite when a pair is turned round: "
            "Z[i, j] + Z[j, i] = 1, or both NaN, and 0.5 on the diagonal."
        )
    if not informative:
        return
    pairs = labels[~np.isnan(labels) & ~np.eye(len(labels), dtype=bool)]
    if pairs.size == 0:
        raise DataError(f"The labels of {name} hold no labelled pair; at least one is needed.")
    if (pairs == 0.5).all():
        raise DataError(
            f"All {pairs.size // 2} labelled pairs of {name} are ties, so no episode is better than another; "
            "at least one preference is needed."
        )


def plan_over_all(
    plan: Float[np.ndarray, "I J"],
    rows: Int[np.ndarray, " I"],
    columns: Int[np.ndarray, " J"],
    shape: tuple[int, int],
) -> Float[np.ndarray, "M N"]:
    """Return the plan with a row and a column for every episode, zero for those that were left out."""
    whole = np.zeros(shape)
    whole[np.ix_(rows, columns)] = plan
    return whole


def transfer_labels(
    plan: Float[np.ndarray, "M N"], source_labels: Float[np.ndarray, "M M"]
) -> Float[np.ndarray, "N N"]:
    """Carry the source's labels over to the target: ``P = T / T.sum(0)``, ``Z = P' Zs P``.

    Liu et al. (2023, PEARL) weigh each source label by T[i,j] T[i',j'], which leaves the label of a certain
    pair at 1 / N^2; dividing by the masses of the two columns makes it a mean, so that identical sets give
    back the source's labels. Only known source pairs enter the mean; a pair of an episode with itself is
    known to be a tie, so target episodes that share one source episode tie. NaN remains where no known pair
    has mass, and in columns without mass.

    Raises:
        DataError: Shapes that do not fit, a plan that is negative or not finite, or an invalid label matrix.
    """
    check_label_matrix(source_labels, "the source", informative=False)
    if plan.ndim != 2 or plan.shape[0] != len(source_labels):
        raise DataError(
            f"The plan must have one row for each of the {len(source_labels)} labelled source episodes, "
            f"got shape {plan.shape}."
        )
    if not np.isfinite(plan).all() or plan.min() < 0 or not plan.sum() > 0:
        raise DataError("The plan must be finite, not negative, and not all zero.")
    masses = plan.sum(axis=0)
    shares = plan / np.where(masses > 0, masses, 1.0)
    margins = source_labels.astype(np.float64) - 0.5
    np.fill_diagonal(margins, 0.0)
    known = ~np.isnan(margins)
    total = shares.T @ np.where(known, margins, 0.0) @ shares
    weight = shares.T @ known.astype(np.float64) @ shares
    total, weight = (total - total.T) / 2, (weight + weight.T) / 2
    reached = weight > 1e-12
    return labels_from_margins(np.where(reached, total / np.where(reached, weight, 1.0), np.nan))


def mean_labels(
    plan: Float[np.ndarray, "M N"], source_labels: Float[np.ndarray, "M M"]
) -> Float[np.ndarray, " N"]:
    """Return the mean label of the source episodes that each target episode is matched with, by their mass.

    With complete labels and equal weights it is the mean of the row of :func:`transfer_labels`, for M N
    operations. Source episodes without a label are left out; NaN where no other has mass.
    """
    labels = source_labels.astype(np.float64)
    np.fill_diagonal(labels, 0.5)
    known = np.count_nonzero(~np.isnan(labels), axis=1) > 1  # more than that it ties with itself
    kept, scores = plan[known], np.nanmean(labels[known], axis=1)
    masses = kept.sum(axis=0)
    return np.where(masses > 0, scores @ kept / np.where(masses > 0, masses, 1.0), np.nan)


def labels_from_margins(margins: Float[np.ndarray, "N N"]) -> Float[np.ndarray, "N N"]:
    """Turn antisymmetric margins in [-0.5, 0.5] into labels with Z + Z' = 1 exactly, to the last bit."""
    above = np.minimum(0.5 + np.abs(margins), 1.0)
    labels = np.where(margins >= 0, above, 1.0 - above)  # 1 - x is exact for x in [0.5, 1]
    np.fill_diagonal(labels, 0.5)
    return labels


def vote(matrices: Sequence[Float[np.ndarray, "N N"]]) -> Float[np.ndarray, "N N"]:
    """Return the mean label of each pair over the matrices that know it, each with the same weight.

    Raises:
        DataError: No matrix, or matrices of different shapes.
    """
    if not matrices:
        raise DataError("There is no label matrix to average.")
    if len({matrix.shape for matrix in matrices}) > 1:
        raise DataError(f"Label matrices must have one shape, got {[matrix.shape for matrix in matrices]}.")
    margins = np.stack(matrices) - 0.5
    known = ~np.isnan(margins)
    count = known.sum(axis=0)
    mean = np.where(known, margins, 0.0).sum(axis=0) / np.maximum(count, 1)
    return labels_from_margins(np.where(count > 0, (mean - mean.T) / 2, np.nan))


def confidence(labels: Float[np.ndarray, "N N"]) -> Float[np.ndarray, "N N"]:
    """Return ``|2 z - 1|``: 0 for a tie or an unknown pair, 1 where all votes agree.

    One coupling of equal sets is a matching, and its confidence is 1 for every pair: only a vote of several
    couplings says anything here, and not even that when all of them share one mistake.
    """
    return np.where(np.isnan(labels), 0.0, np.abs(2 * labels - 1))


def labels_from_scores(scores: Float[np.ndarray, " N"]) -> Float[np.ndarray, "N N"]:
    """Return the labels of a ranking: 1 where the row's score is higher, 0.5 where they are equal."""
    return labels_from_margins(np.sign(scores[:, None] - scores[None]) / 2)
