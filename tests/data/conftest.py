"""Small made-up episodes: every number tells which episode, step and column it belongs to."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from robopref.data import Provenance, Trajectory, TrajectoryStore

OBSERVATION, ACTION, KEYPOINTS = 5, 2, ("hand", "object")


def build_trajectory(episode: int, length: int, *, success_at: int | None = None) -> Trajectory:
    steps = np.arange(length + 1)
    numbered = 1000.0 * episode + steps
    return Trajectory(
        observations=numbered[:, None] + np.arange(OBSERVATION) / 10,
        actions=-numbered[:-1, None] - np.arange(ACTION) / 10,
        rewards=numbered[:-1] + 0.5,
        successes=steps[:-1] == (length if success_at is None else success_at),
        keypoints={name: numbered[:, None] + np.array([0, 0.01, 0.02]) for name in KEYPOINTS},
        terminated=success_at is not None,
        provenance=Provenance(
            task="drawer-open",
            env_id="robopref.envs:robopref/mw-drawer-open-v0",
            seed=episode,
            behaviour="expert",
            options={"noise": 0.1, "name": "ü"},
            initial_state_hash="ab12",
            versions={"mujoco": "3.3.0"},
        ),
        frames=f"frames/{episode}.mp4" if episode % 2 else None,
    )


@pytest.fixture
def trajectory() -> Callable[..., Trajectory]:
    return build_trajectory


@pytest.fixture
def new_store(tmp_path: Path) -> Callable[..., TrajectoryStore]:
    def make(lengths: tuple[int, ...] = (), name: str = "store") -> TrajectoryStore:
        store = TrajectoryStore.create(
            tmp_path / name,
            observation_size=OBSERVATION,
            action_size=ACTION,
            keypoints=KEYPOINTS,
            control_hz=80.0,
            metadata={"task": "drawer-open"},
        )
        for episode, length in enumerate(lengths):
            store.append(build_trajectory(episode, length))
        return store

    return make
