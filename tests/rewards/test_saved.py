import pytest
import torch

from robopref.errors import DataError
from robopref.nets.checkpoint import read_config, save_module
from robopref.nets.mlp import EnsembleMLP
from robopref.rewards.bradley_terry import BradleyTerryReward
from robopref.rewards.gaussian import GaussianReward
from robopref.rewards.saved import load_reward, save_reward
from robopref.rewards.transformer import PreferenceTransformer

REWARDS = [
    BradleyTerryReward(4, 2, members=2, hidden=(8,), aggregate="mean", flip_prob=0.1, seed=5),
    GaussianReward(4, 2, members=3, hidden=(8, 4), bound="none", samples=2, entropy_margin=-1.0),
    GaussianReward(4, 2, members=2, hidden=(4,), flip_prob="learn", doubt_margin=1.0),
    PreferenceTransformer(4, 2, members=2, width=8, layers=2, attention_heads=2, context=60),
]


@pytest.mark.parametrize("reward", REWARDS, ids=lambda reward: reward.kind)
def test_round_trip_keeps_settings_normaliser_and_predictions(reward, tmp_path):
    observations, actions = torch.randn(50, 4) * 3 + 7, torch.randn(50, 2)
    reward.fit_normaliser(observations)
    save_reward(tmp_path / "reward", reward, extra={"task": "toy"})
    loaded = load_reward(tmp_path / "reward")
    assert type(loaded) is type(reward)
    assert loaded.config == reward.config
    assert loaded.normaliser.fitted
    for saved, again in zip(
        reward.predict(observations, actions), loaded.predict(observations, actions), strict=True
    ):
        assert torch.equal(saved, again)
    assert read_config(tmp_path / "reward")["extra"] == {"task": "toy"}


def test_truncated_reward(tmp_path):
    save_reward(tmp_path, REWARDS[0])
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="truncated"):
        load_reward(tmp_path)


def test_another_kind_of_module_is_refused(tmp_path):
    save_module(tmp_path, EnsembleMLP(1, 2, 1), kind="policy", config={})
    with pytest.raises(DataError, match=r"No kind of module is called 'policy'.*bradley_terry, .*gaussian"):
        load_reward(tmp_path)
