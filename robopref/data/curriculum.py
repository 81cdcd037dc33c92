"""Easy pairs first: in which order preferences are learned (TEMPLE; curricula in general).

How hard a pair is can be said in several ways: how far the reference has it wrong, which is c of the ranking
theorem (``robopref.objectives.audits.difficulty``); how little a perturbed negative differs from its original
(:func:`perturbation_difficulty`); how close two returns are.

Letters used in shapes: B pairs, n pairs of a stage.
"""

import numpy as np
from jaxtyping import Float, Int

from robopref.errors import ConfigError, DataError


def curriculum(
    difficulty: Float[np.ndarray, " B"], *, stages: int, cumulative: bool = True
) -> list[Int[np.ndarray, " n"]]:
    """Pairs of each stage, from the easiest to the hardest; equally hard ones keep their order.

    Train on ``preferences.select(stage)``, one stage after the other.

    Args:
        difficulty: Of each pair; only the order matters.
        stages: How many.
        cumulative: Whether a stage holds all easier pairs too, so that the last one is everything.

    Raises:
        ConfigError: Fewer than one stage, or more stages than pairs.
        DataError: A difficulty is NaN.
    """
    if not 1 <= stages <= len(difficulty):
        raise ConfigError(f"stages must lie in 1 ... {len(difficulty)}, the number of pairs, got {stages}")
    unknown = np.flatnonzero(np.isnan(difficulty))
    if len(unknown):
        raise DataError(
            f"The difficulty of pair {unknown[0]} is NaN ({len(unknown)} of {len(difficulty)} are)"
        )
    order = np.argsort(difficulty, kind="stable")
    parts = np.array_split(order, stages)
    return [np.concatenate(parts[: k + 1]) for k in range(stages)] if cumulative else parts


def perturbation_difficulty(share_changed: Float[np.ndarray, " B"]) -> Float[np.ndarray, " B"]:
    """1 - the share of steps that a perturbation changed: little changed is hard to tell apart (TEMPLE)."""
    outside = np.flatnonzero(~((share_changed >= 0) & (share_changed <= 1)))
    if len(outside):
        raise DataError(f"A share lies in [0, 1]; pair {outside[0]} has {share_changed[outside[0]]}")
    return 1.0 - share_changed
