"""The whole of GRAPE on one task, small enough for a minute: hence slow."""

import dataclasses
import functools
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from robopref.cli import build, main
from robopref.cli.launch import register_resolvers
from robopref.data.label_store import LabelStore
from robopref.data.queries import initial_states
from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError
from robopref.methods import grape
from robopref.methods.components import Sampling, Scene
from robopref.methods.phases.vla_compared import NothingToLearnError
from robopref.methods.phases.vla_how import Alignment
from robopref.methods.phases.vla_scores import Judge, Judged
from robopref.policies.saved import SEEING
from robopref.policies.vla.lora import Adapter
from robopref.policies.vla.saved import KINDS
from robopref.rewards.gaussian import GaussianReward
from robopref.rewards.saved import save_reward
from robopref.rewards.staged.pairs import Pairing, whole_episode_preferences
from robopref.training.run import Run
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
PREFERENCE = "grape.alignment.kind=preference"
PEOPLE = ["grape.judge.kind=human", "~grape.variants.safety", "~grape.variants.efficiency"]
SHORT = [
    *("~grape.axes.sampled", "~grape.axes.wording", "~grape.axes.object", "~grape.axes.initial-state"),
    "~grape.variants.filtered-bc",
]


def run(folder, *overrides):
    where = [f"out={folder / 'run'}", f"data_dir={folder / 'data'}"]
    return main(["run", *SMALL, *overrides, *where])


def read(path):
    return json.loads(path.read_text())


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
@pytest.mark.parametrize("head", ["flow", "gaussian"])
@pytest.mark.parametrize("kind", ["advantage", "preference"])
def test_policies_of_numbers_run_through_it_alike(tmp_path, head, kind):
    assert run(tmp_path, *SHORT, f"policy=vla_{head}", f"grape.alignment.kind={kind}") == 0
    assert "grape-round1" in read(tmp_path / "run" / "grape.json")


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["plackett_luce", "kto"])
def test_lists_and_single_rollouts_run_through_it_alike(tmp_path, objective):
    assert run(tmp_path, *SHORT, PREFERENCE, f"grape.alignment.objective={objective}") == 0
    assert "grape-round1" in read(tmp_path / "run" / "grape.json")


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


# -- the algorithm, with everything that computes replaced --------------------------------------------------


@functools.cache
def usual():
    register_resolvers()
    with initialize_config_module("robopref.conf", version_base="1.3"):
        return compose("run", ["experiment=grape", "device=cpu", "grape.tasks=[drawer-open]"])


def parts_of(monkeypatch, *overrides):
    """What a command would run with such overrides, without its environments."""
    monkeypatch.setattr(Scene, "check", lambda scene: None)
    config: Any = OmegaConf.create(OmegaConf.to_container(usual(), resolve=False))
    for override in overrides:
        key, _, value = override.removeprefix("+").partition("=")
        if key.startswith("~"):
            where, _, name = key[1:].rpartition(".")
            del OmegaConf.select(config, where)[name]
        else:
            value = OverridesParser.create().parse_override(f"x={value}").value()
            OmegaConf.update(config, key, value, merge=False, force_add=True)
    return build.grape(config)


