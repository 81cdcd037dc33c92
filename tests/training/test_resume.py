"""Real processes, killed in the middle."""

import multiprocessing
import os
import signal
import time

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from robopref.errors import DataError
from robopref.training.checkpoint import load_checkpoint
from robopref.training.metrics import read_log
from tests.training.resume_child import STEPS, main

# A server that has imported what takes long, and forks a fresh process for each training.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["lightning_fabric", "robopref.training.loop", "robopref.policies.iql"])


def start(folder, pause_s=0.0):
    process = PROCESSES.Process(target=main, args=(folder, pause_s))
    process.start()
    return process


def send(process, number):
    assert process.pid is not None
    os.kill(process.pid, number)


def finish(process):
    """Wait for the process; return its exit code."""
    process.join(timeout=120)
    return process.exitcode


def said(folder):
    return (folder / "output.txt").read_text()


def wait_for_step(folder, step):
    """Wait until a checkpoint of at least that step is on the disk."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        path = folder / "last.safetensors"
        if path.exists():
            try:
                done = load_checkpoint(path)[1]["step"]
            except (DataError, SafetensorError) as error:
                raise AssertionError("a reader saw a checkpoint that is not whole") from error
            if done >= step:
                return done
        time.sleep(0.05)
    raise AssertionError("the training did not get that far")


def records(folder):
    """Lines of the log without the clock."""
    return [{k: v for k, v in line.items() if k != "time"} for line in read_log(folder / "log.jsonl")]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert finish(start(folder)) == 0
    return folder


def assert_equal_to(uninterrupted, folder):
    assert finish(start(folder)) == 0
    expected, got = (load_file(f / "final.safetensors") for f in (uninterrupted, folder))
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert records(folder) == records(uninterrupted)
    assert not list(folder.glob(".*.tmp*"))


def test_a_training_killed_twice_ends_with_the_bits_and_the_log_of_one_that_was_not(uninterrupted, tmp_path):
    for step in (40, 120):
        process = start(tmp_path, pause_s=0.01)
        wait_for_step(tmp_path, step)
        process.kill()
        assert finish(process) == -signal.SIGKILL
        assert load_checkpoint(tmp_path / "last.safetensors")[1]["step"] < STEPS
    (tmp_path / ".last.999.tmp.safetensors").write_bytes(b"half a checkpoint")
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"time": 1.0, "phase": "train-pol')
    assert_equal_to(uninterrupted, tmp_path)


def test_ctrl_c_saves_the_step_in_hand_says_so_and_exits_with_130(uninterrupted, tmp_path):
    process = start(tmp_path, pause_s=0.01)
    before = wait_for_step(tmp_path, 40)
    send(process, signal.SIGINT)
    assert finish(process) == 130
    step = load_checkpoint(tmp_path / "last.safetensors")[1]["step"]
    assert f"Stopped train-policy at step {step} of {STEPS}" in said(tmp_path)
    assert before <= step < STEPS
    assert_equal_to(uninterrupted, tmp_path)


def test_a_scheduler_that_asks_to_stop_gets_143_after_the_state_is_saved(tmp_path):
    process = start(tmp_path, pause_s=0.01)
    wait_for_step(tmp_path, 20)
    send(process, signal.SIGTERM)
    assert finish(process) == 143
    step = load_checkpoint(tmp_path / "last.safetensors")[1]["step"]
    assert f"at step {step} of" in said(tmp_path)
