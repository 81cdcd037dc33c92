"""robosuite tasks for robomimic: its environment interface, and files whose episodes it can replay.

robomimic 0.3.0's own wrapper imports mujoco_py, which no present MuJoCo has; this one is a thin layer over
the environments here. A state is stored with two things beside time, positions and velocities, so that
replays agree: the gripper's command, and the joint positions that the controller drifts back to.
"""

# pyright: reportIncompatibleMethodOverride=false, reportIncompatibleVariableOverride=false
# (robomimic's base class returns None everywhere)

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from robomimic.envs.env_base import EnvBase, EnvType

from robopref.data.interchange.robomimic import FLAT
from robopref.data.store import TrajectoryStore
from robopref.errors import DataError
from robopref.files import replacing
from robopref.training.rollout import ENVIRONMENT_PREFIX, make_environment

STATE = ("states", "gripper_action", "initial_joint")


class RobomimicEnv(EnvBase):
    """An environment here, as robomimic's scripts use one.

    Observations are a dictionary with one vector, ``flat``, as in the files that ``data convert`` writes.

    Args:
        env_name: "module:namespace/name-v0", such as "robopref.envs:robopref/rs-can-v0".
        render: Not possible here: there is no window.
        render_offscreen: Make frames possible.
        use_image_obs: Not possible here: frames are no observations.
        postprocess_visual_obs: Means nothing without them.
        kwargs: Of the environment.

    Raises:
        ConfigError: There is no such environment.
        ValueError: A window or images were asked for.
    """

    def __init__(
        self,
        env_name: str,
        render: bool = False,
        render_offscreen: bool = False,
        use_image_obs: bool = False,
        postprocess_visual_obs: bool = True,
        **kwargs: Any,
    ):
        if render or use_image_obs:
            raise ValueError("Here are neither windows nor image observations: render_offscreen=True draws.")
        mode = "rgb_array" if render_offscreen else None
        self._name, self._kwargs = env_name, kwargs
        self.env: Any = make_environment(env_name, kwargs, render_mode=mode).unwrapped
        self._seen: dict[str, np.ndarray] = {}
        self._reward, self._success = 0.0, False

    def _keep(self, observation: np.ndarray) -> dict[str, np.ndarray]:
        self._seen = {FLAT: np.asarray(observation, np.float32)}
        return self._seen

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, dict[str, Any]]:
        """Act; an episode is never over before its horizon, which robomimic counts."""
        observation, self._reward, terminated, _, info = self.env.step(action)
        self._success = bool(info["success"])
        return self._keep(observation), self._reward, bool(terminated), info

    def reset(self, seed: int | None = None) -> dict[str, np.ndarray]:
        """Start an episode."""
        observation, info = self.env.reset(seed=seed)
        self._reward, self._success = 0.0, bool(info.get("success", False))
        return self._keep(observation)

    def reset_to(self, state: dict[str, Any]) -> dict[str, np.ndarray]:
        """Start an episode at a state with ``states``, ``gripper_action`` and ``initial_joint``.

        Raises:
            DataError: One of them is missing, as in files that do not replay.
        """
        missing = [name for name in STATE if name not in state]
        if missing:
            raise DataError(
                f"A state to start from needs {', '.join(STATE)}; {', '.join(missing)} is missing."
            )
        self.reset(seed=0)
        return self._keep(self.env.from_robomimic(state))

    def get_state(self) -> dict[str, Any]:
        """Return the present state, for :meth:`reset_to`, and the scene as ``model``."""
        return {"model": self.env.model_xml(), **self.env.to_robomimic()}

    def render(
        self,
        mode: str = "rgb_array",
        height: int | None = None,
        width: int | None = None,
        camera_name: Any = None,
    ) -> np.ndarray:
        """Draw; camera and size are those that the environment was made with."""
        return self.env.render()

    def get_observation(self) -> dict[str, np.ndarray]:
        """Return the present observation."""
        return self._seen

    def get_reward(self) -> float:
        """Return the last reward."""
        return self._reward

    def get_goal(self) -> Any:
        """Refuse: there are no goals to be shown."""
        raise NotImplementedError("These environments have no goal observations.")

    def set_goal(self, **kwargs: Any) -> None:
        """Refuse: there are no goals to be set."""
        raise NotImplementedError("These environments have no goal observations.")

    def is_done(self) -> bool:
        """Never: episodes have a fixed length."""
        return False

    def is_success(self) -> dict[str, bool]:
        """Return whether the task is done now."""
        return {"task": self._success}

    @property
    def action_dimension(self) -> int:
        """Entries of an action."""
        return self.env.action_space.shape[0]

    @property
    def name(self) -> str:
        """The id."""
        return self._name

    @property
    def type(self) -> int:
        """robomimic's number for environments of the Gym kind."""
        return EnvType.GYM_TYPE

    def serialize(self) -> dict[str, Any]:
        """Return what a file keeps to make this environment again."""
        return {"env_name": self._name, "type": self.type, "env_kwargs": dict(self._kwargs)}

    @classmethod
    def create_for_data_processing(
        cls,
        env_name: str,
        camera_names: Any,
        camera_height: int,
        camera_width: int,
        reward_shaping: bool,
        **kwargs: Any,
    ) -> "RobomimicEnv":
        """Make an environment to go through a data set; rewards are shaped, and there are no cameras."""
        return cls(env_name, **kwargs)

    @property
    def rollout_exceptions(self) -> Any:
        """What a rollout may fail with: physics that became unstable."""
        return (ArithmeticError,)


