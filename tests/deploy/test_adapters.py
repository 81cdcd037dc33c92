"""LeRobot and ROS 2, against stubs of their documented interfaces: neither is installed here."""

import sys
import threading
import types
from types import SimpleNamespace

import numpy as np
import pytest

from robopref.deploy import ros2_node
from robopref.deploy.bundle import load
from robopref.deploy.lerobot_robot import LeRobotArm, safe_robot
from robopref.deploy.loop import Local, drive
from robopref.deploy.manifest import Rules
from robopref.deploy.safety import Safety, SafetyError
from robopref.deploy.selection import Selector
from robopref.errors import DataError
from tests.deploy.made import edited, make_bundle
from tests.deploy.running import Running


class Arm:
    """A LeRobot robot by the documented interface: two joints and a wheel."""

    name = "arm"

    def __init__(self, config=None):
        self.config, self.sent, self.is_connected = config, [], True

    @property
    def observation_features(self):
        return {"shoulder.pos": float, "elbow.pos": float, "wheel.pos": float, "front": (480, 640, 3)}

    @property
    def action_features(self):
        return {"shoulder": float, "elbow": float}

    def get_observation(self):
        return {"shoulder.pos": 0.5, "elbow.pos": 0.25, "wheel.pos": 3.0, "front": np.zeros((480, 640, 3))}

    def send_action(self, action):
        self.sent.append(action)
        return action

    def disconnect(self):
        self.is_connected = False


PARTS = {"observation/arm": ["shoulder.pos", "elbow.pos"], "observation/goal": ["wheel.pos"]}


@pytest.fixture
def bundle(tmp_path):
    return load(make_bundle(tmp_path / "b"))


def patient(rules):
    return Safety(rules, stale_s=30.0, watchdog_s=60.0)


def test_a_lerobot_arm_is_driven_by_name_and_released_at_the_end(bundle):
    arm = Arm()
    robot = LeRobotArm(arm, PARTS, bundle.manifest.action.names)
    drive(robot, Local(Selector(bundle, candidates=1)), patient(bundle.manifest), steps=2)
    assert arm.sent == [{"shoulder": 0.5, "elbow": 0.25}] * 2
    assert not arm.is_connected


def test_names_that_the_robot_does_not_have_are_refused_at_once():
    with pytest.raises(DataError, match=r"No value is called 'elbw\.pos'\. Did you mean 'elbow\.pos'"):
        LeRobotArm(Arm(), {"observation/arm": ["shoulder.pos", "elbw.pos"]}, ["shoulder", "elbow"])
    with pytest.raises(DataError, match=r"No action is called 'sholder'\. Did you mean 'shoulder'"):
        LeRobotArm(Arm(), PARTS, ["sholder", "elbow"])


def test_a_safe_lerobot_robot_returns_what_was_really_sent(bundle):
    robot = safe_robot(Arm, Rules.read(bundle.metadata()))(None)
    assert robot.name == "robopref_safe"
    robot.get_observation()
    assert robot.send_action({"shoulder": 7.0, "elbow": 0.5}) == {"shoulder": 1.0, "elbow": 0.5}
    assert robot.send_action({"shoulder": float("nan"), "elbow": 0.5}) == {"shoulder": 0.0, "elbow": 0.0}
    robot.safety.stop("the red button")
    assert robot.send_action({"shoulder": 0.0, "elbow": 0.0}) == {}
    assert robot.sent == [{"shoulder": 1.0, "elbow": 0.5}, {"shoulder": 0.0, "elbow": 0.0}]


@pytest.mark.parametrize("bad", [np.float32("nan"), float("inf"), np.array([0.0, np.nan])])
def test_a_lerobot_observation_that_is_not_finite_does_not_count_as_seen(bundle, bad):
    class Seeing(Arm):
        def get_observation(self):
            return {"shoulder.pos": bad, "front": np.zeros((4, 4, 3), np.uint8)}

    robot = safe_robot(Seeing, Rules.read(bundle.metadata()))(None)
    robot.get_observation()
    with pytest.raises(SafetyError, match="no observation"):
        robot.send_action({"shoulder": 0.0, "elbow": 0.5})


# --- ROS 2 --------------------------------------------------------------------------------------------------


def joint_state(names, positions, stamp_s=100.0):
    stamp = SimpleNamespace(sec=int(stamp_s), nanosec=int((stamp_s % 1) * 1e9))
    return SimpleNamespace(name=names, position=positions, header=SimpleNamespace(stamp=stamp))


