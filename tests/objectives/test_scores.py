import json
import math
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

from robopref.errors import ConfigError, DataError
from robopref.objectives import pairs, scores
from robopref.objectives.divergences import divergence_scores

GOLDEN = json.loads((Path(__file__).parent / "golden_trl_1.16.0.json").read_text())
VALUES = {name: torch.tensor(numbers, dtype=torch.float64) for name, numbers in GOLDEN["inputs"].items()}


def spread(total: torch.Tensor, lengths: torch.Tensor, fill: float = float("nan")):
    """Log-probabilities per token that sum to the totals, with padding that must not be counted."""
    steps = torch.arange(6)
    mask = steps < lengths[:, None]
    return torch.where(mask, (total / lengths)[:, None], fill), mask


def test_padding_is_never_counted_and_sends_no_gradient_back():
    w, mask = spread(VALUES["chosen"], VALUES["len_chosen"])
    reference, _ = spread(VALUES["ref_chosen"], VALUES["len_chosen"])
    w.requires_grad_()
    ratio = scores.log_ratio(w, reference, mask)
    torch.testing.assert_close(ratio, VALUES["chosen"] - VALUES["ref_chosen"])
    ratio.sum().backward()
    assert w.grad is not None
    assert torch.equal(w.grad, mask.double())


def test_length_normalised_dpo_is_dpo_of_mean_log_ratios():
    both = []
    for side in ("chosen", "rejected"):
        policy, mask = spread(VALUES[side], VALUES[f"len_{side}"])
        reference, _ = spread(VALUES[f"ref_{side}"], VALUES[f"len_{side}"])
        both.append(0.1 * scores.log_ratio(policy, reference, mask, reduce="mean"))
    golden = GOLDEN["dpo"]["sigmoid_norm|beta=0.1|ls=0.0"]["per_example"]
    assert pairs.bradley_terry(both[0], both[1], None).tolist() == pytest.approx(golden, rel=0, abs=1e-9)


def test_desensitised_log_ratio_counts_the_tail_by_its_weight():
    ratios = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
    mask = torch.tensor([[True, True, True, False]])
    zero = torch.zeros_like(ratios)
    got = scores.desensitised_log_ratio(ratios, zero, mask, torch.tensor([2]), tail_weight=0.5)
    assert got.item() == 1 + 2 + 0.5 * 4
    whole = scores.desensitised_log_ratio(ratios, zero, mask, torch.tensor([2]), tail_weight=1.0)
    assert whole.item() == 7
    lengths = torch.tensor([2])
    same = scores.desensitised_log_ratio(ratios, ratios, mask, lengths, reference_too=True)
    assert same.item() == 0


def test_the_power_of_the_reference_gives_dpo_gamma():
    policy, reference = torch.tensor([[-3.0, -1.0]]), torch.tensor([[-2.0, -4.0]])
    assert scores.log_ratio(policy, reference, reference_power=0.25).item() == pytest.approx(-4 + 0.25 * 6)
    assert scores.log_ratio(policy, reference, reference_power=0.0).item() == pytest.approx(
        scores.log_likelihood(policy, reduce="sum").item()
    )


def test_stages_weigh_their_steps():
    ratios = torch.tensor([[1.0, 1.0, 2.0, float("nan")]])
    stages = torch.tensor([[0, 0, 1, 7]])
    mask = torch.tensor([[True, True, True, False]])
    got = scores.stage_log_ratio(ratios, stages, torch.tensor([0.5, 3.0]), mask)
    assert got.item() == 0.5 * 2 + 3 * 2
    with pytest.raises(DataError, match=r"stages must lie in 0 \.\.\. 1"):
        scores.stage_log_ratio(ratios, stages, torch.tensor([0.5, 3.0]))


def test_surrogate_of_a_policy_equal_to_its_reference_is_zero_and_its_loss_log_two():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 5, 4, 2, generator=generator)
    draws = scores.draw(a, 8, generator)

    def error(actions: torch.Tensor, drawn: scores.Draws) -> torch.Tensor:
        points, velocity = scores.flow_path(actions, drawn)
        return (0.3 * points - velocity).square().mean((-2, -1))

    ratio_a, ratio_b = scores.pair_log_ratios(error, error, a, b, draws)
    assert ratio_a.abs().max() == 0
    loss = pairs.bradley_terry(5000 * ratio_a, 5000 * ratio_b, None)
    assert loss.tolist() == pytest.approx([math.log(2)] * 5)


