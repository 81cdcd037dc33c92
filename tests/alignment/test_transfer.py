import numpy as np
import pytest
from jaxtyping import TypeCheckError

from robopref.alignment.transfer import (
    check_label_matrix,
    confidence,
    labels_from_scores,
    mean_labels,
    transfer_labels,
    vote,
)
from robopref.errors import DataError

# With the shape checks on, they refuse a wrong shape before the function's own sentence does.
REFUSALS = (DataError, TypeCheckError)

RANKING = np.array([[0.5, 0.0, 0.0], [1.0, 0.5, 0.0], [1.0, 1.0, 0.5]])


def random_labels(count: int, seed: int = 0) -> np.ndarray:
    upper = np.triu(np.random.default_rng(seed).uniform(size=(count, count)), 1)
    return upper + np.tril(1 - upper.T, -1) + 0.5 * np.eye(count)


def random_coupling(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    plan = np.random.default_rng(seed).uniform(size=(rows, columns)) ** 3
    return plan / plan.sum()


def test_three_identical_episodes_matched_by_a_third_keep_the_label_one_and_not_one_ninth():
    # With T = I/3 the plain weighted sum gives (1/3)(1/3) 1 = 1/9 for a pair whose label is certainly 1.
    plan = np.eye(3) / 3
    assert (plan.T @ np.where(RANKING == 1, 1.0, 0.0) @ plan)[2, 1] == pytest.approx(1 / 9)
    np.testing.assert_array_equal(transfer_labels(plan, RANKING), RANKING)


def test_a_permutation_moves_labels_exactly():
    labels = labels_from_scores(np.random.default_rng(0).normal(size=30))
    order = np.random.default_rng(1).permutation(30)
    plan = np.zeros((30, 30))
    plan[order, np.arange(30)] = 1 / 30
    np.testing.assert_array_equal(transfer_labels(plan, labels), labels[np.ix_(order, order)])


def test_a_small_transfer_is_that_worked_by_hand():
    # Target 0 is source 2; target 1 is half 0, half 1, which both lose to 2; target 2 is half 1, half 2.
    plan = np.array([[0.0, 0.5, 0.0], [0.0, 0.5, 0.5], [1.0, 0.0, 0.5]]) / 3
    found = transfer_labels(plan, RANKING)
    assert found[0, 1] == 1
    assert found[0, 2] == pytest.approx(0.5 * 1 + 0.5 * 0.5)  # beats 1, ties with itself
    assert found[1, 2] == pytest.approx(0.25 * 0 + 0.25 * 0 + 0.25 * 0.5 + 0.25 * 0)


@pytest.mark.parametrize("seed", range(5))
def test_labels_of_a_pair_turned_round_add_up_to_one_to_the_last_bit(seed):
    found = transfer_labels(random_coupling(9, 13, seed), random_labels(9, seed))
    assert (found + found.T == 1).all()
    assert (np.diag(found) == 0.5).all()


@pytest.mark.parametrize("seed", range(5))
def test_labels_stay_within_the_range_of_the_source_labels(seed):
    labels = random_labels(9, seed)
    found = transfer_labels(random_coupling(9, 13, seed), labels)
    assert found.min() >= labels.min()
    assert found.max() <= labels.max()


def test_each_label_is_the_weighted_mean_of_the_sources():
    plan, labels = random_coupling(5, 4), random_labels(5)
    shares = plan / plan.sum(axis=0)
    found = transfer_labels(plan, labels)
    expected = sum(shares[i, 0] * shares[k, 1] * labels[i, k] for i in range(5) for k in range(5))
    assert found[0, 1] == pytest.approx(expected)


def test_permuting_source_episodes_changes_nothing_and_permuting_target_episodes_permutes_labels():
    plan, labels = random_coupling(6, 7), random_labels(6)
    rows, columns = np.random.default_rng(0).permutation(6), np.random.default_rng(1).permutation(7)
    plain = transfer_labels(plan, labels)
    turned = transfer_labels(plan[np.ix_(rows, columns)], labels[np.ix_(rows, rows)])
    np.testing.assert_allclose(turned, plain[np.ix_(columns, columns)], atol=1e-14)


def test_scaling_a_column_of_the_plan_changes_nothing():
    plan, labels = random_coupling(6, 7), random_labels(6)
    np.testing.assert_allclose(transfer_labels(plan * np.arange(1, 8), labels), transfer_labels(plan, labels))


def test_turning_all_source_preferences_round_turns_the_target_s_round():
    plan, labels = random_coupling(6, 7), random_labels(6)
    np.testing.assert_allclose(
        transfer_labels(plan, 1 - labels), 1 - transfer_labels(plan, labels), atol=1e-14
    )


def test_only_known_source_pairs_enter_the_mean():
    # Target 0 is source 0; target 1 is half source 1 (known: worse than 0) and half source 2 (unknown).
    labels = np.array([[0.5, 1.0, np.nan], [0.0, 0.5, np.nan], [np.nan, np.nan, 0.5]])
    plan = np.array([[1.0, 0.0], [0.0, 0.5], [0.0, 0.5]]) / 2
    assert transfer_labels(plan, labels)[0, 1] == 1


def test_pairs_that_no_known_pair_reaches_stay_unknown():
    labels = np.array([[0.5, 1.0, np.nan], [0.0, 0.5, np.nan], [np.nan, np.nan, 0.5]])
    found = transfer_labels(np.eye(3) / 3, labels)
    np.testing.assert_array_equal(found, labels)


def test_a_target_episode_without_mass_stays_unknown():
    plan = np.eye(3) / 3
    plan[:, 1] = 0
    found = transfer_labels(plan, RANKING)
    assert np.isnan(found[[0, 1, 1, 2], [1, 0, 2, 1]]).all()
    assert found[2, 0] == 1


def test_a_vote_is_the_mean_over_those_who_know():
    unknown = np.where(np.eye(3) == 1, 0.5, np.nan)
    found = vote([RANKING, RANKING.T, RANKING, unknown])
    np.testing.assert_allclose(found[1, 0], 2 / 3)
    assert (found + found.T == 1).all()
    assert np.isnan(vote([unknown, unknown])[0, 1])


def test_confidence_is_one_when_all_agree_and_zero_for_a_tie_or_the_unknown():
    labels = np.array([[0.5, 1.0, np.nan], [0.0, 0.5, 0.75], [np.nan, 0.25, 0.5]])
    np.testing.assert_allclose(confidence(labels), [[0, 1, 0], [1, 0, 0.5], [0, 0.5, 0]])


def test_mean_labels_are_the_row_means_of_the_transferred_labels_where_weights_are_equal():
    labels, generator = random_labels(6), np.random.default_rng(1)
    turns = [np.eye(6)[generator.permutation(6)] for _ in range(3)]
    plan = (0.5 * turns[0] + 0.3 * turns[1] + 0.2 * turns[2]) / 6
    rows = transfer_labels(plan, labels).mean(axis=1)
    np.testing.assert_allclose(mean_labels(plan, labels), rows, atol=1e-12)


def test_a_mean_label_is_unknown_without_mass_from_a_labelled_episode():
    labels = np.full((3, 3), np.nan)  # nothing was said of the last
    np.fill_diagonal(labels, 0.5)
    labels[0, 1], labels[1, 0] = 1.0, 0.0
    plan = np.array([[0.3, 0.1, 0.0, 0.0], [0.0, 0.1, 0.0, 0.0], [0.1, 0.1, 0.3, 0.0]])
    np.testing.assert_allclose(mean_labels(plan, labels), [0.75, 0.5, np.nan, np.nan])


def test_labels_from_scores_prefer_the_higher_score_and_tie_on_equal_ones():
    np.testing.assert_array_equal(
        labels_from_scores(np.array([1.0, 3.0, 1.0])), [[0.5, 0, 0.5], [1, 0.5, 1], [0.5, 0, 0.5]]
    )


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (np.full((2, 3), 0.5), "square"),
        (np.array([[0.5, 1.2], [-0.2, 0.5]]), r"\[0, 1\]"),
        (np.array([[0.5, 1.0], [1.0, 0.5]]), "turned round"),
        (np.array([[0.5, 1.0], [np.nan, 0.5]]), "turned round"),
        (np.array([[1.0, 1.0], [0.0, 0.5]]), "turned round"),
        (np.array([[0.5, np.inf], [0.0, 0.5]]), r"\[0, 1\]"),
        (np.array([[0.5, np.nan], [np.nan, 0.5]]), "no labelled pair"),
        (np.full((4, 4), 0.5), "All 6 labelled pairs .* are ties"),
    ],
)
def test_what_is_not_a_label_matrix_is_refused(labels, sentence):
    with pytest.raises(DataError, match=sentence):
        check_label_matrix(labels, "the source")


@pytest.mark.parametrize(
    "plan", [np.ones((4, 3)), np.zeros((3, 3)), np.full((3, 2), np.nan), np.array([[1.0], [1.0], [-0.5]])]
)
def test_impossible_plans_are_refused(plan):
    with pytest.raises(REFUSALS, match=r"plan must|Type-check"):
        transfer_labels(plan, RANKING)


def test_a_vote_of_nobody_or_of_different_sizes_is_refused():
    with pytest.raises(DataError, match="no label matrix"):
        vote([])
    with pytest.raises(DataError, match="one shape"):
        vote([RANKING, RANKING[:2, :2]])
