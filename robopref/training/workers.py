"""A pool of processes that maps one function over tasks and yields the results in order.

Processes are spawned, not forked, so that no OpenGL context, lock or CUDA handle of the parent lives on in
them. Each runs on one thread. The pool is built for long tasks (an episode) whose failure must be explained:

- an exception in a worker arrives as an error that names the task;
- a worker that is killed ends the map with an error at once, it never hangs the parent;
- ctrl-C stops the parent alone (workers do not see it), which then stops its workers;
- a parent that is killed takes its workers with it.

Starting a worker takes seconds. Inside :func:`kept_workers` it is done once: pools hand their workers on.
"""

import contextlib
import gc
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Generic, TypeVar

from robopref.errors import ConfigError, RoboprefError

Task = TypeVar("Task")
Result = TypeVar("Result")

MAX_DEFAULT_WORKERS = 16
TASKS_AT_A_WORKER = 2  # one running and one waiting, so that no worker idles while the parent writes
TASKS_AHEAD = 4  # per worker: how far results may run ahead of the one that is awaited
PATIENCE_S = 5.0
WORTH_WORKERS_S = 20.0  # of work left; a worker takes some 5 s of CPU to start where it needs torch
NOTHING = pickle.dumps(None)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class WorkerDiedError(RoboprefError):
    """A worker process ended in the middle of a task."""


