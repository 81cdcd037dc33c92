"""The safety layer: a test for each arrow of its state machine, and for what it lets through."""

# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalOperand=false

import threading

import numpy as np
import pytest

from robopref.deploy.bundle import load
from robopref.deploy.safety import HOLDING, IDLE, RUNNING, STOPPED, Safety, SafetyError, Watchdog
from robopref.errors import ConfigError, DataError
from tests.deploy.made import make_bundle
from tests.deploy.test_selection import Clock

GOOD = np.array([0.5, -0.5])


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def manifest(tmp_path):
    return load(make_bundle(tmp_path / "b", rate=[1.0, 100.0])).manifest  # 10 Hz: 0.1 a step


@pytest.fixture
def running(manifest, clock):
    safety = Safety(manifest, clock=clock, patience=3)
    safety.observed(0.0)
    safety.start()
    return safety


def held(safety):
    safety.failed("no decision")
    assert safety.state == HOLDING
    return safety


# --- every arrow --------------------------------------------------------------------------------------------


def test_idle_to_running_on_start_with_a_fresh_observation(manifest, clock):
    safety = Safety(manifest, clock=clock)
    assert safety.state == IDLE
    safety.observed(0.0)
    safety.start()
    assert safety.state == RUNNING


def test_idle_stays_idle_without_a_fresh_observation(manifest, clock):
    safety = Safety(manifest, clock=clock, stale_s=0.2)
    with pytest.raises(SafetyError, match=r"no observation younger than 0\.2 s"):
        safety.start()
    safety.observed(0.3)
    with pytest.raises(SafetyError):
        safety.start()
    assert safety.state == IDLE


def test_idle_sends_nothing(manifest, clock):
    safety = Safety(manifest, clock=clock)
    safety.observed(0.0)
    for ask in (lambda: safety.act(GOOD), lambda: safety.failed("x")):
        with pytest.raises(SafetyError, match="was not started"):
            ask()


@pytest.mark.parametrize(
    ("action", "sentence"),
    [
        ([np.nan, 0.0], "NaN or infinity"),
        ([0.0, np.inf], "NaN or infinity"),
        ([0.0], "shape"),
        ([[0.0, 0.0]], "shape"),
        (["a", "b"], "dtype"),
    ],
)
def test_running_to_holding_on_a_bad_action(running, action, sentence):
    command = running.act(np.array(action))
    assert (command.state, running.state) == (HOLDING, HOLDING)
    assert sentence in command.why
    assert command.action.tolist() == [0.0, 0.0]  # the manifest's hold


def test_running_to_holding_on_a_stale_observation(running, clock):
    clock.now += 0.21  # two control periods are 0.2 s
    command = running.act(GOOD)
    assert command.state == HOLDING
    assert command.why == "the observation is stale"


def test_running_to_holding_on_a_failed_decision(running):
    command = running.failed("the server is gone")
    assert (command.state, command.why) == (HOLDING, "the server is gone")
    assert command.action.tolist() == [0.0, 0.0]


def test_holding_to_running_on_a_good_observation_and_action(running, clock):
    held(running)
    clock.now += 0.1
    running.observed(0.0)
    assert running.act(GOOD).state == RUNNING
    assert running.why is None


def test_holding_stays_holding_without_a_fresh_observation(running, clock):
    held(running)
    clock.now += 0.3
    assert running.act(GOOD).state == HOLDING


@pytest.mark.parametrize("before", [lambda s: s, held], ids=["running", "holding"])
def test_to_stopped_when_nothing_is_decided_in_time(running, clock, before):
    before(running)
    clock.now += 1.01
    assert running.check() == STOPPED
    assert running.why == "nothing was decided for 1 s"


def test_to_stopped_when_the_decision_itself_comes_after_the_watchdog(running, clock):
    clock.now += 1.01
    running.observed(0.0)
    command = running.act(GOOD)
    assert (command.state, command.action) == (STOPPED, None)


def test_holding_to_stopped_when_it_goes_on_failing(running):
    assert [running.failed("blind").state for _ in range(3)] == [HOLDING, HOLDING, STOPPED]
    assert running.why == "blind, 3 times in a row"


def test_a_good_action_lets_the_holds_be_counted_anew(running):
    for _ in range(4):
        assert [running.failed("blind").state for _ in range(2)] == [HOLDING, HOLDING]
        assert running.act(GOOD).state == RUNNING


@pytest.mark.parametrize("state", [IDLE, RUNNING, HOLDING, STOPPED])
def test_stop_stops_from_any_state(manifest, clock, state):
    safety = Safety(manifest, clock=clock)
    if state != IDLE:
        safety.observed(0.0)
        safety.start()
    if state == HOLDING:
        held(safety)
    if state == STOPPED:
        safety.stop("before")
    safety.stop("the red button")
    assert (safety.state, safety.why) == (STOPPED, "the red button")


def test_stopped_sends_nothing_until_it_is_reset(running, clock):
    running.stop("the red button")
    running.observed(0.0)
    for command in (running.act(GOOD), running.failed("x")):
        assert (command.action, command.state, command.why) == (None, STOPPED, "the red button")
    with pytest.raises(SafetyError, match=r"is stopped \(the red button\)"):
        running.start()


