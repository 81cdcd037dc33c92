import functools
import os
import pickle
import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import DependencyNotInstalled
from scipy.spatial.transform import Rotation

from robopref.envs.rendering import gl_backend
from robopref.envs.robosuite.tasks import TASKS

robosuite = pytest.importorskip("robosuite")
can_draw = pytest.mark.skipif(gl_backend().name is None, reason=gl_backend().reason)
every_task = pytest.mark.parametrize("task", TASKS)


@functools.cache
def environment(task, number=0, **options) -> Any:
    return gymnasium.make(
        f"robopref.envs:robopref/rs-{task}-v0", disable_env_checker=True, **options
    ).unwrapped


def play(env, count, seed):
    """Expert with noise for ``count`` steps from an observation: observations and rewards."""
    act = env.behaviour("expert", np.random.default_rng(seed), noise=0.3)
    observation, seen = env.snapshot().observation, []
    for _ in range(count):
        observation, reward, *_ = env.step(act(observation))
        seen.append([*observation, reward])
    return np.array(seen)


def outcome(env, kind, seed, **options):
    """Return and final success of an episode."""
    observation, info = env.reset(seed=seed)
    act, total = env.behaviour(kind, np.random.default_rng(seed), **options), 0.0
    for _ in range(env.horizon):
        observation, reward, _, _, info = env.step(act(observation))
        total += reward
    return total, info["success"]


@every_task
def test_steps_are_robosuites_own_to_the_last_bit(task):
    ours = environment(task)
    ours.reset(seed=4)
    theirs = robosuite.make(
        TASKS[task].upstream,
        robots="Panda",
        has_offscreen_renderer=False,
        use_camera_obs=False,
        reward_shaping=True,
        hard_reset=False,
        ignore_done=True,
        renderer="mujoco",
        seed=0,
    )
    drawn = np.random.default_rng(np.random.Generator(np.random.PCG64(4)).integers(2**63))
    theirs.rng.bit_generator.state = drawn.bit_generator.state
    theirs.reset()
    for part in ("right", "right_gripper"):  # upstream's first substep uses a mass matrix from before
        theirs.robots[0].part_controllers[part].new_update = True
    rng, action = np.random.default_rng(0), np.zeros(7, np.float32)
    for step in range(15):
        if step % 3 == 0:
            action = rng.uniform(-1, 1, 7).astype(np.float32)
        observation, reward, *_ = ours.step(action)
        found, expected_reward, _, _ = theirs.step(action.astype(np.float64))
        object_m, object_xyzw = (found[f"{TASKS[task].sensors}_{key}"] for key in ("pos", "quat"))
        hand_m, hand_xyzw, fingers = (
            found[f"robot0_{key}"] for key in ("eef_pos", "eef_quat", "gripper_qpos")
        )
        hand = Rotation.from_quat(hand_xyzw).inv()
        relative = object_m - hand_m
        if task != "lift":
            turned = (hand * Rotation.from_quat(object_xyzw)).as_quat()
            relative = np.concatenate([hand.apply(relative), turned * np.sign(turned @ observation[10:14])])
        assert np.array_equal(ours._upstream.sim.data.qpos, theirs.sim.data.qpos)
        assert np.array_equal(ours._upstream.sim.data.qvel, theirs.sim.data.qvel)
        read = np.concatenate([object_m, object_xyzw, hand_m, hand_xyzw, fingers])
        assert np.array_equal(np.delete(observation, np.s_[7 : TASKS[task].object_size]), read)
        assert observation[7 : TASKS[task].object_size] == pytest.approx(relative, abs=1e-6)
        assert reward == expected_reward


@every_task
def test_a_restored_episode_goes_on_identically_to_the_last_bit(task):
    env = environment(task)
    env.reset(seed=11)
    play(env, 15, seed=0)
    saved, name = env.snapshot(), env.state_hash()
    before = saved.digest()
    seen = play(env, 8, seed=1)
    assert env.state_hash() != name

    def goes_on_identically(other):
        assert np.array_equal(other.restore(pickle.loads(pickle.dumps(saved))), saved.observation)
        assert other.state_hash() == name
        assert np.array_equal(play(other, 8, seed=1), seen)

    goes_on_identically(env)
    env.reset(seed=99)
    play(env, 5, seed=3)
    goes_on_identically(env)
    other = environment(task, 1)
    goes_on_identically(other)  # never reset before
    assert saved.digest() == before
    env.reset(seed=11)
    other.reset(seed=11)
    assert env.state_hash() == other.state_hash()
    assert np.array_equal(play(env, 5, seed=2), play(other, 5, seed=2))
    env.reset(seed=12)
    assert env.state_hash() != other.state_hash()


