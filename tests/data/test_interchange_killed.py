"""A killed conversion leaves nothing that could be taken for a whole data set, and can be done again."""

import shutil
import signal
import subprocess
import sys
import time

import pytest

from robopref.data import TrajectoryStore
from robopref.data.interchange.convert import convert

EPISODES = 100
TARGETS = {"robomimic": "there.hdf5", "lerobot": "there", "minari": "there"}


def killed_while_it_writes(source, target, kind):
    """Kill a conversion as soon as a part of what it makes is on disk."""
    words = ["data", "convert", f"from={source}", f"to={target}", f"format={kind}"]
    process = subprocess.Popen([sys.executable, "-m", "robopref.cli", *words])
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        half = [path for path in target.parent.glob(f".{target.name}.*.tmp/**/*") if path.is_file()]
        if half and sum(path.stat().st_size for path in half) > 2000:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.001)
    return process.wait() == -signal.SIGKILL


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
    new_store([3] * EPISODES).close()
    source, target, wanted = tmp_path / "store", tmp_path / TARGETS[kind], kind
    if back:
        convert(source, target, target_format=kind)
        source, target, wanted = target, tmp_path / "back", "store"
    for _ in range(5):
        if killed_while_it_writes(source, target, wanted):
            break
        target.unlink() if target.is_file() else shutil.rmtree(target)  # it was done before it was killed
    assert not target.exists()
    (left,) = tmp_path.glob(f".{target.name}.*.tmp")
    convert(source, target, target_format=wanted)
    assert left.exists()  # the rests harm nobody, and are not touched
    shutil.rmtree(left)
    if not back:
        convert(target, tmp_path / "back")
    with TrajectoryStore.open(tmp_path / "back") as made, TrajectoryStore.open(tmp_path / "store") as store:
        assert made.fingerprint() == store.fingerprint()
