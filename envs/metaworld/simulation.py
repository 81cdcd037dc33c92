"""What has to be known about the upstream simulator to make it repeatable.

Upstream keeps an episode in three places: MuJoCo's data (positions, velocities, the solver's warm start),
MuJoCo's model (objects and goals are placed by moving bodies and sites), and some sixty Python attributes.
A :class:`Snapshot` holds what varies in all three. Attributes that are views into MuJoCo's own memory follow
the data by themselves and must not be copied: a copy would stay behind when the data moves on.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled names carry no type information)

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

try:
    import mujoco
except (RuntimeError, ImportError, AttributeError) as error:
    if "MUJOCO_GL" not in os.environ:
        raise
    raise ValueError(
        f"MuJoCo cannot be imported with MUJOCO_GL={os.environ['MUJOCO_GL']}: {error}. "
        "Unset MUJOCO_GL, or use egl, osmesa (where it is installed) or disabled."
    ) from error
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.sawyer_xyz_env import SawyerXYZEnv

from ..names import unknown_name
from .quick import quicken
from .tasks import TASKS

Scalar = bool | int | float | np.number | None

_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
_MOVED_BY_RESET = ("body_pos", "body_quat", "geom_pos", "geom_quat", "site_pos", "site_quat")
_NEVER_RESTORED = frozenset({"_np_random_seed", "width", "height", "camera_id"})
_UNBOUNDED = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Snapshot:
    """Everything that decides how an episode goes on, except the random generator of later resets.

    Attributes:
        task: Task that the snapshot belongs to.
        physics: MuJoCo's integration state, (n,).
        model: Positions and orientations in the model that resets change, by field.
        attributes: Numbers and arrays that the task keeps in Python, by name.
        observation: The last observation, (39,).
        elapsed_steps: Steps since the reset.
        over: Whether the episode has ended.
    """

    task: str
    physics: np.ndarray
    model: Mapping[str, np.ndarray]
    attributes: Mapping[str, Scalar | np.ndarray]
    observation: np.ndarray
    elapsed_steps: int
    over: bool

    def digest(self) -> str:
        """Return a SHA-256 over the whole content as hexadecimal digits."""
        digest = hashlib.sha256(f"{self.task} {self.elapsed_steps} {self.over}".encode())
        parts = {"physics": self.physics, "observation": self.observation, **self.model, **self.attributes}
        for name in sorted(parts):
            value = np.asarray(np.nan if parts[name] is None else parts[name])
            digest.update(f"|{name} {value.dtype.str} {value.shape}|".encode())
            digest.update(value.tobytes())
        return digest.hexdigest()

    def __reduce__(self) -> tuple:
        # Mapping proxies cannot travel to another process, plain dicts can.
        return _thaw, (
            self.task,
            self.physics,
            dict(self.model),
            dict(self.attributes),
            self.observation,
            self.elapsed_steps,
            self.over,
        )


def _thaw(task, physics, model, attributes, observation, elapsed_steps, over) -> Snapshot:
    return Snapshot(
        task,
        physics,
        MappingProxyType(model),
        MappingProxyType(attributes),
        observation,
        elapsed_steps,
        over,
    )


def build(task: str, *, quick: bool = True) -> SawyerXYZEnv:
    """Return the upstream simulator of a task: goal visible, object and goal drawn at reset, no time limit.

    Args:
        task: Its name.
        quick: Step by :mod:`~.quick`, which gives the same numbers sooner.

    Raises:
        ValueError: No task has this name.
    """
    if task not in TASKS:
        raise ValueError(unknown_name("Meta-World task", task, TASKS))
    simulator = ALL_V3_ENVIRONMENTS[f"{task}-v3"]()
    simulator.seeded_rand_vec = True
    simulator._set_task_called = True
    simulator._partially_observable = False
    del simulator.sawyer_observation_space  # cached with the goal hidden
    simulator.max_path_length = _UNBOUNDED  # the environment counts, so that snapshots hold the counter
    return quicken(simulator) if quick else simulator


def begin_episode(simulator: SawyerXYZEnv, pristine: Snapshot, rng: np.random.Generator) -> np.ndarray:
    """Draw object and goal, place them, and return the first observation, (39,).

    Upstream places objects and then reads positions that MuJoCo has not updated yet, so what a reset returns,
    and what some rewards are scaled by, stems from the layout before. The official benchmark escapes half of
    it by resetting twice with the same draw; so does this, from the pristine simulator, so that nothing of
    earlier episodes is left. Then MuJoCo is brought up to date and the first observation is read again:
    object and goal are where the next step finds them.
    """
    restore(simulator, pristine)
    simulator._np_random = rng
    simulator._freeze_rand_vec = False
    mujoco.mj_resetData(simulator.model, simulator.data)
    simulator.reset_model()  # draws
    simulator._freeze_rand_vec = True
    simulator.curr_path_length = 0
    mujoco.mj_resetData(simulator.model, simulator.data)
    simulator.reset_model()  # same draw again
    mujoco.mj_forward(simulator.model, simulator.data)
    frame = simulator._get_curr_obs_combined_no_goal()
    simulator._prev_obs = frame
    space = simulator.sawyer_observation_space
    return np.clip(np.concatenate((frame, frame, simulator._get_pos_goal())), space.low, space.high)


def capture(
    task: str, simulator: SawyerXYZEnv, observation: np.ndarray, elapsed_steps: int, over: bool
) -> Snapshot:
    """Copy everything that decides how the episode goes on."""
    physics = np.empty(mujoco.mj_stateSize(simulator.model, _STATE))
    mujoco.mj_getState(simulator.model, simulator.data, physics, _STATE)
    return _thaw(
        task,
        physics,
        {name: getattr(simulator.model, name).copy() for name in _MOVED_BY_RESET},
        {
            name: value.copy() if isinstance(value, np.ndarray) else value
            for name, value in vars(simulator).items()
            if _is_own(name, value)
        },
        observation.copy(),
        elapsed_steps,
        over,
    )


def restore(simulator: SawyerXYZEnv, snapshot: Snapshot) -> None:
    """Put a simulator that has been reset at least once into the state of a snapshot of its task."""
    for name, value in snapshot.model.items():
        getattr(simulator.model, name)[:] = value
    attributes = vars(simulator)
    for name in [name for name, value in attributes.items() if _is_own(name, value)]:
        if name not in snapshot.attributes:  # made later in the episode than the snapshot
            del attributes[name]
    for name, value in snapshot.attributes.items():
        attributes[name] = value.copy() if isinstance(value, np.ndarray) else value
    mujoco.mj_setState(simulator.model, simulator.data, snapshot.physics, _STATE)
    mujoco.mj_forward(simulator.model, simulator.data)
    mujoco.mj_setState(
        simulator.model, simulator.data, snapshot.physics, _STATE
    )  # forward moved the warm start


def _is_own(name: str, value: object) -> bool:
    """Say whether an attribute is a number, or an array whose memory belongs to Python and not to MuJoCo."""
    if name in _NEVER_RESTORED:
        return False
    if not isinstance(value, np.ndarray):
        return value is None or isinstance(value, bool | int | float | np.number)
    while isinstance(value.base, np.ndarray):
        value = value.base
    return value.base is None
