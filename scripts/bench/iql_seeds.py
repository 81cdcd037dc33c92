"""How fast K implicit Q-learners train together, beside the same K one after another.

    python scripts/bench/iql_seeds.py [--device cuda] [--seeds 8] [--batch 256] [--width 256] [--steps 20]

Both sides draw their batches and step Adam; they take turns, so that the load of the machine falls on both. A
step is one update of all K. On a CPU the time is CPU time of one thread; on a GPU it is wall time.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
from iql_update import ACTION, OBSERVATION, Ours, transitions

from robopref.policies.dataset import RewardScaling, TransitionSampler
from robopref.policies.iql import ImplicitQLearning
from robopref.policies.several import SeveralLearners, stacked_batches


def seconds(update: Callable[[], None], steps: int, device: torch.device) -> float:
    """Time of so many updates of all learners."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    start = clock()
    for _ in range(steps):
        update()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def main() -> None:
    """Print both rates."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    device, count = torch.device(options.device), options.seeds
    data = transitions(torch.float32)
    data = TransitionSampler(
        data._observations.to(device),
        data._rest[:, :ACTION].to(device),
        data._rest[:, ACTION].to(device),
        data._rest[:, ACTION + 1].to(device),
        data._rows.to(device),
        RewardScaling(),
    )
    learners = [
        ImplicitQLearning(OBSERVATION, ACTION, hidden=(options.width,) * 2, seed=seed).to(device)
        for seed in range(count)
    ]
    together = SeveralLearners(learners)
    adam = torch.optim.Adam(together.trained(), lr=together.learning_rate, fused=True)
    alone = [Ours(learner) for learner in learners]
    generators = [torch.Generator().manual_seed(seed) for seed in range(count)]

    def one_after_another() -> None:
        for learner, generator in zip(alone, generators, strict=True):
            learner.update(data.sample(options.batch, generator))

    def at_once() -> None:
        adam.zero_grad()
        together.loss(stacked_batches([data] * count, options.batch, generators)).sum().backward()
        adam.step()
        together.after_step()

    spent: dict[str, list[float]] = {"one after another": [], "together": []}
    for repeat in range(options.repeats + 1):
        for name, update in zip(spent, (one_after_another, at_once), strict=True):
            took = seconds(update, options.steps, device)
            spent[name] += [took] if repeat else []  # the first repeat warms up
    print(
        f"{count} learners, batch {options.batch}, 2 x {options.width}, {device}, "
        f"torch {torch.__version__}, load {os.getloadavg()[0]:.1f}"
    )
    base = statistics.median(spent["one after another"])
    for name, times in spent.items():
        middle = statistics.median(times)
        print(f"{name:18s} {options.steps * count / middle:8.1f} updates per second, {base / middle:.2f}x")


if __name__ == "__main__":
    main()
