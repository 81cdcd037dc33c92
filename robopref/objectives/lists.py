"""Losses of lists: K behaviours from one starting state, ordered by labels of any scale, best highest.

A list may hold ties, and padding where ``mask`` is False. Ties say nothing about their own order; a list
that is all ties has a loss of zero and no gradient (ListNet and Plackett-Luce instead draw its scores
together). Every loss is the same in whatever order the items come.

In the equations psi are labels and s scores; a pair (i, j) is ordered where psi_i > psi_j.

Letters used in shapes: B lists, K items.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from robopref.errors import ConfigError, DataError
from robopref.objectives.checks import (
    check_not_negative,
    check_positive,
    check_same_shape,
    check_some_step,
    values_can_be_read,
    working,
)
from robopref.objectives.stable import softplus

Lists = Float[Tensor, "B K"]
Mask = Bool[Tensor, "B K"] | None


def _prepare(scores: Tensor, labels: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Check lists; return them in working precision with what is padded set to zero, and the mask."""
    check_same_shape(scores=scores, labels=labels, mask=mask)
    if scores.dim() != 2:
        raise DataError(f"Lists are rows, (B, K): one list of K items is (1, K), got {tuple(scores.shape)}.")
    if scores.shape[-1] < 2:
        raise DataError("A list of one says nothing about order: lists need at least 2 items.")
    if mask is None:
        mask = torch.ones_like(scores, dtype=torch.bool)
    else:
        check_some_step(mask, at_least=2, thing="item")
        scores, labels = torch.where(mask, scores, 0.0), torch.where(mask, labels, 0.0)
    if values_can_be_read() and not bool(labels.isfinite().all()):
        raise DataError(
            "Labels of a list must be finite numbers, got NaN or infinity; mask out what is unknown."
        )
    scores = working(scores)
    return scores, labels.to(scores.dtype), mask


def _ordered(labels: Tensor, mask: Tensor) -> Tensor:
    """(B, K, K) bool: True where item i is labelled above item j and both count."""
    return (labels[:, :, None] > labels[:, None, :]) & mask[:, :, None] & mask[:, None, :]


def _over_pairs(losses: Tensor, ordered: Tensor, average: bool) -> Tensor:
    total = torch.where(ordered, losses, 0.0).sum((-2, -1))
    return total / ordered.sum((-2, -1)).clamp(min=1) if average else total


def _differences(scores: Tensor) -> Tensor:
    return scores[:, :, None] - scores[:, None, :]


def ranknet(scores: Lists, labels: Lists, mask: Mask = None, *, average: bool = False) -> Float[Tensor, " B"]:
    """Sum over ordered pairs of -ls(s_i - s_j) (Burges et al. 2005); K = 2 is Bradley-Terry.

    Args:
        scores: One score per item.
        labels: Best highest; any scale.
        mask: False where an item is padding.
        average: Mean over ordered pairs instead: the ranking loss of MORE (Zeng et al. 2024).
    """
    scores, labels, mask = _prepare(scores, labels, mask)
    return _over_pairs(softplus(-_differences(scores)), _ordered(labels, mask), average)


def hinge_list(
    scores: Lists, labels: Lists, mask: Mask = None, *, margin: float = 1.0, average: bool = False
) -> Float[Tensor, " B"]:
    """Sum over ordered pairs of max(0, margin - (s_i - s_j)); K = 2 is SLiC's hinge."""
    check_positive(margin=margin)
    scores, labels, mask = _prepare(scores, labels, mask)
    return _over_pairs(F.relu(margin - _differences(scores)), _ordered(labels, mask), average)


def plackett_luce(scores: Lists, labels: Lists, mask: Mask = None) -> Float[Tensor, " B"]:
    """-sum_k [s_(k) - log sum_{j not above k} e^{s_j}]: ListMLE (Xia et al. 2008); DPO's own list form.

    Tied items share one denominator (Breslow), so the result does not depend on how a sort breaks ties.
    """
    scores, labels, mask = _prepare(scores, labels, mask)
    not_above = (labels[:, None, :] <= labels[:, :, None]) & mask[:, None, :]
    not_above = not_above | ~mask[:, :, None]  # rows of padding: any finite number, dropped below
    choices = scores[:, None, :].expand_as(not_above).masked_fill(~not_above, -torch.inf)
    return torch.where(mask, torch.logsumexp(choices, -1) - scores, 0.0).sum(-1)


def listnet(
    scores: Lists, labels: Lists, mask: Mask = None, *, temperature: float = 1.0
) -> Float[Tensor, " B"]:
    """-sum softmax(psi / temperature) log softmax(s): cross-entropy of top-one chances (Cao et al. 2007)."""
    check_positive(temperature=temperature)
    scores, labels, mask = _prepare(scores, labels, mask)
    chances = torch.softmax((labels / temperature).masked_fill(~mask, -torch.inf), -1)
    log_chances = torch.log_softmax(scores.masked_fill(~mask, -torch.inf), -1)
    return -(chances * torch.where(mask, log_chances, 0.0)).sum(-1)


