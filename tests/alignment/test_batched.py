import itertools
from typing import Any

import numpy as np
import ot
import pytest
import torch
from jaxtyping import TypeCheckError

from robopref.alignment import batched
from robopref.alignment.batched import batched_gromov_wasserstein
from robopref.alignment.cpa import CrossTaskAlignment
from robopref.alignment.distances import cross_distances, pairwise_distances
from robopref.alignment.gromov import coupling_cost
from robopref.alignment.sets import LabelledSet
from robopref.alignment.transfer import labels_from_scores, transfer_labels, vote
from robopref.errors import ConfigError, DataError, DeviceError

SIZES = ((20, 20, False), (24, 15, False), (18, 18, True), (13, 30, True))
"""Points of the source and of the target, and whether they are weighted."""


def curve(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    time = np.linspace(0, 1, count)[:, None]
    waves = [
        rng.normal(size=size) * np.sin(np.pi * k * time + rng.uniform(0, 6, size)) / k for k in range(1, 6)
    ]
    return np.sum(waves, axis=0)


def cloud(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(count, size))


def problem(rows: int, columns: int, weighted: bool, seed: int, make=cloud) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    first, second = (pairwise_distances(make(n, size, rng)) for n, size in ((rows, 3), (columns, 5)))
    p, q = (rng.uniform(0.5, 2, n) if weighted else np.ones(n) for n in (rows, columns))
    return {
        "source_distances": first,
        "target_distances": second,
        "source_weights": p / p.sum(),
        "target_weights": q / q.sum(),
    }


def fused(given: dict[str, Any], seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    marks = (rng.uniform(size=(len(given[f"{side}_weights"]), 1)) for side in ("source", "target"))
    return given | {"fused_cost": cross_distances(*marks), "alpha": 0.7}


def by_pot(given: dict[str, Any]) -> float:
    """Return the cost at which POT's conditional gradient ends."""
    first, second = given["source_distances"], given["target_distances"]
    weights = (given["source_weights"], given["target_weights"])
    between, alpha = given.get("fused_cost"), given.get("alpha", 1.0)
    plan: Any = (
        ot.gromov.gromov_wasserstein(first, second, *weights, symmetric=True)
        if between is None
        else ot.gromov.fused_gromov_wasserstein(between, first, second, *weights, symmetric=True, alpha=alpha)
    )
    return coupling_cost(plan, first, second, alpha, between)


@pytest.fixture
def few_steps(monkeypatch):
    """Save time where it does not matter how good the end is."""
    monkeypatch.setattr("robopref.alignment.batched.STEPS", 10)


def check_marginals(plan: np.ndarray, given: dict[str, Any]) -> None:
    np.testing.assert_allclose(plan.sum(axis=1), given["source_weights"], atol=1e-10)
    np.testing.assert_allclose(plan.sum(axis=0), given["target_weights"], atol=1e-10)
    assert plan.min() >= 0


@pytest.mark.parametrize("make", [cloud, curve])
def test_costs_are_on_average_not_above_pot_s_and_nearly_all_within_five_per_cent(make):
    given = [problem(*size, seed, make) for size in SIZES for seed in range(6)]
    given += [fused(one, seed) for seed, one in enumerate(given)]
    ends = batched_gromov_wasserstein(given)
    for one, end in zip(given, ends, strict=True):
        check_marginals(end.plan, one)
        told = coupling_cost(
            end.plan,
            one["source_distances"],
            one["target_distances"],
            one.get("alpha", 1.0),
            one.get("fused_cost"),
        )
        assert end.cost == pytest.approx(told, rel=1e-9)
    ratios = np.array([end.cost / by_pot(one) for one, end in zip(given, ends, strict=True)])
    assert ratios.mean() <= 1
    assert (ratios <= 1.05).mean() >= 0.9


def test_isometric_sets_are_matched_point_by_point(few_steps):
    rng = np.random.default_rng(0)
    points, order = cloud(25, 3, rng), rng.permutation(25)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    (end,) = batched_gromov_wasserstein(
        [
            {
                "source_distances": pairwise_distances(points),
                "target_distances": pairwise_distances((points @ rotation + 5)[order]),
            }
        ]
    )
    assert end.cost == pytest.approx(0, abs=1e-12)
    np.testing.assert_array_equal(end.plan, np.eye(25)[:, order] / 25)


def test_no_pair_of_entries_can_exchange_mass_at_a_lower_cost(few_steps):
    given = fused(problem(7, 9, True, 0), 0)
    (end,) = batched_gromov_wasserstein([given])
    args = (given["source_distances"], given["target_distances"], 0.7, given["fused_cost"])
    entries = np.argwhere(end.plan > 0)
    for i, j in entries:
        for k, l in entries:  # noqa: E741
            moved = end.plan.copy()
            x = min(moved[i, j], moved[k, l])
            moved[i, j] -= x
            moved[k, l] -= x
            moved[i, l] += x
            moved[k, j] += x
            assert i == k or j == l or coupling_cost(moved, *args) > end.cost - 1e-10


def test_problems_of_other_sizes_in_the_batch_change_nothing(few_steps):
    given = [problem(*size, 0) for size in SIZES]
    given[2] = fused(given[2], 4)
    together = batched_gromov_wasserstein(given)
    for one, end in zip(given, together, strict=True):
        (single,) = batched_gromov_wasserstein([one])
        assert end.plan.shape == single.plan.shape
        np.testing.assert_allclose(end.plan, single.plan, atol=1e-12)


def test_batches_that_memory_divides_are_solved_as_one(few_steps, monkeypatch):
    given = [problem(*size, 0) for size in SIZES[:2]]
    whole = batched_gromov_wasserstein(given)
    monkeypatch.setattr("robopref.alignment.batched.PAIRS", 1)
    for one, other in zip(whole, batched_gromov_wasserstein(given), strict=True):
        np.testing.assert_allclose(one.plan, other.plan, atol=1e-12)


def test_permuting_points_permutes_the_plan(few_steps):
    given = problem(14, 11, True, 1)
    rows, columns = np.random.default_rng(0).permutation(14), np.random.default_rng(1).permutation(11)
    turned = {
        "source_distances": given["source_distances"][np.ix_(rows, rows)],
        "target_distances": given["target_distances"][np.ix_(columns, columns)],
        "source_weights": given["source_weights"][rows],
        "target_weights": given["target_weights"][columns],
    }
    plain, other = batched_gromov_wasserstein([given, turned])
    np.testing.assert_allclose(other.plan, plain.plan[np.ix_(rows, columns)], atol=1e-12)


def test_scaling_a_set_does_not_change_the_plan(few_steps):
    given = problem(15, 12, False, 0)
    scaled = [given | {"source_distances": scale * given["source_distances"]} for scale in (1.0, 1e-6, 1e6)]
    plain, *others = (end.plan for end in batched_gromov_wasserstein(scaled))
    for other in others:
        np.testing.assert_allclose(other, plain, atol=1e-12)


def test_points_without_mass_take_no_part(few_steps):
    given = problem(8, 6, False, 0)
    weights = np.array([0, 1.0, 1, 1, 1, 1, 1, 1])
    (end,) = batched_gromov_wasserstein([given | {"source_weights": weights}])
    (other,) = batched_gromov_wasserstein(
        [given | {"source_distances": given["source_distances"][1:, 1:], "source_weights": np.ones(7)}]
    )
    assert (end.plan[0] == 0).all()
    assert end.cost == pytest.approx(other.cost)


def test_sets_whose_points_look_alike_are_still_matched_one_to_one(few_steps):
    corners = pairwise_distances(np.array([[0.0, 0], [0, 1], [1, 1], [1, 0]]))
    (end,) = batched_gromov_wasserstein([{"source_distances": corners, "target_distances": corners}])
    assert end.cost == pytest.approx(0, abs=1e-12)


def test_a_start_at_the_best_plan_is_kept(few_steps):
    given = problem(16, 16, False, 2)
    (best,) = batched_gromov_wasserstein([given])
    (again,) = batched_gromov_wasserstein([given | {"start": best.plan}])
    assert again.cost <= best.cost + 1e-12


GOOD = pairwise_distances(np.random.default_rng(0).normal(size=(4, 3)))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"source_distances": np.zeros((1, 1))}, "holds 1 point"),
        ({"target_distances": np.where(GOOD > 0.9, np.nan, GOOD)}, "NaN or infinite"),
        ({"source_distances": np.triu(GOOD)}, "symmetric"),
        ({"target_weights": np.array([1.0, -1, 1, 1])}, "not negative"),
        ({"start": np.full((4, 4), 0.1)}, "row and column sums"),
        ({"alpha": 0.0}, "wasserstein solves alpha = 0"),
        ({"alpha": 0.5}, "needs fused_cost"),
    ],
)
def test_one_impossible_problem_is_refused_with_the_reason(arguments, sentence):
    good = {"source_distances": GOOD, "target_distances": GOOD}
    with pytest.raises((ConfigError, DataError, TypeCheckError), match=sentence):
        batched_gromov_wasserstein([good, good | arguments])


