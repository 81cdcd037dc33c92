"""What a command line may say of GRAPE, and what is refused before anything is collected."""

import dataclasses
import re

import pytest
from hydra import compose, initialize_config_module

from robopref.cli import build
from robopref.cli.launch import register_resolvers
from robopref.errors import ConfigError
from robopref.methods.components import Sampling, Scene
from robopref.methods.phases.vla_how import Alignment
from robopref.methods.phases.vla_scores import Judge
from robopref.policies.saved import SEEING
from robopref.policies.vla.saved import KINDS
from robopref.rewards.staged.pairs import Pairing
from tests.methods.grape_parts import PEOPLE, PREFERENCE, parts_of


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
    assert (full.task, usual.task) == ("10 tasks", "drawer-open")
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


def test_an_objective_decides_what_is_compared():
    assert Alignment(objective="rpro").compares == "pairs"
    assert Alignment(objective="plackett_luce").compares == "lists"
    assert Alignment(objective={"name": "kto", "up_weight": 2.0}).compares == "singles"


def test_what_load_policy_refuses_is_what_sees():
    assert set(SEEING) == set(KINDS)
