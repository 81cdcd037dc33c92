"""What an annotator's answers add up to: pace, consistency, leanings."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from robopref.labeling.desk import Given


@dataclass(frozen=True)
class Tally:
    """Counts of one person's answers.

    Attributes:
        answers: All answers that count.
        pairs: Pairs asked for the first time, checks included.
        skipped: Pairs skipped.
        equal: Pairs found equal.
        left: Answers in favour of the left clip.
        right: Answers in favour of the right clip.
        repeated: Pairs asked twice and answered both times.
        consistent: Those of them with the same answer.
        checks: Checks answered.
        passed: Checks answered as the environment's reward does.
        median_s: Median response time in seconds, None without answers.
    """

    answers: int
    pairs: int
    skipped: int
    equal: int
    left: int
    right: int
    repeated: int
    consistent: int
    checks: int
    passed: int
    median_s: float | None


def tally(given: Sequence[Given]) -> Tally:
    """Count the answers of one person."""
    verdicts = [_verdict(g) for g in given]
    both = list(zip(given, verdicts, strict=True))
    first: dict[int, str] = {}
    again: list[bool] = []
    for answer, verdict in both:
        if answer.kind in ("repeat", "mirror"):
            if verdict != "skip" and answer.index in first:
                again.append(first[answer.index] == verdict)
        else:
            first[answer.index] = verdict
    on_the_left = [
        g.judgement.shown_left == v for g, v in zip(given, verdicts, strict=True) if v in ("a", "b")
    ]
    golden = [v for g, v in zip(given, verdicts, strict=True) if g.kind == "gold"]
    times = [g.judgement.response_time_s for g in given if g.judgement.response_time_s is not None]
    return Tally(
        answers=len(given),
        pairs=len(first),
        skipped=verdicts.count("skip"),
        equal=verdicts.count("equal"),
        left=sum(on_the_left),
        right=len(on_the_left) - sum(on_the_left),
        repeated=len(again),
        consistent=sum(again),
        checks=len(golden),
        passed=golden.count("a"),
        median_s=median(times) if times else None,
    )


def _verdict(given: Given) -> str:
    label = given.judgement.label
    if label is None:
        return "skip"
    return "equal" if label == 0.5 else "a" if label > 0.5 else "b"
