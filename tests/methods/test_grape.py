"""The whole of GRAPE on one task, small enough for a minute: hence slow."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from robopref.cli import main
from robopref.data.label_store import LabelStore
from robopref.data.queries import initial_states
from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError
from robopref.methods import grape
from robopref.methods.phases.vla import WEIGHTS
from robopref.methods.phases.vla_compared import NothingToLearnError
from robopref.methods.phases.vla_scores import Judged
from robopref.policies.vla.lora import Adapter
from robopref.rewards.gaussian import GaussianReward
from robopref.rewards.saved import save_reward
from robopref.rewards.staged.pairs import whole_episode_preferences
from robopref.training.run import Run
from tests.methods.grape_parts import PREFERENCE, parts_of
from tests.policies.vla.conftest import tiny

SMALL = [
    "experiment=grape",
    "seed=0",
    "grape.tasks=[drawer-close]",
    "grape.demonstrations.episodes=2",
    "grape.rollouts={starts: 2, repeats: 2, at_once: 4}",
    "grape.rounds=1",
    "grape.validation=1",
    "grape.pairing={top: 1, gap: 0.0}",
    "~grape.variants.safety",
    "~grape.variants.efficiency",
    "~grape.variants.tpo",
    "~grape.variants.bc-on-all",
    "~grape.variants.stepwise-dpo",
    "~grape.variants.random-pairs",
    "~grape.axes.visual",
    "~grape.axes.camera",
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
SHORT = [
    *("~grape.axes.sampled", "~grape.axes.wording", "~grape.axes.object", "~grape.axes.initial-state"),
    "~grape.variants.filtered-bc",
]


def run(folder, *overrides):
    where = [f"out={folder / 'run'}", f"data_dir={folder / 'data'}"]
    return main(["run", *SMALL, *overrides, *where])


def read(path):
    return json.loads(path.read_text())


def assert_learned(folder):
    """The policy of the first round was tried as the start was, and is another one."""
    results = read(folder / "grape.json")
    before, after = (results[name]["in-domain"]["episodes"] for name in ("supervised", "grape-round1"))
    assert (after["task"], after["seed"]) == (before["task"], before["seed"])
    start, learned = (load_file(folder / name / WEIGHTS) for name in ("supervised", "grape-round1"))
    assert start.keys() == learned.keys()
    assert all(bool(tensor.isfinite().all()) for tensor in learned.values() if tensor.is_floating_point())
    assert any(not torch.equal(start[name], learned[name]) for name in start)


@pytest.mark.slow
def test_the_experiment_runs_and_the_same_command_only_reads(tmp_path, capsys):
    rounds = ["grape.rounds=2", "+grape.variants.filtered-bc.rounds=2"]
    assert run(tmp_path, *rounds) == 0
    out = tmp_path / "run"
    results, kept = read(out / "grape.json"), read(out / "kept.json")
    aligned = {"grape-round1", "grape-round2"} & set(results)
    chain = {"filtered-bc-round1", "filtered-bc-round2"} & set(results)
    assert chain
    names = {"supervised", "filtered-bc", "filtered-bc-kept", "grape", "grape-last"}
    assert set(results) == names | aligned | chain
    last = max(aligned)
    assert results["grape-last"] == results[last]
    assert results["filtered-bc-kept"] == results[kept["variants"]["filtered-bc-kept"]]
    axes = {"in-domain", "sampled", "wording", "object", "initial-state"}
    assert set(results["filtered-bc"]) == axes
    assert results["grape"] == results[kept["policy"]]
    assert max(kept["validation"].values()) == kept["validation"][kept["policy"]]
    assert set(results[last]) == axes
    between = aligned - {last, kept["policy"]}
    assert all(set(results[name]) == {"in-domain"} for name in between)
    tried = [
        TrajectoryStore.open(out / "trials/supervised" / axis / "drawer-close")
        for axis in ("in-domain", "sampled", "initial-state")
    ]
    greedy, drawn, shifted = (store.metadata["rollouts"]["assignment"] for store in tried)
    assert greedy["seeds"] == drawn["seeds"]
    assert greedy["deterministic"]
    assert not drawn["deterministic"]
    assert tried[2].provenance(0).options["env.hand_shift_m"] == 0.1
    assert shifted["seeds"] == greedy["seeds"]
    scores = read(out / "scores" / "round1" / "scores-drawer-close.json")
    assert len(scores["score"]) == 4
    gate = read(out / "grape-round1" / "gate.json")
    assert {"collapsed", "reason", "entropy", "error", "saturation", "validation_lost"} <= set(gate)
    capsys.readouterr()
    assert run(tmp_path, *rounds) == 0
    assert "finished before" in capsys.readouterr().out
    policy = [f"policy_dir={out / 'supervised'}", "env.task=drawer-close", "env.options.horizon=20"]
    short = ["training.evaluation.episodes=1", "training.evaluation.record=0", "wandb.mode=disabled"]
    assert main(["evaluate", *policy, *short, "workers=0", f"out={tmp_path / 'evaluated'}"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("head", ["flow", "gaussian", "diffusion"])
@pytest.mark.parametrize("kind", ["advantage", "preference"])
def test_policies_of_numbers_run_through_it_alike(tmp_path, head, kind):
    assert run(tmp_path, *SHORT, f"policy=vla_{head}", f"grape.alignment.kind={kind}") == 0
    assert_learned(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["plackett_luce", "kto"])
def test_lists_and_single_rollouts_run_through_it_alike(tmp_path, objective):
    assert run(tmp_path, *SHORT, PREFERENCE, f"grape.alignment.objective={objective}") == 0
    assert_learned(tmp_path / "run")


@pytest.mark.slow
def test_the_published_loss_step_wise_dpo_and_demonstrations_run_through_it(tmp_path):
    """Each from the same start and the same pairs; what learned nothing from pairs reports no margin."""
    preferring, compared = {"tpo", "stepwise-dpo"}, {"tpo", "stepwise-dpo", "demonstrations"}
    small = [one for one in (*SMALL, *SHORT) if one.removeprefix("~grape.variants.") not in compared]
    where = [f"out={tmp_path / 'run'}", f"data_dir={tmp_path / 'data'}"]
    assert main(["run", *small, "+grape.variants.demonstrations={kind: demonstrations}", *where]) == 0
    results = read(tmp_path / "run" / "grape.json")
    assert compared <= set(results)
    starts = set()
    for name in compared:
        folder = tmp_path / "run" / name
        assert read(folder / "gate.json")["kl"] > 0  # it moved
        assert ("margin" in read(folder / "metrics.json")) == (name in preferring)
        phase = read(tmp_path / "run" / "phases" / f"align-{name}.json")
        starts.add((phase["settings"]["start"], str(phase["settings"]["labels"])))
    assert len(starts) == 1


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
    human = [*SHORT, "grape.judge.kind=human", "grape.pairing={top: 2, gap: 1.5}"]
    with pytest.raises(SystemExit):
        run(people, *human)
    assert "wait for people to compare them" in capsys.readouterr().err
    assert read(people / "run" / "run.json")["status"] == "waiting for people"
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


# -- the algorithm, with everything that computes replaced --------------------------------------------------


def test_a_collapse_is_taken_back_and_all_are_chosen_by_one_rule(monkeypatch, tmp_path):
    """Round two has the best rate and collapses, as the imitation's first does; the next begins before it.

    Nothing comes of ``efficiency``, whose rollouts have nothing to teach.
    """
    rates = {
        "supervised": 0.5,
        "safety": 0.4,
        "filtered-bc-round1": 0.9,
        "grape-round1": 0.6,
        "grape-round2": 0.9,
    }
    rates |= {"grape-round3": 0.55, "filtered-bc-round2": 0.3, "filtered-bc-round3": 0.35}
    asked, gated = [], []

    def judge(lab, name, policy, rollouts, judge):
        asked.append((name, policy.name, judge.emphasis))
        return Judged([], {}, {}, judge, policy)

    def align(lab, name, *_):
        if name == "efficiency":
            raise NothingToLearnError("No two rollouts of one state differ by 0.5 in their scores")
        return Path(name)

    def gate(lab, name, start, aligned, judged, how, trials, first=None):
        gated.append((name, start.name, None if first is None else first.name))
        return {"collapsed": name in ("grape-round2", "filtered-bc-round1")}

    replaced = {
        "collect": lambda *_: SimpleNamespace(layout=SimpleNamespace(action_size=4)),
        "check_reached": lambda *_: None,
        "build_policy": lambda *_, **__: tiny(),
        "film": lambda *_: [],
        "train_supervised": lambda *_, **__: Path("supervised"),
        "sample_rollouts": lambda *_: {},
        "judge_rollouts": judge,
        "align_policy": align,
        "gate": gate,
        "validate": lambda lab, name, *_, **__: {
            "successes": np.zeros(4, bool),
            "rate": rates[name],
            "steps": 9.0,
        },
        "evaluate_axes": lambda lab, name, policy, scenes, axes, **_: {
            axis: {"rate": rates[name]} for axis in axes
        },
    }
    for name, fake in replaced.items():
        monkeypatch.setattr(grape, name, fake)
    gone = [f"~grape.variants.{name}" for name in ("tpo", "bc-on-all", "stepwise-dpo", "random-pairs")]
    parts = parts_of(monkeypatch, "grape.rounds=3", "+grape.variants.filtered-bc.rounds=3", *gone)
    said = []
    record = Run(tmp_path, name="x", method="grape", task="x", seed=0, config="", say=said.append)
    grape.run(parts, record)
    results, kept = read(tmp_path / "grape.json"), read(tmp_path / "kept.json")
    assert kept["policy"] == "grape-round1"
    variants = ("safety-kept", "efficiency-kept", "filtered-bc-kept")
    assert kept["variants"] == dict.fromkeys(variants, "supervised")
    assert set(results) == {*rates, *variants, "filtered-bc", "grape", "grape-last"}
    assert any("LEFT OUT: efficiency. No two rollouts" in line for line in said)
    assert set(results["safety"]) == {"in-domain", "object"}
    everywhere = {"in-domain", "sampled", "wording", "visual", "object", "initial-state", "camera"}
    assert set(results["filtered-bc"]) == everywhere
    assert results["grape"].keys() == results["supervised"].keys() == everywhere
    assert asked == [
        ("round1", "supervised", "completion"),
        ("grape-round2", "grape-round1", "completion"),
        ("grape-round3", "grape-round1", "completion"),
        ("safety-round1", "supervised", "safety"),
        ("efficiency-round1", "supervised", "efficiency"),
        ("round1", "supervised", "completion"),  # of filtered-bc, read again
        ("filtered-bc-round2", "supervised", "completion"),
        ("filtered-bc-round3", "filtered-bc-round2", "completion"),
    ]
    assert results["grape-last"] == results["grape-round3"]
    assert results["filtered-bc"] == results["filtered-bc-round3"]
    assert gated[:3] == [
        ("grape-round1", "supervised", None),
        ("grape-round2", "grape-round1", "supervised"),
        ("grape-round3", "grape-round1", "supervised"),
    ]
    assert "grape-round2 collapsed: what was before it is kept" in " ".join(said)


def test_another_adapter_than_the_policys_is_refused_before_anything_is_filmed(monkeypatch, tmp_path):
    adapted = tiny()
    adapted.adapter = Adapter(rank=32)  # as policy=openvla has it
    monkeypatch.setattr(grape, "collect", lambda *_: SimpleNamespace(layout=SimpleNamespace(action_size=4)))
    monkeypatch.setattr(grape, "check_reached", lambda *_: None)
    monkeypatch.setattr(grape, "build_policy", lambda *_, **__: adapted)
    parts = parts_of(monkeypatch, "grape.alignment.adapter={rank: 8}")
    record = Run(tmp_path, name="x", method="grape", task="x", seed=0, config="", say=lambda _: None)
    with pytest.raises(ConfigError, match="has an adapter already"):
        grape.run(parts, record)
