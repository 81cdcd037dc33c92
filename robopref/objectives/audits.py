"""Audits of labels, rewards and policies: what a falling loss does not show.

Letters used in shapes: B pairs, N segments, D features, F factors, C checkpoints.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from robopref.errors import ConfigError, DataError
from robopref.objectives.checks import check_in_range, check_labels, check_positive, check_same_shape, working
from robopref.objectives.stable import softplus

Scores = Float[Tensor, " B"]


def _share(won: Tensor, tied: Tensor, labels: Tensor) -> float:
    """Share of decided pairs (label not 0.5) won by the labelled one; a tie of scores counts one half."""
    decided = labels != 0.5
    if not bool(decided.any()):
        raise DataError("Every label is a tie: there is no order to be accurate about.")
    right = torch.where(tied, 0.5, torch.where(won == (labels > 0.5), 1.0, 0.0))
    return float(right[decided].mean())


def ranking_accuracy(log_prob_a: Scores, log_prob_b: Scores, labels: Scores) -> float:
    """Share of pairs in which the POLICY finds the preferred one likelier (Chen et al. 2024).

    Ask it of summed and of mean log-probabilities: the two differ, and both differ from
    :func:`reward_accuracy`. Ties of labels are left out.
    """
    check_same_shape(log_prob_a=log_prob_a, log_prob_b=log_prob_b, labels=labels)
    check_labels(labels)
    return _share(log_prob_a > log_prob_b, log_prob_a == log_prob_b, labels)


def reward_accuracy(score_a: Scores, score_b: Scores, labels: Scores) -> float:
    """Share of pairs in which the SCORE (log-ratio or return) of the preferred one is higher."""
    return ranking_accuracy(score_a, score_b, labels)


def difficulty(reference_a: Scores, reference_b: Scores, labels: Scores) -> Scores:
    """c = log pi_ref(l) / pi_ref(w): how far the reference has the pair wrong; negative where it is right.

    A curriculum sorts by it. Soft labels take the more likely order; a tie has difficulty 0.
    """
    check_same_shape(reference_a=reference_a, reference_b=reference_b, labels=labels)
    check_labels(labels)
    return torch.sign(labels - 0.5) * (working(reference_b) - working(reference_a))


def ranking_threshold(difficulties: Scores, *, beta: float) -> Scores:
    """-ls(beta c): the DPO loss at or below which a pair is ranked right (Chen et al. 2024, theorem 4.1)."""
    check_positive(beta=beta)
    return softplus(-beta * working(difficulties))


def idealised_accuracy(
    reference_a: Scores, reference_b: Scores, labels: Scores, *, beta: float, floor: float = 1e-6
) -> float:
    """Ranking accuracy of the exact optimum of DPO (corollary 3.3): what better optimisation could reach.

    The optimum ranks w above l iff log ref(w) - log ref(l) + logit(P(w over l)) / beta > 0.

    Args:
        reference_a: Log-probability of the first under the reference.
        reference_b: The same of the second.
        labels: Chance that the first is better.
        beta: DPO's.
        floor: Labels are kept this far from 0 and 1, where the logit is infinite.
    """
    check_positive(beta=beta)
    check_same_shape(reference_a=reference_a, reference_b=reference_b, labels=labels)
    check_labels(labels)
    labels = labels.to(working(reference_a).dtype)
    optimum = working(reference_a) - working(reference_b) + torch.logit(labels, eps=floor) / beta
    return _share(optimum > 0, optimum == 0, labels)


def area_under_curve(scores: Float[Tensor, " N"], positive: Bool[Tensor, " N"]) -> float:
    """Chance that a positive scores above a negative, ties one half (Mann-Whitney)."""
    check_same_shape(scores=scores, positive=positive)
    high, low = scores[positive], scores[~positive].sort().values
    if len(high) == 0 or len(low) == 0:
        raise DataError("The area under the curve needs positives and negatives.")
    below = torch.searchsorted(low, high, right=False)
    upto = torch.searchsorted(low, high, right=True)
    return float((below + upto).double().mean()) / (2 * len(low))


def separability(
    preferred: Float[Tensor, "B D"],
    rejected: Float[Tensor, "B D"],
    *,
    folds: int = 5,
    shrinkage: float = 1e-2,
    generator: torch.Generator,
) -> float:
    """Cross-validated AUC of a logistic probe that tells preferred from rejected by cheap features alone.

    Near 1 a reward model can take a short cut (which policy, which camera, how fast) and learn nothing of the
    task: *More is Less*. Warn above 0.9. Both members of a pair fall into one fold.

    Args:
        preferred: Features that should NOT decide: policy id, length, camera, speed.
        rejected: The same of the other member.
        folds: At least 2, at most the number of pairs.
        shrinkage: Weight of the squared coefficients.
        generator: Deals the pairs into folds; on the CPU.

    Returns:
        AUC over the held-out scores of all folds; 0.5 is chance.
    """
    check_same_shape(preferred=preferred, rejected=rejected)
    check_positive(shrinkage=shrinkage)
    pairs = len(preferred)
    if not 2 <= folds <= pairs:
        raise ConfigError(f"folds must lie in 2 ... {pairs} (the number of pairs), got {folds}.")
    features = torch.stack([preferred, rejected]).detach().double()
    if not bool(features.isfinite().all()):
        raise DataError("Features of the separability probe must be finite.")
    fold = (torch.randperm(pairs, generator=generator) % folds).to(features.device)
    areas = []
    for held_out in range(folds):
        train, test = features[:, fold != held_out], features[:, fold == held_out]
        scale = train.std((0, 1), correction=0)
        constant = scale < 1e-12
        train, test = ((x - train.mean((0, 1))) / scale.masked_fill(constant, 1.0) for x in (train, test))
        weights = _logistic(train.flatten(0, 1), torch.arange(2 * train.shape[1]) < train.shape[1], shrinkage)
        scores = (test @ weights).flatten()
        areas.append(
            area_under_curve(scores, torch.arange(len(scores), device=scores.device) < test.shape[1])
        )
    return sum(areas) / folds


def _logistic(features: Tensor, positive: Tensor, shrinkage: float) -> Tensor:
    """Coefficients of a logistic regression without intercept (classes are balanced), by Newton's method."""
    y = positive.to(features)
    weights = torch.zeros(features.shape[1], dtype=features.dtype, device=features.device)
    ridge = shrinkage * torch.eye(features.shape[1], dtype=features.dtype, device=features.device)
    for _ in range(25):
        chance = torch.sigmoid(features @ weights)
        gradient = features.T @ (chance - y) / len(y) + shrinkage * weights
        curvature = (features.T * (chance * (1 - chance))) @ features / len(y) + ridge
        step = torch.linalg.solve(curvature, gradient)
        weights = weights - step
        if float(step.abs().max()) < 1e-9:
            break
    return weights


