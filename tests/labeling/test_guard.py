"""Who may ask the labelling application, what they may send, and what leaves it."""

import asyncio
import re

import pytest

from robopref.data.label_tokens import AnnotatorTokens
from robopref.labeling.guard import MAX_BODY
from tests.labeling.lab import answer, ask

TOKEN = "a-token-of-the-team"
TEAM = "http://team.example:8000"
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture
def tokens(lab):
    tokens = AnnotatorTokens(lab.labels.url)
    yield tokens
    tokens.close()


def test_every_answer_carries_strict_headers_and_no_page_has_inline_code(client):
    page = client.get("/")
    for reply in (page, client.get("/api/study"), client.get("/nowhere"), client.post("/api/answer")):
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<script(?![^>]*src=)|style=|\son\w+=|https?:", page.text)


def test_a_huge_body_is_refused_whether_or_not_it_says_its_size(client):
    huge = b"x" * (MAX_BODY + 1)
    pieces = iter([huge[:9000]] * 4)
    for content in (huge, pieces):
        reply = client.post("/api/answer", content=content, headers={"Content-Type": "application/json"})
        assert reply.status_code == 413


def test_a_body_that_never_ends_is_given_up(lab, monkeypatch):
    monkeypatch.setattr("robopref.labeling.guard.BODY_TIMEOUT_S", 0.05)
    sent = []

    async def never():
        await asyncio.sleep(60)

    async def keep(message):
        sent.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/api/answer", "query_string": b"", "headers": headers}
    asyncio.run(lab().app(scope, never, keep))
    assert sent[0]["status"] == 408


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "[::1", "localhost.evil:8000"]
)
def test_a_name_that_is_not_this_machines_is_refused(client, host):
    assert client.get("/api/study", headers={"Host": host}).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:9000", "[::1]:8000"])
def test_this_machines_own_names_are_let_in(client, host):
    assert client.get("/api/study", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Origin": "127.0.0.1:8000"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_page_of_another_site_cannot_answer(lab, client, headers):
    question = ask(client, "victim")["question"]["id"]
    body = {"annotator": "victim", "question": question, "choice": "left"}
    assert client.post("/api/answer", json=body, headers=headers).status_code == 403
    assert lab.labels.count(annotator="victim") == 0


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize("path", ["/api/question?annotator=lured", "/api/study", "/clips/x.mp4"])
def test_a_page_of_another_site_cannot_ask(client, site, path):
    assert client.get(path, headers={"Sec-Fetch-Site": site}).status_code == 403


@pytest.mark.parametrize("headers", [{}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}])
def test_own_pages_an_address_and_scripts_can_ask(client, headers):
    assert client.get("/api/study", headers=headers).status_code == 200
    assert client.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200  # by a link


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_a_plain_form_cannot_answer(client, kind):
    reply = client.post("/api/answer", content=b"{}", headers={"Content-Type": kind})
    assert reply.status_code == 415


def test_without_the_token_nothing_is_let_in(lab):
    client = lab(token=TOKEN, base=TEAM)
    for path in ("/", "/api/study", "/static/app.js", "/clips/x.mp4", "/openapi.json"):
        assert client.get(path).status_code == 401
    wrong = TOKEN[:-1] + "x"
    for headers in (
        {"Authorization": f"Bearer {wrong}"},
        {"Cookie": f"robopref_token={wrong}"},
        {"Cookie": '"'},
    ):
        assert client.get("/api/study", headers=headers).status_code == 401
    assert client.get("/", params={"token": wrong}).status_code == 401
    assert (
        client.get("/api/study", params={"token": TOKEN}).status_code == 401
    )  # only the page takes it there
    assert client.post("/api/answer", json={}).status_code == 401


def test_a_person_without_the_token_gets_a_page_that_repeats_nothing_of_the_request(lab):
    client = lab(token=TOKEN, base=TEAM)
    for asked in ({}, {"token": "<script>wrong</script>"}, {"annotator": "<b>me"}):
        page = client.get("/", params=asked, headers=BROWSER)
        assert page.status_code == 401
        assert page.headers["content-type"].startswith("text/html")
        assert "unsafe" not in page.headers["content-security-policy"]
        assert "needs the token" in page.text
        assert "wrong" not in page.text
        assert "<b>me" not in page.text
        assert TOKEN not in page.text
        assert not re.search(r"<script|style=|\son\w+=|https?:", page.text)
        assert 'href="/"' not in page.text  # which would say the same again
    assert client.get("/static/style.css").status_code == 200  # which that page wears
    reply = client.get("/api/study", headers=BROWSER)
    assert (reply.status_code, set(reply.json())) == (401, {"error"})


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("/nowhere", 404, "Not Found"),
        ("/quality", 403, "This page is for the person who runs the study."),
        ("/admin", 403, "This page is for the person who runs the study."),
    ],
)
def test_whoever_opens_what_is_not_theirs_gets_a_page_that_says_why(lab, tokens, path, status, sentence):
    own = {"Authorization": f"Bearer {tokens.issue('gast')}"}
    client = lab(token=TOKEN, base=TEAM, annotators=tokens)
    page = client.get(path, headers=BROWSER | own)
    assert '<a class="minor" href="/">' in page.text
    assert "refused.js" in page.text
    assert f"<p>{sentence}</p>" in page.text
    assert (page.status_code, page.headers["content-type"]) == (status, "text/html; charset=utf-8")
    assert "<h1>" in page.text


