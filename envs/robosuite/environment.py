"""A robosuite task as a Gymnasium environment that can be repeated, saved, labelled and drawn.

Observation, (O,) float64: position 3 and orientation xyzw 4 of the object in the world frame, then both in
the frame of the hand (Lift: its position less the hand's, 3), then position 3 and orientation xyzw 4 of the
hand and the fingers' positions 2, in metres: robomimic's low-dimensional keys.

Action, (7,) float32 in [-1, 1], 20 a second: displacement of the hand along x, y, z of the base (1 is 5 cm),
its rotation about x, y, z (1 is 0.5 rad), and the gripper (1 closes, -1 opens).
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled names carry no type information)

from collections.abc import Mapping

import mujoco
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box

from ..bounds import unbounded_box
from ..checks import finite_actions, one_of
from ..drawn import DrawnEnv
from . import simulation
from .behaviours import ACTION_SIZE, Behaviour, Option
from .simulation import Snapshot
from .tasks import ROBOT_KEYS, TASKS

CAMERAS = ("agentview", "frontview", "sideview", "birdview", "robot0_robotview", "robot0_eye_in_hand")
CONTROL_HZ = 20
_LIFT_M = 0.1


class RobosuiteEnv(DrawnEnv):
    """One task.

    ``reset(seed=s)`` is a function of ``s`` alone, whatever was played before; ``reset()`` draws the next
    start from the environment's own generator. Episodes have a fixed length: they are truncated after
    ``horizon`` steps and never terminate earlier, so that their returns compare. The reward is robosuite's
    shaped one, at most 1.

    Args:
        task: Name of the task: lift, can or square.
        horizon: Steps after which an episode is truncated; None for the task's own.
        render_mode: None or "rgb_array".
        camera: One of :data:`CAMERAS`.
        width: Width of a frame in pixels.
        height: Height of a frame in pixels.
        effects: Draw shadows and reflections, with multisampling; slower.
        detail_m: Length in metres below which meshes are drawn without detail; 0.01 takes half the time, and
            shows in few pixels of a small frame.

    Raises:
        ValueError: Unknown task, camera or render mode, or a size that is not positive.
        DependencyNotInstalled: robosuite is not installed; the message says what to install.
    """

    snapshots = Snapshot
    packages = ("robosuite",)  # recorded with their versions beside every episode
    metadata = {"render_modes": ["rgb_array"], "render_fps": CONTROL_HZ}  # noqa: RUF012 (Gymnasium's own type)

    def __init__(
        self,
        task: str,
        *,
        horizon: int | None = None,
        render_mode: str | None = None,
        camera: str = "agentview",
        width: int = 224,
        height: int = 224,
        effects: bool = False,
        detail_m: float = 0.0,
    ):
        one_of("robosuite task", task, TASKS)
        self._about = TASKS[task]
        self.choose_frames(
            CAMERAS,
            horizon=self._about.horizon if horizon is None else horizon,
            render_mode=render_mode,
            camera=camera,
            width=width,
            height=height,
            effects=effects,
            detail_m=detail_m,
            hidden_groups=(0,),
        )
        self.task = task
        self.control_hz = CONTROL_HZ
        size = self._about.object_size + sum(ROBOT_KEYS.values())
        self.observation_space = unbounded_box(size, np.float64)
        self.action_space = Box(-1.0, 1.0, (ACTION_SIZE,), np.float32)
        self._upstream = simulation.build(self._about)
        from .control import FastStep  # imports robosuite

        self._fast = FastStep(self._upstream)
        self._canvas: mujoco.MjData | None = None
        self._observation = np.zeros(size)
        self._keypoints: dict[str, np.ndarray] = {}
        self._goal_m = np.zeros(3)
        self._elapsed: int | None = None

    def _begin(self) -> tuple[np.ndarray, dict]:
        simulation.begin_episode(self._upstream, self.np_random)
        goal = self._about.goal
        data = self._upstream.sim.data
        self._goal_m = np.array(data.get_body_xpos(goal or self._about.body))
        if goal is None:
            self._goal_m[2] += _LIFT_M
        self._elapsed = 0
        self._look()
        return self._observation.copy(), {"success": bool(self._upstream._check_success())}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Act once.

        Args:
            action: (7,). Rounded to float32, as actions are stored, and clipped to [-1, 1].

        Raises:
            ValueError: The action has another shape or is not finite.
            ResetNeeded: The episode is over, or none has begun.
            ArithmeticError: The physics became unstable.
        """
        self._require_episode()
        if self._elapsed is None or self._elapsed >= self.horizon:
            raise ResetNeeded(f"The episode ended after {self._elapsed} steps: call reset().")
        checked = finite_actions(action, ACTION_SIZE).astype(np.float64)
        data = self._upstream.sim.data._data
        started_s = data.time
        self._fast.step(checked)
        if data.time <= started_s or not np.isfinite(data.qpos).all():  # MuJoCo starts anew on overflow
            elapsed, self._elapsed = self._elapsed, None
            raise ArithmeticError(f"The physics of '{self.task}' became unstable at step {elapsed}.")
        self._elapsed += 1
        self._look()
        reward = float(self._upstream.reward(checked))
        success = bool(self._upstream._check_success())
        return self._observation.copy(), reward, False, self._elapsed >= self.horizon, {"success": success}

    def _look(self) -> None:
        """Read observation and keypoints where MuJoCo's data stands now."""
        self._observation = simulation.observe(self._upstream)
        hand = self._about.object_size
        self._keypoints = {
            "hand": self._observation[hand : hand + 3].copy(),
            "object": self._observation[:3].copy(),
            "goal": self._goal_m.copy(),
        }

    def keypoints(self) -> dict[str, np.ndarray]:
        """Return the world positions of "hand", "object" and "goal" in metres, (3,) each."""
        self._require_episode()
        return {name: point.copy() for name, point in self._keypoints.items()}

    def snapshot(self) -> Snapshot:
        """Copy the state in the middle of an episode; see :meth:`restore`."""
        self._require_episode()
        assert self._elapsed is not None
        return Snapshot(
            self.task,
            *simulation.capture(self._upstream),
            self._goal_m.copy(),
            self._observation.copy(),
            self.keypoints(),
            self._elapsed,
        )

    def _return_to(self, snapshot: Snapshot) -> np.ndarray:
        simulation.restore(self._upstream, snapshot)
        self._goal_m = snapshot.goal_m.copy()
        self._observation = snapshot.observation.copy()
        self._keypoints = {name: point.copy() for name, point in snapshot.keypoints.items()}
        self._elapsed = snapshot.elapsed_steps
        return self._observation.copy()

    def to_robomimic(self) -> dict[str, np.ndarray]:
        """Return the state as robomimic's files hold it: states, gripper_action, initial_joint."""
        self._require_episode()
        return simulation.to_robomimic(self._upstream)

    def from_robomimic(self, state: Mapping[str, np.ndarray]) -> np.ndarray:
        """Go to a state that :meth:`to_robomimic` returned, of an episode that has begun; its observation.

        Replays agree to some 1e-5, not to the last bit (for that there is :meth:`restore`). The counter of
        steps and the goal stay as they are.

        Raises:
            ValueError: The state belongs to another task.
        """
        self._require_episode()
        simulation.from_robomimic(self._upstream, state)
        self._look()
        return self._observation.copy()

    def model_xml(self) -> str:
        """Return the scene as MuJoCo's XML, with paths to robosuite's meshes."""
        return self._upstream.sim.model.get_xml()

    def behaviour(self, kind: str, rng: np.random.Generator, **options: Option | None) -> Behaviour:
        """Return a scripted behaviour for one episode (:data:`robopref.envs.graded.KINDS`)."""
        return Behaviour(self.task, kind, rng, **options)

    def drawable(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """The state on a canvas of its own, as drawing computes what the simulator's data do not hold."""
        self._require_episode()
        model = self._upstream.sim.model._model
        if self._canvas is None:
            self._canvas = mujoco.MjData(model)
        physics = simulation.capture(self._upstream)[0]
        mujoco.mj_setState(model, self._canvas, physics, mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_forward(model, self._canvas)
        return model, self._canvas

    def _require_episode(self) -> None:
        if self._elapsed is None:
            raise ResetNeeded("No episode has begun: call reset().")
