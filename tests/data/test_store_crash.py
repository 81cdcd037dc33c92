"""A writer may die at any moment, and the disk may fill up: what was committed stays, byte for byte."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from robopref.data import TrajectoryStore
from robopref.errors import DataError

FOREVER = """
import sys
import numpy as np
from robopref.data import Provenance, Trajectory, TrajectoryStore

path, limit = sys.argv[1], int(sys.argv[2])
try:
    store = TrajectoryStore.open(path, writable=True)
except ValueError:
    store = TrajectoryStore.create(
        path, observation_size=4, action_size=2, keypoints=["hand"], control_hz=80.0, metadata={}
    )
print("ready", flush=True)
while len(store) < limit:
    i, steps = len(store), 40 + len(store) % 7
    store.append(
        Trajectory(
            observations=np.full((steps + 1, 4), i),
            actions=np.full((steps, 2), i),
            rewards=np.full(steps, i),
            successes=np.zeros(steps, bool),
            keypoints={"hand": np.full((steps + 1, 3), i)},
            terminated=False,
            provenance=Provenance("t", "e", i, "b", {}, "h", {}),
        )
    )
    print(len(store), flush=True)
"""


def start(path: Path, limit: int = 10**9) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", FOREVER, str(path), str(limit)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def contents(store: TrajectoryStore) -> list[bytes]:
    return [
        b"".join(
            store.array(name)[store.row_of(i, 0) : store.row_of(i, int(store.lengths[i])) + 1].tobytes()
            for name in store.layout.arrays
        )
        for i in range(len(store))
    ]


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is a POSIX signal")
def test_kill_9_at_random_moments_loses_nothing_that_was_acknowledged(tmp_path):
    path = tmp_path / "store"
    moments = random.Random(0)
    kept: list[bytes] = []
    for _ in range(8):
        writer = start(path)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        time.sleep(moments.uniform(0.0, 0.12))
        writer.send_signal(signal.SIGKILL)
        acknowledged = [int(line) for line in writer.communicate()[0].split("\n")[:-1]]
        reader = TrajectoryStore.open(path)  # reading ignores the torn tail
        assert len(reader) >= max(acknowledged, default=len(kept))
        assert len(reader) <= max(acknowledged, default=len(kept)) + 1
        before = contents(reader)
        assert before[: len(kept)] == kept
        with TrajectoryStore.open(path, writable=True) as repaired:
            assert contents(repaired) == before
            assert repaired.verify() == len(before)
        rows = int((repaired.lengths + 1).sum())
        assert (path / "rewards.f32").stat().st_size == 4 * rows
        assert (path / "keypoints-hand.f32").stat().st_size == 12 * rows
        kept = before
    assert len(kept) > 8
    store = TrajectoryStore.open(path)
    assert [store.provenance(i).seed for i in range(len(kept))] == list(range(len(kept)))


def test_a_store_cut_at_any_byte_of_its_last_commit_opens_with_all_earlier_episodes(new_store, trajectory):
    """Every prefix of the files that a dying writer can leave: rows first, in file order, then the line."""
    with new_store((3, 2)) as store:
        committed = {file.name: file.stat().st_size for file in store.path.iterdir()}
        before = contents(store)
        store.append(trajectory(2, 2))
        after = contents(store)
    order = [array.file for array in store.layout.arrays.values()] + ["episodes.jsonl"]
    whole = {name: (store.path / name).read_bytes() for name in order}
    torn = store.path.with_name("torn")
    for position, name in enumerate(order):
        for size in range(committed[name], len(whole[name]), 31):
            shutil.rmtree(torn, ignore_errors=True)
            torn.mkdir()
            shutil.copy(store.path / "store.json", torn)
            for other, file in enumerate(order):
                end = len(whole[file]) if other < position else size if other == position else committed[file]
                (torn / file).write_bytes(whole[file][:end])
            assert contents(TrajectoryStore.open(torn)) == before
            with TrajectoryStore.open(torn, writable=True) as repaired:
                assert contents(repaired) == before
                assert {file: (torn / file).stat().st_size for file in order} == {
                    file: committed[file] for file in order
                }
                repaired.append(trajectory(2, 2))
                assert contents(repaired) == after


def test_a_last_line_of_bytes_that_were_never_written_counts_as_torn(new_store):
    with new_store((3, 2)) as store:
        log = store.path / "episodes.jsonl"
        content = log.read_bytes()
    log.write_bytes(content + b"\0" * 100 + b'"}\n')
    assert len(TrajectoryStore.open(store.path)) == 2
    TrajectoryStore.open(store.path, writable=True).close()
    assert log.read_bytes() == content


def test_a_full_disk_is_a_sentence_and_the_store_goes_on_when_there_is_room(
    new_store, trajectory, monkeypatch
):
    """Fail at every single write of an append, after half of its bytes."""
    store = new_store((3,))
    before = contents(store)
    sizes = {file: file.stat().st_size for file in store.path.iterdir()}
    real = os.write
    for failing in range(7):
        calls = 0

        def write(handle: int, data: memoryview, failing: int = failing) -> int:
            nonlocal calls
            calls += 1
            if calls == failing + 1:
                return real(handle, data[: len(data) // 2])
            if calls == failing + 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(handle, data)

        monkeypatch.setattr(os, "write", write)
        with pytest.raises(DataError, match=r"The disk is full: .*store .*MiB free"):
            store.append(trajectory(1, 2))
        monkeypatch.setattr(os, "write", real)
        assert {file: file.stat().st_size for file in sizes} == sizes
        assert contents(store) == before
    store.append(trajectory(1, 2))
    assert TrajectoryStore.open(store.path).verify() == 2


def test_ctrl_c_in_the_middle_of_an_append_leaves_the_store_usable(new_store, trajectory, monkeypatch):
    store = new_store((3,))

    def interrupted(handle: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.append(trajectory(1, 2))
    assert store.append(trajectory(1, 2)) == 1
    assert TrajectoryStore.open(store.path).verify() == 2


def test_a_really_full_disk_keeps_what_was_committed(tmp_path):
    script = (
        f'mount -t tmpfs -o size=256k none "{tmp_path}" && '
        f'"{sys.executable}" -c "$1" "{tmp_path}/store" 1000; '
        f'"{sys.executable}" -c "$2" "{tmp_path}/store"'
    )
    check = (
        "import sys; from robopref.data import TrajectoryStore as S; s = S.open(sys.argv[1]); "
        "assert s.verify() > 5; print('intact', len(s))"
    )
    command = ["unshare", "-rm", "sh", "-c", script, "sh", FOREVER, check]
    if shutil.which("unshare") is None:
        pytest.skip("needs util-linux's unshare to mount a small disk")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if "mount" in done.stderr or "unshare" in done.stderr:
        pytest.skip(f"may not mount a small disk here: {done.stderr.strip()}")
    assert "The disk is full" in done.stderr
    last = max(int(line) for line in done.stdout.split("\n") if line.isdigit())
    assert f"intact {last}" in done.stdout
