import logging
from typing import Any

import numpy as np
import pytest

from robopref.alignment import cpa
from robopref.alignment.cpa import CrossTaskAlignment
from robopref.alignment.distances import cross_distances, pairwise_distances
from robopref.alignment.ensemble import solve_all
from robopref.alignment.gromov import coupling_cost, gromov_wasserstein
from robopref.alignment.quantised import choose_blocks, quantised_gromov_wasserstein
from robopref.alignment.sets import LabelledSet
from robopref.alignment.transfer import labels_from_scores
from robopref.errors import ConfigError, DataError


def cloud(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3))


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("alpha", [1.0, 0.6])
def test_with_every_point_a_landmark_it_is_the_full_solve(alpha):
    x, y = cloud(14, 0), cloud(9, 1)
    arguments: dict[str, Any] = {
        "source_distances": pairwise_distances(x),
        "target_distances": pairwise_distances(y),
    }
    arguments |= {"fused_cost": cross_distances(x, y), "alpha": alpha}
    full = gromov_wasserstein(**arguments)
    found = quantised_gromov_wasserstein(**arguments, landmarks=14, rng=rng())
    np.testing.assert_allclose(found.plan, full.plan, atol=1e-12)
    assert found.cost == pytest.approx(full.cost)


def test_few_landmarks_keep_the_weights_and_cost_far_less_than_no_coupling():
    first, second = pairwise_distances(cloud(60, 0) * [1, 3, 6]), pairwise_distances(cloud(50, 1) * [6, 3, 1])
    p = np.arange(1.0, 61.0) / np.arange(1.0, 61.0).sum()
    found = quantised_gromov_wasserstein(first, second, landmarks=12, rng=rng(), source_weights=p)
    np.testing.assert_allclose(found.plan.sum(axis=1), p, atol=1e-12)
    np.testing.assert_allclose(found.plan.sum(axis=0), 1 / 50, atol=1e-12)
    full = gromov_wasserstein(first, second, source_weights=p)
    nothing = coupling_cost(np.outer(p, np.full(50, 1 / 50)), first, second)
    assert nothing - found.cost > 0.8 * (nothing - full.cost)


GOOD = pairwise_distances(cloud(6, 0))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"source_distances": np.where(GOOD > 0.9, np.nan, GOOD)},
            r"matrix of source distances holds \d+ numbers that are",
        ),
        ({"target_distances": np.triu(GOOD)}, "target distances must be symmetric"),
        ({"target_distances": -GOOD}, "not negative"),
        ({"source_distances": np.zeros((1, 1))}, "holds 1 point"),
        ({"fused_cost": np.full((6, 6), np.inf), "alpha": 0.5}, "fused_cost holds 36 numbers that are NaN"),
        ({"alpha": 0.5}, "needs fused_cost"),
        ({"alpha": 0.0}, r"alpha must lie in \(0, 1\]"),
        ({"alpha": 1.5}, r"alpha must lie in \(0, 1\]"),
        ({"landmarks": 1}, "landmarks must be 2 or more"),
        ({"epsilon": float("nan")}, "epsilon must be 0 or above"),
    ],
)
def test_impossible_problems_are_refused(arguments, sentence):
    good = {"source_distances": GOOD, "target_distances": GOOD, "landmarks": 3, "rng": rng()}
    with pytest.raises((ConfigError, DataError), match=sentence):
        quantised_gromov_wasserstein(**(good | arguments))


def test_duplicates_share_a_block_and_no_block_is_empty():
    points = np.repeat(cloud(4, 0), 5, axis=0)
    blocks = choose_blocks(pairwise_distances(points), np.full(20, 0.05), 10, rng())
    assert len(blocks.points) == 4
    np.testing.assert_allclose(blocks.masses(np.full(20, 0.05)), 0.25)


def test_many_problems_in_one_call_have_the_couplings_of_a_loop():
    sizes = [(5, 5), (6, 4), (7, 7), (3, 9), (8, 8)]
    problems: list[dict[str, Any]] = [
        {
            "source_distances": pairwise_distances(cloud(m, m)),
            "target_distances": pairwise_distances(cloud(n, 50)),
        }
        for m, n in sizes
    ]
    for workers in (1, 3):
        together = solve_all(problems, workers=workers)
        for found, problem in zip(together, problems, strict=True):
            np.testing.assert_array_equal(found.plan, gromov_wasserstein(**problem).plan)


def test_large_sets_are_quantised_unless_told_otherwise_and_it_is_said(make_segments, monkeypatch, caplog):
    monkeypatch.setattr(cpa, "FULL_UP_TO", 10)
    source = LabelledSet("press", make_segments(count=12), labels_from_scores(np.arange(12.0)))
    target = make_segments(count=11, seed=1)
    with caplog.at_level(logging.WARNING):
        automatic = CrossTaskAlignment(landmarks=5).transfer([source], target, rng=rng())
    assert "12 by 11 episodes goes by way of 5 landmarks" in caplog.text
    chosen = CrossTaskAlignment(solver="quantised", landmarks=5).transfer([source], target, rng=rng())
    np.testing.assert_array_equal(automatic.labels, chosen.labels)
    caplog.clear()
    full = CrossTaskAlignment(solver="full", landmarks=5).transfer([source], target, rng=rng())
    assert "landmarks" not in caplog.text
    assert full.costs["press"] < chosen.costs["press"]


def test_a_transfer_that_would_not_fit_into_memory_is_refused_before_it_is_begun(make_segments):
    source = LabelledSet("press", make_segments(count=12), labels_from_scores(np.arange(12.0)))
    with pytest.raises(
        DataError, match=r"needs about .* GiB for couplings and labels; memory_gib allows 1e-06"
    ):
        CrossTaskAlignment(memory_gib=1e-6).transfer([source], make_segments(), rng=rng())


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        # 12 by 8 episodes, 2 subsets, 4 solves each: 8 ends and 6 starts, 8 votes, distances of both sets
        ({"restarts": 3}, 14 * 96 + 8 * (96 + 2 * 64) + 144 + 64),
        ({"restarts": 3, "select": "lowest_cost"}, 14 * 96 + 2 * (96 + 2 * 64) + 144 + 64),
        ({"alpha": 0.5}, 4 * 96 + 2 * (96 + 2 * 64) + 144 + 64),  # 2 ends and 2 costs between the sets
    ],
)
def test_memory_is_that_of_starts_and_ends_of_votes_and_of_distances(make_segments, options, numbers):
    source = LabelledSet("press", make_segments(count=12), labels_from_scores(np.arange(12.0)))
    target = make_segments(count=8, seed=1)
    enough = 8 * numbers / 2**30
    CrossTaskAlignment(**options, subsets=2, memory_gib=enough).transfer([source], target, rng=rng())
    with pytest.raises(DataError, match="memory_gib allows"):
        CrossTaskAlignment(**options, subsets=2, memory_gib=enough * (1 - 1e-9)).transfer(
            [source], target, rng=rng()
        )


def test_options_of_the_solver_out_of_range_are_refused():
    wrong: list[dict[str, Any]] = [{"solver": "fast"}, {"landmarks": 1}, {"memory_gib": 0.0}]
    for options in wrong:
        with pytest.raises(ConfigError, match=next(iter(options))):
            CrossTaskAlignment(**options)