def test_variants_follow_the_alignment_in_what_they_do_not_say(monkeypatch):
    given = ["learning_rate=3e-5", "kind=preference", "segment=stage", "adapter={rank: 8}", "beta=0.7"]
    parts = parts_of(monkeypatch, *(f"grape.alignment.{one}" for one in given))
    how = {name: variant.how for name, variant in parts.variants.items()}
    own = {"tpo", "stepwise-dpo"}  # of whole rollouts: smaller than of decisions
    assert {how[name].learning_rate for name in own} == {5e-5}
    assert {one.learning_rate for name, one in how.items() if name not in own} == {3e-5}
    assert all(one.adapter == {"rank": 8} for one in how.values())
    assert how["random-pairs"] == dataclasses.replace(parts.main, pairs="random")
    assert how["safety"] == how["efficiency"] == parts.main
    assert parts.judge_of(parts.variants["safety"]).pairing == Pairing(top=2, gap=0.5)
    assert parts.judge_of(parts.variants["tpo"]) == parts.judge
    assert (how["tpo"].segment, how["tpo"].reduce, how["tpo"].beta) == ("trajectory", "sum", None)
    assert (how["filtered-bc"].kind, how["filtered-bc"].segment) == ("chosen", "window")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["grape.judge.kind=human"], "leave out ~grape.variants.safety ~grape.variants.efficiency"),
        ([*PEOPLE, PREFERENCE, "grape.alignment.objective=plackett_luce"], "people give pairs"),
        ([*PEOPLE, "grape.emphasis=safety"], "emphasis=safety weighs costs"),
        ([*PEOPLE, "grape.pairing.gap=0.5"], "where people judge they change nothing"),
        ([*PEOPLE, "+grape.variants.tpo.gap=0.5"], "where people judge they change nothing"),
        (["grape.variants.safety.emphasis=speed"], "emphasis must be one of completion, safety, efficiency"),
        (["+grape.axes.in-domain.variants=[]"], "compared along the first axis"),
        ([*PEOPLE, "grape.tasks=[dial-turn]"], "task with instructions"),
        (["grape.tasks=[drawer-open,door-close,drawer-open]"], "grape.tasks names drawer-open twice"),
        (["+grape.variants.grape-round1={kind: all}"], "may not be called 'grape-round1'"),
        (["+grape.variants.tpo-kept={kind: all}"], "may not be called 'tpo-kept'"),
        (["+grape.variants.scores={kind: all}"], "may not be called 'scores'"),
        (["grape.axes.object.variants=[filtred-bc]"], "Did you mean 'filtered-bc'?"),
        (["grape.axes.object.variants=tpo"], "written as [tpo], got 'tpo'"),
        (["grape.axes.object.view=dark"], "grape.axes.object.view must hold options"),
        (["grape.pairing.top=3"], "give grape.pairing.top=2, or null"),
        ([PREFERENCE, "grape.alignment.windows=8"], "change nothing under segment=trajectory"),
        (["grape.weights={likelihood: 0.0, costs: 0.0, success: 0.0}"], "All weights of a score are 0"),
        (["grape.alignment.kind=chosen", "grape.alignment.beta=0.5"], "beta would change nothing"),
        (["grape.alignment.objective=kto"], "kind=advantage: only kind=preference reads objective"),
        (["grape.alignment.objective=rpro"], "objective would change nothing under kind=advantage"),
        (["~grape.alignment.kind"], "grape.alignment lacks kind: one of preference, advantage"),
        (
            ["+grape.variants.x={kind: all, pairs: random}"],
            "only kind=preference or advantage or chosen reads p",
        ),
        (["+grape.variants.x={kind: demonstrations, replay: 0.15}"], "replay would change nothing"),
        (["grape.alignment.segment=window"], "segment would change nothing under kind=advantage"),
        (["grape.alignment.imitation_weight=0.0"], "imitation_weight would change nothing under kind=adv"),
        (
            ["+grape.variants.x={kind: advantage, objective: dpo}"],
            "objective would change nothing under kind",
        ),
        ([PREFERENCE, "grape.alignment.clip=0.1"], "only kind=advantage reads clip"),
        (["grape.rollouts.starts=1"], "kind=advantage needs grape.rollouts.starts of 2 or more"),
        (["+grape.variants.n=null"], "grape.variants.n must hold options"),
        (["~grape.axes"], "GRAPE needs a task, a round, an axis"),
        (["~grape.rollouts"], "grape.rollouts must hold options, as {name: value, ...}, got None"),
        (["+grape.validations=3"], "Did you mean 'grape.validation'?"),
        (["+grape.judge.filez=3"], "Did you mean 'files'?"),
        (["+grape.judge.emphasis=safety"], "grape.judge has no option emphasis"),
        (["+grape.axes.in-domain.sampld=true"], "Did you mean 'sampled'?"),
        (["+grape.variants.tpo.learnin_rate=1"], "Did you mean 'learning_rate'?"),
        (["grape.alignment.adapter=8"], "adapter must hold options"),
        (["grape.alignment.adapter={rank: eight}"], "rank must be a whole number, got 'eight'"),
        (["training.clone={steps: 3}"], "Fit lacks batch_size"),
        (["training.clone=3"], "training.clone must hold options"),
        (
            ["policy._target_=robopref.policies.bc.BehaviourCloning"],
            "GRAPE aligns a policy that sees: policy=vla",
        ),
        (["grape.tasks=[3]"], "grape.tasks must hold text, got 3"),
        (["grape.tasks=null"], "grape.tasks must hold text, got None"),
        (["grape.alignment.objective=null"], "An objective is a name, or a mapping"),
        (["grape.alignment.objective=[dpo]"], "An objective is a name, or a mapping"),
        (["grape.judge.models=foo"], "grape.judge.models must hold options"),
        (["+grape.judge.files.drawer-open=3"], "grape.judge.files must hold text, got 3"),
        (["grape.axes.visual.view={width: 64}"], "width is the same along every axis"),
        (["+grape.axes.x={view: {task: door-close}}"], "task is the same along every axis"),
        (["+grape.variants.own={kind: demonstrations, emphasis: safety}"], "a gap would change nothing"),
        (["+grape.variants.process1={kind: all}"], "may not be called 'process1'"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused_at_once(monkeypatch, overrides, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        parts_of(monkeypatch, *overrides)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["grape.camera=corner22"], "corner22"),
        (["+grape.axes.dark={view: {ligth: 0.3}}"], "ligth"),
        (["grape.axes.object.view.object_colour=zzz"], "zzz"),
    ],
)
def test_views_that_no_simulator_has_are_refused_at_once(monkeypatch, overrides, said):
    parts = parts_of(monkeypatch, *overrides)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match=said):
        dataclasses.replace(parts)


