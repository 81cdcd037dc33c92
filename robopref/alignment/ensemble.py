"""Many Gromov-Wasserstein problems in one call, on all cores or as one computation on a torch device.

The solvers for a core spend their time in compiled code that lets other threads run, so threads suffice:
nothing is copied to other processes, and problems may share their distances.
"""

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from robopref.alignment.gromov import Coupling, gromov_wasserstein
from robopref.alignment.quantised import quantised_gromov_wasserstein
from robopref.alignment.semi_relaxed import semi_relaxed_gromov_wasserstein


def solve_all(
    problems: Iterable[Mapping[str, Any]], *, workers: int | None = None, device: str | None = None
) -> list[Coupling]:
    """Return the coupling of each problem, in their order, whatever the number of workers.

    Args:
        problems: Arguments of :func:`~.gromov.gromov_wasserstein` for each, or of
            :func:`~.quantised.quantised_gromov_wasserstein` where they name ``landmarks``; sizes may differ.
            Where ``semi_relaxed`` is true, of
            :func:`~.semi_relaxed.semi_relaxed_gromov_wasserstein`.
        workers: Problems solved at a time; as many as this process has cores by default.
        device: With a name (see :func:`~robopref.nets.devices.resolve_device`), all problems are solved there
            by :func:`~.batched.batched_gromov_wasserstein`, whose arguments they then hold.

    Raises:
        ConfigError, DataError, DivergedError: As :func:`~.gromov.gromov_wasserstein`, of the first bad one.
        DeviceError: There is no such device.
    """
    if device is not None:
        from robopref.alignment.batched import batched_gromov_wasserstein  # here: torch is slow to import
        from robopref.nets.devices import resolve_device

        return batched_gromov_wasserstein(list(problems), device=resolve_device(device))
    with ThreadPoolExecutor(workers or cores()) as pool:
        return list(pool.map(_solve, problems))


def _solve(problem: Mapping[str, Any]) -> Coupling:
    arguments = dict(problem)
    if arguments.pop("semi_relaxed", False):
        return semi_relaxed_gromov_wasserstein(**arguments)
    return (quantised_gromov_wasserstein if "landmarks" in arguments else gromov_wasserstein)(**arguments)


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