def default_workers() -> int:
    """Return how many workers to use: the CPUs this process may run on, at most 16; 0 where there is one."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cpus = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return 0 if cpus == 1 else min(cpus, MAX_DEFAULT_WORKERS)


@dataclass(frozen=True)
class _Failure:
    """An exception as it travels through a pipe: exceptions themselves do not always survive pickling."""

    kind: type[RoboprefError]
    sentence: str
    trace: str

    @classmethod
    def of(cls, error: Exception) -> "_Failure":
        trace = "".join(traceback.format_exception(error))
        if isinstance(error, RoboprefError):
            return cls(type(error), str(error), trace)
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}, line {where.lineno}"
        return cls(RoboprefError, f"{type(error).__name__}: {error} ({place})", trace)

    def error(self, task: object) -> RoboprefError:
        error = self.kind(f"In {task}: {self.sentence}")
        error.add_note(f"The traceback where it happened:\n{self.trace}")
        return error


@dataclass
class _Worker:
    process: SpawnProcess
    connection: Connection
    tasks: deque[int] = field(default_factory=deque)  # indices of what it was sent, the running one first
    dead: bool = False


_kept: ContextVar[list[_Worker] | None] = ContextVar("kept", default=None)  # idle ones, for the next pool


@contextlib.contextmanager
def kept_workers() -> Iterator[None]:
    """Let a pool that ends inside this context leave its workers to the next; all end with the context.

    What they have imported stays in memory meanwhile, what their pools gave them does not.
    """
    idle: list[_Worker] = []
    outer = _kept.set(idle)
    try:
        yield
    finally:
        _kept.reset(outer)
        _end(idle, gently=True)


class WorkerPool(Generic[Task, Result]):
    """Maps ``function`` over tasks, on ``workers`` processes or in this one.

    Every worker has its own copy of ``function`` for the pool's life, so a function that is an object may
    keep an expensive thing (a simulator) between tasks; its ``close`` method, where there is one, is called
    at the end.

    Args:
        function: Called with one task. With ``workers > 0`` it must be picklable: defined at module level.
        workers: Processes to use; 0 runs every task in this process. ``None`` is :func:`default_workers`:
            from the first task on where as many were kept; else it begins in this process and starts them
            once it has seen that they save time, since starting takes seconds.

    Raises:
        ConfigError: ``workers`` is negative, or ``function`` cannot be sent to another process.
    """

    def __init__(self, function: Callable[[Task], Result], workers: int | None = None) -> None:
        if workers is not None and workers < 0:
            raise ConfigError(f"workers must be 0 (this process) or more, got {workers}")
        self.workers = default_workers() if workers is None else workers
        self._undecided = workers is None
        self._function = function
        self._crew: list[_Worker] = []
        self._payload = b""
        if self.workers:
            try:
                self._payload = pickle.dumps(function)
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                raise ConfigError(
                    f"This cannot be sent to a worker process: {error}. "
                    "Define it at the top level of a module, or use workers=0."
                ) from error

    def __enter__(self) -> "WorkerPool[Task, Result]":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close(gently=kind is None)

    def map(self, tasks: Sequence[Task]) -> Generator[Result, None, None]:
        """Yield ``function(task)`` for each task, in the order of the tasks.

        Raises:
            RoboprefError: A task failed or its worker died. The message names the task; an error of robopref
                keeps its class; the worker's traceback is attached as a note.
        """
        here = len(tasks) if not self.workers else 0
        ready = len(self._crew) + len(_kept.get() or [])
        if self._undecided and (len(tasks) < 2 or ready < min(self.workers, len(tasks))):
            here = yield from self._map_until_worth_it(tasks)
        else:
            yield from map(self._do_here, tasks[:here])
        if here == len(tasks):
            return
        finished = False
        try:
            yield from self._map_on_workers(tasks[here:])
            finished = True
        finally:
            if not finished:  # an error, ctrl-C, or a caller who stopped listening: what runs is of no use
                self.close(gently=False)

    def _map_until_worth_it(self, tasks: Sequence[Task]) -> Generator[Result, None, int]:
        """Do tasks here until the rest would take long enough for workers; return how many were done."""
        for done, task in enumerate(tasks, start=1):
            start = time.perf_counter()
            result = self._do_here(task)
            spent_s = time.perf_counter() - start
            yield result
            # The first task is no measure: it makes the simulator.
            if done > 1 and self.workers and spent_s * (len(tasks) - done) > WORTH_WORKERS_S:
                self._undecided = False
                return done
        return len(tasks)

    def _do_here(self, task: Task) -> Result:
        try:
            return self._function(task)
        except Exception as error:
            raise _Failure.of(error).error(task) from error

    def _map_on_workers(self, tasks: Sequence[Task]) -> Iterator[Result]:
        self._complete(min(self.workers, len(tasks)))
        results: dict[int, Result | RoboprefError] = {}
        sent = 0
        for awaited in range(len(tasks)):
            while awaited not in results:
                sent = self._send(tasks, sent, limit=awaited + TASKS_AHEAD * self.workers)
                self._receive(tasks, results)
            result = results.pop(awaited)
            if isinstance(result, RoboprefError):  # only now, so that what came before it is not lost
                raise result
            yield result

    def _complete(self, size: int) -> None:
        """Take over kept workers or start new ones, up to a crew of this size, and give them the function."""
        known = len(self._crew)
        while len(self._crew) < size:
            self._crew.append(_kept_worker() or _start_worker())
        for worker in self._crew[known:]:
            with contextlib.suppress(OSError):  # it has died: _receive finds out
                worker.connection.send((None, self._payload))

    def _send(self, tasks: Sequence[Task], sent: int, limit: int) -> int:
        """Give tasks to the workers that have fewest, up to the index ``limit``; return the next index."""
        while sent < min(limit, len(tasks)):
            free = [w for w in self._crew if not w.dead and len(w.tasks) < TASKS_AT_A_WORKER]
            if not free:
                break
            worker = min(free, key=lambda worker: len(worker.tasks))
            worker.tasks.append(sent)
            with contextlib.suppress(OSError):  # it has died: _receive finds out
                worker.connection.send((sent, tasks[sent]))
            sent += 1
        return sent

    def _receive(self, tasks: Sequence[Task], results: dict[int, Result | RoboprefError]) -> None:
        """Wait for one worker or more, and take in its result, its error, or its death."""
        busy = {worker.connection: worker for worker in self._crew if worker.tasks and not worker.dead}
        for connection in wait(list(busy)):
            worker = busy[connection]  # type: ignore[index]  # wait returns what it was given
            try:
                index, result = worker.connection.recv()
            except (EOFError, OSError):
                worker.dead = True
                results[worker.tasks[0]] = _death(worker, tasks)
                continue
            if index is None:
                raise result.error("the start of a worker")
            worker.tasks.remove(index)
            results[index] = result.error(tasks[index]) if isinstance(result, _Failure) else result

    def close(self, *, gently: bool = True) -> None:
        """Stop the workers: gently by letting them leave, or else at once; none outlives this call.

        Inside :func:`kept_workers`, those that would leave are kept.
        """
        ending, kept = list[_Worker](), _kept.get()
        for worker in self._crew:
            (kept if kept is not None and gently and _emptied(worker) else ending).append(worker)
        _end(ending, gently=gently)
        self._crew = []
        _close(self._function)


def _emptied(worker: _Worker) -> bool:
    """Take the function from a worker; whether another pool may have it."""
    if worker.dead or worker.tasks or not worker.process.is_alive():
        return False
    with contextlib.suppress(OSError):
        worker.connection.send((None, NOTHING))
        return True
    return False


def _kept_worker() -> _Worker | None:
    """Take a kept worker, unless there is none that has survived."""
    idle = _kept.get()
    while idle:
        worker = idle.pop()
        with contextlib.suppress(EOFError, OSError):
            if worker.connection.poll(PATIENCE_S):  # it says when it has let go of its function
                worker.connection.recv()
                return worker
        _end([worker], gently=False)
    return None


def _end(workers: Sequence[_Worker], *, gently: bool) -> None:
    for worker in workers:
        worker.connection.close()  # an idle worker sees the end of its tasks and leaves
        if not gently:
            worker.process.terminate()
    for worker in workers:
        worker.process.join(PATIENCE_S)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.process.close()


def _start_worker() -> _Worker:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there,), daemon=True, name="robopref-worker")
    with _inherited_by_workers():
        process.start()
    there.close()  # so that the worker's death is seen as the end of the pipe
    return _Worker(process, here)


@contextlib.contextmanager
def _inherited_by_workers() -> Iterator[None]:
    """Set what a child takes over when it starts: one thread per library, and no ctrl-C of its own."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    can_block = hasattr(signal, "pthread_sigmask")
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if can_block else set()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        if can_block:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # a ctrl-C that came meanwhile is delivered here


