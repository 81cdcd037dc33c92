"""A policy from labels alone: its reference clones the data, then preferences move it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError
from robopref.files import write_json
from robopref.methods.components import Component, Fit
from robopref.methods.phases.comparisons import AS_THEY_ARE, Comparisons, fit_in_stages, samplers
from robopref.methods.phases.judged import Judged
from robopref.methods.phases.lab import Lab, file_content, stream
from robopref.methods.phases.policy import policy_phase
from robopref.objectives.audits import difficulty
from robopref.objectives.scores import all_segments, over_steps, row_groups
from robopref.policies.preference import PreferencePolicy
from robopref.policies.saved import load_policy, save_policy
from robopref.rewards.dataset import PreferencePairs
from robopref.training.symmetry import Symmetry, in_all_views, in_settings


def clone_reference(
    lab: Lab,
    policy: Component,
    store: TrajectoryStore,
    fit_settings: Fit,
    *,
    name: str = "reference",
    symmetry: Symmetry | None = None,
) -> Path:
    """Clone all episodes into the policy that preferences start from; returns its folder.

    Args:
        lab: Where it is kept.
        policy: The :class:`~robopref.policies.preference.PreferencePolicy` whose reference it will be.
        store: The episodes.
        fit_settings: How long to train.
        name: Its folder in the run directory.
        symmetry: Of the task; every transition is learned from in all its views.
    """
    folder = lab.run.directory / name
    learner = build(lab, policy, store).cloner()
    settings = {
        "reference": learner.config,
        "data": store.fingerprint(),
        "fit": fit_settings.identity,
        "seed": lab.seed,
        **in_settings(symmetry),
    }

    def work() -> dict[str, Any]:
        transitions = learner.prepare_data(store, None, device=lab.fabric.device)
        metrics = lab.fit(
            learner,
            in_all_views(transitions, symmetry),
            fit_settings,
            phase=f"train-{name}",
            folder=folder,
            settings=settings,
        )
        save_policy(folder, learner)
        return metrics

    lab.run.phase(f"train-{name}", settings, work)
    return folder


def train_direct(
    lab: Lab,
    policy: Component,
    store: TrajectoryStore,
    url: str,
    reference: Path,
    fit_settings: Fit,
    *,
    name: str = "policy",
    source: str | None = None,
    annotator: str | None = None,
    held_out: float = 0.2,
    max_pairs: int | None = None,
    comparisons: Comparisons = AS_THEY_ARE,
) -> Path:
    """Learn a policy from labels without a reward model; returns its folder.

    Beside the weights lies ``metrics.json``: accuracy, margin and likelihoods on the pairs that it learned
    from and on pairs of held-out episodes (against the true order where the environment gives rewards, and
    against their labels otherwise), and the verdict of the collapse gate.

    Args:
        lab: Where it is kept.
        policy: A :class:`~robopref.policies.preference.PreferencePolicy`.
        store: The episodes that the labels speak of.
        url: The label store.
        reference: The folder of the policy that it starts from and is compared with.
        fit_settings: How long to train; a batch holds pairs.
        name: Its folder in the run directory.
        source: Use the labels of this source only (human, teacher, transfer, ...).
        annotator: Use the labels of this annotator only.
        held_out: Share of episodes whose preferences the policy never sees.
        max_pairs: Learn from so many pairs, drawn at random; None takes all.
        comparisons: What is made of them. Stages are ordered by how far the reference has each pair wrong.
    """
    folder, phase = lab.run.directory / name, policy_phase(name)
    judged = Judged.read(
        store,
        url,
        build(lab, policy, store).preference.objective,
        comparisons,
        held_out=held_out,
        max_pairs=max_pairs,
        source=source,
        annotator=annotator,
    )
    settings = {
        "policy": policy.settings,
        "reference": file_content(reference / "model.safetensors"),
        **judged.settings(),
        "fit": fit_settings.identity,
        "seed": lab.seed,
    }

    def work() -> dict[str, Any]:
        learner = build(lab, policy, store)
        learner.start_from(load_policy(reference))
        metrics = _learn(lab, learner, judged, fit_settings, phase, folder, settings)
        metrics["gate"] = learner.verdict(metrics)
        save_policy(folder, learner)
        write_json(folder / "metrics.json", metrics)
        return metrics

    result = lab.run.phase(phase, settings, work)
    gate = result["gate"]
    lab.run.say(
        f"  {result['accuracy']:.1%} of the pairs ordered right; scores of preferred actions changed by "
        f"{result['chosen_change']:+.2g} per step"
    )
    if gate["collapsed"]:
        lab.run.say(
            f"  COLLAPSED: {gate['reason']}. A smaller learning rate, policy.imitation_weight=1 or "
            "objective=cpl are the usual cures."
        )
    return folder


def _learn(
    lab: Lab,
    learner: PreferencePolicy,
    judged: Judged,
    fit_settings: Fit,
    phase: str,
    folder: Path,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Train on the pairs to learn from; returns what all pairs say of the policy."""
    rng = stream(lab.seed, "train-direct")
    parts = judged.split(rng)
    stages, pairs = samplers(
        lab,
        judged.store,
        parts.train,
        judged.objective,
        judged.comparisons,
        rng,
        lambda found, _: _difficulty(learner, found),
        ratings=parts.ratings,
        goal=learner.config["goal"],
    )
    test = judged.measuring(judged.in_true_order(parts.kept), lab.fabric.device, pairs.demonstrations)
    fit_in_stages(
        lab,
        learner,
        stages,
        fit_settings,
        phase=phase,
        folder=folder,
        settings=settings,
        held_out=None if test is None else lambda: _measure(learner, test),
    )
    metrics: dict[str, Any] = {**judged.counts(parts, pairs), **_measure(learner, pairs)}
    return metrics | (
        {} if test is None else {f"held_out/{k}": v for k, v in _measure(learner, test).items()}
    )


def build(lab: Lab, policy: Component, store: TrajectoryStore) -> PreferencePolicy:
    """Build the policy for the episodes of a store.

    Raises:
        ConfigError: The component is another kind of policy.
    """
    learner = lab.build(policy, store)
    if not isinstance(learner, PreferencePolicy):
        raise ConfigError(
            f"A {type(learner).__name__} does not learn from labels directly; policy=preference does"
        )
    return learner


@torch.no_grad()
def _difficulty(learner: PreferencePolicy, pairs: PreferencePairs) -> Float[np.ndarray, " B"]:
    """c of the ranking theorem: how far the reference has each pair wrong, in nats."""
    learner.to(pairs.device)
    found = []
    for batch in pairs.batches(64):
        steps = learner.steps(*all_segments(batch), groups=row_groups(batch))
        scores = over_steps(steps.reference, steps.mask)
        a, b, *_ = scores.split(len(batch["labels"]))
        found.append(difficulty(a, b, batch["labels"]))
    return torch.cat(found).cpu().numpy()


def _measure(learner: PreferencePolicy, pairs: PreferencePairs) -> dict[str, float]:
    return learner.diagnose(pairs.batches(64))
