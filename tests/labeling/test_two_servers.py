"""Two servers on one label store: what one is told the other knows, and no pair goes to two people."""

import pytest

from robopref.data.label_leases import LEASE_S, Leases
from robopref.data.label_store import LabelStore
from robopref.labeling.desk import Desk
from robopref.labeling.items import make_items
from robopref.labeling.plan import make_plan
from robopref.labeling.questions import StaleQuestionError
from tests.labeling.made import made_store
from tests.labeling.server import label_all, serving


@pytest.fixture
def store(tmp_path):
    return made_store(tmp_path / "store")


@pytest.fixture
def two(store):
    """Two desks that know of each other by the file alone."""
    plan = make_plan(store, pairs=20, shared=0.0)
    with LabelStore.beside(store) as first, LabelStore.beside(store) as second:
        yield [Desk(plan, labels, store, repeated=0.0, mirrored=0.0) for labels in (first, second)]


def present(desk, name):
    question = desk.question(name)
    assert question is not None
    return question


def test_what_is_before_one_person_is_not_shown_to_another_on_another_server(two):
    seen = [
        desk.question(f"{name}{number}") for number in range(9) for desk, name in zip(two, "ab", strict=True)
    ]
    indices = [question.index for question in seen]
    assert len(set(indices)) == 18
    assert [person.holds for person in two[0].progress()] == [*indices[::2], *indices[1::2]]


def test_what_was_answered_on_one_server_is_answered_on_the_other(two):
    here, there = two
    question = present(here, "anna")
    assert present(there, "anna").sides == question.sides  # the same person goes on where they were
    here.answer("anna", question.id, "left")
    assert present(there, "anna").index != question.index
    assert (there.done("anna"), there.remaining("anna")) == (1, 19)
    there.answer("anna", question.id, "left")  # a copy, sent to the other server
    with pytest.raises(StaleQuestionError):
        there.answer("anna", question.id, "right")
    there.undo("anna", question.id)
    here.answer("anna", question.id, "left")  # a late copy of what was taken back
    assert here.judgements() == []
    assert present(here, "anna").index == question.index


def test_a_list_that_was_gone_on_with_elsewhere_goes_on_from_there(store):
    plan = make_items(store, "ranking", items=3, clips=4, shared=0.0)
    with LabelStore.beside(store) as first, LabelStore.beside(store) as second:
        here, there = (Desk(plan, labels, store) for labels in (first, second))
        stale = present(there, "ria")
        question = present(here, "ria")
        here.answer("ria", question.id, "left")
        with pytest.raises(StaleQuestionError):
            there.answer("ria", stale.id, "right")
        assert present(there, "ria").asks == present(here, "ria").asks != question.asks


def test_a_lease_of_a_clock_that_was_wrong_keeps_nothing(store, monkeypatch):
    with LabelStore.beside(store) as labels:
        leases = Leases(labels, "plan")
        with monkeypatch.context() as patch:
            patch.setattr("robopref.data.label_leases.time.time", lambda: 1e12)
            leases.take("anna", lambda held, _: 3)
        assert leases.held() == {}
        leases.take("anna", lambda held, _: 4)
        assert leases.held()["anna"].left_s == pytest.approx(LEASE_S, abs=30)


def test_two_server_processes_share_out_the_pairs(store):
    """As many people as there are pairs ask at once: each gets another one, and nobody one twice."""
    with (
        serving(store.path, "pairs=24", "shared=0") as one,
        serving(store.path, "pairs=24", "shared=0") as other,
    ):
        asked = label_all([one.url, other.url], people=12)
    assert sorted(index for own in asked for index in own) == list(range(24))
    with LabelStore.beside(store) as labels:
        assert labels.count() == 24
