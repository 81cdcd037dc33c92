"""The control loop, with a robot of our own and with the simulator: whatever fails, the robot is held."""

# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalOperand=false

import ast
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from robopref.deploy.bundle import load
from robopref.deploy.client import ServerError
from robopref.deploy.gym_robot import GymRobot
from robopref.deploy.loop import Local, Remote, drive
from robopref.deploy.manifest import Rules
from robopref.deploy.safety import RUNNING, STOPPED, Safety, SafetyError
from robopref.deploy.selection import Selector
from robopref.errors import ConfigError, DataError
from tests.deploy.made import edited, make_bundle, seen
from tests.deploy.running import Running

DEPLOY = Path(__file__).parents[2] / "robopref" / "deploy"


class Toy:
    """Sees what it is told to, and remembers what it was sent."""

    def __init__(self, observations=None, age=0.0):
        self.observations, self.age = observations or [seen(0.5)], age
        self.looks, self.sent, self.stops = 0, [], 0

    def observe(self):
        observation = self.observations[min(self.looks, len(self.observations) - 1)]
        self.looks += 1
        return observation, self.age

    def send(self, action):
        self.sent.append(action.tolist())
        return False

    def stop(self):
        self.stops += 1


@pytest.fixture
def bundle(tmp_path):
    return load(make_bundle(tmp_path / "b", horizon=2))


def patient(bundle, **options):
    """A safety layer for a machine that may be busy with other tests."""
    return Safety(bundle.manifest, **{"stale_s": 30.0, "watchdog_s": 60.0, **options})


def one(bundle, **options):
    return Local(Selector(bundle, candidates=1, **options))


def test_a_chunk_is_carried_out_whole_before_the_next_decision(bundle):
    calls = []

    def decide(observation, last):
        calls.append(None if last is None else last.tolist())
        return np.array([[0.1, 0.0], [0.2, 0.0]], np.float32) * len(calls)

    robot = Toy()
    driven = drive(robot, decide, patient(bundle), steps=4)
    assert robot.sent == pytest.approx(np.array([[0.1, 0], [0.2, 0], [0.2, 0], [0.4, 0]]))
    assert calls == [None, pytest.approx([0.2, 0.0])]
    assert (driven.steps, driven.held, driven.bounded, driven.over) == (4, 0, 0, False)
    assert driven.state == RUNNING
    assert robot.stops == 1


def test_execute_decides_earlier(bundle):
    calls = []

    def decide(observation, last):
        calls.append(1)
        return np.zeros((2, 2), np.float32)

    drive(Toy(), decide, patient(bundle), steps=4, execute=1)
    assert len(calls) == 4


def test_the_policy_s_mean_is_what_a_local_selector_of_one_candidate_sends(bundle):
    robot = Toy()
    drive(robot, one(bundle), patient(bundle), steps=1)
    assert robot.sent == [[0.5, 0.0]]


@pytest.mark.parametrize("bad", [seen(np.nan), seen(99.0), {"observation/arm": np.zeros(2)}, {}])
def test_a_bad_observation_holds_the_robot_until_a_good_one_comes(bundle, bad):
    robot = Toy([seen(0.5), seen(0.5), bad, seen(0.25)])
    driven = drive(robot, one(bundle), patient(bundle), steps=3, execute=1)
    assert robot.sent == [[0.5, 0.0], [0.0, 0.0], [0.25, 0.0]]
    assert driven.held == 1


def test_a_bad_observation_does_not_start_a_robot(bundle):
    with pytest.raises(DataError, match="observation/arm holds NaN"):
        drive(Toy([seen(np.nan)]), one(bundle), patient(bundle), steps=3)
    with pytest.raises(SafetyError, match="no observation younger"):
        drive(Toy(age=99.0), one(bundle), patient(bundle), steps=3)


def test_what_is_wrong_with_a_later_observation_holds_the_robot_within_a_chunk(bundle):
    decide = lambda observation, last: np.full((2, 2), 0.5, np.float32)  # noqa: E731
    for bad in (seen(99.0), {**seen(), "observation/arm": np.zeros(3)}, {**seen(), "camera": np.zeros(1)}):
        robot = Toy([seen(), seen(), bad])
        assert drive(robot, decide, patient(bundle), steps=2).held == 1
        assert robot.sent == [[0.5, 0.5], [0.0, 0.0]]


