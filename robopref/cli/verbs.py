"""The verbs that Hydra configures: each turns a configuration into parts and hands them to a phase."""

import importlib
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from robopref.cli import build
from robopref.cli.label import label
from robopref.cli.launch import register_resolvers
from robopref.cli.nodes import listed, plain, required
from robopref.cli.show import say, show_report, verb
from robopref.cli.sources import labelled_sources, task_of
from robopref.cli.types import make
from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, WaitingError, hide_passwords, unknown_name
from robopref.methods.components import EvaluationPlan
from robopref.methods.phases.lab import Lab
from robopref.nets.sharded import is_first
from robopref.rewards.relabel import Blend
from robopref.training.run import FollowingRun, Run
from robopref.training.workers import kept_workers

register_resolvers()  # here, because a cluster's worker process imports this module and nothing before it


@verb
def run(config: DictConfig) -> float:
    """Run an experiment; returns its success rate, which a sweeper may maximise."""
    if config.method not in METHODS:
        raise ConfigError(unknown_name("method", config.method, METHODS))
    method = importlib.import_module(f"robopref.methods.{config.method}")
    parts = METHODS[config.method](config)
    record = open_run(config, method=config.method, task=getattr(parts, "task", config.env.task))
    try:
        with kept_workers():
            result = method.run(parts, record)
    except WaitingError:
        record.finish("waiting for people")
        raise
    except BaseException as error:
        record.fail(error)
        raise
    record.finish()
    if isinstance(record, Run):
        show_report([record.directory], record.directory / "report.html")
    return result["rate"]


METHODS = {
    "pearl": build.pearl,
    "direct": build.direct,
    "grape": build.grape,
    "deformpam": build.deformpam,
    "rapl": build.rapl,
}


@verb
def collect(config: DictConfig) -> None:
    """Collect episodes of one task."""
    from robopref.methods.phases.collect import collect_into

    collection = build.collection(config)
    collect_into(open_lab(config, config.env.task), Path(config.data), build.scene(config), collection)


@verb
def label_scripted(config: DictConfig) -> None:
    """Let a scripted teacher compare episodes of a store."""
    from robopref.methods.phases.label import label

    store = open_store(config, "data")
    label(
        open_lab(config, task_of(store)),
        store,
        task_of(store),
        build.component(config.teacher),
        config.labels,
        annotator=config.annotator,
        pairs=config.pairs,
        segment_length=config.segment_length,
    )
    say(f"Labels: {hide_passwords(config.labels)}")


@verb
def align(config: DictConfig) -> None:
    """Carry the labels of source stores to a target store."""
    from robopref.methods.phases.align import align

    target = open_store(config, "target")
    paths = required(config, "sources", "folders of labelled stores, as [a,b]")
    sources = labelled_sources(listed(plain(paths)), target, config.source_labels)
    align(
        open_lab(config, task_of(target)),
        build.component(config.alignment),
        sources,
        target,
        task_of(target),
        config.labels,
        annotator=config.annotator,
        sources_of_labels=listed(plain(config.source)),
        anchors=config.anchors,
    )
    say(f"Labels: {hide_passwords(config.labels)}")


@verb
def train_reward(config: DictConfig) -> None:
    """Learn a reward from the labels of a store."""
    from robopref.methods.phases.reward import train_reward

    store = open_store(config, "data")
    folder = train_reward(
        open_lab(config, task_of(store)),
        build.component(config.reward),
        store,
        config.labels,
        build.fit(config, "reward"),
        source=config.source,
        annotator=config.annotator,
        annotator_noise=None if config.annotator_noise is None else str(config.annotator_noise),
        decided=config.decided,
        held_out=config.training.held_out,
        max_pairs=config.training.max_pairs,
        comparisons=build.comparisons(config),
    )
    say(f"Reward: {folder}")


@verb
def train_policy(config: DictConfig) -> None:
    """Learn a policy from the episodes of a store, and their rewards or labels."""
    from robopref.methods.phases.policy import train_policy

    store = open_store(config, "data")
    if config.labels is not None:
        return _train_direct(config, store)
    words = str(config.rewards).lower()
    folder = train_policy(
        open_lab(config, task_of(store)),
        "policy",
        build.component(config.policy),
        store,
        words if words in ("true", "none") else Path(config.rewards),
        build.fit(config, "policy"),
        blend=make(Blend, **plain(config.relabel)),
    )
    say(f"Policy: {folder}")


def _train_direct(config: DictConfig, store: TrajectoryStore) -> None:
    from robopref.methods.phases.direct import clone_reference, train_direct
    from robopref.methods.phases.inverse import train_inverse
    from robopref.policies.ipl import InversePreferenceLearning

    lab, policy = open_lab(config, task_of(store)), build.component(config.policy)
    labels: dict[str, Any] = {
        "source": config.source,
        "annotator": config.annotator,
        "held_out": config.training.held_out,
        "max_pairs": config.training.max_pairs,
    }
    if isinstance(lab.build(policy, store), InversePreferenceLearning):
        folder = train_inverse(
            lab, "policy", policy, store, config.labels, build.fit(config, "policy"), **labels
        )
        return say(f"Policy: {folder}")
    if config.reference is None:
        reference = clone_reference(lab, policy, store, build.fit(config, "clone"))
    else:
        reference = Path(config.reference)
    folder = train_direct(
        lab,
        policy,
        store,
        config.labels,
        reference,
        build.fit(config, "policy"),
        comparisons=build.comparisons(config),
        **labels,
    )
    say(f"Policy: {folder}")


@verb
def evaluate(config: DictConfig) -> float:
    """Try a policy on paired seeds; returns its success rate."""
    from robopref.methods.phases.evaluate import evaluate

    policy = Path(required(config, "policy_dir", "the folder of a policy, from robopref train-policy"))
    result = evaluate(
        open_lab(config, config.env.task),
        config.name,
        policy,
        build.scene(config),
        make(EvaluationPlan, **config.training.evaluation),
        reward=None if config.reward_dir is None else Path(config.reward_dir),
    )
    return result["rate"]


VERB_FUNCTIONS = {
    "run": run,
    "collect": collect,
    "label": label,
    "label-scripted": label_scripted,
    "align": align,
    "train-reward": train_reward,
    "train-policy": train_policy,
    "evaluate": evaluate,
}


def open_store(config: DictConfig, key: str) -> TrajectoryStore:
    """Open the trajectory store that an option names."""
    return TrajectoryStore.open(required(config, key, "a trajectory store, from robopref collect"))


def open_lab(config: DictConfig, task: str) -> Lab:
    """Open the directory ``out`` for single phases, which may fill it one by one."""
    return Lab(open_run(config, method="by hand", task=task), build.hardware(config), config.seed)


def open_run(config: DictConfig, *, method: str, task: str) -> Run | FollowingRun:
    """Open the run directory ``out`` with the resolved configuration in it."""
    name = f"{method}/{task}/seed{config.seed}"
    if config.processes > 1 and not is_first():
        return FollowingRun(config.out, name=name)
    return Run(
        config.out,
        name=name,
        method=method,
        task=task,
        seed=config.seed,
        config=OmegaConf.to_yaml(config, resolve=True),
        say=say,
    )
