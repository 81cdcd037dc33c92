import copy
import math

import numpy as np
import pytest
import torch

from robopref.data.preferences import Preferences, Segments
from robopref.errors import ConfigError
from robopref.policies.bc import BehaviourCloning
from robopref.policies.ipl import InversePreferenceLearning
from robopref.rewards.dataset import step_tensors
from tests.policies.store_of import episode, numbered, store_of
from tests.policies.test_iql import linear, train


def pairs_of(first, second, length, labels):
    zeros, lengths = np.zeros(len(labels), np.int64), np.full(len(labels), length)
    a, b = (Segments(np.asarray(side), zeros, lengths) for side in (first, second))
    return Preferences(a, b, np.asarray(labels, np.float32), np.ones(len(labels), np.float32))


def batch_of(seed=0, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    shape = (2, 6, 4)
    return {
        "observations": torch.randn(*shape, 3, generator=draw, dtype=dtype),
        "next_observations": torch.randn(*shape, 3, generator=draw, dtype=dtype),
        "actions": torch.randn(*shape, 2, generator=draw, dtype=dtype).tanh(),
        "terminals": (torch.rand(*shape, generator=draw) > 0.8).to(dtype),
        "labels": (torch.rand(6, generator=draw) > 0.5).to(dtype),
        "weights": torch.ones(6, dtype=dtype),
    }


def test_the_four_losses_worked_by_hand():
    """One pair of one step each."""
    learner = linear(InversePreferenceLearning, reward_penalty=0.25)
    batch = {
        "observations": torch.tensor([[[[0.5]]], [[[-0.5]]]]),
        "actions": torch.tensor([[[[-1.0]]], [[[1.0]]]]),
        "next_observations": torch.tensor([[[[2.0]]], [[[4.0]]]]),
        "terminals": torch.tensor([[[0.0]], [[1.0]]]),
        "labels": torch.tensor([1.0]),
        "weights": torch.tensor([1.0]),
    }
    loss, logged = learner.loss(batch)
    # Q1 = (0, 0), Q2 = (0.5, -0.5); less 0.5 * 2 and, where the task ended, 0: the implied rewards
    rewards = ((-1.0, 0.0), (-0.5, -0.5))
    preference = sum(math.log(1 + math.exp(b - a)) for a, b in rewards) / 2
    size = sum(r * r for pair in rewards for r in pair) / 4
    # min Q = (0, -0.5), V = (0.5, -0.5), so the advantages are (-0.5, 0)
    value_loss = 0.1 * 0.25 / 2
    density = [
        -0.5 * (a - math.tanh(s)) ** 2 - 0.5 * math.log(2 * math.pi) for s, a in ((0.5, -1), (-0.5, 1))
    ]
    actor_loss = -(math.exp(-1) * density[0] + density[1]) / 2
    assert logged["preference_loss"].item() == pytest.approx(preference)
    assert logged["squared_reward"].item() == pytest.approx(size)
    assert logged["value_loss"].item() == pytest.approx(value_loss)
    assert logged["actor_loss"].item() == pytest.approx(actor_loss)
    assert loss.item() == pytest.approx(preference + 0.25 * size + value_loss + actor_loss)


def test_a_hundred_steps_are_those_of_separate_networks_and_optimisers():
    ours = InversePreferenceLearning(3, 2, hidden=(16, 16), polyak=0.05).double()
    critics = [copy.deepcopy(ours.critic.member(k)) for k in range(2)]
    targets = copy.deepcopy(critics)
    value, actor = (copy.deepcopy(net.member(0)) for net in (ours.value, ours.actor.network))
    spread = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    groups: list[list[torch.Tensor]] = [[p for c in critics for p in c.parameters()]]
    groups += [list(value.parameters()), [*actor.parameters(), spread]]
    adams = [torch.optim.Adam(group, lr=ours.learning_rate) for group in groups]
    ours_adam = torch.optim.Adam(ours.parameter_groups())
    for seed in range(100):
        batch = batch_of(seed)
        ours_adam.zero_grad()
        ours.loss(batch)[0].backward()
        ours_adam.step()
        ours.after_step()
        seen = torch.cat([batch["observations"], batch["actions"]], -1)
        with torch.no_grad():
            target = torch.minimum(*(t(seen)[..., 0] for t in targets))
            going_on = 0.97 * (1 - batch["terminals"]) * value(batch["next_observations"])[..., 0]
        advantage = target - value(batch["observations"])[..., 0]
        value_loss = (torch.abs(0.75 - (advantage < 0).double()) * advantage**2).mean()
        losses = []
        for critic in critics:
            implied = critic(seen)[..., 0] - going_on
            logits = implied[0].sum(-1) - implied[1].sum(-1)
            fitted = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch["labels"])
            losses.append((fitted + 3.0 * (implied**2).mean()) / 2)
        weight = torch.exp(3.0 * advantage.detach()).clamp(max=100)
        policy = torch.distributions.Normal(actor(batch["observations"]).tanh(), spread.clamp(-5, 2).exp())
        actor_loss = -(weight * policy.log_prob(batch["actions"]).sum(-1)).mean()
        for adam in adams:
            adam.zero_grad()
        (sum(losses) + value_loss + actor_loss).backward()  # parameters are disjoint
        for adam in adams:
            adam.step()
        for old, new in zip(targets, critics, strict=True):
            for a, b in zip(old.parameters(), new.parameters(), strict=True):
                a.data = 0.95 * a.data + 0.05 * b.data
    mine = [*(ours.critic.member(k) for k in range(2)), ours.value.member(0), ours.actor.network.member(0)]
    for a, b in zip(mine, [*critics, value, actor], strict=True):
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            assert (p - q).abs().max() <= 1e-6


