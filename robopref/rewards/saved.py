"""Reward models on disk."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from robopref.nets.checkpoint import load_module, save_module
from robopref.rewards.bradley_terry import BradleyTerryReward
from robopref.rewards.candidates import CandidateReward
from robopref.rewards.ensemble import EnsembleReward
from robopref.rewards.gaussian import GaussianReward
from robopref.rewards.transformer import PreferenceTransformer
from robopref.rewards.transport import TransportReward
from robopref.rewards.visual import EnsembleFrameReward, FrameReward

KINDS: dict[str, type[EnsembleReward]] = {
    BradleyTerryReward.kind: BradleyTerryReward,
    CandidateReward.kind: CandidateReward,
    GaussianReward.kind: GaussianReward,
    PreferenceTransformer.kind: PreferenceTransformer,
}
FRAME_KINDS: dict[str, type[FrameReward]] = {
    EnsembleFrameReward.kind: EnsembleFrameReward,
    TransportReward.kind: TransportReward,
}


def save_reward(
    directory: str | Path, reward: EnsembleReward | FrameReward, *, extra: Mapping[str, Any] | None = None
) -> None:
    """Write ``config.json`` and ``model.safetensors``, normaliser included.

    ``extra`` is kept beside the config (JSON values).
    """
    save_module(directory, reward, kind=reward.kind, config=reward.config, extra=extra)


def load_reward(directory: str | Path, *, device: str | torch.device = "cpu") -> EnsembleReward:
    """Read what :func:`save_reward` wrote.

    Raises:
        DataError: for a missing, truncated or foreign file, or another kind of module.
    """
    reward = load_module(directory, KINDS, device=device)
    assert isinstance(reward, EnsembleReward)
    return reward


def load_frame_reward(directory: str | Path, *, device: str | torch.device = "cpu") -> FrameReward:
    """Read a reward of frames that :func:`save_reward` wrote; errors as :func:`load_reward`."""
    reward = load_module(directory, FRAME_KINDS, device=device)
    assert isinstance(reward, FrameReward)
    return reward
