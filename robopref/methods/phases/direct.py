"""A policy from labels alone: its reference clones the data, then preferences move it."""

from pathlib import Path
from typing import Any

import numpy as np

from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError
from robopref.files import write_json
from robopref.methods.components import Component, Fit
from robopref.methods.phases.lab import Lab, file_content, stream
from robopref.methods.phases.label import content, read_labels, true_labels
from robopref.methods.phases.reward import split_by_episode
from robopref.objectives.audits import collapse
from robopref.policies.preference import PreferencePolicy
from robopref.policies.saved import load_policy, save_policy
from robopref.rewards.dataset import PreferencePairs, preference_tensors
from robopref.training.loop import fit


def clone_reference(lab: Lab, policy: Component, store: TrajectoryStore, fit_settings: Fit) -> Path:
    """Clone all episodes into the policy that preferences start from; returns its folder.

    Args:
        lab: Where it is kept.
        policy: The :class:`~robopref.policies.preference.PreferencePolicy` whose reference it will be.
        store: The episodes.
        fit_settings: How long to train.
    """
    folder = lab.run.directory / "reference"
    learner = build(policy, store, lab.seed).cloner()
    settings = {
        "reference": learner.config,
        "data": store.fingerprint(),
        "fit": {"steps": fit_settings.steps, "batch_size": fit_settings.batch_size},
        "seed": lab.seed,
    }

    def work() -> dict[str, Any]:
        fabric = lab.fabric()
        transitions = learner.prepare_data(store, None, device=fabric.device)
        with lab.log() as log:
            metrics = fit(
                learner,
                transitions,
                steps=fit_settings.steps,
                batch_size=fit_settings.batch_size,
                seed=lab.seed,
                fabric=fabric,
                log=log,
                phase="train-reference",
                directory=folder,
                settings=settings,
                checkpoint_every=fit_settings.checkpoint_every,
                log_every=fit_settings.log_every,
            )
        save_policy(folder, learner)
        return metrics

    lab.run.phase("train-reference", settings, work)
    return folder


def train_direct(
    lab: Lab,
    policy: Component,
    store: TrajectoryStore,
    url: str,
    reference: Path,
    fit_settings: Fit,
    *,
    source: str | None = None,
    annotator: str | None = None,
    held_out: float = 0.2,
    max_pairs: int | None = None,
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
        source: Use the labels of this source only (human, teacher, transfer, ...).
        annotator: Use the labels of this annotator only.
        held_out: Share of episodes whose preferences the policy never sees.
        max_pairs: Learn from so many pairs, drawn at random; None takes all.
    """
    folder = lab.run.directory / "policy"
    preferences = read_labels(store, url, source=source, annotator=annotator)
    settings = {
        "policy": policy.settings,
        "reference": file_content(reference / "model.safetensors"),
        "data": store.fingerprint(),
        "labels": content(preferences),
        "held_out": held_out,
        "max_pairs": max_pairs,
        "fit": {"steps": fit_settings.steps, "batch_size": fit_settings.batch_size},
        "seed": lab.seed,
    }

    def work() -> dict[str, Any]:
        rng = stream(lab.seed, "train-direct")
        train, kept = split_by_episode(preferences, len(store), held_out, rng)
        if max_pairs is not None and max_pairs < len(train):
            train = train.select(np.sort(rng.choice(len(train), max_pairs, replace=False)))
        fabric = lab.fabric()
        pairs = preference_tensors(store, train, fabric.device)
        judged = true_labels(kept, store)
        measurable = bool((judged.label != 0.5).any())
        test = preference_tensors(store, judged, fabric.device, allow_only_ties=True) if measurable else None
        learner = build(policy, store, lab.seed)
        learner.start_from(load_policy(reference))
        with lab.log() as log:
            fit(
                learner,
                pairs,
                steps=fit_settings.steps,
                batch_size=fit_settings.batch_size,
                seed=lab.seed,
                fabric=fabric,
                log=log,
                phase="train-policy",
                directory=folder,
                settings=settings,
                checkpoint_every=fit_settings.checkpoint_every,
                log_every=fit_settings.log_every,
                held_out=None if test is None else lambda: _measure(learner, test),
            )
        metrics: dict[str, Any] = {"pairs": len(train), "held_out_pairs": len(kept)}
        metrics |= _measure(learner, pairs)
        metrics |= {} if test is None else {f"held_out/{k}": v for k, v in _measure(learner, test).items()}
        metrics["gate"] = collapse(metrics["chosen_change"], metrics["kl"])
        save_policy(folder, learner)
        write_json(folder / "metrics.json", metrics)
        return metrics

    result = lab.run.phase("train-policy", settings, work)
    gate = result["gate"]
    lab.run.say(
        f"  {result['accuracy']:.1%} of the pairs ordered right; preferred actions changed by "
        f"{result['chosen_change']:+.2f} nats per step, KL {result['kl']:.2f}"
    )
    if gate["collapsed"]:
        lab.run.say(
            f"  COLLAPSED: {gate['reason']}. A smaller learning rate, policy.imitation_weight=1 or "
            "objective=cpl are the usual cures."
        )
    return folder


def build(policy: Component, store: TrajectoryStore, seed: int) -> PreferencePolicy:
    """Build the policy for the episodes of a store.

    Raises:
        ConfigError: The component is another kind of policy.
    """
    learner = policy.build(
        observation_size=store.layout.observation_size, action_size=store.layout.action_size, seed=seed
    )
    if not isinstance(learner, PreferencePolicy):
        raise ConfigError(
            f"A {type(learner).__name__} does not learn from labels directly; policy=preference does"
        )
    return learner


def _measure(learner: PreferencePolicy, pairs: PreferencePairs) -> dict[str, float]:
    return learner.diagnose(pairs.batches(64))