def swapped_order(first: Scores, swapped: Scores) -> dict[str, float]:
    """Does a judge say the same when a pair is shown the other way round? (JudgeBench; judging bias.)

    Args:
        first: Chance that a is better, a shown first.
        swapped: Chance that a is better, b shown first.

    Returns:
        ``consistent``: share of pairs with the same verdict (above, at, or below one half). ``flipped``:
        share with opposite verdicts. ``later_position``: among those flipped, the share that chose what was
        shown last (0.5 if none flipped). ``gap``: mean absolute difference of the two chances.
    """
    check_same_shape(first=first, swapped=swapped)
    check_labels(first)
    check_labels(swapped)
    verdict, again = torch.sign(first - 0.5), torch.sign(swapped - 0.5)
    flipped = verdict * again < 0
    later = flipped & (verdict < 0)  # shown first a loses, shown last it wins
    return {
        "consistent": float((verdict == again).double().mean()),
        "flipped": float(flipped.double().mean()),
        "later_position": float(later.sum()) / int(flipped.sum()) if bool(flipped.any()) else 0.5,
        "gap": float((first - swapped).abs().double().mean()),
    }


def factor_agreement(
    factors_a: Float[Tensor, "B F"], factors_b: Float[Tensor, "B F"], labels: Scores
) -> Float[Tensor, " F"]:
    """Kendall's tau of each factor's difference with the preference, in [-1, 1] (PROFILE, Oh et al. 2024).

    Factors are path length, jerk, clearance, time, success ... ; pairs that a factor or a label ties are left
    out of that factor, NaN never appears: a factor that always ties has agreement 0.
    """
    check_same_shape(factors_a=factors_a, factors_b=factors_b)
    check_same_shape(pairs=factors_a[:, 0], labels=labels)
    check_labels(labels)
    agree = torch.sign(working(factors_a) - working(factors_b)) * torch.sign(labels - 0.5)[:, None]
    return agree.sum(0) / (agree != 0).sum(0).clamp(min=1)


def drift(agreements: Float[Tensor, "C F"]) -> Float[Tensor, " F"]:
    """Change of each factor's agreement from the first checkpoint to the last (*Value drifts*)."""
    if len(agreements) < 2:
        raise DataError("A drift needs at least 2 checkpoints.")
    return agreements[-1] - agreements[0]


