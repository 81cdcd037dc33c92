"""Rewards predicted for every step of a store, for a policy to learn from; alone, or mixed with rules."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from robopref.data.criteria import Criterion, scored_rows
from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError
from robopref.objectives.checks import check_not_negative
from robopref.rewards.ensemble import EnsembleReward
from robopref.rewards.transformer import PreferenceTransformer


def relabel(
    store: TrajectoryStore,
    reward: EnsembleReward,
    *,
    caution: float = 0.0,
    batch_size: int = 16384,
    device: str | torch.device | None = None,
) -> np.ndarray:
    """Predict the reward of every row, reading ``batch_size`` rows of the memory-mapped store at a time.

    Args:
        store: Its observations and actions are judged.
        reward: Its mean over members is taken.
        caution: Deviations (of members and within them) that are taken off: what the reward does not know
            does not pay. PrefPaint (Liu et al. 2024) weighs reinforcement learning by a bound on the
            reward's error, which could not be read; this is our form of it.
        batch_size: Steps at a time.
        device: Where to compute; where the reward lies when not given.

    Returns:
        (rows,) float32, aligned with the store's arrays; 0 in the last row of each episode, which holds no
        action.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    home = next(reward.parameters()).device
    device = home if device is None else torch.device(device)
    if device != home:
        reward = copy.deepcopy(reward).to(device)
    observations, actions = store.array("observations"), store.array("actions")
    predicted = np.zeros(len(observations), dtype=np.float32)
    for part in _parts(store, reward, batch_size):
        mean, deviation = reward.predict(
            torch.from_numpy(np.asarray(observations[part], dtype=np.float32)).to(device),
            torch.from_numpy(np.asarray(actions[part], dtype=np.float32)).to(device),
            batch_size=batch_size,
        )
        predicted[part] = (mean - caution * deviation).cpu().numpy()
    return predicted


def _parts(store: TrajectoryStore, reward: EnsembleReward, batch_size: int) -> Iterator[np.ndarray]:
    """Rows that are judged together: any, or whole episodes where a step is judged by those before it."""
    if isinstance(reward, PreferenceTransformer):
        for first, length in zip(store.first_rows, store.lengths, strict=True):
            yield np.arange(first, first + length)
        return
    rows = store.transition_rows()
    for start in range(0, len(rows), batch_size):
        yield rows[start : start + batch_size]


@dataclass(frozen=True)
class Blend:
    """How the reward of a model becomes what a policy learns from: c rule + (1 - c) (mean - k sigma) - cost.

    Hybrid rewards of rules and a model, with a penalty of length (*Hybrid and multi-aspect rewards*); the
    weights are fixed here, and the length is the number of steps.

    Attributes:
        caution: k, deviations of the ensemble that are taken off.
        rule: A criterion as scripted teachers take it (``{kind: keep_away, point: hand, ...}``), or None.
        rule_share: c, in [0, 1].
        step_cost: Taken off at every step.

    Raises:
        ConfigError: A number makes no sense, or the rule cannot be read.
    """

    caution: float = 0.0
    rule: dict[str, Any] | None = None
    rule_share: float = 0.5
    step_cost: float = 0.0

    def __post_init__(self):
        check_not_negative(caution=self.caution, step_cost=self.step_cost)
        if not 0 <= self.rule_share <= 1:
            raise ConfigError(f"rule_share must lie in [0, 1], got {self.rule_share}")
        if self.rule is not None:
            Criterion.parse(self.rule)

    def of(self, store: TrajectoryStore, reward: EnsembleReward, **options: Any) -> np.ndarray:
        """Rewards of all rows of a store; options as of :func:`relabel`."""
        rewards = relabel(store, reward, caution=self.caution, **options)
        if self.rule is not None:
            rules = scored_rows(store, Criterion.parse(self.rule))
            rewards = self.rule_share * rules + (1 - self.rule_share) * rewards
        rows = store.transition_rows()
        blended = np.zeros(len(rewards), np.float32)
        blended[rows] = rewards[rows] - self.step_cost
        return blended


AS_PREDICTED = Blend()
