"""What all tasks on MuJoCo share beside their physics: frames on demand, and snapshots of their own task."""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled names carry no type information)

from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

from .checks import lengths, one_of, positive_whole
from .rendering import Renderer

if TYPE_CHECKING:
    import mujoco


class DrawnEnv(gymnasium.Env):
    """A task whose state can be copied, named by a hash, and drawn.

    Attributes:
        task: Its name.
        horizon: Actions after which an episode is truncated.
        render_mode: None or "rgb_array".
        snapshots: Of which class they are.
    """

    snapshots: type
    task: str
    horizon: int
    render_mode: str | None

    def choose_frames(
        self, cameras: Iterable[str], *, horizon: int, render_mode: str | None, **frame: Any
    ) -> None:
        """Keep how frames shall be drawn, once; no OpenGL context is made before the first one.

        Args:
            cameras: Those of the task.
            horizon: Actions after which an episode is truncated.
            render_mode: None or "rgb_array".
            frame: Arguments of :class:`~.rendering.Renderer`: camera, width and height in pixels, effects,
                detail_m.

        Raises:
            ValueError: Unknown camera or render mode, or a size that is not positive.
        """
        one_of("camera", frame["camera"], cameras)
        if render_mode is not None:
            one_of("render mode", render_mode, ["rgb_array"])
        positive_whole(horizon=horizon, width=frame["width"], height=frame["height"])
        lengths(detail_m=frame.get("detail_m", 0.0))
        self.horizon, self.render_mode = horizon, render_mode
        self._frame_options = frame
        self._renderer: Renderer | None = None

    @abstractmethod
    def snapshot(self) -> Any:
        """Copy the state in the middle of an episode; the copy has a ``task`` and a ``digest()``."""

    @abstractmethod
    def drawable(self) -> "tuple[mujoco.MjModel, mujoco.MjData]":
        """Model and data as they shall be drawn now.

        Raises:
            ResetNeeded: No episode has begun.
        """

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Start an episode.

        Args:
            seed: Decides how it starts. None draws from the environment's generator.
            options: None or empty; there are none.

        Raises:
            ValueError: There are options.
        """
        if options:
            raise ValueError(f"reset() knows no options, got {sorted(options)}.")
        super().reset(seed=seed)
        return self._begin()

    @abstractmethod
    def _begin(self) -> tuple[np.ndarray, dict]:
        """Start an episode from ``np_random``; its first observation and ``info``."""

    def restore(self, snapshot: Any) -> np.ndarray:
        """Go back to a snapshot, also of another instance of the task, and return its observation, (O,).

        The same actions then give the same observations and rewards to the last bit. The counter of steps
        goes back too; the generator of later resets does not.

        Raises:
            TypeError: It is no snapshot.
            ValueError: It belongs to another task, or to another size of this one.
        """
        if not isinstance(snapshot, self.snapshots):
            raise TypeError(f"restore() takes what snapshot() returned, got {type(snapshot).__name__}.")
        if snapshot.task != self.task:
            raise ValueError(
                f"This snapshot belongs to the task '{snapshot.task}', the environment to '{self.task}'."
            )
        return self._return_to(snapshot)

    @abstractmethod
    def _return_to(self, snapshot: Any) -> np.ndarray:
        """Go back to a snapshot of this task, and return its observation."""

    def state_hash(self) -> str:
        """Return a SHA-256 of the whole state: equal states go on equally under equal actions."""
        return self.snapshot().digest()

    def render(self) -> np.ndarray:
        """Draw the state, upright: (height, width, 3) uint8.

        Raises:
            DependencyNotInstalled: No OpenGL back end works here; the message says what to install.
            ResetNeeded: No episode has begun.
            ValueError: The environment was made without ``render_mode="rgb_array"``.
        """
        if self.render_mode is None:
            raise ValueError("To draw frames, make the environment with render_mode='rgb_array'.")
        model, data = self.drawable()
        if self._renderer is None:
            self._renderer = Renderer(model, **self._frame_options)
        return self._renderer.frame(data)

    def close(self) -> None:
        """Release the OpenGL context, if one was made."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
