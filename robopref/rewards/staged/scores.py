"""From costs to scores: GRAPE's reward of a rollout, as float columns that are standardised within a task.

GRAPE (arXiv 2411.19309, eq. 9) adds lambda_1 log pi(rollout) + lambda_2 exp(-cost) + lambda_3 success. Here
the log-likelihood is a mean per step (a sum would only measure length), the cost stays a logarithm (the
exponential of large costs is zero for all), and every term but success is standardised within its task, so
that the weights mean the same everywhere. All terms are kept, and nothing is rounded.

Letters used in shapes: N rollouts of one task.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float, Float64

from robopref.errors import ConfigError, DataError, unknown_name
from robopref.rewards.staged.costs import EpisodeCosts
from robopref.rewards.staged.language import KINDS

EMPHASES: dict[str, tuple[str, ...]] = {
    "completion": (*KINDS, "missed"),
    "safety": ("collision", "force"),
    "efficiency": ("time",),
}
"""Kinds of cost that count under GRAPE's three objectives. The others are left out and not only made lighter:
what a failure misses, and how far it stays from its goal, would decide nearly every pair."""


@dataclass(frozen=True)
class ScoreWeights:
    """Weights of the terms of a score.

    Attributes:
        likelihood: Of the policy's own mean log-probability per step; in standard deviations of the task.
        costs: Of minus the staged costs; likewise.
        success: Of success, which is 1 or 0.
    """

    likelihood: float = 0.1
    costs: float = 1.0
    success: float = 2.0

    def __post_init__(self):
        for field in fields(self):
            if not 0 <= getattr(self, field.name) < np.inf:
                raise ConfigError(f"{field.name} must be 0 or more, got {getattr(self, field.name)}")
        if not any(vars(self).values()):
            raise ConfigError("All weights of a score are 0, so that no rollout is better than another")


def emphasised(costs: EpisodeCosts, emphasis: str) -> float:
    """Return the sum of an episode's costs of the kinds that an emphasis counts.

    Raises:
        ConfigError: The emphasis is unknown.
    """
    if emphasis not in EMPHASES:
        raise ConfigError(unknown_name("objective", emphasis, EMPHASES))
    return float(sum(value for kind, value in costs.kinds.items() if kind in EMPHASES[emphasis]))


def score_columns(
    costs: Sequence[EpisodeCosts],
    successes: Bool[np.ndarray, " N"],
    log_likelihoods: Float[np.ndarray, " N"] | None,
    *,
    emphasis: str = "completion",
    weights: ScoreWeights | None = None,
) -> dict[str, Float64[np.ndarray, " N"]]:
    """Return every term of the scores of the rollouts of one task, and ``score``, their weighted sum.

    Args:
        costs: Of each rollout.
        successes: Whether it solved the task.
        log_likelihoods: Mean log-probability per step under the policy that made it, in nats; None without.
        emphasis: A key of :data:`EMPHASES`.
        weights: Of the three terms.

    Raises:
        ConfigError: The emphasis is unknown.
        DataError: Columns differ in length, or a log-likelihood is not finite.
    """
    external = -np.array([emphasised(one, emphasis) for one in costs], np.float64)
    by_kind: Mapping[str, np.ndarray] = {
        f"cost/{kind}": np.array([one.kinds[kind] for one in costs], np.float64)
        for kind in (*KINDS, "missed")
    }
    return {**combined(external, successes, log_likelihoods, weights or ScoreWeights()), **by_kind}


def combined(
    external: Float[np.ndarray, " N"],
    successes: Bool[np.ndarray, " N"],
    log_likelihoods: Float[np.ndarray, " N"] | None,
    weights: ScoreWeights,
) -> dict[str, Float64[np.ndarray, " N"]]:
    """Return the three terms of a score of the rollouts of one task, and ``score``, their weighted sum.

    Args:
        external: Minus the staged costs, or a learned reward.
        successes: Whether each solved the task.
        log_likelihoods: Mean log-probability per step under the policy that made it; None without.
        weights: Of the three terms.

    Raises:
        DataError: Columns differ in length, or a number is not finite.
    """
    n = len(external)
    likelihood = np.zeros(n) if log_likelihoods is None else np.asarray(log_likelihoods, np.float64)
    if len(successes) != n or likelihood.shape != (n,):
        raise DataError(
            f"{n} rollouts need as many successes and log-likelihoods, got {len(successes)} and "
            f"{likelihood.shape}."
        )
    if not (np.isfinite(likelihood).all() and np.isfinite(external).all()):
        raise DataError("Log-likelihoods and costs or rewards of rollouts must be finite.")
    external = np.asarray(external, np.float64)
    terms = {"likelihood": likelihood, "external": external, "success": np.asarray(successes, np.float64)}
    score = (
        weights.likelihood * standardised(likelihood)
        + weights.costs * standardised(external)
        + weights.success * terms["success"]
    )
    return {**terms, "score": score}


def standardised(values: Float64[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
    """Subtract the mean and divide by the deviation; zero everywhere where all are the same."""
    spread = values.std() if len(values) else 0.0
    if spread <= 1e-12 * max(1.0, float(np.abs(values).max(initial=0.0))):
        return np.zeros_like(values)
    return (values - values.mean()) / spread
