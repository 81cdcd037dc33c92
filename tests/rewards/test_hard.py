from dataclasses import replace

import numpy as np
import pytest
import torch

from robopref.data import TrajectoryStore
from robopref.data.interchange.carried import unknown_origin
from robopref.data.preferences import Preferences, Segments
from robopref.rewards.bradley_terry import BradleyTerryReward
from robopref.rewards.hard import hard_accuracy, hard_pairs
from tests.policies.store_of import episode, store_of


@pytest.fixture
def judged(tmp_path):
    """Four episodes of four steps, in two pairs, of which the first ones are better."""
    rewards = ([0, 0, 3, 3], [1, 1, 0, 0], [5, 5, 5, 5], [0, 0, 0, 0])
    actions = (0.1, 0.9, 0.9, 0.1)
    made = [episode(np.zeros((5, 1)), np.full((4, 1), a), r) for a, r in zip(actions, rewards, strict=True)]
    with store_of(tmp_path / "store", made) as store:
        a, b = (Segments(np.array(x), np.zeros(2, np.int64), np.full(2, 4)) for x in ([0, 2], [1, 3]))
        yield store, Preferences(a, b, np.ones(2, np.float32), np.ones(2, np.float32))


def test_each_hard_kind_holds_the_pairs_that_it_speaks_of(judged):
    found = {kind: chosen.tolist() for kind, chosen in hard_pairs(*judged).items()}
    assert found == {
        "alike": [True, False],  # gaps of 4 and 20
        "late": [True, False],
        "calm": [True, False],
        "same start": [True, True],
    }


def test_starts_that_nobody_knows_are_not_the_same(judged, tmp_path):
    store, preferences = judged
    with TrajectoryStore.create_with(tmp_path / "theirs", store.layout) as theirs:
        for index in range(len(store)):
            theirs.append(replace(store.episode(index), provenance=unknown_origin("toy", "unknown")))
        found = hard_pairs(theirs, preferences)
    assert found["late"].any()
    assert not found["same start"].any()


def test_a_reward_of_activity_fails_where_calm_was_better(judged):
    store, preferences = judged
    reward = BradleyTerryReward(1, 1, members=1, hidden=())
    with torch.no_grad():
        reward.network.weights[0].copy_(torch.tensor([[[0.0, 1.0]]]))
    found = hard_accuracy(reward, store, preferences)
    assert found["calm"] == found["late"] == 0
    assert found["same start"] == 0.5


def test_ties_belong_to_no_kind(judged):
    store, preferences = judged
    tied = Preferences(preferences.a, preferences.b, np.full(2, 0.5, np.float32), np.ones(2, np.float32))
    assert not any(chosen.any() for chosen in hard_pairs(store, tied).values())
    assert hard_accuracy(BradleyTerryReward(1, 1), store, tied) == {}
