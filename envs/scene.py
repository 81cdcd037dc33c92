"""Scenes of our own: what a task is, apart from Gymnasium, and computed for many episodes at once.

A :class:`Scene` is a set of functions of :class:`States`: where an episode begins, which controls an action
stands for, what is seen, how it is judged. A single environment is a batch of one (``environment.py``), a
vector is a batch of many (``vector.py``), and trying 64 actions from one state is a batch of 64: all take the
same path through ``mujoco.rollout``, so all give the same numbers to the last bit.

An episode's state is MuJoCo's (time, positions, velocities) and a memory of named arrays. Each action starts
the solver cold, so nothing else carries over.

Letters used in shapes: B episodes, T physics steps of one action, S numbers of physical state,
C numbers of control, A action entries, O observation entries.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled names carry no type information)

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from mujoco import rollout

ASSETS = Path(__file__).parent / "assets"
FULL = int(mujoco.mjtState.mjSTATE_FULLPHYSICS)


@dataclass(frozen=True)
class States:
    """Where B episodes stand.

    Attributes:
        physics: (B, S): time, positions, velocities (``mjSTATE_FULLPHYSICS``).
        memory: What else an episode carries, by name, (B, ...) each; "elapsed" counts actions, and "entropy"
            decides its sensor noise.
    """

    physics: np.ndarray
    memory: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.physics)

    def rows(self, index: Any) -> "States":
        """Return some of the episodes, by anything that indexes an array's first axis."""
        return States(self.physics[index], {name: value[index] for name, value in self.memory.items()})

    def with_rows(self, index: Any, others: "States") -> "States":
        """Return a copy in which some episodes are replaced."""
        physics = self.physics.copy()
        physics[index] = others.physics
        memory = {name: value.copy() for name, value in self.memory.items()}
        for name, value in memory.items():
            value[index] = others.memory[name]
        return States(physics, memory)

    def digest(self, label: str) -> str:
        """Return a SHA-256 over the whole content, as hexadecimal digits."""
        digest = hashlib.sha256(label.encode())
        for name, value in [("physics", self.physics), *sorted(self.memory.items())]:
            digest.update(f"|{name} {value.dtype.str} {value.shape}|".encode())
            digest.update(np.ascontiguousarray(value).tobytes())
        return digest.hexdigest()


def together(parts: list[States]) -> States:
    """Join episodes into one batch."""
    names = parts[0].memory
    return States(
        np.concatenate([part.physics for part in parts]),
        {name: np.concatenate([part.memory[name] for part in parts]) for name in names},
    )