def test_stopped_to_idle_on_reset_which_forgets_the_observation(running):
    running.stop("the red button")
    running.reset()
    assert running.state == IDLE
    with pytest.raises(SafetyError, match="no observation"):
        running.start()


@pytest.mark.parametrize("prepare", [lambda s: None, held], ids=["running", "holding"])
def test_only_a_stopped_robot_is_reset_and_only_an_idle_one_started(running, prepare):
    prepare(running)
    with pytest.raises(SafetyError, match="Only a stopped robot"):
        running.reset()
    with pytest.raises(SafetyError, match="Only an idle robot"):
        running.start()


def test_every_change_is_told_once(manifest, clock):
    told = []
    safety = Safety(manifest, clock=clock, patience=2, on_change=lambda *change: told.append(change))
    safety.observed(0.0)
    safety.start()
    safety.act(GOOD)
    safety.failed("a")
    safety.act(GOOD)
    safety.failed("b")
    safety.failed("b")
    safety.reset()
    assert told == [
        (IDLE, RUNNING, None),
        (RUNNING, HOLDING, "a"),
        (HOLDING, RUNNING, None),
        (RUNNING, HOLDING, "b"),
        (HOLDING, STOPPED, "b, 2 times in a row"),
        (STOPPED, IDLE, None),
    ]


# --- what is let through ------------------------------------------------------------------------------------


def test_an_action_within_limits_passes_unchanged(manifest, clock):
    safety = Safety(manifest, clock=clock)
    safety.observed(0.0)
    safety.start(GOOD)
    command = safety.act(GOOD)
    assert command.action.tolist() == [0.5, -0.5]
    assert not command.bounded
    assert command.send


def test_bounds_are_on_by_default(manifest, clock):
    safety = Safety(manifest, clock=clock)
    safety.observed(0.0)
    safety.start(np.array([0.95, 0.0]))
    command = safety.act(np.array([7.0, -7.0]))
    assert command.action.tolist() == [1.0, -1.0]
    assert command.bounded


def test_the_rate_limit_is_on_by_default(running):
    running.act(np.array([0.0, 0.0]))
    command = running.act(np.array([1.0, 1.0]))
    assert command.action == pytest.approx([0.1, 1.0])
    assert command.bounded


def test_the_rate_counts_from_what_was_sent_not_from_what_was_wanted(running):
    running.act(np.array([0.0, 0.0]))
    sent = [float(running.act(np.array([1.0, 0.0])).action[0]) for _ in range(3)]
    assert sent == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize("again", [False, True])
def test_the_first_action_is_bounded_from_the_way_to_hold_after_a_reset_too(running, again):
    if again:
        running.act(GOOD)
        running.stop("the red button")
        running.reset()
        running.observed(0.0)
        running.start()
    assert running.act(np.array([1.0, 1.0])).action == pytest.approx([0.1, 1.0])


def test_a_robot_of_positions_starts_from_where_it_is(tmp_path, clock):
    manifest = load(make_bundle(tmp_path / "b2", hold="last", rate=[1.0, 1.0])).manifest
    safety = Safety(manifest, clock=clock)
    safety.observed(0.0)
    with pytest.raises(SafetyError, match="bounded from where the robot is"):
        safety.start()
    for bad in ([0.0], [0.0, np.nan]):
        with pytest.raises(DataError, match="present must be 2 finite numbers"):
            safety.start(np.array(bad))
    safety.start(np.array([-0.6, 0.5]))
    assert safety.failed("x").action == pytest.approx([-0.6, 0.5])
    assert safety.act(np.array([1.0, 0.5])).action == pytest.approx([-0.5, 0.5])


def test_a_dry_run_decides_and_sends_nothing(manifest, clock):
    safety = Safety(manifest, clock=clock, dry_run=True)
    safety.observed(0.0)
    safety.start(GOOD)
    command = safety.act(GOOD)
    assert command.action.tolist() == [0.5, -0.5]
    assert not command.send
    assert not safety.failed("x").send


def test_to_hold_by_the_last_action_repeats_it(tmp_path, clock):
    safety = Safety(load(make_bundle(tmp_path / "b2", hold="last")).manifest, clock=clock)
    safety.observed(0.0)
    safety.start()
    assert safety.failed("x").action is None  # there is no last one yet
    safety.act(GOOD)
    assert safety.failed("x").action.tolist() == [0.5, -0.5]


@pytest.mark.parametrize("options", [{"stale_s": 0.0}, {"watchdog_s": -1.0}, {"patience": 0}])
def test_options_that_make_no_sense_are_refused(manifest, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        Safety(manifest, **options)


def test_the_watchdog_stops_the_robot_beside_a_loop_that_hangs(manifest):
    stopped = threading.Event()
    safety = Safety(manifest, watchdog_s=0.05)
    safety.observed(0.0)
    safety.start()
    with Watchdog(safety, stopped.set):
        assert stopped.wait(5)
    assert safety.state == STOPPED
