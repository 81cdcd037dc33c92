"""Small stores whose true reward is linear and known."""

import numpy as np
import pytest

from robopref.data.preferences import Preferences, Segments
from robopref.data.store import TrajectoryStore
from robopref.data.trajectory import Provenance, Trajectory

OBSERVATION, ACTION = 4, 2
TRUTH = np.array([1.0, -0.5, 0.0, 0.0, 0.5, 0.0], dtype=np.float32)  # reward = TRUTH . (observation, action)


def episode(steps, rng):
    observations = rng.normal(size=(steps + 1, OBSERVATION)).astype(np.float32)
    observations += rng.normal(size=OBSERVATION).astype(np.float32)  # episodes differ as a whole
    actions = rng.uniform(-1, 1, size=(steps, ACTION)).astype(np.float32)
    rewards = np.concatenate([observations[:-1], actions], axis=1) @ TRUTH
    provenance = Provenance("toy", "toy:toy-v0", 0, "random", {}, "00", {})
    keypoints = {"hand": np.zeros((steps + 1, 3), dtype=np.float32)}
    return Trajectory(observations, actions, rewards, np.zeros(steps, bool), keypoints, False, provenance)


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """Thirty episodes of 8 to 14 steps."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("stores") / "toy"
    with TrajectoryStore.create(
        path,
        observation_size=OBSERVATION,
        action_size=ACTION,
        keypoints=["hand"],
        control_hz=10.0,
        metadata={},
    ) as writing:
        for index in range(30):
            writing.append(episode(8 + index % 7, rng))
    with TrajectoryStore.open(path) as reading:
        yield reading


@pytest.fixture
def draw_pairs(store):
    """Draws random pairs with their true labels: of whole episodes, or of windows of one length."""

    def segments(count, length, rng):
        chosen = rng.integers(len(store), size=count)
        if length is None:
            return Segments(chosen, np.zeros(count, np.int64), store.lengths[chosen])
        start = rng.integers(store.lengths[chosen] - length + 1)
        return Segments(chosen, start, np.full(count, length, np.int64))

    def returns(side):
        return store.segments(side.episode, side.start, side.length).rewards.sum(axis=1)

    def draw(count, rng, *, length=None):
        a, b = segments(count, length, rng), segments(count, length, rng)
        label = np.where(returns(a) == returns(b), 0.5, returns(a) > returns(b)).astype(np.float32)
        return Preferences(a, b, label, np.ones(count, np.float32))

    return draw


@pytest.fixture
def preferences(draw_pairs):
    """Forty pairs of whole episodes."""
    return draw_pairs(40, np.random.default_rng(1))
