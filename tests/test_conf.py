"""Every option under conf/ composes, and every key in it exists where it is sent."""

import importlib
import inspect
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from robopref.cli.launch import choices, register_resolvers
from robopref.objectives.description import LEARNERS
from robopref.objectives.registry import REGISTRY, find
from robopref.training.rollout import make_environment, scripted_actor

CONF = Path(__file__).parent.parent / "conf"
GROUPS = sorted(p.name for p in CONF.iterdir() if p.is_dir() and any(p.glob("*.yaml")))
VERBS = sorted(p.stem for p in CONF.glob("*.yaml") if p.stem != "base")
# keys of a component's node that its constructor does not take, with who reads them
READ_ELSEWHERE = {"alignment": {"sources"}}


def composed(verb, *overrides):
    register_resolvers()
    with initialize_config_module("robopref.conf", version_base="1.3"):
        return compose(verb, list(overrides))


def verb_of(group):
    """The first verb that has this group among its defaults."""
    for verb in ["run", *VERBS]:
        config = OmegaConf.load(CONF / f"{verb}.yaml")
        if any(group in entry for entry in config.defaults if OmegaConf.is_dict(entry)):
            return verb
    raise AssertionError(f"no verb uses conf/{group}")


def targets(node, path=""):
    """Every (path, node) that names a ``_target_``."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from targets(value, f"{path}.{key}" if path else key)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from targets(value, f"{path}[{index}]")


def misspelt_keys(config):
    plain = OmegaConf.to_container(config, resolve=False)
    for path, node in targets(plain):
        module, name = node["_target_"].rsplit(".", 1)
        parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
        known = set(parameters) | {"_target_"} | READ_ELSEWHERE.get(path, set())
        yield from (f"{path}.{key}" for key in node if key not in known)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_composes_and_its_keys_exist(verb):
    assert list(misspelt_keys(composed(verb))) == []


@pytest.mark.parametrize(("group", "option"), [(g, o) for g in GROUPS for o in choices(g)])
def test_every_option_composes_and_its_keys_exist(group, option):
    config = composed(verb_of(group), f"{group}={option}")
    assert list(misspelt_keys(config)) == []


def test_a_misspelt_key_in_a_file_is_found():
    config = composed("train-reward")
    OmegaConf.set_struct(config, False)
    config.reward.membres = 3
    assert list(misspelt_keys(config)) == ["reward.membres"]


def test_the_run_directory_depends_on_what_changes_a_result_and_on_nothing_else():
    base = composed("run").out
    assert composed("run").out == base
    assert composed("run", "device=cpu", "workers=1", "wandb.mode=disabled").out == base
    assert composed("run", "env.view.camera=corner", "training.log_every=7").out == base
    assert composed("run", "reward=bradley_terry").out != base
    assert composed("run", "episodes=8").out != base
    assert composed("run", "seed=1").out.startswith("outputs/pearl/drawer-open/seed1-")


@pytest.mark.parametrize("option", choices("objective"))
def test_every_objective_file_names_its_objective_and_options_with_their_defaults(option):
    node = {str(k): v for k, v in OmegaConf.load(CONF / "objective" / f"{option}.yaml").items()}
    objective = find(node.pop("name"))
    assert objective.name == option
    assert node.items() <= objective.options().items()


def test_there_is_a_file_for_every_objective_that_trains_something_here():
    trains = {o.name for o in REGISTRY.values() if not all(o.refusal(learner) for learner in LEARNERS)}
    assert set(choices("objective")) == trains


@pytest.mark.parametrize("option", choices("env"))
def test_every_environment_knows_the_scripted_behaviours(option):
    config = OmegaConf.to_container(composed("collect", f"env={option}", "collection=scripted"), resolve=True)
    assert isinstance(config, dict)
    env = make_environment(config["env"]["id"], config["env"]["options"])
    for behaviour in config["behaviours"]:
        wanted = {name: value for name, value in behaviour.items() if name != "share"}
        assert callable(scripted_actor(env, wanted, np.random.default_rng(0)))
    env.close()
