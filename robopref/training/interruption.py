"""Ctrl-C that waits for the step in hand, so that what is saved is a whole state."""

import signal
import threading
from types import FrameType


def end_quietly(number: int, frame: FrameType | None) -> None:
    """Handle SIGTERM outside of training: what was written is whole, so there is nothing to wait for."""
    raise SystemExit(128 + number)


class Interruption:
    """Within ``with Interruption() as stop``, the first ctrl-C only sets ``stop.requested``.

    A second ctrl-C is the ordinary ``KeyboardInterrupt``. SIGTERM (a scheduler that takes the machine back)
    counts as ctrl-C where nobody else handles it. Outside the main thread nothing is changed, for Python
    delivers signals to the main thread alone.
    """

    def __init__(self) -> None:
        self.requested = False
        self.signal: int = signal.SIGINT
        self._earlier: dict[int, object] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for number, ours in (
                (signal.SIGINT, (signal.default_int_handler,)),
                (signal.SIGTERM, (signal.SIG_DFL, end_quietly)),
            ):
                if signal.getsignal(number) in ours:
                    self._earlier[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
        self._earlier.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested, self.signal = True, number

    def leave(self, sentence: str) -> None:
        """Raise ``KeyboardInterrupt(sentence)``; or, for SIGTERM, print it and raise ``SystemExit(143)``."""
        if self.signal == signal.SIGTERM:
            print(sentence, flush=True)
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt(sentence)
