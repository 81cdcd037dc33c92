import math

import pytest
import torch

from robopref.errors import DataError
from robopref.objectives import audits, contrast, merging, pairs


def test_ranking_accuracy_counts_decided_pairs_and_half_of_tied_scores():
    a, b = torch.tensor([1.0, 0.0, 2.0, 9.0]), torch.tensor([0.0, 1.0, 2.0, 0.0])
    labels = torch.tensor([1.0, 1.0, 0.0, 0.5])
    assert audits.ranking_accuracy(a, b, labels) == pytest.approx((1 + 0 + 0.5) / 3)
    assert audits.reward_accuracy(b, a, 1 - labels) == pytest.approx((1 + 0 + 0.5) / 3)
    with pytest.raises(DataError, match="Every label is a tie"):
        audits.ranking_accuracy(a, b, torch.full((4,), 0.5))


def test_ranking_thresholds_equal_the_published_numbers():
    c = torch.tensor([-2.0, 0.0, 2.0, 10.0, 40.0], dtype=torch.float64)
    expected = [0.7981388694, 0.6931471806, 0.5981388694, 0.3132616875, 0.0181499279]
    assert audits.ranking_threshold(c, beta=0.1).tolist() == pytest.approx(expected, abs=1e-9)


def test_a_pair_is_ranked_right_exactly_when_its_dpo_loss_meets_the_threshold():
    generator = torch.Generator().manual_seed(0)
    policy_w, policy_l, ref_w, ref_l = 10 * torch.randn(4, 20_000, generator=generator, dtype=torch.float64)
    loss = pairs.bradley_terry(0.1 * (policy_w - ref_w), 0.1 * (policy_l - ref_l), None)
    hard = audits.difficulty(ref_w, ref_l, torch.ones(20_000, dtype=torch.float64))
    meets = loss <= audits.ranking_threshold(hard, beta=0.1)
    assert torch.equal(meets, policy_w >= policy_l)


def test_idealised_accuracy_is_that_of_the_closed_form_optimum():
    generator = torch.Generator().manual_seed(1)
    ref_a, ref_b = 8 * torch.randn(2, 10_000, generator=generator, dtype=torch.float64)
    labels = torch.rand(10_000, generator=generator, dtype=torch.float64)
    # The optimum of DPO has beta * (log-ratio margin) = logit(label).
    optimum_a = ref_a + torch.logit(labels) / 0.1
    expected = audits.ranking_accuracy(optimum_a, ref_b, labels)
    assert audits.idealised_accuracy(ref_a, ref_b, labels, beta=0.1) == pytest.approx(expected)
    assert audits.difficulty(
        ref_a[:1], ref_b[:1], torch.zeros(1, dtype=torch.float64)
    ).item() == pytest.approx((ref_a[0] - ref_b[0]).item())


def test_area_under_the_curve_is_the_share_of_right_pairs():
    scores = torch.tensor([3.0, 1.0, 2.0, 1.0, 0.0])
    positive = torch.tensor([True, True, False, False, False])
    wins = [1, 1, 1, 0, 0.5, 1]
    assert audits.area_under_curve(scores, positive) == pytest.approx(sum(wins) / 6)


def test_the_separability_probe_sees_a_short_cut_and_no_ghost():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 200, 4, generator=generator)
    blind = audits.separability(first, second, generator=torch.Generator().manual_seed(1))
    first[:, 2] += 4.0
    seen = audits.separability(first, second, generator=torch.Generator().manual_seed(1))
    assert blind == pytest.approx(0.5, abs=0.1)
    assert seen > 0.98
    constant = torch.ones(10, 2)
    assert audits.separability(constant, constant, generator=torch.Generator()) == 0.5
    with pytest.raises(DataError, match="finite"):
        audits.separability(constant * math.nan, constant, generator=torch.Generator())


def test_swapped_order_names_a_judge_that_prefers_what_comes_last():
    first = torch.tensor([0.9, 0.2, 0.1, 0.5])
    swapped = torch.tensor([0.8, 0.9, 0.7, 0.5])
    got = audits.swapped_order(first, swapped)
    assert got["consistent"] == 0.5
    assert got["flipped"] == 0.5
    assert got["later_position"] == 1.0
    assert got["gap"] == pytest.approx((0.1 + 0.7 + 0.6 + 0.0) / 4)


def test_factor_agreement_is_kendalls_tau_of_differences_and_drift_its_change():
    a = torch.tensor([[2.0, 5.0, 1.0], [0.0, 5.0, 1.0], [3.0, 5.0, 1.0]])
    b = torch.tensor([[1.0, 5.0, 2.0], [1.0, 5.0, 0.0], [1.0, 5.0, 1.0]])
    got = audits.factor_agreement(a, b, torch.tensor([1.0, 0.0, 1.0]))
    assert got.tolist() == [1.0, 0.0, -1.0]
    assert audits.drift(torch.stack([got, -got])).tolist() == [-2.0, 0.0, 2.0]


def test_personalisation_and_conflict_are_shares():
    got = audits.personalisation_delta(torch.tensor([0.9, 0.5]), torch.tensor([0.7, 0.6]))
    assert got["mean_gain"] == pytest.approx(0.05)
    assert got["share_worse"] == 0.5
    conflict = audits.weak_to_strong_conflict(
        torch.tensor([1.0, 1.0, 1.0, 1.0]),
        torch.tensor([0.1, 0.1, 2.0, 2.0]),
        torch.tensor([1.0, 1.0, -1.0, 1.0]),
    )
    assert conflict == {"known": 0.0, "unknown": 0.5}


