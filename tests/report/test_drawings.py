import re

import numpy as np
import pytest

from robopref.report.figures import (
    learning_curves,
    rank_correlation,
    reliability,
    reward_trace,
    success_bars,
    success_by_round,
)
from robopref.report.gather import read_run
from robopref.report.groups import Spread, Success, gather, wilson_interval
from robopref.report.matrices import accuracy_by_confidence, couplings, label_matrices, quality_order
from robopref.report.runs import Alignment, Reliability, RewardMetrics, Rollout
from robopref.report.style import diverging, inline_svg, sequential


def labels_of(returns):
    returns = np.array(returns, dtype=float)
    return (returns[:, None] > returns) + 0.5 * (returns[:, None] == returns)


def alignment(labels, confidence=None, truth=None, plans=None, source_labels=None):
    return Alignment(labels, confidence, truth, plans or {}, source_labels or {}, {})


def test_true_labels_order_episodes_by_return():
    assert quality_order(labels_of([3, 1, 4, 2])).tolist() == [1, 3, 0, 2]


def test_unknown_labels_do_not_spoil_the_order():
    labels = labels_of([3, 1, 4, 2])
    labels[0, 2] = labels[2, 0] = np.nan
    assert quality_order(labels)[0] == 1


def test_accuracy_by_confidence_by_hand():
    truth = labels_of([1, 2, 3, 4, 5])
    labels = truth.copy()
    sure = np.ones((5, 5))
    for i, j in ((0, 1), (0, 2)):  # the two pairs that are wrong are the least sure
        labels[i, j], labels[j, i] = labels[j, i], labels[i, j]
        sure[i, j] = sure[j, i] = 0.1
    sure[3, 4] = sure[4, 3] = 0.2
    quarters = accuracy_by_confidence(alignment(labels, sure, truth))
    assert quarters is not None
    assert [count for _, count, _ in quarters] == [3, 3, 2, 2]
    assert [share for _, _, share in quarters] == pytest.approx([1 / 3, 1, 1, 1])


def test_equally_sure_labels_are_not_split():
    truth = labels_of([1, 2, 3, 4])
    assert accuracy_by_confidence(alignment(truth, np.ones((4, 4)), truth)) is None
    assert accuracy_by_confidence(alignment(truth, None, truth)) is None
    assert accuracy_by_confidence(alignment(truth, np.ones((4, 4)), None)) is None


def test_judged_pairs_leave_out_ties_and_unknown_labels():
    labels = labels_of([1, 2, 3])
    labels[0, 1] = labels[1, 0] = np.nan
    assert alignment(labels, truth=labels_of([1, 2, 2])).judged_pairs == 1


def test_label_colours_tell_better_from_worse_and_unknown():
    image = diverging(np.array([[1.0, 0.0], [0.5, np.nan]]))
    better, worse, even, unknown = image.reshape(4, 4)
    assert better[2] > better[0]  # blue
    assert worse[0] > worse[2]  # orange
    assert even[3] == 0
    assert unknown[0] == unknown[1] == unknown[2] > 0
    assert sequential(np.array([[0.0, 1.0]]))[0, :, 3].tolist() == [0, 255]


def test_a_label_figure_without_truth_says_so():
    drawing = label_matrices(alignment(labels_of([1, 2, 3])), key="k")
    assert len(drawing.panels) == 1
    assert "not known" in drawing.caption
    assert "n = 3 episodes, 3 pairs" in drawing.caption


def test_a_coupling_with_empty_columns_is_drawn():
    plan = np.zeros((3, 4))
    plan[0, 1] = 1
    drawing = couplings(alignment(labels_of([1, 2, 3, 4]), plans={"door": plan}), key="k")
    assert drawing is not None
    assert "door: 3 to 4" in drawing.caption
    assert "order of their store" in drawing.caption


def test_source_episodes_are_sorted_by_their_labels_where_these_are_kept():
    drawing = couplings(
        alignment(labels_of([1, 2]), plans={"door": np.eye(2)}, source_labels={"door": labels_of([5, 1])}),
        key="k",
    )
    assert drawing is not None
    assert "rising diagonal" in drawing.caption


