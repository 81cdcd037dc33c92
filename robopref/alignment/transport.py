"""Gromov-Wasserstein between sets of any sizes and weights, as a sequence of transport problems.

Frank-Wolfe on the objective of :mod:`~.assignment`, whose gradient at a plan T is (1 - alpha) M - 4 alpha
S(T) with S(T) = C1 T C2. Each step goes to a corner of the polytope of plans, or to the lowest point before
it, as the objective is a parabola along the way. Where it is concave (Euclidean distances: Maron and Lipman
2018) every step is whole, and every plan after the start is a corner.

Three things make it cheaper than the same iteration with a general solver: from the product plan the first
corner is found by sorting, as the gradient is an outer product; S of the next plan is a mixture of two that
are known; and the network simplex starts from the potentials of the step before.

Letters used in shapes: M points of the source, N points of the target.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from robopref.errors import DivergedError

EMD_ITERATIONS = 10_000_000
"""Most pivots of the network simplex; POT's default of 100,000 is too few for a thousand points."""

Potentials = tuple[Float[np.ndarray, " M"], Float[np.ndarray, " N"]]


@dataclass(frozen=True)
class TransportProblem:
    """Two sets with weights, their distances, and the cost between them where alpha < 1.

    Attributes:
        first: Symmetric distances between source points.
        second: Symmetric distances between target points.
        p: Row sums of the plan.
        q: Column sums of the plan.
        alpha: Share of Gromov-Wasserstein in the objective, above 0.
        between: Cost of matching a source point with a target point; None for none, with ``alpha`` 1.
    """

    first: Float[np.ndarray, "M M"]
    second: Float[np.ndarray, "N N"]
    p: Float[np.ndarray, " M"]
    q: Float[np.ndarray, " N"]
    alpha: float = 1.0
    between: Float[np.ndarray, "M N"] | None = None

    def solve(
        self,
        start: Float[np.ndarray, "M N"] | None = None,
        *,
        max_iterations: int = 1000,
        tolerance: float = 1e-9,
    ) -> Float[np.ndarray, "M N"]:
        """Return the plan at which Frank-Wolfe ends.

        Args:
            start: Plan with these marginals to start from; None for the product plan.
            max_iterations: Most transport problems.
            tolerance: Change of the objective, relative to its scale, at which to stop.
        """
        least = tolerance * self._scale()
        by_rank = start is None and self.between is None
        plan = np.outer(self.p, self.q) if start is None else start
        product = self._product(plan)
        potentials = None
        for _ in range(max_iterations):
            gradient = self.gradient(product)
            if by_rank:
                corner = sorted_plan(self.first @ self.p, self.second @ self.q, self.p, self.q)
                by_rank = False
            else:
                corner, potentials = cheapest(gradient, self.p, self.q, potentials)
            ahead, way = self._product(corner), corner - plan
            slope = float((gradient * way).sum())
            curvature = -2 * self.alpha * float(((ahead - product) * way).sum())
            if slope > -least:
                return plan
            step = 1.0 if slope + 2 * curvature <= 0 else -slope / (2 * curvature)
            if slope * step + curvature * step**2 > -least:
                return plan
            plan = corner if step == 1 else plan + step * way
            product = ahead if step == 1 else product + step * (ahead - product)
        return plan

    def _product(self, plan: np.ndarray) -> np.ndarray:
        return self.first @ plan @ self.second

    def gradient(self, product: Float[np.ndarray, "M N"]) -> Float[np.ndarray, "M N"]:
        """Return the gradient of the objective at a plan T, given C1 T C2."""
        gradient = -4 * self.alpha * product
        return gradient if self.between is None else gradient + (1 - self.alpha) * self.between

    def _scale(self) -> float:
        between = 0.0 if self.between is None else float(self.p @ np.abs(self.between) @ self.q)
        mean = float(self.p @ self.first @ self.p) * float(self.q @ self.second @ self.q)
        return self.alpha * mean + (1 - self.alpha) * between or 1.0


def cheapest(
    cost: Float[np.ndarray, "M N"],
    p: Float[np.ndarray, " M"],
    q: Float[np.ndarray, " N"],
    potentials: Potentials | None = None,
    *,
    listed: Bool[np.ndarray, "M N"] | None = None,
) -> tuple[Float[np.ndarray, "M N"], Potentials]:
    """Solve one transport problem by POT's network simplex.

    Args:
        cost: Of a unit of mass from each row to each column.
        p: Row sums of the plan.
        q: Column sums of the plan.
        potentials: Of a similar problem; they save pivots.
        listed: Where the plan may have entries; everywhere by default.

    Raises:
        DivergedError: The simplex did not end.
    """
    import ot

    least = float(cost.min())  # POT's artificial arcs need costs that are not negative
    if potentials is not None:
        potentials = (potentials[0] - least, potentials[1])
    options: dict[str, Any] = {"log": True, "center_dual": False, "check_marginals": False}
    if listed is None:
        plan, log = ot.emd(p, q, cost - least, EMD_ITERATIONS, potentials_init=potentials, **options)
    else:
        from scipy.sparse import coo_matrix  # here: it is slow to import

        rows, columns = np.nonzero(listed)
        entries = coo_matrix((cost[rows, columns] - least, (rows, columns)), shape=cost.shape)
        found, log = ot.emd(p, q, entries, EMD_ITERATIONS, **options)
        plan = found.toarray()
    if log["warning"] is not None:
        raise DivergedError(f"A transport problem of {cost.shape} was not solved: {log['warning']}")
    return plan, (log["u"] + least, log["v"])


def sorted_plan(
    a: Float[np.ndarray, " M"] | Int[np.ndarray, " M"],
    b: Float[np.ndarray, " N"] | Int[np.ndarray, " N"],
    p: Float[np.ndarray, " M"],
    q: Float[np.ndarray, " N"],
) -> Float[np.ndarray, "M N"]:
    """Return the plan that matches low ``a`` with low ``b``: the cheapest one for the cost -a b'."""
    rows, columns = np.argsort(a, kind="stable"), np.argsort(b, kind="stable")
    corner = np.zeros((len(p), len(q)))
    ends = [np.cumsum(p[rows])[:-1], np.cumsum(q[columns])[:-1]]
    edges = np.unique(np.concatenate([[0.0], *ends, [1.0]]).clip(0, 1))
    middles = (edges[1:] + edges[:-1]) / 2
    i, j = (np.searchsorted(end, middles) for end in ends)
    np.add.at(corner, (rows[i], columns[j]), np.diff(edges))
    return corner
