"""Who is asked what next, and what becomes of the answer.

Everything follows from the plan and the label store: a desk that is killed and set up again goes on with the
same questions, and several desks may share one store. An answer is on disk before :meth:`Desk.answer`
returns, and taking it back is a new entry.
"""

import hashlib
import re
import secrets
import threading
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

import numpy as np
import sqlalchemy as sa

from robopref.data.judgement import Answer, Feedback, Judgement, Member
from robopref.data.label_leases import Lease, Leases
from robopref.data.label_store import LabelStore, Mark
from robopref.data.ranking import RankedList, Ranking
from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, RoboprefError
from robopref.labeling.book import Book, Given, Kind, Person, held_by_others
from robopref.labeling.clips import Segment
from robopref.labeling.plan import Plan

REPEATS_AFTER = 10  # at least so many questions lie between a pair and its repetition
SLIGHTLY = 0.75  # chance that a slightly preferred clip is meant

FIRST: tuple[Kind, ...] = ("new", "random")  # asked for the first time
AGAIN: tuple[Kind, ...] = ("repeat", "mirror")
Choice = Literal["left", "right", "equal", "skip", "up", "down", "rest"]
CHOICES: dict[Feedback, tuple[Choice, ...]] = {
    "pair": ("left", "right", "equal", "skip"),
    "updown": ("up", "down", "skip"),
    "ranking": ("left", "right", "equal", "rest", "skip"),
}

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


@dataclass(frozen=True)
class Progress:
    """How far one person is.

    Attributes:
        annotator: The name.
        answers: Answers that count.
        done: Items of the plan that are answered.
        remaining: Items that may still be asked.
        last: When the last answer was given; None before the first.
        holds: The item that this person has before them; None where nothing is.
        kept_s: For how many seconds nobody else gets it; None where others may.
    """

    annotator: str
    answers: int
    done: int
    remaining: int
    last: datetime | None
    holds: int | None
    kept_s: float | None


