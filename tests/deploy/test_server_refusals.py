"""Bad requests, rude connections and too many of them: the policy server answers or ends them, and stands."""

# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalOperand=false

import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import msgpack
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from robopref.deploy.bundle import load
from robopref.deploy.client import Client, ServerError
from robopref.deploy.codec import pack
from robopref.deploy.selection import Selector
from robopref.deploy.server import Bounds
from tests.deploy.made import make_bundle, seen
from tests.deploy.running import Running, Served, healthz, rude, still_serves


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return load(make_bundle(tmp_path_factory.mktemp("deploy") / "b", horizon=4))


@pytest.fixture(scope="module")
def server(bundle):
    bounds = Bounds(message_bytes=2**20, connections=16, handshake_s=1.0)
    with Running(Selector(bundle, candidates=8), bounds=bounds) as running:
        yield running
        assert still_serves(running)


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


@pytest.mark.slow
def test_memory_stays_flat_over_ten_thousand_requests(bundle):
    with Served(bundle.path, "ignore=image") as server:
        levels = []
        for _ in range(6):
            with Client(server.address) as client:
                for _ in range(1900):
                    client.infer({**seen(), "image": np.zeros((64, 64, 3), np.uint8)})
            for what in ("NaN", "no msgpack", "wrong shape", "truncated") * 25:
                with rude(server.address) as connection:
                    connection.send(BAD[what])
                    assert isinstance(connection.recv(timeout=5), str)
            levels.append(server.resident_mib())
    assert levels[-1] - levels[1] < 4, levels  # MiB, for 8,000 requests after the first 4,000
