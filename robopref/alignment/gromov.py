"""Gromov-Wasserstein: couple two sets so that pairs near in one are matched with pairs near in the other.

    GW(T) = sum_{i,i',j,j'} (C1[i,i'] - C2[j,j'])^2 T[i,j] T[i',j']       (Memoli 2011; Peyre et al. 2016)

over plans T >= 0 with row sums p and column sums q. The fused problem (Vayer et al. 2019) adds a cost M
between points that share a feature space: (1 - alpha) <M, T> + alpha GW(T). alpha = 0 is plain Wasserstein.

The problem is not convex (with Euclidean distances it is concave), so what is found depends on the start.
Unless told otherwise, conditional gradient starts once from the product plan and once from the matching of
distance profiles, and the cheaper end is kept. The second start returns an exact isometry where there is one
with distinct profiles; the first alone often misses it.

Between sets of equal size and weight each step is an assignment (:mod:`~.assignment`). Elsewhere it is a
transport problem (:mod:`~.transport`), which takes longer: there the first start stands alone, unless it
does not leave the product plan. POT, imported on first use since it imports torch, solves the transport
problems and the entropic problem.

Letters used in shapes: M points of the source, N points of the target.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from robopref.alignment.assignment import AssignmentProblem
from robopref.alignment.transport import TransportProblem, cheapest, sorted_plan
from robopref.errors import ConfigError, DataError, DivergedError

MARGINAL_TOLERANCE = 1e-3
"""Largest relative error in a marginal that an entropic plan may end with."""


@dataclass(frozen=True)
class Coupling:
    """A plan ``(M, N)`` whose entries sum to one, and its cost in the (fused) objective, without entropy."""

    plan: Float[np.ndarray, "M N"]
    cost: float


def gromov_wasserstein(
    source_distances: Float[np.ndarray, "M M"],
    target_distances: Float[np.ndarray, "N N"],
    *,
    source_weights: Float[np.ndarray, " M"] | None = None,
    target_weights: Float[np.ndarray, " N"] | None = None,
    fused_cost: Float[np.ndarray, "M N"] | None = None,
    alpha: float = 1.0,
    start: Float[np.ndarray, "M N"] | None = None,
    epsilon: float = 0.0,
    max_iterations: int = 1000,
    tolerance: float = 1e-9,
) -> Coupling:
    """Return the best coupling found from ``start``, or from the two standard starts.

    Args:
        source_distances: Symmetric distances between source points.
        target_distances: Symmetric distances between target points.
        source_weights: Row sums of the plan, normalised to one; uniform by default.
        target_weights: Column sums of the plan, normalised to one; uniform by default.
        fused_cost: Cost M of matching a source point with a target point; needed when ``alpha`` < 1.
        alpha: Share of Gromov-Wasserstein in the objective, in [0, 1].
        start: Plan with these marginals to start from.
        epsilon: Weight of entropy, in units of the objective; 0 solves by conditional gradient, above 0 by
            entropic projected gradient (slow when small beside the squared distances).
        max_iterations: Most outer iterations.
        tolerance: Relative and absolute change of the objective at which to stop.

    Raises:
        ConfigError: An option out of range, or a fused problem without its cost.
        DataError: Wrong shapes, values that are not finite, asymmetric distances, impossible weights or
            start.
        DivergedError: The entropic iteration did not reach the marginals.
    """
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise ConfigError(f"epsilon must be 0 or above, got {epsilon}.")
    first, second, p, q, between = checked_problem(
        source_distances, target_distances, source_weights, target_weights, fused_cost, alpha
    )
    if alpha == 0:
        plan = wasserstein(between, p, q, epsilon=epsilon)
        return Coupling(plan, float((plan * between).sum()))

    problem = _Problem(first, second, p, q, between, alpha, epsilon, max_iterations, tolerance)
    if start is not None:
        return problem.solve(checked_plan(start, p, q))
    end = problem.solve(None)
    stuck = np.allclose(end.plan, np.outer(p, q), rtol=1e-9, atol=0)
    if not (problem.equal or epsilon > 0 or stuck):
        return end
    profile = alpha * profile_cost(first, second, p, q) + (1 - alpha) * between
    other = wasserstein(profile, p, q)
    return min(end, problem.solve(other), key=lambda end: end.cost)


@dataclass(frozen=True)
class _Problem:
    """One problem with checked inputs: C1, C2, p, q, M and alpha, and how to solve it."""

    first: np.ndarray
    second: np.ndarray
    p: np.ndarray
    q: np.ndarray
    between: np.ndarray
    alpha: float
    epsilon: float
    max_iterations: int
    tolerance: float

    def cost(self, plan: np.ndarray) -> float:
        between = self.between if self.alpha < 1 else None
        return coupling_cost(plan, self.first, self.second, self.alpha, between)

    def solve(self, begin: np.ndarray | None) -> Coupling:
        """Return the end of one run from a plan, or from the product plan."""
        if self.epsilon > 0:
            plan = self._entropic(np.outer(self.p, self.q) if begin is None else begin)
            return Coupling(plan, self.cost(plan))
        plan = _without_dust(self._conditional(begin), self.p, self.q)
        if not self.equal:
            return Coupling(plan, self.cost(plan))
        start = np.outer(self.p, self.q) if begin is None else begin
        before, after = self.cost(start), self.cost(plan)
        if before <= after:  # a step along a tie, or rounding: stay
            return Coupling(start, before)
        return Coupling(plan, after)

    def _conditional(self, begin: np.ndarray | None) -> np.ndarray:
        between = self.between if self.alpha < 1 else None
        limits: dict[str, Any] = {"max_iterations": self.max_iterations, "tolerance": self.tolerance}
        if self.equal:
            match = AssignmentProblem(self.first, self.second, self.alpha, between).solve(begin, **limits)
            if match is not None:
                plan = np.zeros((len(match), len(match)))
                plan[np.arange(len(match)), match] = 1 / len(match)
                return plan
        problem = TransportProblem(self.first, self.second, self.p, self.q, self.alpha, between)
        return problem.solve(begin, **limits)

    @property
    def equal(self) -> bool:
        """Whether both sets have the same size, and all points the same weight."""
        weights = np.concatenate([self.p, self.q])
        return len(self.p) == len(self.q) and bool(np.ptp(weights) <= 1e-12 * weights.max())

    def _entropic(self, begin: np.ndarray) -> np.ndarray:
        import ot

        common: dict[str, Any] = {
            "symmetric": True,
            "G0": begin,
            "epsilon": self.epsilon,
            "max_iter": self.max_iterations,
            "tol": self.tolerance,
        }
        if self.alpha == 1:
            plan: Any = ot.gromov.entropic_gromov_wasserstein(
                self.first, self.second, self.p, self.q, **common
            )
        else:
            plan = ot.gromov.entropic_fused_gromov_wasserstein(
                self.between, self.first, self.second, self.p, self.q, alpha=self.alpha, **common
            )
        _check_marginals(plan, self.p, self.q, self.epsilon)
        return plan


def coupling_cost(
    plan: Float[np.ndarray, "M N"],
    first: Float[np.ndarray, "M M"],
    second: Float[np.ndarray, "N N"],
    alpha: float = 1.0,
    between: Float[np.ndarray, "M N"] | None = None,
) -> float:
    """Return (1 - alpha) <M, T> + alpha GW(T), the square expanded (Peyre et al. 2016, Proposition 1)."""
    rows, columns = plan.sum(axis=1), plan.sum(axis=0)
    own = rows @ first**2 @ rows + columns @ second**2 @ columns
    crossed = (plan * (first @ plan @ second)).sum()
    linear = 0.0 if between is None else float((plan * between).sum())
    return (1 - alpha) * linear + alpha * max(float(own - 2 * crossed), 0.0)


def wasserstein(
    cost: Float[np.ndarray, "M N"],
    source_weights: Float[np.ndarray, " M"] | None = None,
    target_weights: Float[np.ndarray, " N"] | None = None,
    *,
    epsilon: float = 0.0,
) -> Float[np.ndarray, "M N"]:
    """Return the plan of least total ``cost`` with these marginals (uniform by default).

    Raises:
        DataError: Costs that are not finite, or impossible weights.
        DivergedError: The entropic iteration (``epsilon`` > 0) did not reach the marginals.
    """
    cost = checked_matrix(cost, cost.shape, "cost")
    p = checked_weights(source_weights, cost.shape[0], "source")
    q = checked_weights(target_weights, cost.shape[1], "target")
    if epsilon == 0:
        return _without_dust(cheapest(cost, p, q)[0], p, q)
    import ot

    plan: Any = ot.sinkhorn(p, q, cost, reg=epsilon, method="sinkhorn_log", numItermax=10_000)
    _check_marginals(plan, p, q, epsilon)
    return plan


def profile_cost(
    source_distances: Float[np.ndarray, "M M"],
    target_distances: Float[np.ndarray, "N N"],
    source_weights: Float[np.ndarray, " M"],
    target_weights: Float[np.ndarray, " N"],
) -> Float[np.ndarray, "M N"]:
    """Return how much the distances seen from a source point differ from those seen from a target point.

    It is the squared 2-Wasserstein distance between the two points' distributions of distances (Memoli 2011,
    section 6: the local distribution of distances), read at equally spaced quantiles, with each set's
    distances divided by their mean.
    """
    count = max(len(source_distances), len(target_distances))
    shares = (np.arange(count) + 0.5) / count

    def profiles(distances: np.ndarray, weights: np.ndarray) -> np.ndarray:
        order = np.argsort(distances, axis=1, kind="stable")
        ordered = np.take_along_axis(distances, order, axis=1)
        reached = np.cumsum(weights[order], axis=1)
        if np.ptp(weights) == 0:  # then all rows are reached alike
            reached = reached[:1]
        index = np.stack([np.searchsorted(row, shares - 1e-12) for row in reached]).clip(max=len(weights) - 1)
        index = np.broadcast_to(index, (len(distances), count))
        return np.take_along_axis(ordered, index, axis=1) / (float(weights @ distances @ weights) or 1.0)

    a, b = profiles(source_distances, source_weights), profiles(target_distances, target_weights)
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2 * a @ b.T
    return np.maximum(squares, 0.0) / count


def random_plan(
    rng: np.random.Generator,
    source_weights: Float[np.ndarray, " M"],
    target_weights: Float[np.ndarray, " N"],
    *,
    spread: float = 0.5,
) -> Float[np.ndarray, "M N"]:
    """Return a random plan with these marginals: a corner of the polytope, moved ``spread`` to its middle.

    The corner matches points in one random order with points in another (:func:`~.transport.sorted_plan`).
    """
    a, b = (np.argsort(rng.permutation(len(weights))) for weights in (source_weights, target_weights))
    corner = sorted_plan(a, b, source_weights, target_weights)
    return (1 - spread) * corner + spread * np.outer(source_weights, target_weights)


def checked_problem(
    source_distances: Float[np.ndarray, "M M"],
    target_distances: Float[np.ndarray, "N N"],
    source_weights: Float[np.ndarray, " M"] | None,
    target_weights: Float[np.ndarray, " N"] | None,
    fused_cost: Float[np.ndarray, "M N"] | None,
    alpha: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return C1, C2, p, q and M (zeros where ``alpha`` is 1) of a problem whose inputs make sense.

    Raises:
        ConfigError: ``alpha`` out of range, or below 1 without a cost between the sets.
        DataError: Wrong shapes, values that are not finite, asymmetric distances, or impossible weights.
    """
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha must lie in [0, 1], got {alpha}.")
    if alpha < 1 and fused_cost is None:
        raise ConfigError(f"alpha = {alpha} needs fused_cost, the cost between source and target points.")
    first = checked_distances(source_distances, "source")
    second = checked_distances(target_distances, "target")
    p = checked_weights(source_weights, len(first), "source")
    q = checked_weights(target_weights, len(second), "target")
    between = np.zeros((len(first), len(second)))
    if fused_cost is not None and alpha < 1:
        between = checked_matrix(fused_cost, between.shape, "fused_cost")
    return first, second, p, q, between


