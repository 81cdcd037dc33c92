"""Scripted experts under operational space control, and behaviours of graded quality made from them.

An expert sees what a policy sees. It is a plan: a generator that yields where the hand shall go, how it shall
be turned and what the fingers do, and receives the observation that followed.
"""

from collections.abc import Callable, Generator, Mapping

import numpy as np

from ..graded import GradedBehaviour, Option
from .tasks import TASKS

ACTION_SIZE = 7
_STEP_M, _STEP_RAD = 0.05, 0.5  # what an action of 1 asks for
_OPEN, _CLOSED = -1.0, 1.0
_CAN_GOAL_M = np.array([0.1975, 0.4025, 0.8])  # the middle of the can's bin
_PEG_M = np.array([0.23, 0.1])
_SLOW_M = 0.008  # a step, when the hand goes slowly
_HELD_M = 0.04
_GAIN = 0.7  # of the way in one step: the hand lags, and the whole way would swing
# Ways to lay the nut: a handle that points away from the arm is out of reach.
_WITHIN_REACH = (-np.pi / 2, np.pi / 2, np.pi)
_OVER_M = 1.05  # the hand's height where what it holds clears the peg
_TABLE_M = 0.83  # where the middle of the nut lies
_HANDLE_M = 0.054  # from the middle of the nut to the middle of its handle

Command = tuple[np.ndarray, float, float]
"""Where the hand shall go, (3,) in metres; how far it is turned about the vertical, in rad; the fingers."""
Plan = Generator[Command, np.ndarray, None]
Part = Generator[Command, np.ndarray, np.ndarray]


class Behaviour(GradedBehaviour):
    """One episode's way to act in one task; make a new one for every episode."""

    def __init__(self, task: str, kind: str, rng: np.random.Generator, **options: Option | None):
        super().__init__(
            Expert(task), kind, rng, action_size=ACTION_SIZE, position=slice(0, 3), options=options
        )


class Expert:
    """The scripted expert of a task; make a new one for every episode."""

    def __init__(self, task: str):
        self._make = _PLANS[task]
        self._hand = TASKS[task].object_size
        self._plan: Plan | None = None
        self._command: Command = (np.zeros(3), 0.0, _OPEN)

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """Return the action at an observation: (7,) float32 in [-1, 1]."""
        seen = np.concatenate([observation[:7], observation[self._hand :]])
        if self._plan is None:
            self._plan = self._make(seen)
            self._command = next(self._plan)
        else:
            self._command = self._plan.send(seen)
        place, turn, fingers = self._command
        move = _GAIN * (place - seen[7:10]) / _STEP_M
        spin = _GAIN * _rotation_to(_pointing_down(turn), seen[10:14]) / _STEP_RAD
        return np.clip(np.concatenate([move, spin, [fingers]]), -1, 1).astype(np.float32)


def _pointing_down(turn: float) -> np.ndarray:
    """Return the orientation (xyzw) of a hand that points down, turned about the vertical."""
    return np.array([np.cos(turn / 2), np.sin(turn / 2), 0.0, 0.0])


