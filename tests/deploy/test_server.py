"""The policy server: openpi's protocol, and everything that may go wrong around it."""

# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalOperand=false

import contextlib
import os
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgpack
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus

from robopref.deploy.audit import AuditLog, read_audit
from robopref.deploy.bundle import load
from robopref.deploy.client import ServerError
from robopref.deploy.codec import pack, unpack
from robopref.deploy.selection import Selector
from robopref.deploy.server import Bounds
from robopref.errors import DataError
from tests.deploy.made import make_bundle, seen
from tests.deploy.running import Running, healthz


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return load(make_bundle(tmp_path_factory.mktemp("deploy") / "b", horizon=4))


@pytest.fixture(scope="module")
def server(bundle):
    bounds = Bounds(message_bytes=2**20, connections=16, handshake_s=1.0)
    with Running(Selector(bundle, candidates=8), bounds=bounds, ignored=["prompt"]) as running:
        yield running
        assert still_serves(running)


def still_serves(running):
    with running.client() as client:
        return client.infer(seen(0.5))["actions"].shape == (4, 2)


# --- the protocol -------------------------------------------------------------------------------------------


def test_the_metadata_comes_first_and_names_the_observations(server, bundle):
    with server.client() as client:
        assert [part["name"] for part in client.metadata["observation"]] == bundle.keys
        assert client.metadata["control_hz"] == 10.0
        assert client.metadata["bundle"] == bundle.fingerprint


def test_an_answer_holds_a_chunk_timings_and_scores(server):
    with server.client() as client:
        first, second = (client.infer({**seen(0.5), "prompt": "fold"}) for _ in range(2))
    assert first["actions"].shape == (4, 2)
    assert first["actions"].dtype == np.float32
    assert len(first["scores"]) == first["candidates"] == 8
    assert first["scores"][first["chosen"]] == max(first["scores"])
    assert first["score_parts"].keys() == {"mean", "epistemic", "aleatoric", "error"}
    assert all(len(column) == 8 for column in first["score_parts"].values())
    assert first["fallback"] is None
    assert first["policy_timing"]["total_ms"] <= first["server_timing"]["infer_ms"]
    assert "prev_total_ms" not in first["server_timing"]
    assert second["server_timing"]["prev_total_ms"] > 0


def test_only_the_actions_are_an_array_since_openpi_s_broker_cuts_every_array_by_time(server):
    with server.rude() as connection:
        connection.send(pack(seen()))
        answer = connection.recv(timeout=5)
    assert answer.count(b"__ndarray__") == 1


def test_every_connection_decides_the_same_from_its_beginning(server):
    def chunks():
        with server.client() as client:
            return [client.infer(seen(0.1))["actions"].tolist() for _ in range(3)]

    first = chunks()
    assert first == chunks()
    assert first[0] != first[1]


def test_healthz_answers_without_a_handshake(server):
    assert healthz(server) == (200, b"OK\n")


def test_a_decision_that_could_not_be_written_is_logged_though_no_other_follows(bundle, tmp_path, caplog):
    class Full(AuditLog):
        def write(self, decision, **more):
            raise DataError("the disk is full")

    with (
        Full(tmp_path / "a.jsonl", bundle=bundle.fingerprint, seed=0) as audit,
        Running(Selector(bundle), audit=audit) as running,
        running.client() as client,
    ):
        client.infer(seen())
        for _ in range(100):
            if "the disk is full" in caplog.text:
                break
            time.sleep(0.05)
    assert "A decision was not written to the audit log: the disk is full" in caplog.text


def test_where_the_audit_log_lies_is_told_to_no_client(bundle, tmp_path):
    class Full(AuditLog):
        def write(self, decision, **more):
            raise DataError(f"{self.path} cannot be written: the disk is full")

    with (
        Full(tmp_path / "a.jsonl", bundle=bundle.fingerprint, seed=0) as audit,
        Running(Selector(bundle), audit=audit) as running,
        running.rude() as connection,
    ):
        answer = b""
        while not isinstance(answer, str):
            with contextlib.suppress(ConnectionClosed):  # what was sent before it closed can still be read
                connection.send(pack(seen()))
            answer = connection.recv(timeout=5)
    assert answer == "The audit log cannot be written; the server's own log says why."


