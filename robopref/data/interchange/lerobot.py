"""LeRobotDataset v3.0: Parquet tables with many episodes a file, and JSON that describes them.

    meta/info.json                               features, rate, totals, templates of the paths below
    meta/stats.json                              statistics of every feature
    meta/tasks.parquet                           task_index of each task's text
    meta/episodes/chunk-000/file-000.parquet     length, tasks, place and statistics of each episode
    data/chunk-000/file-000.parquet              one row a step
    meta/robopref.parquet                        ours: what a row a step has no place for

Row t holds ``observation.state`` o_t, ``action`` a_t, what followed it (``next.reward``, ``next.success``,
``next.done``), ``keypoint.<name>`` at o_t, ``timestamp`` t / fps, and the indices. The state after the last
action has no row: it is in our own table, so a round trip loses nothing. In a data set without that table it
was never recorded; reading repeats the one before, and counts that as a loss. Videos are not read here: the
conversion copies them (:mod:`robopref.data.interchange.videos`).

Source: ``lerobot/datasets`` of lerobot 0.4.4, and a data set that it wrote.

Letters used in shapes: T steps of an episode, O observation size, A action size.
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from robopref.data.interchange import parquet
from robopref.data.interchange.carried import (
    KEY,
    LAST_STATE,
    Ledger,
    choose,
    flags,
    float32,
    named,
    parse,
    read_episode,
    read_header,
    unknown_origin,
    vectors,
)
from robopref.data.layout import Layout
from robopref.data.store import TrajectoryStore
from robopref.data.trajectory import Trajectory
from robopref.errors import DataError
from robopref.files import read_json

STATE, ACTION, POINT = "observation.state", "action", "keypoint."
REWARDS, SUCCESSES, DONE = ("next.reward", "reward"), ("next.success", "success"), "next.done"
INDICES = ("timestamp", "frame_index", "episode_index", "index", "task_index")
EPISODE = ("episode_index", "length", "tasks", "dataset_from_index", "dataset_to_index")
PLACES = ("data", "meta", "stats", "videos")
"""Columns of ``meta/episodes``, and what the names of others begin with."""
DESCRIPTION = (
    *("codebase_version", "robot_type", "total_episodes", "total_frames", "total_tasks", "chunks_size"),
    *("data_files_size_in_mb", "video_files_size_in_mb"),
    *("fps", "splits", "data_path", "video_path", "features"),
)
"""What ``meta/info.json`` of a data set of ours holds."""
META = ("info.json", "stats.json", "tasks.parquet", "episodes", "robopref.parquet")
TASK = ("__index_level_0__", "task")
"""What pandas calls the column of the tasks' texts."""
OURS, VIEWS = "meta/robopref.parquet", "robopref-views"
"""Our table, and what its metadata call the views that cameras were filmed from."""
TOLERANCE_S = 1e-3
"""How far a step's time may be from its number over the rate; LeRobot rounds times to float32."""


def read_lerobot(path: Path, folder: Path, ledger: Ledger, observation: list[str] | None = None) -> None:
    """Make a store at ``folder`` of all episodes of a data set.

    Args:
        path: Its folder.
        folder: Where the store is made.
        ledger: Takes note of what is lost.
        observation: Which features to join; by default ``observation.state``, or where there is none every
            numeric feature whose name begins with ``observation.``.

    Raises:
        DataError: The data set is damaged, foreign or of another version; the message names file and episode.
    """
    info = lerobot_info(path)
    features: dict[str, Any] = info["features"]
    keys = _observations(features, path, observation)
    ours = _our_table(path)
    layout = _layout(info, keys, ours, path)
    if ours is not None:
        ledger.lose_others("the field", info, DESCRIPTION, path / "meta/info.json")
        written = {"fps": layout.control_hz, "robot_type": robot_type(layout)}
        ledger.lose_changes(written, info, path / "meta/info.json")
    ledger.lose_files(path / "meta", META)
    _account(features, keys, layout, path, ledger)
    _account_episodes(path, ledger)
    episodes = episode_records(path)
    if ours is not None and len(ours) != len(episodes):
        raise DataError(
            f"{path / OURS} speaks of {len(ours)} episodes, but the data set has {len(episodes)}. If another "
            "tool edited the data set, delete that file and convert with lossy=true."
        )
    columns = sorted(_used(features, keys, layout))
    tasks = _tasks(path, ledger)
    counted, first = None, 0
    with TrajectoryStore.create_with(folder, layout) as store:
        for record, file, table in _tables(path, info, episodes, columns):
            where = f"{file}, episode {record['episode_index']}"
            if file != counted:
                ledger.lose_others("the column", parquet.names(file), features, file)
                counted = file
            own = None if ours is None else ours.slice(len(store), 1)
            with named(where):
                _check_places(table, record, first, tasks, where, ledger)
                store.append(_episode(table, record, keys, layout, own, where, ledger))
            first += len(table)
        for name, count in (("total_episodes", len(store)), ("total_frames", int(store.lengths.sum()))):
            if info.get(name, count) != count:
                ledger.lose(
                    f"what is missing of {info[name]} ({name}): there are {count}", path / "meta/info.json"
                )


