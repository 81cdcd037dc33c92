"""The upstream step at less than half of its time, to the last bit of observation, reward and success.

Most of an upstream step is not physics: NumPy's general functions on vectors of three, and MuJoCo's named
views made anew at every look. :func:`quicken` gives a simulator a class that computes the same by the same
operations in the same order, on views that are made once. The tasks' own functions (reward, success, poses of
objects) are run as they are, with ``np``, ``reward_utils`` and ``Rotation`` of their module replaced by
functions that give the same numbers for what the tasks ask, and hand everything else to the originals.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled names carry no type information)

import functools
import math
import sys
from types import FunctionType, SimpleNamespace
from typing import Any

import mujoco
import numpy as np
from metaworld.sawyer_xyz_env import SawyerXYZEnv
from metaworld.utils import reward_utils
from scipy.spatial.transform import Rotation

_MOCAP_QUATERNION = np.array([1.0, 0.0, 1.0, 0.0])
_OF_A_STEP = (
    *("evaluate_state", "compute_reward", "_get_pos_objects", "_get_quat_objects", "_get_pos_goal"),
    *("_gripper_caging_reward", "_reward_grab_effort", "_reward_quat", "_reward_pos", "_reward_door"),
)


# --- NumPy on small vectors


def _norm(x: Any, *rest: Any, **options: Any) -> Any:
    """``np.linalg.norm`` of a vector, as NumPy computes it: the root of the vector's product with itself."""
    if rest or options or type(x) is not np.ndarray or x.ndim != 1 or x.dtype != np.float64:
        return np.linalg.norm(x, *rest, **options)
    x = x.ravel(order="K")
    return np.sqrt(x.dot(x))


def _hstack(parts: Any, **options: Any) -> np.ndarray:
    if not options and all(type(part) is np.ndarray and part.ndim == 1 for part in parts):
        return np.concatenate(parts)
    return np.hstack(parts, **options)


def _clip(x: Any, *bounds: Any, **options: Any) -> Any:
    if len(bounds) == 2 and not options and type(x) is np.ndarray:
        return x.clip(*bounds)
    return np.clip(x, *bounds, **options)


_NUMPY = SimpleNamespace(**vars(np))
_NUMPY.linalg = SimpleNamespace(**vars(np.linalg))
_NUMPY.linalg.norm, _NUMPY.hstack, _NUMPY.clip = _norm, _hstack, _clip


# --- orientations


class _Quaternion:
    """What the tasks ask of ``scipy.spatial.transform.Rotation``: ``from_matrix(m).as_quat()``."""

    def __init__(self, values: np.ndarray) -> None:
        self._values = values

    @staticmethod
    def from_matrix(matrix: np.ndarray) -> Any:
        """Markley 2008, as SciPy follows it, without what corrects matrices that are no rotation."""
        (a, b, c), (d, e, f), (g, h, i) = rows = matrix.tolist()
        if not _is_rotation(*rows):
            return Rotation.from_matrix(matrix)
        trace = a + e + i
        largest = max(a, e, i, trace)
        if largest == a:
            q = (1 - trace + 2 * a, d + b, g + c, h - f)
        elif largest == e:
            q = (b + d, 1 - trace + 2 * e, h + f, c - g)
        elif largest == i:
            q = (c + g, f + h, 1 - trace + 2 * i, d - b)
        else:
            q = (h - f, c - g, d - b, 1 + trace)
        x, y, z, w = q
        norm = math.sqrt(x * x + y * y + z * z + w * w)
        return _Quaternion(np.array((x / norm, y / norm, z / norm, w / norm)))

    def as_quat(self) -> np.ndarray:
        return self._values


def _is_rotation(first: list[float], second: list[float], third: list[float]) -> bool:
    """Whether SciPy takes the rows for orthonormal and right-handed, with room to spare."""
    (a, b, c), (d, e, f), (g, h, i) = first, second, third
    skew = abs(a * d + b * e + c * f) + abs(a * g + b * h + c * i) + abs(d * g + e * h + f * i)
    stretch = abs(a * a + b * b + c * c - 1) + abs(d * d + e * e + f * f - 1) + abs(g * g + h * h + i * i - 1)
    return (
        skew < 1e-13
        and stretch < 1e-6
        and a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g) > 0
    )


# --- rewards

_LONG_TAIL_SCALE = np.sqrt(1 / 0.1 - 1)


def _tolerance(
    x: Any,
    bounds: Any = (0.0, 0.0),
    margin: Any = 0.0,
    sigmoid: str = "gaussian",
    value_at_margin: float = 0.1,
) -> Any:
    """``reward_utils.tolerance`` of a number, with a long tail; other calls go to the original."""
    lower, upper = bounds
    known = sigmoid == "long_tail" and value_at_margin == 0.1 and isinstance(x, float)
    if not known or not margin > 0 or not lower <= upper:
        return reward_utils.tolerance(x, bounds, margin, sigmoid, value_at_margin)  # pyright: ignore[reportArgumentType]
    if lower <= x <= upper:
        return 1.0
    beyond = np.float64(lower - x if x < lower else x - upper) / margin
    return float(1 / ((beyond * _LONG_TAIL_SCALE) ** 2 + 1))


