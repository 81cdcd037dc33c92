import math

import pytest
import torch

from robopref.errors import ConfigError, DataError
from robopref.objectives import diffusion


def one(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def test_diffusion_dpo_gives_the_worked_example():
    loss = diffusion.diffusion_dpo(one(0.10), one(0.12), None, one(0.1002), one(0.1199), beta=5000.0)
    assert loss.item() == pytest.approx(0.3868710061, abs=1e-9)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-0.75)))


def test_diffusion_dpo_at_the_reference_is_exactly_log_two():
    errors = torch.rand(2, 7, dtype=torch.float64)
    loss = diffusion.diffusion_dpo(
        errors[0], errors[1], torch.rand(7, dtype=torch.float64), errors[0], errors[1]
    )
    assert loss.tolist() == pytest.approx([math.log(2)] * 7, abs=1e-15)


def test_the_bounded_link_is_minus_the_logistic_function():
    loss = diffusion.diffusion_dpo(
        one(0.10), one(0.12), None, one(0.1002), one(0.1199), beta=5000.0, link="sigmoid"
    )
    assert loss.item() == pytest.approx(-1 / (1 + math.exp(-0.75)))


def test_inversion_followed_by_ddim_returns_the_actions():
    def predict(noisy: torch.Tensor, number: int) -> torch.Tensor:
        return torch.full_like(noisy, 0.3)  # a predictor that does not depend on the point inverts exactly

    actions = torch.randn(2, 3, 4, dtype=torch.float64)
    noisy = diffusion.invert(predict, actions, torch.tensor([1.0, 0.7, 0.2], dtype=torch.float64))
    torch.testing.assert_close(noisy, math.sqrt(0.2) * actions + math.sqrt(0.8) * 0.3)


def test_inversion_refuses_levels_that_do_not_fall_from_one():
    for levels in ([0.9, 0.5], [1.0, 0.5, 0.6], [1.0, 0.0], [1.0]):
        with pytest.raises(DataError, match="start at 1 and fall"):
            diffusion.invert(lambda x, s: x, torch.zeros(1, 1, 1), torch.tensor(levels))


def test_a_sample_that_loses_is_pushed_away_and_one_that_wins_pulled_along():
    for loses, sign in ((1.0, 1), (0.0, -1)):
        sample = one(0.2).requires_grad_()
        loss = diffusion.seppo(one(0.5), sample, one(loses)).sum()
        loss.backward()
        assert loss.item() == pytest.approx(math.log1p(math.exp(-(0.5 - sign * 0.2))))
        assert sample.grad is not None
        assert sample.grad.item() * sign > 0
    assert diffusion.anchor(one(0.1), one(0.3)).item() == 1.0


def test_ac_flow_with_no_advantage_is_flow_matching_with_an_anchor():
    errors, drifts = torch.rand(2, 3, dtype=torch.float64)
    got = diffusion.ac_flow(errors, drifts, torch.zeros_like(errors), anchor_weight=0.5)
    torch.testing.assert_close(got, errors + 0.5 * drifts)


def test_ac_flow_cuts_advantages_on_both_sides():
    got = diffusion.ac_flow(
        torch.ones(2), torch.zeros(2), torch.tensor([1e4, -1e4]), clip=1.0, temperature=0.5
    )
    assert got.tolist() == pytest.approx([math.exp(2), math.exp(-2)])


def test_negative_aware_flow_is_the_published_form_of_velocities():
    v, old, u = torch.randn(3, 2, 4, 3, dtype=torch.float64)

    def square(x: torch.Tensor) -> torch.Tensor:
        return x.square().mean((1, 2))

    y = torch.tensor([0.3, 1.0], dtype=torch.float64)
    up, down = square(old + 0.7 * (v - old) - u), square(old - 0.7 * (v - old) - u)
    got = diffusion.nft_flow(square(v - u), square(old - u), square(v - old), y, beta=0.7)
    torch.testing.assert_close(got, y * up + (1 - y) * down)


def test_the_best_mixture_has_the_closed_form():
    assert diffusion.best_mixture(4.0, 1.0, 0.5) == pytest.approx(0.125)
    assert diffusion.best_mixture(4.0, 1.0, 0.0) == pytest.approx(1 / 5)
    assert diffusion.best_mixture(1.0, 4.0, 2.0) == 1.0
    assert diffusion.best_mixture(1.0, 1.0, 1.0) == 0.5


def test_the_mixing_weight_beats_every_other_on_the_samples():
    generator = torch.Generator().manual_seed(0)
    truth = torch.ones(6, dtype=torch.float64)
    noisy = truth + torch.randn(500, 6, generator=generator, dtype=torch.float64)
    calm = 1.4 * truth + 0.1 * torch.randn(500, 6, generator=generator, dtype=torch.float64)
    best = diffusion.mixing_weight(noisy, calm, truth)

    def error(alpha: float) -> float:
        return (alpha * noisy + (1 - alpha) * calm - truth).square().sum(-1).mean().item()

    assert min((k / 100 for k in range(101)), key=error) == pytest.approx(best, abs=0.01)
    assert diffusion.mix(one(2.0), one(4.0), 0.25).item() == 3.5


@pytest.mark.parametrize("link", ["logsigmoid", "sigmoid"])
def test_gradients_of_diffusion_losses_agree_with_finite_differences(link: str):
    e = torch.tensor([0.1, 0.3], dtype=torch.float64)
    y = torch.tensor([0.2, 1.0], dtype=torch.float64)
    leaves = (e.clone().requires_grad_(), e.flip(0).requires_grad_())
    assert torch.autograd.gradcheck(
        lambda a, b: diffusion.diffusion_dpo(a, b, y, e + 0.01, e - 0.02, beta=20.0, link=link), leaves
    )


def test_a_large_beta_leaves_loss_and_gradient_finite():
    errors = torch.tensor([4.0, 0.0], requires_grad=True)
    zero = torch.zeros(2)
    loss = diffusion.diffusion_dpo(errors, errors.flip(0), zero, zero, zero, beta=5000.0)
    loss.sum().backward()
    assert errors.grad is not None
    assert loss.isfinite().all()
    assert errors.grad.isfinite().all()


def test_unknown_links_and_mixtures_outside_zero_to_one_are_refused():
    with pytest.raises(ConfigError, match="Did you mean 'sigmoid'"):
        diffusion.diffusion_dpo(one(1), one(1), None, one(1), one(1), link="sigmoyd")
    with pytest.raises(ConfigError, match="alpha must lie in"):
        diffusion.mix(one(1), one(1), 1.5)
