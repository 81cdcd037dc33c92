"""Losses that contrast contexts instead of behaviours: instructions, and observations with something hidden.

Letters used in shapes: B trajectories.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from robopref.errors import DataError
from robopref.objectives.checks import check_not_negative, check_same_shape, working
from robopref.objectives.pairs import bradley_terry
from robopref.objectives.stable import softplus

Scores = Float[Tensor, " B"]


def mutual_information(log_likelihoods: Float[Tensor, "B B"]) -> Scores:
    """Symmetric InfoNCE of S_ij = log pi(trajectory i | instruction j): a label-free objective after SAMI.

    SAMI (Fraenken et al. 2024) maximises the information between a constitution and a response; for robots
    the constitution is the language instruction or style. The symmetric form is from memory.

    Args:
        log_likelihoods: S; the diagonal holds each trajectory under its own instruction.

    Raises:
        DataError: S is not square with at least 2 rows.
    """
    shape = log_likelihoods.shape
    if len(shape) != 2 or shape[0] != shape[1] or len(log_likelihoods) < 2:
        raise DataError(
            "Every trajectory needs the score of every instruction, at least 2 of each, got"
            f" {tuple(log_likelihoods.shape)}."
        )
    matrix = working(log_likelihoods)
    own = torch.arange(len(matrix), device=matrix.device)
    return 0.5 * (
        F.cross_entropy(matrix, own, reduction="none") + F.cross_entropy(matrix.T, own, reduction="none")
    )


def same_behaviour(score_fitting: Scores, score_other: Scores) -> Scores:
    """-ls(R(x_w, tau) - R(x_l, tau)): one trajectory fits its own instruction better than another (MAPL).

    Args:
        score_fitting: Score of each trajectory under the instruction it carries out (told in hindsight).
        score_other: Score of the same trajectory under another instruction.
    """
    return bradley_terry(score_fitting, score_other, None)


def with_visual_preference(
    losses: Scores, score_true: Scores, score_changed: Scores, *, weight: float = 1.0
) -> Scores:
    """loss - weight ls(s(true view) - s(changed view)): the winner must need what it sees (after Re-Align).

    Re-Align (Xing et al. 2025) compares a response under the true and a retrieved image; the form of the term
    was not readable and is Bradley-Terry here. Its short name rDPO is also that of the robust loss.

    Args:
        losses: Any loss of the pairs.
        score_true: Score of the preferred behaviour under the observation it was made from.
        score_changed: The same behaviour under a retrieved, blurred or masked observation.
        weight: Of the term.
    """
    check_not_negative(weight=weight)
    check_same_shape(losses=losses, score_true=score_true, score_changed=score_changed)
    return losses.add(softplus(working(score_changed) - working(score_true)), alpha=weight)
