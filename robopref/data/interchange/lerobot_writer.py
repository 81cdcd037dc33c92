"""Writing a LeRobotDataset v3.0; the layout is described in :mod:`robopref.data.interchange.lerobot`.

Letters used in shapes: T steps of an episode, D numbers a step.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robopref.data.footage import Cameras
from robopref.data.interchange.carried import KEY, episode_json, header_json
from robopref.data.interchange.lerobot import (
    ACTION,
    DONE,
    OURS,
    POINT,
    REWARDS,
    STATE,
    SUCCESSES,
    VIEWS,
    robot_type,
)
from robopref.data.interchange.lerobot_videos import VIDEO_PATH, LeRobotVideos, statistics
from robopref.data.store import TrajectoryStore
from robopref.data.trajectory import Trajectory
from robopref.files import write_json

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EPISODES_PATH = "meta/episodes/chunk-000/file-000.parquet"
FILES_PER_CHUNK, FILE_MB = 1000, 100
TYPES = {"float32": pa.float32(), "int64": pa.int64(), "bool": pa.bool_()}


def write_lerobot(
    store: TrajectoryStore,
    folder: Path,
    cameras: Cameras | None = None,
    views: Mapping[str, Any] | None = None,
) -> None:
    """Write all episodes of a store as a data set in a new folder.

    Args:
        store: The episodes.
        folder: Where.
        cameras: Their videos, which are copied as they are.
        views: What robopref filmed cameras from, by camera.

    Raises:
        DataError: A video has another rate than the actions: LeRobot wants a frame for each.
    """
    features = _features(store)
    videos = LeRobotVideos(cameras or {}, store.control_hz, folder)
    schema = pa.schema([(name, _arrow_type(feature)) for name, feature in features.items()])
    schema = schema.with_metadata(
        {"huggingface": json.dumps({"info": {"features": _hub_features(features)}})}
    )
    tasks = list(dict.fromkeys(store.provenance(i).task for i in range(len(store))))
    records: list[dict[str, Any]] = []
    kept = _Everything()
    writer = _Shards(folder, schema)
    first = 0
    for index in range(len(store)):
        episode = store.episode(index)
        columns = _columns(episode, index, first, tasks.index(episode.provenance.task), store.control_hz)
        chunk, file = writer.write({name: columns[name] for name in features})
        record = {
            "episode_index": index,
            "tasks": [episode.provenance.task],
            "length": episode.length,
            "data/chunk_index": chunk,
            "data/file_index": file,
            "dataset_from_index": first,
            "dataset_to_index": first + episode.length,
        }
        for name, values in columns.items():
            record |= {f"stats/{name}/{key}": value for key, value in statistics(values).items()}
            kept.add(name, values)
        record |= videos.record(index)
        records.append(record | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
        first += episode.length
    writer.close()
    _write(pa.Table.from_pylist(records), folder / EPISODES_PATH)
    _write(_task_table(tasks), folder / "meta" / "tasks.parquet")
    _write(_our_table(store, views or {}), folder / OURS)
    overall = {name: statistics(all_) for name, all_ in kept.items()} | videos.statistics()
    write_json(folder / "meta" / "stats.json", overall)
    info = _info(store, features | videos.features(), len(tasks))
    write_json(folder / "meta" / "info.json", info | {"video_path": VIDEO_PATH if cameras else None})


class _Everything:
    """All values of each feature, for the statistics of the whole data set."""

    def __init__(self):
        self._parts: dict[str, list[np.ndarray]] = {}

    def add(self, name: str, values: np.ndarray) -> None:
        self._parts.setdefault(name, []).append(values)

    def items(self) -> list[tuple[str, np.ndarray]]:
        return [(name, np.concatenate(parts)) for name, parts in self._parts.items()]


class _Shards:
    """Parquet files of about ``FILE_MB`` each, one row group an episode."""

    def __init__(self, folder: Path, schema: pa.Schema):
        self._folder, self._schema = folder, schema
        self._number, self._bytes = -1, 0
        self._writer: pq.ParquetWriter | None = None

    def write(self, columns: dict[str, np.ndarray]) -> tuple[int, int]:
        """Append an episode; return the chunk and the file that it went to."""
        arrays = [_array(columns[field.name], field.type) for field in self._schema]
        table = pa.Table.from_arrays(arrays, schema=self._schema)
        if self._writer is None or self._bytes + table.nbytes > FILE_MB * 2**20:
            self.close()
            self._number, self._bytes = self._number + 1, 0
            chunk, file = divmod(self._number, FILES_PER_CHUNK)
            path = self._folder / DATA_PATH.format(chunk_index=chunk, file_index=file)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(path, self._schema, write_page_checksum=True)
        self._writer.write_table(table)
        self._bytes += table.nbytes
        chunk, file = divmod(self._number, FILES_PER_CHUNK)
        return chunk, file

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _features(store: TrajectoryStore) -> dict[str, dict[str, Any]]:
    layout = store.layout

    def feature(kind: str, size: int) -> dict[str, Any]:
        return {"dtype": kind, "shape": [size], "names": None}

    return {
        STATE: feature("float32", layout.observation_size),
        ACTION: feature("float32", layout.action_size),
        REWARDS[0]: feature("float32", 1),
        SUCCESSES[0]: feature("bool", 1),
        DONE: feature("bool", 1),
        **{POINT + name: feature("float32", 3) for name in layout.keypoints},
        "timestamp": feature("float32", 1),
        **{name: feature("int64", 1) for name in ("frame_index", "episode_index", "index", "task_index")},
    }


def _columns(
    episode: Trajectory, index: int, first: int, task: int, control_hz: float
) -> dict[str, np.ndarray]:
    steps = np.arange(episode.length)
    return {
        STATE: episode.observations[:-1],
        ACTION: episode.actions,
        REWARDS[0]: episode.rewards,
        SUCCESSES[0]: episode.successes,
        DONE: steps == episode.length - 1,
        **{POINT + name: points[:-1] for name, points in episode.keypoints.items()},
        "timestamp": (steps / control_hz).astype(np.float32),
        "frame_index": steps,
        "episode_index": np.full(episode.length, index),
        "index": first + steps,
        "task_index": np.full(episode.length, task),
    }


def _arrow_type(feature: dict[str, Any]) -> pa.DataType:
    kind, size = TYPES[feature["dtype"]], feature["shape"][0]
    return kind if size == 1 else pa.list_(kind, size)


def _array(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    if isinstance(kind, pa.FixedSizeListType):
        flat = pa.array(np.ascontiguousarray(values).reshape(-1), kind.value_type)
        return pa.FixedSizeListArray.from_arrays(flat, type=kind)
    return pa.array(values.reshape(-1), kind)


def _hub_features(features: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the features as the Hub's viewer wants them in the file."""
    plain = {name: {"dtype": feature["dtype"], "_type": "Value"} for name, feature in features.items()}
    return {
        name: value
        if features[name]["shape"] == [1]
        else {"feature": value, "length": features[name]["shape"][0], "_type": "List"}
        for name, value in plain.items()
    }


