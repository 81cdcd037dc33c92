"""Copying many segments out of long arrays at once, without a Python loop over segments or steps.

Letters used in shapes: B segments in a batch.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int, Shaped

from robopref.data.trajectory import SegmentBatch


def gather(
    array: Callable[[str], Shaped[np.ndarray, "rows ..."]],
    keypoints: Sequence[str],
    first: Int[np.ndarray, " B"],
    lengths: Int[np.ndarray, " B"],
) -> SegmentBatch:
    """Return the segments that start at rows ``first``, padded to the longest; rows must exist.

    Args:
        array: Gives an array of the store by name.
        keypoints: Names of the keypoints to read.
        first: Row of each segment's first state.
        lengths: Number of actions of each segment.
    """
    longest = int(lengths.max(initial=0))
    mask = np.arange(longest) < lengths[:, None]
    states = first[:, None] + np.minimum(np.arange(longest + 1), lengths[:, None])
    steps = np.ascontiguousarray(states[:, :-1])
    padded = not mask.all()

    def masked(name: str) -> np.ndarray:
        taken = array(name).take(steps, axis=0)
        if padded:
            taken[~mask] = 0
        return taken

    return SegmentBatch(
        observations=array("observations").take(states, axis=0),
        actions=masked("actions"),
        rewards=masked("rewards"),
        successes=masked("successes"),
        mask=mask,
        keypoints={name: array(f"keypoints/{name}").take(states, axis=0) for name in keypoints},
    )
