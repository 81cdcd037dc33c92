import json
import math
from pathlib import Path

import pytest
import torch

from robopref.errors import ConfigError, DataError
from robopref.objectives import reference_free as free
from robopref.objectives.unpaired import unlikelihood

GOLDEN = json.loads((Path(__file__).parent / "golden_trl_1.16.0.json").read_text())
VALUES = {name: torch.tensor(numbers, dtype=torch.float64) for name, numbers in GOLDEN["inputs"].items()}
W, L = VALUES["chosen"], VALUES["rejected"]
MEAN_W, MEAN_L = W / VALUES["len_chosen"], L / VALUES["len_rejected"]


@pytest.mark.parametrize("key", GOLDEN["cpo"])
def test_losses_without_a_reference_equal_the_golden_numbers_of_trl(key: str):
    kind, *rest = key.split("|")
    options = dict(part.split("=") for part in rest)
    beta, alpha = float(options["beta"]), float(options["alphapo"])
    a, b = (MEAN_W, MEAN_L) if options["lennorm"] == "True" else (W, L)
    if kind == "simpo":
        got = free.simpo(a, b, None, beta=beta, margin=0.5, alpha=alpha)
    else:
        got = free.cpo(a, b, None, beta=beta, imitation_weight=0.0, link=kind)
    assert got.tolist() == pytest.approx(GOLDEN["cpo"][key], rel=0, abs=1e-9)


def test_the_odds_ratio_term_equals_the_golden_numbers_of_trl():
    # These were measured in float32 (all other golden numbers in float64), so they are good to its rounding.
    golden = GOLDEN["orpo"]["losses_beta0.1_lennorm (TRL adds  nll - losses.mean())"]
    term = -MEAN_W - free.orpo(MEAN_W, MEAN_L, None)
    assert term.tolist() == pytest.approx(golden, rel=0, abs=7.5e-9)
    odds = free.odds_ratio(MEAN_W.float(), MEAN_L.float()).mean().item()
    assert odds == pytest.approx(GOLDEN["orpo"]["log_odds_mean"], rel=0, abs=6e-8)


def test_imitation_adds_the_winners_negative_log_likelihood():
    y = torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64)
    extra = free.cpo(W, L, y, imitation_weight=2.0) - free.cpo(W, L, y, imitation_weight=0.0)
    torch.testing.assert_close(extra, -2.0 * (y * W + (1 - y) * L))


def test_triple_optimisation_learns_from_a_demonstration_as_well():
    nll = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    got = free.triple(W, L, None, nll, beta=0.1, imitation_weight=0.5)
    expected = free.cpo(W, L, None, beta=0.1, imitation_weight=0.0) + 0.5 * nll
    torch.testing.assert_close(got, expected)


LOSSES = {
    "cpo": free.cpo,
    "simpo": free.simpo,
    "alphapo": lambda a, b, y: free.simpo(a, b, y, alpha=0.25),
    "triple": lambda a, b, y: free.triple(a, b, y, a * 0 + 1),
    "orpo": free.orpo,
}


@pytest.mark.parametrize("name", LOSSES)
def test_swap_and_finite_differences_hold_without_a_reference(name: str):
    y = torch.tensor([1.0, 0.0, 0.3], dtype=torch.float64)
    loss = LOSSES[name]
    torch.testing.assert_close(loss(MEAN_W, MEAN_L, y), loss(MEAN_L, MEAN_W, 1 - y))
    leaves = (MEAN_W.clone().requires_grad_(), MEAN_L.clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, y), leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_without_a_reference_stay_finite_at_log_probabilities_of_minus_ten_thousand(name, dtype):
    a = torch.tensor([-1e4, 0.0, -1e4, 0.0, -1e-6], dtype=dtype, requires_grad=True)
    b = torch.tensor([0.0, -1e4, -1e4, 0.0, -1e-6], dtype=dtype, requires_grad=True)
    losses = LOSSES[name](a, b, torch.tensor([1.0, 0.0, 0.5, 1.0, 1.0], dtype=dtype))
    losses.sum().backward()
    assert a.grad is not None
    assert losses.isfinite().all()
    assert a.grad.isfinite().all()


def test_orpo_refuses_densities_with_the_reason():
    with pytest.raises(
        DataError, match=r"log_prob_a must lie in .*density of continuous actions has no odds.*0\.3"
    ):
        free.orpo(torch.tensor([-1.0, 0.3]), torch.tensor([-1.0, -2.0]), None)
    with pytest.raises(ConfigError, match="link must be"):
        free.cpo(W, L, None, link="simpo")


def test_a_probability_of_zero_is_refused_since_no_gradient_leads_from_it():
    never = torch.tensor([-1.0, -math.inf])
    for call in (
        lambda: free.orpo(never, -torch.ones(2), None),
        lambda: free.orpo(-torch.ones(2), never, torch.tensor([0.0, 1.0])),
        lambda: unlikelihood(never, torch.tensor([1.0, 0.0])),
    ):
        with pytest.raises(DataError, match=r"finite; .*-inf at \[1\]"):
            call()
