import numpy as np
import pytest
import torch

from robopref.errors import ConfigError, DataError
from robopref.rewards.dataset import preference_tensors
from robopref.rewards.metrics import preference_metrics
from robopref.rewards.relabel import relabel
from robopref.rewards.transformer import PreferenceTransformer


def small(**options):
    return PreferenceTransformer(
        4, 2, **{"width": 8, "attention_heads": 2, "context": 20, "seed": 1, **options}
    )


def steps(count, length, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, length, 4, generator=draw), torch.rand(count, length, 2, generator=draw)


def test_a_step_is_judged_by_those_before_it_alone():
    observations, actions = steps(3, 9)
    reward = small(members=2)
    before = reward(observations, actions).mean
    observations[:, 6:] += 1
    after = reward(observations, actions).mean
    assert before.shape == (2, 3, 9)
    assert torch.allclose(before[..., :6], after[..., :6], atol=1e-6)
    assert not torch.allclose(before[..., 6:], after[..., 6:], atol=1e-3)
    observations[:, 0] += 1
    assert not torch.allclose(after[..., 1:], reward(observations, actions).mean[..., 1:], atol=1e-3)


def test_weights_of_the_steps_of_a_segment_average_one_and_padding_has_none():
    observations, actions = steps(3, 9)
    reward, mask = small(), torch.arange(9) < torch.tensor([[9], [5], [1]])
    reader = reward.network.readers[0]
    seen = reader.features(torch.cat([reward.normaliser(observations), actions], -1))
    weights = reader.weights(seen, mask)
    assert weights.sum(1).tolist() == pytest.approx([9, 5, 1], abs=1e-4)
    assert (weights[~mask] == 0).all()
    assert weights[0].std() > 0


def test_padding_changes_no_return():
    observations, actions = steps(2, 9)
    reward, mask = small(), torch.ones(2, 9, dtype=torch.bool)
    short = reward.segment_scores(observations[:, :6], actions[:, :6], mask[:, :6])[0]
    mask[:, 6:] = False
    assert torch.allclose(reward.segment_scores(observations, actions, mask)[0], short, atol=1e-5)


def test_an_episode_longer_than_the_context_is_judged_in_windows():
    observations, actions = steps(1, 30)
    reward = small()
    found = reward.predict(observations[0], actions[0])[0]
    assert found.shape == (30,)
    for t in (3, 19, 20, 29):
        first = max(0, t - 19)
        window = reward(observations[:, first : t + 1], actions[:, first : t + 1]).mean[0, 0, -1]
        assert found[t].item() == pytest.approx(window.item(), abs=1e-5)


def test_relabelling_follows_episodes(store):
    reward = small()
    predicted = relabel(store, reward)
    episode = store.episode(7)
    alone, _ = reward.predict(torch.tensor(episode.observations[:-1]), torch.tensor(episode.actions))
    rows = store.row_of(7, 0) + np.arange(episode.length)
    assert predicted[rows] == pytest.approx(alone.numpy(), abs=1e-5)
    assert (predicted[store.first_rows + store.lengths] == 0).all()


def test_it_learns_the_order_of_segments(store, draw_pairs):
    rng = np.random.default_rng(0)
    learned = preference_tensors(store, draw_pairs(150, rng, length=5))
    judged = preference_tensors(store, draw_pairs(200, rng, length=5))
    reward = small(width=16, learning_rate=3e-3)
    reward.fit_normaliser(learned.observations())
    optimiser = torch.optim.Adam(reward.parameter_groups())
    generator = torch.Generator().manual_seed(0)
    for _ in range(120):
        optimiser.zero_grad()
        reward.loss(learned.sample(32, generator), generator)[0].backward()
        optimiser.step()
    assert preference_metrics(reward, judged)["pair_accuracy"] > 0.85


def test_what_it_refuses():
    with pytest.raises(DataError, match="larger context"):
        small()(*steps(1, 21))
    with pytest.raises(DataError, match="observations of 4"):
        small()(torch.zeros(1, 3, 5), torch.zeros(1, 3, 2))
    blind = torch.zeros(3, 4)
    blind[1, 2] = torch.nan
    with pytest.raises(DataError, match=r"observations hold NaN or infinity in dimensions \[2\]"):
        small().predict(blind, torch.zeros(3, 2))
    with pytest.raises(ConfigError, match="context"):
        small(context=0)
    with pytest.raises(ConfigError, match="those before it"):
        small()._rows(torch.zeros(2, 4), torch.zeros(2, 2))
