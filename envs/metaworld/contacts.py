"""What the arm touches and how hard: numbers read from MuJoCo's contacts after each step.

A body is the arm's if it hangs below the robot's base, part of the scene if it is welded to the world, and an
object otherwise (a drawer or a door that moves is an object, its case is scene).
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled names carry no type information)

import mujoco
import numpy as np

SIGNALS = ("touch", "collision", "force")
_ROBOT = "base"


def parts(model: "mujoco.MjModel") -> tuple[np.ndarray, np.ndarray]:
    """Return which geoms are the arm's and which are scene, (ngeom,) bool each; the others are objects."""
    base = model.body(_ROBOT).id
    arm = np.zeros(model.nbody, bool)
    for body in range(model.nbody):  # parents come before their children
        arm[body] = body == base or arm[model.body_parentid[body]]
    own = arm[model.geom_bodyid]
    return own, (model.body_weldid == 0)[model.geom_bodyid] & ~own


class ContactReader:
    """Reads contacts of one model.

    Args:
        model: The MuJoCo model.
    """

    def __init__(self, model: "mujoco.MjModel"):
        self._model = model
        self._arm, self._fixed = parts(model)

    def read(self, data: "mujoco.MjData") -> dict[str, float]:
        """Return the signals of the present state.

        Returns:
            ``touch``, the number of contacts between arm and objects; ``collision``, those between arm and
            scene; ``force``, the sum of the normal forces of both in newtons.
        """
        found: dict[str, float] = dict.fromkeys(SIGNALS, 0.0)
        force = np.zeros(6)
        for index in range(data.ncon):
            first, second = data.contact[index].geom
            if self._arm[first] == self._arm[second]:  # within the arm, or without it
                continue
            other = second if self._arm[first] else first
            found["collision" if self._fixed[other] else "touch"] += 1
            mujoco.mj_contactForce(self._model, data, index, force)
            found["force"] += abs(float(force[0]))
        return found
