import numpy as np
import pytest
import torch

from robopref.errors import ConfigError, DataError
from robopref.rewards.bradley_terry import BradleyTerryReward
from robopref.rewards.gaussian import GaussianReward
from robopref.rewards.relabel import Blend, relabel


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


def test_caution_takes_deviations_off(store):
    reward = GaussianReward(4, 2, members=2, hidden=(8,))
    episode = store.episode(0)
    mean, deviation = reward.predict(torch.tensor(episode.observations[3]), torch.tensor(episode.actions[3]))
    careful = relabel(store, reward, caution=2.0)[store.row_of(0, 3)]
    assert careful == pytest.approx((mean - 2 * deviation).item(), abs=1e-5)


def test_a_blend_is_worked_by_hand(store):
    # the hand stands at the anchor, so the penalty is 1 at every step and the reward is left out
    rule = {"kind": "keep_away", "point": "hand", "anchor": "hand", "radius_m": 1.0, "reward_scale": 0.0}
    reward = BradleyTerryReward(4, 2, members=1, hidden=(8,))
    rows = store.transition_rows()
    blended = Blend(rule=rule, rule_share=0.25, step_cost=0.1).of(store, reward)
    expected = 0.25 * -1.0 + 0.75 * relabel(store, reward)[rows] - 0.1
    np.testing.assert_allclose(blended[rows], expected, atol=1e-6)
    assert (blended[store.first_rows + store.lengths] == 0).all()
    np.testing.assert_array_equal(Blend().of(store, reward), relabel(store, reward))


def test_a_senseless_blend_is_refused():
    with pytest.raises(ConfigError, match="rule_share must lie in"):
        Blend(rule_share=1.5)
    for senseless in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="caution must be a finite number"):
            Blend(caution=senseless)
    with pytest.raises(ConfigError, match="Did you mean 'keep_away'"):
        Blend(rule={"kind": "keepaway"})
