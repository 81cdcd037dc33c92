"""Labels in a store are those that were asked for, or the command is refused."""

import numpy as np
import pytest

from robopref.data.label_store import LabelStore
from robopref.data.preferences import all_episode_pairs, preferences_from_matrix
from robopref.data.store import TrajectoryStore
from robopref.data.trajectory import Provenance, Trajectory
from robopref.errors import ConfigError, DataError
from robopref.methods.phases.align import whole_episodes_only
from robopref.methods.phases.label import read_labels, store_labels


@pytest.fixture
def store(tmp_path):
    rng = np.random.default_rng(0)
    with TrajectoryStore.create(
        tmp_path / "store", observation_size=2, action_size=1, control_hz=10.0
    ) as writer:
        for seed in range(4):
            writer.append(
                Trajectory(
                    observations=rng.normal(size=(6, 2)).astype(np.float32),
                    actions=np.zeros((5, 1), np.float32),
                    rewards=np.full(5, seed, np.float32),
                    successes=np.zeros(5, bool),
                    keypoints={},
                    terminated=False,
                    provenance=Provenance("t", "e", seed, "b", {}, "00", {}),
                    frames=None,
                )
            )
    return TrajectoryStore.open(tmp_path / "store")


def ordered(store, scores):
    labels = np.sign(np.subtract.outer(scores, scores)) / 2 + 0.5
    return preferences_from_matrix(labels.astype(np.float32), store.lengths)


def test_other_labels_of_the_same_number_are_refused_and_the_old_ones_stay(store, tmp_path):
    url = f"sqlite:///{tmp_path / 'labels.sqlite'}"
    first, second = ordered(store, [0, 1, 2, 3]), ordered(store, [3, 2, 1, 0])
    store_labels(url, first, store, "transfer", "alignment")
    with pytest.raises(ConfigError, match="made otherwise"):
        store_labels(url, second, store, "transfer", "alignment")
    with LabelStore(url) as labels:
        assert labels.preferences().label.tolist() == first.label.tolist()


def test_the_same_labels_again_are_not_stored_twice(store, tmp_path):
    url = f"sqlite:///{tmp_path / 'labels.sqlite'}"
    for _ in range(2):
        store_labels(url, ordered(store, [0, 1, 2, 3]), store, "transfer", "alignment")
    with LabelStore(url) as labels:
        assert labels.count() == 6


def test_labels_of_parts_of_episodes_are_refused_by_an_alignment(store):
    whole = ordered(store, [0, 1, 2, 3])
    assert whole_episodes_only(whole, store) is whole
    a, b = all_episode_pairs(store)
    parts = type(whole)(
        type(a)(a.episode, a.start, a.length - 2), b, np.ones(6, np.float32), np.ones(6, np.float32)
    )
    with pytest.raises(DataError, match=r"needs labels of whole episodes, but 6 labels"):
        whole_episodes_only(parts, store)


def test_a_password_is_in_no_message(store, tmp_path, monkeypatch):
    beside = f"sqlite:///{tmp_path / 'labels.sqlite'}"
    monkeypatch.setattr("robopref.methods.phases.label.LabelStore", lambda url: LabelStore(beside))
    url = "postgresql://me:hunter2@team.example/db"
    with pytest.raises(DataError, match=r"postgresql://me:\*\*\*@team.example/db holds no labels"):
        read_labels(store, url)
