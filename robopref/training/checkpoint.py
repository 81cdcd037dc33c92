"""A training on disk: tensors and a JSON record in one safetensors file, the old one or the new one.

The file is written under a temporary name, flushed to the disk and renamed. A process killed at any moment
leaves a whole file behind, and a full disk leaves the previous one. Nothing is pickled.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from robopref.errors import DataError
from robopref.files import replacing

LAST_NAME = "last.safetensors"
_KEY = "robopref-training"
_VERSION = 1


def save_checkpoint(path: str | Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write ``tensors`` and ``record`` (JSON values) to ``path``, atomically.

    Raises:
        DataError: The disk is full or the folder cannot be written to; what ``path`` held is unchanged.
    """
    path = Path(path)
    whole = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    content = save(whole, {_KEY: json.dumps({"version": _VERSION, **record})})
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def load_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_checkpoint` wrote: the tensors on the CPU, and the record.

    Raises:
        DataError: The file is missing, truncated, or something else.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise DataError(f"There is no checkpoint {path}") from None
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{path} is truncated, or not a safetensors file ({error}). Delete it to train from the start."
        ) from error
    if text is None:
        raise DataError(f"{path} is a safetensors file, but not the checkpoint of a training")
    record = json.loads(text)
    if record.get("version") != _VERSION:
        raise DataError(
            f"{path} has version {record.get('version')!r}; this robopref reads version {_VERSION}. "
            "Delete it to train from the start."
        )
    return tensors, record


def remove_leftovers(path: str | Path) -> None:
    """Delete the temporary files that killed processes left beside ``path``; one process writes at a time."""
    path = Path(path)
    for temporary in path.parent.glob(f".{path.stem}.*.tmp{path.suffix}"):
        temporary.unlink(missing_ok=True)
