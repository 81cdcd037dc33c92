"""Losses that look inside a trajectory: KL per token or step, masks, sub-sequences.

A token policy has its KL exactly, a Gaussian one in closed form; a diffusion policy takes the Gaussian form
on its denoising means. In the equations k is the sequential KL sum_t KL(pi_ref || pi) of one trajectory.

Letters used in shapes: B pairs or trajectories, T steps or tokens, V vocabulary, A action dimensions.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from robopref.errors import DataError
from robopref.objectives.checks import (
    check_not_negative,
    check_positive,
    check_same_shape,
    prepare_pair,
    values_can_be_read,
    working,
)
from robopref.objectives.pairs import bradley_terry
from robopref.objectives.scores import over_steps
from robopref.objectives.stable import softplus

Scores = Float[Tensor, " B"]
Labels = Float[Tensor, " B"] | None
Steps = Float[Tensor, "B T"]


def categorical_kl(
    reference_logits: Float[Tensor, " *B T V"], logits: Float[Tensor, " *B T V"]
) -> Float[Tensor, " *B T"]:
    """KL(pi_ref || pi) of each token, over the whole vocabulary; barred by -inf counts as 0 log 0."""
    check_same_shape(reference_logits=reference_logits, logits=logits)
    reference = F.log_softmax(working(reference_logits.detach()), -1)
    difference = reference - F.log_softmax(working(logits), -1)
    return (reference.exp() * torch.where(reference == -torch.inf, 0.0, difference)).sum(-1)


def gaussian_kl(
    reference_mean: Float[Tensor, " *B T A"],
    reference_deviation: Float[Tensor, " *B T A"],
    mean: Float[Tensor, " *B T A"],
    deviation: Float[Tensor, " *B T A"],
) -> Float[Tensor, " *B T"]:
    """KL(pi_ref || pi) of each step between diagonal Gaussians, summed over action dimensions.

    With equal deviations it is |mean_ref - mean|^2 / (2 deviation^2).

    Raises:
        DataError: A deviation is not above 0.
    """
    check_same_shape(
        mean=mean, deviation=deviation, reference_mean=reference_mean, reference_deviation=reference_deviation
    )
    if values_can_be_read() and not (bool((deviation > 0).all()) and bool((reference_deviation > 0).all())):
        raise DataError("Deviations must be above 0: a Gaussian without spread has no finite KL.")
    ratio = working(reference_deviation.detach()) / working(deviation)
    shift = (working(reference_mean.detach()) - working(mean)) / working(deviation)
    return (0.5 * (ratio.square() + shift.square() - 1.0) - ratio.log()).sum(-1)


def tdpo1(
    score_a: Scores, score_b: Scores, labels: Labels, kl_a: Scores, kl_b: Scores, *, beta: float = 0.1
) -> Scores:
    """-ls(h - beta (k_l - k_w)): token-level DPO, first form (Zeng et al. 2024).

    Args:
        score_a: beta times the summed log-ratio of the first.
        score_b: The same of the second.
        labels: Chance that the first is better.
        kl_a: Sequential KL of the first, from :func:`categorical_kl` or :func:`gaussian_kl`, summed.
        kl_b: The same of the second.
        beta: The factor that is already in the scores.
    """
    check_positive(beta=beta)
    check_same_shape(score_a=score_a, kl_a=kl_a, kl_b=kl_b)
    return bradley_terry(
        working(score_a).add(working(kl_a), alpha=beta),
        working(score_b).add(working(kl_b), alpha=beta),
        labels,
    )


def tdpo2(
    score_a: Scores,
    score_b: Scores,
    labels: Labels,
    kl_a: Scores,
    kl_b: Scores,
    *,
    beta: float = 0.1,
    kl_weight: float = 0.5,
) -> Scores:
    """-ls(h - alpha beta (k_l - sg(k_w))): token-level DPO, second form (Zeng et al. 2024).

    sg() stops the gradient: the winner's KL counts but is not pushed.

    Args:
        score_a: beta times the summed log-ratio of the first.
        score_b: The same of the second.
        labels: Chance that the first is better.
        kl_a: Sequential KL of the first.
        kl_b: Sequential KL of the second.
        beta: The factor that is already in the scores.
        kl_weight: alpha; 0 is DPO.
    """
    check_positive(beta=beta)
    check_not_negative(kl_weight=kl_weight)
    a, b, y = prepare_pair(score_a, score_b, labels)
    check_same_shape(score_a=a, kl_a=kl_a, kl_b=kl_b)
    kl_a, kl_b, h, scale = working(kl_a), working(kl_b), a - b, beta * kl_weight
    first = softplus(torch.sub(scale * (kl_b - kl_a.detach()), h))
    if y is None:
        return first
    second = softplus(h.add(kl_a - kl_b.detach(), alpha=scale))
    return torch.lerp(second, first, y)


def sparse_po(
    ratios_a: Steps,
    ratios_b: Steps,
    labels: Labels,
    kl_a: Steps,
    kl_b: Steps,
    gates_a: tuple[Steps, Steps],
    gates_b: tuple[Steps, Steps],
    mask_a: Bool[Tensor, "B T"] | None = None,
    mask_b: Bool[Tensor, "B T"] | None = None,
    *,
    beta: float = 0.1,
    kl_weight: float = 0.5,
    sparsity: float = 0.0,
) -> Scores:
    """TDPO with a gate on every token's log-ratio and KL: a variant of SparsePO (Christopoulou et al. 2024).

    u = sum gate_u log-ratio and d = sum gate_d KL, then -ls(beta (u_w - u_l) - alpha beta (d_l - sg(d_w))),
    plus ``sparsity`` times the mean gate. The form was read in a summary: the paper's regulariser and what it
    detaches may differ. Gates of one give :func:`tdpo2`.

    Args:
        ratios_a: Log-ratio of each step of the first, without beta.
        ratios_b: The same of the second.
        labels: Chance that the first is better.
        kl_a: KL of each step of the first.
        kl_b: The same of the second.
        gates_a: Gates of the first, on log-ratios and on KL: learned (ReLU), or from contacts and keyframes.
        gates_b: Gates of the second. The same tensor twice is the paper's common mask.
        mask_a: True where a step of the first counts.
        mask_b: True where a step of the second counts.
        beta: Scale of the score.
        kl_weight: alpha of :func:`tdpo2`.
        sparsity: Weight of the L1 norm of the gates, per counted step.
    """
    check_not_negative(sparsity=sparsity)
    sums: list[Tensor] = []
    size = torch.zeros(ratios_a.shape[0], device=ratios_a.device)
    for ratios, kl, gates, mask in ((ratios_a, kl_a, gates_a, mask_a), (ratios_b, kl_b, gates_b, mask_b)):
        check_same_shape(ratios=ratios, kl=kl, gate_of_ratios=gates[0], gate_of_kl=gates[1])
        sums += [over_steps(gates[0] * ratios, mask), over_steps(gates[1] * kl, mask)]
        if sparsity:
            size = size + over_steps(gates[0].abs() + gates[1].abs(), mask, reduce="mean")
    losses = tdpo2(beta * sums[0], beta * sums[2], labels, sums[1], sums[3], beta=beta, kl_weight=kl_weight)
    return losses.add(size.to(losses.dtype), alpha=0.25 * sparsity) if sparsity else losses


def surprise_gates(
    reference: Float[Tensor, "S T"], mask: Bool[Tensor, "S T"] | None = None
) -> Float[Tensor, "S T"]:
    """Gates of :func:`sparse_po` without anything to learn: what the reference did not expect counts.

    max(0, 1 + z), z the standardised -log pi_ref over all tokens of the batch, so that the mean gate is about
    one and what the reference was sure of has none. The paper takes the activations of the reference's layers
    for it, or learns the mask; its likelihood is ours, which every policy has.

    Args:
        reference: Log-probability of every token under the reference; no gradient flows into it.
        mask: True where a token counts.
    """
    check_same_shape(reference=reference, mask=mask)
    surprise = -working(reference.detach())
    counted = surprise if mask is None else surprise[mask]
    spread = counted.std(correction=0)
    return F.relu(1.0 + (surprise - counted.mean()) / spread.clamp(min=1e-6))


def rrpo(
    score_a: Scores, score_b: Scores, labels: Labels, kl_a: Scores, kl_b: Scores, *, kl_weight: float = 0.05
) -> Scores:
    """-ls(h) + alpha k_w: refined regularised preference optimisation (Sarkar et al. 2025).

    Scores come from the parts in which the two differ alone. Of rollouts from one state those are the
    steps from where they part, and sums over all steps do: what comes before cancels in h. Elsewhere pass
    masks of the parts (stages, say) to :func:`robopref.objectives.scores.log_ratio`. The sign of the KL is
    that of the authors' code, a penalty; their project page prints it the other way round.

    Args:
        score_a: beta times the log-ratio of the first over its differing parts.
        score_b: The same of the second.
        labels: Chance that the first is better.
        kl_a: Token-wise KL from the reference over the whole of the first.
        kl_b: The same of the second.
        kl_weight: alpha, 0.01 to 0.1 in the paper; 0 with one part covering all is DPO.
    """
    check_not_negative(kl_weight=kl_weight)
    losses = bradley_terry(score_a, score_b, labels)
    check_same_shape(losses=losses, kl_a=kl_a, kl_b=kl_b)
    a, b = working(kl_a), working(kl_b)
    chosen = a if labels is None else torch.lerp(b, a, labels.to(a.dtype))
    return losses.add(chosen, alpha=kl_weight)
