import math

import pytest
import torch

from robopref.errors import ConfigError, DataError
from robopref.rewards.bradley_terry import BradleyTerryReward
from robopref.rewards.gaussian import GaussianReward

KINDS = [BradleyTerryReward, GaussianReward]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_batch(pairs=6, steps=5, observation=4, action=2, seed=0):
    draw = generator(seed)
    batch = {
        "labels": torch.rand(pairs, generator=draw).round(),
        "weights": torch.rand(pairs, generator=draw),
    }
    for name in "ab":
        length = torch.randint(1, steps + 1, (pairs, 1), generator=draw)
        batch[f"observations_{name}"] = torch.randn(pairs, steps, observation, generator=draw)
        batch[f"actions_{name}"] = torch.rand(pairs, steps, action, generator=draw) * 2 - 1
        batch[f"mask_{name}"] = torch.arange(steps) < length
    return batch


def only_member(reward, index):
    """A reward of the same kind with one member, that of ``index``."""
    single = type(reward)(**(reward.config | {"members": 1}))
    state = reward.state_dict()
    chosen = {k: v[index : index + 1].clone() if k.startswith("network") else v for k, v in state.items()}
    single.load_state_dict(chosen)
    return single


def train(reward, batches, *, samples_seed=None):
    optimiser = torch.optim.Adam(reward.parameter_groups())
    for number, batch in enumerate(batches):
        optimiser.zero_grad()
        draw = None if samples_seed is None else generator(samples_seed + number)
        reward.loss(batch, draw)[0].backward()
        optimiser.step()
        reward.after_step()


@pytest.mark.parametrize("kind", KINDS)
def test_estimate_has_members_segments_and_steps(kind):
    reward = kind(4, 2, members=3, hidden=(8,))
    estimate = reward(torch.randn(5, 7, 4), torch.randn(5, 7, 2))
    assert estimate.mean.shape == estimate.deviation.shape == (3, 5, 7)


@pytest.mark.parametrize("kind", KINDS)
def test_tanh_bounds_the_mean_and_none_does_not(kind):
    far = 1e3 * torch.randn(5, 7, 4, generator=generator())
    options = {"members": 2, "hidden": (8,), "clip": math.inf}
    bounded = kind(4, 2, bound="tanh", **options)(far, torch.zeros(5, 7, 2)).mean
    free = kind(4, 2, bound="none", **options)(far, torch.zeros(5, 7, 2)).mean
    assert bounded.abs().max() <= 1 < free.abs().max()
    torch.testing.assert_close(bounded, free.tanh())


