"""The policy server: openpi's protocol."""

import numpy as np
import pytest

from robopref.deploy.bundle import load
from robopref.deploy.codec import pack
from robopref.deploy.selection import Selector
from tests.deploy.made import make_bundle, seen
from tests.deploy.running import Running, healthz, still_serves


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return load(make_bundle(tmp_path_factory.mktemp("deploy") / "b", horizon=4))


@pytest.fixture(scope="module")
def server(bundle):
    with Running(Selector(bundle, candidates=8), ignored=["prompt"]) as running:
        yield running
        assert still_serves(running)


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
