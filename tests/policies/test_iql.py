import copy
import math

import numpy as np
import pytest
import torch

from robopref.errors import ConfigError, DataError
from robopref.policies.dataset import RewardScaling, TransitionSampler
from robopref.policies.iql import ImplicitQLearning, advantage_weights, expectile_loss
from robopref.training.devices import make_fabric
from robopref.training.loop import fit
from robopref.training.metrics import RunLog
from tests.policies.store_of import episode, store_of


def batch_of(size=32, observation=3, action=2, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    return {
        "observations": normal(size, observation),
        "actions": normal(size, action).tanh(),
        "rewards": normal(size),
        "next_observations": normal(size, observation),
        "terminals": (normal(size) > 1).to(dtype),
    }


def gradient(parameter):
    assert parameter.grad is not None
    return parameter.grad


def linear(kind, **options):
    """Networks without hidden layers: V(s) = s, Q1 = 2 s + a, Q2 = s, targets the same, mean tanh(s)."""
    learner = kind(1, 1, hidden=(), expectile=0.9, temperature=2.0, discount=0.5, **options)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.zero_()
        learner.value.weights[0].fill_(1.0)
        learner.actor.network.weights[0].fill_(1.0)
        for critic in (learner.critic, learner.target):
            critic.weights[0].copy_(torch.tensor([[[2.0, 1.0]], [[1.0, 0.0]]]))
    return learner


def train(learner, sampler, folder, steps, batch_size=64, **options):
    with RunLog(folder, wandb_mode="disabled") as log:
        return fit(
            learner,
            sampler,
            steps=steps,
            batch_size=batch_size,
            seed=0,
            fabric=make_fabric("cpu"),
            log=log,
            phase="policy",
            directory=folder,
            **options,
        )


def test_the_expectile_of_one_half_is_half_the_mean_squared_error():
    u = torch.tensor([1.0, -2.0, 3.0])
    assert expectile_loss(u, 0.5).item() == pytest.approx((1 + 4 + 9) / 3 / 2)


def test_the_expectile_loss_worked_by_hand():
    # 0.9 * 1 for the positive difference, 0.1 * 4 for the negative one
    assert expectile_loss(torch.tensor([1.0, -2.0]), 0.9).item() == pytest.approx((0.9 + 0.4) / 2)


def test_the_minimiser_of_the_expectile_loss_moves_from_the_mean_to_the_maximum():
    values, guesses = torch.tensor([0.0, 0.0, 0.0, 1.0]), torch.linspace(0, 1, 1001)
    best = [
        guesses[torch.stack([expectile_loss(values - g, tau) for g in guesses]).argmin()].item()
        for tau in (0.5, 0.9, 0.999)
    ]
    # tau * (1 - v) = 3 * (1 - tau) * v
    assert best == pytest.approx([0.25, 0.75, 0.997], abs=2e-3)


def test_advantage_weights_are_exponential_up_to_their_limit():
    got = advantage_weights(torch.tensor([0.0, 1.0, -1.0, 100.0]), 3.0, 100.0)
    assert got.tolist() == pytest.approx([1, math.exp(3), math.exp(-3), 100])


def test_the_three_losses_worked_by_hand():
    learner = linear(ImplicitQLearning)
    batch = {
        "observations": torch.tensor([[0.5], [-0.5]]),
        "actions": torch.tensor([[-1.0], [1.0]]),
        "rewards": torch.tensor([1.0, 2.0]),
        "next_observations": torch.tensor([[2.0], [4.0]]),
        "terminals": torch.tensor([0.0, 1.0]),
    }
    loss, logged = learner.loss(batch)
    # Q1 = (0, 0), Q2 = (0.5, -0.5), so min Q = (0, -0.5), V = (0.5, -0.5), advantage = (-0.5, 0)
    value_loss = (0.1 * 0.25 + 0) / 2
    # wanted = (1 + 0.5 * 2, 2) = (2, 2)
    critic_loss = (4 + 4) / 2 + (1.5**2 + 2.5**2) / 2
    density = [
        -0.5 * (a - math.tanh(s)) ** 2 - 0.5 * math.log(2 * math.pi) for s, a in ((0.5, -1), (-0.5, 1))
    ]
    actor_loss = -(math.exp(-1) * density[0] + 1 * density[1]) / 2
    assert logged["value_loss"].item() == pytest.approx(value_loss)
    assert logged["critic_loss"].item() == pytest.approx(critic_loss)
    assert logged["actor_loss"].item() == pytest.approx(actor_loss)
    assert loss.item() == pytest.approx(value_loss + critic_loss + actor_loss)


def test_one_backward_of_the_sum_gives_each_network_the_gradient_of_its_own_loss():
    learner, batch = ImplicitQLearning(3, 2, hidden=(16,)), batch_of()
    learner.loss(batch)[0].backward()
    names = ("observations", "actions", "rewards", "next_observations", "terminals")
    for k, part in enumerate((learner.value, learner.critic, learner.actor)):
        losses, _ = learner._losses(*(batch[name] for name in names))
        alone = torch.autograd.grad(losses[k], list(part.parameters()))
        assert all(
            torch.allclose(gradient(p), g, atol=1e-7) for p, g in zip(part.parameters(), alone, strict=True)
        )
    assert all(p.grad is None for p in learner.target.parameters())


def test_one_adam_over_all_networks_equals_one_for_each():
    together = ImplicitQLearning(3, 2, hidden=(16,)).double()
    apart = copy.deepcopy(together)
    one = torch.optim.Adam(together.parameter_groups(), fused=True)
    several = [
        torch.optim.Adam(part.parameters(), lr=apart.learning_rate)
        for part in (apart.value, apart.critic, apart.actor)
    ]
    for seed in range(50):
        batch = batch_of(seed=seed, dtype=torch.float64)
        for learner, optimisers in ((together, [one]), (apart, several)):
            loss, _ = learner.loss(batch)
            learner.zero_grad(set_to_none=True)
            loss.backward()
            for optimiser in optimisers:
                optimiser.step()
            learner.after_step()
    difference = [
        (a - b).abs().max().item() for a, b in zip(together.parameters(), apart.parameters(), strict=True)
    ]
    assert max(difference) < 1e-9


def test_the_target_moves_by_its_share_towards_the_critic():
    learner = ImplicitQLearning(3, 2, hidden=(4,), polyak=0.25)
    with torch.no_grad():
        for target, critic in zip(learner.target.parameters(), learner.critic.parameters(), strict=True):
            target.fill_(1.0)
            critic.fill_(3.0)
    learner.after_step()
    assert all((p == 1.5).all() for p in learner.target.parameters())


def chain(folder):
    """Five places in a row, all walks random; a reward of 1 for stepping onto the last, which ends it."""
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(80):
        place, places, actions, rewards = 0, [0], [], []
        while place < 4 and len(actions) < 20:
            actions.append([rng.choice([-1.0, 1.0])])
            place = min(max(place + int(actions[-1][0]), 0), 4)
            places.append(place)
            rewards.append(float(place == 4))
        episodes.append(episode(np.eye(5)[places], actions, rewards, terminated=place == 4))
    return store_of(folder, episodes)


def test_the_values_of_a_chain_are_those_of_its_best_walk(tmp_path):
    learner = ImplicitQLearning(
        5,
        1,
        hidden=(32,),
        discount=0.8,
        expectile=0.97,
        temperature=5.0,
        standardise="scale",
        polyak=0.1,
        learning_rate=3e-3,
    )
    with chain(tmp_path / "store") as store:
        sampler = learner.prepare_data(store)
        train(learner, sampler, tmp_path / "run", steps=1000)
    places = torch.eye(5)[:4]
    values = learner.value(learner.actor.normaliser(places))[0, :, 0] * learner.reward_deviation
    assert values.tolist() == pytest.approx([0.8**3, 0.8**2, 0.8, 1.0], abs=0.08)
    assert (learner.act(places)[:, 0, 0] > 0.6).all()


def test_the_better_arm_of_a_bandit_is_found_where_cloning_would_stay_in_the_middle(tmp_path):
    actions = torch.where(torch.arange(400) % 2 == 0, -0.8, 0.8)[:, None]
    rewards = actions[:, 0] + 0.5
    sampler = TransitionSampler(
        torch.zeros(401, 1),
        torch.cat([actions, torch.zeros(1, 1)]),
        torch.cat([rewards, torch.zeros(1)]),
        torch.ones(401),
        torch.arange(400),
        RewardScaling(),
    )
    results = {}
    for temperature in (0.0, 10.0):
        learner = ImplicitQLearning(1, 1, hidden=(16,), temperature=temperature, expectile=0.7, polyak=0.1)
        train(learner, sampler, tmp_path / f"{temperature}", steps=500)
        results[temperature] = learner.act(torch.zeros(1, 1)).item()
    assert results[0.0] == pytest.approx(0.0, abs=0.1)
    assert results[10.0] == pytest.approx(0.8, abs=0.05)


def test_preparing_data_fits_the_normaliser_and_keeps_the_scaling_of_rewards(tmp_path):
    learner = ImplicitQLearning(5, 1, standardise="scale")
    with chain(tmp_path / "store") as store:
        sampler = learner.prepare_data(store)
    assert learner.actor.normaliser.fitted
    assert learner.state_dict()["reward_deviation"].item() == pytest.approx(sampler.scaling.deviation)


def test_rewards_that_teach_nothing_are_refused(tmp_path):
    with chain(tmp_path / "store") as store:
        learner = ImplicitQLearning(5, 1, standardise="scale")
        rows = len(store.array("rewards"))
        with pytest.raises(DataError, match="nothing can be learned"):
            learner.prepare_data(store, np.zeros(rows))
        with pytest.raises(DataError, match="NaN or infinite"):
            learner.prepare_data(store, np.full(rows, np.nan))
        with pytest.raises(ConfigError, match="learns from rewards and got none"):
            learner.prepare_data(store, None)
        with pytest.raises(DataError, match="rows of 4 values"):
            ImplicitQLearning(4, 1, standardise="scale").prepare_data(store)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("expectile", 1.0),
        ("expectile", 0.0),
        ("discount", 1.0),
        ("discount", -0.1),
        ("polyak", 0.0),
        ("temperature", -1.0),
        ("learning_rate", 0.0),
        ("weight_limit", 0.0),
        ("standardise", "ful"),
        ("expectile", float("nan")),
    ],
)
def test_senseless_settings_are_refused(name, value):
    with pytest.raises(ConfigError, match="Did you mean" if name == "standardise" else name):
        ImplicitQLearning(3, 2, **{name: value})


@pytest.mark.slow
def test_the_compiled_loss_has_the_value_and_gradient_of_the_plain_one():
    plain, fused = (ImplicitQLearning(3, 2, hidden=(16,), compile=flag) for flag in (False, True))
    for learner in (plain, fused):
        learner.loss(batch_of())[0].backward()
    assert torch.allclose(plain.loss(batch_of())[0], fused.loss(batch_of())[0], atol=1e-5)
    for part in ("value", "critic", "actor"):
        pairs = zip(getattr(plain, part).parameters(), getattr(fused, part).parameters(), strict=True)
        assert all(torch.allclose(gradient(a), gradient(b), atol=1e-5) for a, b in pairs)
