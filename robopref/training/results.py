"""The outcome of trying a policy, and the comparison of two policies tried from the same initial states.

Letters used in shapes: n episodes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from robopref.errors import ConfigError, DataError
from robopref.files import read_json, write_json

EVALUATION_SEEDS = 2**30  # environment seeds of evaluations count up from here; collected ones lie below
LEVEL = 0.95
COLUMNS = {"seeds": np.int64, "successes": np.bool_, "returns": np.float64, "lengths": np.int64}
RESAMPLES = 10_000
RESAMPLED_AT_ONCE = 2_000_000  # numbers, which bounds the memory


@dataclass(frozen=True)
class Evaluation:
    """The episodes of one policy, one entry per seed.

    Attributes:
        policy: Name of the policy.
        task: Name of the task.
        env_id: Environment.
        env_options: What it was made with.
        seeds: Environment seeds, all different.
        successes: Success at any step.
        returns: Undiscounted sums of the true reward.
        lengths: Actions per episode.

    Raises:
        DataError: The columns differ in length, are empty, hold NaN, or a seed appears twice.
    """

    policy: str
    task: str
    env_id: str
    seeds: Int[np.ndarray, " n"]
    successes: Bool[np.ndarray, " n"]
    returns: Float[np.ndarray, " n"]
    lengths: Int[np.ndarray, " n"]
    env_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_columns({name: getattr(self, name) for name in COLUMNS})
        check_seeds(self.seeds.tolist(), DataError)
        if not np.isfinite(self.returns).all():
            bad = self.seeds[~np.isfinite(self.returns)].tolist()
            raise DataError(f"The returns of seeds {bad} are not finite.")

    def summary(self) -> dict[str, Any]:
        """Return n, successes, the rate with its Wilson 95 % interval (low, high), and the mean return.

        ``held_out`` says that every seed lies in the range that collection never uses.
        """
        from scipy.stats import binomtest

        count = int(self.successes.sum())
        interval = binomtest(count, len(self.seeds)).proportion_ci(LEVEL, method="wilson")
        return {
            "n": len(self.seeds),
            "successes": count,
            "rate": count / len(self.seeds),
            "low": float(interval.low),
            "high": float(interval.high),
            "mean_return": float(self.returns.mean()),
            "held_out": bool((self.seeds >= EVALUATION_SEEDS).all()),
        }

    def save(self, path: Path | str) -> None:
        """Write the episodes and their summary as JSON, whole or not at all."""
        columns = {name: getattr(self, name).tolist() for name in COLUMNS}
        names = {name: getattr(self, name) for name in ("policy", "task", "env_id", "env_options")}
        write_json(Path(path), {**names, **columns, "summary": self.summary()})

    @classmethod
    def load(cls, path: Path | str) -> "Evaluation":
        """Read what :meth:`save` wrote.

        Raises:
            DataError: The file is missing, truncated, or not an evaluation.
        """
        if not Path(path).is_file():
            raise DataError(f"There is no evaluation at {path}.")
        values = read_json(Path(path))
        names = ("policy", "task", "env_id", "env_options")
        missing = [name for name in (*names, *COLUMNS) if not isinstance(values, dict) or name not in values]
        if missing:
            raise DataError(f"{path} is not an evaluation: it lacks {', '.join(missing)}.")
        try:
            columns: dict[str, Any] = {
                name: np.asarray(values[name]).astype(kind, casting="same_kind")
                for name, kind in COLUMNS.items()
            }
        except (TypeError, ValueError) as error:
            raise DataError(f"{path} is damaged: {error}.") from error
        _check_columns(columns)
        return cls(**{name: values[name] for name in names}, **columns)


@dataclass(frozen=True)
class Comparison:
    """Policy a minus policy b, seed by seed.

    Attributes:
        n: Seeds in common.
        only_a: Seeds on which a alone succeeded.
        only_b: Seeds on which b alone succeeded.
        rate_difference: Difference of the success rates.
        rate_low: Lower end of its 95 % bootstrap interval over seeds.
        rate_high: Upper end.
        p_value: Exact McNemar test of equal success (two-sided binomial test of ``only_a`` against
            ``only_b``).
        return_difference: Difference of the mean returns.
        return_low: Lower end of its 95 % bootstrap interval over seeds.
        return_high: Upper end.
        return_p_value: Sign test of equal returns, equal pairs left out.
    """

    n: int
    only_a: int
    only_b: int
    rate_difference: float
    rate_low: float
    rate_high: float
    p_value: float
    return_difference: float
    return_low: float
    return_high: float
    return_p_value: float


def compare(a: Evaluation, b: Evaluation, *, rng: np.random.Generator | None = None) -> Comparison:
    """Compare two evaluations on the same seeds of the same environment.

    The bootstrap resamples seeds (percentile interval, 10,000 resamples): it has no width where all
    differences are equal, where the tests are to be read instead.

    Raises:
        DataError: Seeds, environment or its options differ.
    """
    for name in ("env_id", "env_options"):
        if getattr(a, name) != getattr(b, name):
            raise DataError(
                f"{a.policy} and {b.policy} were tried in different settings: "
                f"{name} is {getattr(a, name)} and {getattr(b, name)}."
            )
    if set(a.seeds.tolist()) != set(b.seeds.tolist()):
        alone = sorted(set(a.seeds.tolist()) ^ set(b.seeds.tolist()))
        raise DataError(f"{a.policy} and {b.policy} were tried on different seeds; not shared: {alone[:5]}.")
    rng = np.random.default_rng(0) if rng is None else rng
    order_a, order_b = np.argsort(a.seeds), np.argsort(b.seeds)
    success = a.successes[order_a].astype(np.float64) - b.successes[order_b]
    returns = a.returns[order_a] - b.returns[order_b]
    rate_low, rate_high = _bootstrap_interval(success, rng)
    return_low, return_high = _bootstrap_interval(returns, rng)
    return Comparison(
        n=len(success),
        only_a=int((success > 0).sum()),
        only_b=int((success < 0).sum()),
        rate_difference=float(success.mean()),
        rate_low=rate_low,
        rate_high=rate_high,
        p_value=_sign_test(success),
        return_difference=float(returns.mean()),
        return_low=return_low,
        return_high=return_high,
        return_p_value=_sign_test(returns),
    )


def _sign_test(differences: Float[np.ndarray, " n"]) -> float:
    """Return the two-sided exact p-value of as many positive as negative differences."""
    from scipy.stats import binomtest

    ups, downs = int((differences > 0).sum()), int((differences < 0).sum())
    return float(binomtest(ups, ups + downs, 0.5).pvalue) if ups + downs else 1.0


def _bootstrap_interval(
    differences: Float[np.ndarray, " n"], rng: np.random.Generator
) -> tuple[float, float]:
    """Return the percentile interval of the mean, resampling the pairs."""
    size = len(differences)
    rows = max(1, RESAMPLED_AT_ONCE // size)
    means = np.concatenate(
        [
            differences[rng.integers(size, size=(min(rows, RESAMPLES - done), size))].mean(axis=1)
            for done in range(0, RESAMPLES, rows)
        ]
    )
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _check_columns(columns: Mapping[str, np.ndarray]) -> None:
    shapes = {name: column.shape for name, column in columns.items()}
    shape = shapes["seeds"]
    if len(shape) != 1 or not shape[0] or any(other != shape for other in shapes.values()):
        raise DataError(
            f"An evaluation has one entry per seed in every column, and at least one, got {shapes}."
        )


def check_seeds(seeds: Sequence[int], error: type[ConfigError] | type[DataError]) -> None:
    """Refuse no seeds at all, negative ones, and a seed that appears twice."""
    if not len(seeds):
        raise error("An evaluation needs at least one seed, got none: zero episodes say nothing.")
    if min(seeds) < 0:
        raise error(f"Seeds must be 0 or more, got {min(seeds)}.")
    twice = [seed for seed, count in Counter(seeds).items() if count > 1]
    if twice:
        raise error(
            f"Seed {twice[0]} appears {Counter(seeds)[twice[0]]} times: an episode must not count twice."
        )
