"""A Meta-World task as a Gymnasium environment that can be repeated, saved, labelled and drawn.

Observation, (39,) float64: [hand 3, gripper opening 1, objects 14 (position 3, quaternion 4, twice)], the
same 18 numbers one step earlier, and the goal 3. Positions are metres in the world frame. The goal is always
visible. Action, (4,) float32 in [-1, 1]: displacement of the hand along x, y, z, and the gripper's effort.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled names carry no type information)

from typing import TYPE_CHECKING

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box

from ..bounds import observation_box
from ..checks import finite_actions
from ..drawn import DrawnEnv
from . import simulation
from .behaviours import ACTION_SIZE, Behaviour, Option
from .contacts import ContactReader
from .looks import dress
from .simulation import Snapshot

if TYPE_CHECKING:
    import mujoco

CAMERAS = ("topview", "corner", "corner2", "corner3", "corner4", "behindGripper", "gripperPOV")
CONTROL_HZ = 80
MOST_SHIFT_M = 0.2
_POSITIONS = {"hand": slice(0, 3), "object": slice(4, 7), "goal": slice(36, 39)}
_GRIPPER = 3
_INFO = {f"{name}_position_m": where for name, where in _POSITIONS.items()}


class MetaWorldEnv(DrawnEnv):
    """One task.

    ``reset(seed=s)`` is a function of ``s`` alone, whatever was played before; ``reset()`` draws the next
    layout from the environment's own generator. ``info`` holds, at reset and at every step, "success" and the
    world positions "hand_position_m", "object_position_m" and "goal_position_m", (3,) each.

    Args:
        task: Name of the task, such as "drawer-open".
        horizon: Steps after which an episode is truncated.
        terminate_on_success: End an episode at its first success. Leave it off for episodes that are going to
            be compared: rewards are positive, so stopping early makes the better episode the poorer one.
        render_mode: None or "rgb_array".
        camera: One of :data:`CAMERAS`.
        width: Width of a frame in pixels.
        height: Height of a frame in pixels.
        effects: Draw shadows and reflections, with multisampling; slower.
        detail_m: Length in metres below which meshes are drawn without detail; 0.01 takes half the time, and
            shows in few pixels of a small frame.
        light: Brightness of all lamps, 1 as they are.
        object_colour: Of what the arm shall move, as "#3355ee"; None as it is.
        hand_shift_m: By how much the hand begins further along x than upstream, at most 0.2 to either side;
            the arm stops where it reaches no further.

    Raises:
        ValueError: Unknown task, camera or render mode, a size that is not positive, or a light or shift out
            of range.
    """

    snapshots = Snapshot
    metadata = {"render_modes": ["rgb_array"], "render_fps": CONTROL_HZ}  # noqa: RUF012 (Gymnasium's own type)

    def __init__(
        self,
        task: str,
        *,
        horizon: int = 150,
        terminate_on_success: bool = False,
        render_mode: str | None = None,
        camera: str = "corner2",
        width: int = 224,
        height: int = 224,
        effects: bool = False,
        detail_m: float = 0.0,
        light: float = 1.0,
        object_colour: str | None = None,
        hand_shift_m: float = 0.0,
    ):
        self.choose_frames(
            CAMERAS,
            horizon=horizon,
            render_mode=render_mode,
            camera=camera,
            width=width,
            height=height,
            effects=effects,
            detail_m=detail_m,
        )
        if not 0 < light <= 2:
            raise ValueError(f"light must lie in (0, 2], got {light}.")
        if isinstance(hand_shift_m, bool) or not abs(hand_shift_m) <= MOST_SHIFT_M:
            raise ValueError(
                f"hand_shift_m must lie in [-{MOST_SHIFT_M}, {MOST_SHIFT_M}] metres, got {hand_shift_m}."
            )
        self.task = task
        self.terminate_on_success = terminate_on_success
        self.control_hz = CONTROL_HZ
        self._contacts: ContactReader | None = None
        self._simulator = simulation.build(task)
        self._simulator.hand_init_pos = self._simulator.hand_init_pos + np.array([hand_shift_m, 0.0, 0.0])
        dress(self._simulator.model, light, object_colour)
        space = self._simulator.sawyer_observation_space
        self.observation_space = observation_box(space.low, space.high, np.float64)
        self.action_space = Box(-1.0, 1.0, (ACTION_SIZE,), np.float32)
        self._observation = np.zeros(space.shape)
        self._pristine = simulation.capture(task, self._simulator, self._observation, 0, over=True)
        self._elapsed = 0
        self._ready = False
        self._over = True

    def _begin(self) -> tuple[np.ndarray, dict]:
        self._observation = simulation.begin_episode(self._simulator, self._pristine, self.np_random)
        self._elapsed = 0
        self._ready = True
        self._over = False
        return self._observation.copy(), self._info(False)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Act once.

        Args:
            action: (4,). Rounded to float32, as actions are stored, and clipped to [-1, 1].

        Raises:
            ValueError: The action has another shape or is not finite.
            ResetNeeded: The episode is over, or none has begun.
            ArithmeticError: The physics became unstable.
        """
        if self._over:
            state = (
                f"The episode ended after {self._elapsed} steps" if self._ready else "No episode has begun"
            )
            raise ResetNeeded(f"{state}: call reset().")
        simulator = self._simulator
        started_s = simulator.data.time
        observation, reward, _, _, upstream = simulator.step(finite_actions(action, ACTION_SIZE))
        if simulator.data.time <= started_s:  # MuJoCo starts anew when numbers overflow
            self._over = True
            raise ArithmeticError(f"The physics of '{self.task}' became unstable at step {self._elapsed}.")
        self._observation = observation
        self._elapsed += 1
        success = bool(upstream["success"])
        terminated = success and self.terminate_on_success
        truncated = self._elapsed >= self.horizon
        self._over = terminated or truncated
        return observation.copy(), float(reward), terminated, truncated, self._info(success)

    def _info(self, success: bool) -> dict:
        info: dict = {name: self._observation[where].copy() for name, where in _INFO.items()}
        info["success"] = success
        return info

    def keypoints(self) -> dict[str, np.ndarray]:
        """Return the world positions of "hand", "object" and "goal" in metres, (3,) each."""
        self._require_episode()
        return {name: self._observation[where].copy() for name, where in _POSITIONS.items()}

    def signals(self) -> dict[str, float]:
        """Return "touch" and "collision" (contacts of the arm), "force" (newtons), and "gripper".

        The gripper's opening is 0 when it is closed, and 1 at ten centimetres between its fingers or more.
        """
        self._require_episode()
        if self._contacts is None:
            self._contacts = ContactReader(self._simulator.model)
        return {
            **self._contacts.read(self._simulator.data),
            "gripper": float(self._observation[_GRIPPER]),
        }

    def snapshot(self) -> Snapshot:
        """Copy the state in the middle of an episode; see :meth:`restore`."""
        self._require_episode()
        return simulation.capture(self.task, self._simulator, self._observation, self._elapsed, self._over)

    def _return_to(self, snapshot: Snapshot) -> np.ndarray:
        if not self._ready:  # some attributes exist only after a reset; whatever this draws is overwritten
            simulation.begin_episode(self._simulator, self._pristine, np.random.default_rng(0))
            self._ready = True
        simulation.restore(self._simulator, snapshot)
        self._observation = snapshot.observation.copy()
        self._elapsed = snapshot.elapsed_steps
        self._over = snapshot.over or self._elapsed >= self.horizon
        return snapshot.observation.copy()

    def behaviour(self, kind: str, rng: np.random.Generator, **options: Option | None) -> Behaviour:
        """Return a way to act for one episode, one of :data:`~.behaviours.KINDS`."""
        return Behaviour(self.task, kind, rng, **options)

    def drawable(self) -> "tuple[mujoco.MjModel, mujoco.MjData]":
        """The simulator's own."""
        self._require_episode()
        return self._simulator.model, self._simulator.data

    def _require_episode(self) -> None:
        if not self._ready:
            raise ResetNeeded("No episode has begun: call reset().")
