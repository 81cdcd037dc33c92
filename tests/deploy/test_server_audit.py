"""What a policy server writes of its decisions, and what happens where it cannot."""

import contextlib
import time

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

from robopref.deploy.audit import AuditLog, read_audit
from robopref.deploy.bundle import load
from robopref.deploy.codec import pack
from robopref.deploy.selection import Selector
from robopref.errors import DataError
from tests.deploy.made import make_bundle, seen
from tests.deploy.running import Running


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return load(make_bundle(tmp_path_factory.mktemp("deploy") / "b", horizon=4))


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
