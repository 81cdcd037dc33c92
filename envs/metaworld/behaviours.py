"""Behaviours of graded quality, made from the scripted experts: data to form preferences about.

An expert acts perfectly, with noise, towards an object that it sees elsewhere, until it freezes, or until it
goes random; or there is no expert. All chance comes from the generator that is passed in, so the same
generator and the same observations give the same actions. ``options`` of a behaviour is a plain dictionary
of all its parameters, what was drawn at its start included: its provenance.
"""

import importlib
import math
from collections.abc import Callable, Mapping
from types import FunctionType

import numpy as np
from metaworld.policies import ENV_POLICY_MAP

from ..names import unknown_name

Option = float | int | str
ACTION_SIZE = 4
_OBJECT = slice(4, 7)

KINDS: Mapping[str, Mapping[str, float | int | None]] = {
    "expert": {"noise": 0.0},
    "displaced": {"offset_std_m": 0.12, "noise": 0.1},
    "stall": {"step": None, "before_step": 60, "noise": 0.1},
    "switch": {"step": None, "before_step": 60, "noise": 0.1},
    "random": {},
}
"""Every kind with its options. ``noise`` is the deviation of the Gaussian noise in units of the action, whose
range is [-1, 1]; ``step`` is the step at which the change happens, drawn below ``before_step`` if None."""


def expert(task: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return the scripted expert of a task: observation (39,) to action (4,), clipped to [-1, 1].

    It is the upstream policy's own code. Only its ``move`` is replaced by one that computes the same and
    leaves out the warning that the response will be clipped, which upstream gives at nearly every step.
    """
    upstream = ENV_POLICY_MAP[f"{task}-v3"]
    module = importlib.import_module(upstream.__module__)
    get_action = FunctionType(upstream.get_action.__code__, {**vars(module), "move": _move})
    policy = upstream()

    def act(observation: np.ndarray) -> np.ndarray:
        return np.clip(get_action(policy, observation), -1, 1).astype(np.float32, copy=False)

    return act


def _move(from_xyz: np.ndarray, to_xyz: np.ndarray | np.floating, p: float) -> np.ndarray:
    return p * (to_xyz - from_xyz)


class Behaviour:
    """One episode's way to act; make a new one for every episode.

    Attributes:
        kind: One of :data:`KINDS`.
        options: All parameters as a plain dictionary, drawn ones included.
    """

    def __init__(self, task: str, kind: str, rng: np.random.Generator, **options: Option | None):
        """Check the options and draw what is drawn once per episode.

        Raises:
            ValueError: Unknown kind or option, or a value that makes no sense.
        """
        chosen = _checked(kind, options)
        self.kind = kind
        self._expert = None if kind == "random" else expert(task)
        self._rng = rng
        self._noise = float(chosen.get("noise") or 0.0)
        self._offset_m = np.zeros(3)
        self._change: int | None = None
        self._elapsed = 0
        self._gripper = 0.0
        if kind == "displaced":
            self._offset_m = rng.normal(0.0, float(chosen["offset_std_m"] or 0.0), 3)
            chosen |= {f"offset_{axis}_m": float(d) for axis, d in zip("xyz", self._offset_m, strict=True)}
        if kind in ("stall", "switch"):
            if chosen["step"] is None:
                chosen["step"] = int(rng.integers(int(chosen["before_step"] or 0)))
            else:
                del chosen["before_step"]
            self._change = int(chosen["step"] or 0)
        self.options: dict[str, Option] = {name: value for name, value in chosen.items() if value is not None}

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """Return the action at an observation (39,): (4,) float32 in [-1, 1]."""
        changed = self._change is not None and self._elapsed >= self._change
        self._elapsed += 1
        if self._expert is None or (changed and self.kind == "switch"):
            return self._rng.uniform(-1, 1, ACTION_SIZE).astype(np.float32)
        if changed:  # stalled: the arm stays, the gripper holds what it holds
            return np.array([0, 0, 0, self._gripper], np.float32)
        if self.kind == "displaced":
            observation = observation.copy()
            observation[_OBJECT] += self._offset_m
        action = self._expert(observation)
        if self._noise:
            action = np.clip(action + self._rng.normal(0, self._noise, ACTION_SIZE), -1, 1).astype(np.float32)
        self._gripper = float(action[3])
        return action


def _checked(kind: str, options: Mapping[str, Option | None]) -> dict[str, Option | None]:
    if kind not in KINDS:
        raise ValueError(unknown_name("behaviour", kind, KINDS))
    for name, value in options.items():
        if name not in KINDS[kind]:
            raise ValueError(unknown_name(f"option of the behaviour '{kind}'", name, KINDS[kind]))
        if value is None and KINDS[kind][name] is None:
            continue
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
            or value < 0
        ):
            raise ValueError(f"'{name}' of the behaviour '{kind}' must be a number from 0 on, got {value!r}.")
        if "step" in name and not isinstance(value, int):
            raise ValueError(f"'{name}' of the behaviour '{kind}' must be a whole number, got {value!r}.")
    if options.get("before_step") == 0:
        raise ValueError(f"'before_step' of the behaviour '{kind}' must be at least 1.")
    return {**KINDS[kind], **options}