def checked_weights(weights: np.ndarray | None, count: int, owner: str) -> Float[np.ndarray, " N"]:
    """Return the weights divided by their sum, uniform ones for None.

    Raises:
        DataError: No points, wrong shape, not finite, negative, or all zero.
    """
    if not count:
        raise DataError(f"The {owner} holds 0 episodes; a comparison needs at least 2.")
    if weights is None:
        return np.full(count, 1.0 / count)
    if weights.shape != (count,):
        raise DataError(f"The {owner} weights must have shape ({count},), got {weights.shape}.")
    if not np.isfinite(weights).all() or weights.min() < 0 or not weights.sum() > 0:
        raise DataError(f"The {owner} weights must be finite, not negative, and not all zero.")
    return weights.astype(np.float64) / weights.sum()


def checked_matrix(values: np.ndarray, shape: tuple[int, ...], name: str) -> Float[np.ndarray, "_ _"]:
    """Return the values as float64.

    Raises:
        DataError: Another shape, or numbers that are not finite.
    """
    if values.shape != shape or len(shape) != 2:
        raise DataError(f"{name} must have shape {shape}, got {values.shape}.")
    if not np.isfinite(values).all():
        raise DataError(f"{name} holds {int((~np.isfinite(values)).sum())} numbers that are NaN or infinite.")
    return values.astype(np.float64)


