"""Learning a visual reward: choose epsilon and temperature, align the space, then learn the steps.

Letters used in shapes: N episodes, F frames, d features, P pairs.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from robopref.data.preferences import Preferences
from robopref.errors import ConfigError, DataError
from robopref.rewards.sequences import FeatureSequences, SequencePairs, triplets
from robopref.rewards.transport import TransportReward
from robopref.rewards.visual import EnsembleFrameReward
from robopref.training.step import Batch, Sampler

MOST_LEARNED_FROM = 1000  # unlabelled episodes whose features are held in memory for the step reward

Train = Callable[[nn.Module, Sampler, int, int, str], Mapping[str, float]]
"""Trains a learner on a sampler for so many steps of such a batch, under a name."""
Build = Callable[[float, float], TransportReward]
"""Makes an untrained reward, demonstrations and all, with an epsilon and a temperature."""


@dataclass(frozen=True)
class AligningPlan:
    """How a transport reward is learned.

    Attributes:
        steps: Of the head's training; 0 leaves the space as it is (and only tunes epsilon).
        choosing_steps: The same for each candidate, at most ``steps``.
        batch_size: Preferences in a batch.
        epsilons: Candidates for the plan's entropy.
        temperatures: Candidates for the distance that makes the odds e : 1.
        validation: Share of the preferences that chooses among the candidates; all are learned from
            afterwards.
        anchored_to: "demonstrations", or "triplets" of ranked episodes.
        step_steps: Of the step reward's training.
        step_pairs: Pairs of unlabelled episodes that it learns from.
    """

    steps: int = 150
    choosing_steps: int = 60
    batch_size: int = 16
    epsilons: Sequence[float] = (0.02, 0.1)
    temperatures: Sequence[float] = (0.02, 0.1)
    validation: float = 0.25
    anchored_to: str = "demonstrations"
    step_steps: int = 200
    step_pairs: int = 2000

    def __post_init__(self):
        if self.anchored_to not in ("demonstrations", "triplets"):
            raise ConfigError(f"anchored_to must be demonstrations or triplets, got {self.anchored_to!r}")
        if min(self.batch_size, self.choosing_steps, self.step_steps, self.step_pairs) < 1 or self.steps < 0:
            raise ConfigError(
                "steps must be at least 0; batch_size and the other numbers of steps and pairs at least 1"
            )
        if not self.epsilons or not self.temperatures or min(*self.epsilons, *self.temperatures) <= 0:
            raise ConfigError("epsilons and temperatures must be positive, with at least one of each")
        if not 0 < self.validation < 1:
            raise ConfigError(f"validation must lie in (0, 1), got {self.validation}")


def learn_transport(
    build: Build,
    sequences: FeatureSequences,
    preferences: Preferences,
    pool: Int[np.ndarray, " n"],
    plan: AligningPlan,
    train: Train,
    rng: np.random.Generator,
) -> tuple[TransportReward, dict[str, Any]]:
    """Learn a transport reward from preferences.

    Args:
        build: Makes the reward.
        sequences: Features of all episodes.
        preferences: Of whole episodes of the pool.
        pool: Episodes whose order by the aligned reward teaches the step reward; they need no labels.
        plan: How.
        train: The training loop.
        rng: Splits preferences, draws pairs.

    Returns:
        The reward, and what there is to report: the chosen ``epsilon`` and ``temperature``, the
        ``candidates`` with their validation losses, and the collapse ``alarm``.
    """
    chosen, candidates = _choose(build, sequences, preferences, plan, train, rng)
    reward = build(*chosen)
    pairs = _pairs(sequences, preferences, plan)
    if plan.steps:
        train(reward, pairs, plan.steps, plan.batch_size, "align")
    alarm = reward.alarm(pairs.batch(torch.arange(min(len(pairs), 256))))
    learn_steps(reward, sequences, pool, plan, train, rng)
    epsilon, temperature = chosen
    return reward, {"epsilon": epsilon, "temperature": temperature, "candidates": candidates, "alarm": alarm}


def untrained_transport(
    build: Build, sequences: FeatureSequences, preferences: Preferences, plan: AligningPlan
) -> TransportReward:
    """Return the transport in the space as it is, with the epsilon that the preferences want: a baseline."""
    plan = dataclasses.replace(plan, steps=0)
    chosen, _ = _choose(build, sequences, preferences, plan, _no_training, np.random.default_rng(0))
    return build(*chosen)


def _no_training(*_: object) -> Mapping[str, float]:
    return {}


def learn_steps(
    reward: TransportReward,
    sequences: FeatureSequences,
    pool: Int[np.ndarray, " n"],
    plan: AligningPlan,
    train: Train,
    rng: np.random.Generator,
) -> None:
    """Teach the step reward the order that the reward's own transport scores give to unlabelled episodes."""
    if len(pool) > MOST_LEARNED_FROM:
        pool = np.sort(rng.choice(pool, MOST_LEARNED_FROM, replace=False))
    scores = reward.score_all(sequences)[pool]
    pairs = DistilledPairs(reward, sequences, pool, scores, plan.step_pairs, rng)
    reward.step_network.fit_normaliser(pairs.rows())
    train(reward.step_network, pairs, plan.step_steps, 32, "step-reward")
    reward.eval()
    reward.fit_step_scales(pairs.rows())


