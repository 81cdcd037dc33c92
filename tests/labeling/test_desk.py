"""Who is asked what, and what becomes of the answers."""

import itertools
import time

import pytest

from robopref.data import label_leases
from robopref.data.label_leases import LEASE_S
from robopref.data.label_store import LabelStore
from robopref.errors import ConfigError, DataError
from robopref.labeling.answers import Choice, annotator_name
from robopref.labeling.clips import Segment
from robopref.labeling.desk import Desk
from robopref.labeling.items import make_items
from robopref.labeling.plan import make_plan
from robopref.labeling.questions import REPEATS_AFTER, StaleQuestionError, UnknownQuestionError
from robopref.labeling.tally import tally
from tests.labeling.made import made_store


@pytest.fixture
def store(tmp_path):
    return made_store(tmp_path / "store")


@pytest.fixture
def labels(store):
    with LabelStore.beside(store) as opened:
        yield opened


def set_up(store, labels, *, pairs=20, gold=0, shared=0.0, repeated=0.0, mirrored=0.0):
    plan = make_plan(store, pairs=pairs, gold=gold, shared=shared)
    return Desk(plan, labels, store, repeated=repeated, mirrored=mirrored)


def present(desk, name):
    question = desk.question(name)
    assert question is not None
    return question


def answer_all(desk, name, choose=lambda question: "left", limit=1000):
    asked = []
    for _ in range(limit):
        question = desk.question(name)
        if question is None:
            return asked
        desk.answer(name, question.id, choose(question))
        asked.append(question)
    return asked


# -- answers -------------------------------------------------------------------------------------------------


def test_an_answer_is_stored_with_the_side_that_was_shown(store, labels):
    desk = set_up(store, labels)
    sides = set()
    choices: list[Choice] = ["left", "right", "equal", "skip"]
    for choice in choices * 4:
        question = present(desk, "anna")
        desk.answer("anna", question.id, choice, note="why", response_time_s=1.5)
        last = list(labels.judgements().values())[-1]
        left, right = question.sides
        a, b = question.clips
        assert {"a": (a, b), "b": (b, a)}[last.shown_left] == (left, right)
        assert Segment(last.a_episode, last.a_start, last.a_length) == a
        better = {"left": left, "right": right}.get(choice)
        expected = choice if better is None else "a" if better == a else "b"
        assert (last.answer, last.annotator, last.source) == (expected, "anna", "human")
        assert (last.note, last.response_time_s, last.uid) == ("why", 1.5, question.id)
        sides.add(last.shown_left)
    assert sides == {"a", "b"}


def test_a_slight_preference_is_stored_as_three_quarters(store, labels):
    desk = set_up(store, labels)
    expectations: dict[Choice, float] = {"left": 0.75, "right": 0.25}
    for choice, expected in expectations.items():
        question = present(desk, "anna")
        desk.answer("anna", question.id, choice, slightly=True)
        label = list(labels.judgements().values())[-1].label
        assert label == (expected if question.shown_left == "a" else 1 - expected)


def test_the_same_answer_twice_is_stored_once_and_another_is_refused(store, labels):
    desk = set_up(store, labels)
    question = present(desk, "anna")
    desk.answer("anna", question.id, "left")
    desk.answer("anna", question.id, "left")
    with pytest.raises(StaleQuestionError, match="answered this already"):
        desk.answer("anna", question.id, "right")
    assert labels.count() == 1


def test_a_question_is_the_same_until_it_is_answered(store, labels):
    desk = set_up(store, labels)
    assert desk.question("anna") == present(desk, "anna")


def test_taking_back_asks_the_same_pair_again_on_the_same_sides(store, labels):
    desk = set_up(store, labels)
    first = present(desk, "anna")
    desk.answer("anna", first.id, "left")
    desk.undo("anna", first.id)
    assert labels.count() == 0
    again = present(desk, "anna")
    assert (again.sides, again.index) == (first.sides, first.index)
    assert again.id != first.id
    desk.undo("anna", first.id)  # a second click
    desk.answer("anna", first.id, "left")  # a late copy
    assert labels.count() == 0
    desk.answer("anna", again.id, "right")
    assert len(labels.preferences()) == 1
    with pytest.raises(StaleQuestionError):
        desk.undo("anna", "nonsense")


