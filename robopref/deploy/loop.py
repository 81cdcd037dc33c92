"""The control loop: observe, decide, pass through the safety layer, send; with a watchdog beside it."""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from robopref.deploy.audit import AuditLog
from robopref.deploy.client import Client, ServerError
from robopref.deploy.safety import RUNNING, STOPPED, Command, Safety, Watchdog
from robopref.deploy.selection import Selector
from robopref.errors import ConfigError, DataError

logger = logging.getLogger(__name__)


@runtime_checkable
class Robot(Protocol):
    """What the loop asks of a robot, simulated or not."""

    def observe(self) -> tuple[Mapping[str, Any], float]:
        """Parts of the observation by the manifest's names, and how many seconds old it is."""
        ...

    def send(self, action: np.ndarray) -> bool:
        """Carry out an action (A,) in the manifest's units; returns whether the task is over."""
        ...

    def stop(self) -> None:
        """Stand still by the robot's own means; called from the watchdog's thread too."""
        ...


@runtime_checkable
class Present(Protocol):
    """A robot that knows which command is in force before anything was sent; robots of positions must."""

    def present(self) -> np.ndarray | None:
        """(A,) in the manifest's units, such as the measured positions of the joints; None if not known."""
        ...


Decide = Callable[[Mapping[str, Any], np.ndarray | None], np.ndarray]  # observation, last sent -> (H, A)


class Local:
    """Decides in this process."""

    def __init__(self, selector: Selector, audit: AuditLog | None = None) -> None:
        self._selector, self._audit, self._index = selector, audit, 0

    def __call__(self, observation: Mapping[str, Any], last: np.ndarray | None) -> np.ndarray:
        """The chosen chunk (H, A)."""
        flat = self._selector.bundle.flatten(observation)
        index, self._index = self._index, self._index + 1
        decision = self._selector.decide(flat, index=index, previous=last)
        if self._audit is not None:
            self._audit.write(decision)
        return decision.actions


class Remote:
    """Lets a policy server decide; after an error the next decision connects anew.

    Args:
        connect: Opens a connection, such as ``lambda: Client("ws://gpu-box:8000", token=...)``.

    Raises:
        ServerError: The first connection fails.
    """

    def __init__(self, connect: Callable[[], Client]) -> None:
        self._connect = connect
        self._client: Client | None = connect()

    def __call__(self, observation: Mapping[str, Any], last: np.ndarray | None) -> np.ndarray:
        """The chunk (H, A) that the server chose."""
        if self._client is None:
            self._client = self._connect()
        try:
            return self._client.infer(observation)["actions"]
        except ServerError:
            self._client.close()
            self._client = None
            raise


@dataclass(frozen=True)
class Driven:
    """How a drive went: control periods, how many of them held or bounded the action, and how it ended."""

    steps: int
    held: int
    bounded: int
    over: bool
    state: str
    why: str | None


def drive(
    robot: Robot,
    decide: Decide,
    safety: Safety,
    *,
    steps: int,
    execute: int | None = None,
    hz: float | None = None,
) -> Driven:
    """Act for so many control periods, or until the task is over or the robot is stopped.

    Whatever fails on the way to an action (a bad observation, a refused decision, a server that is gone, a
    bug) holds the robot; where it goes on failing, the robot is stopped. However the drive ends,
    ``robot.stop()`` is called.

    Args:
        robot: It. Where actions are positions (``hold: last``) whose rate is limited, it needs
            :meth:`Present.present` too.
        decide: A :class:`Local` or a :class:`Remote`.
        safety: Idle; it is started here, and stopped at the end.
        steps: Most control periods.
        execute: Actions of each chunk to carry out before the next decision; the manifest's if not given.
        hz: Control rate to keep by waiting; None does not wait (a simulator).

    Raises:
        ConfigError: An option makes no sense.
        DataError: The first observation has a key that the manifest does not know, or lacks one of its parts;
            or a part has another shape, is not finite or is out of range.
        SafetyError: The first observation is too old, or a robot of positions does not say where it is.
    """
    if steps < 1 or (execute is not None and execute < 1) or (hz is not None and not 0 < hz < float("inf")):
        raise ConfigError(
            f"steps and execute must be 1 or more, hz positive, got {steps=}, {execute=}, {hz=}"
        )
    if hz is not None:
        safety.sent_at(hz)
    execute = safety.execute if execute is None else execute
    queue: deque[np.ndarray] = deque()
    held = bounded = step = 0
    over, command = False, Command(None, STOPPED)
    begun = time.monotonic()
    with Watchdog(safety, robot.stop):
        try:
            _observed(robot, safety)
            safety.start(robot.present() if isinstance(robot, Present) else None)
            while step < steps and not over and (step == 0 or command.state != STOPPED):
                command = _next(robot, decide, safety, queue, execute)
                if command.action is not None and command.send:
                    over = robot.send(command.action)
                held, bounded, step = held + (command.state != RUNNING), bounded + command.bounded, step + 1
                if hz is not None:
                    time.sleep(max(0.0, begun + step / hz - time.monotonic()))
        finally:
            state, why = safety.state, safety.why
            safety.stop("the drive ended")
            robot.stop()
    return Driven(step, held, bounded, over, state, why)


def _next(robot: Robot, decide: Decide, safety: Safety, queue: deque[np.ndarray], execute: int) -> Command:
    """One command: of the chunk in hand, or of a new one."""
    try:
        observation = _observed(robot, safety)
        if not queue:
            queue.extend(decide(observation, safety.last)[:execute])
        command = safety.act(queue.popleft())
    except Exception as error:  # whatever it is, the robot must not be left without a command
        logger.warning("Holding: %s", error, exc_info=not isinstance(error, (DataError, ServerError)))
        command = safety.failed(f"{type(error).__name__}: {error}")
    if command.state != RUNNING:
        queue.clear()
    return command


def _observed(robot: Robot, safety: Safety) -> Mapping[str, Any]:
    """A new observation that the policy knows and that the safety layer was told of."""
    observation, age = robot.observe()
    safety.check_observation(observation)
    safety.observed(age)
    return observation
