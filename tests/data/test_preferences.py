"""Columns of judgements, and the label matrix they make."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robopref.data import Preferences, Segments
from robopref.data.preferences import all_episode_pairs, label_matrix, preferences_from_matrix
from robopref.errors import ConfigError, DataError


def whole(*episodes: int, length: int = 4) -> Segments:
    return Segments(np.array(episodes), np.zeros(len(episodes), int), np.full(len(episodes), length))


def judgements(pairs: list[tuple[int, int, float, float]]) -> Preferences:
    a, b, label, confidence = zip(*pairs, strict=True)
    return Preferences(whole(*a), whole(*b), np.array(label), np.array(confidence))


def test_label_matrix_of_three_judgements_by_hand():
    matrix = label_matrix(judgements([(0, 1, 1.0, 1.0), (2, 1, 0.25, 0.5)]), 4)
    nan = np.nan
    expected = [[0.5, 1, nan, nan], [0, 0.5, 0.75, nan], [nan, 0.25, 0.5, nan], [nan, nan, nan, 0.5]]
    np.testing.assert_allclose(matrix, expected)
    assert matrix.dtype == np.float32


def test_two_judgements_of_a_pair_are_averaged_by_confidence_whichever_side_they_stood():
    matrix = label_matrix(judgements([(0, 1, 1.0, 0.75), (1, 0, 1.0, 0.25)]), 2)
    assert matrix[0, 1] == pytest.approx(0.75)
    assert np.isnan(label_matrix(judgements([(0, 1, 1.0, 0.0)]), 2)[0, 1])


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(5, 9), st.floats(0, 1, width=32), st.floats(0.1, 1)),
        min_size=1,
        max_size=30,
    )
)
def test_a_label_matrix_and_its_mirror_sum_to_exactly_one(pairs):
    matrix = label_matrix(judgements(pairs), 10)
    known = ~np.isnan(matrix)
    assert (known == known.T).all()
    assert (matrix + matrix.T)[known].tolist() == [1.0] * int(known.sum())
    assert ((matrix >= 0) & (matrix <= 1))[known].all()


def test_matrix_to_preferences_and_back_is_the_identity():
    rng = np.random.default_rng(0)
    upper = np.triu(rng.random((6, 6)).astype(np.float32), 1)
    matrix = upper + np.tril(1 - upper.T, -1) + np.eye(6, dtype=np.float32) / 2
    matrix[1, 3] = matrix[3, 1] = np.nan
    lengths = np.array([3, 4, 5, 6, 7, 8])
    preferences = preferences_from_matrix(matrix, lengths)
    assert len(preferences) == 6 * 5 // 2 - 1
    assert (preferences.a.length == lengths[preferences.a.episode]).all()
    np.testing.assert_allclose(label_matrix(preferences, 6), matrix, atol=1e-7)


def test_at_most_max_pairs_are_drawn_without_repeats_and_keep_their_confidence():
    confidence = np.arange(16.0).reshape(4, 4) / 16
    matrix = np.full((4, 4), 0.5, np.float32)
    some = preferences_from_matrix(
        matrix, np.full(4, 2), confidence=confidence, max_pairs=4, rng=np.random.default_rng(0)
    )
    assert len({*zip(some.a.episode.tolist(), some.b.episode.tolist(), strict=True)}) == 4
    np.testing.assert_allclose(some.confidence, confidence[some.a.episode, some.b.episode])
    with pytest.raises(ConfigError, match="max_pairs"):
        preferences_from_matrix(matrix, np.full(4, 2), max_pairs=4)


def test_a_matrix_that_contradicts_itself_is_refused():
    for broken in (np.full((2, 2), 0.7), np.array([[0.5, np.nan], [1, 0.5]])):
        with pytest.raises(DataError, match="Z \\+ Z' = 1"):
            preferences_from_matrix(broken.astype(np.float32), np.array([1, 1]))
    with pytest.raises(DataError, match=r"in \[0, 1\]"):
        preferences_from_matrix(np.array([[0.5, 1.5], [-0.5, 0.5]], np.float32), np.array([1, 1]))


def test_judgements_of_an_episode_with_itself_or_of_no_episode_make_no_matrix():
    with pytest.raises(DataError, match="different for the two sides, but row 1 holds 2"):
        label_matrix(judgements([(0, 1, 1, 1), (2, 2, 1, 1)]), 3)
    with pytest.raises(DataError, match="below 2"):
        label_matrix(judgements([(0, 2, 1, 1)]), 2)


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan])
def test_a_label_outside_zero_and_one_is_named_with_its_row(value):
    for name in ("label", "confidence"):
        columns = {"label": np.ones(3), "confidence": np.ones(3)}
        columns[name][1] = value
        with pytest.raises(DataError, match=f"{name} must be in \\[0, 1\\], but row 1 holds"):
            Preferences(whole(0, 0, 0), whole(1, 1, 1), **columns)


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (([-1], [0], [1]), "episode must be at least 0, but row 0 holds -1"),
        (([0], [-1], [1]), "start must be at least 0"),
        (([0], [0], [0]), "length must be at least 1"),
        (([0, 1], [0], [1]), "equally long"),
        (([0.5], [0], [1]), "column of integers"),
        (([[0]], [0], [1]), "column of integers"),
    ],
)
def test_senseless_segments_are_refused(columns, sentence):
    with pytest.raises(DataError, match=sentence):
        Segments(*map(np.array, columns))


def test_split_parts_are_disjoint_complete_and_reproducible():
    preferences = judgements([(i, i + 1, 1.0, 1.0) for i in range(20)])
    train, held_out = preferences.split(0.25, np.random.default_rng(3))
    assert (len(train), len(held_out)) == (15, 5)
    assert sorted([*train.a.episode, *held_out.a.episode]) == list(range(20))
    again = preferences.split(0.25, np.random.default_rng(3))[1]
    assert again.a.episode.tolist() == held_out.a.episode.tolist()
    with pytest.raises(ConfigError, match="held-out fraction"):
        preferences.split(1.0, np.random.default_rng(3))


def test_concatenate_keeps_the_order_and_takes_nothing_at_all():
    one, two = judgements([(0, 1, 1.0, 1.0)]), judgements([(1, 2, 0.0, 0.5), (3, 2, 0.5, 0.25)])
    both = Preferences.concatenate([one, two])
    assert both.a.episode.tolist() == [0, 1, 3]
    assert both.label.tolist() == [1, 0, 0.5]
    assert both.confidence.tolist() == [1, 0.5, 0.25]
    assert len(Preferences.concatenate([])) == 0
    assert len(label_matrix(Preferences.concatenate([]), 3)) == 3


def test_all_pairs_of_four_episodes_are_six(new_store):
    a, b = all_episode_pairs(new_store((3, 1, 2, 5)))
    assert [*zip(a.episode.tolist(), b.episode.tolist(), strict=True)] == [
        (0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3),
    ]  # fmt: skip
    assert b.length.tolist() == [1, 2, 5, 2, 5, 5]
