"""An episode that cannot exist in a wrong state."""

import dataclasses

import numpy as np
import pytest

from robopref.data import Provenance, SegmentBatch
from robopref.errors import DataError


def test_length_return_and_success_of_a_hand_made_episode(trajectory):
    episode = trajectory(2, 3, success_at=1)
    assert episode.length == 3
    assert episode.episode_return == pytest.approx(2000.5 + 2001.5 + 2002.5)
    assert episode.succeeded is True
    assert trajectory(2, 3).succeeded is False


def test_numbers_become_single_precision_and_zero_one_successes_become_flags(trajectory):
    episode = dataclasses.replace(trajectory(0, 2), successes=np.array([0.0, 1.0]))
    assert episode.observations.dtype == np.float32
    assert episode.successes.dtype == np.bool_
    assert episode.successes.tolist() == [False, True]


@pytest.mark.parametrize("name", ["observations", "actions", "rewards"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_a_number_that_is_not_finite_is_named_with_its_place(trajectory, name, value):
    array = getattr(trajectory(0, 4), name).astype(np.float64)
    array[(2,) + (1,) * (array.ndim - 1)] = value
    with pytest.raises(DataError, match=rf"{name} holds (nan|inf) at \(2,"):
        dataclasses.replace(trajectory(0, 4), **{name: array})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"observations": np.zeros((4, 5))}, "observations must have 5 rows"),
        ({"observations": np.zeros(5)}, "observations must be numbers with 2 axes"),
        ({"actions": np.zeros((0, 2))}, "at least one action"),
        ({"rewards": np.zeros(5)}, "rewards must have 4 rows"),
        ({"rewards": np.array(["a"] * 4)}, "rewards must be numbers"),
        ({"successes": np.array([0, 1, 2, 0])}, "successes must be a row of True and False"),
        ({"keypoints": {"hand": np.zeros((5, 2))}}, r"keypoints\['hand'\] must have shape \(5, 3\)"),
        ({"keypoints": {"hand": np.zeros((4, 3))}}, "must have 5 rows"),
        ({"frames": "/etc/passwd"}, "inside the store's directory"),
        ({"frames": "a/../../b"}, "inside the store's directory"),
        ({"frames": "C:\\a"}, "inside the store's directory"),
    ],
)
def test_a_wrong_array_or_path_is_refused_with_a_sentence(trajectory, change, sentence):
    with pytest.raises(DataError, match=sentence):
        dataclasses.replace(trajectory(0, 4), **change)


def test_provenance_survives_json(trajectory):
    provenance = trajectory(3, 1).provenance
    assert Provenance.from_json(provenance.to_json()) == provenance


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seed": "one"}, "seed must be an integer"),
        ({"task": 3}, "task must be a string"),
        ({"options": {"noise": float("nan")}}, "option 'noise'"),
        ({"options": []}, "must be tables"),
        ({"versions": {"mujoco": 3}}, "version of 'mujoco'"),
        ({"extra": 1}, "needs the fields"),
    ],
)
def test_foreign_provenance_is_refused(trajectory, change, sentence):
    with pytest.raises(DataError, match=sentence):
        Provenance.from_json(trajectory(0, 1).provenance.to_json() | change)


def test_a_segment_batch_whose_arrays_do_not_fit_is_refused():
    good = SegmentBatch(
        observations=np.zeros((2, 4, 5), np.float32),
        actions=np.zeros((2, 3, 1), np.float32),
        rewards=np.zeros((2, 3), np.float32),
        successes=np.zeros((2, 3), bool),
        mask=np.ones((2, 3), bool),
        keypoints={"hand": np.zeros((2, 4, 3), np.float32)},
    )
    assert len(good) == 2
    with pytest.raises(DataError, match="observations must have shape"):
        dataclasses.replace(good, observations=np.zeros((2, 3, 5), np.float32))
    with pytest.raises(DataError, match="hand"):
        dataclasses.replace(good, keypoints={"hand": np.zeros((2, 3, 3), np.float32)})
