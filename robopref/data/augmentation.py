"""More pairs from the same data: other goals and other instructions for behaviour that is already there.

Letters used in shapes: N pairs or segments.
"""

from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Float, Float32, Int, Int64

from robopref.data.preferences import Preferences, Segments
from robopref.errors import DataError


@no_type_check  # __post_init__ converts and checks, always
@dataclass(frozen=True, eq=False)
class GoalPreferences:
    """Preferences under a goal: which of two segments serves it better.

    Attributes:
        preferences: The pairs.
        goal: Score that is asked for, one for each pair; a policy or reward gets it as an input.
    """

    preferences: Preferences
    goal: Float32[np.ndarray, " N"]

    def __post_init__(self):
        goal = np.asarray(self.goal, np.float32)
        if goal.shape != (len(self.preferences),) or not np.isfinite(goal).all():
            raise DataError(
                f"There must be a finite goal for each of {len(self.preferences)} pairs, got {goal}."
            )
        object.__setattr__(self, "goal", goal)


def reward_conditioned(
    preferences: Preferences, score_a: Float[np.ndarray, " N"], score_b: Float[np.ndarray, " N"]
) -> GoalPreferences:
    """Every pair twice: to reach the better score, and to reach the worse one, where the order turns round.

    So what is good in the rejected segment is not unlearned; at run time the goal is the best score
    (reward-augmented data, Zhang et al. 2024). A tie takes the goals of a and then of b, and stays a tie.

    Args:
        preferences: N pairs.
        score_a: Score of each segment a, for example its return.
        score_b: Score of each segment b.

    Returns:
        2 N pairs: the first N in their order with the preferred one's score as goal, then the same again with
        reversed labels and the other's score.

    Raises:
        DataError: Scores of another number, or not finite.
    """
    if not (len(score_a) == len(score_b) == len(preferences)):
        raise DataError(
            f"Each of {len(preferences)} pairs needs two scores, got {len(score_a)} and {len(score_b)}."
        )
    first = preferences.label >= 0.5
    goals = np.concatenate([np.where(first, score_a, score_b), np.where(first, score_b, score_a)])
    turned = Preferences(preferences.a, preferences.b, 1 - preferences.label, preferences.confidence)
    return GoalPreferences(Preferences.concatenate([preferences, turned]), goals)


@no_type_check
@dataclass(frozen=True, eq=False)
class InstructionPairs:
    """One behaviour and two instructions, of which it fulfils the first (MAPL's pairs within one sample).

    The loss is :func:`robopref.objectives.contrast.same_behaviour`.
    """

    segments: Segments
    fitting: Int64[np.ndarray, " N"]
    other: Int64[np.ndarray, " N"]

    def __post_init__(self):
        for name in ("fitting", "other"):
            column = np.asarray(getattr(self, name), np.int64)
            if column.shape != (len(self.segments),):
                raise DataError(f"InstructionPairs: {name} must be {len(self.segments)} numbers.")
            object.__setattr__(self, name, column)
        same = np.flatnonzero(self.fitting == self.other)
        if len(same):
            raise DataError(f"InstructionPairs: pair {same[0]} has instruction {self.other[same[0]]} twice.")


def hindsight_pairs(
    segments: Segments, achieved: Int[np.ndarray, " N"], instructions: int, rng: np.random.Generator
) -> InstructionPairs:
    """Ask of every segment what it did achieve, beside an instruction that it did not.

    Args:
        segments: What was done.
        achieved: Number of the instruction that each fulfils, seen in hindsight.
        instructions: How many there are; the other one is drawn evenly from the rest.
        rng: Draws it.

    Raises:
        DataError: Fewer than two instructions, or one that does not exist.
    """
    achieved = np.asarray(achieved)
    if instructions < 2 or ((achieved < 0) | (achieved >= instructions)).any():
        raise DataError(
            f"achieved must name one of two or more instructions, got {instructions} and {achieved}."
        )
    drawn = rng.integers(instructions - 1, size=len(achieved))
    return InstructionPairs(segments, achieved, drawn + (drawn >= achieved))
