"""The planar scene on CPU threads and on a device by MuJoCo Warp, in one run: control steps per second.

    uv sync --extra gpu --no-default-groups       # an environment of its own
    python scripts/bench/warp.py [--device cuda:0] [--worlds 64 1024 4096]

Actions are random. "with a reward" is a whole collection: a policy acts and a learned reward judges there.
"""

import argparse
import time
from typing import Any

import gymnasium
import numpy as np
import torch

from robopref.policies.gaussian import GaussianPolicy
from robopref.rewards.gaussian import GaussianReward
from robopref.training.on_device import collect_on_device

STEPS = 100


def make(worlds: int, **options: Any) -> Any:
    """Make a vector."""
    return gymnasium.make_vec(
        "robopref.envs:robopref/planar-group-v0",
        num_envs=worlds,
        vectorization_mode="vector_entry_point",
        horizon=STEPS,
        **options,
    )


def on_cpu(worlds: int, threads: int) -> float:
    """Return control steps per second on CPU threads."""
    envs, rng = make(worlds, threads=threads), np.random.default_rng(0)
    envs.reset(seed=0)
    begun = time.perf_counter()
    for _ in range(STEPS):
        envs.step(rng.uniform(-1, 1, envs.action_space.shape))
    envs.close()
    return STEPS * worlds / (time.perf_counter() - begun)


def on_device(worlds: int, device: str) -> tuple[float, float]:
    """Return control steps per second on a device, alone and with a policy and a learned reward."""
    envs = make(worlds, device=device, tensors=True)
    generator = torch.Generator(device).manual_seed(0)
    actions = torch.rand((STEPS, worlds, 2), generator=generator, device=device) * 2 - 1
    policy, reward = GaussianPolicy(22, 2).to(device), GaussianReward(22, 2).to(device)
    seconds = []
    for whole in (False, False, True, True):  # each once to compile and record, then measured
        envs.reset(seed=0)
        begun = time.perf_counter()
        if whole:
            collect_on_device(envs, policy, reward, seed=0, generator=generator)
        else:
            for action in actions:
                envs.step(action)
        envs.check()  # waits for the device
        seconds.append(time.perf_counter() - begun)
    return STEPS * worlds / seconds[1], STEPS * worlds / seconds[3]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--worlds", type=int, nargs="+", default=[64, 1024, 4096])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    print(f"| worlds | {options.threads} CPU threads | {options.device} | {options.device}, with a reward |")
    print("|---|---|---|---|")
    for worlds in options.worlds:
        alone, whole = on_device(worlds, options.device)
        print(f"| {worlds} | {on_cpu(worlds, options.threads):.0f} | {alone:.0f} | {whole:.0f} |", flush=True)


if __name__ == "__main__":
    main()
