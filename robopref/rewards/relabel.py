"""Rewards predicted for every step of a store, for a policy to learn from."""

import copy

import numpy as np
import torch

from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError
from robopref.rewards.ensemble import EnsembleReward


def relabel(
    store: TrajectoryStore,
    reward: EnsembleReward,
    *,
    batch_size: int = 16384,
    device: str | torch.device | None = None,
) -> np.ndarray:
    """Predict the reward of every row, reading ``batch_size`` rows of the memory-mapped store at a time.

    Args:
        store: Its observations and actions are judged.
        reward: Its mean over members is taken.
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
    rows = store.transition_rows()
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        mean, _ = reward.predict(
            torch.from_numpy(np.asarray(observations[part], dtype=np.float32)).to(device),
            torch.from_numpy(np.asarray(actions[part], dtype=np.float32)).to(device),
            batch_size=batch_size,
        )
        predicted[part] = mean.cpu().numpy()
    return predicted
