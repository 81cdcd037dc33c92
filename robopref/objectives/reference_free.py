"""Losses that need no reference policy: memory for one network, and no frozen copy to keep.

They take log-likelihoods. Those of a token policy are log-probabilities, at most 0; those of a continuous
policy are log-densities of either sign, which CPO, SimPO and triple optimisation accept and ORPO cannot.

Letters used in shapes: B pairs.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from robopref.errors import ConfigError
from robopref.objectives.checks import (
    check_log_probabilities,
    check_not_negative,
    check_positive,
    check_same_shape,
    prepare_pair,
    working,
)
from robopref.objectives.pairs import hinge, ipo
from robopref.objectives.stable import cross_entropy, log1mexp, softplus, tame_exp

Scores = Float[Tensor, " B"]
Labels = Float[Tensor, " B"] | None


def cpo(
    log_prob_a: Scores,
    log_prob_b: Scores,
    labels: Labels,
    *,
    beta: float = 0.1,
    imitation_weight: float = 1.0,
    link: str = "sigmoid",
) -> Scores:
    """-ls(beta (lp_w - lp_l)) - weight lp_w: contrastive preference optimisation (Xu et al. 2024).

    Args:
        log_prob_a: Log-likelihood of the first, summed over steps (mean for ``ipo``).
        log_prob_b: The same of the second.
        labels: Chance that the first is better.
        beta: Scale of the margin.
        imitation_weight: Of the winner's negative log-likelihood.
        link: ``sigmoid``, ``hinge`` or ``ipo`` (with tau = beta), as TRL offers.
    """
    check_positive(beta=beta)
    check_not_negative(imitation_weight=imitation_weight)
    a, b, y = prepare_pair(log_prob_a, log_prob_b, labels)
    if link == "sigmoid":
        losses = cross_entropy(beta * (a - b), y)
    elif link == "hinge":
        losses = hinge(beta * a, beta * b, y)
    elif link == "ipo":
        losses = ipo(a, b, y, tau=beta)
    else:
        raise ConfigError(f"link must be 'sigmoid', 'hinge' or 'ipo', got {link!r}.")
    return losses.sub(_winner(a, b, y), alpha=imitation_weight) if imitation_weight else losses


def simpo(
    log_prob_a: Scores,
    log_prob_b: Scores,
    labels: Labels,
    *,
    beta: float = 2.0,
    margin: float = 0.5,
    alpha: float = 0.0,
) -> Scores:
    """-ls(beta (lp_w - lp_l) - margin) of MEAN log-likelihoods: SimPO (Meng et al. 2024), and AlphaPO.

    Args:
        log_prob_a: Mean log-likelihood of the first over its steps.
        log_prob_b: The same of the second.
        labels: Chance that the first is better.
        beta: Scale of the margin.
        margin: gamma, the lead asked for.
        alpha: Above 0 AlphaPO's reward (1 - e^(-alpha lp)) / alpha takes the place of lp; it continues as a
            tangent where it would overflow.
    """
    check_positive(beta=beta)
    check_not_negative(margin=margin, alpha=alpha)
    a, b, y = prepare_pair(log_prob_a, log_prob_b, labels)
    if alpha:
        a, b = (1.0 - tame_exp(-alpha * a)) / alpha, (1.0 - tame_exp(-alpha * b)) / alpha
    h = beta * (a - b)
    if y is None:
        return cross_entropy(h - margin, None)
    return torch.lerp(softplus(h + margin), softplus(margin - h), y)


def triple(
    log_prob_a: Scores,
    log_prob_b: Scores,
    labels: Labels,
    imitation: Scores,
    *,
    beta: float = 0.01,
    imitation_weight: float = 1.0,
    margin: float = 0.0,
) -> Scores:
    """-ls(beta (lp_w - lp_l) - margin) + weight NLL(demonstration): triple preference optimisation.

    The demonstration is a third behaviour, better than both rollouts, so imitation and preferences are
    learned in one stage (Saeidi et al. 2024). With mean log-likelihoods and a margin it is the form TPO-L.

    Args:
        log_prob_a: Log-likelihood of the first rollout.
        log_prob_b: Log-likelihood of the second.
        labels: Chance that the first is better.
        imitation: Imitation loss of the demonstration: its negative log-likelihood, or a flow-matching error.
        beta: Scale of the margin.
        imitation_weight: alpha.
        margin: gamma.
    """
    check_not_negative(imitation_weight=imitation_weight)
    losses = simpo(log_prob_a, log_prob_b, labels, beta=beta, margin=margin)
    check_same_shape(losses=losses, imitation=imitation)
    return losses.add(working(imitation), alpha=imitation_weight)


def odds_ratio(log_prob_a: Scores, log_prob_b: Scores) -> Scores:
    """log [odds(a) / odds(b)] with odds = p / (1 - p), from mean log-probabilities.

    Raises:
        DataError: A log-probability is above 0: see :func:`orpo`.
    """
    why = "ORPO needs probabilities of tokens; a density of continuous actions has no odds"
    check_same_shape(log_prob_a=log_prob_a, log_prob_b=log_prob_b)
    check_log_probabilities("log_prob_a", log_prob_a, why)
    check_log_probabilities("log_prob_b", log_prob_b, why)
    a, b = working(log_prob_a), working(log_prob_b)
    return (a - b) - (log1mexp(a) - log1mexp(b))


def orpo(log_prob_a: Scores, log_prob_b: Scores, labels: Labels, *, beta: float = 0.1) -> Scores:
    """-lp_w - beta ls(log odds ratio): odds-ratio optimisation (Hong et al. 2024), token policies only.

    Args:
        log_prob_a: MEAN log-probability of the first over its tokens, at most 0.
        log_prob_b: The same of the second.
        labels: Chance that the first is better.
        beta: Weight of the odds-ratio term.

    Raises:
        DataError: A log-probability is above 0, as densities of continuous actions can be, or -inf.
    """
    check_positive(beta=beta)
    a, b, y = prepare_pair(log_prob_a, log_prob_b, labels)
    return beta * cross_entropy(odds_ratio(a, b), y) - _winner(a, b, y)


def _winner(a: Tensor, b: Tensor, labels: Tensor | None) -> Tensor:
    """What the preferred one has."""
    return a if labels is None else torch.lerp(b, a, labels)
