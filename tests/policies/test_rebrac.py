import copy

import numpy as np
import pytest
import torch
from torch import nn

from robopref.errors import ConfigError, DataError
from robopref.policies.bc import BehaviourCloning
from robopref.policies.dataset import FollowedSampler, RewardScaling, TransitionSampler
from robopref.policies.iql import ImplicitQLearning
from robopref.policies.rebrac import ReBRAC
from robopref.training.metrics import read_log
from tests.policies.store_of import numbered, store_of
from tests.policies.test_iql import batch_of, gradient, train


def batch(seed, dtype=torch.float64):
    drawn = batch_of(seed=seed, dtype=dtype)
    return drawn | {"next_actions": drawn["actions"].flip(0)}


def noise_of(step):
    return torch.Generator().manual_seed(step)


class Published:
    """The authors' update on plain networks: four of them, two Adams, one loss after the other."""

    def __init__(self, like):
        self.s = like
        self.critics = nn.ModuleList(copy.deepcopy(like.critic.member(k)) for k in range(2))
        self.actor = copy.deepcopy(like.actor.network.member(0))
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.target_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.critic_adam = torch.optim.Adam(self.critics.parameters(), lr=like.learning_rate)
        self.actor_adam = torch.optim.Adam(self.actor.parameters(), lr=like.learning_rate)

    @staticmethod
    def q(critics, states, actions):
        return torch.stack([critic(torch.cat([states, actions], 1))[:, 0] for critic in critics])

    def step_critics(self, batch, noise):
        s = self.s
        with torch.no_grad():
            following = torch.tanh(self.target_actor(batch["next_observations"]))
            drawn = torch.randn(following.shape, generator=noise, dtype=following.dtype) * s.noise
            following = torch.clip(following + torch.clip(drawn, -s.noise_limit, s.noise_limit), -1, 1)
            penalty = ((following - batch["next_actions"]) ** 2).sum(1)
            q = self.q(self.target_critics, batch["next_observations"], following).min(0).values
            q = q - s.critic_penalty * penalty
            wanted = batch["rewards"] + (1 - batch["terminals"]) * s.discount * q
        loss = ((self.q(self.critics, batch["observations"], batch["actions"]) - wanted) ** 2).mean(1).sum()
        self.critic_adam.zero_grad()
        loss.backward()
        self.critic_adam.step()

    def move_targets(self):
        for targets, sources in ((self.target_critics, self.critics), (self.target_actor, self.actor)):
            for old, new in zip(targets.parameters(), sources.parameters(), strict=True):
                old.data = (1 - self.s.polyak) * old.data + self.s.polyak * new.data

    def step_actor(self, batch):
        actions = torch.tanh(self.actor(batch["observations"]))
        penalty = ((actions - batch["actions"]) ** 2).sum(1)
        q = self.q(self.critics, batch["observations"], actions).min(0).values
        loss = (self.s.actor_penalty * penalty - q / q.abs().mean().detach()).mean()
        self.actor_adam.zero_grad()
        loss.backward()
        self.actor_adam.step()


@pytest.mark.parametrize("actor_every", [1, 2])
def test_a_hundred_steps_are_those_of_the_published_update(actor_every):
    ours = ReBRAC(3, 2, hidden=(16, 16), polyak=0.05, actor_every=actor_every, critic_penalty=0.3).double()
    published = Published(ours)
    adam = torch.optim.Adam(ours.parameter_groups())
    for step in range(100):
        adam.zero_grad(set_to_none=True)
        ours.loss(batch(step), noise_of(step))[0].backward()
        adam.step()
        ours.after_step()
        published.step_critics(batch(step), noise_of(step))
        if step % actor_every == 0:
            published.move_targets()
            if step < 99:
                published.step_actor(batch(step + 1))
    pairs = [
        (ours.actor.network.member(0), published.actor),
        (ours.target_actor.member(0), published.target_actor),
    ]
    for k in range(2):
        pairs.append((ours.critic.member(k), published.critics[k]))
        pairs.append((ours.target_critic.member(k), published.target_critics[k]))
    for mine, theirs in pairs:
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            assert (a - b).abs().max() <= 1e-6
    start = ReBRAC(3, 2, hidden=(16, 16)).double().actor.network.weights[0]
    assert (start - ours.actor.network.weights[0]).abs().max() > 1e-2


