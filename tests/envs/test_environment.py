from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from metaworld.env_dict import ALL_V3_ENVIRONMENTS

from robopref.envs.metaworld.environment import MetaWorldEnv
from robopref.envs.metaworld.tasks import TASKS, task_id

STILL = np.zeros(4, np.float32)


def play(env, actions):
    steps = [env.step(action) for action in actions]
    return np.array([step[0] for step in steps]), np.array([step[1] for step in steps])


def actions(count, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 4)).astype(np.float32)


@pytest.mark.parametrize("task", TASKS)
def test_a_seed_decides_the_episode_whatever_was_played_before(task, environment):
    env = environment(task)
    start, _ = env.reset(seed=7)
    observations, rewards = play(env, actions(15))
    env.reset(seed=1234)
    play(env, actions(25, seed=9))
    again, _ = env.reset(seed=7)
    assert np.array_equal(start, again)
    assert env.observation_space.contains(start)
    observations_again, rewards_again = play(env, actions(15))
    assert np.array_equal(observations, observations_again)
    assert np.array_equal(rewards, rewards_again)


@pytest.mark.parametrize("task", TASKS)
def test_the_first_observation_is_where_the_next_step_finds_things(task, environment):
    env = environment(task)
    for seed in range(2):
        before, _ = env.reset(seed=seed)
        after = env.step(STILL)[0]
        assert np.abs(after - before)[[*range(18), 36, 37, 38]].max() < 0.01
        assert np.array_equal(after[18:36], before[:18])


@pytest.mark.parametrize("task", TASKS)
def test_layout_and_rewards_are_those_of_the_official_benchmark(task, environment):
    env = environment(task)
    env.reset(seed=5)
    observations, rewards = play(env, actions(10))
    upstream = ALL_V3_ENVIRONMENTS[f"{task}-v3"]()
    # What set_task() does with a task of the benchmark: the draw is fixed before the reset.
    upstream._set_task_called, upstream._partially_observable = True, False
    del upstream.sawyer_observation_space
    upstream._last_rand_vec = env._simulator._last_rand_vec
    upstream.reset()
    upstream_steps = [upstream.step(action) for action in actions(10)]
    assert np.allclose(observations[1:], [step[0] for step in upstream_steps][1:], atol=1e-6)
    assert np.allclose(rewards, [step[1] for step in upstream_steps], atol=1e-6)


def test_resets_without_a_seed_draw_one_layout_after_another():
    env = MetaWorldEnv("push")
    goals = []
    for seed in (3, None, None, 3, None, None):
        goals.append(env.reset(seed=seed)[1]["goal_position_m"])
    assert np.array_equal(goals[:3], goals[3:])
    assert len(np.unique(goals, axis=0)) == 3


@pytest.mark.parametrize("vectorisation", ["sync", "async"])
def test_a_vector_honours_one_seed_per_environment(vectorisation, environment):
    seeds = [4, 9, 4]
    envs: Any = gymnasium.make_vec(task_id("push"), num_envs=3, vectorization_mode=vectorisation)
    observations, info = envs.reset(seed=seeds)
    expected = [environment("push").reset(seed=seed)[0] for seed in seeds]
    stepped = envs.step(np.stack([actions(1)[0]] * 3))[0]
    envs.close()
    assert np.array_equal(observations, expected)
    assert np.array_equal(info["goal_position_m"], observations[:, 36:39])
    assert np.array_equal(stepped[0], stepped[2])
    assert not np.array_equal(stepped[0], stepped[1])


def test_positions_are_those_of_the_simulated_bodies(environment):
    env = environment("drawer-open")
    _, info = env.reset(seed=2)
    for step in range(4):
        simulator = env._simulator
        assert np.allclose(info["hand_position_m"], simulator.data.body("hand").xpos)
        # What this task calls its object is the handle, 16 cm in front of the drawer's middle.
        drawer = simulator.data.body("drawer_link").xpos
        assert np.allclose(info["object_position_m"], drawer - np.array([0, 0.16, 0]))
        assert np.allclose(info["goal_position_m"], simulator._target_pos)
        points = env.keypoints()
        assert {f"{name}_position_m" for name in points} | {"success"} == set(info)
        assert all(np.array_equal(points[name], info[f"{name}_position_m"]) for name in points)
        info = env.step(actions(4)[step])[4]


def test_what_is_handed_out_is_not_the_environments_own_memory(environment):
    env = environment("reach")
    observation, info = env.reset(seed=0)
    hand = info["hand_position_m"].copy()
    observation[:] = 99
    info["hand_position_m"][:] = 99
    env.keypoints()["hand"][:] = 99
    assert np.array_equal(env.keypoints()["hand"], hand)


