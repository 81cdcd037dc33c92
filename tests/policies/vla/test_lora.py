"""Adapters by PEFT, whose import takes seconds: hence slow."""

from typing import Any

import pytest
import torch

from robopref.policies.vla.lora import Adapter
from robopref.policies.vla.preference import TrajectoryPreference
from robopref.policies.vla.saved import load_vla, save_vla
from tests.policies.vla.conftest import tiny
from tests.policies.vla.test_preference import batch_of

pytestmark = pytest.mark.slow


def trained(policy, batch, objective, steps=3):
    learner = TrajectoryPreference(policy, objective=objective, reduce="sum", window=3, learning_rate=1e-2)
    optimiser = torch.optim.Adam(learner.parameter_groups())
    logged = {}
    for _ in range(steps):
        loss, logged = learner.loss(batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return logged


@pytest.mark.parametrize("objective", ["rpro", "tdpo2"])
def test_without_its_adapter_the_policy_is_its_reference_to_the_last_bit(seen, chunks, objective):
    plain, adapted = tiny(), tiny(adapter={"rank": 2})
    observations = plain.see(*seen)
    before = plain.score(observations, chunks)
    assert torch.equal(adapted.score(observations, chunks), before)  # it starts unchanged
    logged = trained(adapted, batch_of(adapted, [2, 3], [[1.0, 0.0]]), objective)
    assert float(logged["margin"]) > 0
    assert not torch.equal(adapted.score(observations, chunks), before)
    with adapted.frozen() as reference:
        assert torch.equal(reference.score(observations, chunks), before)
    assert not torch.equal(adapted.score(observations, chunks), before)


def test_only_the_adapter_learns_and_is_saved_with_the_rest(seen, chunks, tmp_path):
    policy = tiny(adapter={"rank": 2, "language_only": True})
    moving = [name for name, p in policy.named_parameters() if p.requires_grad]
    assert moving
    assert all("lora_" in name and "language_model" in name for name in moving)
    trained(policy, batch_of(policy, [2, 3], [[1.0, 0.0]]), "rpro")
    save_vla(tmp_path, policy)
    again = load_vla(tmp_path)
    observations = policy.see(*seen)
    assert torch.equal(again.score(observations, chunks), policy.score(observations, chunks))


def test_a_policy_that_learned_all_its_weights_adopts_an_adapter_and_stays_what_it_was(
    seen, chunks, tmp_path
):
    policy = tiny(seed=3)
    observations = policy.see(*seen)
    before = policy.score(observations, chunks)
    policy.adopt({"rank": 2})
    assert torch.equal(policy.score(observations, chunks), before)
    trained(policy, batch_of(policy, [2, 3], [[1.0, 0.0]]), "rpro")
    save_vla(tmp_path, policy)
    with load_vla(tmp_path).frozen() as reference:
        assert torch.equal(reference.score(observations, chunks), before)


def test_an_alpha_of_a_half_with_rank_four_scales_the_update_by_an_eighth():
    model = torch.nn.ModuleDict({"fc1": torch.nn.Linear(3, 2)})
    Adapter(rank=4, alpha=0.5).attach(model)
    layer: Any = model["fc1"]
    down, up = layer.lora_A["default"].weight, torch.nn.init.ones_(layer.lora_B["default"].weight)
    x = torch.eye(3)
    update = layer(x) - layer.base_layer(x)
    assert torch.allclose(update, 0.125 * (up @ down).T, atol=1e-6)
