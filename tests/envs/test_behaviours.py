import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml
from metaworld.policies import ENV_POLICY_MAP

from robopref.envs.metaworld.behaviours import KINDS, Behaviour
from robopref.envs.metaworld.tasks import TASKS

OBSERVATION = np.linspace(-0.3, 0.8, 39)


def rng(seed=0):
    return np.random.default_rng(seed)


def actions(behaviour, count=80):
    return np.array([behaviour(OBSERVATION) for _ in range(count)])


def episode(env, kind, seed, **options):
    """Return of one episode."""
    observation, _ = env.reset(seed=seed)
    act = env.behaviour(kind, rng(seed), **options)
    total = 0.0
    for _ in range(env.horizon):
        observation, reward, *_ = env.step(act(observation))
        total += reward
    return total


@pytest.mark.parametrize("task", TASKS)
def test_the_expert_is_upstreams_policy_clipped_and_silent(task):
    upstream = ENV_POLICY_MAP[f"{task}-v3"]()
    act = Behaviour(task, "expert", rng())
    for observation in rng(1).uniform(-0.3, 0.9, (20, 39)):
        seen = observation.copy()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            action = act(seen)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = np.clip(upstream.get_action(observation), -1, 1)
        assert np.array_equal(seen, observation)
        assert np.array_equal(action, expected)
        assert action.dtype == np.float32


@pytest.mark.parametrize("kind", KINDS)
def test_equal_generators_give_equal_actions_within_the_range(kind):
    first, second, other = (Behaviour("push", kind, rng(seed)) for seed in (3, 3, 4))
    assert first.options == second.options
    played = actions(first)
    assert np.array_equal(played, actions(second))
    assert kind == "expert" or not np.array_equal(played, actions(other))
    assert played.dtype == np.float32
    assert np.abs(played).max() <= 1


def test_noise_has_the_deviation_that_was_asked_for():
    observation = np.zeros(39)
    observation[[0, 1, 2]] = [0.0, 0.6, 0.2]
    observation[36:39] = observation[:3]  # a hand at its goal: the expert does nothing
    act = Behaviour("reach", "expert", rng(), noise=0.1)
    played = np.array([act(observation) for _ in range(2000)])
    assert np.std(played[:, :3], axis=0) == pytest.approx([0.1] * 3, rel=0.1)


def test_displaced_means_that_the_expert_sees_the_object_elsewhere():
    act = Behaviour("push", "displaced", rng(), offset_std_m=0.2, noise=0.0)
    offset = np.array([act.options[f"offset_{axis}_m"] for axis in "xyz"])
    elsewhere = OBSERVATION.copy()
    elsewhere[4:7] += offset
    assert np.array_equal(act(OBSERVATION), Behaviour("push", "expert", rng())(elsewhere))
    drawn = [Behaviour("push", "displaced", rng(seed), offset_std_m=0.2).options for seed in range(300)]
    assert np.std([float(options["offset_x_m"]) for options in drawn]) == pytest.approx(0.2, rel=0.15)


def test_stall_freezes_the_arm_and_keeps_the_grip():
    played = actions(Behaviour("push", "stall", rng(), step=5, noise=0.0))
    expert = actions(Behaviour("push", "expert", rng()))
    assert np.array_equal(played[:5], expert[:5])
    assert not played[5:, :3].any()
    assert (played[5:, 3] == expert[4, 3]).all()


def test_switch_goes_random_at_its_step():
    played = actions(Behaviour("push", "switch", rng(), step=5, noise=0.0), 1005)
    assert np.array_equal(played[:5], actions(Behaviour("push", "expert", rng()), 5))
    assert np.std(played[5:], axis=0) == pytest.approx([1 / np.sqrt(3)] * 4, rel=0.1)


@pytest.mark.parametrize("kind", ["stall", "switch"])
def test_a_step_is_drawn_below_its_bound_and_recorded(kind):
    steps = {Behaviour("push", kind, rng(seed), before_step=3).options["step"] for seed in range(40)}
    assert steps == {0, 1, 2}


def test_options_are_complete_and_plain():
    assert Behaviour("push", "expert", rng()).options == {"noise": 0.0}
    assert Behaviour("push", "switch", rng(), step=4).options == {"step": 4, "noise": 0.1}
    assert Behaviour("push", "random", rng()).options == {}
    displaced = Behaviour("push", "displaced", rng()).options
    assert {type(value) for value in displaced.values()} == {float}


@pytest.mark.parametrize(
    ("kind", "options", "sentence"),
    [
        ("expret", {}, "Did you mean 'expert'"),
        ("expert", {"nois": 0.1}, "Did you mean 'noise'"),
        ("random", {"noise": 0.1}, "There are: none"),
        ("expert", {"noise": -1}, "number from 0 on, got -1"),
        ("expert", {"noise": float("nan")}, "number from 0 on, got nan"),
        ("expert", {"noise": "much"}, "number from 0 on, got 'much'"),
        ("stall", {"step": 1.5}, "whole number, got 1.5"),
        ("stall", {"before_step": 0}, "at least 1"),
    ],
)
def test_an_impossible_behaviour_is_refused_with_a_sentence(kind, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Behaviour("push", kind, rng(), **options)


@pytest.mark.parametrize("task", ["drawer-open", "button-press", "faucet-close"])
def test_more_noise_earns_less(task, environment):
    env = environment(task)
    means = [np.mean([episode(env, "expert", seed, noise=noise) for seed in range(3)]) for noise in (0, 1, 2)]
    assert means == sorted(means, reverse=True)


def test_the_default_mix_is_eight_behaviours_in_equal_shares():
    path = Path(__file__).parents[2] / "conf/collection/graded.yaml"
    mix = yaml.safe_load(path.read_text())["behaviours"]
    assert [entry.pop("share") for entry in mix] == [1] * 8
    kinds = [Behaviour("push", entry.pop("kind"), rng(), **entry).kind for entry in mix]
    assert kinds == ["expert"] * 4 + ["displaced"] * 2 + ["switch", "random"]
