"""Questions that an alignment asks: which pairs, in which order, and what becomes of every kind of answer."""

import itertools
import shlex

import numpy as np
import pytest
from hydra import compose, initialize_config_module

from robopref.alignment.anchors import Guard, PreparedTransfer
from robopref.alignment.record import TransferRecord
from robopref.cli import label
from robopref.cli.build import component
from robopref.cli.sources import labelled_sources
from robopref.data.judgement import Judgement
from robopref.data.label_store import LabelStore
from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, DataError, RoboprefError
from robopref.labeling import asking
from robopref.labeling.asking import Asking, pairs_to_ask
from robopref.labeling.desk import Desk
from tests.labeling.made import check_refused, made_store

EPISODES = 7


@pytest.fixture
def store(tmp_path):
    return made_store(tmp_path / "store", EPISODES)


@pytest.fixture
def labels(store):
    with LabelStore.beside(store) as opened:
        yield opened


def prepared(features, weights) -> PreparedTransfer:
    """A transfer of which nothing but the score of episodes is known."""
    unknown = np.full((len(features), len(features)), np.nan)
    record = TransferRecord(unknown, np.zeros(unknown.shape), {}, {}, {}, settings={"at_risk": False})
    return PreparedTransfer(record, features, weights, anchor_precision=1.0, guard=Guard(0.7, 0.2, "warn"))


def open_score(episodes=EPISODES) -> PreparedTransfer:
    """The sources know what the first number is worth, and nothing of the second, where 2 and 5 differ."""
    features = np.zeros((episodes, 2))
    features[:, 0] = np.arange(episodes) / 100
    features[:, 1] = np.linspace(-0.5, 0.5, episodes)
    features[2, 1], features[5, 1] = -4.0, 4.0
    return prepared(features, np.array([9.0, 0.0]))


def desk_of(store, labels, ready=None, **options):
    plan = pairs_to_ask(store, **({"pairs": 6, "shared": 0.0} | options))
    return Desk(plan, labels, store, repeated=0.0, mirrored=0.0, asking=Asking(ready or open_score(), plan))


def episodes(question):
    assert question is not None
    return {segment.episode for segment in question.clips}


def answer(desk, name, choice="left"):
    question = desk.question(name)
    assert question is not None
    desk.answer(name, question.id, choice)
    return frozenset(episodes(question))


def test_whole_episodes_are_compared_and_each_two_are_one_item(store):
    plan = pairs_to_ask(store, pairs=3)
    pairs = [(a.episode, b.episode) for a, b in plan.items]
    assert pairs == list(itertools.combinations(range(EPISODES), 2))
    assert {(s.start, s.length) for item in plan.items for s in item} == {(0, 12)}
    assert (plan.limit, plan.at_random) == (3, frozenset())


def test_asked_first_is_the_pair_that_the_sources_leave_most_open(store, labels):
    desk = desk_of(store, labels)
    assert episodes(desk.question("anna")) == {2, 5}


def test_each_question_is_the_one_that_the_transfer_would_ask_for_after_the_answers_so_far(store, labels):
    rng = np.random.default_rng(3)
    ready = prepared(rng.normal(size=(EPISODES, 3)), rng.normal(size=3))
    desk, anchors = desk_of(store, labels, ready, pairs=10), np.full((EPISODES, EPISODES), np.nan)
    for number in range(10):
        question = desk.question("anna")
        assert question is not None
        wanted = ready.ask(anchors, rng=np.random.default_rng([0, 7, number]))
        assert tuple(segment.episode for segment in question.clips) == wanted
        desk.answer("anna", question.id, "left")
        i, j = (segment.episode for segment in question.sides)
        anchors[i, j], anchors[j, i] = 1.0, 0.0
    assert desk.question("anna") is None


def test_clips_are_ordered_for_the_next_question_whatever_the_answer(store, labels):
    rng = np.random.default_rng(4)
    desk = desk_of(store, labels, prepared(rng.normal(size=(EPISODES, 3)), rng.normal(size=3)))
    for choice in ("left", "right", "left", "right"):
        question = desk.question("anna")
        assert question is not None
        expected = [{segment.episode for segment in item} for item in desk.upcoming("anna", 2)]
        desk.answer("anna", question.id, choice)
        assert episodes(desk.question("anna")) in expected


@pytest.mark.parametrize("choice", ["equal", "skip"])
def test_what_is_a_tie_or_skipped_is_not_asked_again_of_anybody(store, labels, choice):
    desk = desk_of(store, labels)
    asked = [answer(desk, name, choice) for name in ("anna", "bert", "anna", "bert")]
    assert len(set(asked)) == 4
    other = desk_of(store, labels)
    assert episodes(other.question("carl")) not in map(set, asked)


