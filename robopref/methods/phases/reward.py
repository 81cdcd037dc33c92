"""A reward model from labels, measured on episodes that it has not seen."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from robopref.data.label_store import LabelStore
from robopref.data.store import TrajectoryStore
from robopref.files import write_json
from robopref.labeling.noise import estimate_noise, read_noise, write_noise
from robopref.methods.components import Component, Fit
from robopref.methods.phases.comparisons import AS_THEY_ARE, Comparisons, fit_in_stages, samplers
from robopref.methods.phases.judged import Judged
from robopref.methods.phases.lab import Lab, stream
from robopref.methods.phases.label import true_labels
from robopref.rewards.ensemble import EnsembleReward
from robopref.rewards.hard import hard_accuracy
from robopref.rewards.metrics import pair_accuracy, preference_metrics
from robopref.rewards.saved import save_reward


def train_reward(
    lab: Lab,
    reward: Component,
    store: TrajectoryStore,
    url: str,
    fit_settings: Fit,
    *,
    name: str = "reward",
    source: str | None = None,
    annotator: str | None = None,
    annotator_noise: str | None = None,
    decided: bool = False,
    held_out: float = 0.2,
    max_pairs: int | None = None,
    comparisons: Comparisons = AS_THEY_ARE,
) -> Path:
    """Learn a reward from labels; returns its folder.

    Pairs of held-out episodes measure it: against the true order where the environment gives rewards, and
    against their labels otherwise.

    Args:
        reward: Such as :class:`robopref.rewards.gaussian.GaussianReward`.
        store: The episodes that the labels speak of.
        url: The label store.
        fit_settings: How long to train.
        name: Its folder in the run directory.
        source: Use the labels of this source only (human, teacher, transfer, ...).
        annotator: Use the labels of this annotator only.
        annotator_noise: How likely each annotator's label is reversed: "estimate" asks the labels themselves,
            a path names what an earlier estimate wrote; None takes all labels as meant.
        decided: Learn from the part that decided alone, where a person marked it.
        held_out: Share of episodes that the reward never sees.
        max_pairs: Learn from so many pairs, drawn at random; None takes all.
        comparisons: What is made of them.
    """
    folder = lab.run.directory / name
    phase = "train-reward" if name == "reward" else f"train-reward/{Path(name).name}"
    noise = None if annotator_noise is None else _noise(annotator_noise, url, source, folder)
    judged = Judged.read(
        store,
        url,
        lab.build(reward, store).objective.objective,
        comparisons,
        held_out=held_out,
        max_pairs=max_pairs,
        source=source,
        annotator=annotator,
        noise=noise,
        decided=decided,
    )
    settings = {
        "reward": reward.settings,
        **judged.settings(),
        "fit": fit_settings.identity,
        "seed": lab.seed,
    }

    def work() -> dict[str, Any]:
        learner = lab.build(reward, store)
        metrics = _learn(lab, learner, judged, fit_settings, phase, folder, settings)
        save_reward(folder, learner)
        write_json(folder / "metrics.json", metrics)
        return {name: value for name, value in metrics.items() if name != "reliability"}

    result = lab.run.phase(phase, settings, work)
    if "pair_accuracy" in result:
        share, pairs = result["pair_accuracy"], result["held_out_pairs"]
        lab.run.say(f"  {share:.1%} of {pairs} held-out pairs are ordered right")
    else:
        lab.run.say("  no held-out pairs with an order, so the reward is not measured")
    return folder


def _learn(
    lab: Lab,
    learner: EnsembleReward,
    judged: Judged,
    fit_settings: Fit,
    phase: str,
    folder: Path,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Train on the pairs to learn from; returns what held-out pairs say of the reward."""
    rng = stream(lab.seed, "train-reward")
    parts = judged.split(rng)
    ordered = judged.in_true_order(parts.kept)
    stages, pairs = samplers(
        lab,
        judged.store,
        parts.train,
        judged.objective,
        judged.comparisons,
        rng,
        ratings=parts.ratings,
    )
    test = judged.measuring(ordered, lab.fabric.device)
    learner.fit_normaliser(pairs.observations().cpu())
    fit_in_stages(
        lab,
        learner,
        stages,
        fit_settings,
        phase=phase,
        folder=folder,
        settings=settings,
        held_out=None if test is None else lambda: brief(preference_metrics(learner, test)),
    )
    metrics: dict[str, Any] = {**judged.counts(parts, pairs)}
    if test is not None:
        metrics |= preference_metrics(learner, test)
        if np.ptp(judged.store.returns):
            hard = hard_accuracy(learner, judged.store, ordered)
            metrics |= {f"hard/{kind}": accuracy for kind, accuracy in hard.items()}
        truth = true_labels(parts.kept, judged.store).label
        metrics["label_accuracy"] = pair_accuracy(parts.kept.label, truth).accuracy
    return metrics


def _noise(wanted: str, url: str, source: str | None, folder: Path) -> dict[str, float]:
    """Estimate or read each annotator's chance of a reversed label; an estimate is written down."""
    if wanted != "estimate":
        return read_noise(Path(wanted))
    with LabelStore(url) as labels:
        found = estimate_noise(labels.judgements(source=source).values())
    write_noise(folder / "annotators.json", found)
    return {name: estimate.flip_prob for name, estimate in found.items()}


def brief(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a report that a learning curve shows."""
    return {"accuracy": metrics["pair_accuracy"], "ece": metrics["ece"]}
