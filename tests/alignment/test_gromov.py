import itertools
import subprocess
import sys

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from robopref.alignment.distances import cross_distances, pairwise_distances
from robopref.alignment.gromov import gromov_wasserstein, profile_cost, random_plan, wasserstein
from robopref.errors import ConfigError, DataError, DivergedError

# With the shape checks on, they refuse a wrong shape before the function's own sentence does.
REFUSALS = (DataError, TypeCheckError)


def cloud(count: int, size: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, size))


def cost_by_definition(first: np.ndarray, second: np.ndarray, plan: np.ndarray) -> float:
    total = 0.0
    for i, k in itertools.product(range(len(first)), repeat=2):
        for j, m in itertools.product(range(len(second)), repeat=2):
            total += (first[i, k] - second[j, m]) ** 2 * plan[i, j] * plan[k, m]
    return total


def best_permutation(first: np.ndarray, second: np.ndarray) -> float:
    count = len(first)
    costs = []
    for order in itertools.permutations(range(count)):
        plan = np.zeros((count, count))
        plan[np.arange(count), order] = 1 / count
        costs.append(cost_by_definition(first, second, plan))
    return min(costs)


def test_isometric_clouds_have_cost_zero_and_are_matched_point_by_point():
    points = cloud(20)
    rotation, _ = np.linalg.qr(cloud(3, seed=1))
    order = np.random.default_rng(2).permutation(20)
    moved = (points @ rotation + 5.0)[order]
    found = gromov_wasserstein(
        pairwise_distances(points, scale="none"), pairwise_distances(moved, scale="none")
    )
    assert found.cost == pytest.approx(0, abs=1e-12)
    np.testing.assert_array_equal(found.plan.argmax(axis=0), order)
    np.testing.assert_allclose(found.plan.max(axis=0), 1 / 20)


