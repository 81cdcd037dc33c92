"""How a task looks: its light and the colour of its objects. Nothing that happens depends on it."""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled names carry no type information)

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .contacts import parts

if TYPE_CHECKING:
    import mujoco


def dress(model: "mujoco.MjModel", light: float, object_colour: Sequence[float] | None) -> None:
    """Dim or brighten all lamps of a model, and paint its objects.

    Args:
        model: Is changed.
        light: Factor of all lamps.
        object_colour: Red, green and blue in [0, 1]; None leaves objects as they are.
    """
    model.light_ambient[:] *= light
    model.light_diffuse[:] *= light
    head = model.vis.headlight
    head.ambient[:] *= light
    head.diffuse[:] *= light
    if object_colour is not None:
        arm, scene = parts(model)
        objects = ~arm & ~scene
        model.geom_matid[objects] = -1  # a material would be drawn instead
        model.geom_rgba[objects, :3] = object_colour
