"""Saved models into one: a soup, an average weighted by a metric, or by hand.

Merging pays where all begin from one model (a reference) and differ in seed, data or objective. Weights of
networks with nothing in common average to nothing.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from robopref.errors import ConfigError, DataError
from robopref.files import read_json
from robopref.nets.checkpoint import CONFIG_NAME, WEIGHTS_NAME, read_config, save_tensors
from robopref.objectives.merging import average, average_adapters, metric_weights

DOWN, UP = ".lora_A.", ".lora_B."


def merge(folders: Sequence[Path], target: Path, weights: Sequence[float] | None = None) -> list[float]:
    """Write the weighted average of saved models of one kind; returns the weights.

    Low-rank adapters are averaged as what they add, up @ down, at their own rank, and not factor by factor.

    Args:
        folders: Of rewards or policies, each with ``config.json`` and ``model.safetensors``.
        target: Must not exist; gets the configuration of the first.
        weights: Sum to one; uniform if left out.

    Raises:
        ConfigError: Fewer than two folders, or the target exists.
        DataError: The models are of different kinds, shapes or normalisers, or cannot be read.
    """
    if len(folders) < 2:
        raise ConfigError(f"Merging takes two folders or more, got {len(folders)}.")
    if target.exists():
        raise ConfigError(f"{target} exists already; choose another folder, or remove it.")
    records = [read_config(folder) for folder in folders]
    if len(kinds := {record["kind"] for record in records}) > 1:
        raise DataError(f"Models of different kinds cannot be merged: {', '.join(sorted(kinds))}.")
    weights = [1.0 / len(folders)] * len(folders) if weights is None else list(weights)
    states = [_read(folder / WEIGHTS_NAME) for folder in folders]
    merged = average(states, weights)
    for name, value in merged.items():
        if "normaliser" in name and not all(torch.equal(state[name], value) for state in states):
            raise DataError(
                f"'{name}' differs: their normalisers were fitted to other data, so their weights do not "
                "mean "
                "the same. Merge models that begin from one reference."
            )
    merged |= _adapters(states, weights)
    save_tensors(target, merged, records[0])
    return weights


def weights_by_metric(
    folders: Sequence[Path], metric: str, *, penalty: float = 1.0, lower_is_better: bool = False
) -> list[float]:
    """Weights of :func:`robopref.objectives.merging.metric_weights` from the ``metrics.json`` of each folder.

    Raises:
        DataError: A folder has no such metric.
    """
    found = []
    for folder in folders:
        path = folder / "metrics.json"
        metrics = read_json(path) if path.exists() else {}
        if not isinstance(metrics.get(metric), int | float):
            known = sorted(name for name, value in metrics.items() if isinstance(value, int | float))
            raise DataError(f"{path} holds no number {metric!r}; it holds {', '.join(known) or 'nothing'}.")
        found.append(float(metrics[metric]))
    return metric_weights(found, penalty=penalty, lower_is_better=lower_is_better)


def _adapters(states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    merged = {}
    for name in states[0]:
        if DOWN in name:
            other = name.replace(DOWN, UP)
            downs, ups = [state[name] for state in states], [state[other] for state in states]
            merged[name], merged[other] = average_adapters(downs, ups, weights, rank=len(downs[0]))
    return {name: value.contiguous() for name, value in merged.items()}


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"There is no {WEIGHTS_NAME} beside {CONFIG_NAME} in {path.parent}") from None
    except SafetensorError as error:
        raise DataError(f"{path} is not a readable safetensors file: {error}") from None
