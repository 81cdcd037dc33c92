import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import pytest

from robopref.errors import ConfigError, DataError, RoboprefError
from robopref.training.workers import (
    WorkerDiedError,
    WorkerPool,
    _start_worker,
    default_workers,
    kept_workers,
)

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Function:
    """Does what the task says; counts its calls, so that a test sees which worker kept it."""

    calls: list = field(default_factory=list)

    def __call__(self, task: Any) -> Any:
        self.calls.append(task)
        match task:
            case ("sleep", seconds):
                time.sleep(seconds)
            case "bad data":
                raise DataError("The action holds NaN.")
            case "bug":
                return {}["missing"]
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os._exit(7)
            case "threads":
                return os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]
        return task, len(self.calls), os.getpid()


def test_results_come_in_the_order_of_the_tasks_although_later_ones_finish_first():
    tasks = [("sleep", 0.3), *range(20)]
    with WorkerPool(Function(), 2) as pool:
        results = list(pool.map(tasks))
    assert [task for task, _, _ in results] == tasks
    assert len({pid for _, _, pid in results} - {os.getpid()}) == 2


def test_a_worker_keeps_its_function_between_maps_and_none_is_started_anew():
    with WorkerPool(Function(), 1) as pool:
        first = list(pool.map([1, 2]))
        second = list(pool.map([3]))
    assert [calls for _, calls, _ in first + second] == [1, 2, 3]


def _workers_of(tasks, workers: int | None = 2, function=None):
    with WorkerPool(function or Function(), workers) as pool:
        return [(calls, pid) for _, calls, pid in pool.map(tasks)]


def test_kept_workers_serve_the_next_pool_with_a_function_of_its_own_and_end_with_the_context():
    with kept_workers():
        first = _workers_of([("sleep", 0.2)] * 4)
        second = _workers_of([("sleep", 0.2)] * 4)
        assert {pid for _, pid in first} == {pid for _, pid in second}
        assert min(calls for calls, _ in second) == 1
    assert not any(Path(f"/proc/{pid}").exists() for _, pid in first)


def test_a_pool_takes_as_many_kept_workers_as_it_needs_and_starts_the_rest():
    with kept_workers():
        [(_, kept)] = _workers_of([1], workers=1)
        both = {pid for _, pid in _workers_of([("sleep", 0.3)] * 4)}
        assert len(both) == 2
        assert kept in both
        assert {pid for _, pid in _workers_of([1, 2, 3], workers=1)} < both


def test_a_pool_that_failed_keeps_no_workers():
    with kept_workers():
        [(_, earlier)] = _workers_of([1], workers=1)
        with pytest.raises(RoboprefError, match="In bug"):
            _workers_of(["bug"], workers=1)
        assert not Path(f"/proc/{earlier}").exists()
        [(calls, later)] = _workers_of([1], workers=1)
        assert (calls, later != earlier) == (1, True)


def test_a_kept_worker_that_was_killed_meanwhile_is_not_used():
    with kept_workers():
        [(_, pid)] = _workers_of([1], workers=1)
        os.kill(pid, signal.SIGKILL)
        _wait_until_gone([pid])
        [(_, other)] = _workers_of([1], workers=1)
        assert other != pid


@dataclass
class Leaving(Function):
    """Does in a worker, when it is closed, what makes the worker useless."""

    how: str = ""
    parent: int = field(default_factory=os.getpid)

    def close(self) -> None:
        if os.getpid() == self.parent:
            return
        if self.how == "hangs":
            time.sleep(60)
        raise RuntimeError("It cannot be closed.")


@pytest.mark.parametrize("how", ["raises", "hangs"])
def test_a_worker_whose_function_could_not_be_closed_is_not_used_again(how, monkeypatch):
    monkeypatch.setattr("robopref.training.workers.PATIENCE_S", 0.5)
    with kept_workers():
        [(_, pid)] = _workers_of([1], workers=1, function=Leaving(how=how))
        [(calls, other)] = _workers_of([1], workers=1)
        assert (calls, other != pid) == (1, True)
        assert not Path(f"/proc/{pid}").exists()


