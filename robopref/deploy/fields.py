"""Fields of a JSON record, each checked as it is taken, so that a refusal names the field."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from robopref.errors import DataError, unknown_name

LARGEST = float(np.finfo(np.float32).max)


class Fields:
    """A JSON object, whose keys are known where it is to be wholly understood.

    Args:
        record: What was read.
        where: Names the record in a refusal.
        known: The keys that it may have; None for any, of which those that nobody takes are ignored.

    Raises:
        DataError: It is no object, or has a key that is not known.
    """

    def __init__(self, record: Any, where: str, known: Iterable[str] | None = None) -> None:
        if not isinstance(record, dict):
            raise DataError(f"{where} must be a JSON object, got {record!r:.80}")
        self.record, self.where = record, where
        names = list(record if known is None else known)
        for key in record:
            if key not in names:
                raise DataError(f"{where}: {unknown_name('field', str(key), names)}")

    def take(self, name: str) -> Any:
        """The field, whatever it is."""
        if name not in self.record:
            raise DataError(f"{self.where} lacks '{name}'")
        return self.record[name]

    def text(self, name: str) -> str:
        """A text that is not empty."""
        value = self.take(name)
        if not isinstance(value, str) or not value:
            raise DataError(f"{self.where}.{name} must be text, got {value!r:.80}")
        return value

    def whole(self, name: str) -> int:
        """A whole number of 1 or more."""
        value = self.take(name)
        if type(value) is not int or value < 1:
            raise DataError(f"{self.where}.{name} must be a whole number of 1 or more, got {value!r:.80}")
        return value

    def number(self, name: str) -> float:
        """A finite number."""
        value = self.take(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise DataError(f"{self.where}.{name} must be a number, got {value!r:.80}")
        return float(value)

    def array(self, name: str) -> list[Any]:
        """A list."""
        value = self.take(name)
        if not isinstance(value, list):
            raise DataError(f"{self.where}.{name} must be a list, got {value!r:.80}")
        return value

    def vector(self, name: str, size: int) -> np.ndarray:
        """So many numbers that are finite in float32, too, as float64."""
        value = self.array(name)
        if len(value) != size or not all(type(v) in (int, float) and abs(v) < LARGEST for v in value):
            raise DataError(f"{self.where}.{name} must be {size} numbers, got {value!r:.80}")
        return np.array(value, np.float64)

    def texts(self, name: str, size: int | None = None) -> tuple[str, ...]:
        """So many texts, or any number of them."""
        value = self.array(name)
        size = len(value) if size is None else size
        if len(value) != size or not all(isinstance(v, str) for v in value):
            raise DataError(f"{self.where}.{name} must be {size} texts, got {value!r:.80}")
        return tuple(value)