def test_metric_weights_sum_to_one_and_a_penalty_of_zero_is_the_soup():
    assert merging.metric_weights([0.2, 0.6]) == pytest.approx([0.25, 0.75])
    assert merging.metric_weights([0.2, 0.6], lower_is_better=True) == pytest.approx([0.75, 0.25])
    assert merging.metric_weights([0.2, 0.6], penalty=0.0) == pytest.approx([0.5, 0.5])
    assert merging.metric_weights([0.4, 0.4, 0.4], penalty=7.0) == pytest.approx([1 / 3] * 3)
    with pytest.raises(DataError, match="above 0"):
        merging.metric_weights([0.5, 0.0])


def test_merging_copies_of_a_checkpoint_gives_it_back():
    state = {"weight": torch.randn(3, 2), "steps": torch.tensor(7)}
    merged = merging.average([state] * 3, [0.2, 0.3, 0.5])
    assert torch.equal(merged["weight"], state["weight"])
    assert merged["steps"].item() == 7
    moved = merging.average([state, {**state, "weight": state["weight"] + 1}], [0.25, 0.75])
    torch.testing.assert_close(moved["weight"], state["weight"] + 0.75)
    assert merging.running_average(moved, state, momentum=0.9)["steps"].item() == 7


def test_foreign_checkpoints_are_not_merged():
    state = {"weight": torch.zeros(2)}
    for others, weights, said in (
        ([state, {"bias": torch.zeros(2)}], None, "different networks"),
        ([state, {"weight": torch.zeros(3)}], None, "shapes"),
        ([state, state], [0.5, 0.6], "sum to one"),
        ([], None, "no checkpoint"),
        ([{"n": torch.tensor(1)}, {"n": torch.tensor(2)}], None, "whole numbers that differ"),
    ):
        with pytest.raises(DataError, match=said):
            merging.average(others, weights)


def test_adapters_average_as_full_changes_and_not_factor_by_factor():
    downs, ups = torch.randn(3, 2, 5, dtype=torch.float64), torch.randn(3, 4, 2, dtype=torch.float64)
    expected = (0.2 * ups[0] @ downs[0]) + (0.3 * ups[1] @ downs[1]) + (0.5 * ups[2] @ downs[2])
    down, up = merging.average_adapters(list(downs), list(ups), [0.2, 0.3, 0.5])
    torch.testing.assert_close(up @ down, expected)
    full_down, full_up = merging.average_adapters(list(downs), list(ups), [0.2, 0.3, 0.5], rank=4)
    torch.testing.assert_close(full_up @ full_down, expected)
    small_down, small_up = merging.average_adapters(list(downs), list(ups), [0.2, 0.3, 0.5], rank=1)
    sizes = torch.linalg.svdvals(expected)
    assert torch.linalg.matrix_norm(small_up @ small_down - expected, 2).item() == pytest.approx(
        sizes[1].item()
    )


def test_mutual_information_is_log_of_the_batch_for_scores_that_say_nothing():
    assert contrast.mutual_information(torch.zeros(4, 4)).tolist() == pytest.approx([math.log(4)] * 4)
    told = contrast.mutual_information(torch.eye(4) * 1e4)
    assert told.tolist() == pytest.approx([0.0] * 4)
    with pytest.raises(DataError, match="at least 2 of each"):
        contrast.mutual_information(torch.zeros(1, 1))


def test_contrasts_of_context_are_bradley_terry():
    a, b = torch.tensor([1.0]), torch.tensor([0.5])
    expected = pairs.bradley_terry(a, b, None)
    torch.testing.assert_close(contrast.same_behaviour(a, b), expected)
    torch.testing.assert_close(
        contrast.with_visual_preference(torch.ones(1), a, b, weight=2.0), 1 + 2 * expected
    )


def test_the_collapse_gate_names_what_went_wrong_and_takes_nan_for_a_collapse():
    assert audits.collapse(-0.9, 9.0) == {"chosen_change": -0.9, "kl": 9.0, "collapsed": False, "reason": ""}
    fallen = audits.collapse(-1.5, 0.2)
    assert fallen["collapsed"]
    assert "lost 1.5 nats" in str(fallen["reason"])
    assert "divergence" not in str(fallen["reason"])
    assert "11 nats" in str(audits.collapse(0.0, 11.0)["reason"])
    assert audits.collapse(float("nan"), 0.0)["collapsed"]
    assert not audits.collapse(-1.5, 20.0, fall=2.0, drift=30.0)["collapsed"]


def test_what_a_linear_score_looks_at_is_its_weights_times_the_spread():
    # both entries spread by 1 and 3 over the batch: |2 * 1| against |-1 * 3|
    observations = torch.tensor([[[1.0, 3.0]], [[-1.0, -3.0]]])
    weights = torch.tensor([2.0, -1.0])
    share = audits.attention_share(lambda x: (x @ weights).sum(1), observations, [1])
    assert share.tolist() == pytest.approx([0.6, 0.6])
    with pytest.raises(DataError, match=r"got \[2\]"):
        audits.attention_share(lambda x: x.sum((1, 2)), observations, [2])
