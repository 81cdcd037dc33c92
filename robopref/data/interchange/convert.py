"""Converting between the trajectory store and another format, labels included; all of it, or nothing.

The labels travel as Parquet beside the data: ``preferences/labels.parquet`` in a folder, and
``preferences/<name>.parquet`` beside a file ``<name>.hdf5``. The file says which data it speaks of, by the
store's fingerprint, and this is checked when it comes back.
"""

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robopref.data.interchange.carried import Ledger
from robopref.data.interchange.videos import (
    FOLDER,
    INDEX,
    check_videos,
    read_videos,
    read_views,
    write_videos,
)
from robopref.data.label_store import LabelStore
from robopref.data.layout import EPISODES, HEADER, LOCK
from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, DataError, unknown_name
from robopref.files import cannot_write

STORE = "store"
FORMATS = (STORE, "robomimic", "minari", "lerobot")
SUFFIXES = (".hdf5", ".h5")
LABELS = "labels.sqlite"
ORIGIN = "origin.json"
"""Beside a store that was read in: what it was made of (:mod:`robopref.data.interchange.imported`)."""
BESIDE = (ORIGIN, LABELS, f"{LABELS}-wal", f"{LABELS}-shm", f"{LABELS}-journal", "signals")
"""What may lie in a store's folder besides and is no loss: labels, and what was computed from the data."""
ACTIONS = {"robomimic": "actions", "minari": "actions", "lerobot": "action"}
"""What each format calls the actions."""
PARTS = {
    "minari": ("data", "metadata.json", "main_data.hdf5", "preferences"),
    "lerobot": ("meta", "data", "videos", "preferences"),
}
"""What lies in the folder of a format."""


@dataclass(frozen=True)
class Conversion:
    """What was converted.

    Attributes:
        source_format: One of :data:`FORMATS`.
        target_format: The other.
        episodes: Number of episodes.
        steps: Number of actions in all of them.
        labels: Number of judgements that came along.
        notes: What was lost (only where that was allowed), and what had to be assumed.
    """

    source_format: str
    target_format: str
    episodes: int
    steps: int
    labels: int
    notes: list[str]


def format_of(path: Path) -> str:
    """Return the format of what lies at ``path``.

    Raises:
        DataError: Nothing is there, or it is none of the known formats.
    """
    if path.is_file() and path.suffix in SUFFIXES:
        return "robomimic"
    if (path / HEADER).exists():
        return STORE
    if (path / "meta" / "info.json").exists():
        return "lerobot"
    if (path / "data" / "metadata.json").exists() or (path / "metadata.json").exists():
        return "minari"
    what = "is none of them" if path.exists() else "does not exist"
    raise DataError(
        f"{path} {what}. robopref reads: a trajectory store (a folder with {HEADER}), robomimic (a file "
        ".hdf5), Minari (a folder with data/metadata.json), LeRobotDataset v3 (a folder with meta/info.json)."
    )


def convert(
    source: Path,
    target: Path,
    *,
    target_format: str | None = None,
    lossy: bool = False,
    observation: list[str] | None = None,
    labels: bool = True,
    videos: bool = True,
) -> Conversion:
    """Convert a store to another format, or another format to a store.

    Args:
        source: What to convert; its format is seen from its files.
        target: Where to put it; nothing may be there.
        target_format: One of :data:`FORMATS`. By default robomimic for a name ending in ``.hdf5``, and
            a store for everything that comes from another format.
        lossy: Go on where something would be lost.
        observation: Which observations of another format to join into ours; all vectors by default.
        labels: Take the labels along, where there are any.
        videos: Take videos along, where both formats have them (the store and LeRobot).

    Raises:
        ConfigError: The formats make no conversion.
        DataError: The source is damaged, something is at the target or where its labels go, or there would be
            losses.
    """
    source_format = format_of(source)
    target_format = _target_format(target, target_format, source_format)
    if target.exists():
        raise DataError(f"{target} exists already; convert into a new place, or remove it first.")
    if source_format == STORE and observation:
        raise ConfigError("observation= says what to read from another format; this is a store.")
    ledger = Ledger()
    with _beside(target, source) as scratch:
        made = scratch / target.name
        count = 0
        if labels and source_format == STORE:
            count = _export_labels(source, labels_of(made))
            _refuse_other_labels(labels_of(made), labels_of(target))
        if source_format == STORE:
            episodes, steps = _write(source, made, target_format, ledger, videos)
        else:
            episodes, steps = _read(source, made, source_format, ledger, observation, videos)
        notes = ledger.settle(lossy)
        if labels and source_format != STORE:
            with _explained(labels_of(source)):
                count = _import_labels(labels_of(source), made)
        if labels_of(made).exists() and not made.is_dir():
            _move(labels_of(made), labels_of(target))
        _move(made, target)
    return Conversion(source_format, target_format, episodes, steps, count, notes)