def test_return_is_the_masked_sum_or_mean():
    rewards = torch.tensor([[1.0, 2.0, 100.0], [1.0, 2.0, 3.0]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    total = BradleyTerryReward(4, 2, aggregate="sum").segment_return(rewards, mask)
    average = BradleyTerryReward(4, 2, aggregate="mean").segment_return(rewards, mask)
    assert total.tolist() == [3, 6]
    assert average.tolist() == [1.5, 2]


def test_variance_of_a_return_adds_up_over_steps():
    deviation = torch.tensor([[3.0, 4.0, 100.0]])
    mask = torch.tensor([[True, True, False]])
    assert BradleyTerryReward(4, 2).segment_variance(deviation, mask).tolist() == [25]
    assert BradleyTerryReward(4, 2, aggregate="mean").segment_variance(deviation, mask).tolist() == [25 / 4]


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_behind_the_mask_is_irrelevant(kind):
    reward, batch = kind(4, 2, members=2, hidden=(8,)), random_batch()
    garbled = dict(batch)
    garbled["observations_a"] = torch.where(batch["mask_a"][..., None], batch["observations_a"], 7.0)
    torch.testing.assert_close(reward.loss(batch, generator())[0], reward.loss(garbled, generator())[0])


def test_bradley_terry_loss_worked_by_hand():
    # A linear reward w . (o, a) with w = (1, 0, 0, 0, 0, 2) and bias 0, so that returns can be read off.
    reward = BradleyTerryReward(4, 2, members=1, hidden=(), bound="none", clip=math.inf)
    with torch.no_grad():
        reward.network.weights[0].copy_(torch.tensor([[[1.0, 0, 0, 0, 0, 2.0]]]))
        reward.network.biases[0].zero_()
    batch = random_batch(pairs=2, steps=2)
    for name in "ab":
        batch[f"observations_{name}"].zero_()
        batch[f"actions_{name}"].zero_()
        batch[f"mask_{name}"].fill_(True)
    batch["observations_a"][0, 0, 0] = 1.5  # return of a: 1.5, of b: 0
    batch["actions_b"][1, 1, 1] = 0.5  # return of a: 0, of b: 1
    batch["labels"], batch["weights"] = torch.tensor([1.0, 1.0]), torch.tensor([1.0, 3.0])
    loss, logged = reward.loss(batch)
    expected = (math.log1p(math.exp(-1.5)) + 3 * math.log1p(math.exp(1))) / 4
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert logged["cross_entropy"].item() == pytest.approx(expected, rel=1e-5)
    assert logged["accuracy"].item() == 0.5


def test_loss_is_summed_over_members():
    reward, batch = BradleyTerryReward(4, 2, members=3, hidden=(8,)), random_batch()
    alone = [only_member(reward, k).loss(batch)[0] for k in range(3)]
    loss, logged = reward.loss(batch)
    torch.testing.assert_close(loss, torch.stack(alone).sum())
    torch.testing.assert_close(logged["cross_entropy"], torch.stack(alone).mean().detach())


def test_training_together_equals_training_each_member_alone():
    together = BradleyTerryReward(4, 2, members=3, hidden=(8, 8), learning_rate=0.01)
    alone = [only_member(together, k) for k in range(3)]
    batches = [random_batch(seed=seed) for seed in range(20)]
    start = together.network.weights[0].detach().clone()
    for reward in (together, *alone):
        train(reward, batches)
    assert not torch.allclose(together.network.weights[0], start, atol=0.01)
    for k in range(3):
        for mine, theirs in zip(together.network.parameters(), alone[k].network.parameters(), strict=True):
            torch.testing.assert_close(mine[k], theirs[0], atol=1e-5, rtol=1e-4)


def test_members_differ_by_their_start_and_the_seed_decides_it():
    first, again, other = (BradleyTerryReward(4, 2, members=2, seed=seed) for seed in (1, 1, 2))
    weight = first.network.weights[0]
    assert not torch.equal(weight[0], weight[1])
    assert torch.equal(weight, again.network.weights[0])
    assert not torch.equal(weight, other.network.weights[0])


def test_gaussian_without_deviation_and_margin_is_bradley_terry():
    gaussian = GaussianReward(4, 2, members=3, hidden=(8,), entropy_weight=0.0, minimum_deviation=1e-9)
    plain = BradleyTerryReward(4, 2, members=3, hidden=(8,))
    with torch.no_grad():
        gaussian.network.weights[1][:, 1] = 0
        gaussian.network.biases[1][:, 0, 1] = -30  # softplus(-30) = 1e-13
        for mine, theirs in zip(plain.network.parameters(), gaussian.network.parameters(), strict=True):
            mine.copy_(theirs if mine.shape == theirs.shape else theirs.narrow(theirs.shape.index(2), 0, 1))
    batch = random_batch()
    torch.testing.assert_close(gaussian.loss(batch, generator())[0], plain.loss(batch)[0])
    torch.testing.assert_close(gaussian.preference_probability(batch), plain.preference_probability(batch))


def test_entropy_margin_enters_with_its_weight():
    # deviation softplus(0) = log 2 everywhere; H = log(log 2) + 1.4189 = 1.0524; below eta = 2 by 0.9476
    losses = {}
    for weight in (0.0, 0.5):
        reward = GaussianReward(4, 2, members=3, hidden=(8,), entropy_margin=2.0, entropy_weight=weight)
        with torch.no_grad():
            reward.network.weights[1][:, 1] = 0
            reward.network.biases[1][:, 0, 1] = 0
        losses[weight] = reward.loss(random_batch(), generator())[0].item()
    gap = 2 - (math.log(math.log(2)) + 0.5 * math.log(2 * math.pi * math.e))
    assert losses[0.5] - losses[0.0] == pytest.approx(3 * 0.5 * gap, rel=1e-3)


def test_entropy_margin_keeps_the_deviation_from_collapsing():
    batch = random_batch(pairs=32)
    deviations = {}
    for weight in (0.0, 1.0):
        reward = GaussianReward(4, 2, members=1, hidden=(16,), entropy_weight=weight, learning_rate=0.01)
        train(reward, [batch] * 150, samples_seed=0)
        deviations[weight] = reward.loss(batch, generator())[1]["deviation"].item()
    assert deviations[0.0] < 0.5 < deviations[1.0]


def test_gradient_of_the_gaussian_loss_agrees_with_finite_differences():
    reward = GaussianReward(4, 2, members=2, hidden=(3,), activation="tanh").double()
    batch = {k: v.double() if v.is_floating_point() else v for k, v in random_batch(pairs=3, steps=2).items()}
    loss, _ = reward.loss(batch, generator(1))
    loss.backward()
    weight = reward.network.weights[0]
    assert weight.grad is not None
    for index in ((0, 0, 0), (1, 2, 5)):
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                weight[index] += step
                values.append(reward.loss(batch, generator(1))[0].item())
                weight[index] -= step
        assert weight.grad[index].item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_prediction_is_the_mean_over_members_and_the_total_deviation(kind):
    reward = kind(4, 2, members=3, hidden=(8,))
    observations, actions = torch.randn(5, 7, 4), torch.randn(5, 7, 2)
    mean, deviation = reward.predict(observations, actions)
    estimate = reward(observations, actions)
    torch.testing.assert_close(mean, estimate.mean.mean(0))
    variance = estimate.mean.var(0, unbiased=False) + estimate.deviation.square().mean(0)
    torch.testing.assert_close(deviation, variance.sqrt())
    assert not mean.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_prediction_does_not_depend_on_the_batch_size(kind):
    reward = kind(4, 2, members=2, hidden=(8,))
    observations, actions = torch.randn(101, 4), torch.randn(101, 2)
    for whole, parts in zip(
        reward.predict(observations, actions),
        reward.predict(observations, actions, batch_size=7),
        strict=True,
    ):
        torch.testing.assert_close(whole, parts)
    single, _ = reward.predict(observations[3], actions[3])
    torch.testing.assert_close(single, reward.predict(observations, actions)[0][3])
    assert reward.predict(observations[:0], actions[:0])[0].shape == (0,)


def test_nan_and_wrong_sizes_are_refused_in_prediction():
    reward = BradleyTerryReward(4, 2, members=1, hidden=(8,))
    bad = torch.zeros(3, 4)
    bad[1, 2] = math.nan
    with pytest.raises(DataError, match=r"observations hold NaN or infinity in dimensions \[2\]"):
        reward.predict(bad, torch.zeros(3, 2))
    with pytest.raises(DataError, match="observations of 4 and actions of 2 values, got 5 and 2"):
        reward.predict(torch.zeros(3, 5), torch.zeros(3, 2))
    with pytest.raises(ConfigError, match="batch_size"):
        reward.predict(torch.zeros(3, 4), torch.zeros(3, 2), batch_size=0)


def test_ties_are_left_out_of_the_logged_accuracy():
    reward, batch = BradleyTerryReward(4, 2, members=2, hidden=(8,)), random_batch()
    batch["labels"] = torch.full((6,), 0.5)
    assert reward.loss(batch)[1]["accuracy"].item() == 0
    one = only_member(reward, 0)
    batch["labels"][0] = (one.preference_probability(batch)[0] > 0.5).float()
    assert one.loss(batch)[1]["accuracy"].item() == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"bound": "tan"}, "No bound is called 'tan'. Did you mean 'tanh'"),
        ({"aggregate": "total"}, "No aggregate is called 'total'"),
        ({"activation": "rleu"}, "Did you mean 'relu'"),
        ({"members": 0}, "at least one member"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"flip_prob": 0.5}, "flip_prob"),
        ({"observation_size": 0}, "observation_size=0"),
    ],
)
def test_bad_options_are_refused(kind, options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        kind(**{"observation_size": 4, "action_size": 2} | options)


@pytest.mark.parametrize(
    "options",
    [{"samples": 0}, {"entropy_weight": -1.0}, {"entropy_weight": math.nan}, {"minimum_deviation": 0.0}],
)
def test_bad_options_of_the_gaussian_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        GaussianReward(4, 2, **options)
