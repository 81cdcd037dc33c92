"""A made-up store whose episodes nothing can replay, and a command that is refused."""

import numpy as np

from robopref.cli import main
from robopref.data import Provenance, Trajectory, TrajectoryStore


def made_trajectory(episode, length=12, *, frames=None):
    steps = np.arange(length + 1)
    path = np.stack([steps / 100 + episode / 50, steps / 200, np.full(length + 1, 0.1)], axis=1)
    return Trajectory(
        observations=np.stack([steps, steps + episode], axis=1),
        actions=np.full((length, 2), 0.01 * episode),
        rewards=np.full(length, float(episode)),
        successes=np.zeros(length, bool),
        keypoints={"hand": path, "object": path + 0.05},
        terminated=False,
        provenance=Provenance("toy", "nowhere:toy-v0", episode, "expert", {}, "ab", {}),
        frames=frames,
    )


def made_store(path, episodes=8, length=12, **options):
    with TrajectoryStore.create(
        path, observation_size=2, action_size=2, keypoints=["hand", "object"], control_hz=20.0
    ) as store:
        for episode in range(episodes):
            store.append(made_trajectory(episode, length, **options))
    return TrajectoryStore.open(path)


def check_refused(arguments, sentence, capfd):
    """Give a command, which must be refused in a sentence that holds this one, and without a traceback."""
    try:
        code = main(arguments)
    except SystemExit as end:  # Hydra's way out
        code = end.code
    said = "".join(capfd.readouterr())
    assert code == 1
    assert sentence in said
    assert "Traceback" not in said
