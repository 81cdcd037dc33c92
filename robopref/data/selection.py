"""Few data instead of many: the best ones that differ from each other (Deita, Liu et al. 2024).

Letters used in shapes: N items, D features, n kept items.
"""

import numpy as np
from jaxtyping import Float, Int

from robopref.errors import ConfigError, DataError


def score_first_diversity(
    scores: Float[np.ndarray, " N"],
    embeddings: Float[np.ndarray, "N D"],
    *,
    threshold: float = 0.9,
    budget: int | None = None,
) -> Int[np.ndarray, " n"]:
    """From the best item down, keep what is less similar than ``threshold`` to everything kept so far.

    Args:
        scores: Higher is better; Deita multiplies complexity and quality. Equal ones keep their order.
        embeddings: Features whose cosine says how alike two items are.
        threshold: Largest cosine similarity to a kept item, in (-1, 1]; above it an item is left out.
        budget: How many to keep at most.

    Returns:
        Numbers of the kept items, the best first.

    Raises:
        ConfigError: The threshold or the budget makes no sense.
        DataError: Sizes differ, something is not finite, or an embedding is zero and has no direction.
    """
    if not -1 < threshold <= 1:
        raise ConfigError(f"threshold is a cosine in (-1, 1], got {threshold}")
    if budget is not None and budget < 1:
        raise ConfigError(f"budget must be at least 1 (or None, for no limit), got {budget}")
    if len(scores) != len(embeddings):
        raise DataError(
            f"There must be one score for each embedding, got {len(scores)} and {len(embeddings)}"
        )
    norms = np.linalg.norm(embeddings, axis=1)
    bad = np.flatnonzero(~(np.isfinite(scores) & np.isfinite(norms) & (norms > 0)))
    if len(bad):
        raise DataError(
            f"Item {bad[0]} has the score {scores[bad[0]]} and an embedding of length {norms[bad[0]]}: "
            "scores must be finite, lengths finite and above 0"
        )
    directions = embeddings / norms[:, None]
    kept: list[int] = []
    for item in np.argsort(-scores, kind="stable"):
        if budget is not None and len(kept) == budget:
            break
        if not kept or float((directions[kept] @ directions[item]).max()) < threshold:
            kept.append(int(item))
    return np.array(kept, np.int64)
