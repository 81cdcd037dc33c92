"""Bradley-Terry: from the returns of two segments to the chance that one is preferred.

Every function is pure and knows scores and labels only, so it can be checked by hand, differentiated,
and shared by reward models (scores are predicted returns) and policies (scaled log-ratios).

P(a preferred) = exp(R_a) / (exp(R_a) + exp(R_b)) = sigmoid(R_a - R_b)
(Bradley and Terry 1952; Christiano et al. 2017, arXiv 1706.03741, equation 1).

Letters used in shapes: B pairs in a batch; any axes in front (members, samples) are kept apart.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from robopref.errors import ConfigError, DataError
from robopref.objectives.checks import check_labels


def preference_logits(
    return_a: Float[Tensor, "*heads B"], return_b: Float[Tensor, "*heads B"]
) -> Float[Tensor, "*heads B"]:
    """Log-odds that ``a`` is preferred: the difference of the two returns."""
    if return_a.shape != return_b.shape:
        raise DataError(
            f"The returns must come in pairs, got shapes {tuple(return_a.shape)} and {tuple(return_b.shape)}"
        )
    return return_a - return_b


def preference_loss(
    logits: Float[Tensor, "*heads B"],
    labels: Float[Tensor, " B"],
    *,
    weights: Float[Tensor, " B"] | None = None,
    flip_prob: float = 0.0,
) -> Float[Tensor, "*heads"]:
    """Mean cross-entropy between soft labels and the Bradley-Terry probability.

    The mean is over pairs alone: logits of shape (M, B) give M losses, logits of shape (B,) give one number.

    Args:
        logits: Difference of the two scores, from :func:`preference_logits`.
        labels: 1 where ``a`` was preferred, 0 where ``b`` was, 0.5 for a tie.
        weights: How much each pair counts, not negative; the mean is weighted, so their scale is irrelevant.
            A batch whose weights are all zero has the loss 0.
        flip_prob: Chance that a label says the opposite of what was meant, in [0, 0.5).

    Raises:
        ConfigError: for a ``flip_prob`` outside [0, 0.5).
        DataError: where there are no pairs, the sizes disagree, or a label lies outside [0, 1].
    """
    if not 0 <= flip_prob < 0.5:
        raise ConfigError(f"flip_prob must lie in [0, 0.5), got {flip_prob}")
    pairs = logits.shape[-1]
    if pairs == 0:
        raise DataError("There is no loss over zero pairs")
    for name, values in (("labels", labels), ("weights", weights)):
        if values is not None and values.shape != (pairs,):
            raise DataError(
                f"{name} must have shape ({pairs},), one for each pair, got {tuple(values.shape)}"
            )
    check_labels(labels)
    targets = labels * (1 - flip_prob) + (1 - labels) * flip_prob
    losses = F.binary_cross_entropy_with_logits(logits, targets.expand_as(logits), reduction="none")
    if weights is None:
        return losses.mean(-1)
    return (losses * weights).sum(-1) / weights.sum().clamp(min=1e-12)


def sign_accuracy(logits: Float[Tensor, "*heads B"], labels: Float[Tensor, " B"]) -> Float[Tensor, ""]:
    """Share of untied pairs whose logit has the label's sign, over all heads; 0 if every pair is tied."""
    untied = labels != 0.5
    right = ((logits > 0) == (labels > 0.5)) & untied
    return right.sum() / (untied.sum() * logits.shape[:-1].numel()).clamp(min=1)
