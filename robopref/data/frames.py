"""The frame cache: camera frames of the episodes of a store, as one memory map that grows episode by episode.

Frames lie beside the store, in ``<store>/frames/<key>/``: ``frames.json`` (size, view, stride, versions),
``frames.u8`` (raw frames) and ``episodes.jsonl`` (the commit log, which names the content of each episode and
the state of the store that it was filmed from). Appending writes and syncs the frames, then one line of the
log, as the store itself does: a writer killed at any moment loses the episode in hand; the next one goes on.

An episode of T actions has a frame of state 0 and of each ``every``-th state after it, T // every + 1 in all.

Letters used in shapes: N episodes, F frames of one episode, n frames in all, H and W height and width.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Int, Int64, UInt8

from robopref.data.episode_log import sealed, unsealed, whole_lines
from robopref.data.layout import EPISODES, ArrayFile
from robopref.data.store import TrajectoryStore
from robopref.data.writer import StoreWriter, explain_os_errors
from robopref.errors import ConfigError, DataError
from robopref.files import read_json, write_json

FORMAT = "robopref-frames"
VERSION = 1
HEADER = "frames.json"
FOLDER = "frames"
PIXELS = "frames.u8"

View = Mapping[str, float | int | str]


def cache_folder(store: TrajectoryStore, view: View, every: int, versions: Mapping[str, str]) -> Path:
    """Return where the frames of a store belong: another view, stride or package version, another folder."""
    words = [FORMAT, VERSION, store.fingerprint(min(1, len(store))), dict(view), every, dict(versions)]
    key = hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()[:16]
    return store.path / FOLDER / key


@dataclass(frozen=True)
class _Filmed:
    """A line of the log."""

    frames: int  # of this episode
    store: str  # fingerprint of the store up to this episode
    content: str  # SHA-256 of the frames
    source: str  # "rollout", "replay" or "video"


class FrameCache:
    """Frames of the first episodes of a store; from :meth:`create` or :meth:`open`, best in a ``with`` block.

    One writer at a time; any number of readers, also while it writes (they see what was there at first).

    Attributes:
        height: Of a frame, in pixels.
        width: Of a frame, in pixels.
        every: Steps from one frame to the next.
        view: Options of the environment that the frames were drawn with.
    """

    def __init__(self, path: Path, store: TrajectoryStore, header: Mapping[str, Any]) -> None:
        self.path, self.store = path, store
        self.height, self.width = int(header["height"]), int(header["width"])
        self.every, self.view = int(header["every"]), dict(header["view"])
        self._pixels = ArrayFile(PIXELS, np.dtype(np.uint8), (self.height, self.width, 3))
        self._filmed: list[_Filmed] = []
        self._log_end = 0
        self._writer: StoreWriter | None = None

    @classmethod
    def create(
        cls,
        path: Path | str,
        store: TrajectoryStore,
        *,
        height: int,
        width: int,
        every: int,
        view: View,
        versions: Mapping[str, str],
    ) -> "FrameCache":
        """Create an empty cache, open for writing.

        Raises:
            ConfigError: A size or the stride is not positive.
            DataError: There is one already, or the folder cannot be written.
        """
        path = Path(path)
        if min(height, width, every) < 1:
            raise ConfigError(f"height, width and every must be at least 1, got {height}, {width}, {every}")
        if (path / HEADER).exists():
            raise DataError(f"{path} holds frames already; open it with writable=True to append.")
        header = {
            "format": FORMAT,
            "version": VERSION,
            "height": height,
            "width": width,
            "every": every,
            "view": dict(view),
            "versions": dict(versions),
        }
        write_json(path / HEADER, header)
        return cls.open(path, store, writable=True)

    @classmethod
    def open(cls, path: Path | str, store: TrajectoryStore, *, writable: bool = False) -> "FrameCache":
        """Open the frames of a store; for writing, cut off what an interrupted writer left unfinished.

        Raises:
            DataError: These are no frames, they are damaged or truncated, they were filmed from another
                store, or another process writes.
        """
        path = Path(path)
        if not (path / HEADER).exists():
            raise DataError(f"{path} holds no frames: there is no {HEADER}. robopref data frames makes them.")
        header = read_json(path / HEADER)
        if not isinstance(header, dict) or header.get("format") != FORMAT or header.get("version") != VERSION:
            raise DataError(f"{path / HEADER} does not describe frames of version {VERSION} of {FORMAT}.")
        try:
            cache = cls(path, store, header)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path / HEADER} is damaged: {error!r}.") from error
        try:
            if writable:
                cache._writer = StoreWriter(path, {PIXELS: cache._pixels})
            cache._read_log()
            if cache._writer is not None:
                cache._writer.start(int(cache.first[-1]), cache._log_end)
        except BaseException:
            cache.close()
            raise
        return cache

    def close(self) -> None:
        """Release the writer's lock."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> "FrameCache":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- reading -------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the number of episodes that are filmed: the first ones of the store."""
        return len(self._filmed)

    @property
    def first(self) -> Int64[np.ndarray, " N1"]:
        """Number of the first frame of each episode, and (last entry) of all frames."""
        return np.cumsum([0, *(filmed.frames for filmed in self._filmed)], dtype=np.int64)

    @property
    def frames(self) -> UInt8[np.ndarray, "n H W 3"]:
        """All frames, as a read-only memory map."""
        count = int(self.first[-1])
        if count == 0:
            return np.empty((0, *self._pixels.shape), np.uint8)
        shape = (count, *self._pixels.shape)
        return np.memmap(self.path / PIXELS, np.uint8, mode="r", shape=shape).view(np.ndarray)

    def episode(self, episode: int) -> UInt8[np.ndarray, "F H W 3"]:
        """Return the frames of one episode, as a read-only memory map."""
        self._require(episode)
        first = self.first
        return self.frames[first[episode] : first[episode + 1]]

    def index(self, episodes: Int[np.ndarray, " B"], steps: Int[np.ndarray, " B"]) -> Int64[np.ndarray, " B"]:
        """Return which frame shows each state, or the last one before it that was filmed.

        Raises:
            DataError: An episode is not filmed, or has no such state.
        """
        for episode in np.unique(episodes).tolist():
            self._require(episode)
        outside = (steps < 0) | (steps > self.store.lengths[episodes])
        if outside.any():
            at = int(outside.argmax())
            raise DataError(f"Episode {episodes[at]} has no state {steps[at]}, so there is no frame of it.")
        return self.first[episodes] + steps // self.every

    def index_of_rows(self, rows: Int[np.ndarray, " B"]) -> Int64[np.ndarray, " B"]:
        """Return :meth:`index` for rows of the store's arrays."""
        episodes = np.searchsorted(self.store.first_rows, rows, side="right") - 1
        return self.index(episodes, rows - self.store.first_rows[episodes])

    def content(self) -> str:
        """Return a hash of all frames."""
        lines = [filmed.content for filmed in self._filmed]
        return hashlib.sha256("".join([FORMAT, *lines]).encode()).hexdigest()

    def verify(self) -> int:
        """Read every frame again and compare; return the number of episodes.

        Raises:
            DataError: Some frames are not what was written.
        """
        damaged = [i for i, f in enumerate(self._filmed) if f.content != _hash(self.episode(i))]
        if damaged:
            raise DataError(f"{self.path} is damaged: the frames of episodes {damaged[:10]} changed.")
        return len(self)

    # -- writing -------------------------------------------------------------------------------------------

    def append(self, frames: UInt8[np.ndarray, "F H W 3"], source: str) -> int:
        """Add the frames of the next episode of the store; return its index.

        Args:
            frames: Of states 0, every, 2 every, ...
            source: Where they come from, "rollout", "replay" or "video".

        Raises:
            DataError: Their size or number does not fit, all are black, there is no such episode, or the disk
                is full; the cache then holds what it held before.
        """
        if self._writer is None:
            raise DataError(f"{self.path} is not open for writing; use open(path, store, writable=True).")
        episode = len(self)
        if episode >= len(self.store):
            raise DataError(f"{self.store.path} has {len(self.store)} episodes, all of which are filmed.")
        if frames.shape[1:] != self._pixels.shape:
            raise DataError(
                f"The frames of episode {episode} are {frames.shape[2]} x {frames.shape[1]} pixels, those "
                f"before are {self.width} x {self.height}. Film all with one width and height."
            )
        expected = int(self.store.lengths[episode]) // self.every + 1
        if len(frames) != expected:
            raise DataError(
                f"Episode {episode} of {self.store.lengths[episode]} actions has {expected} frames at one in "
                f"{self.every} steps, got {len(frames)}."
            )
        if not frames.any():
            raise DataError(f"All {len(frames)} frames of episode {episode} are black: nothing was drawn.")
        filmed = _Filmed(len(frames), self.store.fingerprint(episode + 1), _hash(frames), source)
        line = sealed(vars(filmed))
        self._writer.commit({PIXELS: frames}, line, int(self.first[-1]), self._log_end)
        self._filmed.append(filmed)
        self._log_end += len(line)
        return episode

    # -- small parts ---------------------------------------------------------------------------------------

    def _read_log(self) -> None:
        log = self.path / EPISODES
        with explain_os_errors(self.path):
            lines = whole_lines(log.read_bytes()) if log.exists() else []
        for episode, line in enumerate(lines):
            try:
                self._filmed.append(_Filmed(**unsealed(line)))
            except (DataError, TypeError, ValueError) as error:
                raise DataError(f"{log} is damaged at line {episode + 1} ({error}).") from error
            self._log_end += len(line) + 1
        self._check_store()
        needed = int(self.first[-1]) * self._pixels.row_bytes
        pixels = self.path / PIXELS
        size = pixels.stat().st_size if pixels.exists() else 0
        if size < needed:
            raise DataError(
                f"{pixels} is truncated: it holds {size} bytes, but {len(self)} episodes need {needed}. "
                "Delete the folder and film again."
            )

    def _check_store(self) -> None:
        filmed, held = len(self._filmed), len(self.store)
        if filmed and (filmed > held or self._filmed[-1].store != self.store.fingerprint(filmed)):
            raise DataError(
                f"The frames in {self.path} were filmed from another store than {self.store.path}: its first "
                f"{filmed} episodes are not those that were filmed."
            )

    def _require(self, episode: int) -> None:
        if not 0 <= episode < len(self):
            raise DataError(
                f"{self.path} holds frames of {len(self)} episodes, numbered from 0; episode {episode} "
                "is not filmed. robopref data frames goes on where it stopped."
            )


def _hash(frames: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(frames).data).hexdigest()
