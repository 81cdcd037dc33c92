"""What a person is asked about an item, how the question is named, and when an earlier one is asked again.

All of it follows from the plan and from what the person answered so far, so that another process asks the
same. Only the last part of a question's name is new each time: an answer that arrives twice is stored once.
"""

import hashlib
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from robopref.data.judgement import Member
from robopref.data.ranking import RankedList, Ranking
from robopref.errors import ConfigError, RoboprefError
from robopref.labeling.book import Kind, Person
from robopref.labeling.clips import Segment
from robopref.labeling.plan import Plan

REPEATS_AFTER = 10  # at least so many questions lie between a pair and its repetition

FIRST: tuple[Kind, ...] = ("new", "random")  # asked for the first time
AGAIN: tuple[Kind, ...] = ("repeat", "mirror")

# plan, annotator, item, kind (in a ranking: which of its clips are compared), and what makes it unique
_ID = re.compile(
    r"([0-9a-f]{12})\.([0-9a-f]{8})\.([0-9]{1,7})"
    r"\.(new|random|gold|repeat|mirror|rank[0-9]{1,3}v[0-9]{1,3})\.[0-9a-f]{12}"
)


class StaleQuestionError(RoboprefError):
    """The question was answered already, or belongs to another study."""


class UnknownQuestionError(RoboprefError):
    """No question was ever called so."""


@dataclass(frozen=True)
class Question:
    """What is shown now: a pair, or a clip alone.

    Attributes:
        id: Names the question; the judgement about it carries it as ``uid``.
        index: Position of the item in the plan.
        kind: Asked for the first time, chosen by the query or drawn at random; a check; or asked again with
            the same or with swapped sides.
        clips: The segments a and b, or a alone.
        shown_left: Which of them is on the left; None for a clip alone.
        ranked: The list that the pair is a step of.
    """

    id: str
    index: int
    kind: Kind
    clips: tuple[Segment, ...]
    shown_left: Literal["a", "b"] | None
    ranked: RankedList | None = None

    @property
    def sides(self) -> tuple[Segment, ...]:
        """The segments as they are shown, the left one first."""
        return self.clips if self.shown_left != "b" else self.clips[::-1]

    @property
    def asks(self) -> str:
        """What the question is about, without what makes it unique."""
        return self.id.rpartition(".")[0]


