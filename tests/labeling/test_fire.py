"""Under fire: a server killed again and again, and requests that nobody would send. Slow."""

import random
import threading

import httpx
import pytest
from fastapi.testclient import TestClient

from robopref.data.label_store import LabelStore
from robopref.data.label_tokens import AnnotatorTokens
from robopref.labeling.app import Study, build_app
from robopref.labeling.clips import Library
from robopref.labeling.desk import Desk
from robopref.labeling.items import make_items
from robopref.labeling.plan import make_plan
from robopref.labeling.studio import Studio
from tests.labeling.made import made_store
from tests.labeling.server import Server

pytestmark = pytest.mark.slow
ANSWERS, ROUNDS = 200, 20
PAIRS = 3000  # more than a fast machine answers in twenty times 0.6 s


class Person:
    """Answers as the page does: an answer that was not confirmed is sent again."""

    def __init__(self, name):
        self.name, self.pending, self.acknowledged = name, None, []

    def go_on(self, client):
        if self.pending is None:
            turn = client.get("/api/question", params={"annotator": self.name}).raise_for_status().json()
            assert turn["question"] is not None
            self.pending = {"annotator": self.name, "question": turn["question"]["id"], "choice": "left"}
        client.post("/api/answer", json=self.pending).raise_for_status()
        self.acknowledged.append(self.pending["question"])
        self.pending = None


@pytest.mark.timeout(1200)
def test_twenty_kills_during_two_hundred_answers_lose_nothing_and_repeat_nothing(tmp_path):
    store = made_store(tmp_path / "store", 80)
    rng = random.Random(0)
    people = [Person("anna"), Person("bert")]
    for _ in range(ROUNDS):
        server = Server(store.path, f"pairs={PAIRS}", "shared=0.2")
        killer = threading.Timer(rng.uniform(0.02, 0.6), server.kill)
        killer.start()
        with httpx.Client(base_url=server.url) as client:
            try:
                while server.process.poll() is None:
                    people[rng.randrange(2)].go_on(client)
            except httpx.TransportError:
                pass
        killer.join()
    server = Server(store.path, f"pairs={PAIRS}", "shared=0.2")  # what was pending is sent again
    with httpx.Client(base_url=server.url) as client:
        while sum(len(person.acknowledged) for person in people) < ANSWERS:
            people[rng.randrange(2)].go_on(client)
    server.kill()
    with LabelStore.beside(store) as labels:
        stored = list(labels.judgements().values())
    uids = [judgement.uid for judgement in stored]
    assert len(uids) == len(set(uids))
    for person in people:
        own = [judgement.uid for judgement in stored if judgement.annotator == person.name]
        assert set(person.acknowledged) <= set(own)
        assert len(own) <= len(person.acknowledged) + 1  # stored, and killed before it said so
        asked = [uid.split(".")[2] for uid in own if uid.split(".")[3] in ("new", "random")]
        assert len(asked) == len(set(asked))


def applications(tmp_path):
    for feedback in ("pair", "updown", "ranking"):
        store = made_store(tmp_path / feedback, 8)
        labels = LabelStore.beside(store)
        plan = (
            make_plan(store, pairs=20)
            if feedback == "pair"
            else make_items(store, feedback, items=5, clips=3)
        )
        studio = Studio(Library(store, store.path / "clips"))
        study = Study("toy", "Which?", False, None, feedback)
        yield (
            build_app(Desk(plan, labels, store), studio, study, annotators=AnnotatorTokens(labels.url)),
            studio,
        )


@pytest.mark.timeout(900)
def test_whatever_the_schema_allows_or_not_is_answered_without_a_5xx(tmp_path):
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    for app, studio in applications(tmp_path):
        client = TestClient(app, "http://127.0.0.1:8000", raise_server_exceptions=False)
        schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
        assert sum(fuzzed(client, operation.ok()) for operation in schema.get_all_operations()) > 100
        studio.close()


def fuzzed(client, operation):
    """Send what the schema allows, and much else; return how many requests that were."""
    from hypothesis import given, settings

    sent = []

    @given(case=operation.as_strategy())
    @settings(max_examples=60, deadline=None, database=None)
    def send(case):
        request = case.as_transport_kwargs(base_url="http://127.0.0.1:8000")
        names = ("method", "url", "params", "json", "headers", "cookies", "content", "data")
        reply = client.request(**{name: request[name] for name in names if name in request})
        assert reply.status_code < 500, (request, reply.text)
        sent.append(reply.status_code)

    send()
    return len(sent)