def test_a_link_of_another_site_opens_a_page_that_waits_for_the_person(client):
    for site, waits in (("cross-site", True), ("same-site", True), ("same-origin", False), ("none", False)):
        page = client.get("/", params={"annotator": "lured"}, headers={"Sec-Fetch-Site": site})
        assert ("data-lured" in page.text) == waits


def test_a_link_that_brings_a_token_waits_too_where_the_browser_does_not_say_whose_it_is(lab):
    client = lab(token=TOKEN, base=TEAM)  # browsers say it to HTTPS and to this machine alone
    for headers, waits in (({}, True), ({"Sec-Fetch-Site": "none"}, False)):
        page = client.get("/", params={"token": TOKEN, "annotator": "lured"}, headers=headers)
        assert ("data-lured" in page.text) == waits
    again = client.get("/", params={"annotator": "lured"})  # by the cookie, which no other site's link brings
    assert "data-lured" not in again.text


def test_the_printed_address_leaves_the_token_in_a_cookie_that_scripts_cannot_read(lab):
    client = lab(token=TOKEN, base=TEAM)
    page = client.get("/", params={"token": TOKEN})
    assert page.status_code == 200
    assert "HttpOnly" in page.headers["set-cookie"]
    assert "SameSite=Strict" in page.headers["set-cookie"]
    assert client.get("/api/study").status_code == 200
    other = lab(token=TOKEN, base=TEAM)
    assert other.get("/api/study", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_a_mistake_of_the_server_is_answered_without_a_traceback(lab, client, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(lab.desk, "question", broken)
    reply = client.get("/api/question", params={"annotator": "anna"})
    assert reply.status_code == 500
    assert "secret" not in reply.text
    assert "terminal" in reply.json()["error"]
    assert "content-security-policy" in reply.headers


def test_a_person_s_token_lets_in_that_person_alone(lab, tokens):
    own = tokens.issue("tina")
    client = lab(token=TOKEN, base=TEAM, annotators=tokens)
    assert client.get("/", params={"token": own}).status_code == 200
    about = client.get("/api/study").json()
    assert (about["annotator"], about["bound"], about["admin"]) == ("tina", True, False)
    question = ask(client, "tina")["question"]["id"]
    assert answer(client, "tina", question).status_code == 200
    other = client.get("/api/question", params={"annotator": "udo"})
    assert (other.status_code, "tina" in other.json()["error"]) == (403, True)
    assert answer(client, "udo", question).status_code == 403
    assert client.post("/api/undo", json={"annotator": "udo", "answer": question}).status_code == 403


def test_pages_about_everybody_are_for_the_person_who_runs_the_study(lab, tokens):
    own = {"Authorization": f"Bearer {tokens.issue('vera')}"}
    whole = {"Authorization": f"Bearer {TOKEN}"}
    client = lab(token=TOKEN, base=TEAM, annotators=tokens)
    for path in ("/quality", "/admin", "/api/quality", "/api/progress"):
        assert client.get(path, headers=own).status_code == 403
        assert client.get(path, headers=whole).status_code == 200
        assert lab().get(path).status_code == 200  # on this machine


def test_a_revoked_token_lets_nobody_in(lab, tokens, monkeypatch):
    monkeypatch.setattr("robopref.data.label_tokens.REMEMBERED_S", 0.0)
    own = {"Authorization": f"Bearer {tokens.issue('walt')}"}
    client = lab(token=TOKEN, base=TEAM, annotators=tokens)
    assert client.get("/api/study", headers=own).status_code == 200
    tokens.revoke("walt")
    assert client.get("/api/study", headers=own).status_code == 401


def test_a_person_s_token_is_refused_with_a_sentence_while_the_store_is_away(lab, tmp_path, monkeypatch):
    monkeypatch.setattr("robopref.data.label_tokens.REMEMBERED_S", 0.0)
    file = tmp_path / "labels.sqlite"
    tokens = AnnotatorTokens(f"sqlite:///{file}")
    own = {"Authorization": f"Bearer {tokens.issue('yves')}"}
    client = lab(token=TOKEN, base=TEAM, annotators=tokens)
    file.rename(tmp_path / "away")
    for headers in (own, {"Authorization": "Bearer wrong"}):
        reply = client.get("/api/study", headers=headers)
        assert (reply.status_code, "label store cannot be read" in reply.json()["error"]) == (503, True)
        assert str(tmp_path) not in reply.text
    (tmp_path / "away").rename(file)
    assert client.get("/api/study", headers=own).json()["annotator"] == "yves"
    tokens.close()


def test_tokens_are_compared_in_constant_time(lab, tokens, monkeypatch):
    compared = []

    def watched(a, b):
        compared.append((a, b))
        return False

    tokens.issue("xenia")
    monkeypatch.setattr("robopref.labeling.guard.secrets.compare_digest", watched)
    client = lab(token=TOKEN, base=TEAM, annotators=tokens)
    client.get("/api/study", headers={"Authorization": "Bearer wrong"})
    assert (b"wrong", TOKEN.encode()) in compared
    assert len(compared) > 1  # and with every person's