class DistilledPairs:
    """Pairs of episodes labelled by a softened order of given scores; batches as reward ensembles take them.

    P(a preferred) = sigmoid(4 (s_a - s_b) / deviation of the scores).
    """

    def __init__(
        self,
        reward: TransportReward,
        sequences: FeatureSequences,
        pool: Int[np.ndarray, " n"],
        scores: Float[np.ndarray, " n"],
        count: int,
        rng: np.random.Generator,
    ) -> None:
        spread = float(scores.std())
        if len(pool) < 2 or not spread > 0:
            raise DataError(
                f"{len(pool)} episodes with the scores' spread {spread:g} have no order to learn from"
            )
        features, lengths = sequences.gather(pool)
        device = reward.demonstrations.device
        with torch.no_grad():
            self.inputs = reward.step_inputs(features.to(device))
        self.lengths = lengths.to(device)
        a = rng.integers(len(pool), size=count)
        b = (a + rng.integers(1, len(pool), size=count)) % len(pool)
        self.sides = torch.as_tensor(np.stack([a, b]), device=device)
        margin = 4 * (scores[a] - scores[b]) / spread
        self.labels = torch.as_tensor(1 / (1 + np.exp(-margin)), dtype=torch.float32, device=device)

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self) -> Float[Tensor, "n d"]:
        """Every frame once."""
        there = torch.arange(self.inputs.shape[1], device=self.lengths.device) < self.lengths[:, None]
        return self.inputs[there]

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw pairs independently and with replacement."""
        index = torch.randint(len(self), (batch_size,), generator=generator).to(self.labels.device)
        return ensemble_batch(self.inputs, self.lengths, self.sides[:, index], self.labels[index])


def ensemble_batch(
    inputs: Float[Tensor, "N F d"], lengths: Int[Tensor, " N"], sides: Int[Tensor, "2 P"], labels: Tensor
) -> Batch:
    """Return a batch of pairs of videos as reward ensembles take them, without actions."""
    batch: Batch = {"labels": labels, "weights": torch.ones_like(labels)}
    steps = torch.arange(inputs.shape[1], device=lengths.device)
    for name, side in zip("ab", sides, strict=True):
        batch[f"observations_{name}"] = inputs[side]
        batch[f"actions_{name}"] = inputs[side][..., :0]
        batch[f"mask_{name}"] = steps < lengths[side][:, None]
    return batch


class EnsemblePairs:
    """Preferences between videos as reward ensembles take them: for Bradley-Terry on pixels and the like."""

    def __init__(self, pairs: SequencePairs) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw pairs independently and with replacement."""
        index = torch.randint(len(self), (batch_size,), generator=generator).to(self.pairs.labels.device)
        pairs = self.pairs
        batch = ensemble_batch(pairs.features, pairs.lengths, pairs.places[:, index], pairs.labels[index])
        return {**batch, "weights": pairs.weights[index]}


def learn_ensemble(
    reward: EnsembleFrameReward,
    sequences: FeatureSequences,
    preferences: Preferences,
    pool: Int[np.ndarray, " n"],
    train: Train,
    *,
    steps: int,
    batch_size: int = 16,
) -> EnsembleFrameReward:
    """Learn an ensemble over frames from preferences; its normaliser sees the pool's unlabelled frames."""
    features, lengths = sequences.gather(pool)
    there = torch.arange(features.shape[1]) < lengths[:, None]
    reward.ensemble.fit_normaliser(features[there])
    train(
        reward.ensemble, EnsemblePairs(SequencePairs(sequences, preferences)), steps, batch_size, "ensemble"
    )
    return reward.eval()


def _choose(
    build: Build,
    sequences: FeatureSequences,
    preferences: Preferences,
    plan: AligningPlan,
    train: Train,
    rng: np.random.Generator,
) -> tuple[tuple[float, float], list[dict[str, float]]]:
    """Return the candidate with the least validation loss, and all with theirs."""
    candidates = list(itertools.product(plan.epsilons, plan.temperatures))
    if len(candidates) == 1:
        return candidates[0], []
    if plan.steps:
        part, kept = preferences.split(plan.validation, rng)
    else:  # nothing is learned, so every preference may choose
        part = kept = preferences
    if not len(part) or not (kept.label != 0.5).any():
        raise DataError(
            f"{len(preferences)} preferences are too few to keep {plan.validation:.0%} of them for "
            "choosing epsilon "
            "and temperature. Give more, or a single epsilon and temperature."
        )
    losses = []
    for number, candidate in enumerate(candidates):
        reward = build(*candidate)
        if plan.steps:
            steps = min(plan.steps, plan.choosing_steps)
            train(reward, _pairs(sequences, part, plan), steps, plan.batch_size, f"candidate-{number}")
        with torch.no_grad():
            pairs = SequencePairs(sequences, kept, device=reward.demonstrations.device)
            losses.append(float(reward.loss(pairs.all())[1]["cross_entropy"]))
    listed = [
        {"epsilon": e, "temperature": t, "validation_loss": loss}
        for (e, t), loss in zip(candidates, losses, strict=True)
    ]
    return candidates[int(np.argmin(losses))], listed


def _pairs(sequences: FeatureSequences, preferences: Preferences, plan: AligningPlan) -> SequencePairs:
    if plan.anchored_to == "triplets":
        ranked, anchors = triplets(preferences)
        return SequencePairs(sequences, ranked, anchors=anchors)
    return SequencePairs(sequences, preferences)
