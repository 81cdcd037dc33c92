"""Who is asked what next, and what becomes of the answer.

Everything follows from the plan and the label store: a desk that is killed and set up again goes on with the
same questions, and several desks may share one store. An answer is on disk before :meth:`Desk.answer`
returns, and taking it back is a new entry.
"""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import sqlalchemy as sa

from robopref.data.judgement import Feedback, Judgement, Member
from robopref.data.label_leases import Lease, Leases
from robopref.data.label_store import LabelStore, Mark
from robopref.data.store import TrajectoryStore
from robopref.labeling.answers import Choice, answer_of, check_choice, judgement_of
from robopref.labeling.book import Book, Given, Person, held_by_others
from robopref.labeling.clips import Segment
from robopref.labeling.plan import Plan
from robopref.labeling.questions import (
    AGAIN,
    Question,
    Questions,
    StaleQuestionError,
    kind_of,
    members_of,
)

_FORESEEN_AT_MOST = 3  # times before a question, then it is chosen while others wait


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
        asking: Says before each question in which order to ask, given everybody's answers and the items that
            other people have before them; what it leaves out comes last.

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
        asking: Callable[[Sequence[Judgement], Collection[int]], Sequence[int]] | None = None,
    ):
        self._asking = asking  # called without the lock, too
        self._foreseen: dict[str, tuple[tuple[list[Judgement], frozenset[int]], Sequence[int]]] = {}
        self._questions = Questions(plan, repeated=repeated, mirrored=mirrored)
        labels.check_data(store)
        self.plan = plan
        self._labels = labels
        self._data = {"data_fingerprint": store.fingerprint(), "episodes": len(store)}
        self._lock = threading.Lock()
        self._book = Book(plan)
        self._leases = Leases(labels, plan.name)
        self._held: dict[str, int] = {}  # who has which item before them, when it was last looked up
        self._current: dict[str, Question] = {}
        self._places = {_key(members_of(item), plan.feedback): i for i, item in enumerate(plan.items)}
        self._seen = Mark()
        self._catch_up()
        self._ask_anew("")

    def _catch_up(self, connection: sa.Connection | None = None) -> None:
        """Take in what was answered and taken back since the last time, by whatever process or tool."""
        given, taken_back, seen = self._labels.news(self._seen, source="human", connection=connection)
        for uid in taken_back:
            self._book.take_back(uid)
        for row, judgement in given.items():
            if judgement.feedback != self.plan.feedback or judgement.uid in self._book.retracted:
                continue
            index = self._places.get(_key(_shown(judgement), self.plan.feedback))
            name = judgement.annotator
            self._book.person(name)
            if index is None or judgement.list_uid not in (None, self._questions.list_uid(name, index)):
                continue
            self._book.take(name, Given(row, index, kind_of(judgement.uid), judgement))
        self._seen = seen

    # -- asking ----------------------------------------------------------------------------------------------

    def question(self, annotator: str) -> Question | None:
        """Return what to ask now, the same until it is answered; None when nothing is left.

        Raises:
            DataError: The label store cannot be read or written.
        """
        self._foresee(annotator)
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

    def kept(self, annotator: str) -> int:
        """Return how many items this person could be asked about, had nobody else them before them now."""
        with self._lock:
            person = self._book.person(annotator)
            return sum(self._book.is_free(item, person, set()) for item in self._kept(annotator))

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
            self._catch_up()
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
            choice: One of :data:`robopref.labeling.answers.CHOICES` for the plan's feedback.
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
        check_choice(self.plan.feedback, choice, slightly, decided)
        self._foresee(annotator)  # after a restart it is not known what is asked
        with self._lock:
            with self._labels.writing() as connection:
                self._catch_up(connection)  # nobody writes beside us until this is stored
                question = self._to_answer(annotator, question_id, choice, slightly)
                if question is None:
                    return
                judgement = judgement_of(
                    question,
                    annotator,
                    answer_of(choice, slightly, question.shown_left),
                    note=note,
                    decided=decided,
                    response_time_s=response_time_s,
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
        if earlier.judgement.answer != answer_of(choice, slightly, earlier.judgement.shown_left):
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
            self._current[annotator] = self._questions.about(person, last.index, last.kind)
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

    def _next(self, person: Person) -> Question | None:
        if self._first_free(person) is None:
            return None
        self._ask_anew(person.name)
        fresh, kept = self._first_free(person), self._kept(person.name)
        assert fresh is not None  # another order is all that has changed
        again = self._questions.again(person)
        if again is not None:
            return again
        had = self._held.get(person.name)  # before this server was started, or on another one
        if had is not None and had not in person.done and self._book.is_free(had, person, kept):
            fresh = had
        return self._questions.about(person, fresh)

    def _first_free(self, person: Person) -> int | None:
        return next(self._book.free(person, self._kept(person.name)), None)

    def _ask_anew(self, name: str) -> None:
        """Order what is left by what was said until now, where the order depends on that."""
        if self._asking is not None:
            known = self._known(name)
            foreseen, order = self._foreseen.pop(name, (None, ()))
            self._book.reorder(order if foreseen == known else self._asking(*known))

    def _foresee(self, name: str) -> None:
        """Find out in which order to ask before anything is locked, since that may take long; and, as far as
        patience goes, again where others answered or got something meanwhile."""
        for _ in range(_FORESEEN_AT_MOST if self._asking is not None else 0):
            with self._lock:
                self._catch_up()
                self._held = {holder: lease.item for holder, lease in self._leases.held().items()}
                person, current, known = self._book.person(name), self._current.get(name), self._known(name)
                if current is not None and self._may_have(current, person):
                    return
                if self._first_free(person) is None or self._foreseen.get(name, (None,))[0] == known:
                    return
            assert self._asking is not None
            self._foreseen[name] = known, self._asking(*known)

    def _known(self, name: str) -> tuple[list[Judgement], frozenset[int]]:
        """Return by what is chosen: what was said, and which items others have before them."""
        pending = frozenset(item for holder, item in self._held.items() if holder != name)
        return self._book.judgements(), pending

    def _may_have(self, question: Question, person: Person) -> bool:
        """Whether a question may go on being asked."""
        if self._is_answered(question, person):
            return False
        free = self._book.is_free(question.index, person, self._kept(person.name))
        return free or question.kind in AGAIN

    def _is_answered(self, question: Question, person: Person) -> bool:
        """Whether a question was answered elsewhere since it was asked."""
        if question.ranked is not None:
            return question.ranked != self._questions.list_of(person, question.index)
        if question.kind in AGAIN:
            return any(given.index == question.index and given.kind in AGAIN for given in person.given)
        return question.index in person.done

    def _asked(self, person: Person, question_id: str) -> Question:
        """Return the question of this name, also one that was asked before a restart."""
        current = self._current.get(person.name)
        if current is not None and current.id == question_id:
            if self._is_answered(current, person):
                raise StaleQuestionError("This has been answered already.")
            return current
        return self._questions.named(person, question_id, current or self._next(person), person.done)


def _shown(judgement: Judgement) -> tuple[Member, ...]:
    """Return all segments of the item that a judgement is about."""
    if judgement.list_members is not None:
        return judgement.list_members
    return (judgement.a,) if judgement.b is None else (judgement.a, judgement.b)


def _key(members: tuple[Member, ...], feedback: Feedback) -> object:
    """Return what tells an item from others: of a pair, it does not matter which is called a."""
    return members if feedback == "ranking" else frozenset(members)
