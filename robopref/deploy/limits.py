"""What an action may be: bounds of every entry, how fast it may change, and boxes that points must stay in.

Letters used in shapes: K candidates, H actions in a chunk, A entries of an action.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from robopref.deploy.fields import Fields
from robopref.errors import DataError

SLACK = 1e-6  # of an entry's range: rounding is no violation


@dataclass(frozen=True)
class Box:
    """A box that some entries of an action, the coordinates of a point, must lie in; in their units."""

    name: str
    entries: tuple[int, ...]
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Limits:
    """Limits of an action of A entries, in the units in which it is sent.

    Attributes:
        low, high: (A,), joint limits or the actuator's range.
        rate: (A,), largest change per second; None for an action that is a new command each time.
        boxes: The workspace.
    """

    low: np.ndarray
    high: np.ndarray
    rate: np.ndarray | None = None
    boxes: tuple[Box, ...] = ()

    def violations(
        self, chunks: np.ndarray, control_hz: float, previous: np.ndarray | None = None
    ) -> list[str | None]:
        """Say for each of K chunks (K, H, A) what it violates first, or None.

        Args:
            chunks: Candidates.
            control_hz: Actions per second.
            previous: (A,), the action that was sent last, where there is one.
        """
        slack = SLACK * (self.high - self.low)
        found: list[str | None] = [None] * len(chunks)
        self._mark(found, np.isnan(chunks), "is not a number in entry {}")
        self._mark(
            found, (chunks < self.low - slack) | (chunks > self.high + slack), "leaves the limits of entry {}"
        )
        if self.rate is not None:
            first = chunks[:, :1] if previous is None else np.broadcast_to(previous, chunks[:, :1].shape)
            change = np.abs(np.diff(chunks, axis=1, prepend=first))
            self._mark(found, change > self.rate / control_hz + slack, "changes entry {} too fast")
        for box in self.boxes:
            point = chunks[..., list(box.entries)]
            outside = ((point < box.low) | (point > box.high)).any(axis=(1, 2))
            for k in np.flatnonzero(outside):
                found[k] = found[k] or f"leaves the workspace '{box.name}'"
        return found

    @staticmethod
    def _mark(found: list[str | None], wrong: np.ndarray, sentence: str) -> None:
        for k in np.flatnonzero(wrong.any(axis=(1, 2))):
            entry = int(np.argwhere(wrong[k])[0, 1])
            found[k] = found[k] or sentence.format(entry)

    def bound(self, action: np.ndarray, seconds: float, previous: np.ndarray | None) -> np.ndarray:
        """The nearest action (A,) that keeps bounds, boxes and, from the previous action, the rate.

        The rate goes first: a bound that was tightened is approached no faster than the rate allows.
        """
        action = np.clip(action, *self._narrowest())
        if self.rate is None or previous is None:
            return action
        return np.clip(action, previous - self.rate * seconds, previous + self.rate * seconds)

    def _narrowest(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest action (A,) that bounds and boxes allow together."""
        low, high = self.low.copy(), self.high.copy()
        for box in self.boxes:
            entries = list(box.entries)
            low[entries] = np.maximum(low[entries], box.low)
            high[entries] = np.minimum(high[entries], box.high)
        return low, high

    @classmethod
    def read(cls, record: Mapping[str, Any], size: int, where: str) -> "Limits":
        """Read what :meth:`record` returned.

        Raises:
            DataError: A field is missing, unknown or of the wrong length, a lower bound above its upper, or
                bounds and boxes leave nothing.
        """
        fields = Fields(record, where, ("low", "high", "rate_per_s", "boxes"))
        low, high = fields.vector("low", size), fields.vector("high", size)
        rate = None if record.get("rate_per_s") is None else fields.vector("rate_per_s", size)
        if rate is not None and not (rate > 0).all():
            raise DataError(f"{where}: rate_per_s must be positive, got {rate.tolist()}")
        _ordered(low, high, where)
        boxes = [_read_box(box, size, f"{where}.boxes[{i}]") for i, box in enumerate(fields.array("boxes"))]
        found = cls(low, high, rate, tuple(boxes))
        lowest, highest = found._narrowest()
        if (lowest > highest).any():
            bad = np.flatnonzero(lowest > highest).tolist()
            raise DataError(f"{where}: bounds and boxes leave no value for entries {bad}")
        return found

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "rate_per_s": None if self.rate is None else self.rate.tolist(),
            "boxes": [
                {"name": b.name, "entries": list(b.entries), "low": b.low.tolist(), "high": b.high.tolist()}
                for b in self.boxes
            ],
        }


def _read_box(record: Any, size: int, where: str) -> Box:
    fields = Fields(record, where, ("name", "entries", "low", "high"))
    entries = fields.array("entries")
    if not entries or not all(type(e) is int and 0 <= e < size for e in entries):
        raise DataError(f"{where}: entries must lie in 0..{size - 1}, got {entries}")
    low, high = fields.vector("low", len(entries)), fields.vector("high", len(entries))
    _ordered(low, high, where)
    return Box(fields.text("name"), tuple(entries), low, high)


def _ordered(low: np.ndarray, high: np.ndarray, where: str) -> None:
    if not (low < high).all():
        bad = np.flatnonzero(low >= high).tolist()
        raise DataError(f"{where}: low must lie below high, but does not in entries {bad}")
