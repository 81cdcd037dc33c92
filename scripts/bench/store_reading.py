"""Segments per second: the trajectory store against memory and against HDF5, in one run.

    python scripts/bench/store_reading.py --episodes 1000 --steps 500

Random segments are read in batches from a warm page cache, with all that a segment batch holds. Compared are

- memory: the gather of the store over copies of its arrays in memory, and plain NumPy indexing of these;
- HDF5: one group per episode as robomimic writes it, the file opened once, every segment sliced from its
  datasets.

The readers take turns, and the median of the turns counts, because machines are noisy.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from rich.console import Console
from rich.table import Table

from robopref.data import Provenance, Trajectory, TrajectoryStore
from robopref.data.gather import gather


def main() -> None:
    """Write the same random episodes in both formats, time all readers, print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=500, help="actions in an episode")
    parser.add_argument("--length", type=int, default=50, help="actions in a segment")
    parser.add_argument("--batch", type=int, default=256, help="segments read at once")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as directory:
        started = time.perf_counter()
        store = write(Path(directory), options.episodes, options.steps, rng)
        written = time.perf_counter() - started
        with h5py.File(Path(directory) / "episodes.hdf5") as file:
            speeds = measure(readers(store, file, options.length, options.batch, rng), options.turns)
        size = sum(path.stat().st_size for path in store.path.iterdir()) / 2**20
    print_table(
        speeds, f"{options.episodes} x {options.steps} steps, {size:.0f} MiB; written in {written:.1f} s"
    )


def write(directory: Path, episodes: int, steps: int, rng: np.random.Generator) -> TrajectoryStore:
    """Write random episodes of Meta-World's sizes to a store and to an HDF5 file."""
    points = ("hand", "object", "goal")
    provenance = Provenance("made-up", "none", 0, "random", {}, "", {})
    store = TrajectoryStore.create(
        directory / "store", observation_size=39, action_size=4, keypoints=points, control_hz=80.0
    )
    with store, h5py.File(directory / "episodes.hdf5", "w") as file:
        for episode in range(episodes):
            trajectory = Trajectory(
                observations=rng.standard_normal((steps + 1, 39), np.float32),
                actions=rng.standard_normal((steps, 4), np.float32),
                rewards=rng.standard_normal(steps, np.float32),
                successes=rng.random(steps) < 0.1,
                keypoints={name: rng.standard_normal((steps + 1, 3), np.float32) for name in points},
                terminated=False,
                provenance=provenance,
            )
            store.append(trajectory)
            group = file.create_group(f"data/demo_{episode}")
            for name in ("observations", "actions", "rewards", "successes"):
                group[name] = getattr(trajectory, name)
            for name, value in trajectory.keypoints.items():
                group[f"keypoints/{name}"] = value
    return TrajectoryStore.open(store.path)


def readers(
    store: TrajectoryStore, file: h5py.File, length: int, batch: int, rng: np.random.Generator
) -> dict[str, tuple[Callable[[], None], int]]:
    """Return what is timed, by name, with the number of segments that one call reads."""
    points = store.layout.keypoints
    copies = {name: np.array(store.array(name)) for name in store.layout.arrays}
    sizes = np.full(batch, length)

    def draw() -> tuple[np.ndarray, np.ndarray]:
        episodes = rng.integers(len(store), size=batch)
        return episodes, rng.integers(store.lengths[episodes] - length + 1)

    def from_store() -> None:
        store.segments(*draw(), sizes)

    def from_memory() -> None:
        episodes, starts = draw()
        gather(copies.__getitem__, points, store.first_rows[episodes] + starts, sizes)

    def by_indexing() -> None:
        episodes, starts = draw()
        rows = (store.first_rows[episodes] + starts)[:, None] + np.arange(length + 1)
        for name, array in copies.items():
            array[rows if name == "observations" or "/" in name else rows[:, :-1]]

    def from_hdf5() -> None:
        for episode, start in zip(*draw(), strict=True):
            group = file[f"data/demo_{episode}"]
            assert isinstance(group, h5py.Group)
            for name in copies:
                extra = name == "observations" or "/" in name
                values = group[name]
                assert isinstance(values, h5py.Dataset)
                values[start : start + length + extra]

    return {
        "trajectory store (memory-mapped)": (from_store, batch),
        "memory, the store's gather": (from_memory, batch),
        "memory, plain indexing": (by_indexing, batch),
        "HDF5, one group per episode": (from_hdf5, batch),
    }


def measure(timed: dict[str, tuple[Callable[[], None], int]], turns: int) -> dict[str, float]:
    """Return the median over turns of segments per second of process CPU time."""
    taken: dict[str, list[float]] = {name: [] for name in timed}
    calls = {name: 2 if name.startswith("HDF5") else 40 for name in timed}
    for turn in range(turns + 1):
        for name, (read, segments) in timed.items():
            started = time.process_time()
            for _ in range(calls[name]):
                read()
            if turn:  # the first warms up
                taken[name].append(calls[name] * segments / (time.process_time() - started))
    return {name: float(np.median(values)) for name, values in taken.items()}


def print_table(speeds: dict[str, float], title: str) -> None:
    """Print segments per second, and how the store compares with each."""
    ours = next(iter(speeds.values()))
    table = Table("reader", "segments per CPU second", "the store is", title=title)
    for name, speed in speeds.items():
        table.add_row(name, f"{speed:,.0f}", f"{ours / speed:.2f} x as fast")
    Console().print(table)


if __name__ == "__main__":
    main()