def test_the_losses_worked_by_hand():
    """No hidden layer: Q1 = 2 s + a, Q2 = s - a, the actor tanh(0), and no noise to speak of."""
    learner = ReBRAC(1, 1, hidden=(), actor_penalty=2.0, critic_penalty=3.0, discount=0.5, noise=1e-9)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.zero_()
        for critic in (learner.critic, learner.target_critic):
            critic.weights[0].copy_(torch.tensor([[[2.0, 1.0]], [[1.0, -1.0]]]))
    transitions = {
        "observations": torch.tensor([[1.0], [-1.0]]),
        "actions": torch.tensor([[0.5], [-0.5]]),
        "rewards": torch.tensor([1.0, 2.0]),
        "next_observations": torch.tensor([[2.0], [4.0]]),
        "next_actions": torch.tensor([[1.0], [1.0]]),
        "terminals": torch.tensor([0.0, 1.0]),
    }
    # a' = 0: min Q' = (2, 4), less 3 * 1; wanted = (1 + 0.5 * (2 - 3), 2) = (0.5, 2)
    # Q1 = (2.5, -2.5), Q2 = (0.5, -0.5)
    critic_loss = (2.0**2 + 4.5**2) / 2 + (0 + 2.5**2) / 2
    loss, logged = learner.loss(transitions)
    assert logged["critic_loss"].item() == pytest.approx(critic_loss)
    assert loss.item() == pytest.approx(critic_loss)  # the critics go first
    learner.updates = 1
    # a = 0: min Q = (1, -2), of mean size 1.5; distances 0.25 each
    actor_loss = 2 * 0.25 - (1 - 2) / 2 / 1.5
    loss, logged = learner.loss(transitions)
    assert logged["actor_loss"].item() == pytest.approx(actor_loss)
    assert logged["actor_distance"].item() == pytest.approx(0.25)
    assert loss.item() == pytest.approx(critic_loss + actor_loss)


def test_the_actor_s_loss_moves_no_critic_and_the_critics_loss_no_actor():
    learner = ReBRAC(3, 2, hidden=(8,)).double()
    learner.loss(batch(0), noise_of(0))[0].backward()
    assert all(p.grad is None for p in learner.actor.parameters())
    alone = [gradient(p).clone() for p in learner.critic.parameters()]
    learner.zero_grad(set_to_none=True)
    learner.updates = 1
    learner.loss(batch(0), noise_of(0))[0].backward()
    assert all(p.grad is not None for p in learner.actor.network.parameters())
    pairs = zip(alone, learner.critic.parameters(), strict=True)
    assert all(torch.allclose(old, gradient(p), atol=1e-12) for old, p in pairs)


def test_the_better_actions_of_a_bandit_are_found_where_cloning_stays_in_the_middle(tmp_path):
    """Actions spread evenly, each paid by its size."""
    actions = torch.linspace(-1, 1, 401)[:, None]
    ones = torch.ones(401)
    data = (torch.zeros(401, 1), actions, actions[:, 0], ones, torch.arange(400), RewardScaling())
    learner = ReBRAC(1, 1, hidden=(32,), actor_penalty=0.1, polyak=0.1, learning_rate=3e-3)
    clone = BehaviourCloning(1, 1, hidden=(32,))
    train(learner, FollowedSampler(*data), tmp_path / "rebrac", steps=300)
    train(clone, TransitionSampler(*data), tmp_path / "bc", steps=150)
    found, cloned = (policy.act(torch.zeros(1, 1)).item() for policy in (learner, clone))
    assert cloned == pytest.approx(0.0, abs=0.1)
    assert found > 0.5


def test_a_large_actor_penalty_clones(tmp_path):
    data = transitions()
    learner = ReBRAC(4, 1, hidden=(32,), actor_penalty=1e3, learning_rate=3e-3)
    train(learner, data, tmp_path, steps=400)
    seen = data.batch(torch.arange(200))
    assert (learner.act(seen["observations"])[:, 0] - seen["actions"]).square().mean() < 0.01


def transitions():
    draw = torch.Generator().manual_seed(0)
    seen = torch.randn(201, 4, generator=draw)
    rewards = torch.randn(201, generator=draw)
    actions = (seen[:, :1] - 0.5 * seen[:, 1:2]).tanh()
    return FollowedSampler(seen, actions, rewards, torch.zeros(201), torch.arange(200), RewardScaling())


