"""What every scene of our own keeps to."""

import functools
import pickle
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from robopref.envs import SCENES
from robopref.envs.rendering import gl_backend
from robopref.training.rollout import run_episode, scripted_actor

can_draw = pytest.mark.skipif(gl_backend().name is None, reason=gl_backend().reason)
every_scene = pytest.mark.parametrize("env_id", SCENES)


@functools.cache
def environment(env_id, number=0, **options) -> Any:
    return gymnasium.make(f"robopref.envs:{env_id}", disable_env_checker=True, **options).unwrapped


def actions(env, count, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, *env.action_space.shape)).astype(np.float32)


def play(env, moves):
    steps = [env.step(move) for move in moves]
    return np.array([step[0] for step in steps]), np.array([step[1] for step in steps])


@every_scene
def test_a_seed_decides_the_episode_whatever_was_played_before(env_id):
    env, other = environment(env_id), environment(env_id, 1)
    start, _ = env.reset(seed=7)
    first = play(env, actions(env, 3))
    env.reset(seed=8)
    play(env, actions(env, 2, seed=1))
    for again in (env, other):
        assert np.array_equal(again.reset(seed=7)[0], start)
        for got, expected in zip(play(again, actions(env, 3)), first, strict=True):
            assert np.array_equal(got, expected)
    assert not np.array_equal(env.reset(seed=9)[0], start)


@every_scene
def test_a_restored_episode_goes_on_identically_to_the_last_bit(env_id):
    env, other = environment(env_id), environment(env_id, 1)
    env.reset(seed=3)
    play(env, actions(env, 2))
    saved, name = pickle.loads(pickle.dumps(env.snapshot())), env.state_hash()
    seen = env.restore(saved)
    expected = play(env, actions(env, 3, seed=1))
    assert env.state_hash() != name
    other.reset(seed=11)
    for again in (env, other):
        assert np.array_equal(again.restore(saved), seen)
        assert again.state_hash() == name == saved.digest()
        for got, wanted in zip(play(again, actions(env, 3, seed=1)), expected, strict=True):
            assert np.array_equal(got, wanted)


@every_scene
def test_trying_actions_tells_what_each_would_do_and_does_nothing(env_id):
    env, threaded = environment(env_id), environment(env_id, 2, threads=2)
    env.reset(seed=5)
    saved = env.snapshot()
    moves = actions(env, 3)
    outcomes = env.try_actions(moves)
    assert env.state_hash() == saved.digest()
    threaded.reset(seed=0)
    threaded.restore(saved)
    assert np.array_equal(threaded.try_actions(moves).observations, outcomes.observations)
    for index, move in enumerate(moves):
        env.restore(saved)
        observation, reward, *_, info = env.step(move)
        assert np.array_equal(observation, outcomes.observations[index])
        assert reward == outcomes.rewards[index]
        assert info["score"] == outcomes.infos["score"][index]


@every_scene
def test_an_episode_has_its_length_and_then_ends(env_id):
    env = environment(env_id, horizon=2)
    env.reset(seed=0)
    assert [env.step(move)[2:4] for move in actions(env, 2)] == [(False, False), (False, True)]
    with pytest.raises(ResetNeeded, match="ended after 2 steps"):
        env.step(actions(env, 1)[0])


@every_scene
def test_nothing_can_be_asked_before_the_first_reset(env_id):
    env: Any = gymnasium.make(f"robopref.envs:{env_id}", disable_env_checker=True).unwrapped
    for method in (env.snapshot, env.keypoints, env.state_hash):
        with pytest.raises(ResetNeeded, match="call reset"):
            method()


@every_scene
@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda a: np.append(a, 0), r"An action has shape \(\d,\), got"),
        (lambda a: a * np.nan, "must be finite"),
        (lambda a: a + np.inf, "must be finite"),
    ],
)
def test_an_impossible_action_is_refused_and_changes_nothing(env_id, spoil, sentence):
    env = environment(env_id)
    env.reset(seed=0)
    before = env.state_hash()
    with pytest.raises(ValueError, match=sentence):
        env.step(spoil(env.action_space.sample()))
    assert env.state_hash() == before


@every_scene
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"horizon": 0}, "horizon must be a whole number from 1 on, got 0"),
        ({"camera": "topp"}, "Did you mean 'top'"),
        ({"render_mode": "rgb_aray"}, "Did you mean 'rgb_array'"),
        ({"threads": -1}, "threads must be a whole number from 0 on, got -1"),
    ],
)
def test_an_impossible_option_is_refused_with_a_sentence(env_id, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        gymnasium.make(f"robopref.envs:{env_id}", **options)


@every_scene
@pytest.mark.parametrize(
    ("kind", "options", "sentence"),
    [
        ("expret", {}, "Did you mean 'expert'"),
        ("expert", {"nois": 1.0}, "Did you mean 'noise'"),
        ("expert", {"noise": -1}, "must be a number from 0 on, got -1"),
        ("expert", {"noise": float("nan")}, "must be a number from 0 on, got nan"),
    ],
)
def test_an_impossible_behaviour_is_refused_with_a_sentence(env_id, kind, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        environment(env_id).behaviour(kind, np.random.default_rng(0), **options)


@every_scene
def test_a_snapshot_of_another_task_is_refused(env_id):
    env = environment(env_id)
    stranger = environment(next(other for other in SCENES if other != env_id))
    stranger.reset(seed=0)
    with pytest.raises(ValueError, match="This snapshot belongs to the task"):
        env.restore(stranger.snapshot())
    with pytest.raises(TypeError, match="snapshot"):
        env.restore(np.zeros(3))


@every_scene
def test_unstable_physics_is_said_and_not_played_on(env_id):
    env = environment(env_id)
    env.reset(seed=0)
    env.states.physics[0, 1 + env.scene.model.nq] = 1e12
    with pytest.raises(ArithmeticError, match="became unstable"):
        env.step(actions(env, 1)[0])
    with pytest.raises(ResetNeeded):
        env.step(actions(env, 1)[0])


@every_scene
def test_an_episode_is_recorded_with_everything_that_robopref_needs(env_id):
    env = gymnasium.make(f"robopref.envs:{env_id}", horizon=2, disable_env_checker=True)
    actor = scripted_actor(env, {"kind": "random"}, np.random.default_rng(0))
    episode = run_episode(env, actor, 4, env_id=env_id, behaviour="random")
    assert len(episode.actions) == 2
    assert {"hand", "object", "goal"} <= set(episode.keypoints)
    assert all(points.shape == (3, 3) for points in episode.keypoints.values())


@can_draw
@every_scene
def test_frames_show_the_state_and_change_nothing(env_id):
    env = environment(env_id, render_mode="rgb_array", width=48, height=40)
    env.reset(seed=0)
    before, frame = env.state_hash(), env.render()
    assert frame.shape == (40, 48, 3)
    assert frame.dtype == np.uint8
    assert frame.std() > 5
    assert env.state_hash() == before
    env.reset(seed=1)
    assert not np.array_equal(env.render(), frame)
    env.reset(seed=0)
    assert np.array_equal(env.render(), frame)
    env.close()
