"""How a task looks: its light and the colour of its objects. Nothing that happens depends on it."""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled names carry no type information)

import re
from typing import TYPE_CHECKING

from .contacts import parts

if TYPE_CHECKING:
    import mujoco


def dress(model: "mujoco.MjModel", light: float, object_colour: str | None) -> None:
    """Dim or brighten all lamps of a model, and paint its objects.

    Args:
        model: Is changed.
        light: Factor of all lamps.
        object_colour: As "#3355ee"; None leaves objects as they are.

    Raises:
        ValueError: The colour is not written like that.
    """
    colour = None if object_colour is None else rgb(object_colour)
    model.light_ambient[:] *= light
    model.light_diffuse[:] *= light
    head = model.vis.headlight
    head.ambient[:] *= light
    head.diffuse[:] *= light
    if colour is not None:
        arm, scene = parts(model)
        objects = ~arm & ~scene
        model.geom_matid[objects] = -1  # a material would be drawn instead
        model.geom_rgba[objects, :3] = colour


def rgb(colour: str) -> tuple[float, ...]:
    """Return red, green and blue in [0, 1] of a colour such as "#3355ee".

    Raises:
        ValueError: It is not written like that.
    """
    if not isinstance(colour, str) or not re.fullmatch(r"#[0-9a-fA-F]{6}", colour):
        raise ValueError(f"A colour is written as '#3355ee', got {colour!r}.")
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