@pytest.mark.parametrize("ignored", [(), ("prompt",)])
def test_a_misspelt_key_is_refused_before_the_start_with_a_server_too(bundle, ignored):
    misspelt = {"observation/amr": np.zeros(2), "observation/goal": np.zeros(1)}
    with Running(Selector(bundle, candidates=1), ignored=ignored) as running:
        rules = Rules.read(running.client().metadata)
        robot = Toy([misspelt])
        safety = Safety(rules, stale_s=30.0, watchdog_s=60.0)
        with pytest.raises(DataError, match="Did you mean 'observation/arm'"):
            drive(robot, Remote(running.client), safety, steps=3)
        assert (robot.sent, robot.stops) == ([], 1)
        robot = Toy([{**seen(0.5), **dict.fromkeys(ignored, "stack")}])
        safety = Safety(rules, stale_s=30.0, watchdog_s=60.0)
        assert drive(robot, Remote(running.client), safety, steps=3).held == 0


def test_as_many_actions_are_carried_out_as_the_manifest_says(tmp_path):
    def one_at_a_time(record):
        record["action"]["execute"] = 1

    bundle, calls = load(edited(make_bundle(tmp_path / "e", horizon=2), one_at_a_time)), []

    def decide(observation, last):
        calls.append(1)
        return np.zeros((2, 2), np.float32)

    drive(Toy(), decide, patient(bundle), steps=4)
    assert len(calls) == 4


def test_a_robot_that_says_where_it_is_is_moved_from_there(tmp_path):
    class Arm(Toy):
        def present(self):
            return np.array([-0.5, 0.0])

    bundle = load(make_bundle(tmp_path / "p", hold="last", rate=[1.0, 1.0]))
    decide = lambda observation, last: np.array([[1.0, 0.0]], np.float32)  # noqa: E731
    arm = Arm()
    drive(arm, decide, patient(bundle), steps=2)
    assert arm.sent == pytest.approx(np.array([[-0.4, 0.0], [-0.3, 0.0]]))
    with pytest.raises(SafetyError, match="where the robot is"):
        drive(Toy(), decide, patient(bundle), steps=2)


def test_a_drive_that_does_not_begin_stops_the_robot_too(bundle):
    robot = Toy([seen(np.nan)])
    with pytest.raises(DataError):
        drive(robot, one(bundle), patient(bundle), steps=3)
    assert (robot.stops, robot.sent) == (1, [])


def test_actions_at_twice_the_planned_rate_change_half_as_much_each(tmp_path):
    bundle = load(make_bundle(tmp_path / "b", horizon=2, rate=[1.0, 1.0]))  # 0.1 an action at 10 Hz

    def decide(observation, last):
        return np.array([[0, 0], [1, 1]], np.float32)

    for hz, change in ((10.0, 0.1), (20.0, 0.05), (5.0, 0.1)):
        robot = Toy()
        drive(robot, decide, patient(bundle), steps=2, hz=hz)
        assert np.diff(np.array(robot.sent), axis=0) == pytest.approx(change)


@pytest.mark.parametrize("error", [RuntimeError("bug"), ServerError("gone"), OSError("camera")])
def test_whatever_a_decision_raises_holds_the_robot_and_at_last_stops_it(bundle, error):
    def decide(observation, last):
        raise error

    robot = Toy()
    driven = drive(robot, decide, patient(bundle, patience=5), steps=50)
    assert robot.sent == [[0.0, 0.0]] * 4
    assert driven.state == STOPPED
    assert str(driven.why).endswith("5 times in a row")
    assert robot.stops >= 1


def test_a_decision_that_hangs_is_stopped_by_the_watchdog_while_it_hangs(bundle):
    stopped_after = []

    class Timed(Toy):
        def stop(self):
            stopped_after.append(time.monotonic() - begun)
            super().stop()

    def decide(observation, last):
        time.sleep(0.6)
        return np.ones((2, 2), np.float32)

    robot, begun = Timed(), time.monotonic()
    driven = drive(robot, decide, patient(bundle, watchdog_s=0.1), steps=5)
    assert stopped_after[0] < 0.5
    assert robot.sent == []
    assert driven.state == STOPPED


@pytest.mark.parametrize("options", [{"steps": 0}, {"execute": 0}, {"hz": 0.0}, {"hz": float("nan")}])
def test_a_drive_that_makes_no_sense_is_not_begun(bundle, options):
    robot = Toy()
    with pytest.raises(ConfigError, match="must be 1 or more, hz positive"):
        drive(robot, one(bundle), patient(bundle), **{"steps": 1, **options})
    assert robot.looks == 0


def test_a_dry_run_sends_nothing(bundle):
    robot = Toy()
    assert drive(robot, one(bundle), patient(bundle, dry_run=True), steps=3).steps == 3
    assert robot.sent == []


def test_a_rate_is_kept_by_waiting(bundle):
    started = time.monotonic()
    drive(Toy(), one(bundle), patient(bundle), steps=5, hz=50.0)
    assert 0.1 <= time.monotonic() - started < 2


