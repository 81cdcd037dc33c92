"""What holds of every objective in the registry, so that one that is added is tested by being there.

Its inputs are made from the names of its parameters: what ends in ``_a`` belongs to the first of a pair.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robopref.objectives.description import Objective
from robopref.objectives.registry import REGISTRY

B, K, T = 5, 4, 3  # examples, items of a list, steps
PAIRED = [n for n, o in REGISTRY.items() if o.labels in ("soft pairs", "hard pairs", "per-token")]
LISTED = [n for n, o in REGISTRY.items() if o.labels == "lists"]
ESTIMATED = {"kto": "baseline", "bco": "shift"}  # without a gradient, so held fast here
# Those that hold each score by itself (the gates of sparse_po differ); all others know the difference alone.
ANCHORED = {
    *("nca", "bco_pair", "sppo", "apo_zero", "apo_down", "bt_direction"),
    *("rpro", "cpl", "f_dpo", "cpo", "orpo", "sparse_po"),
}
SCORES = ("score", "ratios", "log_", "error", "drifts")


def inputs_of(objective: Objective, seed: int, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """An example for each parameter that it must be given."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64).to(dtype)

    def example(name: str) -> Any:
        if objective.labels == "lists":
            grades = torch.randint(0, 4, (B, K), generator=generator).to(dtype)
            grades[:, :2] = torch.tensor([1.0, 2.0])  # two levels: on one TRPA pushes each by itself
            return grades if name == "labels" else 6 * rand(B, K) - 3
        if name == "labels" or name == "loses":
            return rand(B).round() if objective.labels == "hard pairs" else rand(B)
        if name.startswith("gates"):
            return rand(B, T), rand(B, T)
        if objective.extra == "steps":
            return rand(B, T)
        if name == "log_likelihoods" and objective.extra == "contexts":
            return rand(B, B)
        return -5 * rand(B) - 0.1 if objective.tokens_only else 5 * rand(B) - 2.5

    parameters = inspect.signature(objective.loss).parameters.values()
    needed = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty]
    return {name: example(name) for name in needed}


def losses_of(objective: Objective, inputs: Mapping[str, Any], **options: Any) -> Tensor:
    if objective.name in ESTIMATED:
        options[ESTIMATED[objective.name]] = torch.tensor(0.3)
    return objective.loss(**inputs, **options)


def each(value: Any, change: Any) -> Any:
    """A change of a tensor, or of each of several."""
    return tuple(change(x) for x in value) if isinstance(value, tuple) else change(value)


def swapped(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The same pairs in the other order."""
    found = dict(inputs)
    for name in inputs:
        if name.endswith("_a"):
            other = f"{name[:-2]}_b"
            found[name], found[other] = inputs[other], inputs[name]
    found["labels"] = 1 - inputs["labels"]
    if "reference_margin" in inputs:
        found["reference_margin"] = -inputs["reference_margin"]
    return found


@pytest.mark.parametrize("name", REGISTRY)
def test_gradients_of_every_objective_agree_with_finite_differences(name: str):
    objective = REGISTRY[name]
    inputs = inputs_of(objective, 3)
    moving = [key for key in inputs if key.startswith(SCORES) and not key.startswith("reference")]
    assert moving

    def loss(*values: Tensor) -> Tensor:
        return losses_of(objective, inputs | dict(zip(moving, values, strict=True)))

    assert torch.autograd.gradcheck(loss, tuple(inputs[key].requires_grad_() for key in moving))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", REGISTRY)
def test_every_objective_and_its_gradient_are_finite_at_ten_thousand(name: str, dtype: torch.dtype):
    objective = REGISTRY[name]
    inputs = inputs_of(objective, 4, dtype)
    moving = [key for key in inputs if key.startswith(SCORES) and not key.startswith("reference")]
    for far in (1e4, -1e4):
        for number, key in enumerate(moving):  # against each other
            sign = -1.0 if objective.tokens_only else (-1.0) ** number
            way = torch.full_like(inputs[key], far * sign)
            if objective.labels in ("lists", "none"):  # what is compared lies in one tensor
                way[..., 1::2] *= -1
            inputs[key] = (-way.abs() if objective.tokens_only else way).requires_grad_()
        losses = losses_of(objective, inputs)
        losses.sum().backward()
        assert losses.isfinite().all()
        for key in moving:
            assert inputs[key].grad.isfinite().all()


@pytest.mark.parametrize("name", PAIRED)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_every_swapped_pair_with_a_turned_label_loses_the_same(name: str, seed: int):
    objective = REGISTRY[name]
    inputs = inputs_of(objective, seed)
    torch.testing.assert_close(losses_of(objective, swapped(inputs)), losses_of(objective, inputs))


@pytest.mark.parametrize("name", REGISTRY)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_every_batch_loses_the_same_in_any_order(name: str, seed: int):
    objective = REGISTRY[name]
    inputs = inputs_of(objective, seed)
    order = torch.randperm(B, generator=torch.Generator().manual_seed(seed))
    moved = {key: each(value, lambda x: x[order]) for key, value in inputs.items()}
    if name == "sami":  # instructions move with their trajectories
        moved["log_likelihoods"] = moved["log_likelihoods"][:, order]
    before, after = losses_of(objective, inputs), losses_of(objective, moved)
    # Where an entry belongs to a rank and not to a pair, nothing moves.
    torch.testing.assert_close(after, before[order] if objective.per_pair else before)


@pytest.mark.parametrize("name", LISTED)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_every_list_loses_the_same_in_whatever_order_its_items_come(name: str, seed: int):
    objective = REGISTRY[name]
    inputs = inputs_of(objective, seed)
    order = torch.randperm(K, generator=torch.Generator().manual_seed(seed))
    moved = {key: value[:, order] for key, value in inputs.items()}
    torch.testing.assert_close(losses_of(objective, moved), losses_of(objective, inputs))


@pytest.mark.parametrize("name", [*PAIRED, *LISTED])
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**31), by=st.floats(0.5, 3))
def test_only_anchored_objectives_see_a_shift_of_all_scores(name: str, seed: int, by: float):
    objective = REGISTRY[name]
    if objective.tokens_only:
        by = -by  # stays a probability
    inputs = inputs_of(objective, seed)
    shifted = {
        key: value + by if key.startswith(("score", "ratios", "log_", "error_")) else value
        for key, value in inputs.items()
    }
    before, after = losses_of(objective, inputs), losses_of(objective, shifted)
    assert torch.allclose(before, after) != (name in ANCHORED)
