"""Denoising diffusion over chunks of actions: trained as DDPM, sampled with DDIM.

Ho et al. 2020 (arXiv 2006.11239); Song et al. 2021 (arXiv 2010.02502); as a policy, Chi et al. 2023 (arXiv
2303.04137). The network predicts the noise. Schedules come from diffusers. With alpha_t the product of (1 -
beta) up to step t, x_t = sqrt(alpha_t) action + sqrt(1 - alpha_t) noise; a time in (0, 1) stands for the step
floor(time * noise_steps), and 0 is the step next to the action.

Letters used in shapes: B chunks, H actions in a chunk, A entries of an action, N draws, C features.
"""

import functools
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from robopref.errors import ConfigError
from robopref.objectives.diffusion import invert
from robopref.policies.chunks import Draw
from robopref.policies.denoising import MISSING, Denoiser, DenoisingPolicy

SCHEDULE = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "epsilon", "clip_sample": True}


class DiffusionActor(Denoiser):
    """A :class:`~robopref.policies.denoising.Denoiser` that predicts noise.

    Args:
        noise_steps: Steps from the action to noise, in training.
        eta: Noise that DDIM adds at each step: 0 for none, 1 for as much as DDPM.
        others: Of the base class.
    """

    def __init__(self, *sizes: int, noise_steps: int, eta: float, **others: Any) -> None:
        if noise_steps < 2:
            raise ConfigError(f"noise_steps must be at least 2, got {noise_steps}")
        if not 0 <= eta <= 1:
            raise ConfigError(f"eta must lie in [0, 1], got {eta}")
        super().__init__(*sizes, **others)
        if self.sample_steps > noise_steps:
            raise ConfigError(f"sample_steps must be at most noise_steps ({noise_steps})")
        self.noise_steps, self.eta = noise_steps, eta

    @functools.cached_property
    def noising(self) -> Any:
        """diffusers' DDPM schedule."""
        return _schedulers()["ddpm"](num_train_timesteps=self.noise_steps, **SCHEDULE)

    @functools.cached_property
    def denoising(self) -> Any:
        """diffusers' DDIM sampler, of the same schedule."""
        sampler = _schedulers()["ddim"](num_train_timesteps=self.noise_steps, **SCHEDULE)
        sampler.set_timesteps(self.sample_steps)
        return sampler

    def times(self, levels: Float[Tensor, "N B"]) -> Float[Tensor, "N B"]:
        """The level itself."""
        return levels

    def path(
        self, actions: Float[Tensor, "N B H A"], draw: Draw
    ) -> tuple[Float[Tensor, "N B H A"], Float[Tensor, "N B"], Float[Tensor, "N B H A"]]:
        """Noisy chunks, the share of all steps that has been gone, and the noise."""
        steps = (draw.times * self.noise_steps).long().clamp(0, self.noise_steps - 1)
        noisy = self.noising.add_noise(actions.flatten(0, 1), draw.noise.flatten(0, 1), steps.flatten())
        return noisy.unflatten(0, steps.shape), steps / self.noise_steps, draw.noise

    @torch.no_grad()
    def invert(
        self,
        observations: Float[Tensor, "B O"],
        actions: Float[Tensor, "B H A"],
        times: Float[Tensor, "N B"],
    ) -> Float[Tensor, "N B H A"]:
        """The noise of :func:`robopref.objectives.diffusion.invert`: DDIM backwards."""
        condition = self._condition(observations)
        last = (times * self.noise_steps).long().clamp(0, self.noise_steps - 1)
        shares = torch.linspace(0, 1, self.sample_steps + 1, device=times.device)
        steps = (shares[:, None, None] * last).round().long()
        levels = self.noising.alphas_cumprod.to(condition)[steps]
        levels[0] = 1.0
        clean = actions.to(condition).expand(len(times), -1, -1, -1)
        noisy = invert(lambda x, k: self._at(x, steps[k] / self.noise_steps, condition), clean, levels)
        level = levels[-1, ..., None, None]
        return (noisy - level.sqrt() * clean) / (1 - level).sqrt()

    def generate(
        self,
        condition: Float[Tensor, "B C"],
        noise: Float[Tensor, "B H A"],
        generator: torch.Generator | None,
    ) -> Float[Tensor, "B H A"]:
        """DDIM from noise to the action; noise is drawn on the way where ``eta`` is above 0."""
        x = noise
        for step in self.denoising.timesteps.tolist():
            predicted = self.network(x, x.new_full((len(x),), step / self.noise_steps), condition)
            x = self.denoising.step(predicted, step, x, eta=self.eta, generator=generator).prev_sample
        return x

    def __getstate__(self) -> dict[str, Any]:
        """Leave out diffusers' schedules, which are made again when they are needed."""
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name not in ("noising", "denoising")}


class DiffusionPolicy(DenoisingPolicy):
    """A diffusion policy over chunks of actions, learned by imitation.

    Args:
        observation_size: Entries of an observation.
        action_size: Entries of an action.
        horizon: Actions in a chunk.
        execute: How many of them are carried out before the next decision; None for all.
        encoder: ``{"kind": "state"}``, or ``{"kind": "points", "count": 128, "channels": 3}``.
        backbone: ``{"kind": "mlp"}``, ``transformer`` or ``unet1d``, with options.
        noise_steps: Steps from the action to noise, in training.
        sample_steps: Steps of DDIM from noise to a chunk.
        eta: Noise that DDIM adds: 0 for none, 1 for as much as DDPM.
        draws: Times and noises that a score averages over.
        learning_rate: Step size of Adam.
        average: Share of the running average that stays at each step, at most; 0 for none.
        top_fraction: Share of the episodes to learn from, the best by the sum of their rewards.
        seed: Of the starting weights.

    Raises:
        ConfigError: for a value that makes no sense.
    """

    kind = "diffusion"

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        *,
        horizon: int = 8,
        execute: int | None = None,
        encoder: Mapping[str, Any] = {"kind": "state"},
        backbone: Mapping[str, Any] = {"kind": "mlp"},
        noise_steps: int = 100,
        sample_steps: int = 10,
        eta: float = 0.0,
        draws: int = 8,
        learning_rate: float = 1e-3,
        average: float = 0.995,
        top_fraction: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._build(DiffusionActor, locals())


@functools.cache
def _schedulers() -> dict[str, Any]:
    """diffusers' schedulers, imported when the first one is needed.

    Raises:
        ImportError: diffusers is not installed; says what to install.
    """
    try:
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
    except ImportError as error:
        raise ImportError(MISSING) from error
    return {"ddpm": DDPMScheduler, "ddim": DDIMScheduler}
