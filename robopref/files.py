"""Files that are whole or not there: written under another name, flushed to the disk, then renamed.

A process killed at any moment leaves the old file or the new one, never half of one.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from robopref.errors import DataError


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Give a path beside ``path`` to write to; it takes the place of ``path`` when the block ends well.

    The temporary name keeps the suffix, which some writers go by. The folder is made where it is missing.

    Raises:
        DataError: The disk is full or the folder cannot be written to; what ``path`` held is unchanged.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def cannot_write(path: Path | str, error: OSError) -> DataError:
    """Return the sentence for a file that could not be written: why, and how much space is left."""
    path = Path(path)
    folder = next((p for p in (path.parent, *path.parent.parents) if p.is_dir()), Path("/"))
    free = shutil.disk_usage(folder).free / 2**20
    kept = " What it held before is unchanged." if path.exists() else ""
    return DataError(f"Cannot write {path}: {error.strerror or error} ({free:.0f} MiB are free).{kept}")


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):
        return  # Windows cannot open folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path | str, text: str) -> None:
    """Write a whole text file."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write a whole JSON file; NaN and infinity, which JSON does not know, are a ValueError.

    :func:`finite` makes them null.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """Return a value as JSON holds it: what is NaN or infinite is null."""
    return json.loads(json.dumps(value), parse_constant=lambda _: None)


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        DataError: It is missing, cannot be read, or is truncated; the message names it.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is truncated, or not JSON ({error}).") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