def test_shared_draws_spread_the_margin_far_less_than_independent_ones():
    generator = torch.Generator().manual_seed(1)
    actions = torch.randn(1, 4, 2, generator=generator)
    other = actions + 0.05

    def error(gain: float):
        def of(chunk: torch.Tensor, drawn: scores.Draws) -> torch.Tensor:
            points, velocity = scores.flow_path(chunk, drawn)
            return (gain * points - velocity).square().mean((-2, -1))

        return of

    shared, apart = [], []
    for _ in range(200):
        first, second = scores.draw(actions, 4, generator), scores.draw(actions, 4, generator)
        a, b = scores.pair_log_ratios(error(0.31), error(0.3), actions, other, first)
        shared.append((a - b).item())
        loose = scores.surrogate_log_ratio(error(0.31)(actions, first), error(0.3)(actions, second))
        apart.append(loose.item())
    assert torch.tensor(shared).std() * 20 < torch.tensor(apart).std()


def test_flow_path_runs_from_noise_to_the_action():
    actions = torch.tensor([[[2.0]]])
    noise = torch.tensor([[[[-1.0]]]] * 3)
    points, velocity = scores.flow_path(actions, scores.Draws(torch.tensor([[0.0], [0.25], [1.0]]), noise))
    assert points.flatten().tolist() == [-1.0, -0.25, 2.0]
    assert velocity.flatten().tolist() == [3.0, 3.0, 3.0]


def test_draws_are_repeatable_and_stratified_over_time():
    actions = torch.zeros(3, 2, 1)
    one, two = (scores.draw(actions, 10, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one.noise, two.noise)
    assert torch.equal((one.times * 10).floor(), torch.arange(10.0)[:, None].expand(10, 3))


def test_alpha_divergence_runs_from_the_reverse_to_the_forward_kl():
    ell = torch.linspace(-3, 3, 13, dtype=torch.float64)
    torch.testing.assert_close(
        divergence_scores(ell, "alpha", alpha=1.0), divergence_scores(ell, "forward_kl")
    )
    near = divergence_scores(ell, "alpha", alpha=1e-7)
    torch.testing.assert_close(near, ell, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["reverse_kl", "forward_kl", "js", "alpha"])
def test_divergence_scores_are_zero_at_the_reference_rise_and_stay_finite(kind: str):
    assert divergence_scores(torch.zeros(1), kind).item() == pytest.approx(0)
    ell = torch.tensor([-1e4, -100.0, -2.0, 0.0, 2.0, 100.0, 1e4], requires_grad=True)
    values = divergence_scores(ell, kind)
    values.sum().backward()
    assert ell.grad is not None
    assert values.isfinite().all()
    assert ell.grad.isfinite().all()
    assert (values.diff() >= 0).all()
    inner = torch.linspace(-2, 2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: divergence_scores(x, kind), (inner,))


def test_bad_scores_are_refused_with_a_sentence():
    ones, none = torch.ones(2, 3), torch.tensor([[True, False, False], [False] * 3])
    with pytest.raises(DataError, match=r"Row \[1\] of the mask keeps fewer than 1 step"):
        scores.over_steps(ones, none)
    with pytest.raises(ConfigError, match="Did you mean 'mean'"):
        scores.over_steps(ones, reduce="means")
    with pytest.raises(ConfigError, match="No divergence is called 'kl'"):
        divergence_scores(ones[0], "kl")
    with pytest.raises((DataError, TypeCheckError)):
        scores.log_ratio(ones, torch.ones(2, 4))
    with pytest.raises((DataError, TypeCheckError)):
        scores.Draws(torch.zeros(3, 2), torch.zeros(3, 4, 1, 1))


def test_desensitised_dpo_equals_the_golden_number_of_trl():
    shared = torch.minimum(VALUES["len_chosen"], VALUES["len_rejected"]).long()
    both = []
    for side in ("chosen", "rejected"):
        policy, mask = spread(VALUES[side], VALUES[f"len_{side}"])
        reference, _ = spread(VALUES[f"ref_{side}"], VALUES[f"len_{side}"])
        both.append(0.1 * scores.desensitised_log_ratio(policy, reference, mask, shared, tail_weight=0.5))
    loss = pairs.bradley_terry(both[0], both[1], None).mean().item()
    assert loss == pytest.approx(GOLDEN["dpo"]["sigmoid|ld_alpha=0.5|beta=0.1"], rel=0, abs=1e-9)
