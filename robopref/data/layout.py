"""What a trajectory store's directory looks like: its header file and the raw array files beside it.

``store.json`` holds the format's name, the schema version, sizes, names and free metadata. Each array is a
file of raw little-endian rows without a header, so that appending is writing and reading is mapping.
"""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from robopref.errors import ConfigError, DataError

FORMAT = "robopref-trajectories"
VERSION = 1
HEADER = "store.json"
EPISODES = "episodes.jsonl"
LOCK = "writer.lock"


@dataclass(frozen=True)
class ArrayFile:
    """One array of the store: where its rows lie and what one row is."""

    file: str
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """Sizes and names of a store, fixed when it is created.

    Args:
        observation_size: Numbers in an observation.
        action_size: Numbers in an action.
        keypoints: Names of the tracked points; each is three numbers in metres.
        control_hz: Actions per second.
        metadata: Anything else that JSON can hold; not part of the fingerprint.
    """

    observation_size: int
    action_size: int
    keypoints: tuple[str, ...]
    control_hz: float
    metadata: dict[str, Any]

    def __post_init__(self):
        for name in ("observation_size", "action_size"):
            size = getattr(self, name)
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ConfigError(f"{name} must be a positive integer, got {size!r}.")
        if not (isinstance(self.control_hz, (int, float)) and 0 < self.control_hz < math.inf):
            raise ConfigError(f"control_hz must be a positive number, got {self.control_hz!r}.")
        for name in self.keypoints:
            if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
                raise ConfigError(f"A keypoint's name is made of letters, digits, '-' and '_', got {name!r}.")
        if len(set(self.keypoints)) < len(self.keypoints):
            raise ConfigError(f"Keypoint names must differ, got {list(self.keypoints)}.")

    @cached_property  # asked for by every read
    def arrays(self) -> Mapping[str, ArrayFile]:
        """The arrays by name; keypoints are called ``keypoints/<name>``."""
        number, flag = np.dtype("<f4"), np.dtype("?")
        files = {
            "observations": ArrayFile("observations.f32", number, (self.observation_size,)),
            "actions": ArrayFile("actions.f32", number, (self.action_size,)),
            "rewards": ArrayFile("rewards.f32", number, ()),
            "successes": ArrayFile("successes.u8", flag, ()),
        }
        for name in self.keypoints:
            files[f"keypoints/{name}"] = ArrayFile(f"keypoints-{name}.f32", number, (3,))
        return MappingProxyType(files)

    def identity(self) -> bytes:
        """Return what the fingerprint of an empty store is made of."""
        parts = [FORMAT, VERSION, self.observation_size, self.action_size, *self.keypoints, self.control_hz]
        return json.dumps(parts).encode()

    def write(self, directory: Path) -> None:
        """Write ``store.json`` so that it appears whole or not at all."""
        header = {
            "format": FORMAT,
            "version": VERSION,
            "observation_size": self.observation_size,
            "action_size": self.action_size,
            "keypoints": list(self.keypoints),
            "control_hz": self.control_hz,
            "metadata": self.metadata,
            "arrays": {name: [a.file, a.dtype.str, list(a.shape)] for name, a in self.arrays.items()},
        }
        try:
            text = json.dumps(header, indent=2, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"metadata must be plain JSON without NaN: {error}.") from error
        temporary = directory / f"{HEADER}.tmp"
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(directory / HEADER)
        sync_directory(directory)

    @classmethod
    def read(cls, directory: Path) -> "Layout":
        """Read ``store.json``.

        Raises:
            DataError: There is none, it is damaged, of another format, or of a version not known here.
        """
        path = directory / HEADER
        try:
            header = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DataError(f"{directory} is not a trajectory store: there is no file {path}.") from error
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise DataError(f"{path} is damaged: it is not JSON ({error}).") from error
        if not isinstance(header, Mapping) or header.get("format") != FORMAT:
            raise DataError(f"{path} does not describe a trajectory store: its format is not '{FORMAT}'.")
        if header.get("version") != VERSION:
            raise DataError(
                f"{path} has schema version {header.get('version')!r}; this robopref reads {VERSION} only."
            )
        try:
            return cls(
                observation_size=header["observation_size"],
                action_size=header["action_size"],
                keypoints=tuple(header["keypoints"]),
                control_hz=header["control_hz"],
                metadata=dict(header["metadata"]),
            )
        except (KeyError, TypeError, ConfigError) as error:
            raise DataError(f"{path} is damaged: {error}.") from error


def prepare_directory(directory: Path, known: Sequence[str]) -> None:
    """Make the directory of a new store, or take one that an interrupted creation left behind.

    Raises:
        DataError: There is a store already, or something that is not one.
    """
    if (directory / HEADER).exists():
        raise DataError(f"{directory} is a trajectory store already; open it with writable=True to append.")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        strange = sorted({entry.name for entry in directory.iterdir()} - set(known))
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise DataError(f"Cannot create a trajectory store at {directory}: {error.strerror}.") from error
    if strange:
        raise DataError(
            f"{directory} is not empty (it holds {strange[0]!r}); a new store needs an empty directory."
        )


def sync_directory(directory: Path) -> None:
    """Make new names in the directory survive a power cut, where the system offers it."""
    if os.name != "posix":
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
