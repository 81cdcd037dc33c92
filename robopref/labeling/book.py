"""What was said about the items of a plan, by whom, and what is left for whom; held in memory.

It follows from the label store alone, so two servers that read the same store hold the same book.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Literal

from robopref.data.judgement import Judgement
from robopref.data.ranking import RankedList, ranked_lists
from robopref.labeling.plan import Plan

Kind = Literal["new", "random", "gold", "repeat", "mirror"]


@dataclass(frozen=True)
class Given:
    """An answer that counts."""

    row: int  # its id in the label store
    index: int
    kind: Kind
    judgement: Judgement


@dataclass
class Person:
    """One annotator: the answers that count in order, lists begun, and items with nothing more to ask."""

    name: str
    given: list[Given] = field(default_factory=list)
    lists: dict[int, RankedList] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)

    def unfinished(self) -> list[int]:
        """Return the lists that this person has begun and not ended."""
        return [index for index, ranked in self.lists.items() if not ranked.done]


class Book:
    """Answers about the items of a plan.

    Args:
        plan: What is asked.
    """

    def __init__(self, plan: Plan):
        self.plan = plan
        self.people: dict[str, Person] = {}
        self.retracted: set[str] = set()
        self._given: dict[str, tuple[Person, Given]] = {}  # by uid
        self._takers: dict[int, set[str]] = {}  # item -> who answered something about it
        self._begun: set[int] = set()
        self._shared_begun: set[int] = set()
        self._order: Sequence[int] = range(len(plan.items))
        self._open: dict[int, None] = {}  # what somebody new may be asked about, in order
        self._open_up()

    def person(self, name: str) -> Person:
        """Return a person, made where there is none."""
        return self.people.setdefault(name, Person(name))

    def said(self, uid: str) -> Given | None:
        """Return the answer of this name that counts."""
        found = self._given.get(uid)
        return None if found is None else found[1]

    def judgements(self) -> list[Judgement]:
        """Return everybody's answers that count, in the order in which they were stored."""
        given = [given for person in self.people.values() for given in person.given]
        return [each.judgement for each in sorted(given, key=lambda each: each.row)]

    # -- writing ---------------------------------------------------------------------------------------------

    def take(self, name: str, given: Given) -> None:
        """Count an answer that is stored; an answer of a list must be the next of this person's."""
        person, index = self.person(name), given.index
        if given.judgement.list_uid is not None:
            held = person.lists.get(index)
            ranked = ranked_lists([given.judgement])[0] if held is None else held.taking(given.judgement)
            person.lists[index] = ranked
        person.given.append(given)
        self._given[given.judgement.uid] = person, given
        if index not in person.lists or person.lists[index].done:
            person.done.add(index)
        self._takers.setdefault(index, set()).add(name)
        self._begun.add(index)
        if index in self.plan.shared:
            self._shared_begun.add(index)
        else:
            self._open.pop(index, None)

    def take_back(self, uid: str) -> None:
        """No longer count the answer of this name, whether or not it is here."""
        self.retracted.add(uid)
        person, given = self._given.pop(uid, (None, None))
        if person is None or given is None:
            return
        person.given.remove(given)
        person.done.discard(given.index)
        person.lists.pop(given.index, None)
        about = [each.judgement for each in person.given if each.index == given.index]
        for ranked in ranked_lists(about):
            person.lists[given.index] = ranked
        if about and (given.index not in person.lists or person.lists[given.index].done):
            person.done.add(given.index)
        if not about:
            self._takers[given.index].discard(person.name)
        if not self._takers[given.index]:
            self._begun.discard(given.index)
            self._shared_begun.discard(given.index)
            self._open_up()

    # -- what is left ----------------------------------------------------------------------------------------

    def reorder(self, order: Sequence[int]) -> None:
        """From now on ask in this order, after the checks; what is left out comes last."""
        items = range(len(self.plan.items))
        self._order = tuple(dict.fromkeys([*range(self.plan.golden), *order, *items]))
        self._open_up()

    def unanswered(self) -> list[int]:
        """Return the items that nobody answered, checks left out, in the plan's order."""
        return [i for i in range(self.plan.golden, len(self.plan.items)) if i not in self._begun]

    @property
    def begun(self) -> int:
        """About how many items somebody said something."""
        return len(self._begun)

    def free(self, person: Person, held: Set[int]) -> Iterator[int]:
        """Yield the items that this person may be asked about, a list that is begun before all others.

        Args:
            person: Who.
            held: Items that are kept for others.
        """
        room = self._room(held)
        unfinished = [index for index in person.unfinished() if self.is_free(index, person, held)]
        yield from unfinished
        for index in self._open:
            if index in person.done or index in held or index in unfinished:
                continue
            begun = index in self._begun
            if begun or room > 0:
                room -= not begun
                yield index

    def remaining(self, person: Person, held: Set[int]) -> int:
        """Return how many items :meth:`free` yields, without going through them."""
        unfinished = {index for index in person.unfinished() if self.is_free(index, person, held)}
        everyones = len(self._shared_begun - person.done - unfinished)
        return len(unfinished) + everyones + self._room(held)

    def is_free(self, index: int, person: Person, held: Set[int]) -> bool:
        """Whether everybody is asked about this item, or nobody else answered it or has it before them."""
        if index in self.plan.shared:
            return True
        return index not in held and self._takers.get(index, set()) <= {person.name}

    def _room(self, held: Set[int]) -> int:
        """Return how many items may be begun."""
        kept = sum(item not in self._begun for item in held)
        return max(0, self.plan.limit - len(self._begun) - kept)

    def _open_up(self) -> None:
        shared = self.plan.shared
        self._open = dict.fromkeys(i for i in self._order if i in shared or i not in self._begun)


def held_by_others(leases: Mapping[str, int], name: str, shared: Set[int]) -> set[int]:
    """Return the items that are kept for other people; what everybody is asked about is kept for nobody."""
    return {item for holder, item in leases.items() if holder != name and item not in shared}