def _note_range(store: TrajectoryStore, source: Path, key: str, ledger: Ledger) -> None:
    """Say where the actions of a foreign data set leave the range that policies learn within."""
    if "from" not in store.metadata:
        return
    largest = np.abs(store.array("actions")).max(axis=1)
    beyond = np.flatnonzero(largest > 1)
    if len(beyond):
        episode = int(np.searchsorted(store.first_rows, beyond[0], side="right")) - 1
        ledger.note(
            f"{source}, episode {episode}: '{key}' reaches {largest[beyond[0]]:g} at step "
            f"{beyond[0] - store.first_rows[episode]}, and {len(beyond)} steps in all leave [-1, 1]; they "
            "were kept, but policies here learn actions within [-1, 1] alone, and will refuse them"
        )


def labels_of(path: Path) -> Path:
    """Return where the labels of a data set of another format lie."""
    if path.suffix in SUFFIXES:
        return path.parent / "preferences" / f"{path.stem}.parquet"
    return path / "preferences" / "labels.parquet"


def _target_format(target: Path, wanted: str | None, source_format: str) -> str:
    if wanted is not None and wanted not in FORMATS:
        raise ConfigError(unknown_name("format", wanted, FORMATS))
    if wanted is None:
        wanted = "robomimic" if target.suffix in SUFFIXES else STORE
        if source_format == STORE == wanted:
            raise ConfigError(
                f"To which format? Say format=lerobot or format=minari, or name a file {target}.hdf5 "
                "(robomimic)."
            )
    if (source_format == STORE) == (wanted == STORE):
        raise ConfigError(
            f"robopref converts between a store and another format, not from {source_format} to {wanted}; "
            "go by way of a store."
        )
    if (wanted == "robomimic") != (target.suffix in SUFFIXES):
        raise ConfigError(f"A robomimic data set is a file .hdf5 and no other is, got {wanted} at {target}.")
    return wanted


def _take_videos(source: Path, made: Path | None, ledger: Ledger) -> None:
    """Check the videos of a LeRobotDataset, and copy them to a store; or do without."""
    from robopref.data.interchange.footage import lerobot_videos, video_keys
    from robopref.data.interchange.lerobot import lerobot_views

    keys = video_keys(source)
    if made is None:
        for key in keys.values():
            ledger.lose(f"the feature '{key}' (video)", source)
        return
    cameras = lerobot_videos(source)
    check_videos(cameras, keys)
    views = lerobot_views(source)
    write_videos(made, cameras, {camera: views[camera] for camera in cameras if camera in views})