def test_a_joint_state_is_put_into_our_order_with_its_age():
    robot = ros2_node.JointRobot(
        ["shoulder", "elbow"], "observation/arm", lambda command: None, lambda: 100.75
    )
    with pytest.raises(DataError, match="No joint state was received"):
        robot.observe()
    robot.receive(joint_state(["elbow", "wrist", "shoulder"], [1.0, 2.0, 3.0], 100.5))
    parts, age = robot.observe()
    assert parts["observation/arm"].tolist() == [3.0, 1.0]
    assert age == pytest.approx(0.25)
    robot.receive(joint_state(["wrist"], [2.0]))
    with pytest.raises(DataError, match="lacks shoulder, elbow; it has wrist"):
        robot.observe()


class StubROS:
    """rclpy, sensor_msgs and std_msgs as far as the node uses them; states are published while it spins."""

    def __init__(self):
        self.published, self.node = [], None
        self.over = threading.Event()

    def install(self, monkeypatch):
        rclpy = types.ModuleType("rclpy")
        rclpy.__dict__.update(
            init=lambda: None, create_node=self.create_node, spin=self.spin, shutdown=self.over.set
        )
        monkeypatch.setitem(sys.modules, "rclpy", rclpy)
        for package, name, value in (
            ("sensor_msgs", "JointState", object),
            ("std_msgs", "Float64MultiArray", lambda data: SimpleNamespace(data=data)),
        ):
            monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
            module = types.ModuleType(f"{package}.msg")
            module.__dict__[name] = value
            monkeypatch.setitem(sys.modules, f"{package}.msg", module)

    def create_node(self, name):
        self.node = SimpleNamespace(
            create_publisher=lambda kind, topic, depth: SimpleNamespace(publish=self.published.append),
            create_subscription=self.subscribe,
            get_clock=lambda: SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=int(100e9))),
            destroy_node=lambda: None,
        )
        return self.node

    def subscribe(self, kind, topic, callback, depth):
        self.callback = callback

    def spin(self, node):
        while not self.over.wait(0.005):
            self.callback(joint_state(["elbow", "shoulder"], [0.25, 0.5]))


def one_part(record):
    """The three numbers of the observation as one part, as the node sends them."""
    record["observation"] = [{**record["observation"][0], "size": 3, "low": None, "high": None}]


def test_the_node_drives_a_robot_through_a_server(tmp_path, monkeypatch):
    bundle = load(edited(make_bundle(tmp_path / "b"), one_part))
    ros = StubROS()
    ros.install(monkeypatch)
    monkeypatch.setattr(
        ros2_node, "Safety", lambda rules, **options: Safety(rules, stale_s=30.0, watchdog_s=60.0, **options)
    )
    with Running(Selector(bundle, candidates=1)) as running:
        with pytest.raises(DataError, match="sends 2 joints as one part; the policy wants"):
            ros2_node.main([running.address, "--joints", "shoulder", "elbow", "--steps", "3"])
        joints = ["--joints", "shoulder", "elbow", "shoulder"]
        assert ros2_node.main([running.address, *joints, "--steps", "3"]) == 0
    assert [message.data for message in ros.published] == [*[[0.5, 0.25]] * 3, [0.0, 0.0]]


def test_a_stopped_node_sends_the_way_to_hold_once_if_it_sent_anything():
    published = []
    for moved, hold in ((True, [0.0]), (True, None), (False, [0.0])):
        robot = ros2_node.JointRobot(["elbow"], "arm", published.append, lambda: 0.0, hold=hold)
        if moved:
            robot.send(np.array([0.5]))
        for _ in range(2):
            robot.stop()
            robot.send(np.array([0.9]))
    assert published == [[0.5], [0.0], [0.5]]


def test_measured_joints_are_where_a_robot_of_positions_is():
    joints = ["elbow", "shoulder"]
    for positions, present in ((True, [0.25, 0.5]), (False, None)):
        robot = ros2_node.JointRobot(joints, "arm", print, lambda: 100.0, positions=positions)
        robot.receive(joint_state(["shoulder", "elbow"], [0.5, 0.25]))
        found = robot.present()
        assert (None if found is None else found.tolist()) == present


def test_a_lerobot_arm_starts_from_the_values_measured_under_its_actions_names(tmp_path):
    class Positions(Arm):
        @property
        def action_features(self):
            return {"shoulder.pos": float, "elbow.pos": float}

    def named(record):
        record["action"]["names"] = ["shoulder.pos", "elbow.pos"]

    manifest = load(edited(make_bundle(tmp_path / "p", hold="last", rate=[1.0, 1.0]), named)).manifest
    arm = LeRobotArm(Positions(), PARTS, manifest.action.names)
    present = arm.present()
    assert present is not None
    assert present.tolist() == [0.5, 0.25]
    assert LeRobotArm(Arm(), PARTS, ["shoulder", "elbow"]).present() is None
    robot = safe_robot(Positions, manifest)(None)
    robot.get_observation()
    assert robot.send_action({"shoulder.pos": 1.0, "elbow.pos": 0.25}) == pytest.approx(
        {"shoulder.pos": 0.6, "elbow.pos": 0.25}
    )
