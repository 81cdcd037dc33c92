"""How far people agree: with each other, with themselves, and with answers that are known.

All of it works on a table of answers: one row an annotator, one column a pair, one of C classes in each cell,
-1 where the annotator was not asked. For preferences the classes are 0 (b is better), 1 (equal), 2 (a).

Which segment of a pair is called a is an accident of storage, but the coefficients correct for chance by how
often each class occurs, and so depend on it: had the better segment always been stored first, perfect
agreement would be undefined. ``mirrored=True`` counts every answer half as it is and half as it would be with
the pair turned round, and the accident is gone. The formulas are otherwise those of the literature, and the
tests hold the published numbers.

Letters used in shapes: J annotators, P pairs, C classes, R resamplings.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float, Int

from robopref.errors import ConfigError, DataError, unknown_name

UNKNOWN = -1
CLASSES = 3
"""b is better, equal, a is better."""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: The estimate; None where the data do not define it.
        low: Lower end of the interval; None where there is none.
        high: Upper end.
        n: Number of observations that it rests on.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class PositionBias:
    """Whether an annotator favours a side of the screen.

    Attributes:
        left: Share of decided answers that chose the left clip.
        p_value: Chance of a share at least as far from one half if sides did not matter (exact, two-sided).
    """

    left: Estimate
    p_value: float | None


def share(hits: int, n: int, *, level: float = 0.95) -> Estimate:
    """Return a share with Wilson's interval (Wilson 1927); undefined for no observations."""
    if not 0 <= hits <= n:
        raise DataError(f"A share needs between 0 and {n} hits, got {hits}.")
    if n == 0:
        return Estimate(None, None, None, 0)
    from scipy import stats  # takes a second, which nobody waits for when the page starts

    interval = stats.binomtest(hits, n).proportion_ci(level, method="wilson")
    return Estimate(hits / n, float(interval.low), float(interval.high), n)


def position_bias(left: int, n: int, *, level: float = 0.95) -> PositionBias:
    """Test whether the left clip was chosen more or less often than by a fair coin.

    Sound where the sides were drawn at random, whatever the clips show.

    Args:
        left: How often the left clip was preferred.
        n: How often one of the two was preferred.
        level: Confidence of the interval.
    """
    from scipy import stats

    estimate = share(left, n, level=level)
    return PositionBias(estimate, float(stats.binomtest(left, n).pvalue) if n else None)


def cohen_kappa(
    first: Int[np.ndarray, " P"],
    second: Int[np.ndarray, " P"],
    *,
    classes: int = CLASSES,
    mirrored: bool = False,
    level: float = 0.95,
) -> Estimate:
    """Agreement of two annotators beyond chance: 1 is perfect, 0 what their habits alone would give.

    Source: Cohen 1960; the interval uses the large-sample variance of Fleiss, Cohen and Everitt 1969.
    Undefined where the two share no pair, or both always gave one and the same answer.

    Args:
        first: Class that the first annotator gave to each pair, -1 where none.
        second: The same of the second.
        classes: Number of classes, C.
        mirrored: Count each pair also turned round, see the module's text.
        level: Confidence of the interval.
    """
    table = _checked(np.stack([first, second]), classes)
    both = (table >= 0).all(axis=0)
    n = int(both.sum())
    counts = np.zeros((classes, classes))
    np.add.at(counts, (table[0, both], table[1, both]), 1.0)
    if mirrored:
        counts = (counts + counts[::-1, ::-1]) / 2
    chance = counts / max(n, 1)
    rows, columns = chance.sum(axis=1), chance.sum(axis=0)
    agreed, expected = float(np.trace(chance)), float(rows @ columns)
    if n == 0 or expected > 1 - 1e-12:
        return Estimate(None, None, None, n)
    kappa = (agreed - expected) / (1 - expected)
    # The variance of Fleiss, Cohen and Everitt 1969, as a mean square of each cell's influence on kappa.
    influence = np.eye(classes) - (columns[:, None] + rows[None, :]) * (1 - kappa)
    mean_square = float((chance * influence**2).sum())
    variance = (mean_square - (kappa - expected * (1 - kappa)) ** 2) / (n * (1 - expected) ** 2)
    reach = NormalDist().inv_cdf(0.5 + level / 2) * np.sqrt(max(variance, 0.0))
    return Estimate(kappa, float(max(kappa - reach, -1.0)), float(min(kappa + reach, 1.0)), n)


