import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from robopref.errors import ConfigError, DataError, RoboprefError
from robopref.training.evaluation import Policy, evaluate, evaluation_seeds
from robopref.training.results import Evaluation
from tests.training.toy_env import TOY

DRAWER = "robopref.envs:robopref/mw-drawer-open-v0"


class Chaser(nn.Module):
    """Moves towards the goal of the toy by a learned-looking gain; answers chunks of H actions."""

    def __init__(self, gain=2.0, chunk=1, noise=0.0, shape=None):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))
        self.chunk, self.noise, self.shape = chunk, noise, shape
        self.asked = 0

    def act(self, observations, *, generator=None, deterministic=True):
        self.asked += 1
        assert not self.training, "a policy is tried in evaluation mode"
        assert torch.get_num_threads() == 1
        action = self.gain * (observations[:, 2:] - observations[:, :2])
        if not deterministic:
            action = action + self.noise * torch.randn(action.shape, generator=generator)
        answer = action[:, None].expand(-1, self.chunk, -1)
        return answer if self.shape is None else torch.zeros(self.shape)


class Perceptron(nn.Module):
    """Enough matrix arithmetic to round differently if batches or threads differed."""

    def __init__(self, observations, actions):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(observations, 256), nn.Tanh(), nn.Linear(256, 256), nn.Tanh())
        self.head = nn.Linear(256, actions)

    def act(self, observations, *, generator=None, deterministic=True):
        return self.head(self.net(observations))[:, None]


def toy(policy, **changes):
    settings = {"env_id": TOY, "seeds": evaluation_seeds(6), "workers": 0, "progress": False, **changes}
    return evaluate(policy, **settings)


def test_a_policy_that_steps_onto_the_goal_succeeds_and_one_that_stays_fails():
    # the goal is at most 2.83 away and a step at most 0.5 long in each direction
    good, lazy = toy(Chaser(2.0)), toy(Chaser(0.0), name="lazy")
    assert good.successes.all()
    assert not lazy.successes.any()
    assert good.summary()["rate"] == 1
    assert (good.lengths == 8).all()  # success does not end an episode: the horizon is fixed
    assert (good.task, good.policy, lazy.policy) == ("toy", "policy", "lazy")


def test_the_return_of_a_policy_that_stays_is_minus_the_distance_times_the_horizon():
    result = toy(Chaser(0.0), env_options={"horizon": 5})
    for seed, value in zip(result.seeds, result.returns, strict=True):
        position, goal = np.random.default_rng(int(seed)).uniform(-1, 1, (2, 2))
        assert value == pytest.approx(-5 * np.linalg.norm(position - goal), rel=1e-6)


def test_both_kinds_of_toy_policy_are_policies():
    assert isinstance(Chaser(), Policy)
    assert isinstance(Perceptron(4, 2), Policy)


def test_workers_change_nothing_not_even_the_last_bit():
    settings = {
        "env_id": DRAWER,
        "env_options": {"horizon": 25},
        "seeds": evaluation_seeds(4),
        "progress": False,
    }
    here = evaluate(Perceptron(39, 4), workers=0, **settings)
    there = evaluate(Perceptron(39, 4), workers=2, **settings)
    np.testing.assert_array_equal(here.returns, there.returns)
    assert len(set(here.returns.tolist())) == 4


def test_the_order_of_the_seeds_does_not_matter():
    seeds = evaluation_seeds(6)
    forward, backward = toy(Perceptron(4, 2), seeds=seeds), toy(Perceptron(4, 2), seeds=seeds[::-1])
    np.testing.assert_array_equal(forward.returns, backward.returns[::-1])


def test_sampled_actions_follow_the_seed_of_the_episode():
    noisy = Chaser(noise=1.0)
    first, again = (toy(noisy, deterministic=False) for _ in range(2))
    np.testing.assert_array_equal(first.returns, again.returns)
    assert (toy(noisy).returns != first.returns).all()


def test_a_chunk_is_played_to_its_end_before_the_policy_is_asked_again():
    stays = toy(Chaser(2.0, chunk=8), env_options={"horizon": 8})
    start, goal = np.random.default_rng(2**30).uniform(-1, 1, (2, 2))
    step = 0.5 * np.clip(2 * (goal - start), -1, 1)
    distances = np.linalg.norm(start + np.outer(range(1, 9), step) - goal, axis=1)
    assert stays.returns[0] == pytest.approx(-distances.sum(), rel=1e-5)


def test_the_callers_policy_is_left_as_it_was():
    policy = Chaser().train()
    toy(policy)
    assert policy.training
    assert policy.asked == 0


def test_a_scripted_behaviour_can_be_tried_like_a_policy():
    expert = toy({"kind": "expert"}, name="expert")
    assert expert.successes.all()
    with pytest.raises(ConfigError, match="There are: expert"):
        toy({"kind": "exprt"})