def ranks(scores: Lists, mask: Mask = None) -> Lists:
    """Rank of each item, from 1 for the highest score; equal scores share the mean of their ranks."""
    scores, _, mask = _prepare(scores, torch.zeros_like(scores), mask)
    both = mask[:, :, None] & mask[:, None, :]
    difference = _differences(scores)
    above = ((difference < 0) & both).sum(-1)
    equal = ((difference == 0) & both).sum(-1)
    return torch.where(mask, above + 0.5 * (equal + 1), 1.0).to(scores.dtype)


def lipo_lambda(
    scores: Lists, labels: Lists, mask: Mask = None, *, normalise: bool = True
) -> Float[Tensor, " B"]:
    """Sum over ordered pairs of D_ij softplus(-(s_i - s_j)): LiPO-lambda (Liu et al. 2024).

    D_ij = |G_i - G_j| |1/D(rank_i) - 1/D(rank_j)| with G = 2^psi - 1, D = log(1 + rank) and ranks from 1
    under the current scores, without gradient. The structure was read in a summary; gains and discounts
    are LambdaRank's usual ones, so exact constants may differ from the paper's.

    Args:
        scores: One score per item.
        labels: Grades psi, best highest, at most 30 (2^psi is the gain).
        mask: False where an item is padding.
        normalise: Divide the D_ij of a list by their mean, so that a list of two is exactly DPO; with False
            a list of two with grades 1 and 0 is (1/ln 2 - 1/ln 3) times DPO.

    Raises:
        DataError: A grade is above 30.
    """
    scores, labels, mask = _prepare(scores, labels, mask)
    if values_can_be_read() and (most := float(labels.max())) > 30:
        raise DataError(
            f"Labels of lipo_lambda are grades with gains 2^psi - 1 and may be 30 at most, got {most:g}."
            " Rank or rescale returns first."
        )
    ordered = _ordered(labels, mask)
    discount = 1.0 / torch.log1p(ranks(scores.detach(), mask))
    weights = _differences(torch.exp2(labels)).abs() * _differences(discount).abs()
    if normalise:
        mean = _over_pairs(weights, ordered, average=True)[:, None, None]
        # Equal scores share a rank and so have no weight at all: there every pair weighs one.
        weights = torch.where(mean > 0, weights / mean.clamp(min=torch.finfo(mean.dtype).tiny), 1.0)
    return _over_pairs(weights * softplus(-_differences(scores)), ordered, average=False)


def one_versus_many(
    scores: Lists, labels: Lists, mask: Mask = None, *, margin: float = 0.0
) -> Float[Tensor, " B"]:
    """Mean over the others of -ls(s_best - s_j - margin), for each item with the best label.

    A variant named after LOGO (Tang et al. 2024), whose loss could not be read: it is described as SimPO with
    one chosen and several rejected, and this is that with the mean over the rejected. Scores are
    then beta times mean log-likelihoods.
    """
    check_not_negative(margin=margin)
    scores, labels, mask = _prepare(scores, labels, mask)
    best = (labels == labels.masked_fill(~mask, -torch.inf).amax(-1, keepdim=True)) & mask
    ordered = _ordered(labels, mask) & best[:, :, None]
    return _over_pairs(softplus(margin - _differences(scores)), ordered, average=True)


def levels(
    scores: Lists, labels: Lists, mask: Mask = None, *, top: float = 3.0, top_weight: float = 2.5
) -> Float[Tensor, " B"]:
    """Mean over pairs across levels of -ls(s_i - s_j), pairs whose winner is on top weighing more: TRPA.

    Levels are rule-based: for a robot success, stages reached, time-out, collision. A list on one level has
    no pair; its items are pushed up by -ls(s_i) where that level is the top and down by -ls(-s_i) elsewhere.

    Args:
        scores: beta times MEAN log-ratios against the policy at the start of the iteration.
        labels: Levels, best highest.
        mask: False where an item is padding.
        top: The level that counts as solved; 3 is what the best of four has won against the others.
        top_weight: The authors' anisotropy.
    """
    check_positive(top_weight=top_weight)
    if not math.isfinite(top):
        raise ConfigError(f"top must be a finite level, got {top}.")
    scores, labels, mask = _prepare(scores, labels, mask)
    ordered = _ordered(labels, mask)
    won = torch.where(labels == top, top_weight, 1.0)[:, :, None]
    across = _over_pairs(won * softplus(-_differences(scores)), ordered, average=True)
    pushed = softplus(torch.where(labels == top, -scores, scores))
    alone = torch.where(mask, pushed, 0.0).sum(-1) / mask.sum(-1)
    return torch.where(ordered.any(-1).any(-1), across, alone)