class Scene(ABC):
    """A task for many episodes at once.

    Args:
        model: The MuJoCo model.
        control: Which numbers ``controls`` returns: a sum of ``mjtState`` flags, in MuJoCo's order.
        threads: CPU threads for batches; 0 computes in the calling thread.

    Attributes:
        physics: (states (B, S), controls (B, T, C)) to states (B, S): ``mujoco.rollout`` on CPU threads, or
            :class:`robopref.envs.warp.WarpPhysics`.
        task: Name of the task.
        control_hz: Actions per second.
        action_size: A.
        observation_size: O.
        cameras: Names of the cameras that can draw it.
    """

    task: str
    control_hz: float
    action_size: int
    observation_size: int
    cameras: tuple[str, ...]

    def __init__(self, model: mujoco.MjModel, *, control: int, threads: int = 0):
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 0:
            raise ValueError(f"threads must be a whole number from 0 on, got {threads!r}.")
        self.model = model
        self.threads = threads
        self.control = control
        self.physics: Callable[[np.ndarray, np.ndarray], np.ndarray] = self._roll_out
        self._data = [mujoco.MjData(model) for _ in range(max(1, threads))]
        self._rollout: rollout.Rollout | None = None
        self._initial = np.empty(mujoco.mj_stateSize(model, FULL))
        mujoco.mj_getState(model, self._data[0], self._initial, FULL)
        self._initial[0] = (
            1.0  # MuJoCo starts anew, at time 0, when numbers overflow: then time has gone back
        )

    @abstractmethod
    def begin(self, rng: np.random.Generator) -> States:
        """Draw the start of one episode."""

    @abstractmethod
    def controls(self, states: States, actions: np.ndarray) -> np.ndarray:
        """Turn actions (B, A), within [-1, 1], into controls (B, T, C)."""

    @abstractmethod
    def observe(self, states: States) -> np.ndarray:
        """Return what is seen, (B, O) float32; a pure function of the states."""

    @abstractmethod
    def judge(self, before: States, after: States) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return rewards (B,) of one action, and what ``info`` says, (B, ...) each, "success" included."""

    @abstractmethod
    def keypoints(self, states: States) -> dict[str, np.ndarray]:
        """Return named positions in the world frame in metres, (B, 3) each."""

    def remember(self, before: States, physics: np.ndarray, actions: np.ndarray) -> States:
        """Return the states after an action; a scene with a memory of its own updates it here."""
        return States(physics, {**before.memory, "elapsed": before.memory["elapsed"] + 1})

    def dress(self, data: mujoco.MjData, states: States) -> None:
        """Put one episode into ``data`` (and its looks into the model), to be drawn."""
        mujoco.mj_setState(self.model, data, states.physics[0], FULL)
        mujoco.mj_forward(self.model, data)

    def advance(self, states: States, actions: np.ndarray) -> States:
        """Carry out one action in each episode.

        Raises:
            ArithmeticError: The physics became unstable.
        """
        physics = self.physics(states.physics, self.controls(states, actions))
        if not np.isfinite(physics).all() or (physics[:, 0] <= states.physics[:, 0]).any():
            raise ArithmeticError(f"The physics of '{self.task}' became unstable.")
        return self.remember(states, physics, actions)

    def _roll_out(self, physics: np.ndarray, controls: np.ndarray) -> np.ndarray:
        if self._rollout is None:
            self._rollout = rollout.Rollout(nthread=self.threads)
        path, _ = self._rollout.rollout(
            self.model, self._data, physics, controls, control_spec=self.control, skip_checks=False
        )
        return np.asarray(path)[:, -1].copy()

    def tensor_rules(self) -> object | None:
        """Return the scene's rules in torch (:class:`robopref.envs.warp.TensorRules`), if it has them."""
        return None

    def start(self, rng: np.random.Generator, qpos: np.ndarray, **memory: Any) -> States:
        """Return a state at rest with positions ``qpos``, and a memory that holds what every scene's does."""
        physics = self._initial.copy()
        physics[1 : 1 + self.model.nq] = qpos
        kept = {"elapsed": np.int64(0), "entropy": rng.integers(2**63), **memory}
        return States(physics[None], {name: np.asarray(value)[None] for name, value in kept.items()})

    @property
    def state_size(self) -> int:
        """S."""
        return len(self._initial)

    def qpos(self, states: States) -> np.ndarray:
        """Return the positions, (B, nq)."""
        return states.physics[:, 1 : 1 + self.model.nq]

    def qvel(self, states: States) -> np.ndarray:
        """Return the velocities, (B, nv)."""
        return states.physics[:, 1 + self.model.nq : 1 + self.model.nq + self.model.nv]

    def body_positions(self, states: States) -> np.ndarray:
        """Return where every body of the model is, in metres in the world frame: (B, bodies, 3)."""
        data, positions = self._data[0], np.empty((len(states), self.model.nbody, 3))
        for row, physics in enumerate(states.physics):
            mujoco.mj_setState(self.model, data, physics, FULL)
            mujoco.mj_kinematics(self.model, data)
            positions[row] = data.xpos
        return positions

    def close(self) -> None:
        """End the threads."""
        if self._rollout is not None:
            self._rollout.close()
            self._rollout = None


def sensor_noise(states: States, row: int) -> np.random.Generator:
    """Return the generator of an episode's sensor noise at its present step: equal states, equal noise."""
    return np.random.default_rng([int(states.memory["entropy"][row]), int(states.memory["elapsed"][row])])