def krippendorff_alpha(
    answers: Int[np.ndarray, "J P"],
    *,
    classes: int = CLASSES,
    metric: str = "ordinal",
    mirrored: bool = False,
    level: float = 0.95,
    resamplings: int = 1000,
    rng: np.random.Generator | None = None,
) -> Estimate:
    """Agreement of any number of annotators, each having seen any of the pairs: 1 is perfect, 0 is chance.

    Source: Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011, sections C and D. The formula is
    ours, not a package's, because the interval resamples pairs and mirroring turns them round, and both need
    each pair's own coincidences; the tests hold his worked example.

    Undefined where no pair has two answers, or all answers are the same.

    Args:
        answers: Class of each pair by each annotator, -1 where not asked.
        classes: Number of classes, C; for ``ordinal`` they are in order.
        metric: ``nominal``: answers agree or not. ``ordinal``: neighbouring classes disagree less.
        mirrored: Count each pair also turned round, see the module's text.
        level: Confidence of the interval: percentiles over resamplings of pairs.
        resamplings: How many; 0 for no interval.
        rng: Source of randomness, needed for an interval.
    """
    if metric not in METRICS:
        raise ConfigError(unknown_name("metric", metric, METRICS))
    table = _checked(answers, classes)
    counts = np.stack([(table == c).sum(axis=0) for c in range(classes)], axis=1).astype(np.float64)  # (P, C)
    raters = counts.sum(axis=1)
    counts, raters = counts[raters > 1], raters[raters > 1]
    n = len(counts)
    # Coincidences of each pair: n_c n_k (n_c (n_c - 1) on the diagonal), divided by raters - 1.
    own = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(classes)
    own /= (raters - 1)[:, None, None]
    if mirrored:
        own = (own + own[:, ::-1, ::-1]) / 2
    value = _alpha(own.sum(axis=0)[None], METRICS[metric])[0]
    if np.isnan(value):
        return Estimate(None, None, None, n)
    if resamplings < 1 or n < 2:
        return Estimate(float(value), None, None, n)
    if rng is None:
        raise ConfigError("An interval for alpha needs rng; pass resamplings=0 for none.")
    resampled = _resampled(own, resamplings, rng)
    # A resampling in which all answers are the same agrees perfectly.
    spread = np.nan_to_num(_alpha(resampled, METRICS[metric]), nan=1.0)
    low, high = np.quantile(spread, [0.5 - level / 2, 0.5 + level / 2])
    return Estimate(float(value), float(low), float(high), n)


def _resampled(
    own: Float[np.ndarray, "P C C"], resamplings: int, rng: np.random.Generator
) -> Float[np.ndarray, "R C C"]:
    """Sum the coincidences of as many pairs, drawn with replacement; a few sums at a time, for memory."""
    n, most = len(own), max(1, 2_000_000 // len(own))
    flat = own.reshape(n, -1)
    sums = [
        rng.multinomial(n, np.full(n, 1 / n), size=min(most, resamplings - done)) @ flat
        for done in range(0, resamplings, most)
    ]
    return np.concatenate(sums).reshape(resamplings, *own.shape[1:])


def _alpha(
    coincidences: Float[np.ndarray, "R C C"],
    distance: Callable[[Float[np.ndarray, "R C"]], Float[np.ndarray, "R C C"]],
) -> Float[np.ndarray, " R"]:
    """Return 1 - observed / expected disagreement of each matrix; NaN where no disagreement is expected."""
    totals = coincidences.sum(axis=2)
    n = totals.sum(axis=1)
    apart = distance(totals)
    observed = (coincidences * apart).sum((1, 2))
    expected = (totals[:, :, None] * totals[:, None, :] * apart).sum((1, 2)) / np.maximum(n - 1, 1e-12)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(expected > 1e-12, 1 - observed / expected, np.nan)


def _nominal(totals: Float[np.ndarray, "R C"]) -> Float[np.ndarray, "R C C"]:
    return np.broadcast_to(1 - np.eye(totals.shape[1]), (*totals.shape, totals.shape[1]))


def _ordinal(totals: Float[np.ndarray, "R C"]) -> Float[np.ndarray, "R C C"]:
    """Squared number of answers between the middles of two classes."""
    middle = np.cumsum(totals, axis=1) - totals / 2
    return (middle[:, :, None] - middle[:, None, :]) ** 2


METRICS = {"nominal": _nominal, "ordinal": _ordinal}


def _checked(answers: np.ndarray, classes: int) -> Int[np.ndarray, "J P"]:
    table = np.asarray(answers)
    if classes < 2:
        raise ConfigError(f"Agreement needs at least two classes, got {classes}.")
    if table.ndim != 2 or table.dtype.kind not in "iu":
        got = f"{table.dtype} of shape {table.shape}"
        raise DataError(f"answers must be integers, (annotators, pairs), got {got}.")
    bad = np.argwhere((table < UNKNOWN) | (table >= classes))
    if len(bad):
        row, column = bad[0].tolist()
        raise DataError(
            f"answers must be classes 0 to {classes - 1}, or -1 for none; annotator {row} gave pair {column} "
            f"{table[row, column]}."
        )
    return table
