"""Learning while people label: what it learns from, what it asks next, what a restart finds."""

import json
import signal
import time

import httpx
import numpy as np
import pytest

from robopref import files
from robopref.data.judgement import Judgement
from robopref.data.label_store import LabelStore
from robopref.errors import ConfigError, DataError
from robopref.labeling.desk import Desk
from robopref.labeling.learner import Learner
from robopref.labeling.online import LEAST, Online
from robopref.labeling.plan import make_plan
from tests.labeling.made import made_store
from tests.labeling.server import PATIENCE_S, serving

QUICK = Learner(members=2, hidden=(8,), steps=30, batch_size=16, learning_rate=1e-2)


@pytest.fixture
def store(tmp_path):
    return made_store(tmp_path / "store", 16)


@pytest.fixture
def labels(store):
    with LabelStore.beside(store) as opened:
        yield opened


def set_up(store, labels, *, query="disagreement", pairs=60, random_share=0.3, shared=0.1, **options):
    plan = make_plan(
        store,
        pairs=pairs,
        segment_length=6,
        query=query,
        online=True,
        pool=150,
        random_share=random_share,
        shared=shared,
    )
    desk = Desk(plan, labels, store, repeated=0.0, mirrored=0.0)
    online = Online(
        desk,
        labels,
        store,
        store.path / "online",
        query=query,
        random_share=random_share,
        learner=QUICK,
        workers=0,
        **options,
    )
    return desk, online


def label(desk, n, name="anna"):
    """Answer as the reward does, which grows with the episode's number."""
    for _ in range(n):
        question = desk.question(name)
        assert question is not None
        left, right = (segment.episode for segment in question.sides)
        desk.answer(name, question.id, "left" if left > right else "right" if right > left else "equal")


def test_it_waits_until_there_is_something_to_learn_from(store, labels):
    _, online = set_up(store, labels)
    assert not online.step()
    status = online.status()
    assert (status["points"], status["training"], status["query"]) == ([], False, "disagreement")
    assert f"{LEAST} more answers" in status["message"]


def test_the_curve_counts_and_agrees_with_people_on_random_pairs_alone(store, labels):
    desk, online = set_up(store, labels)
    label(desk, 40)
    assert online.step()
    (point,) = online.status()["points"]
    drawn = sum(".random." in judgement.uid for judgement in labels.judgements().values())
    assert (point["labels"], point["learned"]) == (40, 40 - drawn)
    assert 0 < point["tested"] <= drawn
    assert point["low"] < point["agreement"] <= point["high"]
    assert point["agreement"] > 0.7  # the order of episodes is learned in seconds


def test_a_pair_that_several_people_answered_is_tested_once(store, labels):
    desk, online = set_up(store, labels, shared=1.0)
    for name in ("anna", "bert", "carl"):
        label(desk, 25, name)
    assert online.step()
    (point,) = online.status()["points"]
    drawn = [j for j in labels.judgements().values() if ".random." in j.uid]
    pairs = {frozenset((j.a, j.b)) for j in drawn if j.answer != "equal"}
    assert len(pairs) < len(drawn) / 2
    assert (point["labels"], point["learned"], point["tested"]) == (75, 75 - len(drawn), len(pairs))


def test_no_point_is_shown_that_is_not_kept_yet(store, labels, monkeypatch):
    desk, online = set_up(store, labels)
    label(desk, 20)
    seen = []
    write = files.write_json
    monkeypatch.setattr(files, "write_json", lambda *of: (seen.append(online.status()["points"]), write(*of)))
    assert online.step()
    assert seen == [[]]
    assert len(online.status()["points"]) == 1


def test_it_learns_again_only_after_enough_new_answers(store, labels):
    desk, online = set_up(store, labels, every=4)
    label(desk, 20)
    assert online.step()
    label(desk, 3)
    assert not online.step()
    label(desk, 1)
    assert online.step()
    assert [point["labels"] for point in online.status()["points"]] == [20, 24]


def test_after_learning_it_asks_where_members_differ_and_keeps_the_random_share(store, labels):
    desk, online = set_up(store, labels, pairs=100)
    label(desk, 20)
    before = [q.index for q in _next(desk, 30)]
    online.step()
    after = [q.index for q in _next(desk, 30)]
    assert sorted(before) == before  # nothing was known: in the plan's order
    assert sorted(after) != after
    drawn = sum(i in desk.plan.at_random for i in after)
    assert 2 <= drawn <= 18  # 9 expected
    assert len(set(after)) == 30


