"""A pile of grains on a table, gathered into a square by sweeping a blade.

Action, (4,): start x, y and end x, y of a sweep, as shares of the workspace (±0.25 m). The blade, 16 cm wide,
stands across the direction of the sweep, goes down at the start, moves in a straight line, and goes up at the
end; in 0.9 s. Then all motion is stopped, as if one had waited.

A grain is a ball of 8 mm radius that glides in the plane of the table (it does not roll or pile up), braked
in proportion to its speed.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false
# (MuJoCo's compiled names carry no type information)

import functools

import mujoco
import numpy as np

from ..checks import positive_whole
from ..scene import ASSETS, Scene, States
from .cloud import Sensor, grain_cloud
from .metrics import intersection_over_union, occupancy

RADIUS_M = 0.008
WORKSPACE_M = 0.25
TARGET_M = 0.12  # half a side of the wanted square
SUCCESS_COVERAGE = 0.9
BLADE_M = (0.08, 0.005, 0.015)  # half its width, thickness and height
TIMESTEP_S = 0.005
_DOWN, _SWEEP, _UP, _SETTLE = 10, 130, 10, 30
_RAISED_M = 0.05
_CELLS = 50
_CLUSTERS = 3
MAX_GRAINS = 300  # what a workspace of this size holds with room to move


class PileScene(Scene):
    """See the module.

    Args:
        grains: How many there are.
        sensor: How the pile is seen.
        threads: CPU threads for batches.

    Raises:
        ValueError: More grains than the workspace holds, or none.
    """

    task = "pile-gather"
    action_size = 4
    cameras = ("top", "front")
    control_hz = 1 / (TIMESTEP_S * (_DOWN + _SWEEP + _UP + _SETTLE))

    def __init__(self, *, grains: int, sensor: Sensor, threads: int = 0):
        positive_whole(grains=grains)
        if grains > MAX_GRAINS:
            raise ValueError(f"grains must be at most {MAX_GRAINS}, got {grains}.")
        flags = mujoco.mjtState.mjSTATE_MOCAP_POS | mujoco.mjtState.mjSTATE_MOCAP_QUAT
        super().__init__(_model(grains), control=int(flags), threads=threads)
        self.grains = grains
        self.sensor = sensor
        self.observation_size = sensor.size
        centre = (np.arange(_CELLS) + 0.5) * (2 * WORKSPACE_M / _CELLS) - WORKSPACE_M
        inside = np.abs(centre) <= TARGET_M
        self.wanted = inside[:, None] & inside[None]

    def begin(self, rng: np.random.Generator) -> States:
        """Scatter the grains over the places of a hexagonal grid, most of them around three centres."""
        places = _hexagonal(WORKSPACE_M - 2 * RADIUS_M, 2.2 * RADIUS_M)
        centres = rng.uniform(-0.2, 0.2, (_CLUSTERS, 2))
        apart = np.linalg.norm(places[:, None] - centres, axis=-1)
        weights = np.exp(-0.5 * (apart / 0.05) ** 2).sum(-1) + 1e-3
        chosen = rng.choice(len(places), self.grains, replace=False, p=weights / weights.sum())
        return self.start(rng, places[chosen].ravel())

    def grain_positions(self, states: States) -> np.ndarray:
        """Return the centres of the grains in metres, (B, G, 2)."""
        return self.qpos(states).reshape(len(states), self.grains, 2)

    def controls(self, states: States, actions: np.ndarray) -> np.ndarray:
        """Down, along, up and wait: (B, 180, 3 coordinates and 4 of the quaternion of the blade)."""
        start, end = WORKSPACE_M * actions[:, :2], WORKSPACE_M * actions[:, 2:]
        share = np.concatenate([np.zeros(_DOWN), np.arange(1, _SWEEP + 1) / _SWEEP, np.ones(_UP + _SETTLE)])
        place = start[:, None] + share[:, None] * (end - start)[:, None]
        down = np.linspace(_RAISED_M, 0, _DOWN)
        height = np.concatenate([down, np.zeros(_SWEEP), down[::-1], np.full(_SETTLE, _RAISED_M)])
        height = np.broadcast_to(height + BLADE_M[2], place.shape[:2])
        half = (np.arctan2(*(end - start).T[::-1]) + np.pi / 2) / 2  # the blade's width across the sweep
        quaternion = np.stack([np.cos(half), 0 * half, 0 * half, np.sin(half)], -1)
        quaternion = np.broadcast_to(quaternion[:, None], (*place.shape[:2], 4))
        return np.concatenate([place, height[..., None], quaternion], -1)

    def remember(self, before: States, physics: np.ndarray, actions: np.ndarray) -> States:
        """Stop what still moves."""
        physics[:, 1 + self.model.nq :] = 0
        return super().remember(before, physics, actions)

    def observe(self, states: States) -> np.ndarray:
        """Return what the sensor sees: x, y, z of the first point in metres, world frame, and so on."""
        surface = functools.partial(grain_cloud, radius_m=RADIUS_M)
        centres = self.grain_positions(states)
        centres = np.concatenate([centres, np.full_like(centres[..., :1], RADIUS_M)], -1)
        return self.sensor.see(self, states, centres, surface)

    def outside(self, states: States) -> np.ndarray:
        """Return how far each grain's centre is from the square in metres, 0 inside, (B, G)."""
        beyond = np.maximum(np.abs(self.grain_positions(states)) - TARGET_M, 0)
        return np.linalg.norm(beyond, axis=-1)

    def judge(self, before: States, after: States) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Reward the decrease of the grains' mean distance to the square, in centimetres."""
        away = self.outside(after)
        gained = np.zeros(len(after)) if before is after else (self.outside(before) - away).mean(1)
        coverage = (away == 0).mean(1)
        grid = occupancy(
            self.grain_positions(after), half_m=WORKSPACE_M, cells=_CELLS, radius_m=1.5 * RADIUS_M
        )
        info = {
            "success": coverage >= SUCCESS_COVERAGE,
            "coverage": coverage,
            "iou": intersection_over_union(grid, self.wanted),
            "distance_m": away.mean(1),
            "score": coverage,
        }
        return 100 * gained, info

    def keypoints(self, states: States) -> dict[str, np.ndarray]:
        """The middle of the grains, the grain farthest from the square, and the square's middle."""
        grains = self.grain_positions(states)
        farthest = grains[np.arange(len(states)), self.outside(states).argmax(1)]
        height = np.full((len(states), 1), RADIUS_M)
        points = {"hand": farthest, "object": grains.mean(1), "goal": np.zeros((len(states), 2))}
        return {name: np.concatenate([point, height], -1) for name, point in points.items()}

    def close(self) -> None:
        """End the threads and free the camera."""
        super().close()
        self.sensor.close()


