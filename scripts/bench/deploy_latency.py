"""How long a robot waits: ranking candidates, deciding on a chunk, and asking a server, beside torch eager.

Networks have the sizes of conf/ and random weights; the clock does not care. Both ways of computing take
turns, so that what else the machine does falls on both; CPU is the time of the thread that computes, which no
other process adds to. The server is a process of its own on this machine.

    python scripts/bench/deploy_latency.py [--rounds 500]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from robopref.deploy.bundle import Bundle, load
from robopref.deploy.client import Client
from robopref.deploy.export import export
from robopref.deploy.selection import Selector
from robopref.policies.bc import BehaviourCloning
from robopref.policies.diffusion import DiffusionPolicy
from robopref.policies.offline import OfflinePolicy
from robopref.policies.saved import save_policy
from robopref.rewards.gaussian import GaussianReward
from robopref.rewards.saved import save_reward

OBSERVATION, ACTION, HORIZON = 39, 4, 8
SPEC = {"task": "bench", "control_hz": 10.0}


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=500)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        reward = GaussianReward(OBSERVATION, ACTION)
        save_reward(root / "reward", reward)
        gaussian = bundle_of(root, "gaussian", BehaviourCloning(OBSERVATION, ACTION))
        diffusion_policy = DiffusionPolicy(OBSERVATION, ACTION, horizon=HORIZON)
        diffusion = bundle_of(root, "diffusion", diffusion_policy)
        seen = np.zeros(OBSERVATION, np.float32)
        print(f"{'milliseconds':<64}{'p50':>8} {'p99':>8} {'p50 CPU':>8} {'p99 CPU':>8}")
        show(
            "reward of 64 candidates",
            {
                "ONNX Runtime": lambda: rank(gaussian, seen, 64),
                "torch eager": lambda: rank_by_torch(reward, seen, 64),
            },
            rounds,
        )
        selector = Selector(diffusion, candidates=16)
        show(
            "chunk of 16 candidates, 10 steps of DDIM, ranked",
            {
                "ONNX Runtime": lambda: selector.decide(seen, index=0),
                "ONNX Runtime, on a thread that a deadline may leave behind": lambda: selector.decide(
                    seen, index=0, deadline_s=10.0
                ),
                "torch eager": lambda: decide_by_torch(diffusion_policy, reward, seen),
            },
            rounds,
        )
        served(root / "gaussian-bundle", seen, rounds)
    load_now = f"load {before:.1f} before, {os.getloadavg()[0]:.1f} after"
    print(f"{rounds} rounds each, one thread; {os.cpu_count()} cores, {load_now}; torch {torch.__version__}")


def bundle_of(root: Path, name: str, policy: OfflinePolicy) -> Bundle:
    """Export a policy with the reward, and load it."""
    save_policy(root / name, policy)
    export(root / name, root / f"{name}-bundle", reward_dir=root / "reward", spec=SPEC)
    return load(root / f"{name}-bundle")


def rank(bundle: Bundle, seen: np.ndarray, count: int) -> int:
    """The best of so many candidates, by ONNX Runtime."""
    rng = np.random.default_rng(0)
    chunks = rng.uniform(-1, 1, (count, 1, ACTION)).astype(np.float32)
    assert bundle.scorer is not None
    return int(bundle.scorer.score(seen, chunks, rng, lambda: None).value(1.0).argmax())


def rank_by_torch(reward: GaussianReward, seen: np.ndarray, count: int) -> int:
    """The same by torch."""
    actions = np.random.default_rng(0).uniform(-1, 1, (count, ACTION)).astype(np.float32)
    mean, deviation = reward.predict(torch.from_numpy(seen).expand(count, -1), torch.from_numpy(actions))
    return int((mean - deviation).argmax())


def decide_by_torch(policy: DiffusionPolicy, reward: GaussianReward, seen: np.ndarray) -> torch.Tensor:
    """16 chunks by torch and diffusers, the best by the mean reward of its actions."""
    observation = torch.from_numpy(seen)[None]
    chunks = policy.sample(observation, 16, generator=torch.Generator().manual_seed(0))[0]
    mean, deviation = reward.predict(observation[:, None].expand(16, HORIZON, -1), chunks)
    return chunks[(mean - deviation).mean(1).argmax()]


def show(what: str, ways: Mapping[str, Callable[[], object]], rounds: int) -> None:
    """Let the ways take turns, and print a line for each."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds + 20):
        for name, way in ways.items():
            started, computed = time.perf_counter(), time.thread_time()
            way()
            times[name].append((time.perf_counter() - started, time.thread_time() - computed))
    print(what)
    for name, found in times.items():
        line(name, *zip(*found[20:], strict=True))


def line(name: str, *seconds: Sequence[float]) -> None:
    """Print the median and the 99th percentile of each kind of time."""
    columns = [f"{1e3 * p:8.2f}" for kind in seconds for p in np.percentile(kind, [50, 99])]
    print(f"    {name:<60}{' '.join(columns)}", flush=True)


def served(bundle: Path, seen: np.ndarray, rounds: int) -> None:
    """Round trips beyond the policy's own time: of a state, and with two images that the policy ignores."""
    robopref = Path(sys.executable).with_name("robopref")
    options = ["port=0", "candidates=16", "deadline_ms=0", "ignore=image,wrist_image"]
    process = subprocess.Popen(
        [robopref, "serve", f"bundle={bundle}", *options], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        address = next(said.split()[-1] for said in process.stdout if said.startswith("Serving at"))
        print("round trip to a server on this machine, beyond the decision itself")
        picture = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
        with Client(address) as client:
            for name, more in (("state", {}), ("two images", {"image": picture, "wrist_image": picture})):
                times = []
                for _ in range(rounds + 20):
                    started = time.perf_counter()
                    answer = client.infer({"observation/state": seen, **more})
                    taken = time.perf_counter() - started
                    times.append(taken - answer["policy_timing"]["total_ms"] / 1e3)
                line(name, times[20:])
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
