"""The labelling application over HTTP: what it does, and what it answers to nonsense."""

import re

import pytest

from robopref.errors import DataError
from tests.labeling.lab import answer, ask


def test_a_person_answers_takes_back_and_answers_otherwise(lab, client):
    first = ask(client, "anna")
    second = answer(client, "anna", first["question"]["id"], note=" why ", response_time_s=2.5).json()
    assert (second["tally"]["answers"], second["last"]) == (1, first["question"]["id"])
    assert second["question"]["id"] != first["question"]["id"]
    back = client.post("/api/undo", json={"annotator": "anna", "answer": second["last"]}).json()
    assert back["question"]["clips"] == first["question"]["clips"]
    answer(client, "anna", back["question"]["id"], "equal", note="changed my mind")
    (stored,) = lab.labels.judgements(annotator="anna").values()
    assert (stored.answer, stored.note) == ("equal", "changed my mind")


def test_an_answer_is_stored_before_the_next_pair_is_shown(lab, client):
    for count in range(1, 4):
        answer(client, "before", ask(client, "before")["question"]["id"])
        assert lab.labels.count(annotator="before") == count


def test_the_same_answer_twice_is_stored_once_and_another_is_a_conflict(lab, client):
    question = ask(client, "twice")["question"]["id"]
    replies = [answer(client, "twice", question) for _ in range(3)]
    assert {reply.status_code for reply in replies} == {200}
    assert len({reply.json()["question"]["id"] for reply in replies}) == 1
    assert answer(client, "twice", question, "right").status_code == 409
    assert lab.labels.count(annotator="twice") == 1


def test_a_clip_is_made_and_sent_as_video_in_parts_if_wished(client):
    key = ask(client, "viewer")["question"]["clips"][0]
    about = client.get(f"/api/clips/{key}").json()
    assert (about["state"], about["drawn_by"], about["frames"], about["fps"]) == (
        "ready",
        "keypoints",
        13,
        20.0,
    )
    assert "nowhere" in about["reason"]  # why it was not rendered
    whole = client.get(f"/clips/{key}.mp4")
    assert whole.headers["content-type"] == "video/mp4"
    assert whole.content[4:8] == b"ftyp"
    part = client.get(f"/clips/{key}.mp4", headers={"Range": "bytes=0-9"})
    assert (part.status_code, part.content) == (206, whole.content[:10])


@pytest.mark.parametrize(
    "path",
    [
        "/clips/../labels.sqlite.mp4",
        "/clips/..%2f..%2fetc%2fpasswd.mp4",
        "/clips/%2e%2e%2flabels.mp4",
        "/clips/" + "0" * 32 + ".mp4",
        "/clips/" + "0" * 5000 + ".mp4",
        "/api/clips/" + "0" * 32,
        "/static/..%2fapp.py",
        "/static/../app.py",
        "/static/%2fetc%2fpasswd",
    ],
)
def test_no_path_of_a_request_reaches_the_file_system(client, path):
    reply = client.get(path)
    assert reply.status_code in (404, 422)
    assert set(reply.json()) == {"error"}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"annotator": "x", "question": "y", "choice": "up"},
        {"annotator": "", "question": "y", "choice": "left"},
        {"annotator": "a\u0000", "question": "y", "choice": "left"},
        {"annotator": "x", "question": "y" * 65, "choice": "left"},
        {"annotator": "x", "question": "y", "choice": "left", "response_time_s": -1},
        {"annotator": "x", "question": "y", "choice": "left", "response_time_s": 1e300},
        {"annotator": "x", "question": "y", "choice": "left", "note": "n" * 2001},
        {"annotator": "x", "question": "y", "choice": "left", "admin": True},
        {"annotator": "x", "question": "y", "choice": "left", "slightly": True},  # this study does not ask
        [],
    ],
)
def test_a_malformed_answer_gets_a_sentence(client, body):
    reply = client.post("/api/answer", json=body)
    assert reply.status_code == 422
    assert set(reply.json()) == {"error"}
    assert "Traceback" not in reply.text


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"NaN", b'{"annotator": NaN}', b"[" * 9000])
def test_what_is_no_json_gets_a_sentence(client, body):
    reply = client.post("/api/answer", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code in (400, 422)
    assert set(reply.json()) == {"error"}


def test_an_unknown_question_is_not_found(client):
    assert answer(client, "anna", "no-such-question").status_code == 404


def test_a_way_that_is_not_offered_is_refused_with_those_that_are(client):
    reply = client.post("/api/study", json={})
    assert (reply.status_code, reply.headers["allow"]) == (405, "GET")


def test_strength_is_taken_where_the_study_asks_for_it(lab):
    client = lab(strength=True)
    question = ask(client, "strong")["question"]["id"]
    assert answer(client, "strong", question, slightly=True).status_code == 200
    (stored,) = lab.labels.judgements(annotator="strong").values()
    assert stored.answer in (0.25, 0.75)


def test_progress_and_quality_tell_of_everybody(lab, client):
    for name in ("paul", "rosa"):
        for _ in range(6):
            answer(client, name, ask(client, name)["question"]["id"], response_time_s=3.0)
    people = {person["annotator"]: person for person in client.get("/api/progress").json()["people"]}
    assert people["paul"]["answers"] == people["paul"]["done"] == 6
    found = client.get("/api/quality").json()
    assert {"paul", "rosa"} <= {person["annotator"] for person in found["annotators"]}
    assert found["alpha_nominal"]["value"] is not None
    assert found["response_times"][3] >= 12  # three to five seconds
    # a new answer shows at once
    before = next(p for p in found["annotators"] if p["annotator"] == "paul")["answers"]
    answer(client, "paul", ask(client, "paul")["question"]["id"])
    now = client.get("/api/quality").json()["annotators"]
    assert next(p for p in now if p["annotator"] == "paul")["answers"] == before + 1


def test_the_part_that_decided_is_stored_and_nonsense_is_refused(lab, client):
    question = ask(client, "parts")["question"]["id"]
    for nonsense in ([3], [-1, 2], [0, 0], [0, 10**9], [10**6, 1], "all", [1.5, 2]):
        assert answer(client, "parts", question, decided=nonsense).status_code == 422
    assert answer(client, "parts", question, decided=[3, 4]).status_code == 200
    (stored,) = lab.labels.judgements(annotator="parts").values()
    assert (stored.decided_start, stored.decided_length) == (3, 4)


@pytest.mark.parametrize("page", ["/", "/quality", "/admin"])
def test_every_page_is_free_of_inline_code(client, page):
    assert not re.search(r"<script(?![^>]*src=)|style=|\son\w+=|https?:", client.get(page).text)


def test_a_full_disk_is_a_sentence_and_the_question_stays(lab, client, monkeypatch):
    question = ask(client, "full")["question"]["id"]

    def full(*_, **__):
        raise DataError("The label store failed: the disk is full; nothing that was stored is lost.")

    with monkeypatch.context() as patch:
        patch.setattr(lab.labels, "add", full)
        reply = answer(client, "full", question)
    assert (reply.status_code, "disk is full" in reply.json()["error"]) == (503, True)
    assert ask(client, "full")["question"]["id"] == question
    assert answer(client, "full", question).status_code == 200