def test_rank_correlation_by_hand():
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([10.0, 20, 900])) == pytest.approx(1)
    assert rank_correlation(np.array([1.0, 2, 3, 4]), np.array([2.0, 1, 4, 3])) == pytest.approx(0.6)
    assert rank_correlation(np.array([1.0, 2, 2]), np.array([1.0, 2, 2])) == pytest.approx(1)
    assert rank_correlation(np.ones(3), np.arange(3.0)) is None


def test_digits_of_text_survive_the_shortening_of_coordinates(make_run, tmp_path):
    run = read_run(make_run(tmp_path / "r"))
    assert run.reward is not None
    drawing = reliability(run.reward, key="k")
    assert drawing is not None
    assert ">ECE 0.032<" in drawing.panels[0].svg


def test_an_svg_carries_nothing_of_a_stand_alone_file(make_run, tmp_path):
    (group,) = gather([make_run(tmp_path / "r")]).groups
    drawing = success_bars(group, key="k")
    svg = drawing.panels[0].svg
    assert "http" not in svg
    assert "<metadata" not in svg
    assert "<style" not in svg
    assert all(name.startswith("k-") for name in re.findall(r'\bid="([^"]*)"', svg))
    assert "var(--series-1)" in svg
    assert "#0400" not in svg
    for number in ("42/50 = 84%", "11/50 = 22%", "19/50 = 38%"):
        assert number in svg


def success(policy, wins, n=100):
    low, high = wilson_interval(wins, n)
    return Success(policy, False, wins, n, low, high, (wins / n,), 0.0, Spread(0.0, 0.0, 0.0, 1))


def test_rounds_are_drawn_from_the_start_on_and_nothing_where_there_is_none():
    rows = [success("supervised", 40), success("grape-round1", 50), success("grape-round2", 100)]
    rows += [success("filtered-bc-round1", 0), success("grape", 100)]
    drawing = success_by_round(rows, key="k")
    assert drawing is not None
    svg = drawing.panels[0].svg
    assert svg.count(">grape<") == svg.count(">filtered-bc<") == 1
    assert [f">{n}<" in svg for n in range(4)] == [True, True, True, False]  # ticks
    assert success_by_round(rows[:1], key="k") is None


def test_the_description_of_an_svg_is_escaped():
    svg = inline_svg('<svg viewBox="0 0 1 1"></svg>', key="k", description='"><script>')
    assert "<script>" not in svg


def test_every_seed_and_their_mean_are_drawn(make_run, tmp_path):
    runs = [read_run(make_run(tmp_path / str(s), seed=s)) for s in range(2)]
    drawing = learning_curves(runs, key="k")
    assert drawing is not None
    assert "2 seeds" in drawing.caption
    titles = [re.search(r'aria-label="([^"]*)"', p.svg) for p in drawing.panels]
    assert [t.group(1) for t in titles if t] == [
        "train-reward: loss over steps",
        "train-reward: accuracy over steps",
        "train-policy: value_loss over steps",
        "train-policy: policy_loss over steps",
    ]


def test_one_bin_of_perfect_predictions_can_be_drawn():
    curve = Reliability(np.array([1.0]), np.array([1.0]), np.array([3.0]))
    assert reliability(RewardMetrics(1.0, None, 0.0, 3, curve), key="k") is not None
    empty = Reliability(np.array([0.6, 0.9]), np.array([np.nan, 0.8]), np.array([0.0, 5.0]))
    assert reliability(RewardMetrics(0.8, None, None, 5, empty), key="k") is not None


@pytest.mark.parametrize("predicted", [None, np.zeros(4)])
def test_a_flat_rollout_can_be_drawn(predicted):
    rollout = Rollout(
        0, "p", 1, False, None, None, np.zeros(4), predicted, None, np.zeros(4, dtype=bool), None
    )
    panel = reward_trace(rollout, key="k")
    assert 0 < panel.left < panel.right < 1
    assert 0 < panel.top < panel.bottom < 1


def test_a_dollar_sign_in_a_name_is_no_formula(make_run, tmp_path):
    (group,) = gather([make_run(tmp_path / "r", successes={"$\\frac$": 3})]).groups
    assert "$\\frac$" in success_bars(group, key="k").panels[0].svg
