"""Who judges rollouts: whose cost files, whether their stages are reached, and what learned rewards say."""

import numpy as np
import pytest
import torch

from robopref.data.frames import FrameCache
from robopref.data.store import TrajectoryStore
from robopref.data.trajectory import Provenance, Trajectory
from robopref.errors import ConfigError
from robopref.methods.components import Hardware
from robopref.methods.phases.lab import Lab
from robopref.methods.phases.vla_scores import Judge, check_reached, learned_scores
from robopref.nets.vision import PcaEncoder
from robopref.policies.vla.data import FilmedEpisodes
from robopref.rewards.gaussian import GaussianReward
from robopref.rewards.saved import save_reward
from robopref.rewards.sequences import FeatureSequences
from robopref.rewards.staged.tasks import cost_file
from robopref.training.run import Run
from tests.rewards.test_visual import FRAMES, builder, video

COSTS = """\
task: push
points: [hand, goal]
stages:
  - name: near
    until: distance(hand, goal) < 1.5
  - name: at
    until: distance(hand, goal) < {at}
"""


@pytest.fixture
def lab(tmp_path):
    said = []
    record = Run(tmp_path / "run", name="x", method="grape", task="x", seed=0, config="", say=said.append)
    found = Lab(record, Hardware(), 0)
    found.said = said  # pyright: ignore[reportAttributeAccessIssue]
    return found


def judge_with(path, at):
    path.write_text(COSTS.format(at=at))
    return Judge(files={"push": str(path)})


def episodes(path, *, successes):
    """Two episodes whose hand comes as close as one metre to the goal."""
    with TrajectoryStore.create(
        path, observation_size=1, action_size=1, keypoints=["goal", "hand"], control_hz=2.0
    ) as store:
        for seed in range(2):
            hand = np.array([[0.0, 0, 0], [1.0, 0, 0], [2.0, 0, 0]])
            store.append(
                Trajectory(
                    observations=np.zeros((3, 1)),
                    actions=np.zeros((2, 1)),
                    rewards=np.zeros(2),
                    successes=np.full(2, successes),
                    keypoints={"hand": hand, "goal": np.tile([3.0, 0, 0], (3, 1))},
                    terminated=False,
                    provenance=Provenance("push", "toy", seed, "expert", {}, f"state {seed}", {}),
                )
            )
    return {"push": TrajectoryStore.open(path)}


def test_a_stage_that_no_demonstration_completes_is_refused_by_file_and_line(tmp_path, lab):
    judge, stores = judge_with(tmp_path / "own.yaml", 0.5), episodes(tmp_path / "s", successes=True)
    with pytest.raises(ConfigError, match=r"own\.yaml, line 6: the stage at .* never reached"):
        check_reached(lab, judge, stores)


def test_stages_that_are_completed_pass_and_their_numbers_are_kept(tmp_path, lab):
    check_reached(lab, judge_with(tmp_path / "own.yaml", 1.1), episodes(tmp_path / "s", successes=True))
    (record,) = (tmp_path / "run" / "phases").glob("costs.json")
    assert '"near": 2' in record.read_text()


def test_demonstrations_that_all_fail_show_nothing_about_stages_and_that_is_said(tmp_path, lab):
    check_reached(lab, judge_with(tmp_path / "own.yaml", 0.5), episodes(tmp_path / "s", successes=False))
    assert any("no demonstration of push succeeds" in line for line in lab.said)


@pytest.mark.parametrize("successes", [False, True])
def test_a_point_that_demonstrations_lack_is_refused_even_where_none_succeeds(tmp_path, lab, successes):
    own = tmp_path / "own.yaml"
    own.write_text(COSTS.format(at=1.1).replace("goal", "gaol"))
    with pytest.raises(ConfigError, match=r"own\.yaml, line 2: .* 'gaol'\. Did you mean 'goal'\?"):
        check_reached(lab, Judge(files={"push": str(own)}), episodes(tmp_path / "s", successes=successes))


