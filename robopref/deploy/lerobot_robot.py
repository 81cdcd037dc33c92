"""LeRobot: drive any of its robots with our loop, or put our safety layer into its own tools.

:class:`LeRobotArm` asks no more of a robot than LeRobot's documented methods, so this file imports nothing of
LeRobot. :func:`safe_robot` makes the class of a plugin; LeRobot finds plugins in installed packages whose
name begins with ``lerobot_robot_``, so the plugin itself is three lines of your own (docs/deploy.md).

Written against lerobot 0.4's ``Robot`` (``src/lerobot/robots/robot.py``) and tested against a stub of it; not
run on hardware.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from robopref.deploy.manifest import Manifest, Rules, match_keys
from robopref.deploy.safety import IDLE, Safety
from robopref.errors import DataError, unknown_name


class LeRobotArm:
    """A connected LeRobot robot as what :func:`.loop.drive` drives.

    Args:
        robot: With ``get_observation``, ``send_action``, ``action_features`` and ``observation_features``.
        parts: For each part of the manifest's observation, which of the robot's values it holds, in order,
            such as ``{"observation/state": ["shoulder_pan.pos", ...]}``.
        actions: Names of the action's entries, as the robot calls them; the manifest's ``action.names``.

    Raises:
        DataError: The robot has no value or action of such a name; it says which is nearest.
    """

    def __init__(self, robot: Any, parts: Mapping[str, Sequence[str]], actions: Sequence[str]) -> None:
        for kind, wanted, known in (
            ("value", [name for names in parts.values() for name in names], robot.observation_features),
            ("action", actions, robot.action_features),
        ):
            for name in wanted:
                if name not in known:
                    raise DataError(f"LeRobot: {unknown_name(kind, name, known)}")
        self._robot, self._parts, self._actions = robot, dict(parts), list(actions)

    def observe(self) -> tuple[dict[str, np.ndarray], float]:
        """The parts, and how long reading them took, for that is how old the first value is."""
        begun = time.monotonic()
        seen = self._robot.get_observation()
        parts = {
            part: np.array([float(seen[name]) for name in names], np.float32)
            for part, names in self._parts.items()
        }
        return parts, time.monotonic() - begun

    def present(self) -> np.ndarray | None:
        """The values that are measured under the actions' names, as LeRobot has it; None where one is not."""
        return _measured(self._robot.get_observation(), self._actions)

    def send(self, action: np.ndarray) -> bool:
        """Send the action by name; a real robot's task is never over by itself."""
        self._robot.send_action(dict(zip(self._actions, map(float, action), strict=True)))
        return False

    def stop(self) -> None:
        """Disconnect, which is LeRobot's way to release the motors safely."""
        if self._robot.is_connected:
            self._robot.disconnect()


def _measured(seen: Mapping[str, Any], names: Sequence[str]) -> np.ndarray | None:
    return np.array([float(seen[name]) for name in names]) if all(name in seen for name in names) else None


def safe_robot(base: type, manifest: Manifest | Rules, *, name: str = "robopref_safe") -> type:
    """A subclass of a LeRobot robot whose ``send_action`` goes through the safety layer.

    As LeRobot asks, it returns the action that was really sent. ``get_observation`` counts as the observation
    that an action is based on; a stale one holds the robot.

    Args:
        base: The robot's class, such as ``SO101Follower``.
        manifest: Whose limits count; its ``action.names`` must be the robot's.
        name: Under which LeRobot knows the class.
    """

    class SafeRobot(base):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            match_keys(self.action_features, manifest.action.names, ())
            self.safety = Safety(manifest)
            self._newest: dict[str, Any] = {}

        def get_observation(self) -> dict[str, Any]:
            self._newest = seen = super().get_observation()
            arrays = [np.asarray(value) for value in seen.values()]
            numbers = [a for a in arrays if a.dtype.kind == "f" or (a.ndim == 0 and a.dtype.kind in "iu")]
            if numbers and all(np.isfinite(array).all() for array in numbers):
                self.safety.observed(0.0)
            return seen

        def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
            names = manifest.action.names
            if self.safety.state == IDLE:
                self.safety.start(_measured(self._newest, names))
            if missing := [key for key in names if key not in action]:
                raise DataError(f"The action lacks {', '.join(missing)}")
            command = self.safety.act(np.array([float(action[key]) for key in names]))
            if command.action is None:
                return {}
            wanted = dict(zip(names, map(float, command.action), strict=True))
            return super().send_action(wanted) if command.send else wanted

    SafeRobot.name = name
    return SafeRobot
