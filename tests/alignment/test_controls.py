import numpy as np
import pytest

from robopref.alignment.controls import hand_object_labels, medoid_labels, shuffled_labels
from robopref.alignment.distances import pairwise_distances
from robopref.alignment.record import pair_accuracy
from robopref.alignment.transfer import labels_from_scores
from robopref.errors import DataError


def test_shuffled_labels_are_right_half_of_the_time():
    rng = np.random.default_rng(0)
    truth = labels_from_scores(rng.normal(size=20))
    found = [pair_accuracy(shuffled_labels([np.eye(20) / 20], [truth], rng), truth) for _ in range(200)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.03)


def test_the_medoid_of_points_on_a_line_is_the_middle_one_and_nearer_points_are_preferred():
    labels = medoid_labels(pairwise_distances(np.array([[0.0], [4.0], [5.0], [6.5], [20.0]])))
    np.testing.assert_array_equal(labels, labels_from_scores(-np.array([5.0, 1.0, 0.0, 1.5, 15.0])))


def test_the_episode_whose_hand_stays_nearer_the_object_is_preferred(make_segments):
    segments = make_segments(count=3)
    for episode, metres in enumerate((0.3, 0.1, 0.2)):
        segments.keypoints["hand"][episode] = segments.keypoints["object"][episode] + [metres, 0, 0]
    labels = hand_object_labels(segments)
    assert labels[1, 2] == labels[2, 0] == labels[1, 0] == 1


def test_nan_keypoints_are_refused(make_segments):
    segments = make_segments(count=3)
    segments.keypoints["hand"][1] = np.nan
    with pytest.raises(DataError, match=r"episodes \[1\]"):
        hand_object_labels(segments)
