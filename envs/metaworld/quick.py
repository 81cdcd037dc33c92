"""The upstream step in about half of its time, to the last bit of observation, reward and success.

Much of an upstream step is not physics: NumPy's general functions on vectors of three, and MuJoCo's named
views made anew at every look. :func:`quicken` gives a simulator a class that computes the same by the same
operations in the same order, on views that are made once. The tasks' own functions (reward, success, poses of
objects) are run as they are, with ``np``, ``reward_utils`` and ``Rotation`` of their module replaced by those
of :mod:`~.quick_rewards`, and with :class:`_Views` where they say ``self.data``.

Of the physics it leaves out ``mj_rnePostConstraint``: accelerations of bodies and forces between them
(``cacc``, ``cfrc_int``, ``cfrc_ext``), which neither tasks nor robopref read, are not kept up to date.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled names carry no type information)

import functools
import sys
from types import FunctionType
from typing import Any

import mujoco
import numpy as np
from metaworld.sawyer_xyz_env import SawyerXYZEnv

from .quick_rewards import REPLACED, gripper_caging_reward, norm

_OF_A_STEP = (
    *("evaluate_state", "compute_reward", "_get_pos_objects", "_get_quat_objects", "_get_pos_goal"),
    *("_gripper_caging_reward", "_reward_grab_effort", "_reward_quat", "_reward_pos", "_reward_door"),
    "_get_id_main_object",
)
_MOCAP_QUATERNION = np.array([1.0, 0.0, 1.0, 0.0])
_OBJECTS = 14  # numbers of objects in an observation


class _Named:
    """One of MuJoCo's named views, whose fields are looked up once.

    Its arrays are MuJoCo's own memory: they follow the data, and must not be written to.
    """

    def __init__(self, view: Any) -> None:
        self._view = view

    def __getattr__(self, name: str) -> Any:
        found = self.__dict__[name] = getattr(self._view, name)
        return found


class _Views:
    """MuJoCo's data, with named views that are made once."""

    def __init__(self, data: mujoco.MjData) -> None:
        self._data = data
        self.body, self.geom, self.site, self.joint = (
            functools.cache(lambda name, look=look: _Named(look(name)))
            for look in (data.body, data.geom, data.site, data.joint)
        )
        self.mocap_position, self.mocap_quaternion = data.mocap_pos[0], data.mocap_quat[0]
        self.ctrl = data.ctrl

    def __getattr__(self, name: str) -> Any:
        return getattr(self._data, name)


