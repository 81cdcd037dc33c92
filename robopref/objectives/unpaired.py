"""Losses of single behaviours: each was good or bad, and nobody compared two.

The label y is the probability that a behaviour is good ("up"): successes 1, failures 0, or soft. Losses of
the first part take scores (beta times log-ratio, or a return); those of the second part take plain
log-likelihoods and, as imitation does, need no reference.

Letters used in shapes: B behaviours, A annotators or buckets.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from robopref.errors import ConfigError, DataError
from robopref.objectives.checks import (
    check_in_range,
    check_labels,
    check_log_probabilities,
    check_not_negative,
    check_positive,
    check_same_shape,
    working,
)
from robopref.objectives.stable import cross_entropy, log1mexp

Scores = Float[Tensor, " B"]


def _prepare(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    check_same_shape(scores=scores, labels=labels)
    check_labels(labels)
    scores = working(scores)
    return scores, labels.to(scores.dtype)


def mismatched_baseline(scores: Scores) -> Float[Tensor, ""]:
    """z0 = max(0, mean score of MISMATCHED pairs), without gradient: KTO's own estimate of the KL.

    Args:
        scores: Scores of behaviours under contexts that are not theirs, for example each trajectory under
            the instruction of the next one in the batch. With one task there is no such context: use
            :func:`running_baseline`.

    Raises:
        DataError: Fewer than two scores.
    """
    if scores.numel() < 2:
        raise DataError(f"The KTO baseline needs a batch of at least 2 behaviours, got {scores.numel()}.")
    return working(scores.detach()).mean().clamp(min=0.0)


def running_baseline(
    scores: Scores, previous: Float[Tensor, ""] | None = None, *, momentum: float = 0.9
) -> Float[Tensor, ""]:
    """Running mean of scores, without gradient: BCO's shift, and KTO's baseline where there is one task.

    Args:
        scores: Scores of this batch, good and bad behaviours alike.
        previous: The result of the last call; ``None`` at the first.
        momentum: Share of the previous value that is kept, in [0, 1).
    """
    if not 0 <= momentum < 1:
        raise ConfigError(f"momentum must lie in [0, 1), got {momentum}.")
    mean = working(scores.detach()).mean()
    return mean if previous is None else torch.lerp(mean, previous, momentum)


def kto(
    scores: Scores,
    labels: Scores,
    *,
    baseline: Float[Tensor, ""] | None = None,
    up_weight: float = 1.0,
    down_weight: float = 1.0,
) -> Scores:
    """Up: 1 - s(r - z0), down: 1 - s(z0 - r): Kahneman-Tversky optimisation (Ethayarajh et al. 2024).

    Args:
        scores: r, beta times log-ratios.
        labels: 1 for a good behaviour, 0 for a bad one, or between.
        baseline: z0, from :func:`mismatched_baseline` or :func:`running_baseline`, where a negative one
            counts as 0: it estimates a KL. ``None`` takes the mean
            score of this batch if above 0, the estimate for a single task (ours, not the paper's).
        up_weight: lambda_D; with n_up good and n_down bad behaviours, weight * n should be about equal.
        down_weight: lambda_U.

    Raises:
        DataError: A batch of one without a baseline: its only score would be its own baseline.
    """
    check_not_negative(up_weight=up_weight, down_weight=down_weight)
    scores, y = _prepare(scores, labels)
    if baseline is None:
        baseline = mismatched_baseline(scores)
    chance = torch.sigmoid(scores - baseline.detach().clamp(min=0.0))
    # y up (1 - p) + (1 - y) down p
    bad = chance if down_weight == 1.0 else down_weight * chance
    return torch.addcmul(bad.add(y, alpha=up_weight), y, chance, value=-(up_weight + down_weight))


def apo_zero_unpaired(scores: Scores, labels: Scores) -> Scores:
    """Up: 1 - s(r), down: s(r): anchored optimisation without pairs, which is KTO with a baseline of 0."""
    return kto(scores, labels, baseline=torch.zeros((), device=scores.device))


def bco(
    scores: Scores,
    labels: Scores,
    *,
    shift: Float[Tensor, ""] | None = None,
    down_weights: Scores | None = None,
) -> Scores:
    """Up: -ls(r - d), down: -ls(-(r - d)): binary classifier optimisation (Jung et al. 2024).

    Args:
        scores: r, beta times log-ratios.
        labels: 1 for a good behaviour, 0 for a bad one, or between.
        shift: d, from :func:`running_baseline`; ``None`` takes the mean of this batch.
        down_weights: Weight of the "down" part of each behaviour, from :func:`domain_weights`.
    """
    scores, y = _prepare(scores, labels)
    check_same_shape(scores=scores, down_weights=down_weights)
    distance = scores - (scores.detach().mean() if shift is None else shift.detach())
    if down_weights is None:
        return cross_entropy(distance, y)
    return y * -F.logsigmoid(distance) + (1.0 - y) * working(down_weights) * -F.logsigmoid(-distance)


def domain_weights(chance_up: Scores, *, low: float = 0.5, high: float = 10.0) -> Scores:
    """p(+|x) / p(-|x), clamped: weighs bad behaviours as if they came from the contexts of good ones (BCO).

    Args:
        chance_up: p(+|x), a classifier's chance that behaviour from this initial observation is labelled
            good.
        low: Smallest weight.
        high: Largest weight.
    """
    check_positive(low=low, high=high)
    check_in_range("chance_up", chance_up, 0.0, 1.0, "a probability")
    chance = working(chance_up.detach())
    return (chance / (1.0 - chance).clamp(min=torch.finfo(chance.dtype).tiny)).clamp(low, high)


def nft(scores: Scores, labels: Scores) -> Scores:
    """-ls(s) for good, -ls(-s) for bad behaviours: negative-aware fine-tuning in RLinf's ``dpo`` form.

    There it is softplus(beta/2 y (e - e_ref)) with y = +1 or -1, which is this with the score
    beta * :func:`robopref.objectives.scores.surrogate_log_ratio`; the velocity form is
    :func:`robopref.objectives.diffusion.nft_flow`.
    """
    scores, y = _prepare(scores, labels)
    return cross_entropy(scores, y)


def conditional_bc(log_likelihoods: Scores) -> Scores:
    """-log pi(a | o, token): imitation of everything, told how good it was (Korbak et al. 2023; RECAP).

    Which token, say :func:`advantage_tokens` or :func:`buckets`; at run time the policy is given the best.
    """
    return -working(log_likelihoods)


def advantage_tokens(advantages: Scores, *, threshold: float = 0.0) -> Bool[Tensor, " B"]:
    """True ("Advantage: positive") where the advantage is above the threshold, as RECAP's text token."""
    if not math.isfinite(threshold):
        raise ConfigError(f"threshold must be finite, got {threshold}.")
    return advantages > threshold


def buckets(returns: Scores, count: int) -> Int[Tensor, " B"]:
    """Bucket of each return by quantile, 0 the worst and ``count`` - 1 the best; equal returns share one."""
    if count < 2:
        raise ConfigError(f"count must be at least 2 buckets, got {count}.")
    inner = torch.linspace(0, 1, count + 1, device=returns.device, dtype=working(returns).dtype)[1:-1]
    return torch.searchsorted(torch.quantile(working(returns), inner), working(returns).contiguous())


def _exponential_weights(values: Tensor, temperature: float, max_weight: float) -> Tensor:
    check_positive(temperature=temperature, max_weight=max_weight)
    return torch.exp((working(values.detach()) / temperature).clamp(max=math.log(max_weight)))


def rwr(
    log_likelihoods: Scores, rewards: Scores, *, temperature: float = 1.0, max_weight: float = 1e3
) -> Scores:
    """-w log pi with w = exp((r - max r) / temperature), mean 1: reward-weighted regression (Peters 2007).

    Weights are normalised over the batch, so the level of the rewards does not matter.
    """
    check_same_shape(log_likelihoods=log_likelihoods, rewards=rewards)
    weights = _exponential_weights(rewards - rewards.max(), temperature, max_weight)
    return -(weights / weights.mean()) * working(log_likelihoods)


def awr(
    log_likelihoods: Scores, advantages: Scores, *, temperature: float = 1.0, max_weight: float = 100.0
) -> Scores:
    """-min(exp(A / temperature), max_weight) log pi: advantage-weighted regression (Peng et al. 2019)."""
    check_same_shape(log_likelihoods=log_likelihoods, advantages=advantages)
    return -_exponential_weights(advantages, temperature, max_weight) * working(log_likelihoods)


def unlikelihood(log_probs: Scores, labels: Scores, *, weight: float = 1.0) -> Scores:
    """Up: -log p, down: -weight log(1 - p): unlikelihood training (Welleck et al. 2019), token policies only.

    Args:
        log_probs: Log-probabilities (mean over tokens), at most 0.
        labels: 1 for a good behaviour, 0 for a bad one, or between.
        weight: Of the part that makes bad behaviours unlikely.

    Raises:
        DataError: A log-probability is above 0: densities of continuous actions have no 1 - p.
    """
    check_not_negative(weight=weight)
    log_probs, y = _prepare(log_probs, labels)
    check_log_probabilities(
        "log_probs", log_probs, "unlikelihood needs probabilities of tokens, not densities"
    )
    return -torch.lerp(weight * log1mexp(log_probs), log_probs, y)
