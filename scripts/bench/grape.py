"""GRAPE beside its start and its controls: success, collisions and steps along every axis, over seeds.

Runs ``robopref run experiment=grape`` for each seed (a run that is finished is only read) and writes a table
in Markdown. ``--small`` is what a laptop does in half an hour: two tasks, a smaller policy, fewer rollouts.
The speed of a training step is measured apart: a step over B pairs in windows against one plain forward and
backward pass of the same decisions.

    python scripts/bench/grape.py --small --seeds 0 --write docs/results/grape-table.md
    OMP_NUM_THREADS=1 python scripts/bench/grape.py --speed
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest

from robopref.files import read_json, write_text
from robopref.policies.vla.policy import VLAPolicy
from robopref.policies.vla.preference import TrajectoryPreference

SMALL = [
    "grape.tasks=[drawer-close,handle-press]",
    "grape.demonstrations.episodes=16",
    "grape.rollouts={starts: 6, repeats: 4, at_once: 24}",
    "env.options.horizon=100",
    "policy.width=64",
    "training.clone={steps: 500, batch_size: 32}",
    "training.policy={steps: 30, batch_size: 2}",
    "training.evaluation.episodes=10",
    "~grape.variants.bc-on-all",
    "~grape.variants.stepwise-dpo",
    "~grape.variants.random-pairs",
    "~grape.axes.camera",
    "~grape.axes.visual",
    "~grape.axes.wording",
    "~grape.axes.training-starts",
]


def run(seed: int, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Finish the run of a seed and return what it measured."""
    out = folder / f"seed{seed}"
    if not (out / "grape.json").exists():
        words = [
            *("robopref", "run", "experiment=grape", f"seed={seed}", f"out={out}"),
            *("wandb.mode=disabled", "device=auto", *overrides),
        ]
        subprocess.run([sys.executable, "-m", "robopref.cli", *words[1:]], check=True)
    return read_json(out / "grape.json")


def table(results: list[dict[str, Any]]) -> str:
    """Pool the seeds: one line per policy and axis."""
    lines = [
        "| policy | axis | episodes | success | 95 % interval | collisions | steps | per seed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for policy, axes in results[0].items():
        for axis in axes:
            found = [result[policy][axis] for result in results if policy in result]
            count, wins = sum(f["n"] for f in found), sum(f["successes"] for f in found)
            low, high = binomtest(wins, count).proportion_ci(method="wilson")
            collided, steps = (float(np.mean([f[name] for f in found])) for name in ("collision", "steps"))
            seeds = ", ".join(f"{f['rate']:.0%}" for f in found)
            numbers = f"{wins / count:.1%} | {low:.1%} to {high:.1%} | {collided:.0%} | {steps:.1f}"
            lines.append(f"| {policy} | {axis} | {count} | {numbers} | {seeds} |")
    return "\n".join(lines) + "\n"


def batch_of(policy: VLAPolicy, pairs: int, decisions: int) -> dict[str, torch.Tensor]:
    """Return random pairs of trajectories of so many decisions."""
    rng, size = np.random.default_rng(0), policy.image_size
    members = 2 * pairs
    words = policy.tokenizer.encode("open the drawer")
    return {
        "frames": torch.from_numpy(rng.integers(0, 256, (members, decisions, size, size, 3), np.uint8)),
        "words": torch.from_numpy(np.stack([words] * members)),
        "targets": torch.from_numpy(rng.integers(0, 256, (members, decisions, 20))),
        "mask": torch.ones(members, decisions, dtype=torch.bool),
        "reference": torch.full((members, decisions), -110.0),
        "parts": torch.arange(decisions).expand(members, -1) * 4 // decisions,
        "grades": torch.tensor([[1.0, 0.0]] * pairs),
        "weights": torch.ones(pairs),
    }


def speed(repeats: int) -> str:
    """Measure CPU time (or the time of a GPU) of steps in windows and of a plain pass."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    policy = VLAPolicy(4).to(device)
    batch = {name: value.to(device) for name, value in batch_of(policy, 2, 16).items()}
    words = batch["words"].repeat_interleave(16, 0)
    rows = (batch["frames"].flatten(0, 1), words, batch["targets"].flatten(0, 1))

    def plain() -> None:
        policy.token_log_probs(*rows).sum().backward()

    def stepped(window: int) -> None:
        TrajectoryPreference(policy, window=window).loss(batch)[0].backward()

    def timed(work: Any, *given: int) -> float:
        clock = time.perf_counter if device == "cuda" else time.process_time
        start = clock()
        work(*given)
        if device == "cuda":
            torch.cuda.synchronize()
        return clock() - start

    plain()
    kinds: dict[str, tuple[Any, ...]] = {
        "plain forward and backward of all 64 decisions": (plain,),
        "a step over 2 pairs, all at once": (stepped, 64),
        "in windows of 32": (stepped, 32),
        "in windows of 16": (stepped, 16),
    }
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(repeats):  # in turn, so that a busy machine is busy for all
        for name, (work, *given) in kinds.items():
            seconds[name].append(timed(work, *given))
    first = statistics.median(next(iter(seconds.values())))
    lines = ["| what | seconds | times a plain pass |", "|---|---|---|"]
    for name, found in seconds.items():
        middle = statistics.median(found)
        lines.append(f"| {name} | {middle:.2f} | {middle / first:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run, pool and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("outputs/grape-bench"))
    parser.add_argument("--write", type=Path)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    if given.speed:
        print(speed(given.repeats))
        return
    overrides = [*(SMALL if given.small else []), *given.overrides]
    text = table([run(int(seed), given.folder, overrides) for seed in given.seeds.split(",")])
    print(text)
    if given.write is not None:
        write_text(given.write, text)


if __name__ == "__main__":
    main()
