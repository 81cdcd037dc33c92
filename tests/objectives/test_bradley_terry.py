import math

import pytest
import torch

from robopref.errors import ConfigError, DataError
from robopref.objectives.bradley_terry import preference_logits, preference_loss, sign_accuracy


def test_loss_of_a_coin_toss_is_log_two_whatever_the_label():
    for label in (0.0, 0.3, 0.5, 1.0):
        loss = preference_loss(torch.zeros(3), torch.full((3,), label))
        assert loss.item() == pytest.approx(math.log(2))


def test_loss_worked_by_hand():
    # P(a) = e^2 / (e^2 + e^0): -log P(a) = log(1 + e^-2); for b preferred, 2 more
    logits = preference_logits(torch.tensor([2.0, 2.0]), torch.tensor([0.0, 0.0]))
    loss = preference_loss(logits, torch.tensor([1.0, 0.0]))
    assert loss.item() == pytest.approx(math.log1p(math.exp(-2)) + 1)


def test_soft_label_mixes_the_two_hard_ones():
    logits = torch.tensor([0.7])
    one, zero, soft = (preference_loss(logits, torch.tensor([y])).item() for y in (1.0, 0.0, 0.8))
    assert soft == pytest.approx(0.8 * one + 0.2 * zero)


def test_swapping_segments_and_labels_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(9, generator=generator), torch.rand(9, generator=generator)
    torch.testing.assert_close(preference_loss(logits, labels), preference_loss(-logits, 1 - labels))


def test_a_shift_of_all_rewards_changes_nothing():
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 4.0])
    torch.testing.assert_close(preference_logits(a, b), preference_logits(a + 10, b + 10))


def test_a_pair_of_weight_two_counts_as_two_pairs():
    logits, labels = torch.tensor([0.3, -1.0]), torch.tensor([1.0, 1.0])
    weighted = preference_loss(logits, labels, weights=torch.tensor([2.0, 1.0]))
    repeated = preference_loss(torch.tensor([0.3, 0.3, -1.0]), torch.ones(3))
    torch.testing.assert_close(weighted, repeated)


def test_weight_zero_removes_a_pair_and_its_gradient():
    logits = torch.tensor([0.3, -1.0], requires_grad=True)
    preference_loss(logits, torch.ones(2), weights=torch.tensor([1.0, 0.0])).backward()
    assert logits.grad is not None
    assert logits.grad[1] == 0
    assert logits.grad[0].item() == pytest.approx(torch.sigmoid(torch.tensor(0.3)).item() - 1)


def test_weights_that_are_all_zero_give_zero():
    assert preference_loss(torch.ones(2), torch.ones(2), weights=torch.zeros(2)).item() == 0


def test_flipped_labels_worked_by_hand():
    loss = preference_loss(torch.tensor([2.0]), torch.tensor([1.0]), flip_prob=0.1)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-2)) + 0.1 * 2)


def test_axes_in_front_are_kept_apart():
    logits = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    labels, weights = torch.rand(5), torch.rand(5)
    losses = preference_loss(logits, labels, weights=weights)
    assert losses.shape == (4, 3)
    torch.testing.assert_close(losses[2, 1], preference_loss(logits[2, 1], labels, weights=weights))


def test_gradient_agrees_with_finite_differences():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    labels, weights = (torch.rand(6, generator=generator, dtype=torch.float64) for _ in range(2))
    assert torch.autograd.gradcheck(
        lambda z: preference_loss(z, labels, weights=weights, flip_prob=0.05).sum(), (logits,)
    )


def test_extreme_returns_stay_finite():
    logits = preference_logits(torch.tensor([1e4, -1e4]), torch.tensor([-1e4, 1e4]))
    assert preference_loss(logits, torch.tensor([1.0, 0.0])).item() == 0
    assert preference_loss(logits, torch.tensor([0.0, 1.0])).item() == pytest.approx(2e4)


@pytest.mark.parametrize("flip_prob", [-0.1, 0.5, float("nan")])
def test_flip_prob_outside_its_range_is_refused(flip_prob):
    with pytest.raises(ConfigError, match="flip_prob"):
        preference_loss(torch.zeros(1), torch.zeros(1), flip_prob=flip_prob)


@pytest.mark.parametrize("label", [-0.1, 1.5, float("nan")])
def test_labels_outside_their_range_are_refused(label):
    with pytest.raises(DataError, match=r"labels must lie in \[0, 1\]"):
        preference_loss(torch.zeros(2), torch.tensor([1.0, label]))


def test_zero_pairs_are_refused():
    with pytest.raises(DataError, match="zero pairs"):
        preference_loss(torch.zeros(0), torch.zeros(0))


def test_accuracy_worked_by_hand_leaves_ties_out_and_counts_every_head():
    labels = torch.tensor([1.0, 0.2, 0.5, 0.9])
    one = torch.tensor([2.0, 1.0, 3.0, 0.1])  # right, wrong, tied, right
    assert sign_accuracy(one, labels).item() == pytest.approx(2 / 3)
    both = torch.stack([one, -one])  # and wrong, right, tied, wrong
    assert sign_accuracy(both, labels).item() == pytest.approx(3 / 6)
    assert sign_accuracy(both, torch.full((4,), 0.5)).item() == 0
