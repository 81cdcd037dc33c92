"""ROS 2: reads joint states, asks a policy server, passes the safety layer, publishes joint commands.

It needs ``rclpy``, ``sensor_msgs`` and ``std_msgs`` of the ROS installation, and of robopref the extra
``deploy`` alone. Commands are a ``Float64MultiArray``, as ros2_control's forward controllers take them:

    python -m robopref.deploy.ros2_node ws://127.0.0.1:8000 --joints shoulder elbow

Written against the documented interfaces of ROS 2 (Humble and later) and tested against stubs; not run with
ROS or on hardware.
"""

import argparse
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from robopref.deploy.client import Client
from robopref.deploy.loop import Remote, drive
from robopref.deploy.manifest import Rules
from robopref.deploy.safety import STOPPED, Safety
from robopref.errors import DataError


class JointRobot:
    """The newest joint state as the observation, commands as lists of numbers.

    Args:
        joints: Names, in the order of the observation's part.
        part: Name of that part.
        publish: Sends a command.
        now: Seconds by the clock that stamps messages.
        hold: The command that stands still, sent once at a stop; None where the last one does (positions).
        positions: Whether commands are positions of the joints, in their order, so that the measured ones say
            which command is in force.
    """

    def __init__(
        self,
        joints: Sequence[str],
        part: str,
        publish: Callable[[list[float]], None],
        now: Callable[[], float],
        *,
        hold: Sequence[float] | None = None,
        positions: bool = False,
    ) -> None:
        self._joints, self._part, self._publish, self._now = list(joints), part, publish, now
        self._hold, self._positions = hold, positions
        self._moved, self._stopped, self._lock = False, False, threading.Lock()
        self._newest: Any = None
        self.seen = threading.Event()

    def receive(self, message: Any) -> None:
        """Keep a ``sensor_msgs/JointState``; the callback of the subscription."""
        self._newest = message
        self.seen.set()

    def observe(self) -> tuple[dict[str, np.ndarray], float]:
        """Positions in our order, and their age by their stamp.

        Raises:
            DataError: Nothing was received, or a joint is not in the message.
        """
        message = self._newest
        if message is None:
            raise DataError("No joint state was received yet")
        places = dict(zip(message.name, message.position, strict=True))
        missing = [joint for joint in self._joints if joint not in places]
        if missing:
            raise DataError(f"The joint state lacks {', '.join(missing)}; it has {', '.join(places)}")
        stamp = message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec
        values = np.array([places[joint] for joint in self._joints], np.float32)
        return {self._part: values}, max(0.0, self._now() - stamp)

    def present(self) -> np.ndarray | None:
        """The measured positions, where commands are positions."""
        return self.observe()[0][self._part] if self._positions else None

    def send(self, action: np.ndarray) -> bool:
        """Publish a command unless it was stopped; the task is never over by itself."""
        with self._lock:
            if not self._stopped:
                self._moved = True
                self._publish([float(value) for value in action])
        return False

    def stop(self) -> None:
        """Publish the command that stands still, if any was published before, and then nothing more.

        ros2_control's forward controllers keep the last command in force: silence would keep a velocity.
        """
        with self._lock:
            if self._moved and not self._stopped and self._hold is not None:
                self._publish([float(value) for value in self._hold])
            self._stopped = True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node until it is stopped; returns 1 if the safety layer stopped it."""
    parser = argparse.ArgumentParser(prog="python -m robopref.deploy.ros2_node", description=__doc__)
    parser.add_argument("server", help="ws://host:port of robopref serve; its token in ROBOPREF_TOKEN")
    parser.add_argument("--joints", nargs="+", required=True, help="in the order of the observation")
    parser.add_argument("--states", default="/joint_states", help="topic of the joint states")
    parser.add_argument("--commands", default="/forward_position_controller/commands", help="topic")
    parser.add_argument("--steps", type=int, default=2**31, help="control periods to act for")
    parser.add_argument("--dry-run", action="store_true", help="decide, but publish nothing")
    given = parser.parse_args(arguments)
    import rclpy  # pyright: ignore[reportMissingImports]
    from sensor_msgs.msg import JointState  # pyright: ignore[reportMissingImports]
    from std_msgs.msg import Float64MultiArray  # pyright: ignore[reportMissingImports]

    first = Client(given.server, token=os.environ.get("ROBOPREF_TOKEN"))
    rules, parts = Rules.read(first.metadata), first.metadata["observation"]
    first.close()
    if [part["size"] for part in parts] != [len(given.joints)]:
        sizes = {part["name"]: part["size"] for part in parts}
        raise DataError(f"This node sends {len(given.joints)} joints as one part; the policy wants {sizes}")
    hold = rules.action.hold
    rclpy.init()
    node = rclpy.create_node("robopref_policy")
    publisher = node.create_publisher(Float64MultiArray, given.commands, 10)
    robot = JointRobot(
        given.joints,
        parts[0]["name"],
        lambda command: publisher.publish(Float64MultiArray(data=command)),
        lambda: node.get_clock().now().nanoseconds * 1e-9,
        hold=None if hold is None else hold.tolist(),
        positions=hold is None and rules.action.size == len(given.joints),
    )
    node.create_subscription(JointState, given.states, robot.receive, 10)
    threading.Thread(target=rclpy.spin, args=(node,), daemon=True).start()
    try:
        if not robot.seen.wait(10.0):
            raise DataError(f"No joint state came on {given.states} within 10 s")
        decide = Remote(lambda: Client(given.server, token=os.environ.get("ROBOPREF_TOKEN")))
        safety = Safety(rules, dry_run=given.dry_run, on_change=lambda *c: print(*c, flush=True))
        driven = drive(robot, decide, safety, steps=given.steps, hz=rules.control_hz)
    finally:
        node.destroy_node()
        rclpy.shutdown()
    print(f"{driven.steps} steps, {driven.held} held, {driven.bounded} bounded: {driven.why or driven.state}")
    return int(driven.state == STOPPED)


if __name__ == "__main__":
    sys.exit(main())
