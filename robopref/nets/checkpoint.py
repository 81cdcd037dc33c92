"""A trained module on disk: ``config.json`` (what to build) and ``model.safetensors`` (what it learned).

Nothing is pickled. Both files are written under a temporary name, flushed to disk and renamed, so a killed
run leaves the old file or the new one, never half of one.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from robopref.errors import ConfigError, DataError, unknown_name
from robopref.files import replacing, write_text

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
_FORMAT = "robopref-module"
_VERSION = 1


def save_module(
    directory: str | Path,
    module: nn.Module,
    *,
    kind: str,
    config: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write ``module`` so that :func:`load_module` can build it again.

    Args:
        directory: Created where it is missing.
        module: Its ``state_dict`` is what is kept.
        kind: Name by which the loader finds the constructor.
        config: Keyword arguments of that constructor; JSON values only.
        extra: Anything else worth keeping beside it (units, the task, the data's fingerprint); JSON values.
    """
    save_tensors(directory, module.state_dict(), {"kind": kind, "config": config, "extra": extra})


def save_tensors(directory: str | Path, tensors: Mapping[str, Tensor], described: Mapping[str, Any]) -> None:
    """Write tensors with their ``kind``, ``config`` and ``extra``, as :func:`save_module` does."""
    kind = described["kind"]
    record = {
        "format": _FORMAT,
        "version": _VERSION,
        "kind": kind,
        "config": dict(described["config"]),
        "extra": dict(described["extra"] or {}),
    }
    try:
        text = json.dumps(record, indent=2)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"The config of a {kind} must hold JSON values only: {error}") from error
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    directory = Path(directory)
    with replacing(directory / WEIGHTS_NAME) as temporary:
        temporary.write_bytes(save(tensors))
    write_text(directory / CONFIG_NAME, text + "\n")


def read_config(directory: str | Path) -> dict[str, Any]:
    """Read ``kind``, ``config`` and ``extra`` without building anything.

    Raises:
        DataError: where ``config.json`` is missing, truncated, or not of this format.
    """
    path = Path(directory) / CONFIG_NAME
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"There is no saved module in {directory}: {CONFIG_NAME} is missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not readable JSON (truncated, or another file): {error}") from None
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        raise DataError(f"{path} is JSON, but does not describe a saved robopref module")
    if record.get("version") != _VERSION:
        raise DataError(
            f"{path} has version {record.get('version')!r}; this robopref reads version {_VERSION}"
        )
    for key, expected in (("kind", str), ("config", dict), ("extra", dict)):
        if not isinstance(record.get(key), expected):
            raise DataError(f"{path} lacks '{key}' ({expected.__name__})")
    return record


def load_module(
    directory: str | Path,
    kinds: Mapping[str, Callable[..., nn.Module]],
    *,
    device: str | torch.device = "cpu",
) -> nn.Module:
    """Build the module that :func:`save_module` wrote, in evaluation mode, on ``device``.

    Args:
        directory: Holds ``config.json`` and ``model.safetensors``.
        kinds: Constructor of each kind that the caller can use.
        device: Where its tensors shall lie.

    Raises:
        DataError: for a missing, truncated or foreign file, an unknown kind, or weights that do not fit.
    """
    record = read_config(directory)
    kind, path = record["kind"], Path(directory) / WEIGHTS_NAME
    if kind not in kinds:
        raise DataError(f"{Path(directory) / CONFIG_NAME}: {unknown_name('kind of module', kind, kinds)}")
    try:
        module = kinds[kind](**record["config"])
    except (TypeError, ValueError) as error:
        raise DataError(f"{Path(directory) / CONFIG_NAME} does not fit a {kind}: {error}") from error
    tensors = load_tensors(directory)
    _check_tensors(path, tensors, module.state_dict(), kind)
    module.load_state_dict(tensors)
    return module.to(device).eval()


def load_tensors(directory: str | Path) -> dict[str, Tensor]:
    """Read the tensors that :func:`save_module` wrote, without building anything.

    Raises:
        DataError: for a missing, truncated or foreign file.
    """
    path = Path(directory) / WEIGHTS_NAME
    try:
        return load(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"There is no {WEIGHTS_NAME} beside {CONFIG_NAME} in {directory}") from None
    except SafetensorError as error:
        raise DataError(
            f"{path} is not a readable safetensors file (truncated, or another file): {error}"
        ) from None


def _check_tensors(path: Path, got: Mapping[str, Tensor], wanted: Mapping[str, Tensor], kind: str) -> None:
    missing, surplus = sorted(wanted.keys() - got.keys()), sorted(got.keys() - wanted.keys())
    if missing or surplus:
        raise DataError(f"{path} does not hold a {kind}: missing {missing}, not expected {surplus}")
    wrong = [
        f"{name} is {tuple(got[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if got[name].shape != tensor.shape
    ]
    if wrong:
        raise DataError(f"{path} does not fit the {kind} that {CONFIG_NAME} describes: {'; '.join(wrong)}")