def test_people_who_label_at_once_have_different_pairs_before_them(store, labels):
    desk = desk_of(store, labels, pairs=4)
    shown = {name: frozenset(episodes(desk.question(name))) for name in ("anna", "bert", "carl", "dora")}
    assert len(set(shown.values())) == 4
    assert desk.question("emil") is None  # no more than four are asked about
    assert {name: episodes(desk.question(name)) for name in shown} == shown


def test_another_server_asks_the_same_and_takes_the_answer_to_what_the_first_one_asked(store, labels):
    first = desk_of(store, labels)
    for _ in range(3):
        answer(first, "anna")
    shown = first.question("anna")
    assert shown is not None
    again = desk_of(store, labels)
    assert episodes(again.question("anna")) == episodes(shown)
    again.answer("anna", shown.id, "right")  # the page still shows it after a restart
    assert episodes(again.question("anna")) != episodes(shown)
    assert labels.count(source="human") == 4


def test_who_takes_an_answer_back_is_asked_the_same_again(store, labels):
    desk = desk_of(store, labels)
    answer(desk, "anna")
    before = desk.question("anna")
    last = answer(desk, "anna")
    desk.undo("anna", desk.given("anna")[-1].judgement.uid)
    assert episodes(desk.question("anna")) == last == episodes(before)


def test_all_pairs_may_be_asked_about_and_then_nothing_is_left(store, labels):
    desk = desk_of(store, labels, pairs=1000)
    asked = [answer(desk, "anna") for _ in range(21)]
    assert len(set(asked)) == 21
    assert desk.question("anna") is None


def test_what_everybody_is_asked_about_is_asked_of_the_second_person_too(store, labels):
    desk = desk_of(store, labels, pairs=3, shared=1.0)
    first = {answer(desk, "anna") for _ in range(3)}
    assert desk.question("anna") is None
    assert {answer(desk, "bert") for _ in range(3)} == first


def test_of_many_episodes_some_are_drawn_and_answers_still_speak_of_the_right_ones(
    store, labels, monkeypatch
):
    monkeypatch.setattr(asking, "MOST_EPISODES", 4)
    plan = pairs_to_ask(store, pairs=6, seed=1)
    chosen = sorted({segment.episode for item in plan.items for segment in item})
    assert len(chosen) == 4
    assert chosen != [0, 1, 2, 3]
    ready = open_score()
    ready.features[chosen[1], 1], ready.features[chosen[3], 1] = 9.0, -9.0
    desk = Desk(plan, labels, store, repeated=0.0, mirrored=0.0, asking=Asking(ready, plan))
    assert answer(desk, "anna") == {chosen[1], chosen[3]}
    assert len({answer(desk, "anna") for _ in range(5)}) == 5


def test_a_question_is_chosen_while_others_may_write_and_anew_after_what_they_wrote(store, labels):
    asked, desks = [], []

    def slowly(said, pending):
        asked.append([(each.a_episode, each.b_episode) for each in said])
        if len(asked) == 2:  # the first is for clips, before anybody came
            with LabelStore.beside(store) as elsewhere:
                answer(desk_of(store, elsewhere), "bert")
            assert desks[0].done("anna") == 0  # who labels here does not wait either
        return Asking(open_score(), plan)(said, pending)

    plan = pairs_to_ask(store, pairs=6, shared=0.0)
    desks.append(Desk(plan, labels, store, repeated=0.0, mirrored=0.0, asking=slowly))
    assert answer(desks[0], "anna") != {2, 5}
    assert asked[:3] == [[], [], [(2, 5)]]


def test_nothing_is_chosen_for_those_who_have_nothing_left(store, labels):
    def once(said, pending):
        assert not said
        return [3]

    plan = pairs_to_ask(store, pairs=1, shared=0.0)
    desk = Desk(plan, labels, store, repeated=0.0, mirrored=0.0, asking=once)
    answer(desk, "anna")
    assert desk.question("anna") is desk.question("bert") is None


def test_numbers_out_of_range_and_a_lone_episode_are_refused(store, tmp_path):
    for wrong in ({"pairs": 0}, {"pairs": 1, "seed": -1}, {"pairs": 1, "shared": 1.5}):
        with pytest.raises(ConfigError, match="pairs must be 1 or more"):
            pairs_to_ask(store, **wrong)
    with pytest.raises(DataError, match="two different episodes"):
        pairs_to_ask(made_store(tmp_path / "lone", 1), pairs=1)


