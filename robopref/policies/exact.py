"""What actors share whose log-probabilities are known: samples and scores follow from two methods.

A family says how it acts (:meth:`ExactActor.act`) and how likely each action of a chunk is
(:meth:`ExactActor.log_probs`). The Gaussian, the tokens of states and robomimic's networks are such families;
diffusion and flow are not (:mod:`robopref.policies.denoising`).

Letters used in shapes: B observations, O their entries, A entries of an action, H actions in a chunk, K
chunks for each observation.
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from robopref.errors import ConfigError
from robopref.nets.normalise import Normaliser
from robopref.policies.chunks import Draw, check_chunks, check_observations


class ExactActor(nn.Module, ABC):
    """A policy over chunks, mostly of one action, with exact scores; the normaliser is inside.

    Args:
        observation_size: Entries of an observation, O.
        action_size: Entries of an action, A.
        horizon: Actions in a chunk, H.
        floor, clip: Of the :class:`~robopref.nets.normalise.Normaliser` of observations.

    Raises:
        ConfigError: for a value that makes no sense.
    """

    exact = True

    def __init__(
        self, observation_size: int, action_size: int, *, horizon: int = 1, floor: float, clip: float
    ) -> None:
        super().__init__()
        if observation_size < 1 or action_size < 1:
            raise ConfigError(f"Sizes must be at least 1, got {observation_size=} and {action_size=}")
        self.observation_size, self.action_size, self.horizon = observation_size, action_size, horizon
        self.normaliser = Normaliser(observation_size, floor=floor, clip=clip)

    @abstractmethod
    def act(
        self,
        observations: Float[Tensor, "B O"],
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = True,
    ) -> Float[Tensor, "B H A"]:
        """The best chunk in [-1, 1], or a drawn one.

        Raises:
            DataError: The observations have another width, or hold NaN or infinity.
        """

    @abstractmethod
    def log_probs(
        self, observations: Float[Tensor, "B O"], actions: Float[Tensor, "B H A"]
    ) -> Float[Tensor, "B H"]:
        """Log-probability or log-density of each action, in nats; differentiable. The inputs are checked."""

    @torch.no_grad()
    def sample(
        self, observations: Float[Tensor, "B O"], count: int, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "B K H A"]:
        """So many drawn chunks for each observation."""
        repeated = observations.repeat_interleave(count, 0)
        chunks = self.act(repeated, generator=generator, deterministic=False)
        return chunks.unflatten(0, (len(observations), count))

    def draw(self, batch_size: int, *, generator: torch.Generator | None = None) -> None:
        """Nothing: scores are exact."""
        return None

    def score(
        self,
        observations: Float[Tensor, "B O"],
        actions: Float[Tensor, "B H A"],
        draw: Draw | None = None,
        mask: Bool[Tensor, "B H"] | None = None,
    ) -> Float[Tensor, " B"]:
        """Log-probability, in nats, of the actions that count; differentiable.

        Raises:
            DataError: The shapes do not fit, or the observations hold NaN or infinity.
        """
        check_chunks(self, observations, actions)
        found = self.log_probs(self.checked(observations), actions)
        return (found if mask is None else torch.where(mask, found, 0.0)).sum(1)

    def checked(self, observations: Float[Tensor, "B _"]) -> Float[Tensor, "B O"]:
        """Observations in the normaliser's precision, refused where they do not fit."""
        check_observations(self.observation_size, observations)
        return observations.to(self.normaliser.mean.dtype)
