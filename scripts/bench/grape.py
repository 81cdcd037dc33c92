"""GRAPE beside its start and its controls: success, collisions and steps along every axis, over seeds.

    python scripts/bench/grape.py --seeds 6,7,8 --page docs/results/grape.md          # run, write the tables
    python scripts/bench/grape.py --seeds 6,7,8 --read --page docs/results/grape.md   # write the tables alone
    python scripts/bench/grape.py --small --seeds 0                                   # a small check
    OMP_NUM_THREADS=1 python scripts/bench/grape.py --speed --page docs/results/grape.md

Each seed is a ``robopref run experiment=grape_full``: five rounds, every control, twice as many trials.
A run that was stopped goes on where it was; one that is complete is read, if its configuration is what this
command composes, and refused if it is another.
``--small`` is two tasks, a smaller policy and fewer rollouts. Overrides of the experiment may follow ``--``,
such as ``grape.rounds=8``.
``--speed`` measures a training step of the experiment's policy against a plain forward and backward pass.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from grape_page import tables
from grape_runs import Finished, composed, is_finished
from grape_speed import speed
from pages import put_between

from robopref.errors import RoboprefError

SMALL = [
    "experiment=grape",
    "grape.tasks=[drawer-close,handle-press]",
    "grape.demonstrations.episodes=16",
    "grape.rollouts={starts: 6, repeats: 4, at_once: 24}",
    "grape.pairing.gap=0.0",
    "env.options.horizon=100",
    "policy.width=64",
    "training.clone={steps: 500, batch_size: 32}",
    "training.policy={steps: 30, batch_size: 2}",
    "training.evaluation.episodes=10",
    "~grape.variants.bc-on-all",
    "~grape.variants.stepwise-dpo",
    "~grape.variants.random-pairs",
    "~grape.axes.camera",
    "~grape.axes.initial-state",
    "~grape.axes.visual",
    "~grape.axes.wording",
]


def measured(seed: int, folder: Path, overrides: list[str]) -> Finished:
    """Finish the run of a seed, where it is not, and return what it left."""
    out = folder / f"seed{seed}"
    words = [*overrides, f"seed={seed}", f"out={out}", "wandb.mode=disabled"]
    if not is_finished(out, composed(words)):
        command = [sys.executable, "-m", "robopref.cli", "run", *words]
        subprocess.run(command, check=True)
    return Finished.read(out)


def main() -> None:
    """Run, pool and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="6,7,8")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--read", action="store_true", help="make tables of finished runs, run nothing")
    parser.add_argument("--folder", type=Path, default=Path("outputs/grape-bench"))
    parser.add_argument("--page", type=Path, help="a Markdown page whose marked part gets the tables")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--repeats", type=int, default=5, help="of --speed")
    parser.add_argument("overrides", nargs="*", help="of the experiment, after --")
    given = parser.parse_args()
    overrides = [*(SMALL if given.small else ["experiment=grape_full"]), *given.overrides]
    try:
        name, text = "runs", ""
        if given.speed:
            name, text = "speed", speed(composed(overrides), given.repeats)
        else:
            text = tables([_of_seed(int(seed), given, overrides) for seed in given.seeds.split(",")])
        print(text)
        if given.page is not None:
            put_between(given.page, name, text)
    except RoboprefError as error:
        sys.exit(str(error))


def _of_seed(seed: int, given: Any, overrides: list[str]) -> Finished:
    if given.read:
        return Finished.read(given.folder / f"seed{seed}")
    return measured(seed, given.folder, overrides)


if __name__ == "__main__":
    main()
