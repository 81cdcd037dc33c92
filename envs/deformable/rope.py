"""A rope on a table, laid into a wanted curve by picking one place of it and putting it down elsewhere.

Action, (4,): pick x, y and place x, y, as shares of the workspace (±0.25 m). The link nearest to the pick is
grasped if its centre is within 4 cm, lifted by 4 cm, carried and released; otherwise nothing is. One action
takes 0.672 s, at whose end all motion is stopped, as if one had waited.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false
# (MuJoCo's compiled names carry no type information)

import functools
from collections.abc import Callable

import mujoco
import numpy as np

from ..checks import one_of
from ..scene import ASSETS, Scene, States
from .cloud import Sensor, rope_cloud
from .metrics import chamfer, earth_mover

LINKS = 20
LINK_M = 0.025
RADIUS_M = 0.006
WORKSPACE_M = 0.25
GRASP_M = 0.04
SUCCESS_M = 0.015
TIMESTEP_S = 0.004
_LIFT, _CARRY, _LOWER, _SETTLE = 20, 90, 18, 40
_HEIGHT_M = 0.04


def _circle(share: np.ndarray) -> np.ndarray:
    angle = 2 * np.pi * share
    return LINKS * LINK_M / (2 * np.pi) * np.stack([np.cos(angle), np.sin(angle)], -1)


def _line(share: np.ndarray) -> np.ndarray:
    return np.stack([LINKS * LINK_M * (share - 0.5), np.zeros_like(share)], -1)


def _arc(share: np.ndarray) -> np.ndarray:
    radius, angle = LINKS * LINK_M / np.pi, np.pi * share
    return radius * np.stack([np.cos(angle), np.sin(angle) - 0.5], -1)


CURVES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"arc": _arc, "circle": _circle, "line": _line}
"""Wanted curves: share of the rope's length in [0, 1] to position in metres."""


def target_points(curve: str) -> np.ndarray:
    """Return where the links' centres are wanted, (20, 2), in metres.

    Raises:
        ValueError: No curve has this name.
    """
    one_of("target curve", curve, CURVES)
    return CURVES[curve]((np.arange(LINKS) + 0.5) / LINKS)


