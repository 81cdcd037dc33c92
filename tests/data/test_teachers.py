"""Scripted teachers against B-Pref's definitions, by hand and by counting."""

import math

import numpy as np
import pytest

from robopref.data import ScriptedTeacher
from robopref.errors import ConfigError, DataError


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def column(*values: float) -> np.ndarray:
    return np.array(values)[:, None]


def test_the_oracle_prefers_the_higher_return_and_calls_equal_returns_a_tie():
    a, b = np.array([[1.0, 2], [0, 1], [1, 1]]), np.array([[1.0, 1], [2, 0], [2, 0]])
    assert ScriptedTeacher().label(a, b, rng=rng()).tolist() == [1, 0, 0.5]


def test_swapping_the_segments_mirrors_the_oracle():
    a, b = rng().normal(size=(2, 50, 7))
    forth, back = ScriptedTeacher().label(a, b, rng=rng()), ScriptedTeacher().label(b, a, rng=rng())
    assert (forth + back == 1).all()


def test_a_myopic_teacher_weighs_the_end_of_a_segment():
    a, b = np.array([[10.0, 0, 0]]), np.array([[0.0, 0, 9]])
    assert ScriptedTeacher(gamma=1.0).label(a, b, rng=rng()) == 1
    assert ScriptedTeacher(gamma=0.9).label(a, b, rng=rng()) == 0  # 10 * 0.81 < 9
    assert ScriptedTeacher(gamma=0.95).label(a, b, rng=rng()) == 1  # 10 * 0.9025 > 9


def test_the_discount_counts_back_from_where_the_mask_says_a_segment_ends():
    a, b = np.array([[10.0, 0, 777]]), np.array([[0.0, 9.5]])
    mask = np.array([[True, True, False]])
    assert ScriptedTeacher(gamma=0.9).label(a, b, mask_a=mask, rng=rng()) == 0  # 10 * 0.9 < 9.5
    assert ScriptedTeacher(gamma=0.96).label(a, b, mask_a=mask, rng=rng()) == 1


@pytest.mark.parametrize(("beta", "difference"), [(1.0, 0.5), (2.0, 1.0), (0.0, 5.0)])
def test_a_noisy_teacher_prefers_a_with_the_bradley_terry_probability(beta, difference):
    n = 20_000
    labels = ScriptedTeacher(beta=beta).label(np.full((n, 1), difference), np.zeros((n, 1)), rng=rng())
    chance = 1 / (1 + math.exp(-beta * difference))
    assert set(labels.tolist()) == {0, 1}
    assert labels.mean() == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / n))


def test_a_huge_margin_does_not_overflow():
    labels = ScriptedTeacher(beta=10.0).label(column(1e6, -1e6), column(-1e6, 1e6), rng=rng())
    assert labels.tolist() == [1, 0]


def test_mistakes_flip_their_share_of_labels_and_never_a_tie():
    n = 20_000
    labels = ScriptedTeacher(mistake=0.1).label(np.ones((n, 1)), np.zeros((n, 1)), rng=rng())
    assert (labels == 0).mean() == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / n))
    ties = ScriptedTeacher(mistake=1.0).label(np.ones((9, 1)), np.ones((9, 1)), rng=rng())
    assert (ties == 0.5).all()


def test_skip_and_equal_compare_with_a_fraction_of_the_mean_return_of_what_was_shown():
    # Returns: mean over the six segments is 10, so 0.1 means 1.
    a, b = column(1.0, 1.01, 30.0), column(0.0, 0.0, 27.99)
    assert ScriptedTeacher(skip=0.1).label(a, b, rng=rng()).tolist() == pytest.approx(
        [math.nan, 1, 1], nan_ok=True
    )
    a, b = column(10.0, 10.0, 10.0), column(9.25, 9.0, 11.75)
    assert ScriptedTeacher(equal=0.1).label(a, b, rng=rng()).tolist() == [0.5, 1, 0]


def test_the_typical_return_may_be_given_and_skipping_wins_over_ties():
    a, b = column(1.0, 5.0), column(1.5, 5.5)
    teacher = ScriptedTeacher(skip=0.2, equal=0.1)
    labels = teacher.label(a, b, rng=rng(), typical_return=10.0)
    assert labels.tolist() == pytest.approx([math.nan, 0.5], nan_ok=True)


def test_thresholds_use_plain_returns_while_the_choice_uses_discounted_ones():
    """B-Pref's order: these two are equally good in sum, so they tie, although the end of b is better."""
    a, b = np.array([[10.0, 0]]), np.array([[0.0, 10]])
    assert ScriptedTeacher(gamma=0.5).label(a, b, rng=rng()) == 0
    assert ScriptedTeacher(gamma=0.5, equal=0.1, mistake=1.0).label(a, b, rng=rng()) == 0.5


def test_teachers_with_the_same_seed_differ_only_by_their_irrationality():
    a, b = rng().normal(size=(2, 500, 3)) + 5
    oracle = ScriptedTeacher().label(a, b, rng=rng())
    erring = ScriptedTeacher(mistake=0.2).label(a, b, rng=rng())
    more = ScriptedTeacher(mistake=0.3).label(a, b, rng=rng())
    assert ((oracle != erring) <= (oracle != more)).all()
    assert erring.tolist() == ScriptedTeacher(mistake=0.2).label(a, b, rng=rng()).tolist()


def test_no_pairs_get_no_labels():
    none = np.zeros((0, 3))
    assert ScriptedTeacher(skip=0.1, equal=0.1).label(none, none, rng=rng()).shape == (0,)


@pytest.mark.parametrize(
    "options",
    [{"beta": -1.0}, {"beta": math.nan}, {"gamma": 0.0}, {"gamma": 1.1}, {"mistake": 2.0}, {"skip": -0.1}],
)
def test_options_without_a_meaning_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        ScriptedTeacher(**options)


def test_rewards_that_are_not_numbers_or_do_not_pair_up_are_refused():
    a = np.ones((3, 2))
    bad = a.copy()
    bad[1, 0] = np.nan
    with pytest.raises(DataError, match="rewards_b holds a reward that is not finite in row 1"):
        ScriptedTeacher().label(a, bad, rng=rng())
    with pytest.raises((DataError, TypeError), match=r"3 segments a and 2 segments b|rewards_b"):
        ScriptedTeacher().label(a, a[:2], rng=rng())
    with pytest.raises((DataError, TypeError), match="mask"):
        ScriptedTeacher().label(a, a, mask_a=np.ones((3, 1), bool), rng=rng())
    with pytest.raises(DataError, match="typical segment's return, which is -2"):
        ScriptedTeacher(equal=0.1).label(-a, -a, rng=rng())