def robot_type(layout: Layout) -> str:
    """Return what a data set of ours calls the robot."""
    return str(layout.metadata.get("robot_type") or "unknown")


def _tasks(path: Path, ledger: Ledger) -> dict[int, str] | None:
    """Return the text of each task, or None where the table of tasks is missing."""
    file = path / "meta" / "tasks.parquet"
    if not file.exists():
        ledger.note(f"{file} is missing; tasks were read from meta/episodes")
        return None
    names = parquet.names(file)
    text = next((name for name in TASK if name in names), None)
    if text is None:
        raise DataError(f"{file} has no column {' or '.join(TASK)}.")
    ledger.lose_others("the column", names, ("task_index", text), file)
    table = parquet.table(file, ("task_index", text))
    numbers = parquet.numbers(table, "task_index", str(file))[:, 0].tolist()
    return dict(zip(numbers, table[text].to_pylist(), strict=True))


def _check_places(
    table: pa.Table,
    record: Mapping[str, Any],
    first: int,
    tasks: dict[int, str] | None,
    where: str,
    ledger: Ledger,
) -> None:
    """Write down indices that are not what rows and tables say, since a store has no place for them."""
    written = {"dataset_from_index": first, "dataset_to_index": first + len(table)}
    ledger.lose_changes(written, {name: value for name, value in record.items() if value is not None}, where)
    if "index" in table.column_names:
        rows = parquet.numbers(table, "index", where).reshape(-1)
        if not np.array_equal(rows, first + np.arange(len(rows))):
            ledger.lose("index, which does not number the rows", where)
    if "task_index" in table.column_names and tasks is not None:
        for number in np.unique(parquet.numbers(table, "task_index", where)):
            if tasks.get(number) not in (record["tasks"] or tasks.values()):
                ledger.lose(f"task_index {number}, which is none of the episode's tasks", where)


def lerobot_info(path: Path) -> dict[str, Any]:
    """Return what a data set says of itself.

    Raises:
        DataError: It is no LeRobotDataset, or of another version.
    """
    info = read_json(path / "meta" / "info.json")
    try:
        version, features = str(info["codebase_version"]), info["features"]
        shapes = {
            key: (feature["dtype"], tuple(int(size) for size in feature["shape"]))
            for key, feature in features.items()
        }
        if not 0 < float(info["fps"]) < math.inf:
            raise ValueError(f"fps must be a positive number, got {info['fps']}")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{path / 'meta/info.json'} describes no LeRobotDataset: {error!r}.") from error
    if not version.startswith("v3."):
        older = version.startswith(("v1.", "v2."))
        how = " LeRobot converts older ones: python -m lerobot.datasets.v30.convert_dataset_v21_to_v30"
        raise DataError(f"{path} is a LeRobotDataset {version}; robopref reads v3.0.{how if older else ''}")
    missing = sorted({ACTION, "episode_index", "frame_index"} - set(shapes))
    if missing:
        raise DataError(f"{path / 'meta/info.json'} has no feature {', '.join(missing)}.")
    return info


def _observations(features: Mapping[str, Any], path: Path, wanted: list[str] | None) -> list[str]:
    known = [
        key
        for key, feature in features.items()
        if key.startswith("observation.") and feature["dtype"] not in ("video", "image", "string")
    ]
    if not known:
        raise DataError(f"{path} has no numeric feature 'observation.…'. There are: {', '.join(features)}.")
    if wanted is None and STATE in known:
        return [STATE]
    return choose(wanted, sorted(known), str(path))


def _our_table(path: Path) -> pa.Table | None:
    return parquet.table(path / OURS) if (path / OURS).exists() else None


def lerobot_views(path: Path) -> Mapping[str, Any]:
    """Return the view that each camera was filmed from, as our own table knows it."""
    ours = _our_table(path)
    if ours is None:
        return {}
    return parse((ours.schema.metadata or {}).get(VIEWS.encode(), b"{}"), str(path / OURS))


