"""Run by test_warp.py in an environment with MuJoCo Warp and without Meta-World; not collected by itself."""

import os
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from robopref.envs.scene import States, together
from robopref.envs.warp import WarpPhysics
from robopref.policies.gaussian import GaussianPolicy
from robopref.rewards.gaussian import GaussianReward
from robopref.training.on_device import collect_on_device

DEVICE = os.environ.get("ROBOPREF_WARP_DEVICE", "cpu")
PLANAR = "planar-group"


def vector(name, count, **options) -> Any:
    return gymnasium.make_vec(
        f"robopref.envs:robopref/{name}-v0",
        num_envs=count,
        vectorization_mode="vector_entry_point",
        **options,
    )


def moves(count, size, steps):
    """Actions that push: more often towards the zone than back."""
    drawn = np.random.default_rng(0).normal((0.0, 0.3), 0.6, (steps, count, size))
    return np.clip(drawn, -1, 1).astype(np.float32)


def test_episodes_of_the_planar_scene_are_those_of_mujoco():
    ours, theirs = vector(PLANAR, 8, threads=0, horizon=40), vector(PLANAR, 8, device=DEVICE, horizon=40)
    tensors = vector(PLANAR, 8, device=DEVICE, tensors=True, horizon=40)
    wanted, _ = ours.reset(seed=3)
    assert np.array_equal(theirs.reset(seed=3)[0], wanted)
    assert tensors.reset(seed=3)[0].cpu().numpy() == pytest.approx(wanted, abs=1e-6)
    for actions in moves(8, 2, 90):  # two episodes, and a part of the third
        wanted, host = ours.step(actions), theirs.step(actions)
        there = tensors.step(torch.from_numpy(actions).to(tensors.physics.qpos.device))
        for got in (host, [part.cpu().numpy() for part in there[:4]]):
            assert got[0] == pytest.approx(wanted[0], abs=1e-3)
            assert got[1] == pytest.approx(wanted[1], abs=1e-3)
            assert np.array_equal(got[2], wanted[2])
            assert np.array_equal(got[3], wanted[3])
        for name in ("score", "tightness", "in_zone", "success"):
            assert np.allclose(there[4][name].cpu().numpy(), wanted[4][name], atol=1e-3)
            assert np.allclose(host[4][name], wanted[4][name], atol=1e-3)
    assert wanted[0][:, 4:16].std() > 0.1  # there was something to compare


@pytest.mark.parametrize("name", ["table-group", "table-avoid", "table-handle", "rope-shape", "pile-gather"])
def test_one_action_leads_where_mujoco_leads_as_far_as_mujoco_agrees_with_itself(name):
    """Warp computes in float32: it may part from MuJoCo as far as MuJoCo does from a start 1e-6 beside."""
    count = 2
    scene = vector(name, count, threads=0).scene
    states = together([scene.begin(np.random.default_rng(seed)) for seed in range(count)])
    actions = np.random.default_rng(1).uniform(-1, 1, (count, scene.action_size)).astype(np.float32)
    wanted = scene.qpos(scene.advance(states, actions))
    physics = WarpPhysics(scene, count, DEVICE)
    got = physics(states.physics, scene.controls(states, actions))[:, 1 : 1 + scene.model.nq]
    beside = []
    for seed in range(4):
        moved = states.physics.copy()
        moved[:, 1 : 1 + scene.model.nq] += np.random.default_rng(seed).normal(0, 1e-6, wanted.shape)
        beside.append(scene.qpos(scene.advance(States(moved, states.memory), actions)))
    tolerance = 2e-5 + 3 * max(np.median(np.abs(each - wanted)) for each in beside)
    assert np.median(np.abs(got - wanted)) < tolerance
    if name != "pile-gather":  # which throws single grains anywhere
        assert np.abs(got - wanted).max() < 2e-5 + 5 * max(np.abs(each - wanted).max() for each in beside)


def test_a_learned_reward_judges_on_the_device_what_it_judges_on_the_host():
    envs = vector(PLANAR, 4, device=DEVICE, tensors=True, horizon=5)
    device = envs.physics.qpos.device
    policy = GaussianPolicy(22, 2).to(device)
    reward = GaussianReward(22, 2, members=2, hidden=[8]).to(device)
    generator = torch.Generator(device).manual_seed(0)
    found = collect_on_device(envs, policy, reward, seed=7, generator=generator)
    assert found.observations.shape == (6, 4, 22)
    assert {part.device for part in vars(found).values()} == {device}
    again = vector(PLANAR, 4, threads=0, horizon=5)
    seen, _ = again.reset(seed=7)
    for step in range(5):
        action = found.actions[step].cpu()
        expected, _ = reward.cpu().predict(torch.from_numpy(seen), action)
        assert found.rewards[step].cpu().numpy() == pytest.approx(expected.numpy(), abs=1e-3)
        seen, own, *_ = again.step(action.numpy())
        assert found.own_rewards[step].cpu().numpy() == pytest.approx(own, abs=1e-3)
        assert found.observations[step + 1].cpu().numpy() == pytest.approx(seen, abs=1e-3)


def test_what_goes_wrong_is_said_when_the_episodes_end():
    envs = vector(PLANAR, 2, device=DEVICE, tensors=True, horizon=2)
    device = envs.physics.qpos.device
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        envs.step(torch.zeros(2, 2, device=device))
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=r"shape \(2, 2\), got \(2, 3\)"):
        envs.step(torch.zeros(2, 3, device=device))
    envs.step(torch.full((2, 2), torch.nan, device=device))
    with pytest.raises(ArithmeticError, match="'planar-group' on"):
        envs.step(torch.zeros(2, 2, device=device))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="has no rules in torch"):
        vector("rope-shape", 2, device=DEVICE, tensors=True)
    with pytest.raises(ValueError, match=r"knows no device 'tpu' here\. There are: cpu"):
        vector(PLANAR, 2, device="tpu")
    with pytest.raises(ValueError, match="needs a device"):
        vector(PLANAR, 2, tensors=True)
    envs = vector(PLANAR, 2, device=DEVICE)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match="holds 2 worlds, got 1 episodes"):
        envs.scene.advance(envs.states.rows([0]), np.zeros((1, 2), np.float32))


def test_a_scene_that_warp_lacks_a_feature_for_is_refused_with_its_name():
    scene = vector(PLANAR, 1, threads=0).scene
    scene.model.opt.solver = 0  # PGS
    with pytest.raises(ValueError, match="lacks what the scene 'planar-group' uses"):
        WarpPhysics(scene, 1, DEVICE)
