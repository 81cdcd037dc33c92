"""Losses of diffusion and flow policies, from their squared errors and velocities.

Errors are those of :func:`robopref.objectives.scores.pair_log_ratios`: policy and reference, and both members
of a pair, share their draws of time and noise.

Letters used in shapes: B pairs or actions, C steps of an action chunk, A action dimensions, P parameters.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from robopref.errors import ConfigError, DataError, unknown_name
from robopref.objectives.checks import (
    check_labels,
    check_not_negative,
    check_positive,
    check_same_shape,
    working,
)
from robopref.objectives.pairs import bradley_terry, sigmoid_link
from robopref.objectives.stable import softplus

Scores = Float[Tensor, " B"]
Labels = Float[Tensor, " B"] | None
Chunks = Float[Tensor, "B C A"]
LINKS = {"logsigmoid": bradley_terry, "sigmoid": sigmoid_link}


def diffusion_dpo(
    error_a: Scores,
    error_b: Scores,
    labels: Labels,
    reference_error_a: Scores,
    reference_error_b: Scores,
    *,
    beta: float = 2000.0,
    link: str = "logsigmoid",
) -> Scores:
    """-ls(-beta/2 [(e_w - e_l) - (e_w_ref - e_l_ref)]): Diffusion-DPO (Wallace et al. 2023).

    InPO is the same on inverted noise (:func:`invert`); DeformPAM is ``link="sigmoid"`` with twice its beta.

    Args:
        error_a: MEAN squared error of the first under the policy.
        error_b: The same of the second.
        labels: Chance that the first is better.
        reference_error_a: Error of the first under the frozen reference, same time and noise.
        reference_error_b: Error of the second under it.
        beta: 2000 to 5000 for means over all dimensions; divide by their number for sums.
        link: ``logsigmoid`` or ``sigmoid``, the bounded one.
    """
    check_positive(beta=beta)
    if link not in LINKS:
        raise ConfigError(unknown_name("link", link, LINKS))
    check_same_shape(
        error_a=error_a, reference_error_a=reference_error_a, reference_error_b=reference_error_b
    )
    score_a = (0.5 * beta) * (working(reference_error_a.detach()) - working(error_a))
    score_b = (0.5 * beta) * (working(reference_error_b.detach()) - working(error_b))
    return LINKS[link](score_a, score_b, labels)


def invert(
    predict_noise: Callable[[Float[Tensor, "*B C A"], int], Float[Tensor, "*B C A"]],
    actions: Float[Tensor, "*B C A"],
    signal_levels: Float[Tensor, "S *#B"],
) -> Float[Tensor, "*B C A"]:
    """Deterministic DDIM inversion: the noisy chunk from which DDIM would come back to ``actions`` (InPO).

    Each step reads the noise e at the present point and goes up one level, keeping the implied clean action:
    x' = sqrt(s') (x - sqrt(1-s) e) / sqrt(s) + sqrt(1-s') e.

    Args:
        predict_noise: (chunk, number of its level) -> predicted noise; called without recording gradients.
        actions: Clean action chunks.
        signal_levels: s = cumulative alpha, from 1 (clean) falling to the wanted level, above 0; the same
            for all chunks, or each its own. A level may repeat, which moves nothing.

    Raises:
        DataError: Levels do not start at 1, rise, or reach 0.
    """
    levels = working(signal_levels)
    wrong = bool((levels[0] != 1).any() or (levels <= 0).any() or (levels.diff(dim=0) > 0).any())
    if len(levels) < 2 or wrong:
        raise DataError(f"signal_levels must start at 1 and fall, staying above 0, got {levels.tolist()}.")
    noisy = working(actions)
    with torch.no_grad():
        for number, (now, then) in enumerate(pairwise(levels[..., None, None])):
            noise = predict_noise(noisy, number)
            clean = (noisy - (1 - now).sqrt() * noise) / now.sqrt()
            noisy = then.sqrt() * clean + (1 - then).sqrt() * noise
    return noisy


def seppo(score_demonstration: Scores, score_sample: Scores, loses: Scores) -> Scores:
    """-ls(s_demo - c s_sample), c = 1 where the sample loses and -1 where it wins: a variant of SePPO.

    SePPO (Zhang et al. 2024) needs no rejected data: the second of each pair is sampled from an earlier
    checkpoint, and an anchor criterion says whether it is pushed down or pulled up along with the
    demonstration. The published code has no training loss; the sign form is ours, after the abstract.

    Args:
        score_demonstration: Scores of demonstrations.
        score_sample: Scores of samples of earlier checkpoints, from the same start.
        loses: Chance that the sample is the worse one: 1, 0, or between, from :func:`anchor`.
    """
    check_same_shape(score_demonstration=score_demonstration, score_sample=score_sample, loses=loses)
    check_labels(loses)
    demo, sample = working(score_demonstration), working(score_sample)
    return torch.lerp(softplus(-demo - sample), softplus(sample - demo), loses.to(demo.dtype))


def anchor(score_sample: Scores, score_demonstration: Scores) -> Scores:
    """1 where the policy ranks the sample below the demonstration, hence may push it away; 0 elsewhere.

    Our criterion for :func:`seppo`; the paper's own could not be read.
    """
    check_same_shape(score_sample=score_sample, score_demonstration=score_demonstration)
    return (score_sample.detach() < score_demonstration.detach()).to(working(score_sample).dtype)


def ac_flow(
    errors: Scores,
    drifts: Scores,
    advantages: Scores,
    *,
    temperature: float = 1.0,
    clip: float = 2.0,
    anchor_weight: float = 0.1,
) -> Scores:
    """w |v - u|^2 + a |v - v_ref|^2 with w = exp(clip(A) / temperature): a variant of AC-Flow.

    Advantage clipping, the weighted flow-matching loss and the Wasserstein anchor to the reference are the
    paper's as summarised; the exponential form of the weight is ours. So is a policy of predicted noise in
    place of the velocity v, which the form allows.

    Args:
        errors: |v - u|^2, mean square distance of what is predicted at drawn points of the path from what
            shall be (action minus noise).
        drifts: |v - v_ref|^2, of the predictions of policy and frozen reference at the same points.
        advantages: A, a critic's reward of the action less its value of the point.
        temperature: Of the weight; lower means greedier.
        clip: Advantages are cut to [-clip, clip].
        anchor_weight: a.
    """
    check_positive(temperature=temperature, clip=clip)
    check_not_negative(anchor_weight=anchor_weight)
    check_same_shape(errors=errors, drifts=drifts, advantages=advantages)
    weights = torch.exp(working(advantages.detach()).clamp(-clip, clip) / temperature)
    return weights * working(errors) + anchor_weight * working(drifts)


def nft_flow(
    errors: Scores, old_errors: Scores, drifts: Scores, labels: Scores, *, beta: float = 1.0
) -> Scores:
    """y |v+ - u|^2 + (1-y) |v- - u|^2 with v+ = v_old + beta (v - v_old), v- = v_old - beta (v - v_old).

    The implicit-negative form of DiffusionNFT (Zheng et al. 2025), written down from memory: its adaptive
    weighting over time is left out. Written out in squares, with c = (v_old - u).(v - v_old) =
    (|v-u|^2 - |v_old-u|^2 - |v-v_old|^2) / 2, it is |v_old-u|^2 + beta^2 |v-v_old|^2 + 2 beta (2y - 1) c.

    Args:
        errors: |v - u|^2 of the policy, u being action minus noise.
        old_errors: |v_old - u|^2 of the policy that collected the data.
        drifts: |v - v_old|^2.
        labels: y, the chance that the behaviour was good (its reward in [0, 1]).
        beta: Strength of the guidance.
    """
    check_positive(beta=beta)
    check_same_shape(errors=errors, old_errors=old_errors, drifts=drifts, labels=labels)
    check_labels(labels)
    old, drifts = working(old_errors.detach()), working(drifts)
    twice_c = working(errors) - old - drifts
    return old + beta**2 * drifts + beta * (2 * labels.to(old.dtype) - 1) * twice_c


def mixing_weight(
    noisy_gradients: Float[Tensor, "S P"], calm_gradients: Float[Tensor, "S P"], truth: Float[Tensor, " P"]
) -> float:
    """alpha* = (B - C) / (A + B - 2C), for which alpha g_noisy + (1-alpha) g_calm is best (BVPO).

    A = E|g_noisy - g|^2, B = E|g_calm - g|^2, C = E(g_noisy - g).(g_calm - g). The closed form is our own
    derivation; mixing the losses instead, alpha L_noisy + (1-alpha) L_calm, gives the same gradient.

    Args:
        noisy_gradients: S samples of the unbiased gradient (one draw of time and noise).
        calm_gradients: S samples of the biased one of small variance (mean over times), drawn alongside.
        truth: Gradient from very many draws.

    Returns:
        alpha* in [0, 1]; 0.5 where the two never differ.
    """
    check_same_shape(noisy_gradients=noisy_gradients, calm_gradients=calm_gradients)
    noisy, calm = noisy_gradients - truth, calm_gradients - truth
    a, b = float(noisy.square().sum(-1).mean()), float(calm.square().sum(-1).mean())
    return best_mixture(a, b, float((noisy * calm).sum(-1).mean()))


def best_mixture(noisy_error: float, calm_error: float, shared_error: float) -> float:
    """alpha* = (B - C) / (A + B - 2C), clipped to [0, 1]; see :func:`mixing_weight`."""
    spread = noisy_error + calm_error - 2.0 * shared_error
    if not spread > 0:
        return 0.5
    return min(1.0, max(0.0, (calm_error - shared_error) / spread))


def mix(noisy: Scores, calm: Scores, alpha: float) -> Scores:
    """alpha L_noisy + (1 - alpha) L_calm (BVPO)."""
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha must lie in [0, 1], got {alpha}.")
    check_same_shape(noisy=noisy, calm=calm)
    return alpha * noisy + (1.0 - alpha) * calm
