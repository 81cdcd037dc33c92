import math

import numpy as np
import pytest
from scipy.optimize import brentq

from robopref.alignment.anchors import Guard, PreparedTransfer, chance_inverted
from robopref.alignment.record import TransferRecord
from robopref.errors import DataError


def test_the_chance_of_inversion_follows_bayes_rule():
    margins, against = np.array([math.log(3)]), np.array([0.0])  # the first is better with chance 3/4
    assert chance_inverted(np.zeros(0), np.zeros(0), at_risk=False) == pytest.approx(0.05)
    odds = 0.05 / 0.95 * 3
    assert chance_inverted(margins, against, at_risk=False) == pytest.approx(odds / (1 + odds))
    assert chance_inverted(margins, against, at_risk=True) == pytest.approx(0.75)
    sure = np.array([50.0])  # counts as nine in ten
    assert chance_inverted(sure, against, at_risk=True) == pytest.approx(0.9)


def prepared(features: np.ndarray, weights: np.ndarray, at_risk: bool, precision: float) -> PreparedTransfer:
    unknown = np.full((len(features), len(features)), np.nan)
    record = TransferRecord(unknown, np.zeros(unknown.shape), {}, {}, {}, settings={"at_risk": at_risk})
    return PreparedTransfer(record, features, weights, precision, Guard(0.7, 0.2, "warn"))


def test_opinions_without_anchors_are_drawn_around_what_the_sources_say():
    features, weights = np.random.default_rng(0).normal(size=(5, 3)), np.array([1.0, -2.0, 0.5])
    drawn = prepared(features, weights, False, 4.0).opinions(count=200_000, rng=np.random.default_rng(1))
    np.testing.assert_allclose(drawn.mean(axis=0), features @ weights, atol=0.01)
    np.testing.assert_allclose(np.cov(drawn.T), features @ features.T / 4, atol=0.02)


def test_half_of_the_opinions_of_a_transfer_at_risk_are_its_mirror_image():
    features = np.array([[1.0], [-1.0]])
    drawn = prepared(features, np.array([5.0]), True, 100.0).opinions(
        count=10_000, rng=np.random.default_rng(1)
    )
    assert (drawn[:, 0] < drawn[:, 1]).mean() == pytest.approx(0.5, abs=0.02)


def test_opinions_follow_the_mirror_image_once_answers_have_settled_on_it():
    features = np.arange(6.0)[:, None] * [[1.0]]
    one = prepared(features, np.array([2.0]), False, 1.0)
    against = np.full((6, 6), np.nan)
    for low, high in ((0, 5), (0, 4), (1, 5), (0, 3)):  # the lower number wins, against the sources
        against[low, high], against[high, low] = 1.0, 0.0
    settled = one.settle(against, rng=np.random.default_rng(0))
    drawn = one.opinions(against, rng=np.random.default_rng(0))
    assert settled.settings["chance_inverted"] > 0.5
    assert settled.labels[1, 4] > 0.5  # which nobody was asked
    assert (drawn[:, 1] > drawn[:, 4]).mean() > 0.9


def test_an_answer_narrows_opinions_along_its_own_direction_alone():
    features = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 3.0], [0.0, -3.0]])
    told = np.full((4, 4), np.nan)
    told[0, 1], told[1, 0] = 1.0, 0.0
    one = prepared(features, np.zeros(2), False, 1.0)
    drawn = one.opinions(told, count=20_000, rng=np.random.default_rng(1))
    # along it, w = 6 sigma(-6 w) at the mode, and 1 + 36 sigma(6 w) sigma(-6 w) is the precision
    mode = float(np.asarray(brentq(lambda w: w - 6 / (1 + math.exp(6 * w)), 0, 6)))
    chance = 1 / (1 + math.exp(-6 * mode))
    assert drawn[:, 0].mean() == pytest.approx(3 * mode, rel=0.02)
    assert drawn[:, 0].std() == pytest.approx(3 / math.sqrt(1 + 36 * chance * (1 - chance)), rel=0.02)
    assert drawn[:, 2].std() == pytest.approx(3, rel=0.02)  # nothing was said of it


def test_asked_first_is_the_pair_that_the_sources_leave_most_open_and_none_twice():
    features = np.array([[0.0, 0.0], [0.1, 0.0], [0.0, 5.0]])  # the second number is what is not known
    one = prepared(features, np.array([9.0, 0.0]), False, 1.0)
    anchors, asked = np.full((3, 3), np.nan), []
    for _ in range(3):
        i, j = one.ask(anchors, rng=np.random.default_rng(0))
        anchors[i, j], anchors[j, i] = 1.0, 0.0
        asked.append({i, j})
    assert 2 in asked[0]
    assert sorted(map(sorted, asked)) == [[0, 1], [0, 2], [1, 2]]
    with pytest.raises(DataError, match="have a label already"):
        one.ask(anchors, rng=np.random.default_rng(0))
