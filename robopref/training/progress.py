"""How far a long piece of work is: a bar with the time left on a terminal, a line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import IO, TYPE_CHECKING, Protocol, cast, runtime_checkable

from robopref.errors import ConfigError

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

_REDRAW_S = 0.1


@runtime_checkable
class Stream(Protocol):
    """What progress is written to."""

    def write(self, text: str, /) -> object:
        """Take some text."""
        ...

    def flush(self) -> object:
        """Pass the text on."""
        ...

    def isatty(self) -> bool:
        """Say whether this is a terminal."""
        ...


class Progress:
    """A bar where ``stream`` is a terminal, otherwise one plain line about every ten seconds.

    Use as ``with Progress("train-policy", 6000) as bar: bar.advance(1, note="loss 0.3")``. Steps ``done``
    before (a resumed training) count as done, and not towards the speed.

    Args:
        description: What is being done.
        total: How many units there are.
        done: How many of them were done before.
        unit: What one unit is called, in the plural.
        stream: Where to write; standard error when not given.
        every_s: Seconds between plain lines.
    """

    def __init__(
        self,
        description: str,
        total: int,
        done: int = 0,
        *,
        unit: str = "steps",
        stream: Stream | None = None,
        every_s: float = 10.0,
    ) -> None:
        if not 0 <= done <= total:
            raise ConfigError(f"done must lie in 0..{total}, got {done}")
        self.description, self.total, self.done, self.unit = description, total, done, unit
        self._stream = sys.stderr if stream is None else stream
        self._every_s = every_s
        self._note = ""
        self._started_with = done
        self._started = self._shown = time.monotonic()
        self._bar: RichProgress | None = None

    def __enter__(self) -> "Progress":
        self._started = self._shown = time.monotonic()
        if self._stream.isatty():
            self._bar = bar = _rich_bar(self._stream)
            bar.add_task(self.description, total=self.total, completed=self.done, note="")
            bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._draw()
            self._bar.stop()
        elif self.done > self._started_with:
            print(self.line(), file=self._stream, flush=True)

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Count ``count`` more units as done; ``note`` replaces the text at the end."""
        self.done += count
        if note is not None:
            self._note = note
        now = time.monotonic()
        if now - self._shown < (self._every_s if self._bar is None else _REDRAW_S):
            return
        self._shown = now
        if self._bar is None:
            print(self.line(), file=self._stream, flush=True)
        else:
            self._draw()

    def line(self) -> str:
        """Return the state as one line: ``fit: 1200/6000 steps (20 %), 61.0/s, 79 s left, loss 0.3``."""
        share = 100 * self.done // self.total if self.total else 100
        parts = [f"{self.description}: {self.done}/{self.total} {self.unit} ({share} %)"]
        elapsed = time.monotonic() - self._started
        fresh = self.done - self._started_with
        if fresh > 0 and elapsed > 0:
            speed = fresh / elapsed
            parts.append(f"{speed:.3g}/s")
            if self.done < self.total:
                parts.append(f"{_duration((self.total - self.done) / speed)} left")
        if self._note:
            parts.append(self._note)
        return ", ".join(parts)

    def _draw(self) -> None:
        assert self._bar is not None
        self._bar.update(self._bar.task_ids[0], completed=self.done, note=self._note)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _rich_bar(stream: Stream) -> "RichProgress":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[note]}"),
        console=Console(file=cast(IO[str], stream)),
    )