def _layout(info: Mapping[str, Any], keys: list[str], ours: pa.Table | None, path: Path) -> Layout:
    features = info["features"]
    widths = {key: int(np.prod(features[key]["shape"])) for key in keys}
    sizes = sum(widths.values()), int(np.prod(features[ACTION]["shape"]))
    if ours is not None:
        text = (ours.schema.metadata or {}).get(KEY.encode(), b"")
        return read_header(text, sizes, str(path / OURS))
    points = tuple(
        key.removeprefix(POINT)
        for key, feature in features.items()
        if re.fullmatch(re.escape(POINT) + r"[A-Za-z0-9_-]{1,64}", key) and list(feature["shape"]) == [3]
    )
    metadata = {"from": "lerobot", "observation": widths, "robot_type": info.get("robot_type")}
    return Layout(*sizes, points, float(info["fps"]), metadata | {"info": dict(info)})


def _account(
    features: Mapping[str, Any], keys: list[str], layout: Layout, path: Path, ledger: Ledger
) -> None:
    """Write down which features have no place in a store."""
    used = _used(features, keys, layout)
    for key, feature in features.items():
        if key not in used and feature["dtype"] != "video":
            ledger.lose(f"the feature '{key}' ({feature['dtype']})", path)
    if not _first_of(REWARDS, features):
        ledger.note("the data set has no rewards; zero was taken")
    if not _first_of(SUCCESSES, features):
        ledger.note("the data set does not say which steps were successes; none was assumed")


def _account_episodes(path: Path, ledger: Ledger) -> None:
    """Write down what the table of episodes says beside lengths, tasks, places and statistics."""
    for file in _episode_files(path):
        names = [name for name in parquet.names(file) if name.partition("/")[0] not in PLACES]
        ledger.lose_others("the column", names, EPISODE, file)


def _used(features: Collection[str], keys: list[str], layout: Layout) -> set[str]:
    """Return the features that are read: of several names for the same thing, the first."""
    names = {*keys, ACTION, DONE, *INDICES, *(POINT + name for name in layout.keypoints)}
    return {*names, *_first_of(REWARDS, features), *_first_of(SUCCESSES, features)} & set(features)


def _first_of(names: tuple[str, ...], features: Collection[str]) -> list[str]:
    return [name for name in names if name in features][:1]


