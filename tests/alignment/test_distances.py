import numpy as np
import pytest
from jaxtyping import TypeCheckError

from robopref.alignment.distances import METRICS, cross_distances, pairwise_distances
from robopref.errors import ConfigError, DataError

# With the shape checks on, they refuse a wrong shape before the function's own sentence does.
REFUSALS = (DataError, TypeCheckError)

TRIANGLE = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])


@pytest.mark.parametrize(
    ("metric", "expected"),
    [("euclidean", (3, 4, 5)), ("sqeuclidean", (9, 16, 25)), ("cityblock", (3, 4, 7))],
)
def test_distances_in_a_right_triangle_are_those_worked_by_hand(metric, expected):
    found = pairwise_distances(TRIANGLE, metric=metric, scale="none")
    np.testing.assert_allclose(found[np.triu_indices(3, 1)], expected)


def test_cosine_distance_of_perpendicular_vectors_is_one_and_of_opposite_ones_two():
    found = pairwise_distances(np.array([[2.0, 0.0], [0.0, 0.5], [-1.0, 0.0]]), metric="cosine", scale="none")
    np.testing.assert_allclose(found, [[0, 1, 2], [1, 0, 1], [2, 1, 0]], atol=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_distances_are_exactly_symmetric_with_a_zero_diagonal(metric):
    found = pairwise_distances(np.random.default_rng(0).normal(size=(9, 4)), metric=metric)
    np.testing.assert_array_equal(found, found.T)
    assert (np.diag(found) == 0).all()
    assert found.max() == 1


@pytest.mark.parametrize("metric", METRICS)
def test_distances_of_a_set_to_itself_are_its_pairwise_distances(metric):
    points = np.random.default_rng(0).normal(size=(7, 4))
    np.testing.assert_allclose(
        cross_distances(points, points, metric=metric), pairwise_distances(points, metric=metric), atol=1e-9
    )


def test_scale_by_the_mean_makes_the_mean_one():
    assert pairwise_distances(TRIANGLE, scale="mean").mean() == pytest.approx(1)


def test_identical_points_across_sets_have_distance_zero_and_not_nan():
    np.testing.assert_array_equal(cross_distances(np.ones((2, 3)), np.ones((4, 3))), np.zeros((2, 4)))


def test_a_set_of_identical_points_is_refused():
    with pytest.raises(DataError, match="every distance is 0"):
        pairwise_distances(np.ones((4, 3)))


def test_a_set_of_one_is_refused():
    with pytest.raises(DataError, match="holds 1 episode"):
        pairwise_distances(np.ones((1, 3)))


def test_nan_is_refused_and_its_row_named():
    with pytest.raises(DataError, match=r"rows \[1\]"):
        pairwise_distances(np.array([[0.0], [np.nan], [1.0]]))


def test_cosine_of_a_zero_vector_is_refused():
    with pytest.raises(DataError, match=r"zero in rows \[0\]"):
        pairwise_distances(TRIANGLE, metric="cosine")


def test_sets_of_different_feature_spaces_have_no_distances_between_them():
    with pytest.raises(REFUSALS, match=r"3 numbers per episode.* 2|Type-check"):
        cross_distances(np.ones((2, 3)), np.ones((2, 2)))


@pytest.mark.parametrize(
    ("option", "meant"), [({"metric": "euclid"}, "euclidean"), ({"scale": "maxi"}, "max")]
)
def test_misspelt_options_are_refused_with_the_nearest_name(option, meant):
    with pytest.raises(ConfigError, match=f"Did you mean '{meant}'"):
        pairwise_distances(TRIANGLE, **option)
