"""What is made of labelled pairs before a model learns from them: lists, demonstrations, stages, twins."""

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from robopref.data.augmentation import hindsight_pairs, reward_conditioned
from robopref.data.curriculum import curriculum
from robopref.data.graded_lists import graded_lists, most_preferred, win_shares
from robopref.data.label_store import LabelStore
from robopref.data.negatives import SPOILS, spoil, store_with_twins
from robopref.data.preferences import Preferences, Ratings, Segments
from robopref.data.selection import score_first_diversity
from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, DataError, hide_passwords, unknown_name
from robopref.methods.components import Fit
from robopref.methods.phases.lab import Lab
from robopref.methods.phases.label import read_labels
from robopref.objectives.description import SINGLE, Objective
from robopref.objectives.reduction import check_takes_ratings
from robopref.objectives.unpaired import buckets
from robopref.rewards.dataset import PreferencePairs, list_tensors, preference_tensors, rating_tensors
from robopref.training.step import Sampler

GOALS = ("scores", "hindsight")


@dataclasses.dataclass(frozen=True)
class Comparisons:
    """What is made of labelled pairs.

    Attributes:
        list_size: Segments in a list, for objectives of lists; every two of them were compared.
        demonstrations: Share of the segments, those preferred most, that ``triple`` imitates.
        keep: Learn from so many segments at most, good ones that differ (Deita); None for all.
        similarity: Largest cosine of two kept segments' features, in (-1, 1].
        stages: Stages of a curriculum from easy to hard pairs, each with all the easier ones (TEMPLE).
        twins: Learn as well that the so many most preferred episodes are better than spoiled copies of them.
        spoil: How copies are spoiled: one of :data:`robopref.data.negatives.SPOILS`.
        spoil_share: Share of their steps (of the entries of observations, for ``hide``) that are, in (0, 1].
        thumbs: Whether judgements of single segments count: None where the objective takes up/down labels,
            True beside pairs as well, by their cross-entropy (UnifiedReward), False never.
        goals: What the policy is told of each behaviour (with ``policy.goal``): ``scores`` asks for the
            share of comparisons that the better segment won, and then, the order turned round, for that of
            the worse (reward-conditioned pairs); ``hindsight`` asks the one behaviour for what it achieved
            and for something else (MAPL), beside the pairs.
        goal_levels: Different goals for ``hindsight``, quantiles of those shares.
    """

    list_size: int = 4
    demonstrations: float = 0.1
    keep: int | None = None
    similarity: float = 0.9
    stages: int = 1
    twins: int = 0
    spoil: str = "shuffle"
    spoil_share: float = 0.5
    thumbs: bool | None = None
    goals: str | None = None
    goal_levels: int = 3

    def __post_init__(self):
        for name, least in (("list_size", 2), ("keep", 2), ("stages", 1), ("twins", 0), ("goal_levels", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"training.labels.{name} must be at least {least}, got {value}")
        for name, least in (("demonstrations", 0), ("spoil_share", 0), ("similarity", -1)):
            if not least < getattr(self, name) <= 1:
                raise ConfigError(
                    f"training.labels.{name} must lie in ({least}, 1], got {getattr(self, name)}"
                )
        if self.spoil not in SPOILS:
            raise ConfigError(unknown_name("kind of perturbation", self.spoil, SPOILS))
        if self.goals is not None and self.goals not in GOALS:
            raise ConfigError(unknown_name("kind of goals", self.goals, GOALS))
        if self.goals is not None and (self.stages > 1 or self.twins):
            raise ConfigError("training.labels.goals goes neither with stages nor with twins")


AS_THEY_ARE = Comparisons()
NO_RATINGS = Ratings(Segments(*(np.empty(0, np.int64),) * 3), np.empty(0), np.empty(0))
Difficulty = Callable[[PreferencePairs, Preferences], Float[np.ndarray, " B"]]


class Mixture:
    """Batches from one of several samplers, each as often as its share of all items."""

    def __init__(self, samplers: Sequence[Sampler]):
        self.samplers = samplers
        self._shares = torch.tensor([float(len(s)) for s in samplers])

    def __len__(self) -> int:
        return sum(len(s) for s in self.samplers)

    def sample(self, batch_size: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw a sampler, and a batch from it."""
        return self.samplers[int(torch.multinomial(self._shares, 1, generator=generator))].sample(
            batch_size, generator
        )


def closeness(pairs: PreferencePairs, preferences: Preferences) -> Float[np.ndarray, " B"]:
    """How hard a pair is to order: minus the distance of the shares of comparisons that its members won."""
    a, b = win_shares(preferences)
    return -np.abs(a - b)


def samplers(
    lab: Lab,
    store: TrajectoryStore,
    preferences: Preferences,
    objective: Objective,
    plan: Comparisons,
    rng: np.random.Generator,
    difficulty: Difficulty = closeness,
    *,
    ratings: Ratings = NO_RATINGS,
    goal: bool = False,
) -> tuple[list[Sampler], PreferencePairs]:
    """Turn judgements into what an objective learns from: a sampler for each stage, and pairs to measure on.

    Args:
        lab: Gives the device, and the folder for ``twins``.
        store: The episodes that the labels speak of.
        preferences: The pairs to learn from.
        objective: Says whether it takes pairs, lists, pairs and demonstrations, or single behaviours.
        plan: What is made of the pairs.
        rng: Draws lists and the places where twins are spoiled.
        difficulty: Of each pair, for stages.
        ratings: Judgements of single segments to learn from as well, or instead.
        goal: Whether the learner takes goals.

    Raises:
        ConfigError: Lists are asked for in stages, or goals of a learner that takes none.
        DataError: The labels are not what the objective takes, or nothing is left of them.
    """
    device = lab.fabric.device
    preferences = _kept(store, preferences, plan)
    _check_hard(objective, preferences)
    if plan.goals is not None and not goal:
        raise ConfigError(
            "training.labels.goals is for a policy that takes goals: policy=preference policy.goal=true"
        )
    if len(ratings):
        check_takes_ratings(objective)
    if not len(preferences) or objective.extra == "goal":
        return _single(store, preferences, ratings, objective, plan, device)
    shown = most_preferred(preferences, plan.demonstrations) if objective.extra == "demonstration" else None
    pairs = preference_tensors(store, preferences, device, demonstrations=shown)
    if objective.labels == "lists":
        if plan.stages > 1 or plan.twins:
            raise ConfigError(
                f"{objective.name} learns from lists: training.labels.stages and twins are for pairs"
            )
        if plan.goals:
            raise ConfigError(f"{objective.name} learns from lists: training.labels.goals is for pairs")
        lists = graded_lists(preferences, plan.list_size, len(preferences), rng)
        return [list_tensors(store, lists, device)], pairs
    parts: list[Sampler] = [_asked(store, preferences, plan, pairs, rng) if plan.goals else pairs]
    if plan.stages > 1:
        order = curriculum(difficulty(pairs, preferences), stages=plan.stages)
        parts = [_stage(store, preferences.select(stage), device, shown) for stage in order]
    if plan.twins:
        twins = _twins(lab, store, preferences, plan, rng, shown is not None)
        parts = [Mixture([part, twins]) for part in parts]
    if len(ratings):
        singles = rating_tensors(store, ratings, device)
        parts = [Mixture([part, singles]) for part in parts]
    return parts, pairs


def read_judgements(
    store: TrajectoryStore, url: str, objective: Objective, plan: Comparisons, **filters: Any
) -> tuple[Preferences, Ratings]:
    """Read the pairs of a label store and, where they count, the judgements of single segments.

    Args:
        store: The episodes that they speak of.
        url: The label store.
        objective: Says whether single segments count, where the plan does not.
        plan: What is made of them.
        filters: Of :func:`robopref.methods.phases.label.read_labels`.

    Raises:
        DataError: There is nothing to learn from.
    """
    preferences = read_labels(store, url, optional=True, **filters)
    with LabelStore(url) as labels:
        ratings = labels.ratings(source=filters.get("source"), annotator=filters.get("annotator"))
    counted = objective.labels in SINGLE if plan.thumbs is None else plan.thumbs
    if not counted:
        if len(ratings) and not len(preferences):
            raise DataError(
                f"{hide_passwords(url)} holds {len(ratings)} judgements of single segments and no "
                f"comparison, and {objective.name} learns from comparisons: choose an objective of up/down "
                "labels (kto, bco)"
            )
        ratings = NO_RATINGS
    if not len(preferences) and not len(ratings):
        read_labels(store, url, **filters)  # says what is missing
    return preferences, ratings


def _single(
    store: TrajectoryStore,
    preferences: Preferences,
    ratings: Ratings,
    objective: Objective,
    plan: Comparisons,
    device: torch.device,
) -> tuple[list[Sampler], PreferencePairs]:
    """Single segments alone: thumbs, and for an objective that tells the label also both members of pairs."""
    if plan.stages > 1 or plan.twins or plan.goals:
        raise ConfigError(
            "training.labels.stages, twins and goals are for pairs, and these are single segments"
        )
    measured = Preferences.concatenate([preferences, ratings.implied()])
    if not len(measured):
        raise DataError(
            f"All {len(ratings)} judgements of single segments agree: nothing tells good from bad"
        )
    singles = ratings.and_both_of(preferences) if objective.labels in SINGLE else ratings
    goals = 2 * singles.label - 1 if objective.extra == "goal" else None
    return [rating_tensors(store, singles, device, goals=goals)], preference_tensors(store, measured, device)


def _asked(
    store: TrajectoryStore,
    preferences: Preferences,
    plan: Comparisons,
    pairs: PreferencePairs,
    rng: np.random.Generator,
) -> Sampler:
    """Pairs under goals in [-1, 1]: the score asked for, or what a behaviour achieved and something else."""
    shares = win_shares(preferences)
    if plan.goals == "scores":
        asked = reward_conditioned(preferences, *shares)
        return preference_tensors(
            store, asked.preferences, pairs.device, goals=np.stack([2 * asked.goal - 1] * 2)
        )
    sides = [np.stack([x.episode, x.start, x.length], 1) for x in (preferences.a, preferences.b)]
    spans, first = np.unique(np.concatenate(sides), axis=0, return_index=True)
    achieved = buckets(torch.from_numpy(np.concatenate(shares)[first]), plan.goal_levels).numpy()
    told = hindsight_pairs(Segments(*spans.T), achieved, plan.goal_levels, rng)
    ones = np.ones(len(spans), np.float32)
    goals = 2 * np.stack([told.fitting, told.other]) / (plan.goal_levels - 1) - 1
    same = Preferences(told.segments, told.segments, ones, ones)
    best = preference_tensors(store, preferences, pairs.device, goals=np.ones((2, len(preferences))))
    return Mixture([best, preference_tensors(store, same, pairs.device, goals=goals)])


def fit_in_stages(
    lab: Lab,
    learner: nn.Module,
    stages: Sequence[Sampler],
    fit_settings: Fit,
    *,
    phase: str,
    folder: Path,
    settings: dict[str, Any],
    held_out: Callable[[], Mapping[str, float]] | None,
) -> None:
    """Train on one stage after the other, with equal shares of the steps."""
    share = max(1, fit_settings.steps // len(stages))
    for number, sampler in enumerate(stages[:-1], 1):
        lab.fit(
            learner,
            sampler,
            dataclasses.replace(fit_settings, steps=share),
            phase=f"{phase}/stage{number}",
            folder=folder / f"stage{number}",
            settings=settings,
        )
    rest = max(1, fit_settings.steps - share * (len(stages) - 1))
    plan = dataclasses.replace(fit_settings, steps=rest)
    lab.fit(learner, stages[-1], plan, phase=phase, folder=folder, settings=settings, held_out=held_out)


def without_ties(objective: Objective, preferences: Preferences) -> Preferences:
    """Leave out ties where an objective cannot take them; for measuring, which needs none."""
    if objective.labels != "hard pairs":
        return preferences
    return preferences.select(np.flatnonzero(preferences.label != 0.5))


def _check_hard(objective: Objective, preferences: Preferences) -> None:
    soft = int(((preferences.label != 0) & (preferences.label != 1)).sum())
    if objective.labels == "hard pairs" and soft:
        raise DataError(
            f"{objective.name} sorts winners apart from losers, and {soft} of {len(preferences)} labels are "
            "soft or ties: use another objective, or leave them out"
        )


def _stage(
    store: TrajectoryStore, preferences: Preferences, device: torch.device, shown: Segments | None
) -> Sampler:
    return preference_tensors(store, preferences, device, demonstrations=shown)


def _kept(store: TrajectoryStore, preferences: Preferences, plan: Comparisons) -> Preferences:
    """Pairs of segments that are good and differ in their mean observations and actions."""
    if plan.keep is None:
        return preferences
    sides = [np.stack([x.episode, x.start, x.length], 1) for x in (preferences.a, preferences.b)]
    spans, first, where = np.unique(np.concatenate(sides), axis=0, return_index=True, return_inverse=True)
    rows = np.concatenate([store.array("observations"), store.array("actions")], 1)
    starts = store.first_rows[spans[:, 0]] + spans[:, 1]
    means = np.stack([rows[s : s + n].mean(0) for s, n in zip(starts, spans[:, 2], strict=True)])
    features = (means - means.mean(0)) / means.std(0).clip(1e-6)
    shares = np.concatenate(win_shares(preferences))[first]
    kept = score_first_diversity(shares, features, threshold=plan.similarity, budget=plan.keep)
    a, b = np.isin(where.ravel(), kept).reshape(2, -1)
    left = np.flatnonzero(a & b)
    if not len(left):
        raise DataError(
            f"None of {len(preferences)} pairs is between two of the {len(kept)} segments that are kept: a "
            "larger training.labels.keep or similarity keeps more"
        )
    return preferences.select(left)


def _twins(
    lab: Lab,
    store: TrajectoryStore,
    preferences: Preferences,
    plan: Comparisons,
    rng: np.random.Generator,
    demonstrated: bool,
) -> Sampler:
    """The most preferred episodes beside spoiled copies, from a store of their own in the run directory."""
    best = most_preferred(preferences, 1.0).episode
    _, places = np.unique(best, return_index=True)
    episodes = best[np.sort(places)][: plan.twins]
    batch = store.segments(episodes, np.zeros_like(episodes), store.lengths[episodes])
    spoiled = spoil(batch, plan.spoil, share=plan.spoil_share, rng=rng)
    folder = lab.run.directory / "twins"
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was broken off
    twins, compared = store_with_twins(folder, store, episodes, spoiled)
    return preference_tensors(
        twins, compared, lab.fabric.device, demonstrations=compared.a if demonstrated else None
    )
