"""Policies that see and answer with numbers: a Gaussian, flow or diffusion head on the language model.

The language model reads frame and instruction; its state at the last word is the condition of a head over
chunks of actions. A Gaussian's scores are exact log-densities; those of flow and diffusion are surrogates
under draws of time and noise, which whoever compares scores must share
(:mod:`robopref.policies.chunks`).

Letters used in shapes: B observations, n decisions, O entries of an observation, S height and width of a
frame, L words, H actions in a chunk, A entries of an action, N = H A numbers, W features.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from robopref.errors import ConfigError, unknown_name
from robopref.nets.seeded import weights_from
from robopref.policies.chunks import Draw
from robopref.policies.diffusion import DiffusionActor
from robopref.policies.flow import FlowActor
from robopref.policies.gaussian import GaussianPolicy
from robopref.policies.offline import constructor_arguments
from robopref.policies.vla.small import SmallModel

HEADS = ("gaussian", "flow", "diffusion")


class ContinuousVLA(SmallModel):
    """A small policy that sees and draws chunks of numbers.

    Args:
        action_size: Entries of an action.
        head: ``gaussian``, ``flow`` or ``diffusion``.
        horizon: Actions in a chunk.
        image_size: Height and width of a frame in pixels.
        words: Vocabulary; None takes the words of all instructions to train with.
        length: Most words of an instruction.
        channels: Of the convolutions.
        patch: Of the vision transformer, in pixels.
        vision_width: Features of the vision transformer.
        width: Of the language model.
        layers: Of the language model.
        heads: Of both transformers.
        hidden: Widths of the head's layers.
        sample_steps: Steps from noise to a chunk; of flow and diffusion.
        draws: Times and noises that a score averages over; of flow and diffusion.
        deviation: Of the Gaussian; None learns it.
        shift: Frames move by up to so many pixels while it imitates.
        adapter: ``{"rank": 8, ...}`` learns LoRA adapters and the head, and leaves the rest alone.
        learning_rate: Step size of Adam.
        seed: Of the starting weights.

    Raises:
        ConfigError: for sizes that do not fit each other, or an unknown head.
    """

    kind = "continuous-vla"

    def __init__(
        self,
        action_size: int,
        *,
        head: str = "flow",
        horizon: int = 5,
        image_size: int = 84,
        words: Sequence[str] | None = None,
        length: int = 12,
        channels: Sequence[int] = (16, 32, 64, 64),
        patch: int = 14,
        vision_width: int = 64,
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
        hidden: Sequence[int] = (256, 256),
        sample_steps: int = 10,
        draws: int = 4,
        deviation: float | None = 0.2,
        shift: int = 3,
        adapter: Mapping[str, Any] | None = None,
        learning_rate: float = 1e-3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.config = constructor_arguments(locals())
        if head not in HEADS:
            raise ConfigError(unknown_name("head", head, HEADS))
        self.build_small()
        self.model.language_model.lm_head.requires_grad_(False)  # no token is ever written
        self.head = self._head(head, width, tuple(hidden), sample_steps, draws, deviation, seed)
        self.exact = self.head.exact
        self.begin_with(adapter, seed)

    def _head(
        self,
        head: str,
        width: int,
        hidden: tuple[int, ...],
        sample_steps: int,
        draws: int,
        deviation: float | None,
        seed: int,
    ) -> GaussianPolicy | FlowActor | DiffusionActor:
        if head == "gaussian":
            with weights_from(seed):
                return GaussianPolicy(width, self.entries, hidden=hidden, deviation=deviation, clip=100.0)
        common: dict[str, Any] = {
            "horizon": self.horizon,
            "execute": None,
            "encoder": {"kind": "state", "clip": 100.0},
            "backbone": {"kind": "mlp", "hidden": list(hidden)},
            "sample_steps": sample_steps,
            "draws": draws,
            "seed": seed,
        }
        if head == "flow":
            return FlowActor(width, self.action_size, **common)
        return DiffusionActor(width, self.action_size, noise_steps=100, eta=0.0, **common)

    # -- acting --------------------------------------------------------------------------------------------

    @property
    def entries(self) -> int:
        """Numbers of a chunk, N."""
        return self.horizon * self.action_size

    def targets(self, actions: Float[Tensor, "*B H A"]) -> Float[Tensor, "*B N"]:
        """The numbers themselves."""
        return actions.flatten(-2).float()

    def actions(self, targets: Float[Tensor, "*B N"]) -> Float[Tensor, "*B H A"]:
        """The numbers as chunks."""
        return targets.unflatten(-1, (self.horizon, self.action_size)).clamp(-1, 1)

    @torch.no_grad()
    def decide(
        self,
        frames: UInt8[Tensor, "n S S 3"],
        words: Int[Tensor, "n L"],
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = True,
    ) -> Float[Tensor, "n H A"]:
        """The Gaussian's mean or a draw; a sample of flow and diffusion, of one noise if deterministic."""
        seen = self.features(frames, words)
        given = None if deterministic else generator
        chunks = self.head.act(seen, generator=given, deterministic=deterministic)
        return self.actions(chunks.flatten(1))

    def features(self, frames: UInt8[Tensor, "n S S 3"], words: Int[Tensor, "n L"]) -> Float[Tensor, "n W"]:
        """What the head is told."""
        return self.model.features(self.pixels(frames), words, self.padding)

    # -- scores --------------------------------------------------------------------------------------------

    def draw(self, batch_size: int, *, generator: torch.Generator) -> Draw | None:
        """Times and noise of so many scores; None of a Gaussian."""
        return self.head.draw(batch_size, generator=generator)

    def entry_scores(
        self,
        frames: UInt8[Tensor, "n S S 3"],
        words: Int[Tensor, "n L"],
        targets: Float[Tensor, "n N"],
        draw: Draw | None = None,
        mask: Bool[Tensor, "n H"] | None = None,
    ) -> Float[Tensor, "n E"]:
        """Log-densities in nats, or -1/2 times the mean squared error of the predictions under the draw."""
        seen = self.features(frames, words)
        if isinstance(self.head, GaussianPolicy):
            mean = self.head.mean_of(self.head.states(seen))
            each = self.head.log_densities(mean, targets.to(mean.dtype))
            return torch.where(self.counting(targets, mask), each, 0.0)
        return self.head.score(seen, self._chunks(targets), draw, mask).unsqueeze(-1)

    def loss(
        self, batch: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Negative log-density per number, or the error of one prediction for every chunk."""
        frames = self.seen_in_training(batch["frames"], generator)
        seen, targets, mask = self.features(frames, batch["words"]), batch["targets"], batch.get("mask")
        if isinstance(self.head, GaussianPolicy):
            counting, mean = self.counting(targets, mask), self.head.mean_of(self.head.states(seen))
            loss = -self.head.log_densities(mean, targets.to(mean.dtype))[counting].mean()
            return loss, {"squared_error": (mean - targets)[counting].square().mean().detach()}
        source = generator or torch.Generator(seen.device).manual_seed(0)
        draw = self.head.draw(len(seen), generator=source, draws=1)
        loss = self.head.errors(seen, self._chunks(targets), draw, mask).mean()
        return loss, {"denoising_error": loss.detach()}

    def _chunks(self, targets: Tensor) -> Tensor:
        """Targets in the shape of a head that denoises; a Gaussian sees a chunk as one long action."""
        return targets.unflatten(-1, (self.horizon, self.action_size))