class RopeScene(Scene):
    """See the module.

    Args:
        target: One of :data:`CURVES`.
        sensor: How the rope is seen.
        threads: CPU threads for batches.
    """

    task = "rope-shape"
    action_size = 4
    cameras = ("top", "front")
    control_hz = 1 / (TIMESTEP_S * (_LIFT + _CARRY + _LOWER + _SETTLE))

    def __init__(self, *, target: str, sensor: Sensor, threads: int = 0):
        self.target = target_points(target)
        flags = mujoco.mjtState.mjSTATE_EQ_ACTIVE | mujoco.mjtState.mjSTATE_MOCAP_POS
        super().__init__(_model(self.target), control=int(flags), threads=threads)
        self.sensor = sensor
        self.observation_size = sensor.size
        self._links = np.array([self.model.body(f"link{i}").id for i in range(LINKS)])

    def begin(self, rng: np.random.Generator) -> States:
        """Lay the rope flat along a curve that turns at random, anywhere in the workspace."""
        while True:
            turns = np.clip(np.convolve(rng.normal(0, 0.5, LINKS + 4), np.full(5, 0.45), "valid"), -0.9, 0.9)
            turns[0] = rng.uniform(-np.pi, np.pi)
            headings = np.cumsum(turns)
            steps = LINK_M * np.stack([np.cos(headings), np.sin(headings)], -1)
            ends = np.cumsum(steps, axis=0)
            spread = ends.max(0) - ends.min(0)
            room = 2 * (WORKSPACE_M - 0.02) - spread
            if (room > 0).all():
                break
        first = ends[0] - steps[0] / 2
        corner = rng.uniform(-room / 2, room / 2) - (ends.max(0) + ends.min(0)) / 2
        qpos = np.zeros(self.model.nq)
        qpos[:3] = [*(first + corner), RADIUS_M]
        qpos[3:7] = [np.cos(headings[0] / 2), 0, 0, np.sin(headings[0] / 2)]
        qpos[7::2] = turns[1:]
        return self.start(rng, qpos)

    def link_positions(self, states: States) -> np.ndarray:
        """Return the centres of the links in metres, (B, 20, 3)."""
        return self.body_positions(states)[:, self._links]

    def controls(self, states: States, actions: np.ndarray) -> np.ndarray:
        """Grasp, lift, carry, lower, let go: (B, 168, 20 grasps + 3 coordinates of the hand)."""
        pick, place = WORKSPACE_M * actions[:, :2], WORKSPACE_M * actions[:, 2:]
        centres = self.link_positions(states)
        apart = np.linalg.norm(centres[:, :, :2] - pick[:, None], axis=-1)
        grasped = apart.argmin(1)
        rows = np.arange(len(states))
        hit = apart[rows, grasped] <= GRASP_M
        start = np.where(hit[:, None], centres[rows, grasped], np.append(np.zeros(2), 0.2))
        up = np.concatenate([start[:, :2], start[:, 2:] + _HEIGHT_M], -1)
        over = np.concatenate([place, up[:, 2:]], -1)
        down = np.concatenate([place, np.full_like(up[:, 2:], RADIUS_M)], -1)
        path = [_glide(start, up, _LIFT), _glide(up, over, _CARRY), _glide(over, down, _LOWER)]
        path.append(np.repeat(down[:, None], _SETTLE, axis=1))
        hand = np.concatenate(path, 1)
        holding = np.zeros((len(states), hand.shape[1], LINKS))
        holding[rows[hit], :-_SETTLE, grasped[hit]] = 1
        return np.concatenate([holding, hand], -1)

    def remember(self, before: States, physics: np.ndarray, actions: np.ndarray) -> States:
        """Stop what still moves."""
        physics[:, 1 + self.model.nq :] = 0
        return super().remember(before, physics, actions)

    def observe(self, states: States) -> np.ndarray:
        """Return what the sensor sees: x, y, z of the first point in metres, world frame, and so on."""
        surface = functools.partial(rope_cloud, radius_m=RADIUS_M)
        return self.sensor.see(self, states, self.link_positions(states), surface)

    def close(self) -> None:
        """End the threads and free the camera."""
        super().close()
        self.sensor.close()

    def errors(self, states: States) -> tuple[np.ndarray, np.ndarray]:
        """Return the chamfer and the earth mover's distance to the target in metres, (B,) each."""
        centres = self.link_positions(states)[:, :, :2]
        return chamfer(centres, self.target), earth_mover(centres, self.target)

    def judge(self, before: States, after: States) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Reward the decrease of the earth mover's distance, in centimetres."""
        nearest, moved = self.errors(after)
        gained = np.zeros(len(after)) if before is after else self.errors(before)[1] - moved
        info = {"success": nearest <= SUCCESS_M, "chamfer_m": nearest, "emd_m": moved, "score": -moved}
        return 100 * gained, info

    def keypoints(self, states: States) -> dict[str, np.ndarray]:
        """Both ends, the middle, and the target's first point."""
        centres = self.link_positions(states)
        goal = np.broadcast_to(np.append(self.target[0], RADIUS_M), (len(states), 3))
        return {"hand": centres[:, 0], "object": centres[:, LINKS // 2], "end": centres[:, -1], "goal": goal}


def _glide(start: np.ndarray, end: np.ndarray, steps: int) -> np.ndarray:
    """Go from (B, 3) to (B, 3) in ``steps``, slowly at first and at last: (B, steps, 3)."""
    share = np.arange(1, steps + 1) / steps
    share = share**2 * (3 - 2 * share)
    return start[:, None] + share[:, None] * (end - start)[:, None]


def _model(target: np.ndarray) -> mujoco.MjModel:
    spec = mujoco.MjSpec.from_file(str(ASSETS / "tabletop.xml"))
    spec.option.timestep = TIMESTEP_S
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.jacobian = mujoco.mjtJacobian.mjJAC_DENSE  # twice as fast as the sparse one that 44 dof get
    spec.option.tolerance = 1e-6
    spec.worldbody.add_body(name="hand", mocap=True)
    for point in target:
        spec.worldbody.add_site(pos=[*point, 0.0005], size=[0.004, 0.004, 0.0005], rgba=[0.1, 0.5, 0.2, 1])
    parent = spec.worldbody
    for index in range(LINKS):
        offset = [LINK_M, 0, 0] if index else [0, 0, RADIUS_M]
        parent = parent.add_body(name=f"link{index}", pos=offset)
        if index == 0:
            parent.add_freejoint()
        else:
            for axis in ([0, 0, 1], [0, 1, 0]):
                parent.add_joint(
                    type=mujoco.mjtJoint.mjJNT_HINGE, axis=axis, pos=[-LINK_M / 2, 0, 0], damping=5e-4
                )
        parent.add_geom(
            type=mujoco.mjtGeom.mjGEOM_CAPSULE,
            fromto=[-LINK_M / 2, 0, 0, LINK_M / 2, 0, 0],
            size=[RADIUS_M, 0, 0],
            density=600,
            contype=0,  # meets the table, not itself
            conaffinity=1,
            rgba=[0.75, 0.35 + 0.02 * index, 0.15, 1],
        )
        spec.add_equality(
            type=mujoco.mjtEq.mjEQ_CONNECT,
            name1=f"link{index}",
            name2="hand",
            objtype=mujoco.mjtObj.mjOBJ_BODY,
            active=False,
        )
    model = spec.compile()
    # The compiler puts the second anchor where the first one lies in the reference pose; the hand grasps the
    # link's centre wherever it is.
    model.eq_data[:, :6] = 0
    return model
