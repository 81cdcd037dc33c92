import numpy as np
import pytest

from robopref.errors import ConfigError, DataError
from robopref.rewards.bradley_terry import BradleyTerryReward
from robopref.rewards.dataset import preference_tensors
from robopref.rewards.gaussian import GaussianReward
from robopref.rewards.metrics import (
    expected_calibration_error,
    pair_accuracy,
    predicted_preferences,
    preference_metrics,
    reliability_curve,
)


def numbers(*values):
    return np.array(values, dtype=np.float64)


def test_accuracy_leaves_ties_out_and_says_how_many():
    result = pair_accuracy(numbers(0.9, 0.2, 0.8, 0.6), numbers(1, 0, 0, 0.5))
    assert result.accuracy == pytest.approx(2 / 3)
    assert (result.pairs, result.ties) == (3, 1)


def test_an_undecided_prediction_counts_half():
    assert pair_accuracy(numbers(0.5, 0.5, 0.9), numbers(1, 0, 1)).accuracy == pytest.approx(2 / 3)


def test_soft_labels_count_by_their_side():
    assert pair_accuracy(numbers(0.9, 0.9), numbers(0.6, 0.4)).accuracy == 0.5


def test_swapping_the_pair_changes_neither_accuracy_nor_calibration():
    rng = np.random.default_rng(0)
    p, y = rng.random(50), rng.integers(0, 2, 50).astype(float)
    assert pair_accuracy(p, y) == pair_accuracy(1 - p, 1 - y)
    assert expected_calibration_error(p, y) == pytest.approx(expected_calibration_error(1 - p, 1 - y))


def test_calibration_error_worked_by_hand():
    # Bins of width 0.1 from 0.5. Bin [0.6, 0.7): confidences 0.65 and 0.65 (as 0.35), one right: gap 0.15.
    # Bin [0.9, 1]: confidences 0.95, 0.95 (as 0.05) and 0.92, all right: gap 1 - 0.94 = 0.06.
    p, y = numbers(0.65, 0.35, 0.95, 0.05, 0.92), numbers(1, 1, 1, 0, 1)
    curve = reliability_curve(p, y, bins=5)
    assert curve.count == [2, 3]
    assert curve.confidence == pytest.approx([0.65, 0.94])
    assert curve.accuracy == pytest.approx([0.5, 1])
    assert expected_calibration_error(p, y, bins=5) == pytest.approx((2 * 0.15 + 3 * 0.06) / 5)


def test_certain_and_right_is_calibrated_and_certain_and_wrong_is_not():
    assert expected_calibration_error(numbers(1, 0), numbers(1, 0)) == 0
    assert expected_calibration_error(numbers(1, 0), numbers(0, 1)) == 1


def test_predictions_that_come_true_as_often_as_they_say_have_no_error():
    rng = np.random.default_rng(0)
    p = rng.random(200_000)
    y = (rng.random(200_000) < p).astype(float)
    assert expected_calibration_error(p, y) < 0.005
    assert expected_calibration_error(np.clip(2 * p - 0.5, 0, 1), y) > 0.1  # twice as sure as it may be


def test_soft_label_is_right_with_its_chance():
    curve = reliability_curve(numbers(0.8, 0.2), numbers(0.7, 0.4), bins=1)
    assert curve.accuracy == pytest.approx([(0.7 + 0.6) / 2])


@pytest.mark.parametrize("measure", [pair_accuracy, reliability_curve, expected_calibration_error])
@pytest.mark.parametrize(
    ("p", "y", "sentence"),
    [
        ((), (), "no pairs"),
        ((0.3, 0.4), (0.5, 0.5), "All 2 labels are ties"),
        ((float("nan"), 0.4), (1, 0), r"prediction must lie in \[0, 1\]; pair 0 has nan"),
        ((0.1, 0.4), (1, 2), r"label must lie in \[0, 1\]; pair 1 has 2"),
    ],
)
def test_what_cannot_be_measured_is_refused(measure, p, y, sentence):
    with pytest.raises(DataError, match=sentence):
        measure(numbers(*p), numbers(*y))


def test_zero_bins_are_refused():
    with pytest.raises(ConfigError, match="bins"):
        reliability_curve(numbers(0.1), numbers(1), bins=0)


@pytest.mark.parametrize("kind", [BradleyTerryReward, GaussianReward])
def test_judging_each_segment_once_equals_judging_each_pair(kind, store, preferences):
    reward = kind(4, 2, members=2, hidden=(8,))
    pairs = preference_tensors(store, preferences)
    reward.fit_normaliser(pairs.observations())
    expected = np.concatenate([reward.preference_probability(b).numpy() for b in pairs.batches(7)])
    np.testing.assert_allclose(predicted_preferences(reward, pairs, batch_size=3), expected, rtol=1e-5)


def test_metrics_are_plain_values(store, preferences):
    reward = BradleyTerryReward(4, 2, members=2, hidden=(8,))
    metrics = preference_metrics(reward, preference_tensors(store, preferences))
    assert set(metrics) == {"pair_accuracy", "untied_pairs", "ties", "ece", "reliability"}
    assert metrics["untied_pairs"] + metrics["ties"] == 40
    assert sum(metrics["reliability"]["count"]) == metrics["untied_pairs"]
    assert all(type(value) is float for value in metrics["reliability"]["accuracy"])