def test_cost_is_the_fourfold_sum_of_its_definition():
    first, second = pairwise_distances(cloud(5)), pairwise_distances(cloud(4, seed=1))
    p = np.array([0.3, 0.1, 0.2, 0.15, 0.25])
    found = gromov_wasserstein(first, second, source_weights=p)
    assert found.cost == pytest.approx(cost_by_definition(first, second, found.plan), abs=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_four_points_from_every_start_reach_the_best_of_all_24_permutations(seed):
    first, second = pairwise_distances(cloud(4, seed=seed)), pairwise_distances(cloud(4, seed=seed + 100))
    best = best_permutation(first, second)
    rng = np.random.default_rng(seed)
    weights = np.full(4, 0.25)
    ends = [gromov_wasserstein(first, second)]
    ends += [
        gromov_wasserstein(first, second, start=random_plan(rng, weights, weights, spread=0.1))
        for _ in range(20)
    ]
    assert min(end.cost for end in ends) == pytest.approx(best, abs=1e-10)
    assert all(end.cost >= best - 1e-10 for end in ends)  # Euclidean: permutations are optimal


def test_marginals_are_the_given_weights_for_sets_of_different_sizes():
    p, q = np.array([1.0, 2.0, 3.0]), np.array([5.0, 1.0, 1.0, 1.0])
    found = gromov_wasserstein(
        pairwise_distances(cloud(3)), pairwise_distances(cloud(4)), source_weights=p, target_weights=q
    )
    np.testing.assert_allclose(found.plan.sum(axis=1), p / 6)
    np.testing.assert_allclose(found.plan.sum(axis=0), q / 8)
    assert found.plan.min() >= 0


@pytest.mark.parametrize("scale", [1e-4, 7.0, 1e4])
def test_scaling_a_set_does_not_change_the_plan(scale):
    first, second = pairwise_distances(cloud(12)), pairwise_distances(cloud(12, seed=1))
    plain = gromov_wasserstein(first, second)
    np.testing.assert_allclose(gromov_wasserstein(scale * first, second).plan, plain.plan, atol=1e-12)


def test_permuting_points_permutes_the_plan():
    first, second = pairwise_distances(cloud(9)), pairwise_distances(cloud(7, seed=1))
    rows, columns = np.random.default_rng(0).permutation(9), np.random.default_rng(1).permutation(7)
    plain = gromov_wasserstein(first, second)
    turned = gromov_wasserstein(first[np.ix_(rows, rows)], second[np.ix_(columns, columns)])
    np.testing.assert_allclose(turned.plan, plain.plan[np.ix_(rows, columns)], atol=1e-9)


def test_exchanging_the_sets_transposes_the_problem():
    first, second = pairwise_distances(cloud(8)), pairwise_distances(cloud(8, seed=1))
    one, other = gromov_wasserstein(first, second), gromov_wasserstein(second, first)
    assert one.cost == pytest.approx(other.cost, rel=1e-6)


def test_fused_with_alpha_zero_is_plain_wasserstein():
    a, b = cloud(6), cloud(6, seed=1)
    between = cross_distances(a, b)
    found = gromov_wasserstein(pairwise_distances(a), pairwise_distances(b), fused_cost=between, alpha=0.0)
    best = min(between[np.arange(6), order].mean() for order in itertools.permutations(range(6)))
    assert found.cost == pytest.approx(best)


def test_fused_with_alpha_one_does_not_read_the_cost_between_the_sets():
    first, second = pairwise_distances(cloud(6)), pairwise_distances(cloud(6, seed=1))
    plain = gromov_wasserstein(first, second)
    fused = gromov_wasserstein(first, second, fused_cost=cross_distances(cloud(6), cloud(6)), alpha=1.0)
    np.testing.assert_array_equal(fused.plan, plain.plan)
    assert fused.cost == plain.cost


def test_fused_cost_tells_mirror_images_apart():
    # Two groups of equal spread: geometry alone cannot say which is which, one shared number can.
    points = np.array([[0.0, 0], [0, 1.2], [9.0, 0], [9, 1.2], [4.5, 3.0], [4.5, 3.3]])
    mirrored = points * [-1.0, 1.0]
    distances = pairwise_distances(points)
    marks = np.array([[0.0], [0], [1], [1], [0.5], [0.5]])
    found = gromov_wasserstein(
        distances, pairwise_distances(mirrored), fused_cost=cross_distances(marks, marks), alpha=0.5
    )
    np.testing.assert_array_equal(found.plan.argmax(axis=0), np.arange(6))


def test_entropy_spreads_the_plan_and_keeps_the_marginals():
    first, second = pairwise_distances(cloud(6)), pairwise_distances(cloud(6, seed=1))
    found = gromov_wasserstein(first, second, epsilon=0.2)
    np.testing.assert_allclose(found.plan.sum(axis=0), 1 / 6, rtol=1e-3)
    assert (found.plan > 0).all()


def test_entropic_wasserstein_at_tiny_epsilon_that_does_not_converge_is_reported():
    with (
        pytest.warns(UserWarning, match="did not converge"),
        pytest.raises(DivergedError, match="misses its marginals"),
    ):
        wasserstein(cross_distances(cloud(12), cloud(12, seed=1)), epsilon=1e-6)


def test_profile_cost_of_a_set_with_itself_is_zero_only_for_the_same_point():
    distances = pairwise_distances(cloud(10))
    weights = np.full(10, 0.1)
    cost = profile_cost(distances, distances, weights, weights)
    np.testing.assert_allclose(np.diag(cost), 0, atol=1e-12)
    assert (cost[~np.eye(10, dtype=bool)] > 1e-6).all()


def test_profile_cost_does_not_change_when_a_point_is_split_in_two_of_half_weight():
    points, other = cloud(5), pairwise_distances(cloud(30, seed=1))
    weights = np.full(30, 1 / 30)
    whole = profile_cost(pairwise_distances(points), other, np.full(5, 0.2), weights)
    halves = np.array([0.1, 0.2, 0.2, 0.2, 0.2, 0.1])
    split = profile_cost(pairwise_distances(np.concatenate([points, points[:1]])), other, halves, weights)
    np.testing.assert_allclose(split[:5], whole)
    np.testing.assert_allclose(split[5], whole[0])


def test_random_plans_have_the_marginals_and_differ():
    rng = np.random.default_rng(0)
    p, q = np.array([0.5, 0.3, 0.2]), np.full(5, 0.2)
    plans = [random_plan(rng, p, q) for _ in range(20)]
    for plan in plans:
        np.testing.assert_allclose(plan.sum(axis=1), p, atol=1e-12)
        np.testing.assert_allclose(plan.sum(axis=0), q, atol=1e-12)
        assert plan.min() >= 0
    assert len({plan.tobytes() for plan in plans}) > 10


def test_duplicate_points_are_coupled_without_complaint():
    points = np.repeat(cloud(3), 2, axis=0)
    distances = pairwise_distances(points)
    assert gromov_wasserstein(distances, distances).cost == pytest.approx(0, abs=1e-12)


GOOD = pairwise_distances(cloud(4))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"source_distances": np.zeros((1, 1))}, "holds 1 point"),
        ({"source_distances": np.zeros((3, 4))}, "square matrix"),
        ({"source_distances": np.where(GOOD > 0.9, np.nan, GOOD)}, "NaN or infinite"),
        ({"source_distances": np.triu(GOOD)}, "symmetric"),
        ({"source_distances": -GOOD}, "not negative"),
        ({"source_weights": np.ones(3)}, "shape"),
        ({"source_weights": np.zeros(4)}, "not all zero"),
        ({"target_weights": np.array([1.0, -1, 1, 1])}, "not negative"),
        ({"start": np.full((4, 4), 0.1)}, "row and column sums"),
        ({"start": np.full((4, 5), 0.05)}, r"shape \(4, 4\)"),
        ({"fused_cost": np.zeros((4, 5)), "alpha": 0.5}, r"shape \(4, 4\)"),
        ({"fused_cost": np.full((4, 4), np.inf), "alpha": 0.5}, "NaN or infinite"),
    ],
)
def test_impossible_problems_are_refused(arguments, sentence):
    with pytest.raises(REFUSALS, match=f"{sentence}|Type-check"):
        gromov_wasserstein(**({"source_distances": GOOD, "target_distances": GOOD} | arguments))


@pytest.mark.parametrize(
    "options", [{"alpha": 1.5}, {"alpha": 0.5}, {"epsilon": -1.0}, {"epsilon": float("nan")}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError):
        gromov_wasserstein(GOOD, GOOD, **options)


def test_importing_the_module_does_not_import_pot():
    code = "import robopref.alignment.cpa, sys; sys.exit('ot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
