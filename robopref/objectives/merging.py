"""Checkpoints into one: a weighted average of parameters, of low-rank adapters, or over time.

Letters used in shapes: S checkpoints, R rank of an adapter, I and O its inputs and outputs.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from robopref.errors import ConfigError, DataError
from robopref.objectives.checks import check_not_negative


def metric_weights(
    metrics: Sequence[float], *, penalty: float = 1.0, lower_is_better: bool = False
) -> list[float]:
    """Weights proportional to metric^penalty (1 / metric^penalty for losses), which sum to one.

    A variant named after *metrics-weighted averaging*, whose formula could not be read: it has one penalty
    factor and weighs by training loss or step, and so does this.

    Args:
        metrics: One per checkpoint: success rate, accuracy, step; or a loss. Above 0.
        penalty: 0 gives the uniform soup; larger trusts the metric more.
        lower_is_better: The metric is a loss.

    Raises:
        DataError: There is no metric, or one is not a finite number above 0.
    """
    check_not_negative(penalty=penalty)
    values = torch.tensor(list(metrics), dtype=torch.float64)
    if len(values) == 0 or not bool((values.isfinite() & (values > 0)).all()):
        raise DataError(f"Metrics must be finite numbers above 0, one per checkpoint, got {list(metrics)}.")
    return torch.softmax((-penalty if lower_is_better else penalty) * values.log(), 0).tolist()


def average(
    states: Sequence[Mapping[str, Tensor]], weights: Sequence[float] | None = None
) -> dict[str, Tensor]:
    """Weighted average of state dictionaries; uniform without weights (a soup).

    Sums are taken in float64, so merging copies of a checkpoint gives that checkpoint. Whole numbers
    (counters) must agree.

    Raises:
        DataError: Names, shapes or whole numbers differ; weights do not sum to one.
    """
    if not states:
        raise DataError("There is no checkpoint to merge.")
    weights = [1.0 / len(states)] * len(states) if weights is None else list(weights)
    if len(weights) != len(states) or not abs(sum(weights) - 1.0) < 1e-6:
        raise DataError(f"Weights must sum to one, one for each of {len(states)} checkpoints, got {weights}.")
    first = states[0]
    merged: dict[str, Tensor] = {}
    for state in states[1:]:
        if differing := sorted(set(first) ^ set(state)):
            raise DataError(
                f"Checkpoints of different networks cannot be merged: only one has {differing[:5]}."
            )
    for name, value in first.items():
        values = [state[name] for state in states]
        if any(other.shape != value.shape for other in values):
            raise DataError(f"'{name}' has shapes {sorted({tuple(other.shape) for other in values})}.")
        if value.is_floating_point():
            total = torch.zeros_like(value, dtype=torch.float64)
            for weight, other in zip(weights, values, strict=True):
                total += weight * other.to(total)
            merged[name] = total.to(value.dtype)
        elif all(torch.equal(other, value) for other in values):
            merged[name] = value.clone()
        else:
            raise DataError(f"'{name}' holds whole numbers that differ between the checkpoints.")
    return merged


def average_adapters(
    downs: Sequence[Float[Tensor, "R I"]],
    ups: Sequence[Float[Tensor, "O R"]],
    weights: Sequence[float] | None = None,
    *,
    rank: int | None = None,
) -> tuple[Float[Tensor, "Q I"], Float[Tensor, "O Q"]]:
    """Average the full changes up @ down of low-rank adapters, as an adapter again.

    Averaging the two factors apart would give mean(up) mean(down), another matrix. Stacking scaled factors
    gives the exact mean at the sum of the ranks; with ``rank`` its best approximation of that rank is
    returned.

    Args:
        downs: The factors applied first.
        ups: The factors applied second, their scale (alpha / rank) included.
        weights: Sum to one; uniform if left out.
        rank: Rank Q of the result.
    """
    if not downs or len(downs) != len(ups):
        raise DataError(f"Adapters come as pairs, got {len(downs)} factors 'down' and {len(ups)} 'up'.")
    weights = [1.0 / len(downs)] * len(downs) if weights is None else list(weights)
    if len(weights) != len(downs) or not abs(sum(weights) - 1.0) < 1e-6:
        raise DataError(f"Weights must sum to one, one for each of {len(downs)} adapters, got {weights}.")
    down = torch.cat(list(downs), 0)
    up = torch.cat([weight * factor for weight, factor in zip(weights, ups, strict=True)], 1)
    if rank is None:
        return down, up
    if not 1 <= rank <= min(up.shape[0], down.shape[1]):
        raise ConfigError(f"rank must lie in 1 ... {min(up.shape[0], down.shape[1])}, got {rank}.")
    left, sizes, right = torch.linalg.svd(up @ down, full_matrices=False)
    root = sizes[:rank].sqrt()
    return root[:, None] * right[:rank], left[:, :rank] * root


def running_average(
    state: Mapping[str, Tensor], previous: Mapping[str, Tensor] | None, *, momentum: float = 0.999
) -> dict[str, Tensor]:
    """Exponential moving average of a network's parameters; whole numbers are taken from the newest."""
    if not 0 <= momentum < 1:
        raise ConfigError(f"momentum must lie in [0, 1), got {momentum}.")
    if previous is None:
        return {name: value.detach().clone() for name, value in state.items()}
    if differing := sorted(set(state) ^ set(previous)):
        raise DataError(f"The running average is of another network: only one has {differing[:5]}.")
    return {
        name: torch.lerp(value.detach(), previous[name], momentum)
        if value.is_floating_point()
        else value.clone()
        for name, value in state.items()
    }
