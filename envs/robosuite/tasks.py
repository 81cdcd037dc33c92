"""The tasks, their names upstream, and what an observation holds; imports no simulator."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        upstream: Its name in robosuite and robomimic.
        body: The body that is to be moved.
        goal: The body that it is to be brought to; None where it is to be lifted.
        object_size: Numbers of the object in an observation; they come first, its position before all.
        sensors: What its sensors' names begin with.
        horizon: Steps of an episode.
    """

    upstream: str
    body: str
    goal: str | None
    object_size: int
    sensors: str
    horizon: int


TASKS = {
    "lift": Task("Lift", "cube_main", None, 10, "cube", 80),
    "can": Task("PickPlaceCan", "Can_main", "VisualCan_main", 14, "Can", 150),
    "square": Task("NutAssemblySquare", "SquareNut_main", "peg1", 14, "SquareNut", 200),
}

ROBOT_KEYS = {"robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2}
"""What an observation holds of the robot, after the object: the low-dimensional keys of robomimic's data."""


def environment_id(task: str) -> str:
    """Return the Gymnasium id of a task."""
    return f"robopref/rs-{task}-v0"