def _write(source: Path, made: Path, target_format: str, ledger: Ledger, videos: bool) -> tuple[int, int]:
    with TrajectoryStore.open(source) as store:
        if len(store) == 0:
            raise DataError(f"{source} holds no episodes; there is nothing to convert.")
        cameras = read_videos(source, len(store))
        if any(part.name not in (INDEX, *cameras) for part in (source / FOLDER).glob("*")):
            ledger.lose("the recorded frames; their paths are kept", source / FOLDER)
        for camera, places in cameras.items():
            ledger.lose_files(source / FOLDER / camera, {place.file.name for place in places})
        arrays = (array.file for array in store.layout.arrays.values())
        ledger.lose_files(source, (HEADER, EPISODES, LOCK, FOLDER, *arrays, *BESIDE))
        if cameras and (target_format != "lerobot" or not videos):
            ledger.lose(f"the videos of {', '.join(cameras)}", source / FOLDER)
        if target_format == "robomimic":
            from robopref.data.interchange.robomimic import write_robomimic

            write_robomimic(store, made)
        elif target_format == "minari":
            from robopref.data.interchange.minari import write_minari

            task = re.sub(r"[^A-Za-z0-9_-]+", "-", store.provenance(0).task) or "data"
            write_minari(store, made, task)
        else:
            from robopref.data.interchange.lerobot_writer import write_lerobot

            taken = cameras if videos else {}
            check_videos(taken, {})
            views = {camera: view for camera, view in read_views(source).items() if camera in taken}
            write_lerobot(store, made, taken, views)
        return len(store), int(store.lengths.sum())


def _read(
    source: Path, made: Path, source_format: str, ledger: Ledger, observation: list[str] | None, videos: bool
) -> tuple[int, int]:
    with _explained(source):
        _reader(source_format)(source, made, ledger, observation)
        if source.is_dir():
            ledger.lose_files(source, PARTS[source_format])
            ledger.lose_files(source / "preferences", (labels_of(source).name,))
        if source_format == "lerobot":
            _take_videos(source, made if videos else None, ledger)
    with TrajectoryStore.open(made) as store:
        _note_range(store, source, ACTIONS[source_format], ledger)
        return len(store), int(store.lengths.sum())


def _reader(source_format: str) -> Callable[[Path, Path, Ledger, list[str] | None], None]:
    if source_format == "robomimic":
        from robopref.data.interchange.robomimic import read_robomimic as read
    elif source_format == "minari":
        from robopref.data.interchange.minari import read_minari as read
    else:
        from robopref.data.interchange.lerobot import read_lerobot as read
    return read


def _export_labels(source: Path, place: Path) -> int:
    if not (source / LABELS).exists():
        return 0
    place.parent.mkdir(parents=True, exist_ok=True)
    with TrajectoryStore.open(source) as store, LabelStore.beside(store) as labels:
        labels.check_data(store)
        return labels.export_parquet(place)


def _refuse_other_labels(made: Path, place: Path) -> None:
    """Refuse to write over labels, unless they are the same: a conversion that was killed left them."""
    if place.exists() and not (made.exists() and made.read_bytes() == place.read_bytes()):
        raise DataError(
            f"{place} exists already, and may hold people's answers; choose another name for what is made, "
            "or move these labels away first."
        )


def _import_labels(place: Path, made: Path) -> int:
    if not place.exists():
        return 0
    with TrajectoryStore.open(made) as store:
        with LabelStore.beside(store) as labels:
            count = labels.import_parquet(place)
            try:
                labels.check_data(store)
            except DataError as error:
                raise DataError(
                    f"{error} They came from {place}; labels=false converts the data without them."
                ) from error
        return count


@contextmanager
def _explained(source: Path) -> Iterator[None]:
    """Turn what damaged text and sizes do to the libraries below into a sentence."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(f"{source} is damaged: it holds text that is not UTF-8 ({error}).") from error
    except MemoryError as error:
        raise DataError(f"{source} is damaged, or too large for this machine's memory: {error}.") from error


@contextmanager
def _beside(target: Path, source: Path) -> Iterator[Path]:
    """Give a folder beside the target to work in, which is gone afterwards, whatever happens."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = tempfile.TemporaryDirectory(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        with work as scratch:
            yield Path(scratch)
    except OSError as error:
        named = error.filename if error.filename2 is None else None  # of two, the second could not be written
        if isinstance(named, str) and Path(named).resolve().is_relative_to(source.resolve()):
            raise DataError(f"Cannot read {named}: {error.strerror}.") from error
        raise cannot_write(target, error) from error


def _move(made: Path, target: Path) -> None:
    """Put what is finished in its place at once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    made.rename(target)