def test_workers_of_a_pool_that_could_not_start_them_all_do_not_stay(monkeypatch):
    started = []

    def start_one():
        if started:
            raise OSError("No process can be started.")
        started.append(_start_worker())
        return started[0]

    monkeypatch.setattr("robopref.training.workers._start_worker", start_one)
    with kept_workers(), pytest.raises(OSError, match="No process"):
        _workers_of([1, 2, 3])
    with pytest.raises(ValueError, match="closed"):
        started[0].process.is_alive()


class Refusing(Function):
    def __setstate__(self, state):
        raise DataError("It needs a library that is not here.")

    def __getstate__(self):
        return {"some": 1}


def test_a_function_that_cannot_be_made_in_a_kept_worker_is_named():
    with kept_workers():
        _workers_of([1], workers=1)
        with pytest.raises(DataError, match="In the start of a worker: It needs a library"):
            _workers_of([1], workers=1, function=Refusing())


def test_undecided_pools_use_kept_workers_from_the_first_task_on_and_start_none_for_short_work(monkeypatch):
    monkeypatch.setattr("robopref.training.workers.default_workers", lambda: 2)
    short = [("sleep", 0.1)] * 10
    assert {pid for _, pid in _workers_of(short, workers=None)} == {os.getpid()}
    with kept_workers():
        kept = {pid for _, pid in _workers_of([("sleep", 0.2)] * 4)}
        assert len(kept) == 2
        assert {pid for _, pid in _workers_of(short, workers=None)} == kept
        assert {pid for _, pid in _workers_of([1], workers=None)} == {os.getpid()}


def test_undecided_pools_begin_here_where_too_few_workers_were_kept(monkeypatch):
    monkeypatch.setattr("robopref.training.workers.default_workers", lambda: 2)
    with kept_workers():
        _workers_of([1], workers=1)
        assert {pid for _, pid in _workers_of([1, 2, 3], workers=None)} == {os.getpid()}


def test_an_undecided_pool_decides_anew_for_each_map(monkeypatch):
    monkeypatch.setattr("robopref.training.workers.default_workers", lambda: 4)
    with kept_workers():
        kept = {pid for _, pid in _workers_of([("sleep", 0.2)] * 4, workers=2)}
        with WorkerPool(Function(), None) as pool:
            assert {pid for *_, pid in pool.map([("sleep", 0.2)] * 2)} == kept
            assert {pid for *_, pid in pool.map(range(8))} == {os.getpid()}  # which needs four


def test_no_workers_means_this_process():
    with WorkerPool(Function(), 0) as pool:
        assert [pid for _, _, pid in pool.map([1, 2])] == [os.getpid()] * 2


def test_undecided_workers_start_only_once_the_rest_would_take_long(monkeypatch):
    monkeypatch.setattr("robopref.training.workers.default_workers", lambda: 2)
    quick, slow = [("sleep", 0.001)] * 6, [("sleep", 0.02)] * 6
    monkeypatch.setattr("robopref.training.workers.WORTH_WORKERS_S", 0.05)
    with WorkerPool(Function()) as pool:
        assert {pid for _, _, pid in pool.map(quick)} == {os.getpid()}
    with WorkerPool(Function()) as pool:
        pids = [pid for _, _, pid in pool.map(slow)]
    assert pids[:2] == [os.getpid()] * 2
    assert os.getpid() not in pids[2:]
    assert len(pids) == 6


def test_default_workers_are_none_or_between_two_and_sixteen():
    assert default_workers() in {0, *range(2, 17)}


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_names_its_task_and_keeps_its_class_and_traceback(workers):
    pool = WorkerPool(Function(), workers)
    with pool, pytest.raises(DataError, match=r"In bad data: The action holds NaN\.") as caught:
        list(pool.map([1, "bad data", 2]))
    assert "raise DataError" in "".join(caught.value.__notes__)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bug_names_its_type_and_its_line(workers):
    pool = WorkerPool(Function(), workers)
    sentence = r"In bug: KeyError: 'missing' \(test_workers.py, line \d+\)"
    with pool, pytest.raises(RoboprefError, match=sentence):
        list(pool.map(["bug"]))


