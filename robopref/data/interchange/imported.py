"""A foreign data set as a store of our own, made when it is first used and kept; the source is only read.

The store is named by the source's path. Where the source has grown since, its new episodes are added, so
labels and clips beside the store stay good; where its earlier episodes are other ones, that is refused.
"""

import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from robopref.data.interchange.convert import ORIGIN, STORE, convert, format_of
from robopref.data.layout import HEADER
from robopref.data.store import TrajectoryStore
from robopref.errors import DataError
from robopref.files import cannot_write, read_json, write_json


@dataclass(frozen=True)
class Imported:
    """A foreign data set that was read in.

    Attributes:
        path: The store.
        new: How many episodes were read just now.
        notes: What the store does not hold, and what was assumed; empty where nothing was read just now.
    """

    path: Path
    new: int
    notes: list[str]


def is_foreign(path: Path) -> bool:
    """Whether there is a data set of another format."""
    try:
        return format_of(path) != STORE
    except DataError:
        return False


def place_of(source: Path, folder: Path) -> Path:
    """Return where the store of a foreign data set is, below a folder of such stores."""
    whole = source.resolve()
    return folder / f"{whole.stem}-{hashlib.sha256(str(whole).encode()).hexdigest()[:8]}"


def read_in(source: Path, folder: Path) -> Imported:
    """Make or bring up to date the store of a foreign data set.

    Args:
        source: The data set.
        folder: Below which the store is kept.

    Raises:
        DataError: The source is damaged, or has changed otherwise than by new episodes.
    """
    place, stamp = place_of(source, folder), _stamp(source)
    there = (place / HEADER).exists()
    if there and (place / ORIGIN).exists() and read_json(place / ORIGIN).get("stamp") == stamp:
        return Imported(place, 0, [])
    if there:
        new, notes = _grown(source, place)
    else:
        done = convert(source, place, target_format=STORE, lossy=True, videos=False)
        new, notes = done.episodes, done.notes
    write_json(place / ORIGIN, {"source": str(source.resolve()), "stamp": stamp})
    return Imported(place, new, notes)


def _grown(source: Path, place: Path) -> tuple[int, list[str]]:
    """Add to a store the episodes that its source has more; return how many, and the notes."""
    try:
        work = tempfile.TemporaryDirectory(prefix=f".{place.name}.", suffix=".tmp", dir=place.parent)
    except OSError as error:
        raise cannot_write(place, error) from error
    with work as scratch:
        done = convert(
            source, Path(scratch) / "now", target_format=STORE, lossy=True, labels=False, videos=False
        )
        with (
            TrajectoryStore.open(Path(scratch) / "now") as now,
            TrajectoryStore.open(place, writable=True) as held,
        ):
            before = len(held)
            if len(now) < before or now.fingerprint(before) != held.fingerprint():
                raise DataError(
                    f"{source} was changed since it was read into {place}: its first {before} episodes are "
                    f"other ones now, and the labels in {place} speak of those that were. Move {place} away "
                    "to begin anew."
                )
            for episode in range(before, len(now)):
                held.append(now.episode(episode))
            return len(now) - before, done.notes


def _stamp(source: Path) -> str:
    """Return what changes when a file of the data set does."""
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    facts = [(str(path.relative_to(source)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
