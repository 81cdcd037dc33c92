import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robopref.errors import DataError
from robopref.objectives import unpaired

UP = torch.tensor([0.06, 0.04, -0.1], dtype=torch.float64)
DOWN = torch.tensor([-0.06, 0.02, 0.15], dtype=torch.float64)
ONES, ZEROS = torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)


def test_kto_equals_the_published_numbers():
    baseline = torch.tensor(0.03, dtype=torch.float64)  # beta 0.1 times a KL of 0.3
    up = unpaired.kto(UP, ONES, baseline=baseline)
    down = unpaired.kto(DOWN, ZEROS, baseline=baseline)
    assert up.tolist() == pytest.approx([0.4925005624, 0.4975000208, 0.5324543064], abs=1e-9)
    assert down.tolist() == pytest.approx([0.4775151752, 0.4975000208, 0.5299640518], abs=1e-9)


def test_bco_equals_the_published_numbers_with_the_mean_of_the_batch_as_shift():
    losses = unpaired.bco(torch.cat([UP, DOWN]), torch.cat([ONES, ZEROS]))
    expected = [0.6725308454, 0.6823725266, 0.7540631742, 0.6547473318, 0.6939808612, 0.7611459643]
    assert losses.tolist() == pytest.approx(expected, abs=1e-9)


def test_the_slope_of_kto_is_steepest_at_the_baseline_and_dies_on_both_sides():
    scores = torch.linspace(-20, 20, 401, dtype=torch.float64, requires_grad=True)
    unpaired.kto(scores, torch.ones(401, dtype=torch.float64), baseline=torch.tensor(0.0)).sum().backward()
    assert scores.grad is not None
    assert scores.grad.abs().max().item() == pytest.approx(0.25)
    assert scores.grad.abs().argmax().item() == 200
    assert scores.grad[0].abs() < 1e-8
    assert scores.grad[-1].abs() < 1e-8


def test_anchored_optimisation_without_pairs_is_kto_with_a_baseline_of_zero():
    got = unpaired.apo_zero_unpaired(torch.cat([UP, DOWN]), torch.cat([ONES, ZEROS]))
    torch.testing.assert_close(got, torch.cat([torch.sigmoid(-UP), torch.sigmoid(DOWN)]))


def test_the_shift_that_bounds_bco_best_is_the_mean_of_both_scores():
    a, b = 1.3, -0.4
    shifts = torch.linspace(-2, 2, 4001, dtype=torch.float64)
    bound = torch.exp(shifts - a) + torch.exp(b - shifts)
    assert shifts[bound.argmin()].item() == pytest.approx((a + b) / 2, abs=1e-3)


def test_running_baseline_follows_the_mean_and_carries_no_gradient():
    scores = UP.clone().requires_grad_()
    first = unpaired.running_baseline(scores)
    assert first.item() == pytest.approx(0.0)
    second = unpaired.running_baseline(torch.ones(2, dtype=torch.float64), first, momentum=0.75)
    assert second.item() == pytest.approx(0.25)
    assert not first.requires_grad
    assert unpaired.mismatched_baseline(-torch.ones(2)).item() == 0


def test_domain_weights_are_odds_within_their_bounds():
    weights = unpaired.domain_weights(torch.tensor([0.0, 0.5, 0.75, 1.0]))
    assert weights.tolist() == pytest.approx([0.5, 1.0, 3.0, 10.0])
    scores, labels = torch.cat([UP, DOWN]), torch.cat([ONES, ZEROS])
    plain, weighed = (
        unpaired.bco(scores, labels, down_weights=w) for w in (None, torch.full_like(scores, 2.0))
    )
    torch.testing.assert_close(weighed, torch.cat([plain[:3], 2 * plain[3:]]))


def test_nft_is_the_softplus_of_the_signed_error_difference():
    difference = torch.tensor([0.3, -0.2])  # error of the policy less that of the reference
    got = unpaired.nft(-0.5 * 4.0 * difference, torch.tensor([1.0, 0.0]))
    expected = [math.log1p(math.exp(2 * 0.3)), math.log1p(math.exp(2 * 0.2))]
    assert got.tolist() == pytest.approx(expected)


