import numpy as np
import pytest
import torch

from robopref.errors import ConfigError, DataError
from robopref.rewards.bradley_terry import BradleyTerryReward
from robopref.rewards.gaussian import GaussianReward
from robopref.rewards.relabel import relabel


@pytest.mark.parametrize("kind", [BradleyTerryReward, GaussianReward])
@pytest.mark.parametrize("batch_size", [7, 10_000])
def test_relabelling_equals_predicting_each_step_alone(kind, batch_size, store):
    reward = kind(4, 2, members=2, hidden=(8,))
    predicted = relabel(store, reward, batch_size=batch_size)
    assert predicted.dtype == np.float32
    assert predicted.shape == (int((store.lengths + 1).sum()),)
    for index in (0, 13, 29):
        episode = store.episode(index)
        for step in range(episode.length):
            mean, _ = reward.predict(
                torch.tensor(episode.observations[step]), torch.tensor(episode.actions[step])
            )
            assert predicted[store.row_of(index, step)] == pytest.approx(mean.item(), abs=1e-6)


def test_rows_without_an_action_hold_zero(store):
    predicted = relabel(store, BradleyTerryReward(4, 2, members=1, hidden=(8,)))
    assert (predicted[store.first_rows + store.lengths] == 0).all()
    assert (predicted[store.transition_rows()] != 0).all()


def test_a_reward_of_other_sizes_is_refused(store):
    with pytest.raises(DataError, match="observations of 5 and actions of 2 values, got 4 and 2"):
        relabel(store, BradleyTerryReward(5, 2, members=1, hidden=(8,)))


def test_batch_size_zero_is_refused(store):
    with pytest.raises(ConfigError, match="batch_size"):
        relabel(store, BradleyTerryReward(4, 2, members=1, hidden=(8,)), batch_size=0)