def test_the_full_experiment_is_the_usual_one_with_more_rounds_and_controls(monkeypatch):
    monkeypatch.setattr(Scene, "check", lambda scene: None)
    register_resolvers()
    with initialize_config_module("robopref.conf", version_base="1.3"):
        full = build.grape(compose("run", ["experiment=grape_full", "device=cpu"]))
        shorter = build.grape(compose("run", ["experiment=grape_full", "device=cpu", "grape.rounds=3"]))
    usual = parts_of(monkeypatch)
    assert (full.rounds, full.main, full.episodes) == (5, usual.main, 2 * usual.episodes)
    assert set(full.variants) - set(usual.variants) == {
        "contrast",
        "demonstrations",
        "filtered-bc-small-steps",
    }
    assert {name for name, each in full.variants.items() if each.rounds == 5} == {
        "safety",
        "efficiency",
        "filtered-bc",
        "filtered-bc-small-steps",
        "random-pairs",
    }
    assert full.variants["safety"].emphasis == "safety"
    assert shorter.variants["filtered-bc"].rounds == shorter.rounds == 3
    assert all(full.variants[name].how == each.how for name, each in usual.variants.items())
    everywhere = [
        "safety",
        "efficiency",
        "filtered-bc",
        "filtered-bc-small-steps",
    ]  # in-domain, where nobody is named, all are tried
    assert usual.axes["wording"].variants == ["filtered-bc"]
    assert full.axes == {
        name: dataclasses.replace(axis, variants=everywhere if axis.variants else axis.variants)
        for name, axis in usual.axes.items()
    }


def test_a_policy_without_its_checkpoint_is_refused_by_the_option_to_give():
    with initialize_config_module("robopref.conf", version_base="1.3"):
        config = compose("run", ["experiment=grape", "policy=openvla"])
    with pytest.raises(ConfigError, match=r"^OpenVLAPolicy lacks policy\.path=<\.\.\.>$"):
        build.component(config.policy)


def test_imitation_may_be_all_that_is_said(monkeypatch):
    """What the experiment says of preferences is no mistake of whoever wants none."""
    parts = parts_of(monkeypatch, "grape.alignment.kind=chosen")
    assert parts.main == dataclasses.replace(parts.variants["filtered-bc"].how)
    assert parts.variants["tpo"].how.objective == "dpo"


def test_windows_of_the_alignment_are_not_held_against_variants_without_any(monkeypatch):
    given = (PREFERENCE, "grape.alignment.segment=window", "grape.alignment.windows=8")
    parts = parts_of(monkeypatch, *given)
    assert parts.variants["random-pairs"].how.windows == 8
    assert parts.variants["tpo"].how.segment == "trajectory"


def test_who_is_left_out_is_tried_along_no_axis(monkeypatch):
    parts = parts_of(monkeypatch, "~grape.variants.filtered-bc")
    assert parts.axes["wording"].variants == []
    assert parts_of(monkeypatch, "~grape.variants").variants == {}


@pytest.mark.parametrize("name", ["efficiency", "filtered-bc-small-steps", "contrast"])
def test_anyone_may_be_left_out_of_the_full_experiment(monkeypatch, name):
    monkeypatch.setattr(Scene, "check", lambda scene: None)
    register_resolvers()
    words = ["experiment=grape_full", "device=cpu", f"~grape.variants.{name}", "~grape.axes.object"]
    with initialize_config_module("robopref.conf", version_base="1.3"):
        parts = build.grape(compose("run", words))
    assert name not in parts.variants
    assert not any(name in (axis.variants or ()) for axis in parts.axes.values())
    assert len(parts.axes["camera"].variants or ()) >= 3
    assert "object" not in parts.axes


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


def test_an_objective_decides_what_is_compared():
    assert Alignment(objective="rpro").compares == "pairs"
    assert Alignment(objective="plackett_luce").compares == "lists"
    assert Alignment(objective={"name": "kto", "up_weight": 2.0}).compares == "singles"


def test_what_load_policy_refuses_is_what_sees():
    assert set(SEEING) == set(KINDS)
