"""Three red and three blue blocks, and a scoop that pushes them into a zone.

The task asks for blocks in the zone. What a person may want besides, and what the reward does not say, is
that each colour is gathered before it is pushed in.

Action, (2,): velocity of the scoop along x and y, as shares of 1 m/s, for 0.05 s. The scoop is a bar of
0.28 m with two prongs, open towards the zone; it does not turn.

Observation, (22,) float32: position and velocity of the scoop (4), positions of the blocks (12, red ones
first), and which of them lie in the zone (6). Metres and metres per second.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled names carry no type information)

import mujoco
import numpy as np

from ..scene import ASSETS, Scene, States

BLOCKS = 6
BLOCK_M = 0.035  # radius
ZONE_Y_M = 0.25
SPEED_M_S = 1.0
SUBSTEPS = 2
_ROWS_M = np.array([-0.26, -0.1, 0.06])
_COLUMNS_M = np.linspace(-0.38, 0.38, 5)
LOOSE_M = 0.25  # mean distance within a colour at which it counts as not gathered at all
COLOURS = (slice(0, 3), slice(3, 6))
_PAIRS = np.array([[0, 1], [0, 2], [1, 2]])


class PlanarGroupScene(Scene):
    """See the module.

    Args:
        threads: CPU threads for batches.
    """

    task = "planar-group"
    action_size = 2
    observation_size = 4 + 3 * BLOCKS
    cameras = ("top",)
    control_hz = 20.0

    def __init__(self, *, threads: int = 0):
        model = mujoco.MjModel.from_xml_path(str(ASSETS / "planar.xml"))
        super().__init__(model, control=int(mujoco.mjtState.mjSTATE_CTRL), threads=threads)

    def begin(self, rng: np.random.Generator) -> States:
        """Put the scoop at the bottom, and below the zone three rows with a block of each colour."""
        columns = [rng.choice(_COLUMNS_M, 2, replace=False) for _ in _ROWS_M]
        blocks = np.stack([columns, np.repeat(_ROWS_M[:, None], 2, axis=1)], -1)  # (row, colour, xy)
        blocks = blocks.swapaxes(0, 1).reshape(BLOCKS, 2) + rng.uniform(-0.015, 0.015, (BLOCKS, 2))
        scoop = [rng.uniform(-0.3, 0.3), -0.5]
        return self.start(rng, np.append(scoop, blocks), tightness=np.full(2, -1.0))

    def controls(self, states: States, actions: np.ndarray) -> np.ndarray:
        """Hold one velocity: (B, 2, 2)."""
        return np.repeat(SPEED_M_S * actions[:, None].astype(np.float64), SUBSTEPS, axis=1)

    def scoop(self, states: States) -> np.ndarray:
        """Return the position of the scoop, (B, 2)."""
        return self.qpos(states)[:, :2]

    def blocks(self, states: States) -> np.ndarray:
        """Return the positions of the blocks, (B, 6, 2), red ones first."""
        return self.qpos(states)[:, 2:].reshape(len(states), BLOCKS, 2)

    def remember(self, before: States, physics: np.ndarray, actions: np.ndarray) -> States:
        """Note how tightly a colour was gathered when its first block entered the zone."""
        after = super().remember(before, physics, actions)
        blocks, tightness = self.blocks(after), before.memory["tightness"]
        entered = np.stack([(blocks[:, colour, 1] > ZONE_Y_M).any(1) for colour in COLOURS], -1)
        new = entered & (tightness < 0)
        if new.any():
            tightness = np.where(new, gathered(blocks), tightness)
        return States(physics, {**after.memory, "tightness": tightness})

    def observe(self, states: States) -> np.ndarray:
        """Return (B, 22) float32; see the module."""
        inside = self.blocks(states)[:, :, 1] > ZONE_Y_M
        parts = [self.qpos(states)[:, :2], self.qvel(states)[:, :2], self.qpos(states)[:, 2:], inside]
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def judge(self, before: States, after: States) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Reward what the blocks' mean distance to the zone decreased by, in decimetres.

        "score" is what a person wants: the share of blocks in the zone, times 0.5 + 0.5 x the mean tightness
        (1 for blocks that touch, 0 from a mean distance of 0.25 m on) of each colour as it entered.
        """
        y = self.blocks(after)[:, :, 1]
        share = (y > ZONE_Y_M).mean(1)
        tightness = np.maximum(after.memory["tightness"], 0).mean(1)
        left = np.maximum(ZONE_Y_M - y, 0).mean(1)
        gained = np.maximum(ZONE_Y_M - self.blocks(before)[:, :, 1], 0).mean(1) - left
        info = {
            "success": share == 1,
            "in_zone": share,
            "tightness": tightness,
            "score": share * (0.5 + 0.5 * tightness),
        }
        return 10 * gained, info

    def tensor_rules(self) -> object:
        """Return these rules in torch, which only they import."""
        from .tensors import PlanarRules

        return PlanarRules()

    def keypoints(self, states: States) -> dict[str, np.ndarray]:
        """The scoop, every block, the middle of the blocks, and of the zone."""
        blocks = self.blocks(states)
        goal = np.broadcast_to([0.0, (ZONE_Y_M + 0.5) / 2], (len(states), 2))
        points = {"hand": self.scoop(states), "object": blocks.mean(1), "goal": goal}
        names = [f"{colour}{index}" for colour in ("red", "blue") for index in range(3)]
        points |= {name: blocks[:, index] for index, name in enumerate(names)}
        height = np.full((len(states), 1), 0.03)
        return {name: np.concatenate([point, height], -1) for name, point in points.items()}


def gathered(blocks: np.ndarray) -> np.ndarray:
    """Return how tightly each colour is gathered, (B, 2) in [0, 1], for blocks (B, 6, 2)."""
    tightness = []
    for colour in COLOURS:
        ends = blocks[:, colour][:, _PAIRS]
        apart = np.linalg.norm(ends[:, :, 0] - ends[:, :, 1], axis=-1).mean(1)
        tightness.append(np.clip((LOOSE_M - apart) / (LOOSE_M - 2 * BLOCK_M), 0, 1))
    return np.stack(tightness, -1)