class Desk:
    """Hands out questions and takes answers; safe to call from several threads.

    Args:
        plan: What is asked.
        labels: Where answers are stored.
        store: What they speak of.
        repeated: Share of questions that ask an earlier pair again.
        mirrored: Share of questions that ask an earlier pair again with the sides swapped.

    Raises:
        ConfigError: The shares make no sense.
        DataError: The labels speak of other data.
    """

    def __init__(
        self,
        plan: Plan,
        labels: LabelStore,
        store: TrajectoryStore,
        *,
        repeated: float = 0.05,
        mirrored: float = 0.05,
    ):
        if min(repeated, mirrored) < 0 or repeated + mirrored > 0.5:
            raise ConfigError(
                "repeated and mirrored are shares of the questions, together at most 0.5; "
                f"got {repeated} and {mirrored}."
            )
        labels.check_data(store)
        self.plan = plan
        self._labels = labels
        self._data = {"data_fingerprint": store.fingerprint(), "episodes": len(store)}
        self._repeated = 0.0 if plan.feedback == "ranking" else repeated
        self._mirrored = mirrored if plan.feedback == "pair" else 0.0
        self._lock = threading.Lock()
        self._book = Book(plan)
        self._leases = Leases(labels, plan.name)
        self._held: dict[str, int] = {}  # who has which item before them, when it was last looked up
        self._current: dict[str, Question] = {}
        self._places = {
            _key(tuple(map(_member, item)), plan.feedback): i for i, item in enumerate(plan.items)
        }
        self._seen = Mark()
        self._catch_up()

    def _catch_up(self, connection: sa.Connection | None = None) -> None:
        """Take in what was answered and taken back since the last time, by whatever process or tool."""
        given, taken_back, seen = self._labels.news(self._seen, source="human", connection=connection)
        for uid in taken_back:
            self._book.take_back(uid)
        for row, judgement in given.items():
            if judgement.feedback != self.plan.feedback or judgement.uid in self._book.retracted:
                continue
            index = self._places.get(_key(_members(judgement), self.plan.feedback))
            name = judgement.annotator
            self._book.person(name)
            if index is None or judgement.list_uid not in (None, self._list_uid(name, index)):
                continue
            parts = _ID.fullmatch(judgement.uid)
            kind: Kind = parts[4] if parts and not parts[4].startswith("rank") else "new"  # type: ignore[assignment]
            self._book.take(name, Given(row, index, kind, judgement))
        self._seen = seen

    # -- asking ----------------------------------------------------------------------------------------------

    def question(self, annotator: str) -> Question | None:
        """Return what to ask now, the same until it is answered; None when nothing is left.

        Raises:
            DataError: The label store cannot be read or written.
        """
        with self._lock:
            self._seat(self._book.person(annotator))
            return self._current.get(annotator)

    def upcoming(self, annotator: str, n: int) -> list[tuple[Segment, ...]]:
        """Return the items that will probably be asked after the present one."""
        with self._lock:
            person, current = self._book.person(annotator), self._current.get(annotator)
            shown = current.index if current and not current.ranked else -1
            free = (i for i in self._book.free(person, self._kept(annotator)) if i != shown)
            return [self.plan.items[index] for index, _ in zip(free, range(n), strict=False)]

    def remaining(self, annotator: str) -> int:
        """Return how many items are left for this person."""
        with self._lock:
            return self._book.remaining(self._book.person(annotator), self._kept(annotator))

    def done(self, annotator: str) -> int:
        """Return about how many items this person has said everything."""
        with self._lock:
            return len(self._book.person(annotator).done)

    def given(self, annotator: str) -> list[Given]:
        """Return this person's answers that count, in order."""
        with self._lock:
            return list(self._book.person(annotator).given)

    def judgements(self) -> list[Judgement]:
        """Return everybody's answers that count, in the order in which they were stored."""
        with self._lock:
            self._catch_up()
            return self._book.judgements()

    def begun(self) -> int:
        """Return about how many items somebody said something."""
        with self._lock:
            return self._book.begun

    @property
    def version(self) -> tuple[int, int]:
        """Something that is another one after every answer and every retraction."""
        with self._lock:
            self._catch_up()
            return self._seen.judgement, self._seen.retraction

    def progress(self) -> list[Progress]:
        """Return how far everybody is, by name."""
        with self._lock:
            self._catch_up()
            leases = self._leases.held()
            self._held = {name: lease.item for name, lease in leases.items()}
            people = [self._book.person(name) for name in sorted({*self._book.people, *leases})]
            found = [self._progress(person, leases.get(person.name)) for person in people]
        return [each for each in found if each.answers or each.holds is not None]

    def _progress(self, person: Person, lease: Lease | None) -> Progress:
        current = self._current.get(person.name)
        if (
            lease is not None
            and lease.item in person.done
            and (current is None or current.index != lease.item)
        ):
            lease = None  # it was answered, and nothing was asked since
        shared = lease is not None and lease.item in self.plan.shared
        return Progress(
            person.name,
            answers=len(person.given),
            done=len(person.done),
            remaining=self._book.remaining(person, self._kept(person.name)),
            last=person.given[-1].judgement.created_at if person.given else None,
            holds=None if lease is None else lease.item,
            kept_s=None if lease is None or shared else lease.left_s,
        )

    # -- the order -------------------------------------------------------------------------------------------

    def reorder(self, order: Sequence[int]) -> None:
        """From now on ask in this order, after the checks; who has something before them keeps it.

        Args:
            order: Positions in the plan; what is left out comes last, in the plan's order.
        """
        with self._lock:
            self._book.reorder(order)

    def unanswered(self) -> list[int]:
        """Return the items that nobody answered, checks left out, in the plan's order."""
        with self._lock:
            return self._book.unanswered()

    # -- answering -------------------------------------------------------------------------------------------

    def answer(
        self,
        annotator: str,
        question_id: str,
        choice: Choice,
        *,
        slightly: bool = False,
        note: str | None = None,
        decided: tuple[int, int] | None = None,
        response_time_s: float | None = None,
    ) -> None:
        """Store an answer. The same one again changes nothing.

        Args:
            annotator: Who answers.
            question_id: What is answered.
            choice: One of :data:`CHOICES` for the plan's feedback.
            slightly: That the clip is only slightly better.
            note: The reason.
            decided: First step and number of actions of the part that decided, from the start of both clips.
            response_time_s: How long it took.

        Raises:
            ConfigError: This study does not take such an answer.
            StaleQuestionError: This question was answered otherwise, or belongs to another study.
            UnknownQuestionError: There is no such question.
            DataError: The answer cannot be stored; it may be sent again.
        """
        self._check(choice, slightly, decided)
        with self._lock:
            with self._labels.writing() as connection:
                self._catch_up(connection)  # nobody writes beside us until this is stored
                question = self._to_answer(annotator, question_id, choice, slightly)
                if question is None:
                    return
                _check_part(decided, question)
                judgement = replace(
                    _judgement(question, annotator, _stored(choice, slightly, question.shown_left)),
                    note=note or None,
                    response_time_s=response_time_s,
                    decided_start=decided[0] if decided else None,
                    decided_length=decided[1] if decided else None,
                )
                (row,) = self._labels.add([judgement], **self._data, connection=connection)
            self._book.take(annotator, Given(row, question.index, question.kind, judgement))
            self._seen = replace(self._seen, judgement=row)
            self._current.pop(annotator, None)

    def _to_answer(self, annotator: str, uid: str, choice: Choice, slightly: bool) -> Question | None:
        """Return the question that is answered, or None where this answer is known."""
        if uid in self._book.retracted:
            return None  # a late copy of an answer that was taken back
        earlier = self._book.said(uid)
        if earlier is None or earlier.judgement.annotator != annotator:
            return self._asked(self._book.person(annotator), uid)
        if earlier.judgement.answer != _stored(choice, slightly, earlier.judgement.shown_left):
            raise StaleQuestionError("You have answered this already. Take the answer back to change it.")
        return None

    def undo(self, annotator: str, uid: str) -> None:
        """Take back the last answer, which ``uid`` must name, so that two clicks do not take back two.

        Raises:
            StaleQuestionError: Another answer is the last one.
            DataError: This cannot be stored; it may be sent again.
        """
        with self._lock:
            person = self._book.person(annotator)
            with self._labels.writing() as connection:
                self._catch_up(connection)
                if uid in self._book.retracted:
                    return
                if not person.given or person.given[-1].judgement.uid != uid:
                    raise StaleQuestionError("This is not your last answer any more.")
                last = person.given[-1]
                self._labels.retract(last.row, annotator=annotator, connection=connection)
            self._catch_up()
            self._current[annotator] = self._made(person, last.index, last.kind)
            self._seat(person)

    # -- small parts -----------------------------------------------------------------------------------------

    def _seat(self, person: Person) -> None:
        """Keep for a person what they are asked now, having chosen it where it is answered or another's."""

        def choose(leases: Mapping[str, Lease], connection: sa.Connection) -> int | None:
            self._catch_up(connection)
            self._held = {name: lease.item for name, lease in leases.items()}
            current = self._current.pop(person.name, None)
            if current is None or not self._may_have(current, person):
                current = self._next(person)
            if current is None:
                return None
            self._current[person.name] = current
            return current.index

        self._leases.take(person.name, choose)

    def _kept(self, name: str) -> set[int]:
        return held_by_others(self._held, name, self.plan.shared)

    def _check(self, choice: Choice, slightly: bool, decided: tuple[int, int] | None) -> None:
        feedback = self.plan.feedback
        if choice not in CHOICES[feedback]:
            raise ConfigError(f"{choice!r} is no answer here; there are: {', '.join(CHOICES[feedback])}.")
        if feedback != "pair" and (slightly or decided):
            raise ConfigError("Only of a pair one says how much better, or which part decided.")
        if decided and decided[1] < 1:
            raise ConfigError("The part that decided has at least one step.")

    def _list_uid(self, name: str, index: int) -> str:
        return f"{self.plan.name}.{_short(name)}.{index}"

    def _list(self, person: Person, index: int) -> RankedList:
        """Return the list that an item is, as far as this person has ranked it."""
        members = tuple(map(_member, self.plan.items[index]))
        uid = self._list_uid(person.name, index)
        fresh = RankedList(uid, person.name, "human", members, Ranking(len(members)))
        return person.lists.get(index, fresh)

    def _next(self, person: Person) -> Question | None:
        kept = self._kept(person.name)
        fresh = next(self._book.free(person, kept), None)
        if fresh is None:
            return None
        again = self._again(person)
        if again is not None:
            return self._made(person, *again)
        had = self._held.get(person.name)  # before this server was started, or on another one
        if had is not None and had not in person.done and self._book.is_free(had, person, kept):
            fresh = had
        return self._made(person, fresh, self._first_kind(fresh))

    def _first_kind(self, index: int) -> Kind:
        if index < self.plan.golden:
            return "gold"
        return "random" if index in self.plan.at_random else "new"

    def _may_have(self, question: Question, person: Person) -> bool:
        """Whether a question may go on being asked."""
        if self._is_answered(question, person):
            return False
        free = self._book.is_free(question.index, person, self._kept(person.name))
        return free or question.kind in AGAIN

    def _is_answered(self, question: Question, person: Person) -> bool:
        """Whether a question was answered elsewhere since it was asked."""
        if question.ranked is not None:
            return question.ranked != self._list(person, question.index)
        if question.kind in AGAIN:
            return any(given.index == question.index and given.kind in AGAIN for given in person.given)
        return question.index in person.done

    def _again(self, person: Person) -> tuple[int, Kind] | None:
        """Decide whether to repeat an earlier pair; it depends on nothing but the answers so far."""
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
        return int(rng.choice(eligible)), "repeat" if draw < self._repeated else "mirror"

    def _made(self, person: Person, index: int, kind: Kind) -> Question:
        item = self.plan.items[index]
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

    def _step(self, person: Person, index: int) -> Question:
        """Return what a list asks next; it must not be done."""
        ranked = self._list(person, index)
        assert ranked.ranking.question is not None
        a, b = ranked.ranking.question
        clips = (self.plan.items[index][a], self.plan.items[index][b])
        name = self._named(person, index, f"rank{a}v{b}")
        side: Literal["a", "b"] = "a" if _number(self.plan.name, person.name, index, a, b) % 2 else "b"
        return Question(name, index, "new", clips, side, ranked)

    def _named(self, person: Person, index: int, kind: str) -> str:
        return f"{self.plan.name}.{_short(person.name)}.{index}.{kind}.{secrets.token_hex(6)}"

    def _asked(self, person: Person, question_id: str) -> Question:
        """Return the question of this name, also one that was asked before a restart."""
        current = self._current.get(person.name)
        if current is not None and current.id == question_id:
            if self._is_answered(current, person):
                raise StaleQuestionError("This has been answered already.")
            return current
        parts = _ID.fullmatch(question_id)
        if parts is None or (parts[1] == self.plan.name and int(parts[3]) >= len(self.plan.items)):
            raise UnknownQuestionError("There is no such question.")
        if parts[1] != self.plan.name or parts[2] != _short(person.name):
            raise StaleQuestionError("This question is another person's, or of another study.")
        asks, index = question_id.rpartition(".")[0], int(parts[3])
        made = current or self._next(person)
        if made is None or made.asks != asks:
            if index in person.done:
                raise StaleQuestionError("This has been answered already.")
            made = self._made(person, index, self._first_kind(index))
        if made.asks != asks:
            raise StaleQuestionError("This has been answered already.")
        return replace(made, id=question_id)