def test_rewards_weigh_regression_by_their_differences_alone():
    log_probs, rewards = torch.tensor([-1.0, -2.0]), torch.tensor([0.0, math.log(3.0)])
    got = unpaired.rwr(log_probs, rewards)
    assert got.tolist() == pytest.approx([0.5 * 1.0, 1.5 * 2.0])
    torch.testing.assert_close(unpaired.rwr(log_probs, rewards + 1000), got, rtol=1e-4, atol=0)


def test_advantages_weigh_regression_up_to_a_limit():
    got = unpaired.awr(torch.tensor([-1.0, -1.0]), torch.tensor([math.log(2.0), 1e4]), max_weight=20.0)
    assert got.tolist() == pytest.approx([2.0, 20.0])


def test_unlikelihood_lowers_what_is_bad():
    log_probs = torch.log(torch.tensor([0.3, 0.3], dtype=torch.float64))
    got = unpaired.unlikelihood(log_probs, torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert got.tolist() == pytest.approx([-math.log(0.3), -math.log(0.7)])
    with pytest.raises(DataError, match="not densities"):
        unpaired.unlikelihood(torch.tensor([0.1]), torch.tensor([1.0]))
    sure = torch.zeros(1, requires_grad=True)
    loss = unpaired.unlikelihood(sure, torch.zeros(1)).sum()
    loss.backward()
    assert sure.grad is not None
    assert math.isfinite(loss.item())
    assert sure.grad.isfinite().all()


def test_tokens_say_above_the_threshold_and_buckets_follow_quantiles():
    assert unpaired.advantage_tokens(torch.tensor([-1.0, 0.0, 2.0])).tolist() == [False, False, True]
    assert unpaired.buckets(torch.tensor([5.0, 1.0, 3.0, 100.0]), 2).tolist() == [1, 0, 0, 1]
    assert unpaired.conditional_bc(torch.tensor([-2.0])).tolist() == [2.0]


@settings(max_examples=50, deadline=None)
@given(score=st.floats(-1e4, 1e4, width=32), label=st.floats(0, 1, width=32), shift=st.floats(-5, 5))
def test_turning_score_label_and_shift_leaves_bco_and_nft_as_they_are(
    score: float, label: float, shift: float
):
    s, y, d = (torch.tensor([x], dtype=torch.float64) for x in (score, label, shift))
    torch.testing.assert_close(unpaired.bco(s, y, shift=d[0]), unpaired.bco(-s, 1 - y, shift=-d[0]))
    torch.testing.assert_close(unpaired.nft(s, y), unpaired.nft(-s, 1 - y))


@pytest.mark.parametrize("loss", [unpaired.kto, unpaired.bco, unpaired.nft, unpaired.apo_zero_unpaired])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unpaired_losses_stay_finite_at_scores_of_ten_thousand(loss, dtype: torch.dtype):
    scores = torch.tensor([1e4, -1e4, 1e4, -1e4], dtype=dtype, requires_grad=True)
    losses = loss(scores, torch.tensor([1.0, 1.0, 0.0, 0.5], dtype=dtype))
    losses.sum().backward()
    assert scores.grad is not None
    assert losses.isfinite().all()
    assert scores.grad.isfinite().all()


def test_gradients_of_unpaired_losses_agree_with_finite_differences():
    scores = torch.tensor([0.4, -1.2, 0.7], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([1.0, 0.0, 0.3], dtype=torch.float64)
    fixed = torch.tensor(0.2, dtype=torch.float64)
    for loss in (
        lambda s: unpaired.kto(s, labels, baseline=fixed, up_weight=1.3, down_weight=0.7),
        lambda s: unpaired.bco(s, labels, shift=fixed),
        lambda s: unpaired.nft(s, labels),
        lambda s: unpaired.unlikelihood(s - 2, labels),
        lambda s: unpaired.rwr(s, labels),
        lambda s: unpaired.awr(s, labels),
    ):
        assert torch.autograd.gradcheck(loss, (scores,))


def test_a_batch_of_one_has_no_baseline_of_its_own():
    one = torch.ones(1)
    with pytest.raises(DataError, match="at least 2"):
        unpaired.kto(one, one)
    assert unpaired.kto(one, one, baseline=torch.tensor(0.0)).isfinite().all()


def test_labels_outside_zero_to_one_are_refused():
    for loss in (unpaired.kto, unpaired.bco, unpaired.nft):
        with pytest.raises(DataError, match="labels must lie in"):
            loss(torch.zeros(2), torch.tensor([0.0, -1.0]))
