"""95 % t intervals of means over seeds, and how the pages print them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats


def half_width(values: Any) -> float:
    """Half the width of the 95 % t interval of the mean of two values or more."""
    return float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1))


def percent(shares: Sequence[float] | np.ndarray, digits: int = 0) -> str:
    """Mean and half-width in per cent: the mean alone of a single share, a dash where there is none."""
    if not len(shares):
        return "-"
    values = 100 * np.asarray(shares)
    mean = f"{values.mean():.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {half_width(values):.{digits}f}"
