"""A coupling seen from afar: episodes in a few groups, from worst to best, and the mass between the groups.

Letters used in shapes: M source episodes, N target episodes, K groups of a side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from robopref.errors import DataError

GROUPS = 5


@dataclass(frozen=True, eq=False)
class Strata:
    """Groups of nearly as many episodes each, from worst to best.

    Attributes:
        source: Episodes of each group of the source.
        target: Episodes of each group of the target.
        mass: Share of all mass that goes from the row's group to the column's; they sum to 1.
    """

    source: tuple[Int[np.ndarray, " _"], ...]
    target: tuple[Int[np.ndarray, " _"], ...]
    mass: Float[np.ndarray, "K K"]

    @property
    def examples(self) -> tuple[list[int], list[int]]:
        """The middle episode of each group, of the source and of the target."""
        first, second = ([int(g[len(g) // 2]) for g in side] for side in (self.source, self.target))
        return first, second


def strata(
    plan: Float[np.ndarray, "M N"],
    source_order: Int[np.ndarray, " M"],
    target_order: Int[np.ndarray, " N"],
    groups: int = GROUPS,
) -> Strata:
    """Split both sides of a coupling into groups along their orders; episodes without mass are left out.

    Args:
        plan: The coupling.
        source_order: Source episodes from worst to best.
        target_order: Target episodes from worst to best.
        groups: Their number, or as many as the smaller side has episodes.

    Raises:
        DataError: The plan is all zero.
    """
    if not plan.sum() > 0:
        raise DataError("The plan must have mass, or there is nothing between the groups.")
    rows = source_order[plan.sum(axis=1)[source_order] > 0]
    columns = target_order[plan.sum(axis=0)[target_order] > 0]
    count = min(groups, len(rows), len(columns))
    source, target = (tuple(np.array_split(side, count)) for side in (rows, columns))
    mass = np.array([[plan[np.ix_(r, c)].sum() for c in target] for r in source])
    return Strata(source, target, mass / mass.sum())


def strata_of(
    plans: Sequence[Float[np.ndarray, "M N"]],
    source_labels: Float[np.ndarray, "M M"],
    target_labels: Float[np.ndarray, "N N"],
) -> Strata:
    """Split the mean of a source's couplings into groups along the order that each side's labels give."""
    return strata(np.mean(plans, axis=0), quality_order(source_labels), quality_order(target_labels))


def quality_order(labels: Float[np.ndarray, "N N"]) -> Int[np.ndarray, " N"]:
    """Order episodes from worst to best by the mean of their row of labels: with true labels, by return."""
    known = np.where(np.isfinite(labels), labels, 0.5)
    return np.argsort(known.mean(axis=1), kind="stable")
