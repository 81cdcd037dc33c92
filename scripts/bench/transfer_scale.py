"""CPA between large sets: time and memory of a whole transfer, and what its landmarks cost in accuracy.

    python scripts/bench/transfer_scale.py                      # 1,000 episodes of each of two tasks
    python scripts/bench/transfer_scale.py --accuracy           # 100 to 400 episodes, beside the full solve
    python scripts/bench/transfer_scale.py --ensemble           # hundreds of problems in one call

Episodes are made up: a hand of some skill goes to an object and carries it to a goal; each task has its own
places and its own random linear map to 39 observations. Memory is the process's highest, libraries included.
"""

import argparse
import resource
import time
from typing import Any

import numpy as np

from robopref.alignment.cpa import CrossTaskAlignment
from robopref.alignment.distances import pairwise_distances
from robopref.alignment.ensemble import cores, solve_all
from robopref.alignment.gromov import gromov_wasserstein
from robopref.alignment.record import pair_accuracy
from robopref.alignment.sets import LabelledSet
from robopref.alignment.transfer import labels_from_scores
from robopref.data.trajectory import SegmentBatch

STEPS = 150


def episodes(count: int, seed: int) -> tuple[SegmentBatch, np.ndarray]:
    """Return the episodes of a made-up task, and their skills."""
    rng = np.random.default_rng(seed)
    skill = rng.uniform(0, 1, count)
    when = np.linspace(0, 1, STEPS + 1)[None, :, None]
    start, thing, goal = (rng.normal(size=(1, 1, 3)) + 0.1 * rng.normal(size=(count, 1, 3)) for _ in range(3))
    reach = np.minimum(2 * when, 1) * np.minimum(2 * skill, 1)[:, None, None]
    carry = np.maximum(2 * when - 1, 0) * np.maximum(2 * skill - 1, 0)[:, None, None]
    noise = rng.normal(size=(count, STEPS + 1, 3)) * 0.1 * rng.uniform(0.2, 2, (count, 1, 1))
    object_path = thing + carry * (goal - thing)
    hand = np.where(carry > 0, object_path, start + reach * (thing - start)) + noise
    paths = {"hand": hand, "object": object_path, "goal": np.broadcast_to(goal, hand.shape)}
    seen = np.concatenate(list(paths.values()), axis=-1) @ rng.normal(size=(9, 39))
    segments = SegmentBatch(
        observations=seen.astype(np.float32),
        actions=np.diff(hand, axis=1).astype(np.float32),
        rewards=np.zeros((count, STEPS), np.float32),
        successes=np.zeros((count, STEPS), bool),
        mask=np.ones((count, STEPS), bool),
        keypoints={name: path.astype(np.float32) for name, path in paths.items()},
    )
    return segments, skill


def transferred(count: int, seed: int, **options: Any) -> tuple[Any, float, np.ndarray]:
    """Carry labels between two tasks; returns the record, wall seconds, and the target's true labels."""
    segments, skill = episodes(count, 2 * seed)
    target, truth = episodes(count, 2 * seed + 1)
    source = LabelledSet("source", segments, labels_from_scores(skill))
    start = time.perf_counter()
    record = CrossTaskAlignment(**options).transfer([source], target, rng=np.random.default_rng(seed))
    return record, time.perf_counter() - start, labels_from_scores(truth)


def accuracy() -> None:
    """Hold the landmarks against the full solve where it is possible."""
    print(
        "| episodes | alignment | landmarks | cost / full | labels as the full solve | right | full right |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, options in (
        ("cpa", {}),
        ("fused", {"features": ["mean", "frame", "statistics"], "alpha": 0.9}),
    ):
        for count in (100, 200, 400):
            full = [transferred(count, seed, solver="full", **options) for seed in range(3)]
            for landmarks in (50, 100):
                few = [
                    transferred(count, seed, solver="quantised", landmarks=landmarks, **options)
                    for seed in range(3)
                ]
                dear = [
                    np.mean([a.costs[k] / b.costs[k] for k in b.costs])
                    for (a, _, _), (b, _, _) in zip(few, full, strict=True)
                ]
                same = [
                    pair_accuracy(a.labels, b.labels) for (a, _, _), (b, _, _) in zip(few, full, strict=True)
                ]
                right = [np.mean([pair_accuracy(r.labels, z) for r, _, z in runs]) for runs in (few, full)]
                print(
                    f"| {count} | {name} | {landmarks} | {np.mean(dear):.2f} | {100 * np.mean(same):.1f} % "
                    f"| {100 * right[0]:.1f} % | {100 * right[1]:.1f} % |",
                    flush=True,
                )


def large(count: int) -> None:
    """Time whole transfers between large sets."""
    for name, options in (
        ("cpa", {}),
        ("fused", {"features": ["mean", "frame", "statistics"], "alpha": 0.9}),
    ):
        begun = time.process_time()
        record, seconds, truth = transferred(count, 0, **options)
        of_cores = time.process_time() - begun
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{name}: {count} x {count} episodes in {seconds:.1f} s ({of_cores:.1f} s of CPU time), "
            f"{peak:.2f} GiB, {100 * pair_accuracy(record.labels, truth):.1f} % of the labels right",
            flush=True,
        )


def ensemble() -> None:
    """Solve hundreds of problems in one call, in a loop, and by a loop over POT."""
    import ot

    rng = np.random.default_rng(0)
    problems = []
    for _ in range(60):
        rows, columns = rng.choice([64, 80, 104], 2)
        sides = [pairwise_distances(rng.normal(size=(n, 8)).cumsum(axis=0)) for n in (rows, columns)]
        problems += [{"source_distances": sides[0], "target_distances": sides[1]}] * 4
    ways = {
        "one call": lambda: solve_all(problems),
        "loop over ours": lambda: [gromov_wasserstein(**problem) for problem in problems],
        "loop over POT": lambda: [
            ot.gromov.gromov_wasserstein(*problem.values(), symmetric=True) for problem in problems
        ],
    }
    for name, way in ways.items():
        start = time.perf_counter()
        way()
        seconds = time.perf_counter() - start
        print(f"{name}: {len(problems)} problems in {seconds:.2f} s on {cores()} cores", flush=True)


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--accuracy", action="store_true")
    parser.add_argument("--ensemble", action="store_true")
    options = parser.parse_args()
    if options.accuracy:
        accuracy()
    elif options.ensemble:
        ensemble()
    else:
        large(options.episodes)


if __name__ == "__main__":
    main()