class _QuickSteps(SawyerXYZEnv):
    """What every task does at a step, on views that are made once; a mixin before the task's own class."""

    @functools.cached_property
    def _views(self) -> _Views:
        return _Views(self.data)

    def get_endeff_pos(self) -> np.ndarray:
        return self._views.body("hand").xpos

    def get_body_com(self, body_name: str) -> np.ndarray:
        return self._views.body(body_name).xpos

    @property
    def tcp_center(self) -> np.ndarray:
        site = self._views.site
        return (site("rightEndEffector").xpos + site("leftEndEffector").xpos) / 2.0

    def _get_site_pos(self, site_name: str) -> np.ndarray:
        return self._views.site(site_name).xpos.copy()

    def set_xyz_action(self, action: np.ndarray) -> None:
        x, y, z = action.tolist()
        if not (-1 <= x <= 1 and -1 <= y <= 1 and -1 <= z <= 1):
            action = action.clip(-1, 1)
        position = self._views.mocap_position
        np.add(position, action * self.action_scale, out=position)
        np.maximum(position, self.mocap_low, out=position)
        np.minimum(position, self.mocap_high, out=position)
        self._views.mocap_quaternion[:] = _MOCAP_QUATERNION

    def do_simulation(self, ctrl: Any, n_frames: int) -> None:
        self.data.ctrl[:] = ctrl
        mujoco.mj_step(self.model, self.data, nstep=n_frames)

    def move(self, action: np.ndarray) -> None:
        """The physics of a step."""
        self.set_xyz_action(action[:3])
        effort = float(action[-1])
        self._views.ctrl[:] = (effort, -effort)
        mujoco.mj_step(self.model, self.data, nstep=self.frame_skip)
        mujoco.mj_forward(self.model, self.data)

    def touching_object(self, object_geom_id: int) -> bool:
        pairs = self.data.contact.geom.tolist() if self.data.ncon else ()
        touching = [(at, pair) for at, pair in enumerate(pairs) if object_geom_id in pair]
        if not touching:
            return False
        addresses, forces = self.data.contact.efc_address, self.data.efc_force
        for name in ("leftpad_geom", "rightpad_geom"):
            pad = self._views.geom(name).id
            if not sum(forces[addresses[at]] for at, pair in touching if pad in pair) > 0:
                return False
        return True

    def _get_curr_obs_combined_no_goal(self) -> np.ndarray:
        body = self._views.body
        apart = float(norm(body("rightclaw").xpos - body("leftclaw").xpos)) / 0.1
        positions, quaternions = self._get_pos_objects().tolist(), self._get_quat_objects().tolist()
        frame = [*body("hand").xpos.tolist(), min(max(apart, 0.0), 1.0)]
        for i in range(len(positions) // 3):
            frame += positions[3 * i : 3 * i + 3]
            frame += quaternions[4 * i : 4 * i + 4]
        frame += [0.0] * (4 + _OBJECTS - len(frame))
        return np.array(frame)

    def _get_obs(self) -> np.ndarray:
        frame, goal = self._get_curr_obs_combined_no_goal(), self._get_pos_goal()
        if self._partially_observable:
            goal = np.zeros_like(goal)
        observation = np.concatenate((frame, self._prev_obs, goal))
        self._prev_obs = frame
        return observation

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        if self.curr_path_length >= self.max_path_length:
            raise ValueError("The episode is over: call reset().")
        self.move(action)
        self.curr_path_length += 1
        # Upstream has moved the target's sites, and its mj_forward has put them where the model has them.
        space, observation = self.sawyer_observation_space, self._get_obs()
        np.maximum(observation, space.low, out=observation)
        np.minimum(observation, space.high, out=observation)
        self._last_stable_obs = observation
        reward, info = self.evaluate_state(observation, action)
        return observation.copy(), reward, False, self.curr_path_length == self.max_path_length, info


@functools.cache
def _quick_class(task: type[SawyerXYZEnv]) -> type[SawyerXYZEnv]:
    quick = type(
        f"Quick{task.__name__}", (_QuickSteps, task), {"_gripper_caging_reward": gripper_caging_reward}
    )
    for name in ("_get_pos_goal", "_get_id_main_object"):
        setattr(quick, name, _rebound(vars(SawyerXYZEnv)[name], SawyerXYZEnv, quick))
    for parent in reversed(task.__mro__[: task.__mro__.index(SawyerXYZEnv)]):
        for name, value in vars(parent).items():
            if name in _OF_A_STEP:
                setattr(quick, name, _rebound(value, parent, quick))
    return quick


def _rebound(function: Any, owner: type, quick: type) -> Any:
    """The same code, which finds quick functions, views and class where its own names the general ones."""
    if isinstance(function, staticmethod):
        return staticmethod(_rebound(function.__func__, owner, quick))
    if function.__code__.co_freevars == ("func",):  # behind upstream's check that a task was set
        function = function.__closure__[0].cell_contents
    names = vars(sys.modules[owner.__module__])
    replaced = REPLACED | {owner.__name__: quick}
    names = names | {name: value for name, value in replaced.items() if name in names}
    code, defaults, closure = function.__code__, function.__defaults__, function.__closure__
    code = code.replace(co_names=tuple("_views" if name == "data" else name for name in code.co_names))
    made = FunctionType(code, names, function.__name__, defaults, closure)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def quicken(simulator: SawyerXYZEnv) -> SawyerXYZEnv:
    """Make the steps of a simulator quick; it stays the same object, in the same state."""
    simulator.__class__ = _quick_class(type(simulator))
    return simulator