def test_a_cost_file_of_ones_own_takes_the_place_of_the_one_that_is_shipped(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text(cost_file("drawer-open").read_text().replace("missed: 2.0", "missed: 7.0"))
    judge = Judge(files={"drawer-open": str(own)})
    judge.check(["drawer-open", "door-close"])
    assert judge.costs_of("drawer-open").stages[0].missed == 7.0
    assert judge.file_of("door-close") == cost_file("door-close")


def test_what_judgements_depend_on_changes_with_the_text_of_a_cost_file(tmp_path):
    judge = judge_with(tmp_path / "own.yaml", 0.5)
    before = judge.identity(["push"])
    assert judge.identity(["push"]) == before
    judge_with(tmp_path / "own.yaml", 0.6)
    assert judge.identity(["push"]) != before


def test_cost_files_that_would_not_be_read_are_refused(tmp_path):
    judge = judge_with(tmp_path / "own.yaml", 0.5)
    with pytest.raises(ConfigError, match=r"grape\.judge\.files names push, which is none of door-close"):
        judge.check(["door-close"])
    with pytest.raises(ConfigError, match="line 1: the costs are of the task push, and door-close"):
        Judge(files={"door-close": str(tmp_path / "own.yaml")}).check(["door-close"])
    with pytest.raises(ConfigError, match="would change nothing under kind=human"):
        Judge(kind="human", files={"door-close": "x"}).check(["door-close"])


# -- learned rewards ----------------------------------------------------------------------------------------


def shown(folder, videos, every=5):
    """Episodes of random observations and actions that look like videos, a frame in five states."""
    rng = np.random.default_rng(0)
    with TrajectoryStore.create(
        folder, observation_size=3, action_size=2, keypoints=(), control_hz=10.0
    ) as store:
        for video in videos:
            steps = every * (len(video) - 1)
            store.append(
                Trajectory(
                    observations=rng.normal(size=(steps + 1, 3)),
                    actions=rng.uniform(-1, 1, (steps, 2)),
                    rewards=np.zeros(steps),
                    successes=np.zeros(steps),
                    keypoints={},
                    terminated=False,
                    provenance=Provenance("push", "toy", 0, "policy", {}, "0", {}),
                )
            )
    store = TrajectoryStore.open(folder)
    with FrameCache.create(
        folder / "film", store, height=16, width=16, every=every, view={}, versions={}
    ) as cache:
        for video in videos:
            cache.append(video, "replay")
    return FilmedEpisodes(store, FrameCache.open(folder / "film", store), ["push"] * len(videos))


VIDEOS = [video(1.0, 128)[:7], video(0.2, 10)]


def test_a_reward_of_frames_judges_rollouts_by_what_was_seen(tmp_path):
    """RAPL's: the mean over a rollout's frames of what the saved reward pays for each."""
    demonstrations = torch.from_numpy(np.concatenate([video(1.0, 128), video(0.9, 90)])).permute(0, 3, 1, 2)
    encoder = PcaEncoder(width=4, size=16)
    encoder.fit(demonstrations)
    features = FeatureSequences(encoder(demonstrations).numpy(), np.arange(3) * FRAMES, 5)
    reward = builder((encoder, features, None))()
    save_reward(tmp_path / "reward", reward)
    found = learned_scores(tmp_path / "reward", shown(tmp_path / "s", VIDEOS))
    assert found == pytest.approx([reward.judge(video).mean() for video in VIDEOS])
    assert found[0] != found[1]


def test_a_reward_of_observations_judges_rollouts_by_every_action(tmp_path):
    """PEARL's: the mean over a rollout's actions, however many it has."""
    reward = GaussianReward(3, 2, members=2, hidden=(8,))
    save_reward(tmp_path / "reward", reward)
    source = shown(tmp_path / "s", VIDEOS)
    expected = []
    for number in range(2):
        episode = source.store.episode(number)
        seen = torch.from_numpy(episode.observations[:-1].astype(np.float32))
        expected.append(float(reward.predict(seen, torch.from_numpy(episode.actions))[0].mean()))
    assert learned_scores(tmp_path / "reward", source) == pytest.approx(expected, rel=1e-5)
