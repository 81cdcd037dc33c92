"""Behaviours of graded quality, made from a scripted expert: data to form preferences about.

An expert acts perfectly, with noise, towards an object that it sees elsewhere, until it freezes, or until it
goes random; or there is no expert. All chance comes from the generator that is passed in, so the same
generator and the same observations give the same actions.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from .names import unknown_name

Option = float | int | str
Expert = Callable[[np.ndarray], np.ndarray]

KINDS: Mapping[str, Mapping[str, float | int | None]] = {
    "expert": {"noise": 0.0},
    "displaced": {"offset_std_m": 0.12, "noise": 0.1},
    "stall": {"step": None, "before_step": 60, "noise": 0.1},
    "switch": {"step": None, "before_step": 60, "noise": 0.1},
    "random": {},
}
"""Every kind with its options. ``noise`` is the deviation of the Gaussian noise in units of the action, whose
range is [-1, 1]; ``step`` is the step at which the change happens, drawn below ``before_step`` if None."""


class GradedBehaviour:
    """One episode's way to act; make a new one for every episode.

    Args:
        expert: Observation (O,) to action (A,) in [-1, 1], float32; asked once a step, unless all is random.
        kind: One of :data:`KINDS`.
        rng: Source of all chance.
        action_size: A. The last entry is the gripper.
        position: Where the object's position stands in an observation.
        options: Of the kind.

    Attributes:
        kind: One of :data:`KINDS`.
        options: All parameters as a plain dictionary, what was drawn at the start included: its provenance.

    Raises:
        ValueError: Unknown kind or option, or a value that makes no sense.
    """

    def __init__(
        self,
        expert: Expert,
        kind: str,
        rng: np.random.Generator,
        *,
        action_size: int,
        position: slice,
        options: Mapping[str, Option | None],
    ):
        chosen = _checked(kind, options)
        self.kind = kind
        self._expert = expert
        self._rng = rng
        self._size, self._position = action_size, position
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
        """Return the action at an observation (O,): (A,) float32 in [-1, 1]."""
        changed = self._change is not None and self._elapsed >= self._change
        self._elapsed += 1
        if self.kind == "random" or (changed and self.kind == "switch"):
            return self._rng.uniform(-1, 1, self._size).astype(np.float32)
        if changed:  # stalled: the arm stays, the gripper holds what it holds
            still = np.zeros(self._size, np.float32)
            still[-1] = self._gripper
            return still
        if self.kind == "displaced":
            observation = observation.copy()
            observation[self._position] += self._offset_m
        action = self._expert(observation)
        if self._noise:
            noise = self._rng.normal(0, self._noise, self._size)
            action = np.clip(action + noise, -1, 1).astype(np.float32)
        self._gripper = float(action[-1])
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
