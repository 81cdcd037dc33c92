import numpy as np
import pytest
import torch

from robopref.errors import ConfigError, DataError
from robopref.policies.dataset import transition_tensors
from tests.policies.store_of import episode, numbered, store_of


@pytest.fixture
def store(tmp_path):
    with store_of(tmp_path / "store", numbered([3, 2, 4], [False, True, False])) as store:
        yield store


def everything(sampler):
    return sampler.batch(torch.arange(len(sampler)))


def test_a_transition_holds_what_followed_in_its_own_episode(store):
    sampler = transition_tensors(store)
    batch = everything(sampler)
    episodes, steps = batch["observations"].T
    assert len(sampler) == 9
    assert episodes.tolist() == [0] * 3 + [1] * 2 + [2] * 4
    assert steps.tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 3]
    assert torch.equal(batch["next_observations"], batch["observations"] + torch.tensor([0, 1]))
    assert torch.allclose(batch["actions"][:, 0], steps / 100)
    assert torch.equal(batch["rewards"], 10 * episodes + steps)


def test_only_an_episode_that_its_task_ended_has_a_terminal_transition(store):
    assert everything(transition_tensors(store))["terminals"].tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0]


def test_given_rewards_are_matched_by_row_and_those_of_last_rows_are_ignored(store):
    rewards = np.arange(12, dtype=np.float32)
    rewards[[3, 6, 11]] = np.nan
    assert everything(transition_tensors(store, rewards))["rewards"].tolist() == [0, 1, 2, 4, 5, 7, 8, 9, 10]


def test_without_rewards_they_are_zero(store):
    assert not everything(transition_tensors(store, None))["rewards"].any()


def test_every_transition_is_drawn_about_equally_often(store):
    batch = transition_tensors(store).sample(9000, torch.Generator().manual_seed(0))
    counts = np.unique(batch["rewards"].numpy(), return_counts=True)[1]
    assert len(counts) == 9
    assert abs(counts - 1000).max() < 150  # 5 standard deviations


def test_a_sample_depends_on_the_generator_alone(store):
    sampler = transition_tensors(store)
    a, b = (sampler.sample(16, torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_standardised_rewards_have_mean_0_and_deviation_1_and_the_scaling_undoes_it(tmp_path):
    with store_of(tmp_path / "store", numbered([3, 2, 4])) as store:
        plain = everything(transition_tensors(store))["rewards"]
        sampler = transition_tensors(store, standardise="full")
        scaled = everything(sampler)["rewards"]
    assert scaled.mean().item() == pytest.approx(0, abs=1e-6)
    assert scaled.std(unbiased=False).item() == pytest.approx(1)
    assert torch.allclose(scaled * sampler.scaling.deviation + sampler.scaling.mean, plain, atol=1e-5)


def test_scale_divides_and_does_not_shift(store):
    sampler = transition_tensors(store, standardise="scale")
    batch = everything(sampler)
    assert sampler.scaling.mean == 0
    assert batch["rewards"][0] == 0
    assert batch["rewards"].std(unbiased=False).item() == pytest.approx(1)


def test_a_shift_of_rewards_is_refused_where_episodes_end_by_their_task(store):
    with pytest.raises(ConfigError, match="Use standardise=scale"):
        transition_tensors(store, standardise="full")


@pytest.mark.parametrize(("fraction", "kept"), [(1.0, {0, 1, 2}), (0.5, {1, 2}), (0.34, {1, 2}), (0.1, {2})])
def test_the_best_episodes_are_kept_by_the_sum_of_their_rewards(store, fraction, kept):
    batch = everything(transition_tensors(store, top_fraction=fraction))  # sums 3, 21, 86
    assert set(batch["observations"][:, 0].tolist()) == kept


def test_given_scores_decide_which_episodes_are_best(store):
    sampler = transition_tensors(store, None, top_fraction=0.3, scores=np.array([5.0, 1.0, 2.0]))
    assert set(everything(sampler)["observations"][:, 0].tolist()) == {0}
    assert set(sampler.seen_observations()[:, 1].tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("value", [0.0, -2.5, 1e6])
def test_constant_rewards_are_refused_as_nothing_can_be_learned(store, value):
    with pytest.raises(DataError, match=f"All 9 rewards are {value:g}".replace("+", r"\+")):
        transition_tensors(store, np.full(12, value), standardise="scale")


def test_rounding_does_not_make_constant_rewards_vary(store):
    rewards = np.full(12, 0.3, dtype=np.float32) + np.float32(3e-8) * np.arange(12, dtype=np.float32)
    with pytest.raises(DataError, match="nothing can be learned"):
        transition_tensors(store, rewards, standardise="scale")


def test_tiny_rewards_that_differ_are_not_constant(store):
    transition_tensors(store, 1e-12 * np.arange(12), standardise="scale")


def test_nan_rewards_are_refused_with_their_episode(store):
    rewards = np.ones(12)
    rewards[[5, 8]] = np.nan
    with pytest.raises(DataError, match="2 of 9 rewards are NaN or infinite, the first in episode 1"):
        transition_tensors(store, rewards)


def test_rewards_of_another_store_are_refused(store):
    with pytest.raises(DataError, match=r"each of the store's 12 rows, got shape \(9,\)"):
        transition_tensors(store, np.zeros(9))


def test_actions_outside_the_range_are_refused(tmp_path):
    steps = episode(np.zeros((3, 1)), [[0.5, 3.0], [0.5, 0.1]], [0, 1])
    with (
        store_of(tmp_path / "store", [steps]) as store,
        pytest.raises(DataError, match=r"entries \[1\] reach"),
    ):
        transition_tensors(store)


def test_senseless_options_are_refused(store):
    with pytest.raises(ConfigError, match="Did you mean 'full'"):
        transition_tensors(store, standardise="ful")
    for fraction in (0.0, 1.5, float("nan")):
        with pytest.raises(ConfigError, match=r"top_fraction must lie in \(0, 1\]"):
            transition_tensors(store, top_fraction=fraction)
    with pytest.raises(ConfigError, match="needs scores or rewards"):
        transition_tensors(store, None, top_fraction=0.5)
    with pytest.raises(DataError, match="scores must be 3 finite numbers"):
        transition_tensors(store, top_fraction=0.5, scores=np.array([1.0, np.nan, 2.0]))
