"""Semi-relaxed Gromov-Wasserstein: each target point is matched, but source points take what mass they get.

    min over T >= 0 with column sums q of  (1 - alpha) <M, T> + alpha GW(T)      (Vincent-Cuaz et al. 2022)

Held row sums force a target of few successes to match bad episodes with good ones of the source; here they
may all be matched with the source's few bad ones. The problem is not convex: it is begun at the balanced
coupling, so its end costs no more than that. POT solves it.

Letters used in shapes: M points of the source, N points of the target.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from robopref.alignment.gromov import Coupling, checked_problem, coupling_cost, gromov_wasserstein
from robopref.errors import ConfigError


def semi_relaxed_gromov_wasserstein(
    source_distances: Float[np.ndarray, "M M"],
    target_distances: Float[np.ndarray, "N N"],
    *,
    target_weights: Float[np.ndarray, " N"] | None = None,
    fused_cost: Float[np.ndarray, "M N"] | None = None,
    alpha: float = 1.0,
    epsilon: float = 0.0,
    max_iterations: int = 1000,
    tolerance: float = 1e-9,
    **begin: Any,
) -> Coupling:
    """Return the end of a conditional gradient that only the target's weights bind.

    Args:
        source_distances: Symmetric distances between source points.
        target_distances: Symmetric distances between target points.
        target_weights: Column sums of the plan, normalised to one; uniform by default.
        fused_cost: Cost M of matching a source point with a target point; needed when ``alpha`` < 1.
        alpha: Share of Gromov-Wasserstein in the objective, in [0, 1].
        epsilon: 0, for there is no entropic solver here.
        max_iterations: Most iterations, also of the coupling that it begins at.
        tolerance: Relative and absolute change of the objective at which to stop.
        begin: ``source_weights`` and ``start`` of the balanced coupling that it begins at.

    Raises:
        ConfigError: ``epsilon`` is not 0; and as :func:`~.gromov.gromov_wasserstein`, as are the others.
        DataError: As there.
    """
    if epsilon != 0:
        raise ConfigError(f"A semi-relaxed coupling has no entropy here: epsilon must be 0, got {epsilon}.")
    limits: dict[str, Any] = {"max_iterations": max_iterations, "tolerance": tolerance}
    options: dict[str, Any] = {"target_weights": target_weights, "fused_cost": fused_cost, "alpha": alpha}
    first, second, _, q, between = checked_problem(
        source_distances, target_distances, None, target_weights, fused_cost, alpha
    )
    if alpha == 0:
        plan = np.zeros_like(between)
        plan[between.argmin(axis=0), np.arange(len(q))] = q
    else:
        balanced = gromov_wasserstein(source_distances, target_distances, **options, **limits, **begin)
        plan = _solved(first, second, q, between, alpha, balanced.plan, **limits)
    return Coupling(plan, coupling_cost(plan, first, second, alpha, between if alpha < 1 else None))


def _solved(
    first: Float[np.ndarray, "M M"],
    second: Float[np.ndarray, "N N"],
    q: Float[np.ndarray, " N"],
    between: Float[np.ndarray, "M N"],
    alpha: float,
    begin: Float[np.ndarray, "M N"],
    *,
    max_iterations: int,
    tolerance: float,
) -> Float[np.ndarray, "M N"]:
    import ot

    # POT's first set is the one whose weights are held.
    plan: Any = ot.gromov.semirelaxed_fused_gromov_wasserstein(
        np.ascontiguousarray(between.T),
        second,
        first,
        q,
        symmetric=True,
        alpha=alpha,
        G0=np.ascontiguousarray(begin.T),
        max_iter=max_iterations,
        tol_rel=tolerance,
        tol_abs=tolerance,
    )
    return np.ascontiguousarray(plan.T)