def _hexagonal(half_m: float, step_m: float) -> np.ndarray:
    """Return the points of a hexagonal grid within a square, (P, 2)."""
    rows = np.arange(-half_m, half_m, step_m * np.sqrt(3) / 2)
    points = []
    for index, y in enumerate(rows):
        x = np.arange(-half_m + (index % 2) * step_m / 2, half_m, step_m)
        points.append(np.stack([x, np.full_like(x, y)], -1))
    return np.concatenate(points)


def _model(grains: int) -> mujoco.MjModel:
    spec = mujoco.MjSpec.from_file(str(ASSETS / "tabletop.xml"))
    spec.option.timestep = TIMESTEP_S
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.solver = mujoco.mjtSolver.mjSOL_NEWTON
    spec.option.iterations = 10
    spec.option.tolerance = 1e-5
    spec.option.gravity = [0, 0, 0]
    spec.worldbody.first_geom().contype = 0
    spec.worldbody.first_geom().conaffinity = 0
    spec.worldbody.add_site(
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[TARGET_M, TARGET_M, 0.0005],
        rgba=[0.3, 0.65, 0.35, 1],
    )
    blade = spec.worldbody.add_body(name="blade", mocap=True, pos=[0, 0, _RAISED_M + BLADE_M[2]])
    blade.add_geom(
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=BLADE_M,
        rgba=[0.25, 0.3, 0.4, 1],
        contype=2,
        conaffinity=1,
        condim=1,
        priority=1,
        # A mocap body has no velocity for the solver, so a damped contact brakes what it pushes, and the
        # blade would pass through: little damping, as stiff as the time step allows.
        solref=[2 * TIMESTEP_S, 0.3],
    )
    for index in range(grains):
        grain = spec.worldbody.add_body(name=f"grain{index}", pos=[0, 0, RADIUS_M])
        for axis in ([1, 0, 0], [0, 1, 0]):
            grain.add_joint(type=mujoco.mjtJoint.mjJNT_SLIDE, axis=axis, damping=0.05)
        grain.add_geom(
            type=mujoco.mjtGeom.mjGEOM_SPHERE,
            size=[RADIUS_M, 0, 0],
            mass=0.002,
            condim=1,
            contype=1,
            conaffinity=3,
            rgba=[0.85, 0.6, 0.2 + 0.2 * (index % 2), 1],
        )
    return spec.compile()
