"""One judgement as it was given: who compared what, when, with what answer, and how sure."""

import math
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, no_type_check

from robopref.errors import DataError, unknown_name

ANSWERS = {"a": 1.0, "b": 0.0, "equal": 0.5, "skip": None}
SOURCES = ("human", "teacher", "transfer", "cost", "model")

Answer = Literal["a", "b", "equal", "skip"] | float
Source = Literal["human", "teacher", "transfer", "cost", "model"]


@no_type_check  # __post_init__ checks, always
@dataclass(frozen=True)
class Judgement:
    """One answer about one pair of segments.

    Args:
        a_episode: Episode of segment a.
        a_start: First step of segment a.
        a_length: Number of actions of segment a.
        b_episode: The same of segment b.
        b_start: The same of segment b.
        b_length: The same of segment b.
        answer: ``a``, ``b``, ``equal``, ``skip``, or the chance in [0, 1] that a is preferred.
        source: ``human``, ``teacher`` (scripted), ``transfer`` (from another task), ``cost`` or ``model``.
        annotator: Who or what answered.
        confidence: Weight of the answer, in [0, 1].
        created_at: When it was given; a time zone is needed.
        response_time_s: Seconds that a person took.
        shown_left: Which of the two a person saw on the left, ``a`` or ``b``.
        note: What a person said about it.
        uid: Names the judgement everywhere; the same one added twice is stored once.

    Raises:
        DataError: A field makes no sense; the message names it.
    """

    a_episode: int
    a_start: int
    a_length: int
    b_episode: int
    b_start: int
    b_length: int
    answer: Answer
    source: Source
    annotator: str
    confidence: float = 1.0
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    response_time_s: float | None = None
    shown_left: Literal["a", "b"] | None = None
    note: str | None = None
    uid: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self):
        for side in "ab":
            for name, least in (("episode", 0), ("start", 0), ("length", 1)):
                value = getattr(self, f"{side}_{name}")
                if isinstance(value, bool) or not isinstance(value, int) or value < least:
                    wanted = f"an integer of at least {least}"
                    raise DataError(f"Judgement: {side}_{name} must be {wanted}, got {value!r}.")
        if isinstance(self.answer, str):
            if self.answer not in ANSWERS:
                raise DataError(unknown_name("answer", self.answer, ANSWERS))
        elif not _within(self.answer, 1.0):
            raise DataError(f"Judgement: a soft answer must lie in [0, 1], got {self.answer!r}.")
        if self.source not in SOURCES:
            raise DataError(unknown_name("source", str(self.source), SOURCES))
        if not self.annotator or not self.uid:
            raise DataError("Judgement: annotator and uid must not be empty.")
        if not _within(self.confidence, 1.0):
            raise DataError(f"Judgement: confidence must lie in [0, 1], got {self.confidence!r}.")
        if self.created_at.tzinfo is None:
            raise DataError(f"Judgement: created_at needs a time zone, got {self.created_at.isoformat()}.")
        if self.response_time_s is not None and not _within(self.response_time_s, 1e9):
            got = repr(self.response_time_s)
            raise DataError(f"Judgement: response_time_s must be a number of seconds, got {got}.")
        if self.shown_left not in (None, "a", "b"):
            raise DataError(f"Judgement: shown_left must be 'a', 'b' or None, got {self.shown_left!r}.")

    @property
    def label(self) -> float | None:
        """The chance that a is preferred; None if the pair was skipped."""
        return ANSWERS[self.answer] if isinstance(self.answer, str) else float(self.answer)


def _within(value: object, most: float) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and 0 <= value <= most
