"""PEARL's robust reward: a Gaussian at each step, so that doubtful labels widen it instead of bending it.

Letters used in shapes: S samples, M members, N steps, B pairs, L steps of a segment.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from robopref.errors import ConfigError
from robopref.objectives.gaussian import entropy_margin, reparametrised_samples
from robopref.rewards.ensemble import EnsembleReward


class GaussianReward(EnsembleReward):
    """Robust reward learning (RRL) of PEARL, arXiv 2306.03615, on an MLP instead of a transformer.

    r(s, a) ~ N(mu, sigma^2). The loss is the Bradley-Terry cross-entropy (or another ``objective``) of
    reparametrised rewards mu + eps sigma, independent at each step and averaged over ``samples`` draws, plus
    ``entropy_weight`` * max(0, ``entropy_margin`` - H(N(mu, sigma^2))), averaged over the steps of the batch.
    The published values of the two last constants are not known to us; the defaults are our own.

    Args:
        observation_size: Values in an observation.
        action_size: Values in an action.
        samples: Draws of every reward, S.
        entropy_margin: eta, in nats; 1.0 asks for a deviation of at least 0.66.
        entropy_weight: lambda, 0 to leave the margin out.
        minimum_deviation: Added to the deviation, in units of reward, so that its logarithm stays finite.

    The other arguments are described in :class:`~robopref.rewards.ensemble.EnsembleReward`. "tanh" bounds the
    mean, not the samples.
    """

    kind = "gaussian"
    heads = 2

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        *,
        members: int = 3,
        hidden: Sequence[int] = (128, 128),
        activation: str = "leaky_relu",
        bound: str = "tanh",
        aggregate: str = "sum",
        samples: int = 4,
        entropy_margin: float = 1.0,
        entropy_weight: float = 0.1,
        minimum_deviation: float = 1e-4,
        objective: str | Mapping[str, Any] = "dpo",
        flip_prob: float = 0.0,
        learning_rate: float = 3e-4,
        floor: float = 1e-2,
        clip: float = 10.0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            observation_size,
            action_size,
            members=members,
            hidden=hidden,
            activation=activation,
            bound=bound,
            aggregate=aggregate,
            learning_rate=learning_rate,
            floor=floor,
            clip=clip,
            seed=seed,
            objective=objective,
            flip_prob=flip_prob,
        )
        if samples < 1:
            raise ConfigError(f"samples must be at least 1, got {samples}")
        if not entropy_weight >= 0:
            raise ConfigError(f"entropy_weight must not be negative, got {entropy_weight}")
        if not minimum_deviation > 0:
            raise ConfigError(f"minimum_deviation must be positive, got {minimum_deviation}")
        self.samples = samples
        self.entropy_margin, self.entropy_weight = entropy_margin, entropy_weight
        self.minimum_deviation = minimum_deviation
        self.config |= {
            "samples": samples,
            "entropy_margin": entropy_margin,
            "entropy_weight": entropy_weight,
            "minimum_deviation": minimum_deviation,
        }

    def estimate(self, outputs: Float[Tensor, "M N heads"]) -> tuple[Tensor, Tensor]:
        """The first output is the mean, the second becomes the deviation through a softplus."""
        mean, raw = outputs.unbind(-1)
        return mean, F.softplus(raw) + self.minimum_deviation

    def loss(
        self, batch: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The objective of sampled rewards plus the weighted entropy margin, summed over members."""
        estimate, mask = self.estimate_batch(batch)
        sides = 1 if "mask" in batch else 2  # the draws of a pair's first members come first
        parts = zip(estimate.mean.chunk(sides, 1), estimate.deviation.chunk(sides, 1), strict=True)
        draws = [reparametrised_samples(*part, self.samples, generator) for part in parts]
        sampled = torch.cat(draws, 2)  # (S, M, segments, L)
        preference = self.batch_losses(self.segment_return(sampled, mask), batch).mean(0)  # (M,)

        deviation = estimate.deviation
        steps = mask.sum().clamp(min=1)
        total = preference
        logged = {self.loss_name: preference.detach().mean()}
        if self.entropy_weight > 0:
            below = (entropy_margin(deviation, self.entropy_margin) * mask).sum((1, 2)) / steps  # (M,)
            total = total + self.entropy_weight * below
            logged["entropy_margin"] = below.detach().mean()
        logged["accuracy"] = self.accuracy(self.segment_return(estimate.mean, mask).detach(), batch)
        logged["deviation"] = (deviation.detach() * mask).sum() / (steps * self.members)
        return total.sum(), logged
