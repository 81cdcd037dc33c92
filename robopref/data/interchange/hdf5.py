"""Reading HDF5 files of others: what is missing or strange becomes a sentence, nothing is unpickled.

Nothing is read from other files either: a file may name any other one of this machine, as a link, as the
storage of an array, or as a part of a virtual one, and its bytes would go into what is made.
"""

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
    except (OSError, RuntimeError, KeyError) as error:  # the last two: damage inside, as h5py reports it
        raise DataError(f"{path} is missing, damaged, truncated, or no HDF5 file ({error}).") from error


def entry(parent: h5py.Group, key: str, where: str) -> h5py.Group | h5py.Dataset | None:
    """Return a group or an array that lies in this very file, or None where there is none of that name.

    Raises:
        DataError: It lies in another file, in whole or in part, or is a link to nothing.
    """
    parts = key.strip("/").split("/")
    for depth in range(1, len(parts) + 1):
        link = parent.get("/".join(parts[:depth]), getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise DataError(
                f"{where}: '{key}' points into another file, {link.filename}; that is not followed."
            )
    found = parent.get(key)
    if not isinstance(found, h5py.Group | h5py.Dataset):
        if parent.get(key, getlink=True) is not None:
            raise DataError(f"{where}: '{key}' is a link to nothing, or is damaged.")
        return None
    if found.file.filename != parent.file.filename:
        raise DataError(f"{where}: '{key}' points into another file; that is not followed.")
    if isinstance(found, h5py.Dataset) and (found.external or found.is_virtual):
        raise DataError(f"{where}: '{key}' takes its numbers from other files; they are not read.")
    return found


def group(parent: h5py.Group, key: str, where: str) -> h5py.Group:
    """Return a group.

    Raises:
        DataError: There is none of that name in this file.
    """
    found = entry(parent, key, where)
    if not isinstance(found, h5py.Group):
        raise DataError(f"{where} has no group '{key}'. There are: {', '.join(sorted(parent)) or 'none'}.")
    return found


def numbers(parent: h5py.Group, key: str, where: str) -> np.ndarray:
    """Return a data set of numbers or booleans.

    Raises:
        DataError: There is none of that name in this file, or it holds something else.
    """
    found = entry(parent, key, where)
    if not isinstance(found, h5py.Dataset):
        raise DataError(f"{where} has no array '{key}'. There are: {', '.join(sorted(parent)) or 'none'}.")
    if found.dtype.kind not in "fiub" or found.ndim < 1:
        raise DataError(f"{where}: '{key}' must be numbers, got {found.dtype} of shape {found.shape}.")
    return found[()]


def inner_attributes(holder: h5py.Group) -> list[str]:
    """Return the attributes of what lies in a group, not its own, each as "name of array"."""
    found: list[str] = []
    holder.visititems(lambda name, entry: found.extend(f"{key} of {name}" for key in entry.attrs))
    return found


def text(holder: h5py.Group, key: str) -> str | None:
    """Return an attribute that is text, or None where there is none."""
    value = holder.attrs.get(key)
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return value if isinstance(value, str) else None
