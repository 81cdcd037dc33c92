import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from robopref.errors import ConfigError, DataError
from robopref.objectives.gaussian import (
    entropy_margin,
    expected_preference,
    gaussian_entropy,
    label_doubt,
    reparametrised_samples,
)


def test_entropy_agrees_with_torch_distributions():
    deviation = torch.tensor([1e-4, 0.1, 1.0, 7.0])
    expected = torch.distributions.Normal(torch.zeros(4), deviation).entropy()
    torch.testing.assert_close(gaussian_entropy(deviation), expected)


def test_entropy_of_the_standard_normal_is_1_419():
    assert gaussian_entropy(torch.tensor(1.0)).item() == pytest.approx(1.4189385)


def test_margin_is_zero_above_eta_and_the_gap_below():
    # H = eta at deviation exp(eta) / sqrt(2 pi e); a deviation e times smaller has one nat less
    eta = 0.7
    edge = math.exp(eta) / math.sqrt(2 * math.pi * math.e)
    margin = entropy_margin(torch.tensor([edge * 1.01, edge / math.e, edge * 100]), eta)
    torch.testing.assert_close(margin, torch.tensor([0.0, 1.0, 0.0]))


def test_margin_pushes_the_deviation_up_and_only_where_it_is_too_small():
    deviation = torch.tensor([0.1, 3.0], requires_grad=True)
    entropy_margin(deviation, 1.0).sum().backward()
    torch.testing.assert_close(deviation.grad, torch.tensor([-10.0, 0.0]))


def test_samples_have_the_asked_mean_and_deviation():
    mean, deviation = torch.tensor([[2.0, -1.0]]), torch.tensor([[0.5, 3.0]])
    drawn = reparametrised_samples(mean, deviation, 40000, torch.Generator().manual_seed(0))
    assert drawn.shape == (40000, 1, 2)
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.std(0), deviation, atol=0.05, rtol=0)


def test_samples_pass_gradients_to_mean_and_deviation():
    mean = torch.zeros(2, requires_grad=True)
    deviation = torch.ones(2, requires_grad=True)
    drawn = reparametrised_samples(mean, deviation, 3, torch.Generator().manual_seed(0))
    drawn.sum().backward()
    torch.testing.assert_close(mean.grad, torch.full((2,), 3.0))
    torch.testing.assert_close(deviation.grad, drawn.detach().sum(0))  # d/dsigma (0 + eps * 1) = eps


def test_one_seed_gives_one_stream():
    first, again = (
        reparametrised_samples(torch.zeros(3), torch.ones(3), 2, torch.Generator().manual_seed(7))
        for _ in range(2)
    )
    assert torch.equal(first, again)


def test_no_samples_are_refused():
    with pytest.raises(ConfigError, match="samples"):
        reparametrised_samples(torch.zeros(1), torch.ones(1), 0)


def test_expected_preference_is_the_sigmoid_without_variance():
    x = torch.linspace(-5, 5, 11)
    torch.testing.assert_close(expected_preference(x, torch.zeros(11)), torch.sigmoid(x))


@pytest.mark.parametrize("deviation", [0.3, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("difference", [-4.0, 0.0, 0.5, 2.0])
def test_expected_preference_is_within_a_fiftieth_of_the_integral(difference, deviation):
    def integrand(x):
        return stats.norm.pdf(x, difference, deviation) / (1 + np.exp(-x))

    exact, _ = integrate.quad(
        integrand, difference - 10 * deviation, difference + 10 * deviation, limit=200, points=[0.0]
    )
    approximate = expected_preference(torch.tensor(difference), torch.tensor(deviation**2)).item()
    assert approximate == pytest.approx(exact, abs=0.02)


def test_the_doubt_about_what_is_no_label_is_refused():
    with pytest.raises(DataError, match=r"labels must lie in \[0, 1\].*1\.5 at \[0\]"):
        label_doubt(torch.tensor([1.5]))
    with pytest.raises(ConfigError, match="flip_prob must lie"):
        label_doubt(torch.tensor([0.5]), 0.7)
