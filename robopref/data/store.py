"""The trajectory store: many thousands of episodes on disk, appended safely and read through memory maps.

An episode of T actions occupies T + 1 rows in every array. Row t holds observation o_t and keypoints, action
a_t, and the reward and success that followed a_t; in the last row only observation and keypoints mean
something, the rest is zero. Appending writes and syncs the rows, then one line of the commit log
(``episodes.jsonl``). A writer killed at any moment loses at most the episode in hand: what lies behind the
last committed row is ignored by readers and cut off by the next writer.

Letters used in shapes: N episodes, B segments in a batch, L actions in the longest segment, n rows.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64, Shaped

from robopref.data.episode_log import EpisodeRecord, read_log
from robopref.data.gather import gather
from robopref.data.layout import EPISODES, HEADER, LOCK, Layout, prepare_directory
from robopref.data.trajectory import Provenance, SegmentBatch, Trajectory
from robopref.data.writer import StoreWriter, explain_os_errors
from robopref.errors import DataError, unknown_name


class TrajectoryStore:
    """Episodes in a directory; made by :meth:`create` or :meth:`open`, best used in a ``with`` block.

    One writer at a time, guarded by a file lock; any number of readers, also while it writes.
    """

    def __init__(self, path: Path, layout: Layout):
        self.path = path
        self.layout = layout
        self._records: list[EpisodeRecord] = []
        self._log_end = 0
        self._writer: StoreWriter | None = None
        self._maps: dict[str, np.ndarray] = {}
        self._columns: dict[str, np.ndarray] = {}
        self._chain = [hashlib.sha256(layout.identity()).hexdigest()]

    # -- opening and closing -------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        observation_size: int,
        action_size: int,
        keypoints: Sequence[str] = (),
        control_hz: float,
        metadata: Mapping[str, Any] | None = None,
    ) -> "TrajectoryStore":
        """Create an empty store in a new or empty directory, open for writing.

        Raises:
            ConfigError: A size, a name, the rate or the metadata makes no sense.
            DataError: The directory holds something already, or cannot be written.
        """
        layout = Layout(observation_size, action_size, tuple(keypoints), control_hz, dict(metadata or {}))
        return cls.create_with(path, layout)

    @classmethod
    def create_with(cls, path: str | Path, layout: Layout) -> "TrajectoryStore":
        """Create an empty store of a given layout; see :meth:`create`."""
        path = Path(path)
        prepare_directory(path, known=(LOCK, f"{HEADER}.tmp"))
        store = cls(path, layout)
        store._writer = StoreWriter(path, layout.arrays)
        try:
            with explain_os_errors(path):
                layout.write(path)
            store._writer.start(0, 0)
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def open(cls, path: str | Path, *, writable: bool = False) -> "TrajectoryStore":
        """Open a store; for writing, cut off what an interrupted writer left unfinished.

        Raises:
            DataError: This is no store, it is damaged or of another version, or another process writes.
        """
        path = Path(path)
        store = cls(path, Layout.read(path))
        try:
            if writable:
                store._writer = StoreWriter(path, store.layout.arrays)
            store.refresh()
            if store._writer is not None:
                store._writer.start(store._rows, store._log_end)
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Release the writer's lock and the memory maps; a store that only reads may also just be dropped."""
        self._maps.clear()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> "TrajectoryStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def refresh(self) -> int:
        """Take in what a writer committed since this store was opened; return the number of new episodes."""
        last = self._records[-1] if self._records else None
        records, end = read_log(self.path / EPISODES, self._log_end, last)
        rows = records[-1].end_row if records else self._rows
        for array in self.layout.arrays.values():
            file = self.path / array.file
            size = file.stat().st_size if file.exists() else 0
            if size < rows * array.row_bytes:
                raise DataError(
                    f"{file} is truncated: it holds {size} bytes, but the "
                    f"{len(self) + len(records)} episodes in {EPISODES} need {rows * array.row_bytes}."
                )
        self._records += records
        self._log_end = end
        return len(records)

    # -- what happened -------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._records)

    @property
    def control_hz(self) -> float:
        """Actions per second."""
        return self.layout.control_hz

    @property
    def metadata(self) -> dict[str, Any]:
        """What the creator of the store wrote down about it."""
        return self.layout.metadata

    @property
    def lengths(self) -> Int64[np.ndarray, " N"]:
        """Number of actions of each episode."""
        return self._column("lengths", np.int64, lambda record: record.length)

    @property
    def first_rows(self) -> Int64[np.ndarray, " N"]:
        """Row of each episode's first state."""
        return self._column("first_rows", np.int64, lambda record: record.first_row)

    @property
    def returns(self) -> Float64[np.ndarray, " N"]:
        """True undiscounted return of each episode."""
        return self._column("returns", np.float64, lambda record: record.episode_return)

    @property
    def successes(self) -> Bool[np.ndarray, " N"]:
        """Whether each episode solved its task at any step."""
        return self._column("successes", np.bool_, lambda record: record.succeeded)

    @property
    def terminated(self) -> Bool[np.ndarray, " N"]:
        """Whether the task ended each episode, as opposed to the time limit."""
        return self._column("terminated", np.bool_, lambda record: record.terminated)

    def provenance(self, episode: int) -> Provenance:
        """Return where an episode came from."""
        return self._record(episode).provenance

    def episode(self, episode: int) -> Trajectory:
        """Return one episode, copied into memory."""
        record = self._record(episode)
        states = slice(record.first_row, record.end_row)
        steps = slice(record.first_row, record.end_row - 1)
        return Trajectory(
            observations=self.array("observations")[states].copy(),
            actions=self.array("actions")[steps].copy(),
            rewards=self.array("rewards")[steps].copy(),
            successes=self.array("successes")[steps].copy(),
            keypoints={
                name: self.array(f"keypoints/{name}")[states].copy() for name in self.layout.keypoints
            },
            terminated=record.terminated,
            provenance=record.provenance,
            frames=record.frames,
        )

    def segments(
        self, episodes: Int[np.ndarray, " B"], starts: Int[np.ndarray, " B"], lengths: Int[np.ndarray, " B"]
    ) -> SegmentBatch:
        """Gather segments, one vectorised read per array, padded to the longest (see :class:`SegmentBatch`).

        Args:
            episodes: Episode of each segment.
            starts: First step of each segment.
            lengths: Number of actions of each segment.

        Raises:
            DataError: An index lies outside the store or its episode.
        """
        self._check_segments(episodes, starts, lengths)
        return gather(self.array, self.layout.keypoints, self.first_rows[episodes] + starts, lengths)

    def whole_episodes(self, episodes: Int[np.ndarray, " B"] | None = None) -> SegmentBatch:
        """Gather whole episodes, all of them by default, padded to the longest."""
        chosen = np.arange(len(self)) if episodes is None else episodes
        self._check_segments(chosen, np.zeros_like(chosen), np.ones_like(chosen))
        return self.segments(chosen, np.zeros_like(chosen), self.lengths[chosen])

    def array(self, name: str) -> Shaped[np.ndarray, "rows ..."]:
        """Return a read-only memory map of all committed rows of one array.

        Args:
            name: ``observations`` (rows, O), ``actions`` (rows, A), ``rewards`` (rows,), ``successes``
                (rows,) or ``keypoints/<name>`` (rows, 3) in metres.
        """
        known = self.layout.arrays
        if name not in known:
            raise DataError(unknown_name("array", name, known))
        rows = self._rows
        held = self._maps.get(name)
        if held is None or len(held) != rows:
            spec = known[name]
            shape = (rows, *spec.shape)
            if rows == 0:
                held = np.empty(shape, spec.dtype)
                held.flags.writeable = False
            else:
                mapped = np.memmap(self.path / spec.file, spec.dtype, mode="r", shape=shape)
                held = mapped.view(np.ndarray)  # a plain view: indexing a memmap object is slower
            self._maps[name] = held
        return held

    def row_of(self, episode: int, step: int) -> int:
        """Return the row of one state; ``step`` runs from 0 to the episode's length, included."""
        record = self._record(episode)
        if not 0 <= step <= record.length:
            raise DataError(f"Episode {episode} has states 0 to {record.length}, got step {step}.")
        return record.first_row + step

    def transition_rows(self) -> Int64[np.ndarray, " n"]:
        """Return the rows that hold an action, in order; the next state of row r is row r + 1."""
        return np.delete(np.arange(self._rows), self.first_rows + self.lengths)

    def fingerprint(self, episodes: int | None = None) -> str:
        """Return a hash of the content of the first ``episodes`` episodes, all of them by default.

        It is a chain, h_0 = SHA-256(sizes, names, rate), h_i = SHA-256(h_{i-1}, rows of episode i), so what
        was said of the first n episodes can still be checked when others have been appended.
        """
        count = len(self) if episodes is None else episodes
        if not 0 <= count <= len(self):
            raise DataError(
                f"The store {self.path} has {len(self)} episodes, got a question about the first {count}."
            )
        for record in self._records[len(self._chain) - 1 : count]:
            self._chain.append(hashlib.sha256((self._chain[-1] + record.content).encode()).hexdigest())
        return self._chain[count]

    def verify(self) -> int:
        """Read every episode again and compare it with its hash; return the number of episodes.

        Raises:
            DataError: Some episodes are not what was written; the message names them.
        """
        damaged = [
            index
            for index, record in enumerate(self._records)
            if record.content != self._content(self._rows_of(record), record.terminated)
        ]
        if damaged:
            shown = ", ".join(map(str, damaged[:10])) + (", ..." if len(damaged) > 10 else "")
            raise DataError(f"{self.path} is damaged: the rows of {len(damaged)} episodes changed: {shown}.")
        return len(self)

    # -- writing -------------------------------------------------------------------------------------------

    def append(self, trajectory: Trajectory) -> int:
        """Write one episode so that it survives a kill or a power cut; return its index.

        Raises:
            DataError: The store is not open for writing, the episode does not fit it, or the disk is full;
                the store then holds what it held before.
        """
        self.extend([trajectory])
        return len(self) - 1

    def extend(self, trajectories: Sequence[Trajectory]) -> None:
        """Write several episodes, and wait for the disk once; a kill leaves none of them, or the first few.

        Raises:
            DataError: As :meth:`append` does; of the episodes none is then stored.
        """
        if self._writer is None:
            raise DataError(f"The store {self.path} is not open for writing; use open(path, writable=True).")
        if not trajectories:
            return
        packed = [self._packed(trajectory) for trajectory in trajectories]
        first, records = self._rows, list[EpisodeRecord]()
        for trajectory, rows in zip(trajectories, packed, strict=True):
            records.append(
                EpisodeRecord(
                    first_row=first,
                    length=trajectory.length,
                    episode_return=trajectory.episode_return,
                    succeeded=trajectory.succeeded,
                    terminated=trajectory.terminated,
                    content=self._content(rows, trajectory.terminated),
                    frames=trajectory.frames,
                    provenance=trajectory.provenance,
                )
            )
            first += trajectory.length + 1
        lines = b"".join(record.to_line() for record in records)
        joined = {name: np.concatenate([rows[name] for rows in packed]) for name in packed[0]}
        self._writer.commit(joined, lines, self._rows, self._log_end)
        self._records += records
        self._log_end += len(lines)

    def _packed(self, trajectory: Trajectory) -> dict[str, np.ndarray]:
        """Return the T + 1 rows of every array, as they are stored."""
        wanted, got = set(self.layout.keypoints), set(trajectory.keypoints)
        if wanted != got:
            raise DataError(f"The store has keypoints {sorted(wanted)}, the episode has {sorted(got)}.")
        values: dict[str, np.ndarray] = {
            "observations": trajectory.observations,
            "actions": trajectory.actions,
            "rewards": trajectory.rewards,
            "successes": trajectory.successes,
        }
        values |= {f"keypoints/{name}": points for name, points in trajectory.keypoints.items()}
        rows: dict[str, np.ndarray] = {}
        for name, spec in self.layout.arrays.items():
            value = values[name]
            if value.shape[1:] != spec.shape:
                width = "".join(f", {size}" for size in spec.shape)
                raise DataError(
                    f"{name} must have shape ({len(value)}{width}) in this store, got {value.shape}."
                )
            rows[name] = np.zeros((trajectory.length + 1, *spec.shape), spec.dtype)
            rows[name][: len(value)] = value
        return rows

    # -- small parts ---------------------------------------------------------------------------------------

    @property
    def _rows(self) -> int:
        return self._records[-1].end_row if self._records else 0

    def _record(self, episode: int) -> EpisodeRecord:
        if not 0 <= episode < len(self):
            raise DataError(
                f"{self.path} has {len(self)} episodes, numbered from 0; there is no episode {episode}."
            )
        return self._records[episode]

    def _column(self, name: str, dtype: type, read: Callable[[EpisodeRecord], Any]) -> np.ndarray:
        held = self._columns.get(name)
        if held is None or len(held) != len(self):
            held = np.fromiter((read(record) for record in self._records), dtype, len(self))
            held.flags.writeable = False
            self._columns[name] = held
        return held

    def _rows_of(self, record: EpisodeRecord) -> dict[str, np.ndarray]:
        return {name: self.array(name)[record.first_row : record.end_row] for name in self.layout.arrays}

    def _content(self, rows: Mapping[str, np.ndarray], terminated: bool) -> str:
        digest = hashlib.sha256(b"terminated" if terminated else b"truncated")
        for name, array in rows.items():
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()

    def _check_segments(self, episodes: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> None:
        shapes = {np.shape(episodes), np.shape(starts), np.shape(lengths)}
        if len(shapes) != 1 or episodes.ndim != 1:
            raise DataError(
                f"episodes, starts and lengths must be columns of one length, got {sorted(shapes)}."
            )
        for name, column in (("episodes", episodes), ("starts", starts), ("lengths", lengths)):
            if column.dtype.kind not in "iu":
                raise DataError(f"{name} must be integers, got {column.dtype}.")
        outside = (episodes < 0) | (episodes >= len(self))
        if outside.any():
            self._record(int(episodes[outside.argmax()]))
        bad = (starts < 0) | (lengths < 1) | (starts + lengths > self.lengths[episodes])
        if bad.any():
            i = int(bad.argmax())
            raise DataError(
                f"Segment {i} has start {starts[i]} and length {lengths[i]}, but episode {episodes[i]} has "
                f"{self.lengths[episodes[i]]} actions."
            )
