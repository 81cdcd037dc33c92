"""A reward model from labels, measured on episodes that it has not seen."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from robopref.data.label_store import LabelStore
from robopref.data.preferences import Preferences, Ratings
from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, DataError
from robopref.files import write_json
from robopref.labeling.noise import estimate_noise, read_noise, write_noise
from robopref.methods.components import Component, Fit
from robopref.methods.phases.comparisons import (
    AS_THEY_ARE,
    Comparisons,
    fit_in_stages,
    read_judgements,
    samplers,
    without_ties,
)
from robopref.methods.phases.lab import Lab, stream
from robopref.methods.phases.label import content, true_labels
from robopref.rewards.dataset import preference_tensors
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
        source: Use the labels of this source only (human, teacher, transfer, ...).
        annotator: Use the labels of this annotator only.
        annotator_noise: How likely each annotator's label is reversed: "estimate" asks the labels themselves,
            a path names what an earlier estimate wrote; None takes all labels as meant.
        decided: Learn from the part that decided alone, where a person marked it.
        held_out: Share of episodes that the reward never sees.
        max_pairs: Learn from so many pairs, drawn at random; None takes all.
        comparisons: What is made of them.
    """
    folder = lab.run.directory / "reward"
    noise = None if annotator_noise is None else _noise(annotator_noise, url, source, folder)
    preferences, ratings = read_judgements(
        store,
        url,
        lab.build(reward, store).objective.objective,
        comparisons,
        source=source,
        annotator=annotator,
        noise=noise,
        decided=decided,
    )
    settings = {
        "reward": reward.settings,
        "data": store.fingerprint(),
        "labels": content(preferences, ratings),
        "held_out": held_out,
        "max_pairs": max_pairs,
        "comparisons": dataclasses.asdict(comparisons),
        "fit": fit_settings.identity,
        "seed": lab.seed,
    }

    def work() -> dict[str, Any]:
        rng = stream(lab.seed, "train-reward")
        parts = split_judgements(preferences, ratings, len(store), held_out, max_pairs, rng)
        kept = parts.kept
        learner = lab.build(reward, store)
        objective = learner.objective.objective
        judged = without_ties(objective, true_labels(kept, store))
        measurable = bool((judged.label != 0.5).any())
        stages, pairs = samplers(lab, store, parts.train, objective, comparisons, rng, ratings=parts.ratings)
        test = (
            preference_tensors(store, judged, lab.fabric.device, allow_only_ties=True) if measurable else None
        )
        learner.fit_normaliser(pairs.observations().cpu())
        fit_in_stages(
            lab,
            learner,
            stages,
            fit_settings,
            phase="train-reward",
            folder=folder,
            settings=settings,
            held_out=None if test is None else lambda: brief(preference_metrics(learner, test)),
        )
        metrics: dict[str, Any] = {
            "pairs": len(pairs) if len(parts.train) else 0,
            "held_out_pairs": len(kept),
        }
        metrics |= {"ratings": len(parts.ratings)} if len(ratings) else {}
        if test is not None:
            metrics |= preference_metrics(learner, test)
            if np.ptp(store.returns):
                hard = hard_accuracy(learner, store, judged)
                metrics |= {f"hard/{kind}": accuracy for kind, accuracy in hard.items()}
            metrics["label_accuracy"] = pair_accuracy(kept.label, true_labels(kept, store).label).accuracy
        save_reward(folder, learner)
        write_json(folder / "metrics.json", metrics)
        return {name: value for name, value in metrics.items() if name != "reliability"}

    result = lab.run.phase("train-reward", settings, work)
    if "pair_accuracy" in result:
        share, pairs = result["pair_accuracy"], result["held_out_pairs"]
        lab.run.say(f"  {share:.1%} of {pairs} held-out pairs are ordered right")
    else:
        lab.run.say("  no held-out pairs with an order, so the reward is not measured")
    return folder


def _noise(wanted: str, url: str, source: str | None, folder: Path) -> dict[str, float]:
    """Estimate or read each annotator's chance of a reversed label; an estimate is written down."""
    if wanted != "estimate":
        return read_noise(Path(wanted))
    with LabelStore(url) as labels:
        found = estimate_noise(labels.judgements(source=source).values())
    write_noise(folder / "annotators.json", found)
    return {name: estimate.flip_prob for name, estimate in found.items()}


def split_by_episode(
    preferences: Preferences, episodes: int, share: float, rng: np.random.Generator
) -> tuple[Preferences, Preferences]:
    """Keep a share of the episodes aside: pairs without any of them, and pairs of two of them."""
    return _split(preferences, _aside(episodes, share, rng))


def _aside(episodes: int, share: float, rng: np.random.Generator) -> Bool[np.ndarray, " N"]:
    if not 0 <= share < 1:
        raise ConfigError(f"held_out must lie in [0, 1), got {share}")
    aside = np.zeros(episodes, bool)
    aside[rng.choice(episodes, round(share * episodes), replace=False)] = True
    return aside


def _split(preferences: Preferences, aside: Bool[np.ndarray, " N"]) -> tuple[Preferences, Preferences]:
    a, b = aside[preferences.a.episode], aside[preferences.b.episode]
    return preferences.select(np.flatnonzero(~a & ~b)), preferences.select(np.flatnonzero(a & b))


@dataclasses.dataclass(frozen=True)
class Split:
    """What a model learns from, and pairs that it never sees."""

    train: Preferences
    ratings: Ratings
    kept: Preferences


def split_judgements(
    preferences: Preferences,
    ratings: Ratings,
    episodes: int,
    held_out: float,
    most: int | None,
    rng: np.random.Generator,
) -> Split:
    """Split by episode, and draw ``most`` of the pairs to learn from at random; None keeps all.

    Held-out segments that were judged one by one become pairs of a good and a bad one.

    Raises:
        DataError: Nothing is left to learn from.
    """
    aside = _aside(episodes, held_out, rng)
    train, kept = _split(preferences, aside)
    rated = aside[ratings.segments.episode]
    singles = ratings.select(np.flatnonzero(~rated))
    if not len(train) and not len(singles):
        raise DataError(
            f"None of the {len(preferences)} labelled pairs is left to learn from: held_out={held_out} keeps "
            "episodes aside, and pairs with one of them are not learned from."
        )
    if most is not None and most < len(train):
        train = train.select(np.sort(rng.choice(len(train), most, replace=False)))
    implied = ratings.select(np.flatnonzero(rated)).implied()
    return Split(train, singles, Preferences.concatenate([kept, implied]) if len(implied) else kept)


def brief(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a report that a learning curve shows."""
    return {"accuracy": metrics["pair_accuracy"], "ece": metrics["ece"]}
