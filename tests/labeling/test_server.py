"""The server as a process: starts with a sentence, ends cleanly, loses nothing when it is killed."""

import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest

from robopref.data import TrajectoryStore
from robopref.data.label_store import LabelStore
from robopref.errors import ConfigError
from robopref.labeling.serve import address, bind, choose_token
from tests.labeling.made import check_refused, made_store
from tests.labeling.server import Server, serving


@pytest.fixture
def store(tmp_path):
    return made_store(tmp_path / "store", 20)


def answer_next(client, name):
    question = client.get("/api/question", params={"annotator": name}).json()["question"]["id"]
    reply = client.post("/api/answer", json={"annotator": name, "question": question, "choice": "left"})
    reply.raise_for_status()
    return question


def test_answers_of_a_server_killed_at_any_moment_are_all_there_and_none_is_twice(store):
    acknowledged = []
    for round in range(2):
        server = Server(store.path, "shared=1.0")
        killer = threading.Timer(0.7 + 0.4 * round, server.kill)
        with httpx.Client(base_url=server.url, timeout=60) as client:
            try:
                for number in range(10_000):
                    if number == 3:
                        killer.start()
                    acknowledged.append(answer_next(client, ("anna", "bert")[number % 2]))
            except httpx.TransportError:
                pass
        killer.join()
    with LabelStore.beside(store) as labels:
        stored = list(labels.judgements().values())
    assert len(acknowledged) > 4
    assert set(acknowledged) <= {judgement.uid for judgement in stored}
    pairs = [(j.annotator, j.a_episode, j.b_episode) for j in stored if ".random." in j.uid]
    assert len(pairs) == len(set(pairs))


def test_ctrl_c_ends_with_a_sentence_and_the_count_also_while_a_page_waits_for_a_clip(store):
    with serving(store.path) as server:
        assert server.said.startswith("Starting the labelling page")
        with httpx.Client(base_url=server.url) as client:
            answer_next(client, "anna")
            question = client.get("/api/question", params={"annotator": "anna"}).json()["question"]
        waiting = threading.Thread(target=httpx.get, args=(f"{server.url}api/clips/{question['clips'][0]}",))
        waiting.start()
        time.sleep(0.3)
        assert server.end(signal.SIGINT) == 0
        waiting.join()
        assert "1 human answer in" in server.said
        assert "Traceback" not in server.said
        assert "ERROR" not in server.said


def test_beyond_this_machine_a_token_is_made_printed_and_needed(store):
    with serving(store.path, "host=0.0.0.0") as server:
        token = server.url.partition("?token=")[2]
        assert len(token) >= 24
        here = f"http://127.0.0.1:{server.port}"
        assert httpx.get(f"{here}/api/study").status_code == 401
        assert httpx.get(f"{here}/api/study", headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_a_taken_port_is_refused_with_the_next_free_one():
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"Port {port} is taken.*Free is: port=\d+"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70000), ("127.0.0.1", -1), ("192.0.2.1", 8000)])
def test_an_address_that_cannot_be_ours_is_refused(host, port):
    with pytest.raises(ConfigError, match="port"):
        bind(host, port)


def test_tokens_are_made_where_they_are_needed_and_refused_where_they_are_weak():
    assert choose_token("127.0.0.1", None) is None
    assert choose_token("0.0.0.0", None) != choose_token("0.0.0.0", None)
    assert choose_token("127.0.0.1", "sixteen-letters-") == "sixteen-letters-"
    for weak in ("", "short", "with;semicolon-and-more", "with space and more", "ünïcödé-ünïcödé-ü"):
        with pytest.raises(ConfigError, match="16 or more"):
            choose_token("0.0.0.0", weak)


def test_the_printed_address_can_be_opened():
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert address(taken, None) == f"http://127.0.0.1:{port}/"
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "data=<...> is missing"),
        (["data=nowhere"], "nowhere"),
        (["data=store", "pairs=0"], "pairs must be 1 or more"),
        (["data=store", "query=randm"], "Did you mean 'random'?"),
        (["data=store", "segment_length=13"], "needs two different"),
        (["data=store", "port=99999"], "port must lie between"),
        (["data=store", "host=0.0.0.0", "token=abc"], "16 or more"),
        (["data=store", "workers=0"], "workers must be 1 or more"),
        (["data=store", "annotator="], "1 to 64"),
        (["data=store", "prot=8000"], "Did you mean 'port'?"),
        (["data=store", "feedback=pairs"], "Did you mean 'pair'?"),
        (["data=store", "feedback=updown", "query=entropy"], "one at a time"),
        (["data=store", "feedback=updown", "gold=3"], "only feedback=pair knows that"),
        (["data=store", "feedback=ranking", "k=1"], "2 to 26 clips"),
        (["data=store", "feedback=ranking", "k=26"], "needs 26 different ones"),
    ],
)
def test_bad_options_get_a_sentence(store, monkeypatch, capfd, options, sentence):
    monkeypatch.chdir(store.path.parent)
    check_refused(["label", *options], sentence, capfd)


def test_empty_data_gets_a_sentence(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    TrajectoryStore.create(
        tmp_path / "empty", observation_size=2, action_size=2, keypoints=[], control_hz=20.0
    ).close()
    check_refused(["label", "data=empty"], "holds no episodes", capfd)


def test_without_the_extra_one_sentence_says_what_to_install(store):
    program = (
        "import sys; sys.modules['fastapi'] = None; from robopref.cli import main; "
        f"sys.exit(main(['label', 'data={store.path}']))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200)
    assert ran.returncode == 1
    assert "pip install 'robopref[label]'" in ran.stderr
    assert "Traceback" not in ran.stderr
