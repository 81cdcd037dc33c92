import pickle
from typing import Any

import gymnasium
import numpy as np
import pytest

from robopref.errors import ConfigError, DataError
from robopref.training.rollout import KeptEnvironment, make_environment, run_episode, scripted_actor
from tests.training.toy_env import TOY

DRAWER = "robopref.envs:robopref/mw-drawer-open-v0"


def run(actor, seed=5, **options):
    env = make_environment(TOY, options)
    if isinstance(actor, dict):
        actor = scripted_actor(env, actor, np.random.default_rng(0))
    return run_episode(
        env, actor, seed, env_id=TOY, env_options=options, behaviour="test", options={"noise": 0.5}
    )


def test_an_episode_follows_the_physics_worked_by_hand():
    start, goal = np.random.default_rng(5).uniform(-1, 1, (2, 2))
    episode = run(lambda observation: np.array([0.5, -0.5]), horizon=3)
    positions = start + np.outer(range(4), [0.25, -0.25])
    np.testing.assert_allclose(episode.observations, np.hstack([positions, np.tile(goal, (4, 1))]), rtol=1e-6)
    np.testing.assert_allclose(episode.rewards, -np.linalg.norm(positions[1:] - goal, axis=1), rtol=1e-6)
    np.testing.assert_allclose(episode.keypoints["hand"][:, :2], positions, rtol=1e-6)
    np.testing.assert_array_equal(episode.keypoints["hand"][:, 2], np.float32(0.1))
    assert episode.observations.dtype == episode.rewards.dtype == np.float32
    assert not episode.terminated


def test_actions_are_recorded_as_sent_within_bounds_and_as_float32():
    episode = run(lambda observation: np.array([7.0, 1 / 3]), horizon=2)
    np.testing.assert_array_equal(episode.actions, np.array([[1, 1 / 3]] * 2, dtype=np.float32))


def test_success_is_told_step_by_step():
    episode = run({"kind": "expert"}, horizon=6)
    distance = np.linalg.norm(episode.observations[1:, :2] - episode.observations[1:, 2:], axis=1)
    np.testing.assert_array_equal(episode.successes, distance < 0.1)
    assert episode.succeeded


def test_provenance_names_everything_that_replays_the_episode():
    env: Any = make_environment(TOY)
    env.reset(seed=5)
    provenance = run({"kind": "random"}, horizon=3).provenance
    assert (provenance.task, provenance.env_id, provenance.seed) == ("toy", TOY, 5)
    assert provenance.options == {"noise": 0.5, "env.horizon": 3}
    assert provenance.initial_state_hash == env.unwrapped.state_hash()
    assert provenance.versions["numpy"] == np.__version__
    assert {"robopref", "mujoco", "metaworld", "gymnasium"} <= provenance.versions.keys()


def test_the_recorded_actions_replay_the_episode():
    episode = run({"kind": "random"}, horizon=5)
    actions = iter(episode.actions)
    again = run(lambda observation: next(actions), horizon=5)
    np.testing.assert_array_equal(again.observations, episode.observations)
    np.testing.assert_array_equal(again.rewards, episode.rewards)


@pytest.mark.parametrize(
    ("action", "sentence"),
    [
        (np.zeros(3), r"action at step 0 has shape \(3,\), the environment takes \(2,\)"),
        (np.zeros((1, 2)), r"shape \(1, 2\)"),
        (np.array([0.0, np.nan]), "step 0 holds NaN"),
        (np.array([np.inf, 0.0]), "NaN or infinity"),
    ],
)
def test_an_impossible_action_is_refused_before_it_is_sent(action, sentence):
    with pytest.raises(DataError, match=sentence):
        run(lambda observation: action)


def test_a_simulator_that_returns_nan_is_named_with_the_step():
    with pytest.raises(DataError, match=r"returned NaN or infinity after step 2"):
        run({"kind": "expert"}, fault="nan")


def test_an_environment_that_does_not_judge_is_refused():
    with pytest.raises(DataError, match=r"info\['success'\]"):
        run({"kind": "expert"}, fault="mute")


def test_an_episode_without_end_is_stopped():
    with pytest.raises(DataError, match="give it a horizon"):
        run({"kind": "lazy"}, horizon=10**9)


def test_a_misspelt_environment_gets_the_nearest_one():
    with pytest.raises(ConfigError, match=r"Did you mean 'robopref.envs:robopref/mw-drawer-open-v0'"):
        make_environment("robopref.envs:robopref/mw-drawer_open-v0")


@pytest.mark.parametrize("name", ["no.such.module:thing-v0", "thing-v0", "tests.training.toy_env:toy-v7", ""])
def test_an_unknown_environment_is_a_sentence_that_says_how_an_id_reads(name):
    with pytest.raises(ConfigError, match="module:namespace/name-v0"):
        make_environment(name)


@pytest.mark.parametrize("options", [{"horizn": 3}, {"horizon": 0}])
def test_options_that_the_environment_refuses_are_named(options):
    with pytest.raises(ConfigError, match="horiz"):
        make_environment(TOY, options)


def test_an_environment_without_keypoints_is_refused():
    with pytest.raises(ConfigError, match="lacks keypoints, state_hash, behaviour, control_hz"):
        make_environment("CartPole-v1")


def test_an_unknown_behaviour_is_refused_with_those_that_exist():
    env = make_environment(TOY)
    with pytest.raises(ConfigError, match="There are: expert, random, lazy"):
        scripted_actor(env, {"kind": "exprt"}, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="needs a kind"):
        scripted_actor(env, {"noise": 1.0}, np.random.default_rng(0))


def test_a_kept_environment_is_made_once_and_travels_without_its_simulator():
    kept = KeptEnvironment(TOY, {"horizon": 3})
    env = kept.get()
    assert kept.get() is env
    copy = pickle.loads(pickle.dumps(kept))
    assert copy.get() is not env
    assert copy.get().unwrapped.horizon == 3
    kept.close()
    assert kept.get() is not env


def test_metaworld_runs_and_an_episode_does_not_depend_on_what_was_played_before():
    env = make_environment(DRAWER, {"horizon": 20})
    assert isinstance(env, gymnasium.Env)

    def play(seed, kind="expert"):
        actor = scripted_actor(env, {"kind": kind}, np.random.default_rng(1))
        return run_episode(env, actor, seed, env_id=DRAWER, env_options={"horizon": 20}, behaviour=kind)

    first = play(3)
    play(4, "random")
    again = play(3)
    np.testing.assert_array_equal(first.observations, again.observations)
    np.testing.assert_array_equal(first.rewards, again.rewards)
    assert first.observations.shape == (21, 39)
    np.testing.assert_array_equal(first.keypoints["hand"], first.observations[:, :3])
    np.testing.assert_array_equal(first.keypoints["goal"], first.observations[:, 36:39])
    assert first.provenance.task == "drawer-open"
