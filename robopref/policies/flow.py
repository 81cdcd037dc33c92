"""Flow matching: a velocity field that carries noise to chunks of actions along straight lines.

Lipman et al. 2023 (arXiv 2210.02747) with the optimal-transport path: x_t = (1 - t) noise + t action, and the
velocity is action - noise. Time 0 is noise and time 1 the action.

Letters used in shapes: B chunks, H actions in a chunk, A entries of an action, N draws, C features.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from robopref.objectives.scores import flow_path
from robopref.policies.chunks import Draw
from robopref.policies.denoising import Denoiser, DenoisingPolicy


class FlowActor(Denoiser):
    """A :class:`~robopref.policies.denoising.Denoiser` that predicts velocities."""

    def times(self, levels: Float[Tensor, "N B"]) -> Float[Tensor, "N B"]:
        """1 - level."""
        return 1 - levels

    def path(
        self, actions: Float[Tensor, "N B H A"], draw: Draw
    ) -> tuple[Float[Tensor, "N B H A"], Float[Tensor, "N B"], Float[Tensor, "N B H A"]]:
        """Points of the straight path and its velocity."""
        noisy, velocity = flow_path(actions[0], draw)
        return noisy, draw.times, velocity

    @torch.no_grad()
    def invert(
        self,
        observations: Float[Tensor, "B O"],
        actions: Float[Tensor, "B H A"],
        times: Float[Tensor, "N B"],
    ) -> Float[Tensor, "N B H A"]:
        """The action less the mean velocity on the way back from it, which ends at ``times``."""
        condition = self._condition(observations)
        x = actions.to(condition).expand(len(times), -1, -1, -1)
        step, mean = (1 - times) / self.sample_steps, torch.zeros_like(x)
        for k in range(self.sample_steps):
            velocity = self._at(x, 1 - k * step, condition)
            x = x - step[..., None, None] * velocity
            mean = mean + velocity / self.sample_steps
        return actions - mean

    def generate(
        self,
        condition: Float[Tensor, "B C"],
        noise: Float[Tensor, "B H A"],
        generator: torch.Generator | None,
    ) -> Float[Tensor, "B H A"]:
        """Follow the field from noise to the action with Euler's steps; nothing more is drawn."""
        x, step = noise, 1 / self.sample_steps
        for k in range(self.sample_steps):
            x = x + step * self.network(x, x.new_full((len(x),), k * step), condition)
        return x


class FlowPolicy(DenoisingPolicy):
    """A flow-matching policy over chunks of actions, learned by imitation.

    Args:
        observation_size: Entries of an observation.
        action_size: Entries of an action.
        horizon: Actions in a chunk.
        execute: How many of them are carried out before the next decision; None for all.
        encoder: ``{"kind": "state"}``, or ``{"kind": "points", "count": 128, "channels": 3}``.
        backbone: ``{"kind": "mlp"}``, ``transformer`` or ``unet1d``, with options.
        sample_steps: Euler steps from noise to a chunk.
        draws: Times and noises that a score averages over.
        learning_rate: Step size of Adam.
        average: Share of the running average that stays at each step, at most; 0 for none.
        top_fraction: Share of the episodes to learn from, the best by the sum of their rewards.
        seed: Of the starting weights.

    Raises:
        ConfigError: for a value that makes no sense.
    """

    kind = "flow"

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        *,
        horizon: int = 8,
        execute: int | None = None,
        encoder: Mapping[str, Any] = {"kind": "state"},
        backbone: Mapping[str, Any] = {"kind": "mlp"},
        sample_steps: int = 10,
        draws: int = 8,
        learning_rate: float = 1e-3,
        average: float = 0.995,
        top_fraction: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._build(FlowActor, locals())
