"""How fast K implicit Q-learners train together, beside the same K one after another.

    python scripts/bench/iql_seeds.py [--device cuda] [--seeds 8] [--batch 256] [--width 256] [--steps 20]

Both sides draw their batches and step Adam; they take turns, so that the load of the machine falls on both. A
step is one update of all K. On a CPU the time is CPU time of one thread; on a GPU it is wall time.

An update is a fixed amount of arithmetic, nearly all of it matrix products, so the rate of one hot product of
the same sizes bounds both sides; it is measured in the same run. ``--compile`` adds the joint loss under
``torch.compile``.
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


def arithmetic(batch: int, width: int) -> float:
    """Floating-point operations of one update's matrix products: of 7 passes forward and 4 backward.

    Forward go two targets, two critics, the value of both states, and the actor; backward, at twice the
    price but for the gradient of the input, two critics, a value and the actor.
    """
    pairs, states = OBSERVATION + ACTION, OBSERVATION

    def products(inputs: int, outputs: int, *, backward: bool) -> float:
        hidden = width * width + width * outputs
        return 2 * batch * ((2 if backward else 1) * hidden + inputs * width)

    forward = 4 * products(pairs, 1, backward=False) + 2 * products(states, 1, backward=False)
    forward += products(states, ACTION, backward=False)
    back = 2 * products(pairs, 1, backward=True) + products(states, 1, backward=True)
    return forward + back + products(states, ACTION, backward=True)


def product_rate(batch: int, width: int, device: torch.device, members: int = 1) -> float:
    """Operations per second of so many hot (batch, width) x (width, width) products in one call."""
    x = torch.randn(members, batch, width, device=device)
    weight, out = torch.randn(members, width, width, device=device), torch.empty_like(x)

    def multiply() -> None:
        torch.bmm(x, weight.transpose(1, 2), out=out)

    work = 2 * members * batch * width * width
    count = max(1, round(1e9 / work))
    return max(work * count / seconds(multiply, count, device) for _ in range(5))


def main() -> None:
    """Print both rates."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="also time the compiled joint loss")
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

    def at_once(loss: Callable[..., torch.Tensor]) -> None:
        adam.zero_grad()
        loss(stacked_batches([data] * count, options.batch, generators)).sum().backward()
        adam.step()
        together.after_step()

    updates = {"one after another": one_after_another, "together": lambda: at_once(together.loss)}
    if options.compile:
        fused = torch.compile(together.loss)
        updates["together, compiled"] = lambda: at_once(fused)
    spent: dict[str, list[float]] = {name: [] for name in updates}
    peak = product_rate(options.batch, options.width, device)
    joint = product_rate(options.batch, options.width, device, count)
    for repeat in range(options.repeats + 1):
        for name, update in updates.items():
            took = seconds(update, options.steps, device)
            spent[name] += [took] if repeat else []  # the first repeat warms up
    print(
        f"{count} learners, batch {options.batch}, 2 x {options.width}, {device}, "
        f"torch {torch.__version__}, load {os.getloadavg()[0]:.1f}"
    )
    base = statistics.median(spent["one after another"])
    work = arithmetic(options.batch, options.width)
    for name, times in spent.items():
        rate = options.steps * count / statistics.median(times)
        print(
            f"{name:18s} {rate:8.1f} updates per second, {rate * base / options.steps / count:.2f}x, "
            f"{rate * work / 1e9:.0f} GFLOP/s"
        )
    print(
        f"an update is {work / 1e6:.0f} MFLOP, one hot product runs at {peak / 1e9:.0f} GFLOP/s ({count} in "
        f"one call at {joint / 1e9:.0f}): at most {peak / work:.0f} updates per second, "
        f"{peak / work * base / options.steps / count:.2f}x"
    )


if __name__ == "__main__":
    main()
