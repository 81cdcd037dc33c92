"""Distances between the episodes of one set, or between those of two sets that share a feature space.

Letters used in shapes: M episodes of the source, N episodes of the target (or of the only set), D numbers
each.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist, pdist, squareform

from robopref.errors import ConfigError, DataError, unknown_name

METRICS = ("euclidean", "sqeuclidean", "cosine", "cityblock")
SCALES = ("max", "mean", "none")

Metric = Literal["euclidean", "sqeuclidean", "cosine", "cityblock"]
Scale = Literal["max", "mean", "none"]


def check_metric(metric: str, scale: str) -> None:
    """Refuse a metric or a scale that does not exist."""
    if metric not in METRICS:
        raise ConfigError(unknown_name("metric", metric, METRICS))
    if scale not in SCALES:
        raise ConfigError(unknown_name("scale", scale, SCALES))


def _rescale(distances: np.ndarray, scale: str) -> np.ndarray:
    if scale == "none":
        return distances
    divisor = distances.max() if scale == "max" else distances.mean()
    return distances / divisor


def _check_vectors(features: np.ndarray, metric: str) -> None:
    if features.ndim != 2:
        raise DataError(f"Features must have shape (episodes, numbers), got {features.shape}.")
    if not np.isfinite(features).all():
        rows = np.flatnonzero(~np.isfinite(features).all(axis=1))
        raise DataError(f"Features are NaN or infinite in rows {rows[:10].tolist()}; all must be finite.")
    if metric == "cosine":
        still = np.flatnonzero(np.linalg.norm(features, axis=1) == 0)
        if still.size:
            raise DataError(
                f"Features are all zero in rows {still[:10].tolist()}, and a zero vector has no cosine; "
                "use metric 'euclidean'."
            )


def pairwise_distances(
    features: Float[np.ndarray, "N D"], *, metric: str = "euclidean", scale: str = "max"
) -> Float[np.ndarray, "N N"]:
    """Return the symmetric distances inside a set, divided by their largest or their mean value.

    The scale changes nothing in plain Gromov-Wasserstein (its objective is const - 2 tr(C1 T C2 T')), but it
    sets the balance in the fused and the entropic problem.

    Raises:
        ConfigError: Unknown metric or scale.
        DataError: Fewer than two rows, values that are not finite, or all rows alike.
    """
    check_metric(metric, scale)
    _check_vectors(features, metric)
    if len(features) < 2:
        raise DataError(f"The set holds {len(features)} episode(s); a comparison needs at least 2.")
    distances = np.maximum(squareform(pdist(features, metric)), 0.0)  # type: ignore[call-overload]
    if not distances.max() > 0:
        raise DataError("All episodes of the set are alike (every distance is 0), so none can be told apart.")
    return _rescale(distances, scale)


def cross_distances(
    source: Float[np.ndarray, "M D"],
    target: Float[np.ndarray, "N D"],
    *,
    metric: str = "euclidean",
    scale: str = "max",
) -> Float[np.ndarray, "M N"]:
    """Return the distances between two sets in one feature space; two sets of one and the same point give 0.

    Raises:
        ConfigError: Unknown metric or scale.
        DataError: Different numbers of columns, or values that are not finite.
    """
    check_metric(metric, scale)
    _check_vectors(source, metric)
    _check_vectors(target, metric)
    if source.shape[1] != target.shape[1]:
        raise DataError(
            f"Source features have {source.shape[1]} numbers per episode, target features {target.shape[1]}; "
            "distances between the sets need the same feature space, such as 'statistics'."
        )
    distances = np.maximum(cdist(source, target, metric), 0.0)  # type: ignore[call-overload]
    return _rescale(distances, scale) if distances.max() > 0 else distances
