import math

import numpy as np
import pytest
import torch

from robopref.errors import ConfigError
from robopref.objectives.gaussian import label_doubt
from robopref.objectives.people import flip_likelihood
from robopref.rewards.bradley_terry import BradleyTerryReward
from robopref.rewards.dataset import preference_tensors
from robopref.rewards.gaussian import GaussianReward
from robopref.rewards.metrics import predicted_preferences
from robopref.training.step import Learner

HALF_LOG_TWO_PI_E = 0.5 * math.log(2 * math.pi * math.e)


def train(reward, pairs, steps):
    reward.fit_normaliser(pairs.observations())
    optimiser = torch.optim.Adam(reward.parameter_groups())
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        optimiser.zero_grad()
        reward.loss(pairs.sample(32, generator), generator)[0].backward()
        optimiser.step()


def gaussian(**options):
    return GaussianReward(4, 2, **{"members": 2, "hidden": (8,), "samples": 1, **options})


@pytest.fixture
def batch(store, draw_pairs):
    return preference_tensors(store, draw_pairs(6, np.random.default_rng(0), length=5)).batch(torch.arange(6))


def loss_of(reward, batch):
    return reward.loss(batch, torch.Generator().manual_seed(0))


def test_doubt_is_the_entropy_of_the_label_in_bits():
    labels = torch.tensor([1.0, 0.0, 0.5, 0.75, 1.0])
    flips = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.25])
    quarter = 0.25 * 2 + 0.75 * math.log2(4 / 3)
    assert label_doubt(labels, flips).tolist() == pytest.approx([0, 0, 1, quarter, quarter], abs=1e-6)


def test_sure_labels_leave_margin_and_weights_alone(batch):
    plain, told = gaussian(), gaussian(doubt_margin=2.0, doubt_power=3.0)
    assert loss_of(told, batch)[0].item() == loss_of(plain, batch)[0].item()


def test_a_coin_toss_weighs_nothing_and_widens_its_own_steps_alone(batch):
    tossed = batch | {"labels": torch.tensor([0.5, 1, 0, 1, 0, 1.0])}
    rest = {k: v[1:] for k, v in tossed.items()}
    reward = gaussian(doubt_power=1.0, entropy_weight=0.0, minimum_deviation=1e-9)
    with torch.no_grad():  # so that draws do not matter: deviations of nothing
        reward.network.weights[-1][:, 1] = 0
        reward.network.biases[-1][:, :, 1] = -30
    assert loss_of(reward, tossed)[0].item() == pytest.approx(loss_of(reward, rest)[0].item(), abs=1e-5)

    eta = HALF_LOG_TWO_PI_E + math.log(0.01)  # a deviation of 0.01 is just enough for a sure label
    reward = gaussian(doubt_margin=2.0, entropy_margin=eta, entropy_weight=1.0)
    with torch.no_grad():
        reward.network.weights[-1][:, 1] = 0
        reward.network.biases[-1][:, :, 1] = math.log(math.expm1(0.01 - reward.minimum_deviation))
    below = loss_of(reward, tossed)[1]["entropy_margin"].item()
    assert below == pytest.approx(2.0 / 6, abs=1e-3)  # one of six pairs of equal length


def test_a_stated_chance_of_reversal_makes_a_likelihood(batch):
    reward = gaussian(flip_prob=0.2, entropy_weight=0.0, members=1)
    with torch.no_grad():
        reward.network.weights[-1][:, 1] = 0
        reward.network.biases[-1][:, :, 1] = -30
    estimate, mask = reward.estimate_batch(batch)
    first, second = reward.segment_return(estimate.mean, mask)[0].chunk(2)
    expected = flip_likelihood(first, second, batch["labels"], flip_prob=0.2).mean()
    assert loss_of(reward, batch)[0].item() == pytest.approx(expected.item(), abs=1e-3)


def test_a_chance_of_reversal_needs_the_cross_entropy():
    with pytest.raises(ConfigError, match="objective=dpo"):
        gaussian(flip_prob="learn", objective="ipo")
    with pytest.raises(ConfigError, match="\"learn\", got 'guess'"):
        gaussian(flip_prob="guess")


def test_the_share_of_reversed_labels_is_learned_and_they_bend_the_reward_less(store, draw_pairs):
    rng = np.random.default_rng(3)
    pairs, judged = draw_pairs(400, rng, length=5), draw_pairs(300, rng, length=5)
    reversed_ = rng.random(400) < 0.3
    pairs.label[reversed_] = 1 - pairs.label[reversed_]
    given, truth = preference_tensors(store, pairs), preference_tensors(store, judged)
    options = {"members": 2, "hidden": (32, 32), "learning_rate": 3e-3, "bound": "none"}
    learning, plain = GaussianReward(4, 2, flip_prob="learn", **options), BradleyTerryReward(4, 2, **options)
    assert isinstance(learning, Learner)
    right = {}
    for reward in (learning, plain):
        train(reward, given, 150)
        right[reward.kind] = ((predicted_preferences(reward, truth) > 0.5) == (judged.label > 0.5)).mean()
    assert right["gaussian"] > right["bradley_terry"] + 0.05
    assert learning.flip_rates.tolist() == pytest.approx([0.3, 0.3], abs=0.08)


def test_the_two_parts_of_the_deviation_make_the_whole():
    reward = gaussian(members=3)
    observations, actions = torch.randn(20, 4), torch.randn(20, 2)
    mean, deviation = reward.predict(observations, actions)
    parts = reward.predict_parts(observations, actions)
    assert torch.equal(parts.mean, mean)
    assert torch.allclose(parts.aleatoric**2 + parts.epistemic**2, deviation**2)
    alone = gaussian(members=1).predict_parts(observations, actions)
    assert (alone.epistemic == 0).all()
    assert (alone.aleatoric > 0).all()
