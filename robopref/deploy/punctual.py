"""Waiting for work no longer than there is time: it runs beside the caller, who goes on without it."""

import logging
import threading
from collections.abc import Callable

from robopref.deploy.pace import MEMORY

logger = logging.getLogger(__name__)


class _Attempt:
    """Work on a thread of its own; ``ended`` and ``error`` are set before ``done`` is."""

    def __init__(self, work: Callable[[], None], clock: Callable[[], float]) -> None:
        self.started, self.ended = clock(), 0.0
        self.error: BaseException | None = None
        self.given_up = False
        self.done = threading.Event()
        self._work, self._clock = work, clock
        threading.Thread(target=self._run, name="robopref-decision", daemon=True).start()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # raised again where it is waited for
            self.error = error
            if self.given_up:
                logger.error("A decision that was given up failed", exc_info=error)
        self.ended = self._clock()
        self.done.set()


class Punctual:
    """Does work while there is time.

    Python cannot end a thread. Work that takes too long is given up: it ends by itself, its outcome is lost,
    and until then nothing else is begun.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._running: _Attempt | None = None
        self._handover = 0.0  # longest time of late from the end of the work, or of the wait, to its caller

    def attempt(self, work: Callable[[], None], end: float) -> bool:
        """Whether the work was done before ``end``; what it raises is raised here.

        One thread at a time may ask.
        """
        if self.overdue_s() > 0:
            return False
        attempt = self._running = _Attempt(work, self._clock)
        wake = end - min(self._handover, (end - attempt.started) / 2)
        while not attempt.done.wait(max(0.0, wake - self._clock())) and self._clock() < wake:
            pass  # a clock may be slower than the event's
        finished = attempt.done.is_set()
        attempt.given_up = not finished
        waited = self._clock() - (attempt.ended if finished else wake)
        self._handover = max(waited, MEMORY * self._handover)
        if attempt.error is not None and finished:
            raise attempt.error
        return finished

    def overdue_s(self) -> float:
        """For how long the work that was given up has been running; 0 if there is none."""
        attempt = self._running
        if attempt is None or attempt.done.is_set():
            return 0.0
        return max(self._clock() - attempt.started, 1e-9)