@pytest.mark.parametrize("task", ["drawer-open", "door-close"])
def test_a_shifted_hand_begins_elsewhere_in_the_same_layout(task):
    usual, shifted = MetaWorldEnv(task), MetaWorldEnv(task, hand_shift_m=0.1)
    usual.reset(seed=2)
    for _ in range(2):  # the second time, too
        shifted.reset(seed=2)
        before, after = usual.keypoints(), shifted.keypoints()
        assert after["hand"] - before["hand"] == pytest.approx([0.1, 0.0, 0.0], abs=0.01)
        assert np.array_equal(after["object"], before["object"])
        assert np.array_equal(after["goal"], before["goal"])
        shifted.step(STILL)


def test_an_episode_lasts_the_horizon_even_past_a_success():
    env = MetaWorldEnv("reach", horizon=150)
    rng = np.random.default_rng(0)
    observation, _ = env.reset(seed=0)
    act = env.behaviour("expert", rng)
    successes, ends = [], []
    for _ in range(150):
        observation, _, terminated, truncated, info = env.step(act(observation))
        successes.append(info["success"])
        ends.append(terminated or truncated)
    assert any(successes[:-1])
    assert ends == [False] * 149 + [True]
    with pytest.raises(ResetNeeded, match="ended after 150 steps"):
        env.step(STILL)


def test_an_episode_ends_at_success_if_asked_to():
    env = MetaWorldEnv("reach", terminate_on_success=True)
    observation, _ = env.reset(seed=0)
    act = env.behaviour("expert", np.random.default_rng(0))
    terminated = truncated = False
    info = {}
    while not (terminated or truncated):
        observation, _, terminated, truncated, info = env.step(act(observation))
    assert terminated
    assert not truncated
    assert info["success"]
    with pytest.raises(ResetNeeded):
        env.step(STILL)


def test_an_episode_may_be_longer_than_upstream_allows():
    env = MetaWorldEnv("reach", horizon=600)
    env.reset(seed=0)
    ends = [env.step(STILL)[3] for _ in range(600)]
    assert ends == [False] * 599 + [True]


def test_an_action_means_the_same_before_and_after_it_was_stored_as_float32(environment):
    env = environment("push")
    precise = np.random.default_rng(1).uniform(-1, 1, (5, 4))
    env.reset(seed=0)
    live, _ = play(env, precise)
    env.reset(seed=0)
    replayed, _ = play(env, precise.astype(np.float32))
    assert np.array_equal(live, replayed)


def test_an_action_beyond_the_range_is_the_action_at_its_border(environment):
    env = environment("push")
    env.reset(seed=0)
    beyond = env.step(np.array([5.0, -7.0, 0.5, 3.0]))
    env.reset(seed=0)
    border = env.step(np.array([1.0, -1.0, 0.5, 1.0]))
    assert np.array_equal(beyond[0], border[0])
    assert beyond[1] == border[1]


@pytest.mark.parametrize(
    ("action", "sentence"),
    [
        (np.zeros(3), r"shape \(4,\), got \(3,\)"),
        (np.zeros((1, 4)), r"shape \(4,\), got \(1, 4\)"),
        (np.array([0, np.nan, 0, 0]), "must be finite"),
        (np.array([0, 0, np.inf, 0]), "must be finite"),
    ],
)
def test_an_impossible_action_is_refused_and_changes_nothing(action, sentence, environment):
    env = environment("reach")
    env.reset(seed=0)
    before = env.state_hash()
    with pytest.raises(ValueError, match=sentence):
        env.step(action)
    assert env.state_hash() == before


@pytest.mark.parametrize("method", ["snapshot", "keypoints", "state_hash"])
def test_nothing_can_be_asked_before_the_first_reset(method):
    env = MetaWorldEnv("reach")
    with pytest.raises(ResetNeeded, match="call reset"):
        getattr(env, method)()
    with pytest.raises(ResetNeeded, match="No episode has begun"):
        env.step(STILL)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"horizon": 0}, "horizon must be a whole number from 1 on, got 0"),
        ({"height": True}, "height must be a whole number"),
        ({"width": -1}, "width must be"),
        ({"camera": "corner_2"}, "Did you mean 'corner2'"),
        ({"render_mode": "rgb_aray"}, "Did you mean 'rgb_array'"),
        ({"hand_shift_m": 10.0}, r"must lie in \[-0.2, 0.2\] metres, got 10.0"),
        ({"hand_shift_m": float("nan")}, "hand_shift_m must lie"),
    ],
)
def test_an_impossible_option_is_refused_with_a_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        MetaWorldEnv("reach", **options)


def test_reset_knows_no_options(environment):
    with pytest.raises(ValueError, match="rand_vec"):
        environment("reach").reset(options={"rand_vec": 1})


def test_unstable_physics_is_said_and_not_played_on():
    env = MetaWorldEnv("push")
    env.reset(seed=0)
    env._simulator.data.qvel[9] = 1e12
    with pytest.raises(ArithmeticError, match="unstable at step 0"):
        env.step(STILL)
    with pytest.raises(ResetNeeded):
        env.step(STILL)