def test_decisions_are_in_the_audit_log(bundle, tmp_path):
    with (
        AuditLog(tmp_path / "a.jsonl", bundle=bundle.fingerprint, seed=0) as audit,
        Running(Selector(bundle), audit=audit) as running,
        running.client() as client,
    ):
        sent = [client.infer(seen(x))["actions"] for x in (0.1, 0.2)]
    records = read_audit(tmp_path / "a.jsonl")
    assert [r["observation"][0] for r in records] == pytest.approx([0.1, 0.2])
    assert [r["actions"] for r in records] == pytest.approx(np.array(sent), abs=1e-5)


# --- what is refused ----------------------------------------------------------------------------------------

BAD = {
    "no msgpack": b"\xc1\xc1\xc1",
    "empty": b"",
    "truncated": pack(seen())[:-3],
    "more behind it": pack(seen()) + b"\0",
    "a list": pack([1, 2]),
    "a number": pack(7),
    "unknown key": pack({**seen(), "observation/wrist": np.zeros(1)}),
    "missing key": pack({"observation/arm": np.zeros(2)}),
    "wrong shape": pack({**seen(), "observation/arm": np.zeros(3)}),
    "an image": pack({**seen(), "observation/arm": np.zeros((224, 224, 3), np.uint8)}),
    "text for an array": pack({**seen(), "observation/arm": "ab"}),
    "nested": pack({**seen(), "observation/arm": {"x": {"y": [1]}}}),
    "NaN": pack({**seen(), "observation/goal": np.array([np.nan])}),
    "infinity": pack({**seen(), "observation/goal": np.array([-np.inf])}),
    "out of range": pack(seen(1e6)),
    "objects": msgpack.packb({b"__ndarray__": True, b"data": b"\x80\x04N.", b"dtype": "|O", b"shape": [1]}),
    "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07os.exit\x94.",
    "a text frame": "hello",
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_request_is_answered_with_a_sentence_and_1011(server, what):
    with server.rude() as connection:
        connection.send(BAD[what])
        sentence = connection.recv(timeout=5)
        with pytest.raises(ConnectionClosedError) as closed:
            connection.recv(timeout=5)
    assert isinstance(sentence, str)
    assert 10 < len(sentence) < 300
    assert "Traceback" not in sentence
    assert ".py" not in sentence
    assert closed.value.rcvd.code == 1011


def test_a_misspelt_key_is_answered_with_the_right_one(server):
    with server.client() as client, pytest.raises(ServerError, match="Did you mean 'observation/arm'"):
        client.infer({"observation/amr": np.zeros(2), "observation/goal": np.zeros(1)})


def test_a_message_that_is_too_long_ends_the_connection(server):
    with server.rude() as connection:
        connection.send(b"\0" * (2**20 + 1))
        with pytest.raises(ConnectionClosedError) as closed:
            connection.recv(timeout=5)
    assert closed.value.rcvd.code == 1009


def raw(server):
    """A socket behind a finished handshake."""
    plain = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    plain.sendall(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    time.sleep(0.2)
    assert plain.recv(65536).startswith(b"HTTP/1.1 101")
    return plain


def ends(plain):
    """Whether the other side closes within 10 s."""
    try:
        while plain.recv(65536):
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True


def test_an_announced_gibibyte_ends_the_connection_at_once(server):
    with raw(server) as plain:
        plain.sendall(b"\x82\xff" + struct.pack(">Q", 2**30) + b"\0\0\0\0")
        started = time.monotonic()
        assert ends(plain)
        assert time.monotonic() - started < 3


def test_a_frame_that_is_cut_off_leaves_the_server_standing(server):
    with raw(server) as plain:
        plain.sendall(b"\x82\xfe\x01\x00\0\0\0\0half")
    assert still_serves(server)


def test_a_handshake_that_trickles_is_cut_off(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        started = time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            served = pool.submit(still_serves, server)
            assert ends(plain)  # handshake_s is 1 here
            assert time.monotonic() - started < 5
            assert served.result()


def test_a_frame_that_trickles_is_cut_off_by_the_unanswered_ping(bundle):
    bounds = Bounds(handshake_s=0.5, ping_s=0.5)
    with Running(Selector(bundle), bounds=bounds) as running, raw(running) as plain:
        plain.sendall(b"\x82\xfe\x10\x00\0\0\0\0")
        assert ends(plain)
        assert still_serves(running)


def test_who_is_silent_for_too_long_is_sent_away(bundle):
    with Running(Selector(bundle), bounds=Bounds(silence_s=0.3)) as running, running.rude() as connection:
        with pytest.raises(Exception, match="no request for too long"):
            connection.recv(timeout=5)
        assert still_serves(running)


def test_a_hundred_connections_are_answered_or_turned_away(server):
    def one(_):
        try:
            with server.client() as client:
                return "answered" if client.infer(seen())["actions"].shape == (4, 2) else "wrong"
        except ServerError as error:
            return "turned away" if "503" in str(error) else str(error)

    with ThreadPoolExecutor(100) as pool:
        found = list(pool.map(one, range(100)))
    assert set(found) <= {"answered", "turned away"}
    assert found.count("answered") >= 16  # so many may be connected at once
    assert still_serves(server)


def test_no_more_than_so_many_are_connected_at_once_and_healthz_still_answers(bundle):
    with Running(Selector(bundle), bounds=Bounds(connections=2)) as running:
        with running.rude(), running.rude():
            with pytest.raises(InvalidStatus, match="503"), running.rude():
                pass
            assert healthz(running)[0] == 200
        time.sleep(0.2)
        assert still_serves(running)


def test_clients_that_die_mid_request_leave_nothing_behind(server):
    for _ in range(8):
        plain = raw(server)
        request = pack(seen())
        plain.sendall(b"\x82" + bytes([0x80 | 126]) + struct.pack(">H", len(request)) + b"\0\0\0\0" + request)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        plain.close()  # a reset, as from a process that was killed
    deadline = time.monotonic() + 5
    while server.server._open and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.server._open == 0
    assert still_serves(server)


class Failing:
    """A sampler that raises, or never returns."""

    def __init__(self, real, error=None, seconds=0.0):
        self.real, self.error, self.seconds = real, error, seconds

    def noise(self, rng, count):
        return self.real.noise(rng, count)

    def sample(self, observation, noise, pause):
        if self.error is not None:
            raise self.error
        time.sleep(self.seconds)
        return self.real.sample(observation, noise, pause)


@pytest.mark.parametrize("error", [ValueError("secret /home/lab/key.pem"), MemoryError(), KeyError("secret")])
def test_a_policy_that_raises_is_answered_without_what_it_said(tmp_path, error):
    bundle = load(make_bundle(tmp_path / "b"))
    real = bundle.sampler
    with Running(Selector(bundle)) as running:
        bundle.sampler = Failing(real, error)
        with running.client() as client, pytest.raises(ServerError, match="The policy failed") as refused:
            client.infer(seen())
        assert "secret" not in str(refused.value)
        bundle.sampler = real
        with running.client() as client:
            assert client.infer(seen())["actions"].shape == (1, 2)


def test_a_policy_that_hangs_is_answered_in_time_and_healthz_says_so(tmp_path):
    bundle = load(make_bundle(tmp_path / "b"))
    real = bundle.sampler
    with Running(Selector(bundle), bounds=Bounds(answer_s=0.3)) as running:
        bundle.sampler = Failing(real, seconds=1.5)
        started = time.monotonic()
        with running.client() as client, pytest.raises(ServerError, match=r"No answer within 0\.3 s"):
            client.infer(seen())
        assert time.monotonic() - started < 1.4
        with pytest.raises(urllib.error.HTTPError, match="503"):
            healthz(running)
        bundle.sampler = real
        time.sleep(1.6)
        assert healthz(running) == (200, b"OK\n")


def test_while_a_policy_hangs_nothing_waits_for_it(tmp_path):
    bundle = load(make_bundle(tmp_path / "b"))
    begun, release = [], threading.Event()

    class Hanging(Failing):
        def sample(self, observation, noise, pause):
            begun.append(1)
            release.wait(10)
            return super().sample(observation, noise, pause)

    with Running(Selector(bundle), bounds=Bounds(answer_s=0.3)) as running:
        bundle.sampler = Hanging(bundle.sampler)

        def ask(_):
            started = time.monotonic()
            with running.client() as client, pytest.raises(ServerError) as refused:
                client.infer(seen())
            return str(refused.value), time.monotonic() - started

        with ThreadPoolExecutor(4) as pool:
            assert all("No answer within" in sentence for sentence, _ in pool.map(ask, range(4)))
        sentence, took = ask(0)
        assert "The policy hangs" in sentence
        assert took < 0.3
        release.set()
        for _ in range(100):
            if healthz_status(running) == 200:
                break
            time.sleep(0.05)
        with running.client() as client:
            assert client.infer(seen())["chosen"] is not None
    assert len(begun) == 2  # the one that hung, and the last: those that waited were dropped


def healthz_status(running):
    try:
        return healthz(running)[0]
    except urllib.error.HTTPError as error:
        return error.code


def test_with_a_deadline_a_policy_that_hangs_is_answered_by_holding_still(tmp_path):
    bundle = load(make_bundle(tmp_path / "b"))
    real = bundle.sampler
    with Running(Selector(bundle, deadline_s=0.1), bounds=Bounds(answer_s=0.3)) as running:
        bundle.sampler = Failing(real, seconds=1.2)
        with running.client() as client:
            answers = []
            for _ in range(2):
                started = time.monotonic()
                answers.append((client.infer(seen()), time.monotonic() - started))
            assert all(answer["fallback"] == "hold: no time" and took < 0.3 for answer, took in answers)
            assert answers[0][0]["actions"].tolist() == [[0.0, 0.0]]
            time.sleep(0.5)
            with pytest.raises(urllib.error.HTTPError, match="503"):  # it has run for longer than answer_s
                healthz(running)
            bundle.sampler = real
            time.sleep(1.0)
            assert healthz(running) == (200, b"OK\n")
            assert client.infer(seen())["chosen"] is not None


def test_waiting_for_another_client_s_decision_counts_towards_the_deadline(tmp_path):
    bundle = load(make_bundle(tmp_path / "b"))
    with Running(Selector(bundle, deadline_s=0.3)) as running:
        bundle.sampler = Failing(bundle.sampler, seconds=0.25)

        def ask(_):
            with running.client() as client:
                started = time.monotonic()
                client.infer(seen())
                return time.monotonic() - started

        with ThreadPoolExecutor(4) as pool:
            assert max(pool.map(ask, range(4))) < 0.6  # one after the other they would take a second


class SlowLog(AuditLog):
    """On a disk that takes a while."""

    def write(self, decision, **more):
        time.sleep(0.3)
        super().write(decision, **more)


def test_a_slow_disk_delays_no_answer_and_loses_no_decision(bundle, tmp_path):
    with (
        SlowLog(tmp_path / "a.jsonl", bundle=bundle.fingerprint, seed=0) as audit,
        Running(Selector(bundle), audit=audit) as running,
        running.client() as client,
    ):
        started = time.monotonic()
        for _ in range(3):
            client.infer(seen())
        assert time.monotonic() - started < 0.6
    assert len(read_audit(tmp_path / "a.jsonl")) == 3


def test_a_slow_policy_does_not_keep_pings_from_being_answered(tmp_path):
    bundle = load(make_bundle(tmp_path / "b"))
    with Running(Selector(bundle)) as running, running.rude() as connection:
        bundle.sampler = Failing(bundle.sampler, seconds=1.0)
        connection.send(pack(seen()))
        assert connection.ping().wait(0.7)
        assert "actions" in unpack(connection.recv(timeout=5))


# --- for long -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_memory_stays_flat_over_ten_thousand_requests(bundle, request):
    import logging

    logging.disable()  # pytest would keep every refusal, with the frames of its traceback
    request.addfinalizer(lambda: logging.disable(logging.NOTSET))
    with Running(Selector(bundle), ignored=["image"]) as running:
        peaks = []
        for _ in range(6):
            with running.client() as client:
                for _ in range(1900):
                    client.infer({**seen(), "image": np.zeros((64, 64, 3), np.uint8)})
            for what in ("NaN", "no msgpack", "wrong shape", "truncated") * 25:
                with running.rude() as connection:
                    connection.send(BAD[what])
                    assert isinstance(connection.recv(timeout=5), str)
            pages = int(Path("/proc/self/statm").read_text().split()[1])  # resident now; a peak may be older
            peaks.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
    assert peaks[-1] - peaks[1] < 4, peaks  # MiB, for 8,000 requests after the first 4,000
