import itertools
from typing import Any

import numpy as np
import pytest

from robopref.alignment.cpa import FULL_UP_TO, CrossTaskAlignment
from robopref.alignment.distances import cross_distances, pairwise_distances
from robopref.alignment.gromov import coupling_cost, gromov_wasserstein
from robopref.alignment.semi_relaxed import semi_relaxed_gromov_wasserstein
from robopref.alignment.sets import LabelledSet
from robopref.alignment.transfer import labels_from_scores, transfer_labels
from robopref.errors import ConfigError, DataError


def cloud(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 2))


@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("seed", range(5))
def test_it_lies_between_the_best_map_of_all_and_the_balanced_coupling(alpha, seed):
    """Distances are of negative type, so the objective is concave: some map of targets to sources is best."""
    x, y = cloud(4, seed), cloud(5, seed + 100)
    first, second, between = pairwise_distances(x), pairwise_distances(y), cross_distances(x, y)
    found = semi_relaxed_gromov_wasserstein(first, second, fused_cost=between, alpha=alpha)
    balanced = gromov_wasserstein(first, second, fused_cost=between, alpha=alpha)
    costs = []
    for chosen in itertools.product(range(4), repeat=5):
        plan = np.zeros((4, 5))
        plan[list(chosen), range(5)] = 0.2
        costs.append(coupling_cost(plan, first, second, alpha, between))
    np.testing.assert_allclose(found.plan.sum(axis=0), 0.2, atol=1e-12)
    assert found.plan.min() >= 0
    assert min(costs) - 1e-9 <= found.cost <= balanced.cost + 1e-9
    assert found.cost == pytest.approx(coupling_cost(found.plan, first, second, alpha, between))
    if alpha == 0:
        assert found.cost == pytest.approx(min(costs))


def test_sets_of_unequal_success_rates_are_matched_group_by_group():
    """Three of four source points lie at 0, one of four target points does: balanced, half must cross."""
    x, y = np.array([[0.0], [0.0], [0.0], [1.0]]), np.array([[0.0], [1.0], [1.0], [1.0]])
    sides = pairwise_distances(x), pairwise_distances(y)
    options: dict[str, Any] = {"fused_cost": cross_distances(x, y, scale="none"), "alpha": 0.5}
    found = semi_relaxed_gromov_wasserstein(*sides, **options)
    assert found.cost == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(found.plan[3], [0, 0.25, 0.25, 0.25], atol=1e-12)
    balanced = gromov_wasserstein(*sides, **options)
    assert (balanced.plan * options["fused_cost"]).sum() == pytest.approx(0.5)
    known = labels_from_scores(1 - x[:, 0])
    assert (transfer_labels(found.plan, known)[0, 1:] == 1).all()


def test_weights_of_the_target_are_held():
    q = np.array([0.1, 0.2, 0.7])
    found = semi_relaxed_gromov_wasserstein(
        pairwise_distances(cloud(6, 0)), pairwise_distances(cloud(3, 1)), target_weights=q
    )
    np.testing.assert_allclose(found.plan.sum(axis=0), q, atol=1e-12)


def test_it_has_neither_entropy_nor_landmarks(make_segments):
    refused: list[dict[str, Any]] = [{"epsilon": 0.1}, {"solver": "quantised"}]
    for options in refused:
        with pytest.raises(ConfigError, match="semi_relaxed has neither entropy nor landmarks"):
            CrossTaskAlignment(semi_relaxed=True, **options)
    with pytest.raises(ConfigError, match=r"epsilon must be 0, got 0\.1"):
        semi_relaxed_gromov_wasserstein(np.zeros((2, 2)), np.zeros((2, 2)), epsilon=0.1)
    many = make_segments(count=FULL_UP_TO + 1, steps=2)
    source = LabelledSet("press", make_segments(count=4, steps=2), labels_from_scores(np.arange(4.0)))
    with pytest.raises(DataError, match="give solver=full, or max_episodes"):
        CrossTaskAlignment(semi_relaxed=True).transfer([source], many, rng=np.random.default_rng(0))
