"""One control step of robosuite's operational space controller: the same numbers in less than half the time.

robosuite 1.5.2 spends nine tenths of a step in Python: 25 times a step it computes each Jacobian three times
over, the mass matrix for the gripper too, the velocity of a base that is bolted down, and asks all of its
sensors whether they want to be read. Here the first of the 25 is upstream's own, which sets the goal; in the
others every quantity is computed once, by the same operations in the same order, so positions and velocities
agree with ``env.step`` to the last bit (tests/envs/test_robosuite.py).

Source: robosuite 1.5.2, ``controllers/parts/arm/osc.py`` and ``robots/fixed_base_robot.py``.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled names carry no type information)

from typing import Any

import mujoco
import numpy as np
from robosuite.utils.control_utils import nullspace_torques, opspace_matrices, orientation_error

ARM = "right"
_EXPECTED = {
    "use_ori": True,
    "input_ref_frame": "base",
    "impedance_mode": "fixed",
    "interpolator_pos": None,
    "interpolator_ori": None,
    "uncoupling": True,
    "lite_physics": True,
}


class FastStep:
    """Steps a simulator with one arm on a fixed base, under the default controller of its pose.

    Args:
        upstream: The robosuite environment, after a reset.

    Raises:
        ValueError: It has another controller than the one that is computed here.
    """

    def __init__(self, upstream: Any):
        robot = upstream.robots[0]
        arm = robot.part_controllers[ARM]
        got = {name: getattr(arm, name, "nothing") for name in _EXPECTED}
        if got != _EXPECTED:
            raise ValueError(f"This step is for the controller {_EXPECTED}, got {got}.")
        self._upstream, self._robot = upstream, robot
        self._model = upstream.sim.model._model
        self._substeps = int(upstream.control_timestep / upstream.model_timestep)
        self._hand = upstream.sim.model.site_name2id(arm.ref_name)
        self._joints, self._velocities = arm.qpos_index, arm.qvel_index
        self._actuators = robot._ref_actuators_indexes_dict[ARM]
        nv = self._model.nv
        self._jac_pos, self._jac_ori = np.zeros((3, nv)), np.zeros((3, nv))
        self._full_mass = np.empty((nv, nv))
        self._j_pos, self._j_ori = np.zeros((3, len(self._joints))), np.zeros((3, len(self._joints)))

    def step(self, action: np.ndarray) -> None:
        """Carry out one action, (7,), and leave MuJoCo's data as ``env.step`` does."""
        model, data = self._model, self._upstream.sim.data._data
        mujoco.mj_step1(model, data)
        self._begin(action, data.ctrl)
        mujoco.mj_step2(model, data)
        arm = self._robot.part_controllers[ARM]
        goal_m = arm.origin_pos + np.dot(arm.origin_ori, arm.goal_pos)
        goal_mat = np.dot(arm.origin_ori, arm.goal_ori)
        limits = model.actuator_ctrlrange[self._actuators]
        for _ in range(self._substeps - 1):
            mujoco.mj_step1(model, data)
            torques = self._torques(data, goal_m, goal_mat, arm)
            data.ctrl[self._actuators] = np.clip(torques, limits[:, 0], limits[:, 1])
            mujoco.mj_step2(model, data)

    def _begin(self, action: np.ndarray, ctrl: np.ndarray) -> None:
        """Set goals for hand and gripper, and the first controls, by upstream's own controllers."""
        composite = self._robot.composite_controller
        composite.update_state()
        composite.set_goal(action)
        for part, control in composite.run_controller(self._robot._enabled_parts).items():
            actuators = self._robot._ref_actuators_indexes_dict[part]
            limits = self._model.actuator_ctrlrange[actuators]
            ctrl[actuators] = np.clip(control, limits[:, 0], limits[:, 1])

    def _torques(self, data: Any, goal_m: np.ndarray, goal_mat: np.ndarray, arm: Any) -> np.ndarray:
        """Return the joint torques towards a pose of the hand in the world frame, (7,) in newton metres."""
        mujoco.mj_jacSite(self._model, data, self._jac_pos, self._jac_ori, self._hand)
        j_pos, j_ori = self._j_pos, self._j_ori
        j_pos[:], j_ori[:] = self._jac_pos[:, self._velocities], self._jac_ori[:, self._velocities]
        j_full = np.vstack([j_pos, j_ori])
        mujoco.mj_fullM(self._model, self._full_mass, data.qM)
        mass = self._full_mass[self._velocities, :][:, self._velocities]
        off_m = goal_m - data.site_xpos[self._hand]
        off_rad = orientation_error(goal_mat, data.site_xmat[self._hand].reshape(3, 3))
        force = off_m * arm.kp[0:3] + -np.dot(self._jac_pos, data.qvel) * arm.kd[0:3]
        torque = off_rad * arm.kp[3:6] + -np.dot(self._jac_ori, data.qvel) * arm.kd[3:6]
        _, inertia_pos, inertia_ori, nullspace = opspace_matrices(mass, j_full, j_pos, j_ori)
        wrench = np.concatenate([np.dot(inertia_pos, force), np.dot(inertia_ori, torque)])
        torques = np.dot(j_full.T, wrench) + data.qfrc_bias[self._velocities]
        positions, velocities = data.qpos[self._joints], data.qvel[self._velocities]
        return torques + nullspace_torques(mass, nullspace, arm.initial_joint, positions, velocities)