_REWARDS = SimpleNamespace(**vars(reward_utils))
_REWARDS.tolerance = _tolerance
_REPLACED = {"np": _NUMPY, "reward_utils": _REWARDS, "Rotation": _Quaternion}


# --- the step


class _QuickSteps(SawyerXYZEnv):
    """What every task does at a step, on views that are made once; a mixin before the task's own class."""

    def _xpos(self, kind: str, name: str) -> np.ndarray:
        """MuJoCo's own memory of a position: it follows the data, and must not be written to."""
        known = self.__dict__.get("_positions")
        if known is None:
            known = self.__dict__["_positions"] = {}
        found = known.get((kind, name))
        if found is None:
            found = known[kind, name] = getattr(self.data, kind)(name).xpos
        return found

    def get_endeff_pos(self) -> np.ndarray:
        return self._xpos("body", "hand")

    def get_body_com(self, body_name: str) -> np.ndarray:
        return self._xpos("body", body_name)

    @property
    def tcp_center(self) -> np.ndarray:
        return (self._xpos("site", "rightEndEffector") + self._xpos("site", "leftEndEffector")) / 2.0

    def _get_site_pos(self, site_name: str) -> np.ndarray:
        return self._xpos("site", site_name).copy()

    def set_xyz_action(self, action: np.ndarray) -> None:
        position = self.data.mocap_pos
        position += action.clip(-1, 1) * self.action_scale
        position[0].clip(self.mocap_low, self.mocap_high, out=position[0])
        self.data.mocap_quat = _MOCAP_QUATERNION

    def do_simulation(self, ctrl: Any, n_frames: int) -> None:
        self.data.ctrl[:] = ctrl
        mujoco.mj_step(self.model, self.data, nstep=n_frames)
        mujoco.mj_rnePostConstraint(self.model, self.data)

    def touching_object(self, object_geom_id: int) -> bool:
        contacts = self.data.contact
        touched = (contacts.geom == object_geom_id).any(axis=1)
        if not touched.any():
            return False
        geoms, addresses = contacts.geom[touched], contacts.efc_address[touched]
        for pad in ("leftpad_geom", "rightpad_geom"):
            at = addresses[(geoms == self.data.geom(pad).id).any(axis=1)]
            if not sum(self.data.efc_force[at]) > 0:  # one after the other, as upstream adds
                return False
        return True

    def _get_curr_obs_combined_no_goal(self) -> np.ndarray:
        apart = _norm(self._xpos("body", "rightclaw") - self._xpos("body", "leftclaw")) / 0.1
        frame = np.zeros(4 + self._obs_obj_max_len)
        frame[:3] = self._xpos("body", "hand")
        frame[3] = min(max(apart, 0.0), 1.0)
        positions, quaternions = self._get_pos_objects(), self._get_quat_objects()
        for i in range(len(positions) // 3):
            frame[4 + 7 * i : 7 + 7 * i] = positions[3 * i : 3 * i + 3]
            frame[7 + 7 * i : 11 + 7 * i] = quaternions[4 * i : 4 * i + 4]
        return frame

    def _get_obs(self) -> np.ndarray:
        frame, goal = self._get_curr_obs_combined_no_goal(), self._get_pos_goal()
        if self._partially_observable:
            goal = np.zeros_like(goal)
        observation = np.concatenate((frame, self._prev_obs, goal))
        self._prev_obs = frame
        return observation

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        self.set_xyz_action(action[:3])
        if self.curr_path_length >= self.max_path_length:
            raise ValueError("The episode is over: call reset().")
        self.do_simulation([action[-1], -action[-1]], self.frame_skip)
        self.curr_path_length += 1
        # Upstream moves the sites of the target here; mj_forward puts them where the model has them.
        mujoco.mj_forward(self.model, self.data)
        space = self.sawyer_observation_space
        observation = self._get_obs().clip(space.low, space.high)
        self._last_stable_obs = observation
        reward, info = self.evaluate_state(observation, action)
        return observation.copy(), reward, False, self.curr_path_length == self.max_path_length, info


@functools.cache
def _quick_class(task: type[SawyerXYZEnv]) -> type[SawyerXYZEnv]:
    own: dict[str, Any] = {}
    for parent in reversed(task.__mro__[: task.__mro__.index(SawyerXYZEnv) + 1]):
        own |= {name: _rebound(value, parent) for name, value in vars(parent).items() if name in _OF_A_STEP}
    return type(f"Quick{task.__name__}", (_QuickSteps, task), own)


def _rebound(function: Any, owner: type) -> Any:
    """The same code, which finds the functions of this module where its own names the general ones."""
    if isinstance(function, staticmethod):
        return staticmethod(_rebound(function.__func__, owner))
    if function.__code__.co_freevars == ("func",):  # behind upstream's check that a task was set
        function = function.__closure__[0].cell_contents
    names = vars(sys.modules[owner.__module__])
    names = names | {name: quick for name, quick in _REPLACED.items() if name in names}
    code, defaults, closure = function.__code__, function.__defaults__, function.__closure__
    made = FunctionType(code, names, function.__name__, defaults, closure)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def quicken(simulator: SawyerXYZEnv) -> SawyerXYZEnv:
    """Make the steps of a simulator quick; it stays the same object, in the same state."""
    simulator.__class__ = _quick_class(type(simulator))
    return simulator