def annotator_name(text: str) -> str:
    """Return a name in its one spelling.

    Raises:
        ConfigError: It is empty, longer than 64 characters, or holds characters that cannot be seen.
    """
    name = " ".join(unicodedata.normalize("NFC", text).split())
    if not 1 <= len(name) <= 64 or not name.isprintable():
        raise ConfigError(f"A name has 1 to 64 printable characters, got {text[:80]!r}.")
    return name


def _check_part(decided: tuple[int, int] | None, question: Question) -> None:
    longest = max(segment.length for segment in question.clips)
    if decided and sum(decided) > longest:
        raise ConfigError(
            f"The part that decided ends after step {sum(decided)}, but the clips have {longest} steps."
        )


def _stored(choice: Choice, slightly: bool, shown_left: str | None) -> Answer:
    """Translate what was chosen on the screen into what is stored."""
    if choice not in ("left", "right"):
        return choice
    a_is_better = (choice == "left") == (shown_left == "a")
    if slightly:
        return SLIGHTLY if a_is_better else 1 - SLIGHTLY
    return "a" if a_is_better else "b"


def _judgement(question: Question, annotator: str, answer: Answer) -> Judgement:
    a, *rest = question.clips
    b = _member(rest[0]) if rest else (None, None, None)
    ranked = question.ranked
    return Judgement(
        *_member(a),
        *b,
        answer=answer,
        source="human",
        annotator=annotator,
        shown_left=question.shown_left,
        list_uid=ranked.uid if ranked else None,
        list_members=ranked.members if ranked else None,
        uid=question.id,
    )


def _member(segment: Segment) -> Member:
    return segment.episode, segment.start, segment.length


def _members(judgement: Judgement) -> tuple[Member, ...]:
    """Return all segments of the item that a judgement is about."""
    if judgement.list_members is not None:
        return judgement.list_members
    return (judgement.a,) if judgement.b is None else (judgement.a, judgement.b)


def _key(members: tuple[Member, ...], feedback: Feedback) -> object:
    """Return what tells an item from others: of a pair, it does not matter which is called a."""
    return members if feedback == "ranking" else frozenset(members)


def _short(name: str) -> str:
    return f"{_number(name):016x}"[:8]


def _number(*words: object) -> int:
    """Return a number that depends on all the words and looks random."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, words)).encode()).digest()[:8], "big")
