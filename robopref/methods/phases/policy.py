"""A policy from collected episodes and the rewards that they are given."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError
from robopref.methods.components import Component, Fit
from robopref.methods.phases.lab import Lab, file_content
from robopref.policies.saved import save_policy
from robopref.rewards.relabel import AS_PREDICTED, Blend
from robopref.rewards.saved import load_reward


def train_policy(
    lab: Lab,
    name: str,
    policy: Component,
    store: TrajectoryStore,
    rewards: Path | str,
    fit_settings: Fit,
    *,
    blend: Blend = AS_PREDICTED,
) -> Path:
    """Learn a policy offline; returns its folder.

    Args:
        name: Its folder in the run directory, e.g. ``policy``.
        policy: Such as :class:`robopref.policies.iql.ImplicitQLearning`.
        store: The episodes that it learns from.
        rewards: The folder of a reward model, a file of rewards of all rows (.npy), ``true`` for the
            environment's own rewards, or ``none``.
        fit_settings: How long to train.
        blend: What is made of a reward model's predictions.

    Raises:
        ConfigError: A blend of rewards that no model predicts.
    """
    if blend != AS_PREDICTED and (isinstance(rewards, str) or rewards.suffix == ".npy"):
        raise ConfigError(f"relabel= is for the rewards of a model, and rewards={rewards} is none")
    folder = lab.run.directory / name
    phase = policy_phase(name)
    settings = {
        "policy": policy.settings,
        "data": store.fingerprint(),
        "rewards": rewards if isinstance(rewards, str) else file_content(_source(rewards)),
        "fit": fit_settings.identity,
        "seed": lab.seed,
    }
    if blend != AS_PREDICTED:
        settings["blend"] = dataclasses.asdict(blend)

    def work() -> dict[str, Any]:
        given: np.ndarray | str | None
        if isinstance(rewards, Path) and rewards.suffix == ".npy":
            given = np.load(rewards, allow_pickle=False)
        elif isinstance(rewards, Path):
            given = blend.of(store, load_reward(rewards, device=lab.fabric.device))
        else:
            given = "true" if rewards == "true" else None
        learner = lab.build(policy, store)
        transitions = learner.prepare_data(store, given, device=lab.fabric.device)
        metrics = lab.fit(learner, transitions, fit_settings, phase=phase, folder=folder, settings=settings)
        save_policy(folder, learner)
        return metrics

    lab.run.phase(phase, settings, work)
    return folder


def policy_phase(name: str) -> str:
    """What the phase is called that trains the policy of this folder: the run's own, or a baseline."""
    return "train-policy" if name == "policy" else f"train-policy/{Path(name).name}"


def _source(rewards: Path) -> Path:
    return rewards if rewards.suffix == ".npy" else rewards / "model.safetensors"
