from typing import Any

import numpy as np
import ot
import pytest

from robopref.alignment.distances import cross_distances, pairwise_distances
from robopref.alignment.gromov import gromov_wasserstein
from robopref.alignment.transport import TransportProblem, cheapest, sorted_plan


def problem(rows: int, columns: int, seed: int, *, weighted: bool = False, alpha: float = 1.0):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(rows, 3)), rng.normal(size=(columns, 3))
    p, q = (rng.uniform(0.5, 2, count) if weighted else np.ones(count) for count in (rows, columns))
    between = cross_distances(x, y) if alpha < 1 else None
    return TransportProblem(
        pairwise_distances(x), pairwise_distances(y), p / p.sum(), q / q.sum(), alpha, between
    )


def cost(of: TransportProblem, plan: np.ndarray) -> float:
    own = of.p @ of.first**2 @ of.p + of.q @ of.second**2 @ of.q
    gromov = own - 2 * (plan * (of.first @ plan @ of.second)).sum()
    linear = 0.0 if of.between is None else (plan * of.between).sum()
    return float((1 - of.alpha) * linear + of.alpha * gromov)


@pytest.mark.parametrize(
    ("rows", "columns", "weighted", "alpha"),
    [(20, 13, False, 1.0), (20, 20, True, 1.0), (12, 31, True, 1.0), (20, 13, True, 0.7)],
)
def test_from_the_product_plan_it_ends_at_the_cost_of_pot_s_conditional_gradient(
    rows, columns, weighted, alpha
):
    for seed in range(5):
        own = problem(rows, columns, seed, weighted=weighted, alpha=alpha)
        options: dict[str, Any] = {"symmetric": True, "tol_rel": 1e-12, "tol_abs": 1e-12}
        weights = (own.p, own.q)
        theirs: Any = (
            ot.gromov.gromov_wasserstein(own.first, own.second, *weights, **options)
            if own.between is None
            else ot.gromov.fused_gromov_wasserstein(
                own.between, own.first, own.second, *weights, alpha=alpha, **options
            )
        )
        plan = own.solve(tolerance=1e-12)
        np.testing.assert_allclose(plan.sum(axis=1), own.p, atol=1e-12)
        np.testing.assert_allclose(plan.sum(axis=0), own.q, atol=1e-12)
        assert cost(own, plan) == pytest.approx(cost(own, theirs), rel=1e-6)


def test_a_convex_objective_is_brought_to_its_lowest_point_between_corners():
    # C2 = -C1 up to a constant: <C1 T C2, T> = -|C1^(1/2) T C1^(1/2)|^2 with C1 positive semi-definite
    points = np.random.default_rng(0).normal(size=(8, 3))
    kernel = np.exp(-(pairwise_distances(points, scale="none") ** 2))
    even = np.full(8, 1 / 8)
    own = TransportProblem(kernel, 1 - kernel, even, even)
    plan = own.solve(max_iterations=200)
    assert (plan > 1e-6).sum() > 15  # no corner of the polytope has more entries than 8 + 8 - 1
    moved = [
        0.999 * plan + 0.001 * np.eye(8)[order] / 8
        for order in np.random.default_rng(1).permuted(np.tile(np.arange(8), (50, 1)), axis=1)
    ]
    assert min(cost(own, other) for other in moved) > cost(own, plan) - 1e-6


def test_the_sorted_plan_is_the_cheapest_for_a_product_of_numbers():
    rng = np.random.default_rng(0)
    a, b, p, q = rng.normal(size=9), rng.normal(size=7), rng.uniform(size=9), rng.uniform(size=7)
    p, q = p / p.sum(), q / q.sum()
    plan = sorted_plan(a, b, p, q)
    np.testing.assert_allclose(plan.sum(axis=1), p, atol=1e-15)
    np.testing.assert_allclose(plan.sum(axis=0), q, atol=1e-15)
    assert -(plan * np.outer(a, b)).sum() == pytest.approx(ot.emd2(p, q, -np.outer(a, b)))


def test_costs_far_below_zero_are_solved_with_and_without_potentials():
    rng = np.random.default_rng(0)
    p, q = np.full(15, 1 / 15), np.full(35, 1 / 35)
    values = rng.normal(size=(15, 35))
    plain, potentials = cheapest(values, p, q)
    for known in (None, potentials):
        shifted, _ = cheapest(values - 50.0, p, q, known)
        np.testing.assert_allclose(shifted, plain, atol=1e-12)


def test_two_points_which_a_product_plan_cannot_tell_apart_are_still_told_apart():
    first, pair = pairwise_distances(np.random.default_rng(0).normal(size=(7, 3))), 1.0 - np.eye(2)
    found = gromov_wasserstein(first, pair)
    assert (found.plan == 0).sum() >= 6  # a corner: of 14 entries at most 7 + 2 - 1 have mass
