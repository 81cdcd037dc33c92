"""The whole of GRAPE on one task, small enough for a minute: hence slow."""

import json

import numpy as np
import pytest

from robopref.cli import main
from robopref.data.label_store import LabelStore
from robopref.data.queries import initial_states
from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError
from robopref.methods.components import Sampling
from robopref.methods.phases.vla_align import Alignment
from robopref.methods.phases.vla_scores import Judge
from robopref.policies.saved import SEEING
from robopref.policies.vla.saved import KINDS
from robopref.rewards.gaussian import GaussianReward
from robopref.rewards.saved import save_reward
from robopref.rewards.staged.pairs import whole_episode_preferences

SMALL = [
    "experiment=grape",
    "seed=0",
    "grape.tasks=[drawer-close]",
    "grape.demonstrations.episodes=2",
    "grape.rollouts={starts: 2, repeats: 2, at_once: 4}",
    "grape.validation=1",
    "~grape.variants.safety",
    "~grape.variants.efficiency",
    "~grape.variants.tpo",
    "~grape.variants.bc-on-all",
    "~grape.variants.stepwise-dpo",
    "~grape.variants.random-pairs",
    "~grape.axes.visual",
    "~grape.axes.camera",
    "~grape.axes.training-starts",
    "training.clone={steps: 3, batch_size: 4}",
    "training.policy={steps: 2, batch_size: 1}",
    "training.evaluation.episodes=1",
    "policy.width=32",
    "policy.layers=1",
    "env.options.horizon=20",
    "wandb.mode=disabled",
    "workers=0",
    "device=cpu",
]
SHORT = ["~grape.axes.wording", "~grape.axes.object", "~grape.variants.filtered-bc"]


def run(folder, *overrides):
    where = [f"out={folder / 'run'}", f"data_dir={folder / 'data'}"]
    return main(["run", *SMALL, *overrides, *where])


def read(path):
    return json.loads(path.read_text())


@pytest.mark.slow
def test_the_experiment_runs_and_the_same_command_only_reads(tmp_path, capsys):
    assert run(tmp_path, "grape.rounds=2") == 0
    out = tmp_path / "run"
    results, kept = read(out / "grape.json"), read(out / "kept.json")
    aligned = {"grape-round1", "grape-round2"} & set(results)
    assert set(results) == {"supervised", "filtered-bc", "filtered-bc-kept", "grape"} | aligned
    assert results["filtered-bc-kept"] == results[kept["variants"]["filtered-bc-kept"]]
    assert set(results["filtered-bc"]) == {"in-domain", "object"}
    assert results["grape"] == results[kept["policy"]]
    assert max(kept["validation"].values()) == kept["validation"][kept["policy"]]
    assert set(results["grape-round1"]) == {"in-domain", "wording", "object"}
    scores = read(out / "scores" / "round1" / "scores-drawer-close.json")
    assert len(scores["score"]) == 4
    gate = read(out / "grape-round1" / "gate.json")
    assert {"collapsed", "reason", "entropy", "error", "saturation", "validation_lost"} <= set(gate)
    capsys.readouterr()
    assert run(tmp_path, "grape.rounds=2") == 0
    assert "finished before" in capsys.readouterr().out
    policy = [f"policy_dir={out / 'supervised'}", "env.task=drawer-close", "env.options.horizon=20"]
    short = ["training.evaluation.episodes=1", "training.evaluation.record=0", "wandb.mode=disabled"]
    assert main(["evaluate", *policy, *short, "workers=0", f"out={tmp_path / 'evaluated'}"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("head", ["flow", "gaussian"])
def test_policies_of_numbers_run_through_it_alike(tmp_path, head):
    assert run(tmp_path, *SHORT, f"policy=vla_{head}") == 0
    assert "grape-round1" in read(tmp_path / "run" / "grape.json")


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["plackett_luce", "kto"])
def test_lists_and_single_rollouts_run_through_it_alike(tmp_path, objective):
    assert run(tmp_path, *SHORT, f"grape.alignment.objective={objective}") == 0
    assert "grape-round1" in read(tmp_path / "run" / "grape.json")


@pytest.mark.slow
def test_people_and_learned_rewards_feed_the_same_table_as_costs(tmp_path, capsys):
    reward = GaussianReward(39, 4, members=2, hidden=(8,))
    save_reward(tmp_path / "reward", reward)
    judge = ["grape.judge.kind=reward", f"+grape.judge.models.drawer-close={tmp_path / 'reward'}"]
    assert run(tmp_path, *SHORT, *judge) == 0
    made = LabelStore(f"sqlite:///{tmp_path / 'run/scores/round1/drawer-close.sqlite'}")
    assert made.count(source="model") == made.count() > 0
    capsys.readouterr()

    people = tmp_path / "people"
    people.mkdir()
    human = [*SHORT, "grape.judge.kind=human"]
    with pytest.raises(SystemExit):
        run(people, *human)
    assert "wait for people to compare them" in capsys.readouterr().err
    store = TrajectoryStore.open(people / "run/rollouts/round1/drawer-close")
    url = f"sqlite:///{people / 'run/scores/round1/drawer-close.sqlite'}"
    groups = list(initial_states(store).values())
    better, worse = (np.array([group[side] for group in groups]) for side in (0, 1))
    with LabelStore(url) as labels:
        labels.add_preferences(
            whole_episode_preferences(store, better, worse),
            source="human",
            annotator="anna",
            data_fingerprint=store.fingerprint(),
            episodes=len(store),
        )
    assert run(people, *human) == 0
    assert "grape-round1" in read(people / "run" / "grape.json")


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="two rollouts or more"):
        Sampling(repeats=1)
    with pytest.raises(ConfigError, match="kind must be one of"):
        Alignment(kind="dpo")
    with pytest.raises(ConfigError, match="together below 1"):
        Alignment(demonstrations=0.6, replay=0.5)
    with pytest.raises(ConfigError, match="No objective is called"):
        Alignment(objective="dop")
    with pytest.raises(ConfigError, match=r"names a reward for each task"):
        Judge(kind="reward")
    with pytest.raises(ConfigError, match="No judge is called 'vlm'"):
        Judge(kind="vlm")
    with pytest.raises(ConfigError, match="no reward for the task door-close"):
        Judge(kind="reward", models={"drawer-close": "x"}).check(["drawer-close", "door-close"])


def test_an_objective_decides_what_is_compared():
    assert Alignment(objective="rpro").compares == "pairs"
    assert Alignment(objective="plackett_luce").compares == "lists"
    assert Alignment(objective={"name": "kto", "up_weight": 2.0}).compares == "singles"


def test_what_load_policy_refuses_is_what_sees():
    assert set(SEEING) == set(KINDS)