@pytest.mark.parametrize(
    ("policy", "sentence", "workers"),
    [
        (Chaser(float("nan")), "action at step 0 holds NaN", 0),
        (Chaser(float("nan")), "action at step 0 holds NaN", 1),
        (Chaser(shape=(1, 1, 3)), r"shape \(3,\), the environment takes \(2,\)", 0),
        (Chaser(shape=(1, 2)), r"of shape \(1, H, A\), got \(1, 2\)", 0),
        (Chaser(shape=(1, 0, 2)), r"got \(1, 0, 2\)", 0),
    ],
)
def test_a_policy_that_answers_nonsense_is_refused_with_the_episode(policy, sentence, workers):
    with pytest.raises(DataError, match=rf"In episode 0 \(environment seed {2**30}\): .*{sentence}"):
        toy(policy, workers=workers)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seeds": []}, "zero episodes say nothing"),
        ({"seeds": [4, 9, 4]}, "Seed 4 appears 2 times"),
        ({"seeds": [-1]}, "Seeds must be 0 or more"),
        ({"env_id": "robopref.envs:robopref/mw-dorr-close-v0"}, "Did you mean .*mw-door-close-v0"),
        ({"record": 2}, "need a directory"),
        ({"record": 7, "directory": "x"}, "between 0 and the number of seeds, 6, got 7"),
        ({"name": "../iql"}, "names its file"),
        ({"workers": -2}, "workers must be 0"),
    ],
)
def test_bad_settings_are_a_sentence(changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        toy(Chaser(), **changes)


def test_an_evaluation_is_written_before_its_recordings(tmp_path):
    def broken(observations, actions):
        return torch.full((len(actions),), torch.nan), torch.zeros(len(actions))

    with pytest.raises(DataError, match=r"one finite number per step, \(8,\), got predicted_rewards"):
        toy(Chaser(), directory=tmp_path, record=1, reward=broken, name="iql")
    assert Evaluation.load(tmp_path / "iql.json").successes.all()


class Judge(nn.Module):
    """A reward told by hand: the mean is minus the state's x, the deviation the size of the action's x."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def predict(self, observations, actions):
        return -self.weight * observations[..., 0], actions[..., 0].abs()


@pytest.mark.parametrize("workers", [0, 1])
def test_recordings_hold_the_episode_and_what_the_reward_model_thought(tmp_path, workers):
    result = toy(Chaser(), directory=tmp_path, record=2, reward=Judge().predict, name="iql", workers=workers)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"iql.json"} | {f"rollout-{k}.{kind}" for k in (0, 1) for kind in ("npz", "mp4", "json")}
    for number in (0, 1):
        told = json.loads((tmp_path / f"rollout-{number}.json").read_text())
        assert (told["seed"], told["policy"], told["success"]) == (2**30 + number, "iql", True)
        assert (told["drawn_by"], told["reason"], told["fps"], told["every"]) == ("renderer", None, 20, 1)
        with np.load(tmp_path / f"rollout-{number}.npz", allow_pickle=False) as arrays:
            assert arrays["rewards"].sum() == pytest.approx(result.returns[number], rel=1e-6)
            np.testing.assert_array_equal(arrays["predicted_rewards"], -arrays["keypoints/hand"][:-1, 0])
            np.testing.assert_array_equal(arrays["predicted_deviation"], np.abs(arrays["actions"][:, 0]))
            assert arrays["successes"].any()
            assert arrays["keypoints/goal"].shape == (9, 3)


def test_without_gl_the_reason_stands_in_the_file_and_in_the_log(tmp_path, caplog):
    toy(Chaser(), directory=tmp_path, record=1, env_options={"gl": "broken"})
    told = json.loads((tmp_path / "rollout-0.json").read_text())
    assert told["drawn_by"] == "keypoints"
    assert "eglInitialize failed" in told["reason"]
    assert "eglInitialize failed" in caplog.text


def test_a_driver_that_kills_the_worker_costs_the_picture_and_not_the_evaluation(tmp_path):
    result = toy(Chaser(), directory=tmp_path, record=1, env_options={"gl": "deadly"}, workers=1)
    assert result.successes.all()
    told = json.loads((tmp_path / "rollout-0.json").read_text())
    assert told["drawn_by"] == "keypoints"
    assert "SIGSEGV" in told["reason"]
    assert (tmp_path / "rollout-0.mp4").stat().st_size > 0


def _owners(directory: Path) -> dict[str, str]:
    return {
        path.stem: json.loads(path.read_text())["policy"] for path in sorted(directory.glob("rollout-*.json"))
    }


def test_policies_share_a_directory_and_replace_only_their_own_rollouts(tmp_path):
    toy(Chaser(), directory=tmp_path, record=2, name="iql")
    toy(Chaser(), directory=tmp_path, record=1, name="bc")
    assert _owners(tmp_path) == {"rollout-0": "iql", "rollout-1": "iql", "rollout-2": "bc"}
    toy(Chaser(), directory=tmp_path, record=1, name="iql")
    assert _owners(tmp_path) == {"rollout-0": "iql", "rollout-2": "bc"}
    assert not (tmp_path / "rollout-1.mp4").exists()


@pytest.mark.parametrize(("fault", "workers"), [("raise", 0), ("exit", 1)])
def test_a_failing_episode_is_named(fault, workers):
    options = {"fault": fault, "fault_every": 3}
    first = next(i for i, seed in enumerate(evaluation_seeds(6)) if seed % 3 == 0)
    with pytest.raises(RoboprefError, match=f"In episode {first} "):
        toy(Chaser(), env_options=options, workers=workers)
