import copy
from typing import Any

import pytest
import torch

from robopref.errors import ConfigError
from robopref.policies.dataset import RewardScaling, TransitionSampler
from robopref.policies.iql import ImplicitQLearning
from robopref.policies.several import SeveralLearners, stacked_batches

SIZES: dict[str, Any] = {"hidden": (16, 16)}


def transitions():
    draw = torch.Generator().manual_seed(0)
    observations = torch.randn(201, 5, generator=draw, dtype=torch.float64)
    actions = torch.rand(201, 2, generator=draw, dtype=torch.float64) * 2 - 1
    rewards = torch.randn(201, generator=draw, dtype=torch.float64)
    terminals = (rewards > 1).double()
    return TransitionSampler(observations, actions, rewards, terminals, torch.arange(200), RewardScaling())


def generators(count):
    return [torch.Generator().manual_seed(10 + k) for k in range(count)]


def test_learners_trained_together_are_those_trained_alone():
    data, learners = transitions(), [ImplicitQLearning(5, 2, seed=k, **SIZES).double() for k in range(3)]
    for learner in learners:
        learner.fit_normaliser(data.seen_observations())
    together = SeveralLearners(learners)
    adam, draws = torch.optim.Adam(together.trained(), lr=together.learning_rate), generators(3)
    for _ in range(100):
        adam.zero_grad()
        together.loss(stacked_batches([data] * 3, 32, draws)).sum().backward()
        adam.step()
        together.after_step()
    for learner, draw in zip(learners, generators(3), strict=True):
        alone = torch.optim.Adam(learner.parameter_groups())
        for _ in range(100):
            alone.zero_grad()
            learner.loss(data.sample(32, draw))[0].backward()
            alone.step()
            learner.after_step()
    for one, other in zip(together.separate(), learners, strict=True):
        assert one.config == other.config
        for ours, theirs in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
            assert (ours.double() - theirs.double()).abs().max() <= 1e-6
    first, second, _ = together.separate()
    assert not torch.equal(first.critic.weights[0], second.critic.weights[0])


def test_the_given_learners_stay_as_they_are():
    data, learners = transitions(), [ImplicitQLearning(5, 2, seed=k, **SIZES).double() for k in range(2)]
    before = copy.deepcopy([learner.state_dict() for learner in learners])
    together = SeveralLearners(learners)
    adam = torch.optim.Adam(together.trained(), lr=0.1)
    together.loss(stacked_batches([data] * 2, 8, generators(2))).sum().backward()
    adam.step()
    together.after_step()
    for learner, old in zip(learners, before, strict=True):
        assert all(torch.equal(value, old[name]) for name, value in learner.state_dict().items())


def test_learners_that_differ_in_more_than_the_seed_are_refused():
    with pytest.raises(ConfigError, match="seed alone"):
        SeveralLearners([ImplicitQLearning(5, 2), ImplicitQLearning(5, 2, expectile=0.9)])
    with pytest.raises(ConfigError, match="no learners"):
        SeveralLearners([])
