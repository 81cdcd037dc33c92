"""What candidates are worth, how far that is to be trusted, and the one rule by which they are ranked.

The lab (torch) and the robot (NumPy) rank by this file: the columns are arrays or tensors of one shape.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Scores(NamedTuple):
    """Of each candidate what it is worth, and three kinds of doubt, which are never mixed.

    Attributes:
        mean: Its worth; with members, their mean.
        epistemic: What members of an ensemble disagree by: more labels would settle it. 0 without members.
        aleatoric: What each member leaves open, as labels differ: more labels of the same kind would not
            settle it.
        error: Standard error of an estimate from random draws: more draws would settle it, and it is no doubt
            about the candidate. 0 where nothing is estimated, NaN where it is not known (a single draw).
    """

    mean: Any
    epistemic: Any
    aleatoric: Any
    error: Any

    def value(self, pessimism: float) -> Any:
        """What candidates are ranked by: mean - pessimism * epistemic.

        Only what more labels would settle is taken off: there a ranking overrates what it knows least. The
        other two are reported, and cost a candidate nothing.
        """
        return self.mean - pessimism * self.epistemic


def product(factors: Sequence[Scores]) -> Scores:
    """Of the product of strengths exp(score): worths are added, doubts as independent errors."""
    means, *doubts = zip(*factors, strict=True)
    return Scores(sum(means), *(sum(doubt**2 for doubt in kind) ** 0.5 for kind in doubts))
