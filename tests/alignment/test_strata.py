"""Groups of a coupling, worked by hand."""

import numpy as np
import pytest

from robopref.alignment.strata import quality_order, strata
from robopref.alignment.transfer import labels_from_scores
from robopref.errors import DataError


def test_labels_of_a_ranking_order_episodes_as_it_does():
    assert quality_order(labels_from_scores(np.array([3.0, 1.0, 4.0, 2.0]))).tolist() == [1, 3, 0, 2]


def test_good_with_good_is_the_diagonal_and_its_mirror_image_the_other_one():
    order = np.arange(6)
    upright = strata(np.eye(6), order, order, groups=3)
    assert np.allclose(upright.mass, np.eye(3) / 3)
    assert np.allclose(strata(np.eye(6), order, order[::-1], groups=3).mass, np.eye(3)[::-1] / 3)
    assert [group.tolist() for group in upright.source] == [[0, 1], [2, 3], [4, 5]]
    assert upright.examples == ([1, 3, 5], [1, 3, 5])


def test_mass_between_groups_is_the_sum_over_their_episodes():
    plan = np.array([[1.0, 2, 0, 0], [0, 1, 0, 4], [0, 0, 1, 1]])
    found = strata(plan, np.array([2, 0, 1]), np.array([3, 2, 1, 0]), groups=2)
    # the source's groups are {2, 0} and {1}, the target's {3, 2} and {1, 0}; the whole is 10
    assert np.allclose(found.mass, [[0.2, 0.3], [0.4, 0.1]])


def test_episodes_without_mass_are_in_no_group():
    plan = np.zeros((5, 4))
    plan[1, 2] = plan[3, 0] = 1
    found = strata(plan, np.arange(5), np.arange(4))
    assert found.examples == ([1, 3], [0, 2])
    assert np.allclose(found.mass, [[0, 0.5], [0.5, 0]])
    with pytest.raises(DataError, match="must have mass"):
        strata(np.zeros((2, 2)), np.arange(2), np.arange(2))
