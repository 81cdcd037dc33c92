"""A policy that raises, hangs or is slow: what the server's clients hear, and how soon."""

import threading
import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor

import pytest

from robopref.deploy.bundle import load
from robopref.deploy.client import ServerError
from robopref.deploy.codec import pack, unpack
from robopref.deploy.selection import Selector
from robopref.deploy.server import Bounds
from tests.deploy.made import make_bundle, seen
from tests.deploy.running import Running, healthz


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


def test_a_slow_policy_does_not_keep_pings_from_being_answered(tmp_path):
    bundle = load(make_bundle(tmp_path / "b"))
    with Running(Selector(bundle)) as running, running.rude() as connection:
        bundle.sampler = Failing(bundle.sampler, seconds=1.0)
        connection.send(pack(seen()))
        assert connection.ping().wait(0.7)
        assert "actions" in unpack(connection.recv(timeout=5))