def add_states(store: TrajectoryStore, path: Path | str) -> None:
    """Add to a robomimic file what its replay needs, by replaying the store's episodes.

    Each demo gets ``states`` (T, S) and ``gripper_action`` (T, 2) before each action, and the attributes
    ``initial_joint`` (7,) and ``model_file``. The file is replaced as a whole.

    Args:
        store: Episodes of one robosuite task.
        path: The file that ``data convert`` made of it.

    Raises:
        DataError: The file is of other episodes, or an episode does not repeat here.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"There is no {path}: convert the store to it first.")
    first = store.provenance(0)
    options = {
        name.removeprefix(ENVIRONMENT_PREFIX): value
        for name, value in first.options.items()
        if name.startswith(ENVIRONMENT_PREFIX)
    }
    env: Any = make_environment(first.env_id, options).unwrapped
    if not hasattr(env, "to_robomimic"):
        raise DataError(
            f"States of {first.env_id} are not written: robomimic replays robosuite's tasks alone."
        )
    with replacing(path) as temporary:
        shutil.copyfile(path, temporary)
        with h5py.File(temporary, "r+") as file:
            for index in range(len(store)):
                _add_to_demo(env, store, index, file, path)
    env.close()


def _add_to_demo(env: Any, store: TrajectoryStore, index: int, file: h5py.File, path: Path) -> None:
    episode, demo = store.episode(index), file.get(f"data/demo_{index}")
    if not isinstance(demo, h5py.Group) or demo.attrs.get("num_samples") != episode.length:
        raise DataError(f"{path}, demo_{index} is not episode {index} of {store.path}.")
    observation, _ = env.reset(seed=episode.provenance.seed)
    if env.state_hash() != episode.provenance.initial_state_hash:
        raise DataError(
            f"Episode {index} of {store.path} begins otherwise here: it was recorded with "
            f"{episode.provenance.versions}."
        )
    states = []
    for action in episode.actions:
        states.append(env.to_robomimic())
        observation, *_ = env.step(action)
    if not np.array_equal(observation.astype(np.float32), episode.observations[-1]):
        raise DataError(f"Episode {index} of {store.path} does not repeat here to the last bit.")
    for name in ("states", "gripper_action"):
        demo.create_dataset(name, data=np.stack([state[name] for state in states]))
    demo.attrs["initial_joint"] = states[0]["initial_joint"]
    demo.attrs["model_file"] = env.model_xml()
