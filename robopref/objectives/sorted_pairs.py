"""Alignment by optimal transport: winners above losers as distributions (AOT, Melnyk et al. 2024).

In one dimension the best transport plan is the sort, so the k-th lowest of one side meets the k-th lowest of
the other. An entry of the result belongs to a rank and not to a pair, hence no weights per pair.

Letters used in shapes: B pairs, the last axis; what is before it are batches of their own.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from robopref.errors import DataError
from robopref.objectives.checks import (
    check_flip_prob,
    check_same_shape,
    prepare_pair,
    values_can_be_read,
    working,
)
from robopref.objectives.stable import cross_entropy


def _check_hard(labels: Tensor | None) -> None:
    if labels is not None and values_can_be_read() and bool(labels.frac().any()):
        raise DataError(
            "aot sorts winners apart from losers: labels must be 0 or 1, without ties or soft labels."
        )


def _of_ranks(policy: Tensor, other: Tensor, flip_prob: float) -> Tensor:
    """Loss of the k-th lowest of one over the k-th lowest of the other."""
    h = torch.sort(policy).values - torch.sort(other).values
    return cross_entropy(h, torch.full_like(h, 1.0 - flip_prob) if flip_prob else None)


def aot(
    score_a: Float[Tensor, " *B"],
    score_b: Float[Tensor, " *B"],
    labels: Float[Tensor, " *B"] | None,
    reference_margin: Float[Tensor, " *B"],
    *,
    flip_prob: float = 0.0,
) -> Float[Tensor, " *B"]:
    """-ls of sorted policy margins minus sorted reference margins: the paired form.

    Margins are compared by rank over the batch, so an entry belongs to a rank and not to a pair.

    Args:
        score_a: beta times the policy's log-probability of the first, without a reference.
        score_b: The same of the second.
        labels: 1 or 0.
        reference_margin: beta times (reference log-probability of the first - that of the second).
        flip_prob: As in :func:`conservative`.

    Raises:
        DataError: A label is neither 0 nor 1.
    """
    check_flip_prob(flip_prob)
    a, b, y = prepare_pair(score_a, score_b, labels)
    check_same_shape(score_a=a, reference_margin=reference_margin)
    _check_hard(y)
    margin, reference = a - b, working(reference_margin)
    if y is not None:
        sign = 2.0 * y - 1.0
        margin, reference = margin * sign, reference * sign
    return _of_ranks(margin, reference, flip_prob)


def aot_unpaired(
    score_a: Float[Tensor, " *B"],
    score_b: Float[Tensor, " *B"],
    labels: Float[Tensor, " *B"] | None,
    *,
    flip_prob: float = 0.0,
) -> Float[Tensor, " *B"]:
    """-ls of sorted winner scores minus sorted loser scores: the unpaired form.

    Raises:
        DataError: A label is neither 0 nor 1.
    """
    check_flip_prob(flip_prob)
    a, b, y = prepare_pair(score_a, score_b, labels)
    _check_hard(y)
    if y is None:
        return _of_ranks(a, b, flip_prob)
    first = y == 1
    return _of_ranks(torch.where(first, a, b), torch.where(first, b, a), flip_prob)
