"""A killed conversion leaves nothing that could be taken for a whole data set, and can be done again."""

import shutil
import signal
import subprocess
import sys
import time

import pytest

from robopref.data import TrajectoryStore
from robopref.data.interchange.convert import convert
from robopref.data.judgement import Judgement
from robopref.data.label_store import LabelStore

EPISODES = 100
BYTES = 20_000  # more than the labels, and less than the data
TARGETS = {"robomimic": "there.hdf5", "lerobot": "there", "minari": "there"}


def bytes_of(path):
    """Count the bytes of a file; none if it was moved away a moment ago."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def killed_while_it_writes(source, target, kind):
    """Kill a conversion as soon as a part of what it makes is on disk; say whether that came in time."""
    words = ["data", "convert", f"from={source}", f"to={target}", f"format={kind}"]
    process = subprocess.Popen([sys.executable, "-m", "robopref.cli", *words])
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        if sum(map(bytes_of, target.parent.glob(f".{target.name}.*.tmp/**/*"))) > BYTES:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.001)
    return process.wait() == -signal.SIGKILL and not target.exists()


def slowly(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("kind", "back"),
    [
        ("lerobot", False),
        ("robomimic", True),
        slowly("robomimic", False),
        slowly("lerobot", True),
        slowly("minari", False),
        slowly("minari", True),
    ],
)
def test_a_killed_conversion_leaves_nothing_at_its_target_and_the_next_one_is_whole(
    new_store, tmp_path, kind, back
):
    with new_store([3] * EPISODES) as store, LabelStore.beside(store) as labels:
        given = [Judgement(0, 0, 1, 1, 0, 1, "a", "human", "ann")]
        labels.add(given, data_fingerprint=store.fingerprint(), episodes=EPISODES)
    source, target, wanted = tmp_path / "store", tmp_path / TARGETS[kind], kind
    if back:
        convert(source, target, target_format=kind)
        source, target, wanted = target, tmp_path / "back", "store"
    for _ in range(5):
        if killed_while_it_writes(source, target, wanted):
            break
        target.unlink() if target.is_file() else shutil.rmtree(target)  # it was done before it was killed
        for left in tmp_path.glob(f".{target.name}.*.tmp"):
            shutil.rmtree(left)
    assert not target.exists()
    (left,) = tmp_path.glob(f".{target.name}.*.tmp")
    assert convert(source, target, target_format=wanted).labels == 1
    assert left.exists()  # the rests harm nobody, and are not touched
    shutil.rmtree(left)
    if not back:
        assert convert(target, tmp_path / "back").labels == 1
    with TrajectoryStore.open(tmp_path / "back") as made, TrajectoryStore.open(tmp_path / "store") as store:
        assert made.fingerprint() == store.fingerprint()
