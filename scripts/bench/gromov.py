"""How fast a Gromov-Wasserstein coupling is found, beside POT's conditional gradient on the same problems.

Two smooth random curves of L points each (4 and 7 dimensions), Euclidean distances over their largest, both
solvers from the product plan. The time is CPU time of one thread, per problem, median over repeats; the cost
is the objective at the end. "As called" is what an alignment runs by default, with its second start where it
has one, and its cost is given relative to POT's. Weighted points have masses drawn evenly between 1/2 and 2
before they are divided by their sum.

With ``--device`` it is the solver in torch instead: all problems of a kind in one call there, beside a loop
over POT on one core. On a GPU both are wall-clock times; a call that is not timed comes first.

    OMP_NUM_THREADS=1 python scripts/bench/gromov.py [--repeats 5]
    OMP_NUM_THREADS=1 python scripts/bench/gromov.py --device cuda --problems 512 [--seed 0]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import ot

from robopref.alignment.assignment import AssignmentProblem
from robopref.alignment.batched import batched_gromov_wasserstein
from robopref.alignment.distances import pairwise_distances
from robopref.alignment.gromov import coupling_cost, gromov_wasserstein
from robopref.alignment.transport import TransportProblem
from robopref.nets.devices import resolve_device

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


def timed(solve: Callable[[], Any], clock: Callable[[], float] = time.process_time) -> tuple[float, Any]:
    """Return the time of a call, in milliseconds, and its answer."""
    start = clock()
    answer = solve()
    return 1e3 * (clock() - start), answer


def by_pot(problem: TransportProblem) -> np.ndarray:
    """Solve by POT's conditional gradient."""
    plan: Any = ot.gromov.gromov_wasserstein(
        problem.first, problem.second, problem.p, problem.q, symmetric=True
    )
    return plan


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


def compare_one_by_one(repeats: int, seed: int) -> None:
    """Print one line per kind of problem: POT beside the solvers for a core."""
    rng = np.random.default_rng(seed)
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
                lambda own=problem: by_pot(own),
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


def compare_in_one_call(name: str, problems: int | None, seed: int) -> None:
    """Print one line per kind of problem: POT beside the solver in torch."""
    device = resolve_device(name)
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    rng = np.random.default_rng(seed)
    print(
        f"| points | problems | POT, ms | one call on {device}, ms each | | cost / POT's: mean, median, most "
        "| within 5 % |\n|---|---|---|---|---|---|---|"
    )
    for number, (rows, columns, weighted, count) in enumerate(PROBLEMS):
        drawn = [draw(rows, columns, weighted, rng) for _ in range(problems or count)]
        given = [
            {
                "source_distances": own.first,
                "target_distances": own.second,
                "source_weights": own.p,
                "target_weights": own.q,
            }
            for own in drawn
        ]
        if number == 0:
            batched_gromov_wasserstein(given, device=device)
        ours, ends = timed(lambda given=given: batched_gromov_wasserstein(given, device=device), clock)
        pot, plans = timed(lambda drawn=drawn: [by_pot(own) for own in drawn], clock)
        costs = [coupling_cost(plan, own.first, own.second) for plan, own in zip(plans, drawn, strict=True)]
        ratios = np.array([end.cost for end in ends]) / costs
        print(
            f"| {rows} x {columns}{' weighted' if weighted else ''} | {len(drawn)} | {pot / len(drawn):.2f} "
            f"| {ours / len(drawn):.2f} | {pot / ours:.2f}x | {ratios.mean():.3f}, {np.median(ratios):.3f}, "
            f"{ratios.max():.3f} | {(ratios <= 1.05).sum()} |",
            flush=True,
        )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5, help="of each problem, without --device")
    parser.add_argument("--device", help="cpu, cuda, cuda:<number> or auto: the solver in torch")
    parser.add_argument("--problems", type=int, help="of each kind, with --device")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.device is None:
        compare_one_by_one(given.repeats, given.seed)
    else:
        compare_in_one_call(given.device, given.problems, given.seed)


if __name__ == "__main__":
    main()
