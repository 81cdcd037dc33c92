"""A run directory: what was asked for, which phases are finished, how long and how much memory they took.

A finished phase leaves ``phases/<name>.json``; the same command given again reads it instead of repeating
the work. The settings of a phase and the content of its inputs are part of that file, so a phase is never
taken for another one.
"""

import dataclasses
import hashlib
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from robopref.errors import ConfigError, DataError, hide_passwords
from robopref.files import finite, read_json, write_json, write_text

PACKAGES = ("robopref", "torch", "numpy", "mujoco", "metaworld", "gymnasium", "POT")
NAMED_LEAVES = 5  # of those in which settings differ
LONG = 200  # characters of a value that is printed whole


def fingerprint(value: Any) -> str:
    """Return 12 hex digits that change when a JSON-like value changes."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def machine() -> dict[str, Any]:
    """What the run ran on: system, processor, cores, memory in GiB, GPU."""
    import torch

    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(pages / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def processor() -> str:
    """Name of this machine's processor, as far as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine() or "unknown"


class PeakMemory:
    """Largest memory of this process, in MiB, since :meth:`restart` (Linux) or since it began (elsewhere)."""

    def restart(self) -> None:
        """Begin a new measurement."""
        if sys.platform == "linux":
            try:
                Path("/proc/self/clear_refs").write_text("5")
            except OSError:  # a container may forbid it; the peak is then that of the whole process
                return

    def mebibytes(self) -> float:
        """Return the peak so far."""
        status = Path("/proc/self/status")
        if status.exists():
            for line in status.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@dataclasses.dataclass(frozen=True)
class PhaseRecord:
    """One line of the table of phases: wall seconds, peak memory in MiB, and if it was found finished."""

    name: str
    seconds: float
    peak_memory_mib: float
    skipped: bool


