"""A policy from labels by inverse preference learning: no reward model, and no reference either."""

from pathlib import Path
from typing import Any

from robopref.data.store import TrajectoryStore
from robopref.methods.components import Component, Fit
from robopref.methods.phases.comparisons import AS_THEY_ARE
from robopref.methods.phases.judged import Judged
from robopref.methods.phases.lab import Lab, stream
from robopref.methods.phases.policy import policy_phase
from robopref.objectives.registry import find
from robopref.policies.ipl import InversePreferenceLearning
from robopref.policies.saved import save_policy
from robopref.rewards.dataset import step_tensors


def train_inverse(
    lab: Lab,
    name: str,
    policy: Component,
    store: TrajectoryStore,
    url: str,
    fit_settings: Fit,
    *,
    source: str | None = None,
    annotator: str | None = None,
    held_out: float = 0.2,
    max_pairs: int | None = None,
) -> Path:
    """Learn a policy from labels by inverse preference learning; returns its folder.

    Args:
        lab: Where it is kept.
        name: Its folder in the run directory, e.g. ``policy``.
        policy: A :class:`~robopref.policies.ipl.InversePreferenceLearning`.
        store: The episodes that the labels speak of.
        url: The label store.
        fit_settings: How long to train; a batch counts steps, of which each pair takes its share.
        source: Use the labels of this source only (human, teacher, transfer, ...).
        annotator: Use the labels of this annotator only.
        held_out: Share of episodes whose preferences the policy never sees, those of ``train_reward``.
        max_pairs: Learn from so many pairs, drawn at random; None takes all.
    """
    folder = lab.run.directory / name
    judged = Judged.read(
        store,
        url,
        find("dpo"),  # Bradley-Terry
        AS_THEY_ARE,
        held_out=held_out,
        max_pairs=max_pairs,
        source=source,
        annotator=annotator,
    )
    settings = {
        "policy": policy.settings,
        **judged.settings(),
        "fit": fit_settings.identity,
        "seed": lab.seed,
    }

    def work() -> dict[str, Any]:
        learner: InversePreferenceLearning = lab.build(policy, store)
        train = judged.split(stream(lab.seed, "train-reward")).train
        pairs = step_tensors(store, train, lab.fabric.device, steps=learner.segment_steps)
        learner.fit_normaliser(pairs.observations().cpu())
        phase = policy_phase(name)
        metrics = lab.fit(learner, pairs, fit_settings, phase=phase, folder=folder, settings=settings)
        save_policy(folder, learner)
        return {"pairs": len(pairs), **metrics}

    lab.run.phase(policy_phase(name), settings, work)
    return folder
