"""Arms that hold a tool upright: the links of a Franka Panda and of a KUKA LBR iiwa 7, and their inverse.

Both have seven joints. Joints 3 and 5, which only turn the elbow aside, are held at zero, so five move: 1
turns the base, 2, 4 and 6 lift shoulder, elbow and wrist in one vertical plane, and 7 turns the hand back, so
that it always points down and keeps its heading. Such a chain has its inverse in closed form. Lengths, limits
and signs of the joints are the makers' (Franka Emika's and KUKA's data sheets), except that KUKA's elbow may
bend by 150 degrees: by its own 120 it would not reach a seventh of the workspace with the hand upright. The
shapes are capsules of our own in their colours, few and fast to draw.

Pitch is the angle from upright, forward positive. Letters used in shapes: B episodes.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false
# (MuJoCo's compiled names carry no type information)

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

Vector = Sequence[float | int]

HAND_M = 0.22  # from the hand's frame down to the tool's point
MOVING = ("joint1", "joint2", "joint4", "joint6", "joint7")
JOINTS = len(MOVING)


@dataclass(frozen=True)
class Embodiment:
    """An arm's lengths in metres and its colours.

    Attributes:
        base_x: Where it stands.
        shoulder: Height of joint 2.
        upper: From joint 2 to joint 4, along the upper arm.
        fore: From joint 4 to joint 6, along the forearm.
        elbow: How far joint 4 lies in front of both.
        reach: How far joint 7's axis lies in front of joint 6.
        hangs: Whether the hand points down at the arm's zero position, as Panda's, or up.
        drop: From joint 6 down to the hand's frame, as far as the maker's flange and hand reach.
        limits: Of the moving joints, in radians.
        radius: Of the links, as drawn.
        colour: Of the links.
        joint_colour: Of the joints.
    """

    base_x: float
    shoulder: float
    upper: float
    fore: float
    elbow: float
    reach: float
    hangs: bool
    drop: float
    limits: tuple[tuple[float, float], ...]
    radius: float
    colour: tuple[float, float, float]
    joint_colour: tuple[float, float, float]


EMBODIMENTS: Mapping[str, Embodiment] = {
    "panda": Embodiment(
        base_x=-0.45,
        shoulder=0.333,
        upper=0.316,
        fore=0.384,
        elbow=0.0825,
        reach=0.088,
        hangs=True,
        drop=0.0,
        limits=(
            (-2.8973, 2.8973),
            (-1.7628, 1.7628),
            (-3.0718, -0.0698),
            (-0.0175, 3.7525),
            (-2.8973, 2.8973),
        ),
        radius=0.055,
        colour=(0.92, 0.92, 0.9),
        joint_colour=(0.25, 0.25, 0.28),
    ),
    "kuka": Embodiment(
        base_x=-0.47,
        shoulder=0.34,
        upper=0.4,
        fore=0.4,
        elbow=0.0,
        reach=0.0,
        hangs=False,
        drop=0.02,
        limits=((-2.9671, 2.9671), (-2.0944, 2.0944), (-2.618, 2.618), (-2.0944, 2.0944), (-3.0543, 3.0543)),
        radius=0.065,
        colour=(0.95, 0.45, 0.1),
        joint_colour=(0.15, 0.15, 0.15),
    ),
}


def joint_angles(shape: Embodiment, points: np.ndarray) -> np.ndarray:
    """Return the joints' angles (..., 5), radians, that put the tool's point at points (..., 3), metres.

    Places out of reach are approached as far as the arm is long.
    """
    forward = np.hypot(points[..., 0] - shape.base_x, points[..., 1]) - shape.reach
    up = points[..., 2] + HAND_M + shape.drop - shape.shoulder
    a, b = np.hypot(shape.upper, shape.elbow), np.hypot(shape.fore, shape.elbow)
    away = np.clip(np.hypot(forward, up), abs(a - b) + 1e-3, a + b - 1e-3)
    lifted = np.arccos((a**2 + away**2 - b**2) / (2 * a * away))
    bent = np.arccos(np.clip((away**2 - a**2 - b**2) / (2 * a * b), -1, 1))
    upper = np.arctan2(forward, up) - lifted  # pitch of the lines from joint to joint,
    fore = upper + bent
    upper = upper - np.arctan2(shape.elbow, shape.upper)  # and of the links beside them
    fore = fore + np.arctan2(shape.elbow, shape.fore)
    turn = np.arctan2(points[..., 1], points[..., 0] - shape.base_x)
    return np.stack([turn, upper, upper - fore, fore if shape.hangs else np.pi - fore, turn], -1)


def tool_points(shape: Embodiment, angles: np.ndarray) -> np.ndarray:
    """Return where the tool's point is, (B, 3) in metres, from the moving joints' angles (B, 5)."""
    turn, upper, elbow, wrist, _ = angles.T
    fore = upper - elbow
    tilt = fore - wrist if shape.hangs else fore + wrist - np.pi  # pitch of the hand, 0 upright
    down = HAND_M + shape.drop
    forward, up = (
        shape.upper * along(upper)
        + shape.elbow * (across(upper) - across(fore))
        + shape.fore * along(fore)
        + shape.reach * across(tilt)
        - down * along(tilt)
        for along, across in ((np.sin, np.cos), (np.cos, lambda pitch: -np.sin(pitch)))
    )
    x, y = forward * np.cos(turn) + shape.base_x, forward * np.sin(turn)
    return np.stack([x, y, up + shape.shoulder], -1)


def add_arm(spec: mujoco.MjSpec, shape: Embodiment) -> Any:
    """Add an arm in its zero position to a model, and return the body of its hand.

    Where the hand hangs down, its frame is upright; the tool's point lies ``HAND_M`` below it.
    """
    radius, colour, dark = shape.radius, [*shape.colour, 1.0], [*shape.joint_colour, 1.0]
    base = spec.worldbody.add_body(name="arm_base", pos=[shape.base_x, 0, 0])
    _shape(base, dark, [0, 0, 0], [0, 0, 0.08], radius * 1.6)
    turn = _link(base, shape, 0, [0, 0, 0], [0, 0, 1])
    _shape(turn, colour, [0, 0, 0.08], [0, 0, shape.shoulder], radius * 1.2)
    upper = _link(turn, shape, 1, [0, 0, shape.shoulder], [0, 1, 0])
    _shape(upper, dark, [0, -radius, 0], [0, radius, 0], radius * 1.3)
    _shape(upper, colour, [0, 0, 0], [0, 0, shape.upper], radius)
    fore = _link(upper, shape, 2, [shape.elbow, 0, shape.upper], [0, -1, 0])
    _shape(fore, dark, [0, -radius, 0], [0, radius, 0], radius * 1.15)
    _shape(fore, colour, [-shape.elbow, 0, 0], [-shape.elbow, 0, shape.fore], radius * 0.85)
    wrist = _link(fore, shape, 3, [-shape.elbow, 0, shape.fore], [0, -1 if shape.hangs else 1, 0])
    _shape(wrist, dark, [0, -radius / 2, 0], [0, radius / 2, 0], radius * 0.95)
    _shape(wrist, colour, [0, 0, 0], [shape.reach, 0, 0], radius * 0.8)
    hand = _link(wrist, shape, 4, [shape.reach, 0, (-1 if shape.hangs else 1) * shape.drop], [0, 0, -1])
    hand.quat = [1, 0, 0, 0] if shape.hangs else [0, 0, 1, 0]
    _shape(hand, dark, [0, 0, 0], [0, 0, -0.06], radius * 0.7)
    _shape(hand, colour, [0, -0.05, -0.1], [0, 0.05, -0.1], radius * 0.45)
    return hand


def _link(parent: Any, shape: Embodiment, number: int, place: Vector, axis: Vector) -> Any:
    body = parent.add_body(name="hand" if number == JOINTS - 1 else f"link{number}", pos=place, gravcomp=1)
    body.add_joint(
        name=MOVING[number],
        type=mujoco.mjtJoint.mjJNT_HINGE,
        axis=axis,
        armature=0.05,
        limited=True,
        range=shape.limits[number],
    )
    return body


def _shape(body: Any, colour: Vector, start: Vector, end: Vector, radius: float) -> None:
    if start == end:
        return
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_CAPSULE,
        fromto=[*start, *end],
        size=[radius, 0, 0],
        rgba=colour,
        density=500,
        contype=0,
        conaffinity=0,
    )


def add_servo(spec: mujoco.MjSpec, joint: str, *, stiffness: float, damping: float) -> None:
    """Drive a joint to a position that is commanded."""
    actuator = spec.add_actuator(name=joint, target=joint, trntype=mujoco.mjtTrn.mjTRN_JOINT)
    actuator.gaintype, actuator.biastype = mujoco.mjtGain.mjGAIN_FIXED, mujoco.mjtBias.mjBIAS_AFFINE
    actuator.gainprm[0] = stiffness
    actuator.biasprm[1:3] = -stiffness, -damping