@pytest.mark.parametrize("sizes", [(2, 7), (9, 5)])
def test_a_transfer_by_torch_votes_with_couplings_solved_together(
    few_steps, monkeypatch, make_segments, sizes
):
    solved = []

    def recorded(problems, *, device):
        solved.append((len(problems), device, batched_gromov_wasserstein(problems, device=device)))
        return solved[-1][2]

    monkeypatch.setattr(batched, "batched_gromov_wasserstein", recorded)
    labels = labels_from_scores(np.arange(float(sizes[0])))
    sources = [
        LabelledSet(name, make_segments(count=sizes[0], seed=seed), labels) for seed, name in enumerate("ab")
    ]
    alignment = CrossTaskAlignment(("mean", "frame"), solver="torch", restarts=1, subsets=2)
    record = alignment.transfer(sources, make_segments(count=sizes[1], seed=2), rng=np.random.default_rng(0))
    ((count, device, ends),) = solved
    assert (count, str(device)) == (2 * 2 * 2 * 2, "cpu")  # sources, features, subsets, starts
    assert list(record.costs.values()) == [end.cost for end in ends]
    votes = [transfer_labels(plan, labels) for plan in record.couplings.values()]
    np.testing.assert_allclose(record.labels, vote(votes))


def test_a_device_without_the_solver_that_reads_it_is_refused():
    for solver, device in itertools.product(("auto", "full", "quantised"), ("cuda", "auto")):
        with pytest.raises(ConfigError, match=f"solver={solver} .* device={device} needs solver=torch"):
            CrossTaskAlignment(solver=solver, device=device)


def test_an_alignment_by_torch_refuses_entropy_and_devices_that_are_not_there(monkeypatch):
    with pytest.raises(ConfigError, match=r"epsilon must be 0, got 0\.1"):
        CrossTaskAlignment(solver="torch", epsilon=0.1)
    with pytest.raises(ConfigError, match="tpu"):
        CrossTaskAlignment(solver="torch", device="tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="sees no CUDA GPU"):
        CrossTaskAlignment(solver="torch", device="cuda")


def test_no_problems_have_no_couplings():
    assert batched_gromov_wasserstein([]) == []


@pytest.mark.gpu
def test_a_gpu_finds_the_costs_of_the_cpu():
    given = [problem(*size, seed) for size in SIZES for seed in range(8)]
    on_gpu, on_cpu = (batched_gromov_wasserstein(given, device=device) for device in ("cuda", "cpu"))
    ratios = [gpu.cost / cpu.cost for gpu, cpu in zip(on_gpu, on_cpu, strict=True)]
    assert np.median(ratios) == pytest.approx(1, abs=1e-6)
    assert max(ratios) < 1.05
    for one, end in zip(given, on_gpu, strict=True):
        check_marginals(end.plan, one)
