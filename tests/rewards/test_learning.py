import dataclasses

import numpy as np
import pytest
import torch

from robopref.rewards.bradley_terry import BradleyTerryReward
from robopref.rewards.dataset import preference_tensors
from robopref.rewards.gaussian import GaussianReward
from robopref.rewards.metrics import predicted_preferences, preference_metrics
from robopref.rewards.relabel import relabel


def train(reward, pairs, steps=300, batch_size=32):
    reward.fit_normaliser(pairs.observations())
    optimiser = torch.optim.Adam(reward.parameter_groups())
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        optimiser.zero_grad()
        reward.loss(pairs.sample(batch_size, generator), generator)[0].backward()
        optimiser.step()


@pytest.mark.parametrize("kind", [BradleyTerryReward, GaussianReward])
def test_a_linear_reward_is_recovered_from_two_hundred_pairs(kind, store, draw_pairs):
    rng = np.random.default_rng(0)
    learned = preference_tensors(store, draw_pairs(200, rng, length=5))
    held_out = preference_tensors(store, draw_pairs(300, rng, length=5))
    reward = kind(4, 2, members=3, hidden=(32, 32), bound="none", learning_rate=3e-3)
    before = preference_metrics(reward, held_out)["pair_accuracy"]
    train(reward, learned, steps=100)
    after = preference_metrics(reward, held_out)
    assert after["pair_accuracy"] > 0.9 > before
    assert after["ece"] < 0.1
    rows = store.transition_rows()
    assert np.corrcoef(relabel(store, reward)[rows], store.array("rewards")[rows])[0, 1] > 0.9


def test_confidence_decides_between_contradicting_labels(store, draw_pairs):
    rng = np.random.default_rng(0)
    right = draw_pairs(100, rng, length=5)
    wrong = dataclasses.replace(right, label=1 - right.label, confidence=np.full(100, 0.1, np.float32))
    both = type(right).concatenate([right, wrong])
    reward = BradleyTerryReward(4, 2, members=1, hidden=(32,), learning_rate=3e-3)
    train(reward, preference_tensors(store, both))
    chosen = predicted_preferences(reward, preference_tensors(store, right)) > 0.5
    assert (chosen == (right.label > 0.5)).mean() > 0.9


def test_soft_labels_are_met_by_the_predicted_chance(store, draw_pairs):
    # One pair, labelled 0.8: the cross-entropy is least where the predicted chance is 0.8.
    one = draw_pairs(1, np.random.default_rng(2), length=5)
    soft = preference_tensors(store, dataclasses.replace(one, label=np.array([0.8], np.float32)))
    reward = BradleyTerryReward(4, 2, members=2, hidden=(16,), learning_rate=1e-2)
    train(reward, soft, steps=200, batch_size=1)
    assert predicted_preferences(reward, soft)[0] == pytest.approx(0.8, abs=0.01)
