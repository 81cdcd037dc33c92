"""Losses of pairs: from two scores and a label to one loss per pair.

A score is a reward model's return, or beta times a policy's log-ratio (:mod:`robopref.objectives.scores`);
none of these losses asks which. The label y is the probability that the first of the pair is better:
1, 0, 0.5 for a tie, or anything between. ``labels=None`` says that the first is better in every pair.
A soft label mixes the two orders, ``y L(a, b) + (1-y) L(b, a)``, unless a docstring says otherwise, so
every loss here stays the same when the pair is swapped and its label turned into 1 - y.

In the equations h = s_w - s_l, where w is preferred over l; s() is the logistic function and ls() its log.

Letters used in shapes: B pairs (any shape, the same for all arguments of a call).
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from robopref.errors import ConfigError
from robopref.objectives.checks import (
    check_flip_prob,
    check_labels,
    check_not_negative,
    check_positive,
    check_same_shape,
    prepare_pair,
    working,
)
from robopref.objectives.stable import cross_entropy, softplus

Scores = Float[Tensor, " *B"]
Labels = Float[Tensor, " *B"] | None


def _both_orders(
    loss: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor, labels: Tensor | None
) -> Tensor:
    """y L(a, b) + (1-y) L(b, a)."""
    return loss(a, b) if labels is None else torch.lerp(loss(b, a), loss(a, b), labels)


def bradley_terry(score_a: Scores, score_b: Scores, labels: Labels) -> Scores:
    """-ls(h): Bradley-Terry for reward models, DPO for policies (Rafailov et al. 2023, eq. 7).

    Trajectory-wise preference optimisation (GRAPE) is this loss on log-ratios summed over all steps, and
    length-normalised DPO is this loss on their mean over steps.
    """
    a, b, y = prepare_pair(score_a, score_b, labels)
    return cross_entropy(a - b, y)


def conservative(
    score_a: Scores, score_b: Scores, labels: Labels, *, flip_prob: float | Tensor = 0.1
) -> Scores:
    """-(1-e) ls(h) - e ls(-h): conservative DPO (Mitchell 2023), minimal at h = logit(1 - e).

    Args:
        score_a: Scores of the first.
        score_b: Scores of the second.
        labels: Chance that the first is better.
        flip_prob: e, the chance in [0, 0.5) that a label was reversed; a tensor gives one per pair.
    """
    check_flip_prob(flip_prob)
    a, b, y = prepare_pair(score_a, score_b, labels)
    y = torch.ones_like(a) if y is None else y
    return cross_entropy(a - b, y * (1.0 - 2.0 * flip_prob) + flip_prob)


def robust(score_a: Scores, score_b: Scores, labels: Labels, *, flip_prob: float | Tensor = 0.1) -> Scores:
    """(-(1-e) ls(h) + e ls(-h)) / (1-2e): the unbiased loss under flips (Chowdhury et al. 2024).

    Averaged over labels reversed with chance e it equals :func:`bradley_terry` on the true ones. It has no
    minimum and falls below zero for large h: watch the accuracy, not the loss.

    Args:
        score_a: Scores of the first.
        score_b: Scores of the second.
        labels: Chance that the first is better.
        flip_prob: e, in [0, 0.5); a tensor gives one per pair, for example one per annotator.
    """
    check_flip_prob(flip_prob)
    a, b, y = prepare_pair(score_a, score_b, labels)
    y = torch.ones_like(a) if y is None else y
    return cross_entropy(a - b, (y - flip_prob) / (1.0 - 2.0 * flip_prob))


def hinge(score_a: Scores, score_b: Scores, labels: Labels, *, margin: float = 1.0) -> Scores:
    """max(0, margin - h): the calibration loss of SLiC (Zhao et al. 2023)."""
    check_positive(margin=margin)
    a, b, y = prepare_pair(score_a, score_b, labels)
    if y is None:
        return F.relu(b - a + margin)
    # relu(m + h) - relu(m - h) = h + clip(h, -m, m): one relu serves both orders.
    h = a - b
    return torch.addcmul(F.relu(h + margin), y, h + F.hardtanh(h, -margin, margin), value=-1.0)


def ipo(score_a: Scores, score_b: Scores, labels: Labels, *, tau: float = 0.1, beta: float = 1.0) -> Scores:
    """(h/beta - 1/(2 tau))^2: identity preference optimisation (Azar et al. 2023, eq. 17).

    Args:
        score_a: Scores of the first; for policies log-ratios averaged over steps, as TRL has it.
        score_b: Scores of the second.
        labels: Chance that the first is better.
        tau: Strength of the regularisation; the log-ratio margin sought is 1/(2 tau).
        beta: Factor that is already in the scores.
    """
    check_positive(tau=tau, beta=beta)
    a, b, y = prepare_pair(score_a, score_b, labels)
    target = 0.5 / tau
    margin = a - b if beta == 1.0 else (a - b) / beta
    if y is None:
        return (margin - target).square()
    # y (x-c)^2 + (1-y) (x+c)^2 = (x+c)^2 - 4 c y x
    return torch.addcmul((margin + target).square(), y, margin, value=-4.0 * target)


def exo(score_a: Scores, score_b: Scores, labels: Labels, *, flip_prob: float | Tensor = 1e-3) -> Scores:
    """KL from [s(h), s(-h)] to [1-e, e]: efficient exact optimisation on pairs (Ji et al. 2024).

    A soft label moves the target itself, to e + (1-2e) y; the loss is zero where the probability meets it.

    Args:
        score_a: Scores of the first.
        score_b: Scores of the second.
        labels: Chance that the first is better.
        flip_prob: e, in (0, 0.5). At 0 a target of one has an infinite divergence, hence refused.
    """
    check_flip_prob(flip_prob)
    if isinstance(flip_prob, float | int) and flip_prob == 0:
        raise ConfigError(
            "flip_prob of exo must be above 0: to a target of exactly one the divergence is infinite."
        )
    a, b, y = prepare_pair(score_a, score_b, labels)
    h = a - b
    # s(h) (ls(h) - log t) + s(-h) (ls(-h) - log(1-t)), with ls(h) = h - softplus(h) and ls(-h) = -softplus(h)
    if y is None and not isinstance(flip_prob, Tensor):
        other = math.log(flip_prob)
        wanted = math.log1p(-flip_prob) - other
    else:
        target = (torch.ones_like(h) if y is None else y) * (1.0 - 2.0 * flip_prob) + flip_prob
        if isinstance(flip_prob, Tensor):  # an entry of 0 among the rates of several annotators
            target = target.clamp(1e-6, 1.0 - 1e-6)
        other, wanted = torch.log1p(-target), torch.logit(target)
    return torch.addcmul(-softplus(h), torch.sigmoid(h), h - wanted) - other


def nca(score_a: Scores, score_b: Scores, labels: Labels) -> Scores:
    """-ls(s_w) - ls(-s_w)/2 - ls(-s_l)/2: noise contrastive alignment on pairs (Chen et al. 2024).

    Not invariant to a shift of both scores: it keeps the winner's own likelihood up.
    """
    a, b, y = prepare_pair(score_a, score_b, labels)
    chosen = softplus(-a) if y is None else torch.lerp(softplus(-b), softplus(-a), y)
    return chosen.add(softplus(a) + softplus(b), alpha=0.5)


def bco_pair(score_a: Scores, score_b: Scores, labels: Labels) -> Scores:
    """-ls(s_w) - ls(-s_l): the binary classifier on pairs, an upper bound of DPO (Jung et al. 2024).

    No shift is taken off, as in TRL's code (its page prints another formula);
    :func:`robopref.objectives.unpaired.bco` has the shift.
    """
    a, b, y = prepare_pair(score_a, score_b, labels)
    return cross_entropy(a, y) + (softplus(b) if y is None else cross_entropy(b, 1.0 - y))


def sppo(score_a: Scores, score_b: Scores, labels: Labels, *, tau: float = 0.1, beta: float = 1.0) -> Scores:
    """(s_w/beta - 1/(2 tau))^2 + (s_l/beta + 1/(2 tau))^2: self-play, hard form (Wu et al. 2024).

    With soft labels its gradient is that of the paper's regression on win probabilities.

    Args:
        score_a: Scores of the first.
        score_b: Scores of the second.
        labels: Chance that the first is better.
        tau: The paper's 1/eta.
        beta: Factor that is already in the scores.
    """
    check_positive(tau=tau, beta=beta)
    a, b, y = prepare_pair(score_a, score_b, labels)
    if beta != 1.0:
        a, b = a / beta, b / beta
    target = 0.5 / tau
    if y is None:
        return (a - target).square() + (b + target).square()
    # The squares for y = 0, and what differs for y = 1: -4 c (a - b).
    below = b - target
    return torch.addcmul(torch.addcmul((a + target).square(), below, below), y, a - b, value=-4.0 * target)


def apo_zero(score_a: Scores, score_b: Scores, labels: Labels) -> Scores:
    """1 - s(s_w) + s(s_l): anchored, if the winner beats the policy (D'Oosterlinck et al. 2024)."""
    a, b, y = prepare_pair(score_a, score_b, labels)
    lead = torch.sigmoid(a) - torch.sigmoid(b)
    return 1.0 - lead if y is None else torch.addcmul(1.0 + lead, y, lead, value=-2.0)


def apo_down(score_a: Scores, score_b: Scores, labels: Labels) -> Scores:
    """s(s_w) + 1 - s(h): anchored, for a policy better than the winner (D'Oosterlinck et al. 2024)."""
    a, b, y = prepare_pair(score_a, score_b, labels)
    if y is None:
        return torch.sigmoid(a) + torch.sigmoid(b - a)
    chosen, right = torch.lerp(torch.sigmoid(b), torch.sigmoid(a), y), torch.sigmoid(a - b)
    return chosen + torch.addcmul(right + y, right, y, value=-2.0)  # y (1 - p) + (1-y) p


def discopop(score_a: Scores, score_b: Scores, labels: Labels, *, temperature: float = 0.05) -> Scores:
    """(1-m) (-ls(h)) + m e^-h with m = s(h/temperature): DiscoPOP (Lu et al. 2024).

    m e^-h is computed as exp(ls(h/temperature) - h), which has no infinity to multiply by zero.

    Args:
        score_a: Scores of the first.
        score_b: Scores of the second.
        labels: Chance that the first is better.
        temperature: In (0, 1); from 1 on the exponential part has no bound.
    """
    if not 0 < temperature < 1:
        raise ConfigError(f"temperature of discopop must lie in (0, 1), got {temperature}.")

    a, b, y = prepare_pair(score_a, score_b, labels)
    h = a - b
    sharp = h / temperature
    exponent = F.logsigmoid(sharp) - h
    if y is None:
        return torch.addcmul(torch.exp(exponent), torch.sigmoid(-sharp), softplus(-h))
    # What both orders share is computed once: ls(-x) = ls(x) - x, softplus(-x) = softplus(x) - x.
    mixed, wrong = torch.sigmoid(sharp), softplus(h)
    upright = torch.addcmul(torch.exp(exponent), 1.0 - mixed, wrong - h)
    turned = torch.addcmul(torch.exp(exponent.add(h, alpha=2.0 - 1.0 / temperature)), mixed, wrong)
    return torch.lerp(turned, upright, y)


def sigmoid_link(score_a: Scores, score_b: Scores, labels: Labels) -> Scores:
    """-s(h), the plain logistic function: what DeformPAM's code minimises.

    Bounded, so a wrong label pulls little, and so does a pair that the model has badly wrong.
    """
    a, b, y = prepare_pair(score_a, score_b, labels)
    return _both_orders(lambda first, second: -torch.sigmoid(first - second), a, b, y)


def margin(
    score_a: Scores,
    score_b: Scores,
    labels: Labels,
    *,
    margins: float | Float[Tensor, " *B"] = 0.0,
    centre: float = 0.0,
) -> Scores:
    """-ls(h - m) + centre (s_w + s_l)^2: Bradley-Terry with a margin (Llama 2) and centred rewards.

    Args:
        score_a: Scores of the first.
        score_b: Scores of the second.
        labels: Chance that the first is better.
        margins: m, by how much the better one should lead; one number or one per pair.
        centre: Weight of the squared sum, which pins the level of the rewards (Eisenstein et al. 2023).
    """
    check_not_negative(centre=centre)
    a, b, y = prepare_pair(score_a, score_b, labels)
    if isinstance(margins, Tensor):
        check_same_shape(score_a=a, margins=margins)
    elif not math.isfinite(margins):
        raise ConfigError(f"margins must be finite, got {margins}.")
    losses = _both_orders(lambda first, second: softplus(second - first + margins), a, b, y)
    return torch.addcmul(losses, a + b, a + b, value=centre) if centre else losses


def contrastive(score_a: Scores, score_b: Scores, labels: Labels, *, bias: float = 0.5) -> Scores:
    """-ls(s_w - bias s_l): contrastive preference learning, biased (Hejna et al. 2023).

    Scores are alpha times summed log-probabilities: no reference. ``bias=1`` gives :func:`bradley_terry`.
    """
    if not 0 <= bias <= 1:
        raise ConfigError(f"bias must lie in [0, 1], got {bias}.")
    a, b, y = prepare_pair(score_a, score_b, labels)
    return _both_orders(lambda first, second: softplus(bias * second - first), a, b, y)


def directed(score_a: Scores, score_b: Scores, labels: Labels) -> Scores:
    """-ls(h) - ls(s_w) - ls(-s_l): Bradley-Terry with direction (Eurus, Yuan et al. 2024, sec. 3).

    The last two terms push the winner's reward above zero and the loser's below.
    """
    a, b, y = prepare_pair(score_a, score_b, labels)
    lower = softplus(b) if y is None else cross_entropy(b, 1.0 - y)
    return cross_entropy(a - b, y) + cross_entropy(a, y) + lower


def proximal(
    score_a: Scores,
    score_b: Scores,
    labels: Labels,
    imitation_a: Float[Tensor, " *B"],
    imitation_b: Float[Tensor, " *B"],
    *,
    imitation_weight: float = 1.0,
) -> Scores:
    """-[ls(h) + sum over w, l of (ls(s) + ls(-s))/2] + weight * imitation_w: RPRO (FlowPRO, HyVLA-0.5).

    The middle term holds both scores near zero, that is the policy near its reference. A tie of a copy
    with itself leaves the anchor and the imitation alone.

    Args:
        score_a: Scores of the first, beta/2 (error of the reference - error of the policy).
        score_b: Scores of the second.
        labels: Chance that the first is better.
        imitation_a: Imitation loss of the first: its flow-matching error or negative log-probability.
        imitation_b: Imitation loss of the second.
        imitation_weight: Weight of the winner's imitation loss.
    """
    check_not_negative(imitation_weight=imitation_weight)
    a, b, y = prepare_pair(score_a, score_b, labels)
    check_same_shape(score_a=a, imitation_a=imitation_a, imitation_b=imitation_b)
    # -(ls(x) + ls(-x))/2 = softplus(x) - x/2
    anchor = softplus(a) + softplus(b) - 0.5 * (a + b)
    chosen = working(imitation_a) if y is None else torch.lerp(working(imitation_b), working(imitation_a), y)
    return (cross_entropy(a - b, y) + anchor).add(chosen, alpha=imitation_weight)


def with_imitation(
    losses: Scores,
    labels: Labels,
    imitation_a: Float[Tensor, " *B"],
    imitation_b: Float[Tensor, " *B"],
    *,
    weight: float = 1.0,
) -> Scores:
    """Add the winner's imitation loss to any pair loss: against likelihood displacement, and for ties.

    A tie weighs both members by one half, which is DeformPAM's treatment of ties.

    Raises:
        DataError: Shapes differ, or a label lies outside [0, 1].
    """
    check_not_negative(weight=weight)
    check_same_shape(losses=losses, labels=labels, imitation_a=imitation_a, imitation_b=imitation_b)
    if labels is not None:
        check_labels(labels)
    a, b = working(imitation_a), working(imitation_b)
    chosen = a if labels is None else torch.lerp(b, a, labels.to(a.dtype))
    return losses.add(chosen, alpha=weight)


def with_ratings(
    losses: Scores,
    score_a: Scores,
    score_b: Scores,
    rating_a: Float[Tensor, " *B"],
    rating_b: Float[Tensor, " *B"],
    *,
    weight: float = 1.0,
) -> Scores:
    """loss + weight (CE(s_a, r_a) + CE(s_b, r_b)) / 2: one score for ranking and for rating (UnifiedReward).

    A pair says nothing of the level of its scores; a rating of each member alone does. UnifiedReward (Wang et
    al. 2025) trains a language model on both kinds of answers. Here both are heads of the one score, and the
    cross-entropy of a rating is our form.

    Args:
        losses: Any loss of the pairs.
        score_a: Scores of the first; 0 is as good as bad.
        score_b: Scores of the second.
        rating_a: Chance that the first is good by itself: a thumb, a success, a share of comparisons won.
        rating_b: The same of the second.
        weight: Of the ratings.
    """
    check_not_negative(weight=weight)
    check_same_shape(losses=losses, score_a=score_a, score_b=score_b, rating_a=rating_a, rating_b=rating_b)
    for rating in (rating_a, rating_b):
        check_labels(rating)
    points = cross_entropy(working(score_a), working(rating_a))
    return losses.add(points + cross_entropy(working(score_b), working(rating_b)), alpha=weight / 2)
