"""What has to be known about robosuite to make it repeatable.

An episode lives in MuJoCo's data and in three places in Python: the gripper's speed-limited command, the
joint positions that the controller drifts back to, and the generator of later resets. Everything else is
computed anew at every step.

A loaded model stays as it is (``hard_reset=False``: 3 ms instead of a second); its one random part, the size
of Lift's cube, is therefore the same in all instances.

What MuJoCo derives from its state (where bodies are) is one of 25 substeps behind the state after a step, as
upstream steps; observations, rewards and keypoints are read there, as upstream reads them.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled names carry no type information)

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from gymnasium.error import DependencyNotInstalled

from .tasks import ROBOT_KEYS, Task

_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
_CONSTRUCTION_SEED = 0
ARM, GRIPPER = "right", "right_gripper"


@dataclass(frozen=True)
class Snapshot:
    """Everything that decides how an episode goes on, except the random generator of later resets.

    Attributes:
        task: Task that the snapshot belongs to.
        physics: MuJoCo's integration state, (n,).
        gripper_action: The gripper's command, (2,).
        initial_joint: Joint positions that the controller drifts back to, (7,) in rad.
        goal_m: Where the object is to be brought, (3,).
        observation: The last observation, (O,).
        keypoints: The last keypoints, (3,) each.
        elapsed_steps: Steps since the reset.
    """

    task: str
    physics: np.ndarray
    gripper_action: np.ndarray
    initial_joint: np.ndarray
    goal_m: np.ndarray
    observation: np.ndarray
    keypoints: dict[str, np.ndarray]
    elapsed_steps: int

    def digest(self) -> str:
        """Return a SHA-256 over the whole content as hexadecimal digits."""
        digest = hashlib.sha256(f"{self.task} {self.elapsed_steps}".encode())
        arrays = [self.physics, self.gripper_action, self.initial_joint, self.goal_m, self.observation]
        for array in (*arrays, *(self.keypoints[name] for name in sorted(self.keypoints))):
            digest.update(f"|{array.dtype.str} {array.shape}|".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()


def build(task: Task) -> Any:
    """Return the upstream simulator of a task, with the sensors that an observation needs.

    Upstream 1.5 computes where the object is as seen from the hand before it has read where the object is, so
    from where it was a step ago. Here the object is read first, as in robosuite 1.4 and robomimic's data.

    Raises:
        DependencyNotInstalled: robosuite is not installed.
    """
    robosuite = import_robosuite()
    upstream = robosuite.make(
        task.upstream,
        robots="Panda",
        has_renderer=False,
        has_offscreen_renderer=False,
        use_camera_obs=False,
        use_object_obs=True,
        reward_shaping=True,
        control_freq=20,
        ignore_done=True,
        hard_reset=False,
        renderer="mujoco",
        seed=_CONSTRUCTION_SEED,
    )
    upstream.reset()
    wanted = {*ROBOT_KEYS, *(key for key, of in upstream._observables.items() if of.modality == "object")}
    for name in set(upstream.observation_names) - wanted:
        upstream.modify_observable(name, "enabled", False)
        upstream.modify_observable(name, "active", False)
    for name in (f"{task.sensors}_quat", f"{task.sensors}_pos"):
        upstream._observables.move_to_end(name, last=False)
    return upstream


def import_robosuite() -> Any:
    """Import robosuite quietly, and keep it from choosing the OpenGL back end of the whole process.

    Raises:
        DependencyNotInstalled: It is not installed.
    """
    logging.getLogger("robosuite_logs").addFilter(lambda record: record.levelno >= logging.ERROR)
    wish = os.environ.get("MUJOCO_GL")
    try:
        import robosuite
    except ModuleNotFoundError as error:
        if error.name != "robosuite":
            raise
        raise DependencyNotInstalled(
            "The environments robopref/rs-* need robosuite 1.5.2: pip install 'robopref[robosuite]'."
        ) from error
    finally:
        os.environ.pop("MUJOCO_GL", None)
        if wish is not None:
            os.environ["MUJOCO_GL"] = wish
    return robosuite


def begin_episode(upstream: Any, rng: np.random.Generator) -> None:
    """Draw a start and place robot and object.

    Upstream computes the first of an episode's substeps with a mass matrix from before it opened the gripper;
    here it is computed anew, as at every other step, so that an episode is a function of its state alone.
    """
    upstream.rng.bit_generator.state = np.random.default_rng(rng.integers(2**63)).bit_generator.state
    upstream.reset()
    _compute_anew(upstream)


def observe(upstream: Any) -> np.ndarray:
    """Return the observation of what MuJoCo's data holds now: the object, then :data:`ROBOT_KEYS`."""
    found = upstream._get_observations(force_update=True)
    return np.concatenate([found["object-state"], *(found[key] for key in ROBOT_KEYS)])


def capture(upstream: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Copy the physics, the gripper's command, and the joint positions that the controller drifts back to."""
    robot, model = upstream.robots[0], upstream.sim.model._model
    physics = np.empty(mujoco.mj_stateSize(model, _STATE))
    mujoco.mj_getState(model, upstream.sim.data._data, physics, _STATE)
    command = np.zeros(2) + robot.gripper[ARM].current_action  # upstream begins with one number for both
    return physics, command, np.array(robot.part_controllers[ARM].initial_joint)


def restore(upstream: Any, snapshot: Snapshot) -> None:
    """Put a simulator into the state of a snapshot of its task."""
    model, data, robot = upstream.sim.model._model, upstream.sim.data._data, upstream.robots[0]
    mujoco.mj_setState(model, data, snapshot.physics, _STATE)
    mujoco.mj_forward(model, data)
    mujoco.mj_setState(model, data, snapshot.physics, _STATE)  # forward moved the warm start
    robot.gripper[ARM].current_action = snapshot.gripper_action.copy()
    robot.part_controllers[ARM].initial_joint = snapshot.initial_joint.copy()
    _compute_anew(upstream)


def to_robomimic(upstream: Any) -> dict[str, np.ndarray]:
    """Return the state as robomimic's files hold it, with the two things that these lack to be replayed.

    Returns:
        ``states`` (1 + nq + nv,), time, positions and velocities; ``gripper_action`` (2,) and
        ``initial_joint`` (7,), without which a replay drifts though the task may still succeed.
    """
    data = upstream.sim.data._data
    _, command, initial = capture(upstream)
    state = np.concatenate([[data.time], data.qpos, data.qvel])
    return {"states": state, "gripper_action": command, "initial_joint": initial}


def from_robomimic(upstream: Any, state: Mapping[str, np.ndarray]) -> None:
    """Put a simulator into the state that :func:`to_robomimic` returned, but for the solver's warm start."""
    data, robot = upstream.sim.data._data, upstream.robots[0]
    sizes = 1, data.qpos.size, data.qvel.size
    if state["states"].shape != (sum(sizes),):
        raise ValueError(f"A state of this task has {sum(sizes)} numbers, got {state['states'].shape}.")
    time, data.qpos[:], data.qvel[:] = np.split(state["states"], np.cumsum(sizes)[:-1])
    data.time = float(time[0])
    robot.gripper[ARM].current_action = np.array(state["gripper_action"], np.float64)
    robot.part_controllers[ARM].initial_joint = np.array(state["initial_joint"], np.float64)
    mujoco.mj_forward(upstream.sim.model._model, data)
    _compute_anew(upstream)


def _compute_anew(upstream: Any) -> None:
    for part in (ARM, GRIPPER):
        upstream.robots[0].part_controllers[part].new_update = True
