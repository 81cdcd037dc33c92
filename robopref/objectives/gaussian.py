"""Rewards as Gaussians: samples, entropy, the entropy margin, and the preference that they imply.

PEARL's robust reward learning (arXiv 2306.03615) predicts r(s, a) ~ N(mu, sigma^2) at each step, puts
reparametrised samples r = mu + eps sigma into the Bradley-Terry loss, and keeps sigma from collapsing with
the margin max(0, eta - H(N(mu, sigma^2))).

Letters used in shapes: S samples; every other axis is elementwise.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from robopref.errors import ConfigError
from robopref.objectives.checks import check_flip_prob, check_labels

_HALF_LOG_TWO_PI_E = 0.5 * math.log(2 * math.pi * math.e)


def reparametrised_samples(
    mean: Float[Tensor, "*shape"],
    deviation: Float[Tensor, "*shape"],
    samples: int,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " samples *shape"]:
    """Draw ``mean + eps * deviation``, eps standard normal and independent; both receive gradients.

    The noise is drawn on the generator's device: one seed gives one stream, wherever ``mean`` lies.
    """
    if samples < 1:
        raise ConfigError(f"samples must be at least 1, got {samples}")
    noise = torch.randn(
        (samples, *mean.shape),
        generator=generator,
        device=mean.device if generator is None else generator.device,
        dtype=mean.dtype,
    )
    return mean + noise.to(mean.device) * deviation


def gaussian_entropy(deviation: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Differential entropy in nats, log(2 pi e sigma^2) / 2; minus infinity where the deviation is zero."""
    return _HALF_LOG_TWO_PI_E + deviation.log()


def entropy_margin(
    deviation: Float[Tensor, "*shape"], eta: float | Float[Tensor, "*#shape"]
) -> Float[Tensor, "*shape"]:
    """How far the entropy lies below ``eta`` nats (one number, or its own everywhere), and 0 elsewhere."""
    return (eta - gaussian_entropy(deviation)).relu()


def label_doubt(
    labels: Float[Tensor, " B"], flip_prob: Float[Tensor, " B"] | float = 0.0
) -> Float[Tensor, " B"]:
    """Entropy of each label in bits, in [0, 1]: 0 for a sure one, 1 for a tie or a coin toss.

    Args:
        labels: Chance that ``a`` is preferred.
        flip_prob: Chance that the label was reversed, in [0, 0.5).

    Raises:
        ConfigError: A number for ``flip_prob`` lies outside.
        DataError: A label lies outside [0, 1], or an entry of ``flip_prob`` outside [0, 0.5).
    """
    check_labels(labels)
    check_flip_prob(flip_prob)
    chance = labels * (1 - flip_prob) + (1 - labels) * flip_prob
    return (torch.special.entr(chance) + torch.special.entr(1 - chance)) / math.log(2)


def expected_preference(
    difference: Float[Tensor, "*shape"], variance: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Chance that ``a`` is preferred when the difference of returns is N(difference, variance).

    The mean of sigmoid(x) over a Gaussian has no closed form; MacKay's approximation
    sigmoid(difference / sqrt(1 + pi variance / 8)) (Neural Computation 4(5), 1992) is within 0.02 of it,
    and exact for zero variance.
    """
    return torch.sigmoid(difference / torch.sqrt(1 + math.pi / 8 * variance))