def episode_records(path: Path, more: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Return the length, tasks and place of each episode, in order.

    Args:
        path: The data set.
        more: What the names of further columns begin with that are read, such as "videos/".

    Raises:
        DataError: The tables are missing or damaged, or an episode is.
    """
    files = _episode_files(path)
    if not files:
        raise DataError(f"{path / 'meta/episodes'} holds no Parquet file.")
    wanted = (*EPISODE[:3], "data/chunk_index", "data/file_index")
    records = []
    for file in files:
        also = [name for name in parquet.names(file) if name in EPISODE[3:] or name.startswith(more)]
        records += parquet.table(file, [*wanted, *also]).to_pylist()
    for record in records:
        where = f"{path / 'meta/episodes'}, episode {record['episode_index']}"
        gaps = [name for name in wanted if record[name] is None and name != "tasks"]
        if gaps:
            raise DataError(f"{where}: {', '.join(gaps)} must not be null.")
        odd = [name for name in wanted if name != "tasks" and not isinstance(record[name], int)]
        if odd:
            raise DataError(f"{where}: {', '.join(odd)} must be whole numbers, got {record[odd[0]]!r}.")
        tasks = record["tasks"]
        if tasks is not None and not (isinstance(tasks, list) and all(isinstance(t, str) for t in tasks)):
            raise DataError(f"{where}: tasks must be a list of texts, got {tasks!r}.")
    records.sort(key=lambda record: record["episode_index"])
    found = [record["episode_index"] for record in records]
    if found != list(range(len(found))):
        raise DataError(f"{path / 'meta/episodes'}: episodes must be numbered from 0, got {found[:10]}.")
    return records


def _episode_files(path: Path) -> list[Path]:
    return sorted((path / "meta" / "episodes").glob("*/*.parquet"))


def _tables(
    path: Path, info: Mapping[str, Any], episodes: list[dict[str, Any]], columns: list[str]
) -> Iterator[tuple[dict[str, Any], Path, pa.Table]]:
    """Give each episode's file and rows, reading each file once."""
    held: tuple[Path, pa.Table, np.ndarray] | None = None
    for record in episodes:
        file = file_named(path, info, "data_path", record, "data")
        if held is None or held[0] != file:
            table = parquet.table(file, columns)
            held = file, table, table["episode_index"].to_numpy()
        rows = np.flatnonzero(held[2] == record["episode_index"])
        if len(rows) != record["length"] or (len(rows) and rows[-1] - rows[0] != len(rows) - 1):
            raise DataError(
                f"{file}: episode {record['episode_index']} should have {record['length']} rows in one "
                f"piece, but has {len(rows)}."
            )
        yield record, file, held[1].slice(int(rows[0]) if len(rows) else 0, len(rows))


def file_named(
    path: Path, info: Mapping[str, Any], name: str, record: Mapping[str, Any], prefix: str, **more: str
) -> Path:
    """Return a file that a template in ``meta/info.json`` names for an episode.

    Args:
        path: The data set.
        info: What it says of itself.
        name: Of the template, such as "data_path".
        record: The episode's row in ``meta/episodes``.
        prefix: Of the columns ``chunk_index`` and ``file_index`` in it.
        more: What else the template asks for.

    Raises:
        DataError: It is no template, or names a file outside the data set.
    """
    template = info.get(name, "")
    numbers = {key: record[f"{prefix}/{key}"] for key in ("chunk_index", "file_index")}
    try:
        file = path / str(template).format(**numbers, **more)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise DataError(f"{path / 'meta/info.json'}: {name} {template!r} is no template.") from error
    if not file.resolve().is_relative_to(path.resolve()):
        raise DataError(f"{path / 'meta/info.json'}: {name} {template!r} leaves the data set's folder.")
    return file


def _episode(
    table: pa.Table,
    record: Mapping[str, Any],
    keys: list[str],
    layout: Layout,
    own: pa.Table | None,
    where: str,
    ledger: Ledger,
) -> Trajectory:
    _check_time(table, layout.control_hz, where, ledger)
    features = {name: parquet.numbers(table, name, where) for name in table.column_names}
    states = float32(vectors({key: features[key] for key in keys}, where), "observations", where, ledger)
    points = {name: float32(features[POINT + name], name, where, ledger) for name in layout.keypoints}
    if own is not None:
        last = {name: np.array(own[name][0].as_py(), np.float32) for name in own.column_names if name != KEY}
        known = read_episode(own[KEY][0].as_py(), where)
        if record["tasks"] is not None:
            ledger.lose_changes({"tasks": [known["provenance"].task]}, record, where)
    else:
        ledger.lose(LAST_STATE, where)
        last = {STATE: states[-1], **{POINT + name: steps[-1] for name, steps in points.items()}}
        task = " / ".join(record["tasks"] or ["unknown"])
        ended = DONE in features and bool(flags(features[DONE], DONE, where)[-1])
        known = {"provenance": unknown_origin(task, "unknown"), "terminated": ended}
    if DONE in features and flags(features[DONE], DONE, where)[:-1].any():
        ledger.lose(f"{DONE} before the last step", where)
    if "task_index" in features and (features["task_index"] != features["task_index"][:1]).any():
        ledger.lose("which of the episode's tasks each step belongs to ('task_index')", where)
    none = np.zeros((len(states), 1), np.float32)
    rewards = next((features[name] for name in _first_of(REWARDS, features)), none)
    successes = next((features[name] for name in _first_of(SUCCESSES, features)), none)
    return Trajectory(
        observations=np.concatenate([states, last[STATE][None]]),
        actions=float32(vectors({ACTION: features[ACTION]}, where), "actions", where, ledger),
        rewards=float32(rewards.reshape(-1), "rewards", where, ledger),
        successes=flags(successes, "success", where),
        keypoints={name: np.concatenate([p, last[POINT + name][None]]) for name, p in points.items()},
        **known,
    )


def _check_time(table: pa.Table, control_hz: float, where: str, ledger: Ledger) -> None:
    """Refuse rows that are out of order; a store says when each was by its rate alone."""
    frames = parquet.numbers(table, "frame_index", where).reshape(-1)
    if not np.array_equal(frames, np.arange(len(frames))):
        raise DataError(f"{where}: frame_index must count from 0 without a gap, got {frames[:10].tolist()}.")
    if "timestamp" in table.column_names:
        times = parquet.numbers(table, "timestamp", where).reshape(-1)
        back = np.flatnonzero(~(np.diff(times) > 0))
        if len(back):
            a, b = times[back[0]], times[back[0] + 1]
            raise DataError(
                f"{where}: time runs from {a:g} s to {b:g} s at frame {back[0] + 1} ('timestamp')."
            )
        if len(times) and np.abs(times - frames / control_hz).max() > TOLERANCE_S:
            ledger.lose("the timestamps, which are not frame_index / fps", where)