class Questions:
    """The questions of a plan.

    Args:
        plan: What is asked.
        repeated: Share of questions that ask an earlier pair again.
        mirrored: Share of questions that ask an earlier pair again with the sides swapped.

    Raises:
        ConfigError: The shares make no sense.
    """

    def __init__(self, plan: Plan, *, repeated: float = 0.05, mirrored: float = 0.05):
        if min(repeated, mirrored) < 0 or repeated + mirrored > 0.5:
            raise ConfigError(
                "repeated and mirrored are shares of the questions, together at most 0.5; "
                f"got {repeated} and {mirrored}."
            )
        self.plan = plan
        self._repeated = 0.0 if plan.feedback == "ranking" else repeated
        self._mirrored = mirrored if plan.feedback == "pair" else 0.0

    def again(self, person: Person) -> Question | None:
        """Return an earlier question where it is its turn; that depends on nothing but the answers so far."""
        asked = len(person.given)
        rng = np.random.default_rng([_number(self.plan.name, person.name), asked])
        draw = rng.random()
        if draw >= self._repeated + self._mirrored:
            return None
        repeated = {given.index for given in person.given if given.kind in AGAIN}
        eligible = [
            given.index
            for given in person.given[: max(0, asked - REPEATS_AFTER)]
            if given.kind in FIRST and given.judgement.answer != "skip" and given.index not in repeated
        ]
        if not eligible:
            return None
        return self.about(person, int(rng.choice(eligible)), "repeat" if draw < self._repeated else "mirror")

    def about(self, person: Person, index: int, kind: Kind | None = None) -> Question:
        """Return the question about an item, of the kind that a first one is where none is said."""
        item, kind = self.plan.items[index], kind or self._first_kind(index)
        if self.plan.feedback == "updown":
            return Question(self._named(person, index, kind), index, kind, item, None)
        if self.plan.feedback == "ranking":
            return self._step(person, index)
        side: Literal["a", "b"] = "a" if _number(self.plan.name, person.name, index) % 2 else "b"
        if kind in AGAIN:
            first = next((given for given in person.given if given.index == index), None)
            side = (first.judgement.shown_left if first else None) or side
        if kind == "mirror":
            side = "b" if side == "a" else "a"
        return Question(self._named(person, index, kind), index, kind, item, side)

    def named(self, person: Person, uid: str, expected: Question | None, done: Collection[int]) -> Question:
        """Return the question of this name, also one that was asked before a restart.

        Args:
            person: Who answers it.
            uid: Its name.
            expected: What the person would be asked now.
            done: Items about which there is no more to ask.

        Raises:
            StaleQuestionError: It was answered already, or is another person's or another study's.
            UnknownQuestionError: There is no such question.
        """
        parts = _ID.fullmatch(uid)
        if parts is None or (parts[1] == self.plan.name and int(parts[3]) >= len(self.plan.items)):
            raise UnknownQuestionError("There is no such question.")
        if parts[1] != self.plan.name or parts[2] != _short(person.name):
            raise StaleQuestionError("This question is another person's, or of another study.")
        asks, index = uid.rpartition(".")[0], int(parts[3])
        made = expected
        if made is None or made.asks != asks:
            if index in done:
                raise StaleQuestionError("This has been answered already.")
            made = self.about(person, index)
        if made.asks != asks:
            raise StaleQuestionError("This has been answered already.")
        return replace(made, id=uid)

    def list_uid(self, name: str, index: int) -> str:
        """Name the list that an item is to a person."""
        return f"{self.plan.name}.{_short(name)}.{index}"

    def list_of(self, person: Person, index: int) -> RankedList:
        """Return the list that an item is, as far as this person has ranked it."""
        members = members_of(self.plan.items[index])
        uid = self.list_uid(person.name, index)
        fresh = RankedList(uid, person.name, "human", members, Ranking(len(members)))
        return person.lists.get(index, fresh)

    def _first_kind(self, index: int) -> Kind:
        if index < self.plan.golden:
            return "gold"
        return "random" if index in self.plan.at_random else "new"

    def _step(self, person: Person, index: int) -> Question:
        """Return what a list asks next; it must not be done."""
        ranked = self.list_of(person, index)
        assert ranked.ranking.question is not None
        a, b = ranked.ranking.question
        clips = (self.plan.items[index][a], self.plan.items[index][b])
        name = self._named(person, index, f"rank{a}v{b}")
        side: Literal["a", "b"] = "a" if _number(self.plan.name, person.name, index, a, b) % 2 else "b"
        return Question(name, index, "new", clips, side, ranked)

    def _named(self, person: Person, index: int, kind: str) -> str:
        return f"{self.plan.name}.{_short(person.name)}.{index}.{kind}.{secrets.token_hex(6)}"


def kind_of(uid: str) -> Kind:
    """Return what kind of question a judgement's name tells of; "new" for those of other tools."""
    parts = _ID.fullmatch(uid)
    return "new" if parts is None or parts[4].startswith("rank") else parts[4]  # type: ignore[return-value]


def members_of(item: tuple[Segment, ...]) -> tuple[Member, ...]:
    """Return the segments of an item as the label store names them."""
    return tuple((segment.episode, segment.start, segment.length) for segment in item)


def _short(name: str) -> str:
    return f"{_number(name):016x}"[:8]


def _number(*words: object) -> int:
    """Return a number that depends on all the words and looks random."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, words)).encode()).digest()[:8], "big")
