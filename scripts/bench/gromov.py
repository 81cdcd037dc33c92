"""How fast a Gromov-Wasserstein coupling is found, beside POT's conditional gradient on the same problems.

Two smooth random curves of L points each (4 and 7 dimensions), Euclidean distances over their largest, both
solvers from the product plan. The time is CPU time of one thread, per problem, median over repeats; the cost
is the objective at the end. "As called" is what an alignment runs by default, with its second start where it
has one, and its cost is given relative to POT's. Weighted points have masses drawn evenly between 1/2 and 2
before they are divided by their sum.

    OMP_NUM_THREADS=1 python scripts/bench/gromov.py [--repeats 5]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import ot

from robopref.alignment.assignment import AssignmentProblem
from robopref.alignment.distances import pairwise_distances
from robopref.alignment.gromov import coupling_cost, gromov_wasserstein
from robopref.alignment.transport import TransportProblem

PROBLEMS = (  # points of the source and of the target, whether weighted, how many
    *((50, 50, False, 24), (100, 100, False, 16), (200, 200, False, 6)),
    *((50, 40, False, 24), (100, 80, False, 16), (200, 150, False, 6)),
    *((50, 50, True, 24), (100, 37, True, 16), (100, 100, True, 16), (200, 200, True, 6)),
)


def curve(points: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return a sum of five sine waves, of falling size and random phase."""
    time_ = np.linspace(0, 1, points)[:, None]
    waves = [
        rng.normal(size=size) * np.sin(np.pi * k * time_ + rng.uniform(0, 6, size)) / k for k in range(1, 6)
    ]
    return np.sum(waves, axis=0)


def timed(solve: Callable[[], Any]) -> tuple[float, np.ndarray]:
    """Return the CPU time of a call, in milliseconds, and its answer."""
    start = time.process_time()
    answer = solve()
    return 1e3 * (time.process_time() - start), answer


def once(problem: TransportProblem) -> np.ndarray:
    """Solve from the product plan alone."""
    if not problem_is_equal(problem):
        return problem.solve()
    match = AssignmentProblem(problem.first, problem.second).solve()
    assert match is not None, "Euclidean distances make the problem concave"
    return np.eye(len(match))[match] / len(match)


def problem_is_equal(problem: TransportProblem) -> bool:
    """Whether both sets have one size, and all points one weight."""
    return len(problem.p) == len(problem.q) and bool(np.ptp(np.concatenate([problem.p, problem.q])) < 1e-12)


def draw(rows: int, columns: int, weighted: bool, rng: np.random.Generator) -> TransportProblem:
    """Return a pair of curves."""
    first, second = (pairwise_distances(curve(n, size, rng)) for n, size in ((rows, 4), (columns, 7)))
    p, q = (rng.uniform(0.5, 2, n) if weighted else np.ones(n) for n in (rows, columns))
    return TransportProblem(first, second, p / p.sum(), q / q.sum())


def main() -> None:
    """Print one line per kind of problem."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    rng = np.random.default_rng(0)
    print(
        "| points | problems | POT, ms | ours, ms | | cost equal to 1e-6 | as called, ms | | its cost: mean, "
        "most |\n|---|---|---|---|---|---|---|---|---|"
    )
    for rows, columns, weighted, count in PROBLEMS:
        times: list[list[float]] = []
        equal, called = 0, []
        for _ in range(count):
            problem = draw(rows, columns, weighted, rng)
            solvers: list[Callable[[], Any]] = [
                lambda own=problem: ot.gromov.gromov_wasserstein(
                    own.first, own.second, own.p, own.q, symmetric=True
                ),
                lambda own=problem: once(own),
                lambda own=problem: (
                    gromov_wasserstein(own.first, own.second, source_weights=own.p, target_weights=own.q).plan
                ),
            ]
            runs = [[timed(solve) for solve in solvers] for _ in range(repeats)]
            times.append([statistics.median(run[i][0] for run in runs) for i in range(3)])
            costs = [coupling_cost(plan, problem.first, problem.second) for _, plan in runs[0]]
            equal += abs(costs[1] - costs[0]) <= 1e-6 * costs[0]
            called.append(costs[2] / costs[0])
        pot, ours, default = np.mean(times, axis=0)
        print(
            f"| {rows} x {columns}{' weighted' if weighted else ''} | {count} | {pot:.2f} | {ours:.2f} "
            f"| {pot / ours:.2f}x | {equal} | {default:.2f} | {pot / default:.2f}x "
            f"| {np.mean(called):.3f}, {max(called):.6f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
