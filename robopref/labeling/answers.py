"""From the button that a person pressed to the judgement that is stored."""

import unicodedata
from typing import Literal

from robopref.data.judgement import Answer, Feedback, Judgement
from robopref.errors import ConfigError
from robopref.labeling.questions import Question, members_of

SLIGHTLY = 0.75  # chance that a slightly preferred clip is meant

Choice = Literal["left", "right", "equal", "skip", "up", "down", "rest"]
CHOICES: dict[Feedback, tuple[Choice, ...]] = {
    "pair": ("left", "right", "equal", "skip"),
    "updown": ("up", "down", "skip"),
    "ranking": ("left", "right", "equal", "rest", "skip"),
}


def check_choice(feedback: Feedback, choice: Choice, slightly: bool, decided: tuple[int, int] | None) -> None:
    """Refuse what is no answer to a question of this feedback.

    Raises:
        ConfigError: The message says what would be one.
    """
    if choice not in CHOICES[feedback]:
        raise ConfigError(f"{choice!r} is no answer here; there are: {', '.join(CHOICES[feedback])}.")
    if feedback != "pair" and (slightly or decided):
        raise ConfigError("Only of a pair one says how much better, or which part decided.")
    if decided and decided[1] < 1:
        raise ConfigError("The part that decided has at least one step.")


def answer_of(choice: Choice, slightly: bool, shown_left: str | None) -> Answer:
    """Translate what was chosen on the screen into what is stored."""
    if choice not in ("left", "right"):
        return choice
    a_is_better = (choice == "left") == (shown_left == "a")
    if slightly:
        return SLIGHTLY if a_is_better else 1 - SLIGHTLY
    return "a" if a_is_better else "b"


def judgement_of(
    question: Question,
    annotator: str,
    answer: Answer,
    *,
    note: str | None,
    decided: tuple[int, int] | None,
    response_time_s: float | None,
) -> Judgement:
    """Return what is stored of an answer.

    Raises:
        ConfigError: The part that decided is longer than the clips.
    """
    longest = max(segment.length for segment in question.clips)
    if decided and sum(decided) > longest:
        raise ConfigError(
            f"The part that decided ends after step {sum(decided)}, but the clips have {longest} steps."
        )
    a, *rest = members_of(question.clips)
    b = rest[0] if rest else (None, None, None)
    ranked = question.ranked
    return Judgement(
        *a,
        *b,
        answer=answer,
        source="human",
        annotator=annotator,
        response_time_s=response_time_s,
        shown_left=question.shown_left,
        note=note or None,
        decided_start=decided[0] if decided else None,
        decided_length=decided[1] if decided else None,
        list_uid=ranked.uid if ranked else None,
        list_members=ranked.members if ranked else None,
        uid=question.id,
    )


def annotator_name(text: str) -> str:
    """Return a name in its one spelling.

    Raises:
        ConfigError: It is empty, longer than 64 characters, or holds characters that cannot be seen.
    """
    name = " ".join(unicodedata.normalize("NFC", text).split())
    if not 1 <= len(name) <= 64 or not name.isprintable():
        raise ConfigError(f"A name has 1 to 64 printable characters, got {text[:80]!r}.")
    return name
