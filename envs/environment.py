"""One episode of a scene as a Gymnasium environment that can be repeated, saved, tried out and drawn."""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled names carry no type information)

from dataclasses import dataclass

import mujoco
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box

from .bounds import unbounded_box
from .checks import finite_actions
from .drawn import DrawnEnv
from .scene import Scene, States


@dataclass(frozen=True)
class Snapshot:
    """Everything that decides how an episode goes on, except the random generator of later resets.

    Attributes:
        task: Task that the snapshot belongs to.
        states: The state, as a batch of one.
    """

    task: str
    states: States

    def digest(self) -> str:
        """Return a SHA-256 over the whole content, as hexadecimal digits."""
        return self.states.digest(self.task)


@dataclass(frozen=True)
class Outcomes:
    """What K actions lead to from one state.

    Attributes:
        observations: (K, O).
        rewards: (K,).
        infos: As ``info`` of a step, (K, ...) each.
    """

    observations: np.ndarray
    rewards: np.ndarray
    infos: dict[str, np.ndarray]


class SceneEnv(DrawnEnv):
    """One episode of a scene.

    ``reset(seed=s)`` is a function of ``s`` alone, whatever was played before. Episodes have a fixed length:
    they are truncated after ``horizon`` actions and never terminate earlier, so that their returns compare.

    Args:
        scene: The task.
        horizon: Actions after which an episode is truncated.
        render_mode: None or "rgb_array".
        camera: One of the scene's cameras.
        width: Width of a frame in pixels.
        height: Height of a frame in pixels.
        effects: Draw shadows and reflections, with multisampling; slower.

    Raises:
        ValueError: Unknown camera or render mode, or a size that is not positive.
    """

    snapshots = Snapshot
    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 (Gymnasium's own type)

    def __init__(
        self,
        scene: Scene,
        *,
        horizon: int,
        render_mode: str | None = None,
        camera: str,
        width: int = 224,
        height: int = 224,
        effects: bool = False,
    ):
        self.choose_frames(
            scene.cameras,
            horizon=horizon,
            render_mode=render_mode,
            camera=camera,
            width=width,
            height=height,
            effects=effects,
        )
        self.scene = scene
        self.task = scene.task
        self.control_hz = scene.control_hz
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": max(1, round(scene.control_hz))}
        self.observation_space = unbounded_box(scene.observation_size, np.float32)
        self.action_space = Box(-1.0, 1.0, (scene.action_size,), np.float32)
        self._canvas: mujoco.MjData | None = None
        self._states: States | None = None

    def _begin(self) -> tuple[np.ndarray, dict]:
        self._states = self.scene.begin(self.np_random)
        _, info = self.scene.judge(self._states, self._states)
        return self.scene.observe(self._states)[0], single(info)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Act once.

        Args:
            action: (A,). Rounded to float32, as actions are stored, and clipped to [-1, 1].

        Raises:
            ValueError: The action has another shape or is not finite.
            ResetNeeded: The episode is over, or none has begun.
            ArithmeticError: The physics became unstable.
        """
        before = self._going()
        checked = finite_actions(action, self.scene.action_size)
        try:
            after = self.scene.advance(before, checked[None])
        except ArithmeticError:
            self._states = None
            raise
        self._states = after
        rewards, info = self.scene.judge(before, after)
        observation = self.scene.observe(after)[0]
        return observation, float(rewards[0]), False, self._elapsed() >= self.horizon, single(info)

    def try_actions(self, actions: np.ndarray) -> Outcomes:
        """Return what each of K actions (K, A) would lead to from here; the episode stays where it is."""
        before = self._going()
        checked = finite_actions(actions, self.scene.action_size, len(actions))
        before = before.rows(np.zeros(len(checked), int))
        after = self.scene.advance(before, checked)
        rewards, infos = self.scene.judge(before, after)
        return Outcomes(self.scene.observe(after), rewards, infos)

    @property
    def states(self) -> States:
        """The present state, as a batch of one; what scripted experts see."""
        if self._states is None:
            raise ResetNeeded("No episode has begun: call reset().")
        return self._states

    def keypoints(self) -> dict[str, np.ndarray]:
        """Return named positions in the world frame in metres, (3,) each."""
        return {name: points[0].copy() for name, points in self.scene.keypoints(self.states).items()}

    def snapshot(self) -> Snapshot:
        """Copy the state in the middle of an episode; see :meth:`restore`."""
        return Snapshot(self.task, self.states.rows(slice(None)))

    def _return_to(self, snapshot: Snapshot) -> np.ndarray:
        if snapshot.states.physics.shape != (1, self.scene.state_size):
            raise ValueError(
                f"This snapshot holds {snapshot.states.physics.size} numbers, an environment with these "
                f"options {self.scene.state_size}."
            )
        self._states = snapshot.states
        return self.scene.observe(self._states)[0]

    def drawable(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """The state, dressed on a canvas of its own."""
        states = self.states
        if self._canvas is None:
            self._canvas = mujoco.MjData(self.scene.model)
        self.scene.dress(self._canvas, states)
        return self.scene.model, self._canvas

    def close(self) -> None:
        """Release the OpenGL context, if one was made, and the threads."""
        self.scene.close()
        super().close()

    def _elapsed(self) -> int:
        return int(self.states.memory["elapsed"][0])

    def _going(self) -> States:
        states = self.states
        if self._elapsed() >= self.horizon:
            raise ResetNeeded(f"The episode ended after {self._elapsed()} steps: call reset().")
        return states


def single(info: dict[str, np.ndarray]) -> dict:
    """Return one episode's ``info``: plain bools and floats, and arrays where they are more."""
    return {name: value[0].item() if value.ndim == 1 else value[0].copy() for name, value in info.items()}
