"""Rewards of camera frames: what they share, and an ensemble over the features of single frames.

An encoder is frozen; what is learned reads its features. RAPL's reward is :mod:`robopref.rewards.transport`.

Letters used in shapes: B videos, F frames of the longest, d features.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from robopref.alignment.sequences import present
from robopref.errors import ConfigError, DataError, unknown_name
from robopref.nets.vision import FrameEncoder, make_encoder
from robopref.rewards.bradley_terry import BradleyTerryReward
from robopref.rewards.ensemble import EnsembleReward
from robopref.rewards.gaussian import GaussianReward
from robopref.rewards.sequences import FeatureSequences

ENSEMBLES: Mapping[str, type[EnsembleReward]] = {c.kind: c for c in (BradleyTerryReward, GaussianReward)}


class FrameReward(nn.Module, ABC):
    """A reward of videos and of their single frames, over the features of an encoder.

    Args:
        encoder: Settings for :func:`robopref.nets.vision.make_encoder`, or an encoder.
    """

    kind: str
    config: dict[str, Any]

    def __init__(self, encoder: Mapping[str, Any] | FrameEncoder) -> None:
        super().__init__()
        self.encoder = encoder if isinstance(encoder, FrameEncoder) else make_encoder(encoder)

    @property
    def encoder_settings(self) -> dict[str, Any]:
        """What :func:`robopref.nets.vision.make_encoder` takes."""
        return {"kind": self.encoder.kind, **self.encoder.config}

    @abstractmethod
    def score(self, features: Float[Tensor, "B F d"], lengths: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """How good each video is."""

    @abstractmethod
    def steps(self, features: Float[Tensor, "B F d"], lengths: Int[Tensor, " B"]) -> Float[Tensor, "B F"]:
        """Reward of each frame; behind the end of a video it means nothing."""

    @torch.no_grad()
    def score_all(self, sequences: FeatureSequences) -> Float[np.ndarray, " N"]:
        """Return :meth:`score` of all episodes, 64 at a time."""
        device = next(self.buffers()).device
        parts = []
        for chunk in sequences.chunks():
            features, lengths = sequences.gather(chunk)
            parts.append(self.score(features.to(device), lengths.to(device)).cpu().numpy())
        return np.concatenate(parts)

    @torch.no_grad()
    def steps_all(self, sequences: FeatureSequences) -> list[Float[np.ndarray, " F"]]:
        """Return :meth:`steps` of every episode, without the padding."""
        device = next(self.buffers()).device
        found: list[np.ndarray] = []
        for chunk in sequences.chunks():
            features, lengths = sequences.gather(chunk)
            values = self.steps(features.to(device), lengths.to(device)).cpu().numpy()
            found += [row[:length] for row, length in zip(values, lengths.tolist(), strict=True)]
        return found

    @torch.no_grad()
    def judge(self, frames: UInt8[np.ndarray, "F H W 3"]) -> Float[np.ndarray, " F"]:
        """Return the reward of each frame of one video, from its pixels.

        Raises:
            DataError: It has a single frame, is black, or holds no pictures.
        """
        if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
            raise DataError(
                f"A video is frames (F, H, W, 3) of bytes, got {frames.dtype} of shape {frames.shape}"
            )
        if len(frames) < 2 or not frames.any():
            brightest = frames.max(initial=0)
            raise DataError(f"A video of {len(frames)} frames, brightest pixel {brightest}, has no reward")
        device = next(self.buffers()).device
        features = self.encoder(torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2).to(device))
        return self.steps(features[None], torch.tensor([len(frames)], device=device))[0].cpu().numpy()


class EnsembleFrameReward(FrameReward):
    """An ensemble over the features of single frames: Bradley-Terry on pixels, or the Gaussian image reward.

    Args:
        encoder: Settings, or a fitted encoder.
        model: "bradley_terry" or "gaussian".
        options: What else that model takes.
        seed: Of the starting weights.
    """

    kind = "frame_ensemble"

    def __init__(
        self,
        encoder: Mapping[str, Any] | FrameEncoder,
        *,
        model: str = "bradley_terry",
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(encoder)
        if model not in ENSEMBLES:
            raise ConfigError(unknown_name("model", model, ENSEMBLES))
        try:
            self.ensemble = ENSEMBLES[model](self.encoder.width, 0, seed=seed, **(options or {}))
        except TypeError as error:
            raise ConfigError(f"The model {model!r} does not take these options: {error}") from error
        self.config = {
            "encoder": self.encoder_settings,
            "model": model,
            "options": dict(options or {}),
            "seed": seed,
        }

    def score(self, features: Float[Tensor, "B F d"], lengths: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """The segment's return, averaged over members."""
        there = present(lengths, features.shape[1])
        return self.ensemble.segment_return(self.steps(features, lengths), there)

    def steps(self, features: Float[Tensor, "B F d"], lengths: Int[Tensor, " B"]) -> Float[Tensor, "B F"]:
        """The ensemble's mean reward."""
        return self.ensemble.predict(features, features[..., :0])[0]
