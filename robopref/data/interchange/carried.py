"""What a conversion carries along, and what it would lose.

Our store knows things for which other formats have no place (the provenance of an episode, whether its task
ended it). They travel as JSON in a field of our own, which other tools ignore, so that a round trip gives
back the same store, fingerprint included. What other formats hold and our store does not is a loss: it is
counted while converting, and at the end refused unless the caller said that losses are all right.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from robopref.data.layout import Layout
from robopref.data.store import TrajectoryStore
from robopref.data.trajectory import Provenance, Trajectory
from robopref.errors import ConfigError, DataError, unknown_name

FORMAT = "robopref-interchange"
VERSION = 1
KEY = "robopref"
"""Name of our field, wherever the other format lets us put one."""

LAST_STATE = "the state after the last action, which was not recorded (the one before is repeated)"


class Ledger:
    """What a conversion lost or had to assume, each with the first place where it happened."""

    def __init__(self):
        self.lost: dict[str, str] = {}
        self.notes: list[str] = []

    def lose(self, what: str, where: object) -> None:
        """Write down a loss; only the first place is kept."""
        self.lost.setdefault(what, str(where))

    def lose_others(self, kind: str, found: Iterable[str], known: Iterable[str], where: object) -> None:
        """Write down as losses all names but those that are known.

        Args:
            kind: What the names are of, such as "the attribute".
            found: The names that are there.
            known: Those that have a place.
            where: The place.
        """
        for name in sorted(set(found) - set(known)):
            self.lose(f"{kind} '{name}'".strip(), where)

    def lose_files(self, folder: Path, known: Iterable[str]) -> None:
        """Write down as losses the files and folders directly in a folder, but those that are known."""
        if folder.is_dir():
            self.lose_others("the file", (path.name for path in folder.iterdir()), known, folder)

    def lose_changes(self, written: Mapping[str, Any], found: Mapping[str, Any], where: object) -> None:
        """Write down as losses fields beside our own that no longer say what we wrote there.

        Args:
            written: What we would write, for our own field holds it too.
            found: What is there; a field that is not there says nothing.
            where: The place.
        """
        for name in sorted(written.keys() & found.keys()):
            if not np.array_equal(found[name], written[name]):
                self.lose(f"the change of {name} from {written[name]} to {found[name]}", where)

    def note(self, text: str) -> None:
        """Write down an assumption, once."""
        if text not in self.notes:
            self.notes.append(text)

    def settle(self, lossy: bool) -> list[str]:
        """Return all that there is to say; refuse losses that were not allowed.

        Raises:
            DataError: Something would be lost, and ``lossy`` is False.
        """
        losses = [f"{what} ({where})" for what, where in self.lost.items()]
        if losses and not lossy:
            raise DataError(
                f"This conversion would lose: {'; '.join(losses)}. Pass lossy=true to convert without."
            )
        return [*(f"lost: {loss}" for loss in losses), *self.notes]


@contextmanager
def named(where: str) -> Iterator[None]:
    """Put file and episode before a refusal by a trajectory or a store, which do not know them."""
    try:
        yield
    except DataError as error:
        if where.partition(", ")[0] in str(error):
            raise
        raise DataError(f"{where}: {error}") from error


def header_json(store: TrajectoryStore) -> str:
    """Return what a reader needs to make the same store again."""
    layout = store.layout
    return json.dumps(
        {
            "format": FORMAT,
            "version": VERSION,
            "control_hz": layout.control_hz,
            "keypoints": list(layout.keypoints),
            "metadata": layout.metadata,
        }
    )


def episode_json(trajectory: Trajectory) -> str:
    """Return what is known of an episode beyond its arrays."""
    return json.dumps(
        {
            "provenance": trajectory.provenance.to_json(),
            "terminated": bool(trajectory.terminated),
            "frames": trajectory.frames,
        }
    )


def read_header(text: str | bytes, sizes: tuple[int, int], where: str) -> Layout:
    """Return the layout that :func:`header_json` describes, for arrays of these sizes.

    Args:
        text: The JSON.
        sizes: Observation and action size of the arrays.
        where: Names the place in messages.

    Raises:
        DataError: It is damaged, or of another version.
    """
    header = parse(text, where)
    if header.get("format") != FORMAT or header.get("version") != VERSION:
        got = f"{header.get('format')} {header.get('version')}"
        raise DataError(f"{where} holds {got}; this robopref reads {FORMAT} {VERSION}.")
    try:
        return Layout(*sizes, tuple(header["keypoints"]), header["control_hz"], dict(header["metadata"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where} is damaged: {error}.") from error


def read_episode(text: str, where: str) -> dict[str, Any]:
    """Return ``provenance``, ``terminated`` and ``frames`` from what :func:`episode_json` wrote.

    Raises:
        DataError: It is damaged.
    """
    about = parse(text, where)
    try:
        provenance = Provenance.from_json(about["provenance"])
        known = {"terminated": about["terminated"], "frames": about["frames"]}
    except (KeyError, TypeError, DataError) as error:
        raise DataError(f"{where} is damaged: {error}") from error
    if not isinstance(known["terminated"], bool) or not isinstance(known["frames"], str | None):
        raise DataError(f"{where} is damaged: terminated and frames are {known}.")
    return {"provenance": provenance, **known}


def parse(text: str | bytes, where: str) -> Mapping[str, Any]:
    """Return a JSON object.

    Raises:
        DataError: It is none.
    """
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        raise DataError(f"{where} is damaged: it is not JSON ({error}).") from error
    if not isinstance(value, Mapping):
        raise DataError(f"{where} is damaged: it is JSON, but no object.")
    return value


def unknown_origin(task: str, env_id: str, behaviour: str = "unknown", seed: int = -1) -> Provenance:
    """Return the provenance of an episode that tells little of where it came from (seed -1: not known)."""
    return Provenance(task, env_id, seed, behaviour, {}, "", {})


def float32(array: np.ndarray, name: str, where: str, ledger: Ledger) -> np.ndarray:
    """Return numbers as float32, counting digits that this costs as a loss.

    Raises:
        DataError: These are no numbers.
    """
    if array.dtype.kind not in "fiub":
        raise DataError(f"{where}: {name} must be numbers, got {array.dtype}.")
    with np.errstate(over="ignore", invalid="ignore"):
        converted = array.astype(np.float32)
        if array.dtype != np.float32 and not np.array_equal(converted.astype(array.dtype), array):
            ledger.lose(f"digits of {name}, which is {array.dtype} there and float32 here", where)
    return converted


def flags(array: np.ndarray, name: str, where: str) -> np.ndarray:
    """Return a column of booleans.

    Raises:
        DataError: A value is neither 0 nor 1.
    """
    column = array.reshape(len(array), -1)
    if column.shape[1] != 1 or column.dtype.kind not in "biuf" or not np.isin(column, (0, 1)).all():
        raise DataError(f"{where}: {name} must be one true or false a step, got {array.dtype} {array.shape}.")
    return column[:, 0].astype(bool)


def vectors(parts: Mapping[str, np.ndarray], where: str) -> np.ndarray:
    """Join named vectors side by side, each flattened to one row a step.

    Raises:
        DataError: They have different numbers of rows.
    """
    rows = {name: len(part) for name, part in parts.items()}
    if len(set(rows.values())) != 1:
        raise DataError(f"{where}: these must have equally many rows, got {rows}.")
    return np.concatenate([part.reshape(len(part), -1) for part in parts.values()], axis=1)


def choose(wanted: list[str] | None, known: list[str], where: str) -> list[str]:
    """Return the observation keys that were asked for, or all.

    Raises:
        ConfigError: One of them is not there, and the message says which is nearest; or none was named.
    """
    if wanted is None:
        return known
    if not wanted:
        raise ConfigError(f"{where}: observation= names no observation. There are: {', '.join(known)}.")
    for key in wanted:
        if key not in known:
            raise ConfigError(f"{where}: {unknown_name('observation', key, known)}")
    return wanted
