"""The last word before the motors: a state machine that passes, bounds or refuses every action.

::

    idle --start--> running <--good observation and action-- holding
                    running --stale or bad observation, bad action, failed decision--> holding
    running, holding --watchdog, too many holds in a row, stop--> stopped --reset--> idle

While holding, the robot is told to stay where it is, and a good action ends it. Once stopped, nothing is sent
until a person resets it. Bounds and rate limits are on unless the manifest has none to give; the first action
is bounded from where the robot is.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from robopref.deploy.manifest import Manifest, Rules, flatten
from robopref.errors import ConfigError, DataError, RoboprefError

IDLE, RUNNING, HOLDING, STOPPED = "idle", "running", "holding", "stopped"


class SafetyError(RoboprefError, RuntimeError):
    """Something was asked for in a state that does not allow it."""


@dataclass(frozen=True)
class Command:
    """What the robot shall do now.

    Attributes:
        action: (A,) to send; None to send nothing.
        state: Of the machine, after it decided.
        bounded: Whether the action was brought within the limits.
        why: Reason for holding or stopping; None while running.
        send: False in a dry run: the action is what would have been sent.
    """

    action: np.ndarray | None
    state: str
    bounded: bool = False
    why: str | None = None
    send: bool = True


class Safety:
    """Decides what is sent; safe to use from several threads.

    Args:
        manifest: Its limits, its control rate, and how to hold; :class:`.Rules` of a server will do.
        stale_s: Oldest observation to act on; if not given, what a chunk and one more control period last,
            since a decision may take as long as the chunk before it.
        watchdog_s: Longest time without a call of :meth:`act` or :meth:`failed`; ten control periods, at
            least a second, if not given.
        patience: Holds in a row that stop the robot.
        dry_run: Decide, but send nothing.
        on_change: Told of every change of state: old, new, why.
        clock: Seconds, monotonic.

    Raises:
        ConfigError: An option makes no sense.
    """

    def __init__(
        self,
        manifest: Manifest | Rules,
        *,
        stale_s: float | None = None,
        watchdog_s: float | None = None,
        patience: int = 50,
        dry_run: bool = False,
        on_change: Callable[[str, str, str | None], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        period = 1 / manifest.control_hz
        self.stale_s = (manifest.action.execute + 1) * period if stale_s is None else stale_s
        self.watchdog_s = max(10 * period, 1.0) if watchdog_s is None else watchdog_s
        for name, value in (("stale_s", self.stale_s), ("watchdog_s", self.watchdog_s)):
            if not 0 < value < float("inf"):
                raise ConfigError(f"{name} must be positive, got {value}")
        if patience < 1:
            raise ConfigError(f"patience must be 1 or more, got {patience}")
        self.dry_run, self.patience, self.execute = dry_run, patience, manifest.action.execute
        self._parts = manifest.observation
        self._ignored = manifest.ignored if isinstance(manifest, Rules) else ()
        self._limits, self._hold, self._period = manifest.limits, manifest.action.hold, period
        self._on_change, self._clock, self._lock = on_change, clock, threading.RLock()
        self._state, self._why = IDLE, None
        self._seen: float | None = None  # when the newest good observation was made
        self._acted = 0.0
        self._last: np.ndarray | None = None
        self._present: np.ndarray | None = None  # what the robot does before anything was sent
        self._holds = 0

    def sent_at(self, hz: float) -> None:
        """Bound the change of an action by the time to the next one, where they come faster than planned."""
        self._period = min(self._period, 1 / hz)

    @property
    def state(self) -> str:
        """idle, running, holding or stopped."""
        return self._state

    @property
    def why(self) -> str | None:
        """Why it holds or stopped."""
        return self._why

    @property
    def last(self) -> np.ndarray | None:
        """The action (A,) that was sent last."""
        return self._last

    def check_observation(self, observation: Mapping[str, Any]) -> None:
        """Refuse what the policy does not know.

        Raises:
            DataError: A part is missing, unknown, of another shape, no numbers, NaN, or out of its range.
        """
        flatten(self._parts, observation, self._ignored)

    # --- events -------------------------------------------------------------------------------------------

    def observed(self, age_s: float) -> None:
        """An observation was read, and is finite and in range; it was made ``age_s`` ago."""
        with self._lock:
            if age_s >= 0:
                self._seen = self._clock() - age_s

    def start(self, present: np.ndarray | None = None) -> None:
        """Begin to act.

        Args:
            present: (A,), the command that is in force, such as the measured positions of the joints: from
                there the first action is bounded, and there a robot that holds by its last action stays. If
                not given, the manifest's way to hold.

        Raises:
            SafetyError: The machine is not idle, there is no fresh observation, or actions are positions
                (``hold: last``) with a limited rate and ``present`` is not given.
            DataError: ``present`` is no finite (A,).
        """
        if present is not None:
            present = np.asarray(present, np.float64)
            if present.shape != self._limits.low.shape or not np.isfinite(present).all():
                raise DataError(
                    f"present must be {self._limits.low.size} finite numbers, got {present!r:.80}"
                )
        with self._lock:
            if self._state != IDLE:
                raise SafetyError(f"Only an idle robot can start; this one is {self._state} ({self._why})")
            if not self._fresh():
                raise SafetyError(f"There is no observation younger than {self.stale_s:.3g} s to start from")
            self._present = self._hold if present is None else present
            if self._present is None and self._limits.rate is not None:
                raise SafetyError(
                    "Actions are positions (hold: last) whose rate is limited, so the first one is bounded "
                    "from where the robot is: give start(present=...), or the robot a method present()"
                )
            self._acted, self._holds = self._clock(), 0
            self._change(RUNNING, None)

    def act(self, action: np.ndarray) -> Command:
        """What to send where the policy wants ``action`` (A,).

        Raises:
            SafetyError: The machine was never started.
        """
        with self._lock:
            self._require_start()
            self.check()
            if self._state == STOPPED:
                return self._nothing()
            wanted = np.asarray(action)
            if wanted.shape != self._limits.low.shape or wanted.dtype.kind not in "fiu":
                return self._held(f"the action has shape {wanted.shape} and dtype {wanted.dtype}")
            if not np.isfinite(wanted).all():
                return self._held("the action holds NaN or infinity")
            if not self._fresh():
                return self._held("the observation is stale")
            self._acted, self._holds = self._clock(), 0
            self._change(RUNNING, None)
            sent = self._limits.bound(wanted.astype(np.float64), self._period, self._in_force())
            bounded = not np.allclose(sent, wanted, rtol=0, atol=1e-6)
            return self._sent(sent, bounded, None)

    def failed(self, why: str) -> Command:
        """What to send where there is no good observation or no decision.

        Raises:
            SafetyError: The machine was never started.
        """
        with self._lock:
            self._require_start()
            self.check()
            return self._nothing() if self._state == STOPPED else self._held(why)

    def check(self) -> str:
        """Stop where neither :meth:`act` nor :meth:`failed` was called in time; returns the state."""
        with self._lock:
            if self._state in (RUNNING, HOLDING) and self._clock() - self._acted > self.watchdog_s:
                self._change(STOPPED, f"nothing was decided for {self.watchdog_s:.3g} s")
            return self._state

    def stop(self, why: str) -> None:
        """Stop, from any state."""
        with self._lock:
            self._change(STOPPED, why)

    def reset(self) -> None:
        """Let a stopped robot be started again.

        Raises:
            SafetyError: It is not stopped.
        """
        with self._lock:
            if self._state != STOPPED:
                raise SafetyError(f"Only a stopped robot can be reset; this one is {self._state}")
            self._seen = self._last = self._present = None
            self._change(IDLE, None)

    # --- what they share ----------------------------------------------------------------------------------

    def _fresh(self) -> bool:
        return self._seen is not None and self._clock() - self._seen <= self.stale_s

    def _in_force(self) -> np.ndarray | None:
        return self._present if self._last is None else self._last

    def _require_start(self) -> None:
        if self._state == IDLE:
            raise SafetyError("The robot was not started")

    def _held(self, why: str) -> Command:
        self._acted, self._holds = self._clock(), self._holds + 1
        if self._holds >= self.patience:
            self._change(STOPPED, f"{why}, {self._holds} times in a row")
            return self._nothing()
        self._change(HOLDING, why)
        still = self._in_force() if self._hold is None else self._hold
        return Command(None, HOLDING, why=why) if still is None else self._sent(still, False, why)

    def _sent(self, action: np.ndarray, bounded: bool, why: str | None) -> Command:
        self._last = np.array(action, np.float64)
        return Command(self._last.astype(np.float32), self._state, bounded, why, send=not self.dry_run)

    def _nothing(self) -> Command:
        return Command(None, STOPPED, why=self._why)

    def _change(self, state: str, why: str | None) -> None:
        before, self._state, self._why = self._state, state, why
        if before != state and self._on_change is not None:
            self._on_change(before, state, why)


class Watchdog:
    """A thread that checks beside the control loop, so that a loop that hangs is stopped too.

    Args:
        safety: The machine.
        on_stop: Called once when it is found stopped, such as the robot's own stop.
    """

    def __init__(self, safety: Safety, on_stop: Callable[[], None]) -> None:
        self._safety, self._on_stop = safety, on_stop
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="robopref-watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(self._safety.watchdog_s / 4):
            if self._safety.check() == STOPPED:
                self._on_stop()
                return