def test_a_desk_set_up_again_goes_on_where_it_was(store, labels):
    desk = set_up(store, labels, repeated=0.2)
    asked = [q.clips for q in answer_all(desk, "anna", limit=8)]
    pending = present(desk, "anna")
    again = set_up(store, labels, repeated=0.2)
    assert present(again, "anna").sides == pending.sides
    assert tally(again.given("anna")) == tally(desk.given("anna"))
    again.answer("anna", pending.id, "equal")  # asked before the restart, answered after it
    assert labels.count() == 9
    rest = [q.clips for q in answer_all(again, "anna")]
    assert set(asked) | {pending.clips} | set(rest) == set(again.plan.items)


def test_everything_can_be_taken_back_after_a_restart(store, labels):
    answer_all(set_up(store, labels), "anna", limit=4)
    desk = set_up(store, labels)
    for left in (3, 2, 1, 0):
        desk.undo("anna", desk.given("anna")[-1].judgement.uid)
        assert labels.count() == left


def test_questions_that_were_never_asked_are_refused(store, labels):
    desk = set_up(store, labels)
    mine = present(desk, "anna").id
    plan, who, _, kind, nonce = mine.split(".")
    for name in (
        "",
        "x",
        "../../etc/passwd",
        f"{plan}.{who}.999.{kind}.{nonce}",
        mine.replace("random", "old"),
    ):
        with pytest.raises(UnknownQuestionError):
            desk.answer("anna", name, "left")
    for name in (f"{'0' * 12}.{who}.0.{kind}.{nonce}", f"{plan}.{who}.0.mirror.{nonce}"):
        with pytest.raises(StaleQuestionError):
            desk.answer("anna", name, "left")
    with pytest.raises(StaleQuestionError, match="another person"):
        desk.answer("bert", mine, "left")
    assert labels.count() == 0


def test_a_failure_to_store_leaves_the_question_open(store, labels, monkeypatch):
    desk = set_up(store, labels)
    question = present(desk, "anna")

    def full(*_, **__):
        raise DataError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(labels, "add", full)
        with pytest.raises(DataError):
            desk.answer("anna", question.id, "left")
    assert desk.question("anna") == question
    desk.answer("anna", question.id, "left")
    assert labels.count() == 1


def test_an_answer_to_a_deleted_label_store_is_refused_and_taken_once_it_is_back(store, labels, tmp_path):
    desk = set_up(store, labels)
    question = present(desk, "anna")
    file = (store.path / "labels.sqlite").rename(tmp_path / "away")
    with pytest.raises(DataError, match="deleted or replaced"):
        desk.answer("anna", question.id, "left")
    file.rename(store.path / "labels.sqlite")
    desk.answer("anna", question.id, "left")
    assert [judgement.uid for judgement in labels.judgements().values()] == [question.id]


def test_labels_of_other_data_are_refused(store, labels, tmp_path):
    answer_all(set_up(store, labels), "anna", limit=1)
    other = made_store(tmp_path / "other", 9, length=11)
    with pytest.raises(DataError, match="other data"):
        set_up(other, labels)


# -- several people ------------------------------------------------------------------------------------------


def test_who_has_nothing_left_is_told_what_others_have_before_them(store, labels):
    desk = set_up(store, labels, pairs=2)
    first = present(desk, "anna")
    present(desk, "bert")
    assert desk.question("carl") is None
    assert desk.kept("carl") == 2
    desk.answer("anna", first.id, "left")
    assert desk.question("carl") is None
    assert desk.kept("carl") == 1


def test_two_people_share_out_the_pairs_and_both_get_the_shared_ones(store, labels):
    desk = set_up(store, labels, shared=0.3)
    asked = {"anna": [], "bert": []}
    for name in itertools.islice(itertools.cycle(asked), 60):
        question = desk.question(name)
        if question is not None:
            asked[name].append(question.index)
            desk.answer(name, question.id, "left")
    anna, bert = set(asked["anna"]), set(asked["bert"])
    assert len(anna) == len(asked["anna"])
    assert len(bert) == len(asked["bert"])
    assert anna & bert == desk.plan.shared
    assert anna | bert == set(range(20))


def test_a_pair_that_is_left_lying_goes_to_somebody_else(store, labels, monkeypatch):
    desk = set_up(store, labels, pairs=1)
    assert desk.question("anna") is not None
    assert desk.question("bert") is None
    later = time.time() + LEASE_S + 1
    monkeypatch.setattr(label_leases.time, "time", lambda: later)
    assert desk.question("bert") is not None


