"""Several people, several objectives: whose labels count, and for what.

Letters used in shapes: B judgements, U annotators, K prototypes or objectives, S sources, D features,
P parameters.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from robopref.errors import ConfigError, DataError
from robopref.objectives.checks import (
    check_flip_prob,
    check_labels,
    check_positive,
    check_same_shape,
    prepare_pair,
    values_can_be_read,
    working,
)
from robopref.objectives.pairs import bradley_terry

Scores = Float[Tensor, " B"]
Pairs = Float[Tensor, " *B"]


def flip_rates(logits: Float[Tensor, " U"], annotators: Int[Tensor, " B"]) -> Scores:
    """Chance in (0, 0.5) that each judgement was reversed, by who made it: sigmoid(logit_u) / 2.

    Learn the logits by :func:`flip_likelihood`; fixed, the rates go into ``flip_prob`` of the losses of
    :mod:`robopref.objectives.pairs` too. (Those are linear in the rate, so learning it there runs to an end.)

    Raises:
        DataError: An annotator has no logit.
    """
    _check_annotators(annotators, len(logits))
    # Just below one half: at it a label says nothing and the unbiased loss divides by zero.
    return 0.499 * torch.sigmoid(working(logits))[annotators]


def flip_likelihood(
    score_a: Pairs, score_b: Pairs, labels: Pairs | None, *, flip_prob: float | Tensor = 0.1
) -> Pairs:
    """-log[(1-e) s(h) + e s(-h)]: how likely the label is if it was reversed with chance e.

    Unlike the losses with a fixed flip rate this is a likelihood, so the rates of annotators can be learned
    with the scores. A pair that is far wrong stops pulling: it counts as a slip.

    Args:
        score_a: Scores of the first.
        score_b: Scores of the second.
        labels: Chance that the first is better.
        flip_prob: e; one number, or one per pair from :func:`flip_rates`.
    """
    check_flip_prob(flip_prob)
    a, b, y = prepare_pair(score_a, score_b, labels)
    h = a - b
    rate = torch.as_tensor(flip_prob, dtype=h.dtype, device=h.device)
    # A rate of exactly 0 is a logarithm of -inf, which logaddexp takes but its gradient does not.
    slip, meant = rate.clamp(min=1e-12).log(), torch.log1p(-rate)
    upright, reversed_ = F.logsigmoid(h), F.logsigmoid(-h)
    likely = torch.logaddexp(meant + upright, slip + reversed_)
    if y is None:
        return -likely
    return -torch.lerp(torch.logaddexp(meant + reversed_, slip + upright), likely, y)


def _check_annotators(annotators: Tensor, known: int) -> None:
    if values_can_be_read() and not bool(((annotators >= 0) & (annotators < known)).all()):
        got = f"{int(annotators.min())} to {int(annotators.max())}"
        raise DataError(f"annotators must be indices 0 ... {known - 1}, got {got}.")


def ideal_points(
    prototypes: Float[Tensor, "K D"], annotator_logits: Float[Tensor, "U K"], annotators: Int[Tensor, " B"]
) -> Float[Tensor, "B D"]:
    """a_u = sum_k softmax(logits_u)_k p_k: where each judgement's annotator wants behaviour to be (PAL-A).

    Args:
        prototypes: p, shared by everyone.
        annotator_logits: Mixture of each annotator.
        annotators: Who made each judgement.
    """
    _check_annotators(annotators, len(annotator_logits))
    return (torch.softmax(working(annotator_logits), -1) @ working(prototypes))[annotators]


def pal_scores(features: Float[Tensor, "B D"], points: Float[Tensor, "B D"]) -> Scores:
    """-|x - a|: nearer to the ideal point is better (Chen et al. 2024, PAL-A); a score for any pair loss."""
    check_same_shape(features=features, points=points)
    return -torch.linalg.vector_norm(working(features) - points, dim=-1)


def projected_scores(features: Float[Tensor, "B D"], points: Float[Tensor, "B D"]) -> Scores:
    """x . a: the inner-product form, where prototypes are reward directions; a variant of PAL-B.

    The form is that of PAL-B's code (Chen et al. 2024); the paper's equations could not be read. There a
    network makes the prototypes of each context, here they are what is given.
    """
    check_same_shape(features=features, points=points)
    return (working(features) * points).sum(-1)


def smooth_hinge(score_a: Pairs, score_b: Pairs, labels: Pairs | None, *, width: float = 5.0) -> Pairs:
    """(1-h)_+^2 / (2g) where h >= 1 - g, and its tangent 1 - g/2 - h below: the smooth hinge of PAL's code.

    Args:
        score_a: Scores of the first.
        score_b: Scores of the second.
        labels: Chance that the first is better.
        width: g, over which the hinge bends.
    """
    check_positive(width=width)
    a, b, y = prepare_pair(score_a, score_b, labels)

    def bend(h: Tensor) -> Tensor:
        short = F.relu(1.0 - h)
        return torch.where(short <= width, short.square() / (2.0 * width), short - 0.5 * width)

    h = a - b
    return bend(h) if y is None else torch.lerp(bend(-h), bend(h), y)


def adapt_annotator(
    prototypes: Float[Tensor, "K D"],
    features_a: Float[Tensor, "B D"],
    features_b: Float[Tensor, "B D"],
    labels: Scores,
    *,
    steps: int = 200,
    learning_rate: float = 0.1,
    shrinkage: float = 0.01,
) -> Float[Tensor, " K"]:
    """Fit the mixture of a new annotator to a few judgements; prototypes and features stay as they are (PAL).

    Args:
        prototypes: From a fitted model.
        features_a: Features of the first of each pair.
        features_b: Features of the second.
        labels: Chance that the first is better, said the new annotator.
        steps: Steps of Adam, from the uniform mixture.
        learning_rate: Of those.
        shrinkage: Weight of the squared logits, which keeps a perfectly separable answer finite.

    Returns:
        The logits of the mixture.
    """
    check_positive(steps=steps, learning_rate=learning_rate, shrinkage=shrinkage)
    check_labels(labels)
    prototypes, a, b = (working(x.detach()) for x in (prototypes, features_a, features_b))
    logits = torch.zeros(
        1, len(prototypes), dtype=prototypes.dtype, device=prototypes.device, requires_grad=True
    )
    nobody_else = torch.zeros(len(a), dtype=torch.long, device=a.device)
    optimiser = torch.optim.Adam([logits], lr=learning_rate)
    with torch.enable_grad():
        for _ in range(steps):
            points = ideal_points(prototypes, logits, nobody_else)
            losses = bradley_terry(pal_scores(a, points), pal_scores(b, points), labels)
            optimiser.zero_grad()
            (losses.mean() + shrinkage * logits.square().sum()).backward()
            optimiser.step()
    return logits.detach()[0]


def min_norm_weights(gradients: Float[Tensor, "S P"], *, iterations: int = 250) -> Float[Tensor, " S"]:
    """Simplex weights of the shortest combination of gradients: MGDA (Sener and Koltun 2018), for MORE.

    Two sources have the closed form clip((g2 - g1).g2 / |g1 - g2|^2); more are found by Frank-Wolfe on the
    S x S products. Take gradients of the last layer and average weights over time (:func:`smoothed_weights`).

    Raises:
        DataError: There is no gradient, or one is not finite.
    """
    if values_can_be_read() and not bool(gradients.isfinite().all()):
        raise DataError("Gradients of the sources must be finite.")
    flat = working(gradients.detach())
    products = flat @ flat.T
    weights = torch.full_like(products[0], 1.0 / len(flat))
    if len(flat) == 1:
        return weights
    if len(flat) == 2:
        return _towards(torch.eye(2, dtype=flat.dtype, device=flat.device)[1], 0, products)
    for _ in range(iterations):
        steepest = int((products @ weights).argmin())
        weights = _towards(weights, steepest, products)
    return weights


def _towards(weights: Tensor, corner: int, products: Tensor) -> Tensor:
    """Point of the segment from ``weights`` to a corner of the simplex where the combination is shortest."""
    direction = -weights.clone()
    direction[corner] += 1.0
    curvature = direction @ products @ direction
    step = -(direction @ products @ weights) / curvature.clamp(min=torch.finfo(weights.dtype).tiny)
    return weights + step.clamp(0.0, 1.0) * direction


def smoothed_weights(
    weights: Float[Tensor, " S"], previous: Float[Tensor, " S"] | None, *, momentum: float = 0.9
) -> Float[Tensor, " S"]:
    """Running mean of source weights, as MORE keeps them (its EMA)."""
    if not 0 <= momentum < 1:
        raise ConfigError(f"momentum must lie in [0, 1), got {momentum}.")
    return weights if previous is None else torch.lerp(weights, previous, momentum)


def preferred_objective_weights(
    chosen_rewards: Float[Tensor, "B K"],
    mean: Float[Tensor, " K"],
    deviation: Float[Tensor, " K"],
    *,
    temperature: float = 1.0,
) -> Float[Tensor, "B K"]:
    """w* = softmax of the normalised rewards of what was preferred: the target of PRO's adapter.

    Args:
        chosen_rewards: K rewards (success, safety, speed, smoothness ...) of the preferred behaviour.
        mean: Mean of each reward over the data.
        deviation: Its standard deviation, above 0.
        temperature: Of the softmax; ours, the paper's could not be read.
    """
    check_positive(temperature=temperature)
    if values_can_be_read() and not bool((deviation > 0).all()):
        raise DataError("Every objective needs a deviation above 0: a constant one cannot be weighed.")
    return torch.softmax((working(chosen_rewards) - mean) / deviation / temperature, -1)


def objective_weights_loss(logits: Float[Tensor, "B K"], targets: Float[Tensor, "B K"]) -> Scores:
    """KL(w* || softmax(logits)): fits the adapter context -> weights (Preference Orchestrator, PRO).

    The direction of the KL was read in a summary only.
    """
    check_same_shape(logits=logits, targets=targets)
    return F.kl_div(F.log_softmax(working(logits), -1), working(targets), reduction="none").sum(-1)