@pytest.mark.parametrize(
    ("paths", "labels", "sentence"),
    [
        ([], None, "names no source"),
        (["nowhere"], None, "nowhere"),
        (["store"], None, "the target itself"),
        (["bare"], None, "The source bare has no labels"),
        (["other"], "store", "there is no store/toy.sqlite"),
        (["other", "bare"], None, "other and bare are both of toy"),
    ],
)
def test_what_is_no_labelled_source_is_named(folder, monkeypatch, paths, labels, sentence):
    monkeypatch.chdir(folder)
    with pytest.raises(RoboprefError, match=sentence):
        labelled_sources(paths, TrajectoryStore.open("store"), labels)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "needs its sources"),
        (["query=random", "sources=[other]"], "sources= belong to query=alignment"),
        (["query=alignmnt"], "Did you mean 'alignment'?"),
        (
            ["query=random", "source_labels=other", "alignment.l2=0.1"],
            "source_labels=, alignment= belong to query=alignment",
        ),
        (["sources=[other]", "segment_length=5"], "leave out segment_length"),
        (["sources=[other]", "feedback=updown"], "leave out feedback"),
        pytest.param(["sources=[other]"], "holds no labels of source", marks=pytest.mark.slow),
        pytest.param(["sources=[other]", "alignment=cpa"], "Only alignment=auto", marks=pytest.mark.slow),
        pytest.param(
            ["sources=[other]", "labels=sqlite:///foreign.sqlite"], "other data", marks=pytest.mark.slow
        ),
    ],
)
def test_what_no_alignment_could_ask_gets_a_sentence(folder, monkeypatch, capfd, options, sentence):
    monkeypatch.chdir(folder)
    arguments = ["label", "data=store", "port=0", "open_browser=false", "query=alignment", *options]
    check_refused(arguments, sentence, capfd)


def test_a_preview_says_that_it_knows_no_transfer(folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    check_refused(["labels", "preview", "data=store", "query=alignment"], "only robopref label does", capfd)


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ([], "postgresql://me:hunter2@team/db"),
        (
            [
                *("alignment.anchor_precision=1.5", "alignment.on_risk=refuse", "seed=3"),
                *("alignment.couplings.features=[mean]", "+alignment.couplings.max_episodes=50"),
            ],
            "sqlite:///x.sqlite",
        ),
    ],
)
def test_the_command_that_is_printed_makes_the_transfer_that_asked(folder, monkeypatch, words, place):
    monkeypatch.chdir(folder)
    given = ["data=store", "query=alignment", "sources=[other,bare]", "source_labels=other", *words]
    _, verb, *options = shlex.split(
        label._transfer_command(composed("label", given), TrajectoryStore.open("store"), place)
    )
    asked, carried = composed("label", given), composed(verb, options)
    assert component(carried.alignment).build().__dict__ | {"couplings": 0} == (
        component(asked.alignment).build().__dict__ | {"couplings": 0}
    )
    assert vars(component(carried.alignment).build().couplings) == (
        vars(component(asked.alignment).build().couplings)
    )
    for name in ("sources", "source_labels", "seed"):
        assert carried[name] == asked[name]
    assert (carried.target, carried.anchors) == ("store", place.replace("hunter2", "***"))
    assert len(options) == 6 + len(words) - ("seed=3" in words)  # what is as it comes is not said


def test_the_command_is_printed_once_an_answer_can_be_carried_over(store, labels, capsys):
    config = composed("label", [f"data={store.path}", "query=alignment", "sources=[other]"])
    desk = desk_of(store, labels)
    answer(desk, "anna", "skip")
    label._say_what_follows(config, store, labels)
    said = capsys.readouterr().out
    assert "Nothing can be carried over yet" in said
    assert "robopref align" not in said
    answer(desk, "anna", "equal")
    label._say_what_follows(config, store, labels)
    assert "\nrobopref align alignment=auto " in capsys.readouterr().out


def composed(verb, words):
    with initialize_config_module("robopref.conf", version_base="1.3"):
        return compose(verb, words)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Stores: one to ask about, one whose label store is empty, one without any; labels of other things."""
    here = tmp_path_factory.mktemp("refused")
    _, other, _ = (made_store(here / name, size) for name, size in (("store", 4), ("other", 3), ("bare", 3)))
    LabelStore.beside(other).close()
    part = Judgement(0, 0, 5, 1, 0, 5, answer="a", source="human", annotator="anna")
    with LabelStore(f"sqlite:///{here}/foreign.sqlite") as labels:
        labels.add([part], data_fingerprint="another", episodes=2)
    return here
