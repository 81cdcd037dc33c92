"""What the tabletop tasks share: an arm whose tool is moved step by step, and how it looks.

Action, (3,) or (4,): displacement of the tool along x, y and z in the world frame, as shares of 3 cm, within
0.1 s; the fourth number, where there is one, closes the gripper (1) or opens it (-1). The tool stays within
x in [-0.16, 0.27], y in [-0.28, 0.28], z in [0.01, 0.3] (metres). The arm's joints are servos; the commanded
place is turned into joint angles in closed form, and the arm follows with some lag.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled names carry no type information)

from abc import abstractmethod
from typing import Any

import mujoco
import numpy as np

from ..checks import one_of
from ..scene import ASSETS, FULL, Scene, States
from . import looks
from .arm import EMBODIMENTS, JOINTS, MOVING, add_arm, add_servo, joint_angles, tool_points

STEP_M = 0.03
LOW_M = np.array([-0.16, -0.28, 0.01])
HIGH_M = np.array([0.27, 0.28, 0.3])
SUBSTEPS = 20
CAMERAS = ("front", "side", "top")


class TableScene(Scene):
    """See the module; a task adds its tool and its objects.

    Args:
        embodiment: One of :data:`~.arm.EMBODIMENTS`.
        distractors: Draw looks for each episode; see :mod:`.looks`.
        threads: CPU threads for batches.
    """

    action_size = 3
    cameras = CAMERAS
    control_hz = 10.0
    servos: tuple[str, ...] = ()  # of the tool, after those of the arm

    def __init__(self, *, embodiment: str = "panda", distractors: bool = False, threads: int = 0):
        one_of("embodiment", embodiment, EMBODIMENTS)
        self.shape = EMBODIMENTS[embodiment]
        self.distractors = distractors
        spec = mujoco.MjSpec.from_file(str(ASSETS / "table.xml"))
        looks.add_clutter(spec)
        hand = add_arm(spec, self.shape)
        self.furnish(spec, hand)
        for joint in MOVING:
            add_servo(spec, joint, stiffness=2000.0, damping=80.0)
        for joint in self.servos:
            add_servo(spec, joint, stiffness=300.0, damping=25.0)
        super().__init__(spec.compile(), control=int(mujoco.mjtState.mjSTATE_CTRL), threads=threads)
        self._wardrobe = looks.Wardrobe(self.model)
        self.hand_body = self.model.body("hand").id

    @abstractmethod
    def furnish(self, spec: mujoco.MjSpec, hand: Any) -> None:
        """Add the task's tool to the hand, and its objects to the world, after the arm's joints."""

    def start_at(self, rng: np.random.Generator, tool: np.ndarray, rest: np.ndarray, **memory: Any) -> States:
        """Return a state with the tool at a place, the other joints at ``rest``, and the episode's looks."""
        qpos = np.concatenate([joint_angles(self.shape, tool), rest])
        return self.start(rng, qpos, target=np.asarray(tool, float), looks=looks.draw(rng), **memory)

    def controls(self, states: States, actions: np.ndarray) -> np.ndarray:
        """Move the commanded place evenly: (B, 20, joints)."""
        start, end = states.memory["target"], self.next_target(states, actions)
        share = np.arange(1, SUBSTEPS + 1)[:, None] / SUBSTEPS
        path = start[:, None] + share * (end - start)[:, None]
        angles = joint_angles(self.shape, path)
        tool = np.repeat(self.tool_command(actions)[:, None], SUBSTEPS, axis=1)
        return np.concatenate([angles, tool], -1)

    def tool_command(self, actions: np.ndarray) -> np.ndarray:
        """Return what the tool's own servos are commanded, (B, servos)."""
        return np.zeros((len(actions), len(self.servos)))

    def next_target(self, states: States, actions: np.ndarray) -> np.ndarray:
        """Return the place that an action commands, (B, 3)."""
        return np.clip(states.memory["target"] + STEP_M * actions[:, :3].astype(float), LOW_M, HIGH_M)

    def remember(self, before: States, physics: np.ndarray, actions: np.ndarray) -> States:
        """Keep the commanded place."""
        after = super().remember(before, physics, actions)
        return States(physics, {**after.memory, "target": self.next_target(before, actions)})

    def tool(self, states: States) -> np.ndarray:
        """Return where the tool's point is, (B, 3) in metres, from the joint angles."""
        return tool_points(self.shape, self.qpos(states)[:, :JOINTS])

    def objects(self, states: States) -> np.ndarray:
        """Return the positions of everything but the arm, (B, ...)."""
        return self.qpos(states)[:, JOINTS + len(self.servos) :]

    def dress(self, data: mujoco.MjData, states: States) -> None:
        """Put an episode into ``data``, with its looks if there are distractors."""
        mujoco.mj_setState(self.model, data, states.physics[0], FULL)
        if self.distractors:
            self._wardrobe.dress(data, states.memory["looks"][0])
        self.place_marks(data, states)
        mujoco.mj_forward(self.model, data)

    def place_marks(self, data: mujoco.MjData, states: States) -> None:
        """Put what an episode places without physics, such as a goal, where it belongs."""


def points(*places: np.ndarray, height_m: float) -> list[np.ndarray]:
    """Give places (B, 2) a height: (B, 3) each."""
    return [np.concatenate([place, np.full((len(place), 1), height_m)], -1) for place in places]
