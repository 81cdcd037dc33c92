"""Makes the data set in this folder with LeRobot 0.4.4 itself: python make.py <new folder>."""

import sys

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset  # pyright: ignore[reportMissingImports]


def one(kind):
    return {"dtype": kind, "shape": (1,), "names": None}


features = {
    "observation.state": {"dtype": "float32", "shape": (3,), "names": ["x", "y", "z"]},
    "action": {"dtype": "float32", "shape": (2,), "names": None},
    "next.reward": one("float32"),
    "next.success": one("bool"),
    "next.done": one("bool"),
    "keypoint.hand": {"dtype": "float32", "shape": (3,), "names": None},
    "temperature": one("float32"),
}
data = LeRobotDataset.create("robopref/sample", fps=20, features=features, root=sys.argv[1], use_videos=False)
for e in range(3):
    length = 3 + e
    for t in range(length):
        data.add_frame(
            {
                "observation.state": np.array([e, t, e + t / 10], np.float32),
                "action": np.array([-e, -t], np.float32),
                "next.reward": np.array([t / 4], np.float32),
                "next.success": np.array([e == 1 and t == length - 1]),
                "next.done": np.array([t == length - 1]),
                "keypoint.hand": np.array([t, 0, e], np.float32),
                "temperature": np.array([20], np.float32),
                "task": ["open the drawer", "close the drawer"][e % 2],
            }
        )
    data.save_episode()
data.finalize()