@pytest.mark.parametrize("fault", ["bad data", "kill"])
def test_results_before_a_failure_are_delivered_although_they_are_slower(fault):
    tasks = [1, ("sleep", 0.5), ("sleep", 0.1), fault, *range(50)]
    with WorkerPool(Function(), 2) as pool:
        results = pool.map(tasks)
        assert [next(results)[0] for _ in range(3)] == tasks[:3]
        with pytest.raises(RoboprefError, match=f"In {fault}"):
            list(results)


@pytest.mark.parametrize(("task", "how"), [("kill", "killed by SIGKILL"), ("exit", "exit code 7")])
def test_a_worker_that_dies_ends_the_map_with_the_task_it_had(task, how):
    start = time.monotonic()
    with WorkerPool(Function(), 2) as pool, pytest.raises(WorkerDiedError, match=f"In {task}: .*{how}"):
        list(pool.map([1, 2, 3, task, *range(20)]))
    assert time.monotonic() - start < 20


def test_the_pool_can_be_used_again_after_a_worker_died():
    with WorkerPool(Function(), 1) as pool:
        with pytest.raises(WorkerDiedError):
            list(pool.map(["kill"]))
        assert [task for task, *_ in pool.map([1, 2])] == [1, 2]


def test_workers_are_limited_to_one_thread_and_the_parent_is_not(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with WorkerPool(Function(), 1) as pool:
        assert list(pool.map(["threads"])) == [("1", "1")]
    assert os.environ["OMP_NUM_THREADS"] == "5"
    assert "MKL_NUM_THREADS" not in os.environ


def test_a_caller_who_stops_listening_leaves_no_process():
    pool = WorkerPool(Function(), 2)
    results = pool.map([1, ("sleep", 60), ("sleep", 60), 2])
    _, _, pid = next(results)
    start = time.monotonic()
    results.close()
    assert time.monotonic() - start < 5
    assert not Path(f"/proc/{pid}").exists()


def test_a_function_that_cannot_travel_is_refused_with_the_cure():
    with pytest.raises(ConfigError, match="workers=0"):
        WorkerPool(lambda task: task, 1)


def test_negative_workers_are_refused():
    with pytest.raises(ConfigError, match="got -1"):
        WorkerPool(Function(), -1)


def _script(tmp_path, guard):
    body = """
    import os, sys, time
    from robopref.training.workers import WorkerPool
    from tests.training.test_workers import Function

    def main():
        with WorkerPool(Function(), 2) as pool:
            for task, _, pid in pool.map([1, 2, ("sleep", 60), ("sleep", 60)]):
                print(pid, flush=True)
    """
    path = tmp_path / "script.py"
    path.write_text(
        textwrap.dedent(body) + ("\nif __name__ == '__main__':\n    main()\n" if guard else "\nmain()\n")
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def _gone(pid):
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] == "Z"


def _wait_until_gone(pids, patience_s=10):
    end = time.monotonic() + patience_s
    while not all(_gone(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.05)
    return all(_gone(pid) for pid in pids)


def test_ctrl_c_stops_parent_and_workers_with_one_traceback(tmp_path):
    child = _script(tmp_path, guard=True)
    pids = [int(cast(IO[str], child.stdout).readline()) for _ in range(2)]
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    _, errors = child.communicate(timeout=20)
    assert child.returncode == -signal.SIGINT
    assert errors.count("Traceback") == 1
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert _wait_until_gone(pids, 1)


def test_workers_leave_when_their_parent_is_killed(tmp_path):
    child = _script(tmp_path, guard=True)
    pids = [int(cast(IO[str], child.stdout).readline()) for _ in range(2)]
    child.kill()
    child.wait()
    assert _wait_until_gone(pids, 5)  # although both are asleep in a task of a minute


def test_a_script_without_a_guard_is_told_about_it(tmp_path):
    child = _script(tmp_path, guard=False)
    _, errors = child.communicate(timeout=30)
    assert "needs the line `if __name__ == '__main__':`" in errors