def checked_distances(distances: np.ndarray, name: str) -> Float[np.ndarray, "N N"]:
    """Return the distances within a set as float64, symmetric to the last bit.

    Raises:
        DataError: No square matrix, fewer than two points, numbers that are not finite, not symmetric or
            negative.
    """
    if distances.ndim != 2 or distances.shape[0] != distances.shape[1]:
        raise DataError(f"The {name} distances must be a square matrix, got shape {distances.shape}.")
    if len(distances) < 2:
        raise DataError(f"The {name} set holds {len(distances)} point(s); a comparison needs at least 2.")
    checked = checked_matrix(distances, distances.shape, f"The matrix of {name} distances")
    even = np.array_equal(checked, checked.T)  # mostly; the other check takes ten times as long
    if checked.min() < 0 or not (even or np.allclose(checked, checked.T, rtol=1e-6, atol=1e-9)):
        raise DataError(f"The {name} distances must be symmetric and not negative.")
    return checked if even else (checked + checked.T) / 2


def _without_dust(plan: np.ndarray, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Drop entries that are only rounding, so that a matching of equal points is one exactly."""
    return np.where(plan > 1e-9 * np.minimum(p[:, None], q[None]), plan, 0.0)


def checked_plan(plan: np.ndarray, p: np.ndarray, q: np.ndarray) -> Float[np.ndarray, "M N"]:
    """Return a plan to start from as float64.

    Raises:
        DataError: It is negative somewhere, or its marginals are not ``p`` and ``q``.
    """
    checked = checked_matrix(plan, (len(p), len(q)), "start")
    wrong = max(np.abs(checked.sum(axis=1) - p).max(), np.abs(checked.sum(axis=0) - q).max())
    if checked.min() < 0 or wrong > 1e-8:
        raise DataError(
            f"start must be a plan with the given weights as row and column sums; it is off by {wrong:.3g} "
            f"and its least entry is {checked.min():.3g}."
        )
    return checked


def _check_marginals(plan: np.ndarray, p: np.ndarray, q: np.ndarray, epsilon: float) -> None:
    if not np.isfinite(plan).all():
        raise DivergedError(f"The entropic plan at epsilon = {epsilon} is NaN; use a larger epsilon.")
    wrong = max(np.abs(plan.sum(axis=1) - p).max() / p.max(), np.abs(plan.sum(axis=0) - q).max() / q.max())
    if wrong > MARGINAL_TOLERANCE:
        raise DivergedError(
            f"The entropic plan at epsilon = {epsilon} misses its marginals by {wrong:.2%} (allowed: "
            f"{MARGINAL_TOLERANCE:.2%}); use a larger epsilon, or 0 for the conditional gradient."
        )