def test_who_has_a_pair_before_them_keeps_it(store, labels):
    desk, online = set_up(store, labels)
    label(desk, 20)
    shown = desk.question("bert")
    online.step()
    assert desk.question("bert") == shown


def test_no_more_pairs_are_asked_than_planned_though_the_pool_is_larger(store, labels):
    desk, _ = set_up(store, labels, pairs=15)
    asked = 0
    while question := desk.question("anna"):
        desk.answer("anna", question.id, "left")
        asked += 1
        assert desk.remaining("anna") == 15 - asked
    assert asked == 15


def test_a_restart_finds_the_curve_and_goes_on(store, labels):
    desk, online = set_up(store, labels)
    label(desk, 20)
    online.step()
    earlier = online.status()["points"]
    desk, again = set_up(store, labels)
    assert again.status()["points"] == earlier
    assert again.step()  # to rank the queue, and finds the same
    assert again.status()["points"] == earlier


def test_a_damaged_curve_is_named(store, labels):
    _, online = set_up(store, labels)
    online.path.parent.mkdir()
    for text in ("{", json.dumps({"format": "other", "points": []}), json.dumps({"points": 3})):
        online.path.write_text(text)
        with pytest.raises(DataError, match=online.path.name):
            set_up(store, labels)


def test_ties_teach_nothing_and_do_not_end_it(store, labels):
    desk, online = set_up(store, labels)
    while labels.count() < 20:
        question = desk.question("anna")
        assert question is not None
        desk.answer("anna", question.id, "equal")
    with pytest.raises(DataError, match="ties"):
        online.step()
    assert "ties" in online.status()["message"]
    label(desk, 20)
    assert online.step()


def test_a_random_query_sets_the_share_aside_too(store, labels):
    desk, online = set_up(store, labels, query="random")
    label(desk, 30)
    assert online.step()
    point = online.status()["points"][0]
    assert 0 < point["tested"] < 20
    assert point["learned"] + point["tested"] <= 30


def test_labels_of_other_people_on_other_pairs_are_learned_from(store, labels):
    _, online = set_up(store, labels)
    numbers = [(e, 0, 6, f, 6, 6) for e in range(4) for f in range(8, 12)]
    fields = ("a_episode", "a_start", "a_length", "b_episode", "b_start", "b_length")
    given = [
        Judgement(**dict(zip(fields, row, strict=True)), answer="b", source="human", annotator="older")
        for row in numbers
    ]
    labels.add(given, data_fingerprint=store.fingerprint(), episodes=len(store))
    assert online.step()
    assert online.status()["points"][0]["labels"] == 16


def test_every_must_be_positive(store, labels):
    with pytest.raises(ConfigError, match="every"):
        set_up(store, labels, every=0)


def _next(desk, n):
    """The next questions of somebody who skips them all, so that nothing is learned."""
    asked = []
    for _ in range(n):
        asked.append(desk.question("looker"))
        desk.answer("looker", asked[-1].id, "skip")
    return asked


@pytest.mark.slow
def test_a_server_that_learns_answers_at_once_and_survives_being_killed(store):
    options = ("online=true", "query=disagreement", "segment_length=6", "pairs=100", "every=5")
    waits, points = [], []
    for round in range(2):
        with serving(store.path, *options) as server, httpx.Client(base_url=server.url) as client:
            if round:
                assert client.get("/api/online").json()["points"] == points
            for _ in range(20):
                shown = client.get("/api/question", params={"annotator": "anna"}).json()["question"]
                body = {"annotator": "anna", "question": shown["id"], "choice": "left"}
                begun = time.monotonic()
                client.post("/api/answer", json=body).raise_for_status()
                waits.append(time.monotonic() - begun)
            deadline = time.monotonic() + 2 * PATIENCE_S
            while len(points := client.get("/api/online").json()["points"]) < round + 1:
                assert time.monotonic() < deadline, client.get("/api/online").json()
                time.sleep(0.2)
            server.end(signal.SIGKILL)
    assert np.median(waits) < 0.2
    assert [p["labels"] for p in points] == sorted({p["labels"] for p in points})
