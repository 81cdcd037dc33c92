"""Gromov-Wasserstein between large sets: couple landmarks, then the points around coupled landmarks.

Quantised Gromov-Wasserstein (Chowdhury, Miller and Needham 2021, arXiv 2104.02013): each set is divided into
blocks around landmarks, the landmarks with the blocks' masses are coupled, and the mass between two blocks
is spread over their points. There the spreading matches distances to the two landmarks; here it is the
cheapest for the whole objective made linear at the landmarks' plan, one transport problem over all pairs of
coupled blocks, which holds for the fused problem, too. Two sets of N points and K landmarks so need a
problem of K x K and one of some 2 N^2 / K entries, in place of a sequence of N x N.

Letters used in shapes: M points of the source, N points of the target, K and L landmarks.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from robopref.alignment.gromov import (
    Coupling,
    checked_problem,
    coupling_cost,
    gromov_wasserstein,
)
from robopref.alignment.transport import TransportProblem, cheapest
from robopref.errors import ConfigError

SWEEPS = 5
"""Rounds of k-medoids after the first choice of landmarks."""


def quantised_gromov_wasserstein(
    source_distances: Float[np.ndarray, "M M"],
    target_distances: Float[np.ndarray, "N N"],
    *,
    landmarks: int,
    rng: np.random.Generator,
    source_weights: Float[np.ndarray, " M"] | None = None,
    target_weights: Float[np.ndarray, " N"] | None = None,
    fused_cost: Float[np.ndarray, "M N"] | None = None,
    alpha: float = 1.0,
    **options: Any,
) -> Coupling:
    """Return a coupling found by way of at most ``landmarks`` points of each set; its cost is the full one.

    Args:
        source_distances: As for :func:`~.gromov.gromov_wasserstein`, which couples the landmarks with the
            other ``options``.
        target_distances: Likewise.
        landmarks: Most landmarks of a set; a set that has no more points is taken whole.
        rng: Chooses the first landmarks.
        source_weights: Row sums of the plan, normalised to one; uniform by default.
        target_weights: Column sums of the plan, normalised to one; uniform by default.
        fused_cost: Cost M of matching a source point with a target point; needed when ``alpha`` < 1.
        alpha: Share of Gromov-Wasserstein in the objective, in (0, 1].

    Raises:
        ConfigError, DataError, DivergedError: As :func:`~.gromov.gromov_wasserstein`; also for ``alpha`` = 0
            (plain Wasserstein needs no landmarks) and fewer than two landmarks.
    """
    if not 0 < alpha <= 1:
        raise ConfigError(f"alpha must lie in (0, 1] for a coupling by way of landmarks, got {alpha}.")
    if landmarks < 2:
        raise ConfigError(f"landmarks must be 2 or more, got {landmarks}.")
    first, second, p, q, checked = checked_problem(
        source_distances, target_distances, source_weights, target_weights, fused_cost, alpha
    )
    between = checked if alpha < 1 else None
    rows = choose_blocks(first, p, landmarks, rng)
    columns = choose_blocks(second, q, landmarks, rng)
    coarse = gromov_wasserstein(
        first[np.ix_(rows.points, rows.points)],
        second[np.ix_(columns.points, columns.points)],
        source_weights=rows.masses(p),
        target_weights=columns.masses(q),
        fused_cost=None if between is None else between[np.ix_(rows.points, columns.points)],
        alpha=alpha,
        **options,
    )
    product = first[:, rows.points] @ coarse.plan @ second[columns.points]
    gradient = TransportProblem(first, second, p, q, alpha, between).gradient(product)
    listed = (coarse.plan > 0)[np.ix_(rows.of, columns.of)]
    plan, _ = cheapest(gradient, p, q, listed=listed)
    return Coupling(plan, coupling_cost(plan, first, second, alpha, between))


@dataclass(frozen=True, eq=False)
class Blocks:
    """A set divided into blocks: the landmark of each block, and the number of each point's block."""

    points: Int[np.ndarray, " K"]
    of: Int[np.ndarray, " N"]

    def masses(self, weights: Float[np.ndarray, " N"]) -> Float[np.ndarray, " K"]:
        """Return the mass of each block."""
        return np.bincount(self.of, weights, minlength=len(self.points))


def choose_blocks(
    distances: Float[np.ndarray, "N N"],
    weights: Float[np.ndarray, " N"],
    count: int,
    rng: np.random.Generator,
) -> Blocks:
    """Divide a set by k-medoids, begun as k-means++ does (Arthur and Vassilvitskii 2007)."""
    if len(distances) <= count:
        return Blocks(np.arange(len(distances)), np.arange(len(distances)))
    points = [int(rng.choice(len(weights), p=weights))]
    nearest = distances[points[0]]
    while len(points) < count and (chances := weights * nearest**2).any():
        points.append(int(rng.choice(len(weights), p=chances / chances.sum())))
        nearest = np.minimum(nearest, distances[points[-1]])
    blocks = _around(np.array(points), distances)
    for _ in range(SWEEPS):
        members = [np.flatnonzero(blocks.of == block) for block in range(len(points))]
        inner = [weights[own] @ distances[np.ix_(own, own)] for own in members]
        medoids = np.array([own[total.argmin()] for own, total in zip(members, inner, strict=True)])
        if np.array_equal(medoids, blocks.points):
            break
        blocks = _around(medoids, distances)
    return blocks


def _around(landmarks: Int[np.ndarray, " K"], distances: Float[np.ndarray, "N N"]) -> Blocks:
    nearest = distances[:, landmarks].argmin(axis=1)
    nearest[landmarks] = np.arange(len(landmarks))  # duplicates of a landmark do not empty its block
    return Blocks(landmarks, nearest)
