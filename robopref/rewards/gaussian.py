"""PEARL's robust reward: a Gaussian at each step, so that doubtful labels widen it instead of bending it.

Letters used in shapes: S samples, M members, N steps, B pairs, L steps of a segment.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robopref.errors import ConfigError
from robopref.objectives.gaussian import entropy_margin, label_doubt, reparametrised_samples
from robopref.objectives.people import flip_rates
from robopref.rewards.ensemble import EnsembleReward

FIRST_FLIP_LOGIT = math.log(0.2 / 0.8)  # a learned rate of reversed labels starts at 0.1
FLIP_RATE_SPEED = 30.0  # how much faster than weights it moves


class GaussianReward(EnsembleReward):
    """Robust reward learning (RRL) of PEARL, arXiv 2306.03615, on an MLP instead of a transformer.

    r(s, a) ~ N(mu, sigma^2). The loss is the Bradley-Terry cross-entropy (or another ``objective``) of
    reparametrised rewards mu + eps sigma, independent at each step and averaged over ``samples`` draws, plus
    ``entropy_weight`` * max(0, ``entropy_margin`` - H(N(mu, sigma^2))), averaged over the steps of the batch.
    The published values of the two last constants are not known to us; the defaults are our own.

    What is known of a label reaches the loss in three ways beyond its value. A chance that it was reversed
    (each pair's own, from ``annotator_noise``; the same for all, from ``flip_prob``; or learned with the
    reward, ``flip_prob="learn"``) makes the cross-entropy a likelihood under reversals, so that a pair which
    is far wrong stops pulling. Its doubt, the label's entropy in bits after reversals, raises the margin of
    its steps by ``doubt_margin`` nats, and takes (1 - doubt)^``doubt_power`` of its weight.

    Args:
        observation_size: Values in an observation.
        action_size: Values in an action.
        samples: Draws of every reward, S.
        entropy_margin: eta, in nats; 1.0 asks for a deviation of at least 0.66.
        entropy_weight: lambda, 0 to leave the margin out.
        doubt_margin: Nats that the margin of a pair rises by where its label is a coin toss; 0 leaves it.
        doubt_power: How much faster than its doubt a pair loses weight; 0 keeps all weights.
        flip_prob: Chance that a label was reversed, in [0, 0.5), or "learn" for one of each member's own,
            which is fitted with the reward; pairs that say it themselves go before. Needs
            ``objective="dpo"``.
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
        doubt_margin: float = 0.0,
        doubt_power: float = 0.0,
        minimum_deviation: float = 1e-4,
        objective: str | Mapping[str, Any] = "dpo",
        flip_prob: float | str = 0.0,
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
            flip_prob=0.0 if isinstance(flip_prob, str) else flip_prob,
        )
        if isinstance(flip_prob, str) and flip_prob != "learn":
            raise ConfigError(f'flip_prob must be a number in [0, 0.5) or "learn", got {flip_prob!r}')
        if flip_prob and self.objective.objective.name != "dpo":
            raise ConfigError(
                f"flip_prob={flip_prob} needs objective=dpo, of which it makes a likelihood under reversals; "
                f"got {self.objective.objective.name}"
            )
        if samples < 1:
            raise ConfigError(f"samples must be at least 1, got {samples}")
        if not entropy_weight >= 0:
            raise ConfigError(f"entropy_weight must not be negative, got {entropy_weight}")
        if not minimum_deviation > 0:
            raise ConfigError(f"minimum_deviation must be positive, got {minimum_deviation}")
        for name, value in (("doubt_margin", doubt_margin), ("doubt_power", doubt_power)):
            if not 0 <= value < math.inf:
                raise ConfigError(f"{name} must be 0 or more, got {value}")
        self.flip_logits = (
            nn.Parameter(torch.full((members,), FIRST_FLIP_LOGIT)) if flip_prob == "learn" else None
        )
        self.doubt_margin, self.doubt_power = doubt_margin, doubt_power
        self.samples = samples
        self.entropy_margin, self.entropy_weight = entropy_margin, entropy_weight
        self.minimum_deviation = minimum_deviation
        self.config |= {
            "samples": samples,
            "entropy_margin": entropy_margin,
            "entropy_weight": entropy_weight,
            "doubt_margin": doubt_margin,
            "doubt_power": doubt_power,
            "minimum_deviation": minimum_deviation,
            "flip_prob": flip_prob,
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
        batch, doubt = self._doubted(batch)
        preference = self.batch_losses(self.segment_return(sampled, mask), batch).mean(0)  # (M,)

        deviation = estimate.deviation
        steps = mask.sum().clamp(min=1)
        total = preference
        logged = {self.loss_name: preference.detach().mean()}
        if self.entropy_weight > 0:
            eta = self.entropy_margin + self.doubt_margin * doubt[:, None]  # (segments, 1)
            below = (entropy_margin(deviation, eta) * mask).sum((1, 2)) / steps  # (M,)
            total = total + self.entropy_weight * below
            logged["entropy_margin"] = below.detach().mean()
        if self.flip_logits is not None:
            logged["flip_prob"] = self.flip_rates.detach().mean()
        logged["accuracy"] = self.accuracy(self.segment_return(estimate.mean, mask).detach(), batch)
        logged["deviation"] = (deviation.detach() * mask).sum() / (steps * self.members)
        return total.sum(), logged

    @property
    def flip_rates(self) -> Float[Tensor, " M"]:
        """The chance of a reversed label that each member has learned."""
        assert self.flip_logits is not None
        return flip_rates(self.flip_logits, torch.arange(self.members, device=self.flip_logits.device))

    def _doubted(
        self, batch: Mapping[str, Tensor]
    ) -> tuple[Mapping[str, Tensor], Float[Tensor, " segments"]]:
        """The batch with its labels' noise and weights, and the doubt about each segment's pair."""
        labels = batch["labels"]
        if "items" in batch:  # grades of a list are as they are
            return batch, labels.new_zeros(labels.numel())
        known = batch.get("flip_prob")
        doubt = label_doubt(labels, self.flip_prob if known is None else known)
        batch = {**batch, "weights": batch["weights"] * (1 - doubt) ** self.doubt_power}
        if known is None and self.flip_logits is not None:
            batch["flip_prob"] = self.flip_rates[:, None].expand(-1, len(labels))
        elif known is None and self.flip_prob > 0:
            batch["flip_prob"] = torch.full_like(labels, self.flip_prob)
        return batch, doubt.repeat(2)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The networks; and the rates of reversed labels, which are few and move faster."""
        groups = super().parameter_groups()
        if self.flip_logits is not None:
            groups.append({"params": [self.flip_logits], "lr": FLIP_RATE_SPEED * self.learning_rate})
        return groups