def test_through_a_server_the_same_is_sent_as_locally(bundle):
    sent = []
    with Running(Selector(bundle, seed=1)) as running:
        for decide in (Remote(running.client), Local(Selector(bundle, seed=1))):
            robot = Toy()
            drive(robot, decide, patient(bundle), steps=6)
            sent.append(robot.sent)
    assert sent[0] == sent[1]


def test_after_an_error_of_the_server_the_robot_holds_once_and_goes_on(bundle):
    robot = Toy([seen(0.5), seen(0.5), seen(99.0), seen(0.25)])
    with Running(Selector(bundle, candidates=1)) as running:
        driven = drive(robot, Remote(running.client), patient(bundle), steps=3, execute=1)
    assert robot.sent == [[0.5, 0.0], [0.0, 0.0], [0.25, 0.0]]
    assert driven.held == 1


def test_a_server_that_dies_stops_the_robot(bundle):
    with Running(Selector(bundle)) as running:
        decide = Remote(lambda: running.client(timeout_s=0.5))
    robot = Toy()
    driven = drive(robot, decide, patient(bundle, patience=3), steps=20)
    assert robot.sent == [[0.0, 0.0]] * 2
    assert driven.state == STOPPED


# --- the simulator as a robot -------------------------------------------------------------------------------


class Point(gymnasium.Env):
    """Moves by its action; over after so many steps."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,))
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = np.append(self.np_random.uniform(-0.5, 0.5, 2), 0.0)
        return self.place.copy(), {}

    def step(self, action):
        self.place[:2] += 0.1 * action
        self.place[2] += 1
        return (
            self.place.copy(),
            float(self.place[0]),
            False,
            self.place[2] >= 7,
            {"success": self.place[2] > 3},
        )


def test_a_simulator_is_driven_to_its_end(bundle):
    robot = GymRobot.of(Point(), bundle.metadata(), seed=4)
    start = robot.observe()[0]["observation/arm"]
    driven = drive(robot, one(bundle), patient(bundle), steps=100, execute=1)
    assert (driven.steps, driven.over, robot.success) == (7, True, True)
    assert len(robot.rewards) == 7
    assert robot.observe()[0]["observation/arm"] == pytest.approx(
        start * 1.1**7, rel=1e-5
    )  # a = x, x += 0.1 a


def test_a_stopped_simulator_takes_no_step(bundle):
    robot = GymRobot.of(Point(), bundle.metadata())
    robot.stop()
    robot.send(np.ones(2, np.float32))
    assert robot.rewards == []


def test_parts_that_do_not_add_up_are_refused():
    with pytest.raises(DataError, match="add up to 4"):
        GymRobot(Point(), [("observation/state", 4)])


# --- what a robot needs -------------------------------------------------------------------------------------


def test_nothing_of_deploy_but_export_loads_torch_or_a_simulator():
    names = [path.stem for path in DEPLOY.glob("*.py") if path.stem not in ("__init__", "export")]
    heavy = (
        "torch",
        "gymnasium",
        "mujoco",
        "hydra",
        "wandb",
        "jaxtyping",
        "scipy",
        "pandas",
        "rclpy",
        "lerobot",
    )
    code = "import sys\n" + "".join(f"import robopref.deploy.{name}\n" for name in names)
    code += f"print(*(m for m in {heavy!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("name", ["client", "codec"])
def test_the_client_is_written_for_python_3_9_and_needs_nothing_of_robopref(name):
    tree = ast.parse((DEPLOY / f"{name}.py").read_text(), feature_version=(3, 9))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            imported.add(str(node.module).split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            assert node.module == "codec"
        elif isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        assert not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr)), "X | Y needs 3.10"
    assert imported <= {
        "collections",
        "contextlib",
        "math",
        "types",
        "typing",
        "msgpack",
        "numpy",
        "websockets",
    }


def test_client_and_codec_work_in_a_folder_of_ones_own(bundle, tmp_path):
    package = tmp_path / "my_robot"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for name in ("client", "codec"):
        (package / f"{name}.py").write_text((DEPLOY / f"{name}.py").read_text())
    code = (
        "import sys, numpy as np\n"
        "from my_robot.client import Client\n"
        "with Client(sys.argv[1]) as client:\n"
        "    seen = {'observation/arm': np.zeros(2), 'observation/goal': np.zeros(1)}\n"
        "    print(client.infer(seen)['actions'].shape, 'robopref' in sys.modules)\n"
    )
    with Running(Selector(bundle)) as running:
        done = subprocess.run(
            [sys.executable, "-c", code, running.address],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.stdout == "(2, 2) False\n", done.stderr