@pytest.mark.parametrize("task", ["lift", "can"])
def test_the_expert_succeeds_and_chance_does_not(task):
    env = environment(task)
    best, success = outcome(env, "expert", 7, noise=0.05)
    assert success
    worst, success = outcome(env, "random", 7)
    assert not success
    assert worst < best / 4


@pytest.mark.slow
@pytest.mark.parametrize(("task", "least"), [("lift", 19), ("can", 19), ("square", 17)])
def test_experts_succeed_on_twenty_starts(task, least):
    env = environment(task)
    assert sum(outcome(env, "expert", seed)[1] for seed in range(100, 120)) >= least


@pytest.mark.slow
def test_more_noise_earns_less():
    env = environment("lift")
    means = [
        np.mean([outcome(env, "expert", s, noise=n)[0] for s in range(8)]) for n in (0.05, 0.3, 1.0, 2.0)
    ]
    assert means == sorted(means, reverse=True)


def test_the_wish_for_an_opengl_back_end_survives_robosuite():
    code = (
        "import os; os.environ.pop('MUJOCO_GL', None); from robopref.envs.robosuite import simulation; "
        "simulation.import_robosuite(); print(os.environ.get('MUJOCO_GL'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None"
    assert "robosuite" not in done.stderr


def test_without_robosuite_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "robosuite", None)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    with pytest.raises(DependencyNotInstalled, match=r"pip install 'robopref\[robosuite\]'"):
        gymnasium.make("robopref.envs:robopref/rs-can-v0")
    assert "MUJOCO_GL" not in os.environ


@can_draw
def test_a_frame_is_a_function_of_the_state_and_shows_no_collision_shapes():
    env = environment("lift", 2, render_mode="rgb_array", width=96, height=96)
    env.reset(seed=0)
    play(env, 3, seed=0)
    saved, frame = env.snapshot(), env.render()
    after = play(env, 3, seed=1)
    assert not np.array_equal(env.render(), frame)
    env.restore(saved)
    assert np.array_equal(env.render(), frame)
    assert np.array_equal(play(env, 3, seed=1), after)  # drawing changed nothing
    red, green, blue = np.moveaxis(frame.astype(int), -1, 0)
    assert ((red > 80) & (red > 2 * green) & (red > 2 * blue)).sum() > 10  # the cube
    assert ((green > 120) & (red < 80) & (blue < 80)).sum() == 0  # the green collision shapes of the arm
    env.close()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"task": "cann"}, "Did you mean 'can'"),
        ({"task": "can", "camera": "agent"}, "Did you mean 'agentview'"),
        ({"task": "can", "horizon": 0}, "horizon must be"),
    ],
)
def test_what_cannot_be_is_refused(options, sentence):
    from robopref.envs.robosuite.environment import RobosuiteEnv

    with pytest.raises(ValueError, match=sentence):
        RobosuiteEnv(**options)


def test_what_makes_no_sense_while_playing_is_refused():
    env = environment("lift", 3, horizon=2)
    with pytest.raises(gymnasium.error.ResetNeeded, match="No episode has begun"):
        env.keypoints()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="An action has shape"):
        env.step(np.zeros(4))
    with pytest.raises(ValueError, match="An action must be finite"):
        env.step(np.full(7, np.nan))
    env.step(np.zeros(7))
    assert env.step(np.zeros(7))[3]
    with pytest.raises(gymnasium.error.ResetNeeded, match="ended after 2 steps"):
        env.step(np.zeros(7))
    with pytest.raises(ValueError, match="belongs to the task 'lift', the environment to 'can'"):
        environment("can").restore(env.snapshot())
    with pytest.raises(ValueError, match="Did you mean 'expert'"):
        env.behaviour("exprt", np.random.default_rng(0))