def collapse(
    chosen_change: float, divergence: float, *, fall: float = 1.0, drift: float = 10.0
) -> dict[str, float | bool | str]:
    """Say whether a policy learned from preferences has collapsed: the gate that a falling loss passes.

    A pair loss falls as well when both members become unlikely, the rejected one faster (likelihood
    displacement). A policy that no longer does what was preferred has not learned it.

    Args:
        chosen_change: Mean over preferred steps of log pi - log pi_ref, in nats per step.
        divergence: Mean KL(pi_ref || pi), in nats per step.
        fall: Largest loss of likelihood, in nats per step.
        drift: Largest divergence.

    Returns:
        The two numbers, ``collapsed``, and ``reason`` (empty if it has not).
    """
    check_positive(fall=fall, drift=drift)
    reasons = []
    if not chosen_change >= -fall:
        reasons.append(f"preferred actions lost {-chosen_change:.3g} nats of likelihood per step")
    if not divergence <= drift:
        reasons.append(f"the divergence from the reference is {divergence:.3g} nats per step")
    return {
        "chosen_change": chosen_change,
        "kl": divergence,
        "collapsed": bool(reasons),
        "reason": " and ".join(reasons),
    }


def sampled_collapse(
    error: float, reference_error: float, *, growth: float = 1.5
) -> dict[str, float | bool | str]:
    """Say whether samples have left what was preferred: the gate of diffusion and flow policies.

    Their scores are no likelihoods: a plain pair loss destroyed a small flow policy, whose samples ended 20
    times farther from the preferred chunks, while its loss fell to 0.04 and every pair was ordered right.

    Args:
        error: Mean squared distance of sampled chunks from preferred ones.
        reference_error: The same of the reference, from the same noise.
        growth: Largest ratio of the two.

    Returns:
        The two numbers, ``collapsed``, and ``reason`` (empty if it has not).
    """
    check_positive(growth=growth)
    collapsed = not error <= growth * reference_error
    return {
        "sampled_error": error,
        "reference_sampled_error": reference_error,
        "collapsed": collapsed,
        "reason": f"samples miss preferred actions by {error:.3g} (squared), the reference's by "
        f"{reference_error:.3g}"
        if collapsed
        else "",
    }


def attention_share(
    score: Callable[[Tensor], Tensor], observations: Float[Tensor, "B L O"], entries: Sequence[int]
) -> Scores:
    """Share of what a score looks at that lies in some entries of the observations, in [0, 1].

    A variant after MIA-DPO (Liu et al. 2024), which keeps a rejected answer where the model's attention
    lay on the wrong image. A policy of states has no attention: |gradient| times the spread of the entry
    takes its place. Keep the pairs whose rejected member has a large share on distractors.

    Args:
        score: (B, L, O) -> one number per segment, differentiable: a log-likelihood or a predicted return.
        observations: Of the segments.
        entries: Those of the distractors.

    Raises:
        DataError: An entry does not exist.
    """
    size = observations.shape[-1]
    if any(not 0 <= entry < size for entry in entries):
        raise DataError(f"Observations have entries 0 ... {size - 1}, got {list(entries)}.")
    seen = observations.detach().clone().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(score(seen).sum(), seen)
    looked = (gradient.abs() * observations.flatten(0, 1).std(0, correction=0)).sum(1)
    return looked[:, list(entries)].sum(-1) / looked.sum(-1).clamp(min=torch.finfo(looked.dtype).tiny)


def personalisation_delta(adapted: Scores, pooled: Scores) -> dict[str, float]:
    """Does adapting to each annotator help? Mean gain over one model for all, and share made worse.

    Args:
        adapted: Score (accuracy, say) of the model adapted to each annotator, on that annotator's judgements.
        pooled: Score of the one model for all, on the same.
    """
    check_same_shape(adapted=adapted, pooled=pooled)
    gain = working(adapted) - working(pooled)
    return {"mean_gain": float(gain.mean()), "share_worse": float((gain < 0).double().mean())}


def weak_to_strong_conflict(weak: Scores, weak_deviation: Scores, strong: Scores) -> dict[str, float]:
    """How often a strong model contradicts its weak teacher where the teacher was sure, and where it was not.

    Args:
        weak: Margin that the teacher gives each pair.
        weak_deviation: Its spread over the teacher's ensemble, at least 0.
        strong: Margin that the student gives.

    Returns:
        Share of opposite signs among the surer and the less sure half: ``known`` and ``unknown``.
    """
    check_same_shape(weak=weak, weak_deviation=weak_deviation, strong=strong)
    check_in_range("weak_deviation", weak_deviation, 0.0, math.inf, "a standard deviation")
    opposite = (weak * strong < 0).double()
    unsure = weak_deviation > weak_deviation.median()
    if not bool(unsure.any()):
        return {"known": float(opposite.mean()), "unknown": float(opposite.mean())}
    return {"known": float(opposite[~unsure].mean()), "unknown": float(opposite[unsure].mean())}
