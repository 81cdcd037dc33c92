"""What an annotator's answers add up to: pace, consistency, leanings."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from robopref.labeling.book import Given


@dataclass(frozen=True)
class Tally:
    """Counts of one person's answers.

    Attributes:
        answers: All answers that count.
        chosen: How often each choice was taken: left, right, equal, rest, up, down, skip.
        repeated: Items asked twice and answered both times.
        consistent: Those of them with the same answer.
        checks: Checks answered.
        passed: Checks answered as the environment's reward does.
        median_s: Median response time in seconds, None without answers.
    """

    answers: int
    chosen: dict[str, int]
    repeated: int
    consistent: int
    checks: int
    passed: int
    median_s: float | None


def tally(given: Sequence[Given]) -> Tally:
    """Count the answers of one person."""
    first: dict[int, str] = {}
    again: list[bool] = []
    for answer in given:
        verdict = _verdict(answer)
        if answer.kind in ("repeat", "mirror"):
            if verdict != "skip" and answer.index in first:
                again.append(first[answer.index] == verdict)
        else:
            first[answer.index] = verdict
    golden = [_verdict(answer) for answer in given if answer.kind == "gold"]
    times = [g.judgement.response_time_s for g in given if g.judgement.response_time_s is not None]
    return Tally(
        answers=len(given),
        chosen=dict(Counter(_choice(answer) for answer in given)),
        repeated=len(again),
        consistent=sum(again),
        checks=len(golden),
        passed=golden.count("a"),
        median_s=median(times) if times else None,
    )


def _verdict(given: Given) -> str:
    """Say what was answered, whatever the sides and the strength."""
    answer, label = given.judgement.answer, given.judgement.label
    if label is None or answer in ("up", "down", "rest"):
        return str(answer)
    return "equal" if label == 0.5 else "a" if label > 0.5 else "b"


def _choice(given: Given) -> str:
    """Say which button was pressed."""
    verdict = _verdict(given)
    if verdict not in ("a", "b"):
        return verdict
    return "left" if given.judgement.shown_left == verdict else "right"
