"""Reading HDF5 files of others: what is missing or strange becomes a sentence, nothing is unpickled."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from robopref.errors import DataError


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading.

    Raises:
        DataError: It is missing, truncated, or no HDF5 file; also for damage met while it is read.
    """
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError) as error:  # RuntimeError: damage inside, as the HDF5 library reports it
        raise DataError(f"{path} is missing, damaged, truncated, or no HDF5 file ({error}).") from error


def group(parent: h5py.Group, key: str, where: str) -> h5py.Group:
    """Return a group.

    Raises:
        DataError: There is none of that name in this file.
    """
    found = _inside(parent, key, where)
    if not isinstance(found, h5py.Group):
        raise DataError(f"{where} has no group '{key}'. There are: {', '.join(sorted(parent)) or 'none'}.")
    return found


def numbers(parent: h5py.Group, key: str, where: str) -> np.ndarray:
    """Return a data set of numbers or booleans.

    Raises:
        DataError: There is none of that name in this file, or it holds something else.
    """
    found = _inside(parent, key, where)
    if not isinstance(found, h5py.Dataset):
        raise DataError(f"{where} has no array '{key}'. There are: {', '.join(sorted(parent)) or 'none'}.")
    if found.dtype.kind not in "fiub" or found.ndim < 1:
        raise DataError(f"{where}: '{key}' must be numbers, got {found.dtype} of shape {found.shape}.")
    return found[()]


def text(holder: h5py.Group, key: str) -> str | None:
    """Return an attribute that is text, or None where there is none."""
    value = holder.attrs.get(key)
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return value if isinstance(value, str) else None


def _inside(parent: h5py.Group, key: str, where: str) -> object:
    """Return an entry, but follow no link to another file."""
    link = parent.get(key, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        raise DataError(f"{where}: '{key}' points into another file, {link.filename}; that is not followed.")
    return parent.get(key)
