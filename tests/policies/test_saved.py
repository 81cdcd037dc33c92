import json

import pytest
import torch

from robopref.errors import DataError
from robopref.policies.bc import BehaviourCloning
from robopref.policies.ipl import InversePreferenceLearning
from robopref.policies.iql import ImplicitQLearning
from robopref.policies.rebrac import ReBRAC
from robopref.policies.saved import load_policy, save_policy


@pytest.fixture(params=[ImplicitQLearning, BehaviourCloning, ReBRAC, InversePreferenceLearning])
def policy(request):
    policy = request.param(3, 2, hidden=(8, 4), seed=5)
    policy.actor.normaliser.fit(torch.randn(40, 3) * 3 + 1)
    return policy


def test_a_policy_read_back_acts_and_scores_as_before(policy, tmp_path):
    save_policy(tmp_path, policy, extra={"task": "drawer-open"})
    loaded = load_policy(tmp_path)
    observations, actions = torch.randn(6, 3) * 3, torch.rand(6, 1, 2)
    assert type(loaded) is type(policy)
    assert loaded.config == policy.config
    assert not loaded.training
    assert torch.equal(loaded.act(observations), policy.act(observations))
    assert torch.equal(loaded.score(observations, actions), policy.score(observations, actions))


def test_the_seed_decides_the_starting_weights():
    a, b, c = (ImplicitQLearning(3, 2, hidden=(8,), seed=seed) for seed in (0, 0, 1))
    x = torch.ones(1, 3)
    assert torch.equal(a.act(x), b.act(x))
    assert not torch.equal(a.act(x), c.act(x))


def test_a_file_that_is_missing_truncated_or_of_another_kind_is_refused(policy, tmp_path):
    with pytest.raises(DataError, match="no saved module"):
        load_policy(tmp_path)
    save_policy(tmp_path, policy)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="truncated"):
        load_policy(tmp_path)
    weights.write_bytes(whole)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"kind": "gaussian_reward"}))
    with pytest.raises(DataError, match="No kind of module is called 'gaussian_reward'"):
        load_policy(tmp_path)
