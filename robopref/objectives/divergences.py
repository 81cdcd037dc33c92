"""Other divergences from the reference than the reverse KL: each replaces the log-ratio by another score.

f-DPO (Wang et al. 2023) puts f'(u) of the ratio u = policy / reference where DPO has log u; constants that
cancel in a margin are chosen as in TRL 1.16, so that a policy equal to its reference scores 0 (and 0 under
Jensen-Shannon too).

Letters used in shapes: B trajectories.
"""

import math

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from robopref.errors import ConfigError, unknown_name
from robopref.objectives.checks import check_positive, working
from robopref.objectives.pairs import bradley_terry
from robopref.objectives.stable import tame_exp

Scores = Float[Tensor, " *B"]
DIVERGENCES = ("reverse_kl", "forward_kl", "js", "alpha")


def divergence_scores(
    log_ratios: Float[Tensor, " *B"], kind: str = "reverse_kl", *, alpha: float = 0.5
) -> Float[Tensor, " *B"]:
    """Score of each trajectory under an f-divergence (Wang et al. 2023); beta is not applied here.

    ``reverse_kl``: ell. ``forward_kl``: 1 - e^-ell. ``js``: log 2 + log sigmoid(ell).
    ``alpha``: (1 - e^(-alpha ell)) / alpha, which runs from the reverse KL (alpha -> 0) to the forward (1).
    Exponents above 20 continue as their tangent: a trajectory a billion times less likely than under the
    reference keeps a finite score and gradient.

    Args:
        log_ratios: ell, log-ratios summed over steps.
        kind: One of ``DIVERGENCES``.
        alpha: In (0, 1], for ``kind="alpha"``.

    Raises:
        ConfigError: The kind is unknown or alpha lies outside (0, 1].
    """
    if kind not in DIVERGENCES:
        raise ConfigError(unknown_name("divergence", kind, DIVERGENCES))
    check_positive(alpha=alpha)
    if alpha > 1:
        raise ConfigError(f"alpha must lie in (0, 1], got {alpha}.")
    ell = working(log_ratios)
    if kind == "forward_kl":
        return 1.0 - tame_exp(-ell)
    if kind == "js":
        return math.log(2.0) + F.logsigmoid(ell)
    if kind == "alpha":
        return (1.0 - tame_exp(-alpha * ell)) / alpha
    return ell


def f_dpo(
    score_a: Scores,
    score_b: Scores,
    labels: Scores | None,
    *,
    divergence: str = "js",
    alpha: float = 0.5,
    beta: float = 1.0,
) -> Scores:
    """-log sigmoid(beta [f'(u_w) - f'(u_l)]): DPO under another divergence (Wang et al. 2023, eq. 6).

    Args:
        score_a: Scores of the first: beta times log-ratios.
        score_b: Scores of the second.
        labels: Chance that the first is better; None where it always is.
        divergence: One of ``DIVERGENCES``, see :func:`divergence_scores`.
        alpha: In (0, 1], for ``divergence="alpha"``.
        beta: Factor that is already in the scores.

    Raises:
        ConfigError: The divergence is unknown, or alpha or beta lies outside its range.
    """
    check_positive(beta=beta)
    a, b = (beta * divergence_scores(s / beta, divergence, alpha=alpha) for s in (score_a, score_b))
    return bradley_terry(a, b, labels)
