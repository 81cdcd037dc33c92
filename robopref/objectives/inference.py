"""Preferences at run time: no training, only a choice among candidates or a blend of two policies.

Letters used in shapes: B states, N candidates, K objectives, "..." any axes.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from robopref.errors import ConfigError, DataError
from robopref.objectives.checks import check_not_negative, check_same_shape, values_can_be_read, working


def guided(
    reference: Float[Tensor, " *shape"],
    aligned: Float[Tensor, " *shape"],
    weight: float = 1.6,
    *,
    low: float | None = None,
    high: float | None = None,
) -> Float[Tensor, " *shape"]:
    """ref + w (aligned - ref): reinforcement-learning guidance, RLG (2025).

    Of velocities, predicted noise or token logits. 0 is the reference, 1 the aligned policy, above 1 goes on
    in its direction as if trained with beta / w; between 0 and 1 it samples IPO-MD's geometric mixture.

    Args:
        reference: Prediction of the reference policy.
        aligned: Prediction of the aligned policy for the same input.
        weight: w, finite and at least 0.
        low: Where the arguments are ACTIONS: their lower limit. w > 1 steps over limits.
        high: Their upper limit.
    """
    check_not_negative(weight=weight)
    check_same_shape(reference=reference, aligned=aligned)
    blended = reference + weight * (aligned - reference)
    return blended if low is None and high is None else blended.clamp(low, high)


def best_of(
    means: Float[Tensor, "B N"], deviations: Float[Tensor, "B N"] | None = None, *, caution: float = 0.0
) -> Int[Tensor, " B"]:
    """Index of the candidate with the largest mean - caution * deviation (DeformPAM; PEARL's spread).

    Args:
        means: Score of each candidate: a predicted return, or a surrogate log-ratio averaged over draws.
        deviations: Spread of each score over an ensemble; needed where ``caution`` is above 0.
        caution: Standard deviations taken off.

    Raises:
        DataError: A score is not finite: no choice is better than a wrong one.
    """
    check_not_negative(caution=caution)
    if caution and deviations is None:
        raise ConfigError("caution above 0 needs the deviations of the scores.")
    check_same_shape(means=means, deviations=deviations)
    scores = means if deviations is None else means - caution * deviations
    if values_can_be_read() and not bool(scores.isfinite().all()):
        raise DataError("A candidate's score is not finite, so none can be chosen.")
    return scores.argmax(-1)


def nearby_directions(
    preference: Float[Tensor, " K"], count: int, *, angle_rad: float = 0.3, generator: torch.Generator
) -> Float[Tensor, "N K"]:
    """Unit directions within an angle of a preference vector, itself first: the neighbourhood of RPS.

    Angles are uniform in [0, angle], which crowds directions near the preference; the paper's distribution
    could not be read.

    Args:
        preference: v0, weights of K >= 2 objectives; not zero.
        count: N, at least 1.
        angle_rad: Largest angle, in (0, pi/2].
        generator: Source of randomness, on the device of ``preference``.
    """
    if count < 1 or not 0 < angle_rad <= math.pi / 2:
        raise ConfigError(
            f"count must be at least 1 and angle_rad in (0, pi/2], got {count} and {angle_rad}."
        )
    centre = working(preference)
    length = float(torch.linalg.vector_norm(centre))
    if len(centre) < 2 or not (math.isfinite(length) and length > 0):
        raise DataError("A preference needs at least 2 objectives, finite weights, and one that is not zero.")
    centre = centre / length
    sideways = torch.randn(count, len(centre), generator=generator, device=centre.device, dtype=centre.dtype)
    sideways = torch.nn.functional.normalize(sideways - (sideways @ centre)[:, None] * centre, dim=-1)
    angles = angle_rad * torch.rand(count, 1, generator=generator, device=centre.device, dtype=centre.dtype)
    angles[0] = 0.0
    return torch.cos(angles) * centre + torch.sin(angles) * sideways


def best_for_preference(
    rewards: Float[Tensor, "B N K"], preference: Float[Tensor, " K"]
) -> Int[Tensor, " B"]:
    """Index of the candidate with the largest v0 . r: the selection of RPS.

    Candidates are generated one for each of :func:`nearby_directions` and judged by the preference itself.
    """
    return best_of(working(rewards) @ working(preference))
