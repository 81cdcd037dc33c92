"""Who may ask the policy server, and what it is told before it begins."""

import asyncio
import socket

import pytest

from robopref.deploy.bundle import load
from robopref.deploy.client import Client, ServerError
from robopref.deploy.selection import Selector
from robopref.deploy.server import Bounds, PolicyServer
from robopref.errors import ConfigError
from tests.deploy.made import make_bundle, seen
from tests.deploy.running import Running, healthz

TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return load(make_bundle(tmp_path_factory.mktemp("deploy") / "b", horizon=4))


def test_a_wrong_token_or_none_is_turned_away(bundle):
    with Running(Selector(bundle), token=TOKEN) as running:
        for token in (None, TOKEN[:-1], TOKEN.upper(), TOKEN + "x", "ü" * 20):
            with pytest.raises(ServerError, match=r"401|No policy server"):
                Client(running.address, token=token)
        with running.client(token=TOKEN) as client:
            assert client.infer(seen())["actions"].shape == (4, 2)
        assert healthz(running)[0] == 200


def test_beyond_this_machine_there_is_always_a_token(bundle):
    assert PolicyServer(Selector(bundle)).token is None
    first, second = (PolicyServer(Selector(bundle), host="0.0.0.0").token for _ in range(2))
    assert first is not None
    assert first != second
    with pytest.raises(ConfigError, match="16 or more"):
        PolicyServer(Selector(bundle), token="short")


def test_a_taken_port_is_a_sentence(bundle):
    with Running(Selector(bundle)) as server:
        taken = PolicyServer(Selector(bundle), port=server.port)
        with pytest.raises(ConfigError, match=rf"Cannot listen on host=127.0.0.1 port={server.port}"):
            asyncio.run(taken.run())


def test_bounds_and_ports_that_make_no_sense_are_sentences(bundle):
    with pytest.raises(ConfigError, match="message_bytes must be positive and finite, got nan"):
        Bounds(message_bytes=float("nan"))
    with pytest.raises(ConfigError, match=r"Cannot listen on host=127\.0\.0\.1 port=99999"):
        asyncio.run(PolicyServer(Selector(bundle), port=99999).run())


def test_a_key_that_the_policy_needs_cannot_be_ignored(bundle):
    with pytest.raises(ConfigError, match="needs observation/arm, which was to be ignored"):
        PolicyServer(Selector(bundle), ignored=["observation/arm"])


def test_a_client_says_what_is_wrong_where_there_is_no_server():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"ws://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ServerError, match=f"No policy server answers at {address}"):
            Client(address)
    with pytest.raises(ServerError, match="No policy server answers at http"):
        Client("http://127.0.0.1:1")
