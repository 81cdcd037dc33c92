"""One episode in memory, where it came from, and a padded batch of pieces of episodes.

Letters used in shapes: T actions in an episode, R = T + 1 states, B segments in a batch, L actions in
its longest segment, S = L + 1 states, O observation size, A action size.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, no_type_check

import numpy as np
from jaxtyping import Bool, Float32

from robopref.errors import DataError


@no_type_check  # __post_init__ checks, always
@dataclass(frozen=True)
class Provenance:
    """Where an episode came from: with its actions, enough to replay it exactly and to draw it again.

    Args:
        task: Name of the task, such as ``drawer-open``.
        env_id: Gymnasium id, with the module that registers it: ``robopref.envs:robopref/mw-drawer-open-v0``.
        seed: Seed of ``env.reset(seed=seed)``.
        behaviour: What chose the actions, such as ``expert`` or ``random``.
        options: Options of the behaviour and of the environment that differ from the defaults.
        initial_state_hash: Hash of the simulator's state after the reset.
        versions: Version of each package that the outcome depends on.
    """

    task: str
    env_id: str
    seed: int
    behaviour: str
    options: dict[str, float | int | str]
    initial_state_hash: str
    versions: dict[str, str]

    def __post_init__(self):
        for name in ("task", "env_id", "behaviour", "initial_state_hash"):
            if not isinstance(getattr(self, name), str):
                raise DataError(f"Provenance: {name} must be a string, got {getattr(self, name)!r}.")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise DataError(f"Provenance: seed must be an integer, got {self.seed!r}.")
        for key, value in self.options.items():
            finite = isinstance(value, (int, float, str)) and (isinstance(value, str) or math.isfinite(value))
            if not isinstance(key, str) or not finite:
                raise DataError(f"Provenance: option {key!r} must be a finite number or text, got {value!r}.")
        for key, value in self.versions.items():
            if not isinstance(key, str) or not isinstance(value, str):
                raise DataError(f"Provenance: the version of {key!r} must be a string, got {value!r}.")

    def to_json(self) -> dict[str, Any]:
        """Return plain dictionaries, ready for ``json.dumps``."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Provenance":
        """Build from what :meth:`to_json` returned.

        Raises:
            DataError: A field is missing, unknown, or of the wrong type.
        """
        names = {field.name for field in fields(cls)}
        if set(data) != names:
            raise DataError(f"Provenance needs the fields {sorted(names)}, got {sorted(data)}.")
        if not isinstance(data["options"], dict) or not isinstance(data["versions"], dict):
            raise DataError("Provenance: options and versions must be tables of names and values.")
        return cls(**data)


@no_type_check  # __post_init__ converts and checks, always
@dataclass(frozen=True, eq=False)
class Trajectory:
    """One episode of T actions and the T + 1 states around them.

    Arrays of other numeric types are converted on entry.

    Args:
        observations: State before each action, and the state after the last.
        actions: Action taken in each state but the last.
        rewards: Reward received after each action.
        successes: Whether the task was solved after each action.
        keypoints: Named positions at each state, in metres, world frame.
        terminated: The task ended the episode, as opposed to the time limit.
        provenance: Where the episode came from.
        frames: Path of a video or a frames file, relative to the store's directory.

    Raises:
        DataError: Shapes do not fit each other, a value is NaN or infinite, or the episode is empty.
    """

    observations: Float32[np.ndarray, "R O"]
    actions: Float32[np.ndarray, "T A"]
    rewards: Float32[np.ndarray, " T"]
    successes: Bool[np.ndarray, " T"]
    keypoints: dict[str, Float32[np.ndarray, "R 3"]]
    terminated: bool
    provenance: Provenance
    frames: str | None = None

    def __post_init__(self):
        actions = _finite("actions", self.actions, 2)
        steps = len(actions)
        if steps == 0:
            raise DataError("An episode needs at least one action, got none.")
        convert: dict[str, Any] = {
            "actions": actions,
            "observations": _rows("observations", _finite("observations", self.observations, 2), steps + 1),
            "rewards": _rows("rewards", _finite("rewards", self.rewards, 1), steps),
            "successes": _rows("successes", _flags(self.successes), steps),
            "keypoints": {},
        }
        for name, points in self.keypoints.items():
            label = f"keypoints[{name!r}]"
            points = _rows(label, _finite(label, points, 2), steps + 1)
            if points.shape[1] != 3:
                raise DataError(f"{label} must have shape ({steps + 1}, 3), got {points.shape}.")
            convert["keypoints"][name] = points
        for name, value in convert.items():
            object.__setattr__(self, name, value)
        check_frames(self.frames)

    @property
    def length(self) -> int:
        """Number of actions, T."""
        return len(self.actions)

    @property
    def episode_return(self) -> float:
        """Undiscounted sum of the rewards."""
        return float(self.rewards.sum(dtype=np.float64))

    @property
    def succeeded(self) -> bool:
        """Whether the task was solved at any step."""
        return bool(self.successes.any())


