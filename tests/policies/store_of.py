"""Stores made of a few arrays."""

import numpy as np

from robopref.data.store import TrajectoryStore
from robopref.data.trajectory import Provenance, Trajectory


def episode(observations, actions, rewards, terminated=False):
    """An episode with these arrays, of T + 1, T and T lines."""
    steps = len(actions)
    provenance = Provenance(
        task="toy", env_id="toy-v0", seed=0, behaviour="any", options={}, initial_state_hash="0", versions={}
    )
    return Trajectory(
        observations=np.asarray(observations, dtype=np.float32),
        actions=np.asarray(actions, dtype=np.float32),
        rewards=np.asarray(rewards, dtype=np.float32),
        successes=np.zeros(steps, dtype=bool),
        keypoints={},
        terminated=terminated,
        provenance=provenance,
    )


def store_of(path, episodes):
    """A store that holds these episodes, open for reading."""
    first = episodes[0]
    with TrajectoryStore.create(
        path,
        observation_size=first.observations.shape[1],
        action_size=first.actions.shape[1],
        keypoints=(),
        control_hz=10.0,
    ) as store:
        for item in episodes:
            store.append(item)
    return TrajectoryStore.open(path)


def numbered(lengths, terminated=None):
    """Episodes whose observation (e, t), action t / 100 and reward 10 e + t carry their own numbers."""
    flags = terminated or [False] * len(lengths)
    return [
        episode(
            [[e, t] for t in range(length + 1)],
            [[t / 100] for t in range(length)],
            [10 * e + t for t in range(length)],
            flag,
        )
        for e, (length, flag) in enumerate(zip(lengths, flags, strict=True))
    ]