def test_names_have_one_spelling():
    assert annotator_name("  Anna   Berta ") == "Anna Berta"
    assert annotator_name("Zoe\u0308") == "Zo\u00eb"
    for bad in ("", "   ", "x" * 65, "a\u0000b", "a\u202eb"):
        with pytest.raises(ConfigError, match="1 to 64"):
            annotator_name(bad)


# -- repeated pairs ------------------------------------------------------------------------------------------


def test_repeated_and_mirrored_pairs_come_in_their_shares_ten_questions_later_or_more(tmp_path):
    store = made_store(tmp_path / "many", 30)
    with LabelStore.beside(store) as labels:
        asked = answer_all(set_up(store, labels, pairs=300, repeated=0.15, mirrored=0.15), "anna")
    kinds = [question.kind for question in asked]
    for kind in ("repeat", "mirror"):  # 0.15 of about 420: 63, deviation 7
        assert 40 < kinds.count(kind) < 90
    first = {q.index: (place, q) for place, q in reversed(list(enumerate(asked)))}
    for place, question in enumerate(asked):
        earlier_place, earlier = first[question.index]
        if question.kind == "repeat":
            assert question.sides == earlier.sides
        if question.kind == "mirror":
            assert question.sides == earlier.sides[::-1]
        if question.kind != "random":
            assert place - earlier_place > REPEATS_AFTER


def test_a_tally_counts_consistency_and_sides_by_hand(store, labels):
    desk = set_up(store, labels, pairs=28, mirrored=0.4)
    answer_all(desk, "anna")  # always left: every mirrored pair is answered the other way round
    counted = tally(desk.given("anna"))
    mirrored = counted.answers - 28
    assert counted.chosen == {"left": 28 + mirrored}
    assert (counted.repeated, counted.consistent) == (mirrored, 0)
    assert mirrored > 2


def test_checks_are_passed_by_choosing_the_better_episode(store, labels):
    desk = set_up(store, labels, pairs=1, gold=4)
    answer_all(desk, "anna", lambda q: "left" if q.shown_left == "a" else "right", limit=3)
    answer_all(desk, "anna", lambda q: "equal", limit=1)
    counted = tally(desk.given("anna"))
    assert (counted.checks, counted.passed) == (4, 3)


@pytest.mark.parametrize(("repeated", "mirrored"), [(-0.1, 0.0), (0.3, 0.3)])
def test_shares_of_repeated_pairs_are_checked(store, labels, repeated, mirrored):
    with pytest.raises(ConfigError, match="together at most"):
        set_up(store, labels, repeated=repeated, mirrored=mirrored)


# -- thumbs and rankings -------------------------------------------------------------------------------------


def of(store, labels, feedback, *, items=5, clips=4, **options):
    return Desk(make_items(store, feedback, items=items, clips=clips, shared=0.0), labels, store, **options)


def test_a_thumb_is_stored_for_one_clip_and_taken_back(store, labels):
    desk = of(store, labels, "updown", items=3, mirrored=0.4)
    first = present(desk, "anna")
    assert (len(first.sides), first.shown_left) == (1, None)
    desk.answer("anna", first.id, "up")
    desk.answer("anna", present(desk, "anna").id, "down")
    assert labels.ratings().label.tolist() == [1, 0]
    assert labels.ratings().segments.episode[0] == first.clips[0].episode
    desk.undo("anna", desk.given("anna")[-1].judgement.uid)
    assert labels.ratings().label.tolist() == [1]
    assert len(answer_all(desk, "anna", lambda _: "up")) == 2
    assert tally(desk.given("anna")).chosen == {"up": 3}


def rank(desk, name, better):
    """Answer truthfully by a key, until nothing is left."""

    def choose(question):
        left, right = (better(side) for side in question.sides)
        return "equal" if left == right else "left" if left > right else "right"

    return answer_all(desk, name, choose)


def test_a_ranking_is_finished_before_the_next_begins_and_is_right(store, labels):
    desk = of(store, labels, "ranking", items=6, clips=5)
    asked = rank(desk, "anna", lambda side: side.episode)
    indices = [question.index for question in asked]
    assert indices == sorted(indices)
    assert set(indices) == set(range(6))
    assert max(indices.count(index) for index in range(6)) <= 7  # merge insertion of five
    for ranked in labels.rankings():
        order = [ranked.members[clip][0] for (clip,) in ranked.ranking.order() or []]
        assert order == sorted(order, reverse=True)
    assert desk.done("anna") == 6
    assert {question.shown_left for question in asked} == {"a", "b"}


