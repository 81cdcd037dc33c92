"""Which objective to pick: one small robot task, the same labels, every objective, several betas.

    python scripts/bench/objectives_table.py --minutes 15   # as many cells as fit; run again to go on
    python scripts/bench/objectives_table.py --minutes 0 --page docs/results/objectives.md

The task: an arm of two joints in the plane brings its tip to a goal. From each of 60 reset states four
behaviours are recorded: an expert that trembles, a slow one, one that drifts, and a random one. A teacher who
prefers the higher return compares the four (360 pairs), and a share of its labels is reversed. A reward model
is judged by the order of 360 pairs from 60 other reset states; a policy by how often it ends within 0.2 of
the goal (links are of length 1) from 1000 others still. The policy starts from a clone of all episodes.

Each cell is one line of outputs/bench/objectives.jsonl, and a later call goes on from there. The median over
betas is reported, not the best.
"""

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from objectives_learners import FLIPS, LEARNERS, Bench, strengths, trains
from objectives_page import READING, page

from robopref.files import write_text
from robopref.objectives.registry import REGISTRY


def cells(learner: str, names: Sequence[str], flips: Sequence[float]) -> Iterator[tuple[str, float]]:
    """(objective, flip) of those that train the learner."""
    return ((name, flip) for flip in flips for name in names if trains(name, learner))


def read(files: Iterable[Path]) -> list[dict[str, Any]]:
    """All cells in some files, each once."""
    rows = [json.loads(line) for file in sorted(files) for line in file.read_text().splitlines()]
    return list({identity(row): row for row in rows}.values())


def identity(row: dict[str, Any]) -> tuple[Any, ...]:
    """What no two cells share."""
    return tuple(row[key] for key in ("seed", "learner", "objective", "flip", "strength"))


def run(
    file: Path, learners: list[str], names: list[str], seeds: list[int], flips: list[float], minutes: float
) -> None:
    """Fill the file with cells until the time is up; those in files beside it are known."""
    file.parent.mkdir(parents=True, exist_ok=True)
    known = {identity(row) for row in read(file.parent.glob("objectives*.jsonl"))}
    end = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as folder, file.open("a") as out:
        for seed, learner in itertools.product(seeds, learners):
            bench = None
            for name, flip in cells(learner, names, flips):
                wanted = strengths(name, learner)
                missing = tuple(x for x in wanted if (seed, learner, name, flip, x) not in known)
                if not missing:
                    continue
                if time.monotonic() > end:
                    return
                bench = bench or Bench(seed, Path(folder) / learner)
                for strength, found in zip(
                    missing, getattr(bench, learner)(name, flip, missing), strict=True
                ):
                    cell = {"seed": seed, "learner": learner, "objective": name, "flip": flip}
                    out.write(json.dumps(cell | {"strength": strength} | found) + "\n")
                out.flush()


def main() -> None:
    """Run what is missing, and write the page if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--learners", nargs="+", default=list(LEARNERS), choices=LEARNERS)
    parser.add_argument("--objectives", nargs="+", default=list(REGISTRY), choices=REGISTRY)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--flips", type=float, nargs="+", default=list(FLIPS))
    parser.add_argument("--file", type=Path, default=Path("outputs/bench/objectives.jsonl"))
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    run(options.file, options.learners, options.objectives, options.seeds, options.flips, options.minutes)
    rows = read(options.file.parent.glob("objectives*.jsonl"))
    rows = [r for r in rows if r["seed"] in options.seeds and r["flip"] in options.flips]
    rows = [r for r in rows if r["strength"] in strengths(r["objective"], r["learner"])]
    rows = [r for r in rows if trains(r["objective"], r["learner"])]
    print(f"{len(rows)} cells in {options.file.parent}")
    if options.page:
        seeds = " ".join(map(str, options.seeds))
        command = f"scripts/bench/objectives_table.py --minutes 60 --seeds {seeds}"
        old = options.page.read_text() if options.page.exists() else ""
        reading = old[old.index(READING) :] if READING in old else f"{READING}\n"
        task = (__doc__ or "").split("\n\n")[2]
        write_text(options.page, page(rows, command, task) + reading)


if __name__ == "__main__":
    main()