class Run:
    """The directory of one run, and the bookkeeping of its phases.

    Args:
        directory: Where everything that the run makes goes; created if it is not there.
        name, method, task, seed: What the tables call it.
        config: The resolved configuration as YAML text, kept as ``config.yaml``.
        say: Receives one line of text per event (the command line prints it).

    Raises:
        ConfigError: Another process is filling the directory.
        DataError: The directory cannot be written to, or its ``run.json`` is damaged.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        name: str,
        method: str,
        task: str,
        seed: int,
        config: str,
        say: Callable[[str], None] = print,
    ):
        self.directory = Path(directory)
        self.name, self.say = name, say
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"Cannot make the run directory {self.directory}: {error.strerror}.") from error
        self._lock = FileLock(self.directory / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ConfigError(
                f"Another process is filling {self.directory}. Wait for it, or choose another out=<folder>."
            ) from error
        record = self.directory / "run.json"
        earlier = read_json(record)["phases"] if record.exists() else []
        self.phases = [PhaseRecord(**{**phase, "skipped": True}) for phase in earlier]
        self._header = {
            "name": name,
            "method": method,
            "task": task,
            "seed": seed,
            "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": machine(),
            "versions": versions(),
        }
        write_text(self.directory / "config.yaml", config)
        self._save("running")

    def meet(self) -> None:
        """Wait for the other processes of this run, where it has some."""

    def phase(
        self,
        name: str,
        settings: dict[str, Any],
        work: Callable[[], dict[str, Any]],
        *,
        together: bool = False,
    ) -> dict[str, Any]:
        """Do ``work`` unless this run has finished the same phase before; return its result either way.

        Args:
            name: What the phase is called, e.g. ``train-reward``.
            settings: All that the result depends on, JSON-like: options, seeds, fingerprints of inputs.
            work: Does the phase and returns a JSON-like result.
            together: All processes of the run do it, see :class:`FollowingRun`; else the first alone.

        Work that refuses its options or data (``ConfigError``, ``DataError``) binds nobody: what its error
        advises may be tried in the same directory.

        Raises:
            ConfigError: The directory holds this phase, made with other settings.
        """
        path = self.directory / "phases" / f"{name.replace('/', '-')}.json"
        settings = json.loads(json.dumps(settings), parse_constant=str)  # JSON knows no infinity
        earlier = _read_phase(path) if path.exists() else None
        if earlier is not None and earlier["settings"] != settings:
            if earlier["status"] != "refused":
                changed = differences(earlier["settings"], settings)
                raise ConfigError(
                    f"{self.directory} holds the phase {name} made with other settings ({changed}). "
                    "Choose another out=<folder>, or delete this one."
                )
            earlier = None
        if earlier is not None and earlier["status"] == "done":
            self.say(f"{name}: finished before, in {earlier['seconds']:.0f} s")
            self._note(PhaseRecord(name, earlier["seconds"], earlier["peak_memory_mib"], skipped=True))
            self._met(together)
            return earlier["result"]
        spent = earlier["seconds"] if earlier is not None else 0.0
        memory = PeakMemory()
        record = {"status": "started", "settings": settings, "seconds": spent}
        write_json(path, record)
        self.say(f"{name} ...")
        if together:
            self.meet()
        memory.restart()
        start = time.perf_counter()
        try:
            record |= {"result": finite(work()), "status": "done"}
        except BaseException as error:
            if isinstance(error, ConfigError | DataError):
                record["status"] = "refused"
            self._save(f"{_ending(error)} in {name}")
            raise
        finally:
            record |= {"seconds": spent + time.perf_counter() - start, "peak_memory_mib": memory.mebibytes()}
            write_json(path, record)
        self._note(PhaseRecord(name, record["seconds"], record["peak_memory_mib"], skipped=False))
        self.meet()
        return record["result"]

    def _met(self, together: bool) -> None:
        """Do for a phase that was finished before what the other processes wait for."""
        if together:
            self.meet()
        self.meet()

    def finish(self, status: str = "complete") -> None:
        """Mark the run as complete, or say what it waits for, and let others open it."""
        self._save(status)
        self._lock.release()

    def fail(self, error: BaseException) -> None:
        """Say that an error ended the run, unless the phase in which it did has said so."""
        if self._status == "running":
            self._save(_ending(error))

    def _note(self, record: PhaseRecord) -> None:
        self.phases = [p for p in self.phases if p.name != record.name] + [record]
        self._save("running")

    def _save(self, status: str) -> None:
        self._status = status
        phases = [dataclasses.asdict(p) for p in self.phases]
        write_json(self.directory / "run.json", {**self._header, "status": status, "phases": phases})


class FollowingRun:
    """A run as seen by every process but its first, which keeps the books.

    All processes go through the same phases. The first does most of them alone while the others wait and then
    read the result; a phase that is done together (a training whose weights are shared out) is done by all.

    Args:
        directory: Of the run.
        name: What the tables call it.
    """

    def __init__(self, directory: Path | str, *, name: str):
        self.directory, self.name = Path(directory), name

    def say(self, line: str) -> None:
        """Say nothing: the first process says it."""

    def meet(self) -> None:
        """Wait for the other processes of this run."""

    def phase(
        self,
        name: str,
        settings: dict[str, Any],
        work: Callable[[], dict[str, Any]],
        *,
        together: bool = False,
    ) -> dict[str, Any]:
        """Wait for a phase, or do it together with the first process, which compares the settings."""
        path = self.directory / "phases" / f"{name.replace('/', '-')}.json"
        if together:
            self.meet()
            if _read_phase(path)["status"] != "done":
                work()
        self.meet()
        return _read_phase(path)["result"]

    def finish(self, status: str = "complete") -> None:
        """Leave the closing of the books to the first process."""

    def fail(self, error: BaseException) -> None:
        """Leave it to the first process, too, to say what ended the run."""


def _ending(error: BaseException) -> str:
    return "interrupted" if isinstance(error, KeyboardInterrupt | SystemExit) else "failed"


def _read_phase(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except DataError as error:
        raise DataError(f"{error} Delete it to repeat this phase.") from error


def differences(old: Any, new: Any) -> str:
    """Name the first leaves in which two JSON-like values differ: ``a.b: 1, now 2; c: [3], now [4]``.

    Lists too long for a sentence are gone through entry by entry.
    """
    found = list(_differing(old, new, ""))
    more = [f"and {len(found) - NAMED_LEAVES} more"] if len(found) > NAMED_LEAVES else []
    return "; ".join(found[:NAMED_LEAVES] + more)


def _differing(old: Any, new: Any, name: str) -> Iterator[str]:
    long = max(len(str(old)), len(str(new))) > LONG
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differing(old.get(key), new.get(key), f"{name}.{key}" if name else str(key))
    elif long and isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for place, (was, now) in enumerate(zip(old, new, strict=True)):
            yield from _differing(was, now, f"{name}[{place}]")
    elif old != new:
        yield f"{name}: {_short(old)}, now {_short(new)}"


def _short(value: Any) -> str:
    text = hide_passwords(str(value))
    return text if len(text) <= LONG else f"{text[:LONG]}..."