def _rotation_to(wanted: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Return the rotation vector in the world frame, (3,) in rad, from one orientation (xyzw) to another."""
    (x, y, z, w), (a, b, c, d) = wanted, now
    vector = d * wanted[:3] - w * now[:3] - np.cross(wanted[:3], now[:3])
    scalar = w * d + x * a + y * b + z * c
    if scalar < 0:
        vector, scalar = -vector, -scalar
    sine = float(np.linalg.norm(vector))
    return vector if sine < 1e-9 else vector / sine * 2 * np.arctan2(sine, scalar)


def _reach(
    seen: np.ndarray,
    place: np.ndarray,
    fingers: float,
    turn: float = 0.0,
    *,
    near_m: float = 0.015,
    dwell: int = 0,
) -> Part:
    """Go to a place, stay for ``dwell`` steps more, and return the last observation."""
    patience = 15 + int(np.linalg.norm(seen[7:10] - place) / _SLOW_M)  # a hand that trembles never arrives
    for _ in range(patience):
        if np.abs(seen[7:10] - place).max() < near_m:
            break
        seen = yield place, turn, fingers
    for _ in range(dwell):
        seen = yield place, turn, fingers
    return seen


def _above(place: np.ndarray, height: float) -> np.ndarray:
    return np.array([place[0], place[1], height])


def _raised(place: np.ndarray, by_m: float) -> np.ndarray:
    return _above(place, place[2] + by_m)


def _grasp(seen: np.ndarray, depth_m: float, height_m: float) -> Part:
    """Take the object, as often as it takes; return once the hand holds it ``height_m`` above its place."""
    while True:
        place = _raised(seen[:3], depth_m)
        seen = yield from _reach(seen, _above(place, max(place[2] + 0.07, seen[9])), _OPEN, near_m=0.02)
        place = _raised(seen[:3], depth_m)
        seen = yield from _reach(seen, place, _OPEN)
        seen = yield from _reach(seen, place, _CLOSED, dwell=6)
        seen = yield from _reach(seen, _raised(place, height_m), _CLOSED, near_m=0.02)
        if np.linalg.norm(seen[:3] - seen[7:10]) < _HELD_M:
            return seen


def _lift(seen: np.ndarray) -> Plan:
    goal = _raised(seen[:3], 0.1)
    while True:
        seen = yield from _grasp(seen, 0.0, 0.08)
        while np.linalg.norm(seen[:3] - seen[7:10]) < _HELD_M:
            seen = yield goal, 0.0, _CLOSED


def _can(seen: np.ndarray) -> Plan:
    while True:
        seen = yield from _grasp(seen, 0.01, 0.15)
        seen = yield from _reach(seen, _above(_CAN_GOAL_M, 1.02), _CLOSED, near_m=0.04)
        seen = yield from _reach(seen, _above(_CAN_GOAL_M, 0.94), _CLOSED, near_m=0.03)
        seen = yield from _reach(seen, _above(_CAN_GOAL_M, 0.94), _OPEN, dwell=5)
        while np.abs(seen[:2] - _CAN_GOAL_M[:2]).max() < 0.09:
            seen = yield _above(_CAN_GOAL_M, 1.05), 0.0, _OPEN


def _turned(angle: float) -> float:
    """Return the same angle in [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _yaw(seen: np.ndarray) -> float:
    """Return how far the object is turned about the vertical, in rad."""
    x, y, z, w = seen[3:7]
    return float(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)))


def _square(seen: np.ndarray) -> Plan:
    while True:
        turn = (_yaw(seen) + np.pi / 2) % np.pi - np.pi / 2  # the hand is symmetric: half a turn is none
        along = _HANDLE_M * np.array([np.cos(_yaw(seen)), np.sin(_yaw(seen)), 0.0])
        handle = _above(seen[:3] + along, _TABLE_M)
        seen = yield from _reach(seen, _above(handle, 0.95), _OPEN, turn, near_m=0.01)
        seen = yield from _reach(seen, handle, _OPEN, turn, near_m=0.008)
        seen = yield from _reach(seen, handle, _CLOSED, turn, dwell=12)  # the fingers need ten to close
        seen = yield from _reach(seen, _above(handle, _OVER_M), _CLOSED, turn, near_m=0.02)
        if np.linalg.norm(seen[:3] - seen[7:10]) > _HANDLE_M + _HELD_M:
            continue
        quarter = min(_WITHIN_REACH, key=lambda way: abs(_turned(way - _yaw(seen))))
        for _ in range(60):  # over the peg, by what is seen of the nut
            left = _turned(quarter - _yaw(seen))
            turn += float(np.clip(0.3 * left, -0.2, 0.2))
            off = _PEG_M - seen[:2]
            if np.abs(off).max() < 0.004 and abs(left) < 0.08:
                break
            seen = yield _above(seen[7:9] + off, _OVER_M), turn, _CLOSED
        for _ in range(16):
            seen = yield _above(seen[7:9] + _PEG_M - seen[:2], seen[9] - 0.04), turn, _CLOSED
        place = seen[7:10].copy()
        seen = yield from _reach(seen, place, _OPEN, turn, dwell=8)
        while np.abs(seen[:2] - _PEG_M).max() < 0.03 and seen[2] < 0.87:
            seen = yield _raised(place, 0.1), turn, _OPEN


_PLANS: Mapping[str, Callable[[np.ndarray], Plan]] = {"lift": _lift, "can": _can, "square": _square}