def test_the_rest_of_a_list_can_be_given_up_and_that_taken_back(store, labels):
    desk = of(store, labels, "ranking", items=2)
    first = present(desk, "anna")
    desk.answer("anna", first.id, "left")
    second = present(desk, "anna")
    desk.answer("anna", second.id, "rest")
    assert (desk.done("anna"), present(desk, "anna").index) == (1, 1)
    desk.undo("anna", second.id)
    assert (desk.done("anna"), present(desk, "anna").asks) == (0, second.asks)


def test_a_list_goes_on_after_a_restart_also_with_the_question_that_was_shown(store, labels):
    desk = of(store, labels, "ranking")
    desk.answer("anna", present(desk, "anna").id, "left")
    shown = present(desk, "anna")
    again = of(store, labels, "ranking")
    assert present(again, "anna").asks == shown.asks
    again.answer("anna", shown.id, "equal")
    again.answer("anna", shown.id, "equal")
    assert labels.count() == 2
    with pytest.raises(StaleQuestionError):  # of a comparison that is decided
        again.answer("anna", shown.asks + ".0123456789ab", "left")


def test_a_list_that_somebody_ranks_is_nobody_else_s(store, labels):
    desk = of(store, labels, "ranking", items=3)
    desk.answer("anna", present(desk, "anna").id, "left")
    others = {question.index for question in rank(desk, "bert", lambda side: side.episode)}
    assert others == {1, 2}
    assert present(desk, "anna").index == 0


def test_a_late_copy_of_an_answer_taken_back_before_a_restart_is_not_stored(store, labels):
    desk = set_up(store, labels)
    question = present(desk, "anna")
    desk.answer("anna", question.id, "left")
    desk.undo("anna", question.id)
    again = set_up(store, labels)
    again.answer("anna", question.id, "left")
    assert labels.count() == 0
    assert again.given("anna") == []


def test_the_part_that_decided_is_stored_with_the_pair(store, labels):
    desk = set_up(store, labels)
    desk.answer("anna", present(desk, "anna").id, "left", decided=(3, 4))
    assert labels.preferences(decided=True).a.length.tolist() == [4]
    with pytest.raises(ConfigError, match="at least one step"):
        desk.answer("anna", present(desk, "anna").id, "left", decided=(3, 0))
    question = present(desk, "anna")
    longest = max(segment.length for segment in question.clips)
    with pytest.raises(ConfigError, match=f"the clips have {longest} steps"):
        desk.answer("anna", question.id, "left", decided=(longest, 1))
    desk.answer("anna", question.id, "left", decided=(0, longest))


@pytest.mark.parametrize(
    ("feedback", "choice", "more"),
    [
        ("pair", "up", {}),
        ("updown", "left", {}),
        ("ranking", "down", {}),
        ("pair", "rest", {}),
        ("updown", "up", {"decided": (0, 3)}),
        ("ranking", "left", {"slightly": True}),
    ],
)
def test_an_answer_of_another_kind_of_study_is_refused(store, labels, feedback, choice, more):
    desk = set_up(store, labels) if feedback == "pair" else of(store, labels, feedback)
    with pytest.raises(ConfigError):
        desk.answer("anna", present(desk, "anna").id, choice, **more)
    assert labels.count() == 0


@pytest.mark.parametrize(("options", "error"), [({"clips": 1}, ConfigError), ({"clips": 9}, DataError)])
def test_a_list_needs_two_clips_and_no_more_than_there_are(store, options, error):
    with pytest.raises(error):
        make_items(store, "ranking", items=3, **options)


def test_a_new_order_puts_items_first_but_behind_the_checks(store, labels):
    desk = set_up(store, labels, pairs=20, gold=2)
    shown = present(desk, "anna")
    desk.reorder([17, 5])
    assert present(desk, "anna") == shown
    assert [q.index for q in answer_all(desk, "anna", limit=5)] == [0, 1, 17, 5, 2]
    assert desk.unanswered() == sorted(set(range(22)) - {0, 1, 17, 5, 2})


def test_progress_says_who_is_how_far_and_holds_what(store, labels):
    desk = set_up(store, labels)
    answer_all(desk, "anna", limit=3)
    assert desk.question("bert") is not None
    anna, bert = desk.progress()
    assert (anna.annotator, anna.answers, anna.done, anna.holds) == ("anna", 3, 3, None)
    assert (bert.annotator, bert.answers, bert.last, bert.holds) == ("bert", 0, None, 3)
    assert bert.kept_s == pytest.approx(LEASE_S, abs=30)
