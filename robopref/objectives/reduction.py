"""From one loss per example to one number, with weights.

Letters used in shapes: B examples.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from robopref.errors import ConfigError, DataError, unknown_name
from robopref.objectives.checks import check_in_range, check_same_shape, values_can_be_read
from robopref.objectives.description import SINGLE, Objective

REDUCTIONS = ("none", "mean", "sum")


def reduce_losses(
    losses: Float[Tensor, " *B"], weights: Float[Tensor, " *B"] | None = None, reduction: str = "mean"
) -> Float[Tensor, "..."]:
    """Weigh losses and take their mean, sum, or neither.

    A pair's weight says how much it counts: confidence of its label, gap between the two, relevance. The mean
    is sum(w L) / sum(w), so the scale of the weights is irrelevant, and it is 0 where all weights are.

    Args:
        losses: One per example.
        weights: At least 0.
        reduction: ``mean``, ``sum`` (of w L), or ``none`` (w L).

    Raises:
        ConfigError: The reduction is unknown.
        DataError: Shapes differ, or a weight is negative, infinite or NaN.
    """
    if reduction not in REDUCTIONS:
        raise ConfigError(unknown_name("reduction", reduction, REDUCTIONS))
    if weights is not None:
        check_same_shape(losses=losses, weights=weights)
        check_in_range("weights", weights, 0.0, torch.finfo(weights.dtype).max, "how much an example counts")
        weights = weights.to(losses.dtype)
        losses = weights * losses
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    return losses.mean() if weights is None else losses.sum() / weights.sum().clamp(min=1e-30)


def check_takes_ratings(objective: Objective) -> None:
    """Refuse judgements of single behaviours where a score has no level of its own.

    Raises:
        DataError: The objective's scores are log-likelihoods, or it takes lists or sorted pairs.
    """
    if objective.labels in SINGLE:
        return
    if objective.labels not in ("soft pairs", "per-token") or "likelihood" in objective.score:
        raise DataError(
            f"{objective.name} has no use for judgements of single behaviours: its scores mean something "
            "beside "
            "each other only. kto, bco and other objectives of up/down labels learn from them."
        )


def refuse_weights(objective: Objective, weights: Float[Tensor, " B"]) -> None:
    """Refuse weights that differ, of an objective whose losses belong to ranks and not to pairs.

    Raises:
        DataError: They differ.
    """
    if values_can_be_read() and bool((weights != weights[0]).any()):
        raise DataError(
            f"{objective.name} compares sorted batches, so a pair has no weight of its own: all confidences "
            "must be equal."
        )
