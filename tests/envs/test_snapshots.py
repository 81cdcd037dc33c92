import pickle

import numpy as np
import pytest

from robopref.envs.metaworld.environment import MetaWorldEnv
from robopref.envs.metaworld.tasks import TASKS


def play(env, count, seed):
    """Expert with noise for ``count`` steps: observations and rewards."""
    act = env.behaviour("expert", np.random.default_rng(seed), noise=0.3)
    observation = env.snapshot().observation
    observations, rewards = [], []
    for _ in range(count):
        observation, reward, *_ = env.step(act(observation))
        observations.append(observation)
        rewards.append(reward)
    return np.array(observations), np.array(rewards)


@pytest.mark.parametrize("task", TASKS)
def test_a_restored_episode_goes_on_identically_to_the_last_bit(task):
    env = MetaWorldEnv(task)
    env.reset(seed=11)
    play(env, 40, seed=0)
    saved, name = env.snapshot(), env.state_hash()
    observations, rewards = play(env, 20, seed=1)
    assert env.state_hash() != name

    def goes_on_identically(other):
        assert np.array_equal(other.restore(saved), saved.observation)
        assert other.state_hash() == name
        again = play(other, 20, seed=1)
        assert np.array_equal(again[0], observations)
        assert np.array_equal(again[1], rewards)

    goes_on_identically(env)
    env.reset(seed=99)
    play(env, 10, seed=3)
    goes_on_identically(env)
    other = MetaWorldEnv(task)  # never reset before
    goes_on_identically(other)
    env.reset(seed=11)
    other.reset(seed=11)
    assert env.state_hash() == other.state_hash()


def test_the_count_of_steps_and_the_end_go_back_too():
    env = MetaWorldEnv("reach", horizon=5)
    env.reset(seed=0)
    play(env, 3, seed=0)
    saved = env.snapshot()
    play(env, 2, seed=0)
    ended = env.snapshot()
    env.restore(saved)
    assert [env.step(np.zeros(4))[3] for _ in range(2)] == [False, True]
    env.reset()
    env.restore(ended)
    with pytest.raises(Exception, match="ended after 5 steps"):
        env.step(np.zeros(4))


def test_later_layouts_do_not_depend_on_a_restore(environment):
    env = environment("push")
    env.reset(seed=3)
    goals = [env.reset()[1]["goal_position_m"] for _ in range(2)]
    env.reset(seed=3)
    env.restore(env.snapshot())
    assert np.array_equal([env.reset()[1]["goal_position_m"] for _ in range(2)], goals)


def test_a_snapshot_survives_the_way_to_another_process(environment):
    env = environment("basketball")
    env.reset(seed=0)
    saved = env.snapshot()
    assert pickle.loads(pickle.dumps(saved)).digest() == saved.digest()


def test_playing_on_does_not_change_a_snapshot(environment):
    env = environment("pick-place")
    env.reset(seed=0)
    saved = env.snapshot()
    before = saved.digest()
    play(env, 20, seed=0)
    env.restore(saved)
    play(env, 20, seed=0)
    assert saved.digest() == before


def test_equal_seeds_have_equal_hashes_and_others_have_not(environment):
    env = environment("push")
    hashes = []
    for seed in (0, 1, 0):
        env.reset(seed=seed)
        hashes.append(env.state_hash())
    assert hashes[0] == hashes[2] != hashes[1]
    assert int(hashes[0], 16) < 2**256


def test_a_snapshot_of_another_task_is_refused(environment):
    push, reach = environment("push"), environment("reach")
    push.reset(seed=0)
    reach.reset(seed=0)
    with pytest.raises(ValueError, match="belongs to the task 'push', the environment to 'reach'"):
        reach.restore(push.snapshot())
    with pytest.raises(TypeError):
        reach.restore({"qpos": np.zeros(3)})