@pytest.mark.parametrize("stopped", [7, 8])
def test_a_training_in_two_pieces_gives_the_bits_of_one_in_one_piece(tmp_path, stopped):
    def made():
        return ReBRAC(4, 1, hidden=(8, 8), critic_penalty=0.1)

    whole, first, second = made(), made(), made()
    train(whole, transitions(), tmp_path / "whole", steps=20, log_every=1)
    train(first, transitions(), tmp_path / "parts", steps=stopped, log_every=1)
    train(second, transitions(), tmp_path / "parts", steps=20, log_every=1)
    assert second.updates == 20
    ours, theirs = second.state_dict(), whole.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("whole", "parts")]
    expected, got = ([{**line, "time": None} for line in log] for log in logs)
    assert len(expected) == 20
    assert got == expected  # also the actor's losses, which are repeated where only the critics step


def test_only_transitions_that_another_action_followed_are_learned_from(tmp_path):
    with store_of(tmp_path / "store", numbered([3, 2, 1], terminated=[False, True, False])) as store:
        with pytest.raises(ConfigError, match="subtracts the mean"):
            ReBRAC(2, 1).prepare_data(store)
        sampler = ReBRAC(2, 1, standardise="scale").prepare_data(store)
        found = sampler.batch(torch.arange(len(sampler)))
    # the third step of the first episode and the only one of the last are cut by the limit
    assert found["observations"].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert found["next_actions"][:3, 0].tolist() == pytest.approx([0.01, 0.02, 0.01])
    assert found["terminals"].tolist() == [0, 0, 0, 1]
    with (
        store_of(tmp_path / "single", numbered([1, 1])) as store,
        pytest.raises(DataError, match="followed by another"),
    ):
        ReBRAC(2, 1).prepare_data(store)


def test_rewards_of_any_source_reach_it_as_they_reach_iql(tmp_path):
    """A pessimistic reward is an array of rows, which both learners take."""
    with store_of(tmp_path / "store", numbered([4, 4])) as store:
        rewards = np.asarray(store.array("rewards")) - 0.5 * np.arange(len(store.array("rewards")))
        learners = (ReBRAC(2, 1, standardise="none"), ImplicitQLearning(2, 1, standardise="none"))
        ours, theirs = (learner.prepare_data(store, rewards) for learner in learners)
        mine, other = (sampler.batch(torch.tensor([0, 1, 2])) for sampler in (ours, theirs))
    assert mine["rewards"].tolist() == other["rewards"].tolist() == rewards[:3].tolist()
    with pytest.raises(ConfigError, match="learns from rewards and got none"):
        ReBRAC(2, 1).prepare_data(store, None)


def test_it_acts_without_noise_and_samples_with_it():
    learner = ReBRAC(3, 2, hidden=(8,), noise=0.1)
    seen = torch.randn(1, 3)
    best = learner.act(seen)
    assert torch.equal(best[:, 0], learner.actor.network(seen)[0].tanh())
    drawn = learner.sample(seen, 2000, generator=torch.Generator().manual_seed(0))
    assert drawn.std(1).flatten().tolist() == pytest.approx([0.1, 0.1], rel=0.1)


@pytest.mark.gpu
def test_a_gpu_takes_the_steps_of_a_cpu():
    losses = {}
    for device in ("cpu", "cuda"):
        learner, loss = ReBRAC(3, 2, hidden=(16,), noise=1e-6).to(device), torch.tensor(0.0)
        adam = torch.optim.Adam(learner.parameter_groups())
        for step in range(10):
            given = {name: value.to(device) for name, value in batch(step, torch.float32).items()}
            loss, _ = learner.loss(given, torch.Generator(device).manual_seed(step))
            adam.zero_grad()
            loss.backward()
            adam.step()
            learner.after_step()
        losses[device] = loss.item()
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("discount", 1.0),
        ("polyak", 0.0),
        ("actor_every", 0),
        ("actor_penalty", -1.0),
        ("critic_penalty", float("nan")),
        ("learning_rate", 0.0),
        ("noise", 0.0),
        ("noise_limit", 0.0),
        ("standardise", "ful"),
    ],
)
def test_senseless_settings_are_refused(name, value):
    with pytest.raises(ConfigError, match="Did you mean" if name == "standardise" else name):
        ReBRAC(3, 2, **{name: value})