def test_drawn_steps_belong_to_their_segments_and_carry_what_followed(tmp_path):
    with store_of(tmp_path / "store", numbered([3, 5], terminated=[True, False])) as store:
        pairs = step_tensors(store, pairs_of([0], [1], 3, [1]), steps=4)
        share = torch.tensor([0.0, 0.4, 0.7, 0.99]).expand(2, 1, 4)
        batch = pairs.drawn(torch.tensor([0]), share)
        sizes = {n: pairs.sample(n, torch.Generator().manual_seed(0))["labels"].shape for n in (1, 8, 33)}
    assert batch["observations"][0, 0].tolist() == [[0, 0], [0, 1], [0, 2], [0, 2]]
    assert batch["next_observations"][1, 0].tolist() == [[1, 1], [1, 2], [1, 3], [1, 3]]
    assert batch["actions"][0, 0, :, 0].tolist() == pytest.approx([0, 0.01, 0.02, 0.02])
    assert batch["terminals"].tolist() == [[[0, 0, 1, 1]], [[0, 0, 0, 0]]]
    assert sizes == {1: (1,), 8: (1,), 33: (4,)}  # 2 * 4 steps a pair


def test_preferred_actions_are_found_where_cloning_stays_in_the_middle(tmp_path):
    """Every episode repeats -0.8 or 0.8, and of two that differ the second kind is preferred."""
    chosen = np.tile([-0.8, 0.8], 10)
    episodes = [episode(np.zeros((5, 1)), np.full((4, 1), a), np.zeros(4)) for a in chosen]
    a, b = np.triu_indices(20, 1)
    labels = (chosen[a] > chosen[b]) + 0.5 * (chosen[a] == chosen[b])
    learner = InversePreferenceLearning(1, 1, hidden=(16,), segment_steps=4, temperature=10.0, polyak=0.1)
    clone = BehaviourCloning(1, 1, hidden=(16,))
    with store_of(tmp_path / "store", episodes) as store:
        pairs = step_tensors(store, pairs_of(a, b, 4, labels), steps=4)
        learner.fit_normaliser(pairs.observations())
        train(learner, pairs, tmp_path / "ipl", steps=300)
        train(clone, clone.prepare_data(store, None), tmp_path / "bc", steps=100)
    assert clone.act(torch.zeros(1, 1)).item() == pytest.approx(0.0, abs=0.2)
    assert learner.act(torch.zeros(1, 1)).item() > 0.6


def test_rewards_and_senseless_settings_are_refused(tmp_path):
    with (
        store_of(tmp_path / "store", numbered([3])) as store,
        pytest.raises(ConfigError, match="learns from preferences"),
    ):
        InversePreferenceLearning(2, 1).prepare_data(store)
    for name, value in {"reward_penalty": 0.0, "segment_steps": 0, "discount": 1.0}.items():
        with pytest.raises(ConfigError, match=name):
            InversePreferenceLearning(3, 2, **{name: value})