def _task_table(tasks: list[str]) -> pa.Table:
    """Return the table whose index, for pandas, is the text of the task."""
    name = "__index_level_0__"
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), name: pa.array(tasks)})
    columns = [
        {"name": n, "field_name": f, "pandas_type": t, "numpy_type": k, "metadata": None}
        for n, f, t, k in (
            ("task_index", "task_index", "int64", "int64"),
            (None, name, "unicode", "object"),
        )
    ]
    about = {"index_columns": [name], "column_indexes": [], "columns": columns, "pandas_version": "2.0.0"}
    return table.replace_schema_metadata({"pandas": json.dumps(about)})


def _our_table(store: TrajectoryStore, views: Mapping[str, Any]) -> pa.Table:
    """Return what a row a step has no place for: last states, where episodes came from, how they ended."""
    episodes = [store.episode(index) for index in range(len(store))]
    columns: dict[str, Any] = {KEY: [episode_json(episode) for episode in episodes]}
    columns[STATE] = [episode.observations[-1] for episode in episodes]
    for name in store.layout.keypoints:
        columns[POINT + name] = [episode.keypoints[name][-1] for episode in episodes]
    types = [pa.string(), *[pa.list_(pa.float32())] * (len(columns) - 1)]
    metadata = {KEY: header_json(store), VIEWS: json.dumps(dict(views))}
    schema = pa.schema(list(zip(columns, types, strict=True)), metadata=metadata)
    return pa.table(columns, schema=schema)


def _info(store: TrajectoryStore, features: dict[str, dict[str, Any]], tasks: int) -> dict[str, Any]:
    rate = store.control_hz
    return {
        "codebase_version": "v3.0",
        "robot_type": robot_type(store.layout),
        "total_episodes": len(store),
        "total_frames": int(store.lengths.sum()),
        "total_tasks": tasks,
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": FILE_MB,
        "video_files_size_in_mb": 200,
        "fps": int(rate) if float(rate).is_integer() else rate,
        "splits": {"train": f"0:{len(store)}"},
        "data_path": DATA_PATH,
        "features": features,
    }


def _write(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, write_page_checksum=True)