def _serve(connection: Connection) -> None:
    """Run in a worker: answer each (index, task) with (index, result) until the parent closes the pipe.

    (None, function) comes first, and again when another pool takes the worker over; in between comes (None,
    None), which is answered once the earlier function is gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    function: Callable[[Any], Any] | None = None
    with contextlib.suppress(EOFError, OSError):  # the parent has gone or stopped listening
        while True:
            index, task = connection.recv()
            if index is None:
                _close(function)
                function = None
                gc.collect()
            result: Any = None
            try:
                if index is None:  # pickled by our parent a moment ago, in memory; it never comes from a file
                    function = pickle.loads(task)
                else:
                    assert function is not None, "the parent sends a function first"
                    result = function(task)
            except Exception as error:
                result = _Failure.of(error)
            if index is not None or function is None:
                connection.send((index, result))
    _close(function)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # at once: a task may take minutes, and nobody is left to receive its result


def _close(function: object) -> None:
    close = getattr(function, "close", None)
    if close is not None:
        close()


def _death(worker: _Worker, tasks: Sequence[Any]) -> WorkerDiedError:
    """Return the error for a worker that ended without an answer."""
    worker.process.join(PATIENCE_S)
    code = worker.process.exitcode
    if code is None:
        how, cure = "closed its pipe", ""
    elif code < 0:
        how = f"was killed by {signal.Signals(-code).name}"
        cure = " Often it is memory that ran out: ask for fewer workers."
    else:
        how = f"ended with exit code {code}"
        cure = (
            " Its own message stands above. A script that starts workers needs the line "
            "`if __name__ == '__main__':` before what it runs."
        )
    return WorkerDiedError(f"In {tasks[worker.tasks[0]]}: its worker process {how}.{cure}")
