"""The few curves that all objectives are made of, accurate and finite from -1e4 to 1e4.

Each is one or two elementwise passes, in the forward direction and in the backward one.

Letters used in shapes: B pairs or examples.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from robopref.objectives.checks import check_in_range

EXPONENT_LIMIT = 20.0
"""From here on :func:`tame_exp` is a straight line: e^20 is far beyond any loss that says something."""


def softplus(values: Float[Tensor, " *B"]) -> Float[Tensor, " *B"]:
    """log(1 + e^x), which is -log sigmoid(-x).

    torch's own switches to x at 20, which is wrong by 2e-9; at 40 the two agree in every digit.
    """
    return F.softplus(values, threshold=40.0)


def cross_entropy(logits: Float[Tensor, " *B"], targets: Float[Tensor, " *B"] | None) -> Float[Tensor, " *B"]:
    """-y log sigmoid(x) - (1-y) log sigmoid(-x) = softplus(x) - y x, in two passes.

    Args:
        logits: x.
        targets: y, one where ``None``. May lie outside [0, 1], as those of the unbiased loss do.
    """
    if targets is None:
        return -F.logsigmoid(logits)
    return torch.addcmul(softplus(logits), targets, logits, value=-1.0)


def tame_exp(values: Float[Tensor, " *B"], limit: float = EXPONENT_LIMIT) -> Float[Tensor, " *B"]:
    """e^x up to ``limit`` and its tangent beyond, so that neither value nor gradient overflows."""
    bounded = values.clamp(max=limit)
    return torch.exp(bounded).add(values - bounded, alpha=math.exp(limit))


def log1mexp(values: Float[Tensor, " *B"]) -> Float[Tensor, " *B"]:
    """log(1 - e^x) of log-probabilities x <= 0; a probability of one is taken as one less a rounding step.

    Right to a rounding step of one (not of the result, which is -e^x far below zero), as is its gradient.

    Raises:
        DataError: Some x is above 0 or NaN.
    """
    check_in_range("log-probabilities", values, -math.inf, 0.0, "above 0 it is a density, not a probability")
    return torch.log(-torch.expm1(values.clamp(max=-torch.finfo(values.dtype).eps)))