@no_type_check  # __post_init__ converts and checks, always
@dataclass(frozen=True, eq=False)
class SegmentBatch:
    """Pieces of episodes, padded to the longest.

    After a segment's end, observations and keypoints repeat its last state; actions, rewards and successes
    are zero; the mask is False.
    """

    observations: Float32[np.ndarray, "B S O"]
    actions: Float32[np.ndarray, "B L A"]
    rewards: Float32[np.ndarray, "B L"]
    successes: Bool[np.ndarray, "B L"]
    mask: Bool[np.ndarray, "B L"]
    keypoints: dict[str, Float32[np.ndarray, "B S 3"]]

    def __post_init__(self):
        for name in ("observations", "actions", "rewards"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float32))
        for name in ("successes", "mask"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.bool_))
        points = {name: np.asarray(value, np.float32) for name, value in self.keypoints.items()}
        object.__setattr__(self, "keypoints", points)
        size, steps = self.actions.shape[:2]
        expected: dict[str, tuple[int, ...]] = {
            "observations": (size, steps + 1, self.observations.shape[-1]),
            "actions": (size, steps, self.actions.shape[-1]),
        }
        expected |= dict.fromkeys(("rewards", "successes", "mask"), (size, steps))
        got = {name: getattr(self, name).shape for name in expected}
        expected |= dict.fromkeys((f"keypoints[{name!r}]" for name in points), (size, steps + 1, 3))
        got |= {f"keypoints[{name!r}]": value.shape for name, value in points.items()}
        for name, shape in expected.items():
            if got[name] != shape:
                raise DataError(f"Segment batch: {name} must have shape {shape}, got {got[name]}.")

    def __len__(self) -> int:
        return len(self.actions)


def check_frames(frames: str | None) -> None:
    """Refuse a frames path that leaves the store's directory.

    Raises:
        DataError: The path is empty, absolute, or climbs with ``..``.
    """
    if frames is None:
        return
    posix, windows = PurePosixPath(frames), PureWindowsPath(frames)
    if not frames or posix.is_absolute() or windows.drive or ".." in windows.parts:
        raise DataError(f"frames must be a path inside the store's directory, got {frames!r}.")


def _finite(name: str, value: np.ndarray, axes: int) -> Float32[np.ndarray, "..."]:
    array = np.asarray(value)
    if array.ndim != axes or array.dtype.kind not in "fiub":
        raise DataError(f"{name} must be numbers with {axes} axes, got {array.dtype} of shape {array.shape}.")
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, dtype=np.float32)
    bad = ~np.isfinite(array)
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        raise DataError(f"{name} holds {array[at]} at {at} ({int(bad.sum())} of {array.size} not finite).")
    return array


def _flags(value: np.ndarray) -> Bool[np.ndarray, "..."]:
    array = np.asarray(value)
    if array.ndim != 1 or not (array.dtype.kind in "bfiu" and np.isin(array, (0, 1)).all()):
        raise DataError(f"successes must be a row of True and False, got {array.dtype}, shape {array.shape}.")
    return array.astype(bool)


def _rows(name: str, array: np.ndarray, rows: int) -> np.ndarray:
    if len(array) != rows:
        raise DataError(f"{name} must have {rows} rows to fit the actions, got {len(array)}.")
    return array
