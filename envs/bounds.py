"""Observation spaces that are finite, as Gymnasium's checker wants them.

They are not for normalising: where nothing is known the bound is :data:`LARGEST`, and a tool that maps such a
range to [-1, 1] (Gymnasium's ``RescaleObservation``) leaves nothing of the numbers.
"""

import numpy as np
from gymnasium.spaces import Box

LARGEST = 1e12
"""MuJoCo calls a state beyond 1e10 (``mjMAXVAL``) unstable; sums and differences of a few stay below this."""

_APART = 1e-3


def observation_box(low: np.ndarray, high: np.ndarray, dtype: type[np.floating]) -> Box:
    """Return a box of observations between bounds.

    Where the bounds are infinite they become :data:`LARGEST`, and where they are equal, as of a goal that
    never moves, they are 1e-3 to either side: tools divide by the width, and Gymnasium's checker wants one.

    Args:
        low: Lower bounds (O,).
        high: Upper bounds (O,).
        dtype: Of the observations.
    """
    margin = np.where(low == high, _APART, 0.0)
    low, high = np.maximum(low - margin, -LARGEST), np.minimum(high + margin, LARGEST)
    return Box(low.astype(dtype), high.astype(dtype), dtype=dtype)


def unbounded_box(size: int, dtype: type[np.floating]) -> Box:
    """Return a box of observations (size,) of which nothing is known but that physics went well."""
    return Box(-LARGEST, LARGEST, (size,), dtype)
