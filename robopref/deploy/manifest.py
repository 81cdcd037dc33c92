"""``manifest.json``: what a bundle's policy sees and does, in which units, how fast, within which limits.

Letters used in shapes: O entries of the flat observation, H actions in a chunk, A entries of an action.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from robopref.deploy.fields import Fields
from robopref.deploy.limits import Limits
from robopref.errors import DataError, unknown_name

FORMAT, SCHEMA = "robopref-bundle", 1
NAME = "manifest.json"
HOLD_LAST = "last"  # hold by repeating the action that was sent last


@dataclass(frozen=True)
class Part:
    """A named part of the observation; the flat observation is all parts in their order.

    Attributes:
        name: Key under which a robot sends it, such as ``observation/state``.
        size: Numbers in it.
        units, frame: What the numbers mean.
        low, high: Range outside of which an observation is refused; None for no bound.
    """

    name: str
    size: int
    units: str
    frame: str
    low: np.ndarray | None = None
    high: np.ndarray | None = None

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "name": self.name,
            "size": self.size,
            "dtype": "float32",
            "units": self.units,
            "frame": self.frame,
            "low": None if self.low is None else self.low.tolist(),
            "high": None if self.high is None else self.high.tolist(),
        }


@dataclass(frozen=True)
class Action:
    """What the policy sends: the network's [-1, 1] is stretched to [low, high] in each entry.

    Attributes:
        names: Of the entries.
        horizon: Actions in a chunk, H.
        execute: How many of them to carry out before the next decision.
        units: Of each entry.
        frame: In which they are meant.
        low, high: (A,), what -1 and 1 mean.
        hold: (A,), the action that keeps the robot still; None to repeat the last one.
        home: (A,), an action that brings it to a safe place; None if there is none.
    """

    names: tuple[str, ...]
    horizon: int
    execute: int
    units: tuple[str, ...]
    frame: str
    low: np.ndarray
    high: np.ndarray
    hold: np.ndarray | None
    home: np.ndarray | None

    @property
    def size(self) -> int:
        """Entries of an action, A."""
        return len(self.names)

    def physical(self, unit: np.ndarray) -> np.ndarray:
        """From [-1, 1] (..., A) to the units in which actions are sent, float32."""
        return (self.low + (np.asarray(unit, np.float64) + 1) / 2 * (self.high - self.low)).astype(np.float32)

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "names": list(self.names),
            "horizon": self.horizon,
            "execute": self.execute,
            "dtype": "float32",
            "units": list(self.units),
            "frame": self.frame,
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "hold": HOLD_LAST if self.hold is None else self.hold.tolist(),
            "home": None if self.home is None else self.home.tolist(),
        }


@dataclass(frozen=True)
class Rules:
    """What the safety layer goes by, where only a server's metadata are at hand and no bundle.

    ``ignored`` are keys of an observation that the server was told to accept and not to use.
    """

    control_hz: float
    action: Action
    limits: Limits
    observation: tuple[Part, ...]
    ignored: tuple[str, ...] = ()

    @classmethod
    def read(cls, metadata: Any) -> "Rules":
        """Read them from ``client.metadata``.

        Raises:
            DataError: It is not the metadata of a robopref server.
        """
        where = "the server's metadata"
        fields = Fields(metadata, where)
        action = read_action(fields.take("action"), f"{where}: action")
        limits = Limits.read(fields.take("limits"), action.size, f"{where}: limits")
        control_hz = _rate(fields, where)
        _check_still(action, limits, control_hz, where)
        ignored = fields.texts("ignored") if "ignored" in metadata else ()
        return cls(control_hz, action, limits, _read_parts(fields, where), ignored)


@dataclass(frozen=True)
class Network:
    """An ONNX file of the bundle: its hash, and the shape behind the batch axis of what goes in and out."""

    file: str
    sha256: str
    inputs: Mapping[str, tuple[int, ...]]
    outputs: Mapping[str, tuple[int, ...]]

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "file": self.file,
            "sha256": self.sha256,
            "dtype": "float32",
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "outputs": {name: list(shape) for name, shape in self.outputs.items()},
        }


@dataclass(frozen=True)
class Manifest:
    """Everything that a bundle says of itself; ``policy`` and ``scorer`` are read by :mod:`.runtime`."""

    task: str
    control_hz: float
    observation: tuple[Part, ...]
    action: Action
    limits: Limits
    policy: Mapping[str, Any]
    scorer: Mapping[str, Any] | None
    networks: Mapping[str, Network]
    versions: Mapping[str, str]
    source: Mapping[str, Any]
    parity: str | None = None  # SHA-256 of parity.json; older bundles do not say it

    @property
    def observation_size(self) -> int:
        """Entries of the flat observation, O."""
        return sum(part.size for part in self.observation)

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "format": FORMAT,
            "schema": SCHEMA,
            "task": self.task,
            "control_hz": self.control_hz,
            "observation": [part.record() for part in self.observation],
            "action": self.action.record(),
            "limits": self.limits.record(),
            "policy": dict(self.policy),
            "scorer": None if self.scorer is None else dict(self.scorer),
            "networks": {name: network.record() for name, network in self.networks.items()},
            "versions": dict(self.versions),
            "source": dict(self.source),
            "parity": self.parity,
        }

    @classmethod
    def read(cls, record: Any, where: str) -> "Manifest":
        """Read what :meth:`record` returned.

        Raises:
            DataError: It is not a manifest, is of a newer schema, or a field makes no sense.
        """
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise DataError(f"{where} is JSON, but not the manifest of a robopref bundle")
        if record.get("schema") != SCHEMA:
            raise DataError(
                f"{where} has schema {record.get('schema')!r}; this robopref reads schema {SCHEMA}. "
                "Export the bundle again, or install the robopref that wrote it."
            )
        names = ("task", "control_hz", "observation", "action", "limits", "policy", "scorer", "networks")
        fields = Fields(record, where, (*names, "format", "schema", "versions", "source", "parity"))
        parts = _read_parts(fields, where)
        action = read_action(fields.take("action"), f"{where}: action")
        limits = Limits.read(fields.take("limits"), action.size, f"{where}: limits")
        control_hz = _rate(fields, where)
        _check_still(action, limits, control_hz, where)
        networks = Fields(fields.take("networks"), f"{where}: networks")
        return cls(
            task=fields.text("task"),
            control_hz=control_hz,
            observation=parts,
            action=action,
            limits=limits,
            policy=_kind(fields.take("policy"), f"{where}: policy"),
            scorer=None if fields.take("scorer") is None else _kind(record["scorer"], f"{where}: scorer"),
            networks={
                name: _network(networks.take(name), f"{where}: networks.{name}") for name in networks.record
            },
            versions=_object(fields, "versions"),
            source=_object(fields, "source"),
            parity=None if record.get("parity") is None else fields.text("parity"),
        )


def _read_parts(fields: Fields, where: str) -> tuple[Part, ...]:
    parts = [
        read_part(part, f"{where}: observation[{i}]") for i, part in enumerate(fields.array("observation"))
    ]
    if not parts or len({part.name for part in parts}) < len(parts):
        raise DataError(f"{where}: the parts of the observation must have names that differ")
    return tuple(parts)


def read_part(record: Any, where: str) -> Part:
    """Read a part of the observation; ``low`` and ``high`` may be left out."""
    fields = Fields(record, where, ("name", "size", "dtype", "units", "frame", "low", "high"))
    size = fields.whole("size")
    low, high = (None if fields.record.get(n) is None else fields.vector(n, size) for n in ("low", "high"))
    if low is not None and high is not None and not (low <= high).all():
        raise DataError(f"{where}: low lies above high in entries {np.flatnonzero(low > high).tolist()}")
    return Part(fields.text("name"), size, fields.text("units"), fields.text("frame"), low, high)


def read_action(record: Any, where: str) -> Action:
    """Read what is known of actions."""
    known = ("names", "horizon", "execute", "dtype", "units", "frame", "low", "high", "hold", "home")
    fields = Fields(record, where, known)
    size = len(fields.array("names"))
    if size < 1:
        raise DataError(f"{where} has no entries")
    low, high = fields.vector("low", size), fields.vector("high", size)
    if not (low < high).all():
        raise DataError(f"{where}: low must lie below high")
    horizon, execute = fields.whole("horizon"), fields.whole("execute")
    if execute > horizon:
        raise DataError(f"{where}: execute must be at most the horizon {horizon}, got {execute}")
    return Action(
        names=fields.texts("names", size),
        horizon=horizon,
        execute=execute,
        units=fields.texts("units", size),
        frame=fields.text("frame"),
        low=low,
        high=high,
        hold=None if fields.take("hold") == HOLD_LAST else fields.vector("hold", size),
        home=None if fields.take("home") is None else fields.vector("home", size),
    )


def _rate(fields: Fields, where: str) -> float:
    control_hz = fields.number("control_hz")
    if control_hz <= 0:
        raise DataError(f"{where}: control_hz must be positive, got {control_hz}")
    return control_hz


def _check_still(action: Action, limits: Limits, control_hz: float, where: str) -> None:
    """Refuse a way to hold, or a home, that is itself not allowed: it is sent where all else failed."""
    for name, still in (("hold", action.hold), ("home", action.home)):
        if still is None:
            continue
        (reason,) = limits.violations(still[None, None], control_hz)
        if reason is not None:
            raise DataError(
                f"{where}: action.{name} {still.tolist()} {reason}. Give one within the limits, or hold: "
                f'"{HOLD_LAST}" where actions are positions.'
            )


def _object(fields: Fields, name: str) -> Mapping[str, Any]:
    value = fields.take(name)
    if not isinstance(value, dict):
        raise DataError(f"{fields.where}: {name} must be a JSON object, got {value!r:.80}")
    return value


def _kind(record: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
        raise DataError(f"{where} must be a JSON object with a 'kind'")
    return record


def _network(record: Any, where: str) -> Network:
    fields = Fields(record, where, ("file", "sha256", "dtype", "inputs", "outputs"))
    file = fields.text("file")
    if fields.take("dtype") != "float32":
        raise DataError(f"{where}.dtype must be float32, got {record['dtype']!r:.80}")
    if "/" in file or "\\" in file or file.startswith("."):
        raise DataError(f"{where}: the file must lie in the bundle itself, got '{file}'")
    shapes = []
    for side in ("inputs", "outputs"):
        ports = fields.take(side)
        if not isinstance(ports, dict) or not all(
            isinstance(shape, list) and all(type(n) is int and n > 0 for n in shape)
            for shape in ports.values()
        ):
            raise DataError(f"{where}.{side} must give the shape behind the batch axis for each name")
        shapes.append({name: tuple(shape) for name, shape in ports.items()})
    return Network(file, fields.text("sha256"), *shapes)


def match_keys(got: Iterable[str], known: Sequence[str], ignored: Sequence[str]) -> None:
    """Refuse keys that are missing or unknown.

    Raises:
        DataError: Naming the key, and the nearest one that exists.
    """
    got = list(got)
    for key in got:
        if key not in known and key not in ignored:
            raise DataError(unknown_name("part of the observation", str(key), known))
    missing = [name for name in known if name not in got]
    if missing:
        raise DataError(f"The observation lacks {', '.join(missing)}; it must hold {', '.join(known)}.")


def flatten(parts: Sequence[Part], observation: Mapping[str, Any], ignored: Sequence[str] = ()) -> np.ndarray:
    """Put the parts of an observation together, (O,) float32.

    Raises:
        DataError: A part is missing, unknown, of another shape, no numbers, NaN, or out of its range.
    """
    match_keys(observation, [part.name for part in parts], ignored)
    return np.concatenate([_checked(part, observation[part.name]) for part in parts])


def _checked(part: Part, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise DataError(f"{part.name} is no array of numbers: {error}") from error
    if array.dtype.kind not in "buif":
        raise DataError(f"{part.name} must be numbers, got dtype {array.dtype}")
    if array.shape != (part.size,):
        raise DataError(f"{part.name} must be of shape ({part.size},), got {array.shape}")
    with np.errstate(over="ignore"):  # refused below, as infinity
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        bad = np.flatnonzero(~np.isfinite(array)).tolist()
        raise DataError(f"{part.name} holds NaN or infinity in entries {bad}")
    for bound, outside, word in ((part.low, np.less, "below"), (part.high, np.greater, "above")):
        if bound is not None and outside(array, bound).any():
            entry = int(np.flatnonzero(outside(array, bound))[0])
            raise DataError(
                f"{part.name}[{entry}] is {array[entry]:.4g}, {word} {bound[entry]:.4g}: "
                "the policy was never shown anything like it"
            )
    return array
