"""Time of a reward ensemble's training step: one batched computation against a loop over its members.

The loop is what one writes first: a list of networks, each with its own Adam and the same batch. Both
sides start from the same weights and take the same batches; their difference after one update is printed.

    python scripts/bench/reward_ensemble.py members=3 pairs=32 steps=50 device=cpu
"""

import sys
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robopref.rewards.bradley_terry import BradleyTerryReward

DEFAULTS = {"members": "3", "pairs": "32", "steps": "50", "updates": "40", "repeats": "5", "device": "cpu"}
OBSERVATION, ACTION = 39, 4


class LoopOfMembers:
    """One network and one optimiser for each member."""

    def __init__(self, reward: BradleyTerryReward, *, fused: bool) -> None:
        self.normaliser = reward.normaliser
        self.networks = nn.ModuleList()
        for index in range(reward.members):
            network = reward.network.member(index)
            for parameter in network.parameters():
                parameter.data = parameter.data.clone()  # do not train the ensemble too
            self.networks.append(network)
        self.optimisers = [
            torch.optim.Adam(network.parameters(), lr=reward.learning_rate, fused=fused)
            for network in self.networks
        ]

    def update(self, batch: dict[str, Tensor]) -> None:
        """One step of every member, one after another."""
        for network, optimiser in zip(self.networks, self.optimisers, strict=True):
            returns = []
            for name in "ab":
                states = self.normaliser(batch[f"observations_{name}"])
                rewards = network(torch.cat([states, batch[f"actions_{name}"]], -1)).squeeze(-1).tanh()
                returns.append((rewards * batch[f"mask_{name}"]).sum(-1))
            loss = F.binary_cross_entropy_with_logits(returns[0] - returns[1], batch["labels"])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


class OneBatchedComputation:
    """The ensemble as robopref trains it."""

    def __init__(self, reward: BradleyTerryReward, *, fused: bool) -> None:
        self.reward = reward
        self.optimiser = torch.optim.Adam(reward.parameter_groups(), fused=fused)

    def update(self, batch: dict[str, Tensor]) -> None:
        """One step of all members together."""
        loss, _ = self.reward.loss(batch)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()


def random_batch(pairs: int, steps: int, device: str, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw a batch of whole segments with hard labels."""
    batch = {
        "labels": torch.randint(2, (pairs,), generator=generator).float(),
        "weights": torch.ones(pairs),
    }
    for name in "ab":
        batch[f"observations_{name}"] = torch.randn(pairs, steps, OBSERVATION, generator=generator)
        batch[f"actions_{name}"] = torch.rand(pairs, steps, ACTION, generator=generator) * 2 - 1
        batch[f"mask_{name}"] = torch.ones(pairs, steps, dtype=torch.bool)
    return {name: tensor.to(device) for name, tensor in batch.items()}


def milliseconds(side: "LoopOfMembers | OneBatchedComputation", batches: list[dict[str, Tensor]]) -> float:
    """Mean time of an update: CPU time of this process, or wall time where a GPU does the work."""
    on_gpu = batches[0]["labels"].is_cuda
    clock = time.perf_counter if on_gpu else time.process_time
    if on_gpu:
        torch.cuda.synchronize()
    start = clock()
    for batch in batches:
        side.update(batch)
    if on_gpu:
        torch.cuda.synchronize()
    return (clock() - start) * 1000 / len(batches)


def main() -> None:
    """Print the median and the fastest of the repeats, alternating between the sides."""
    options = DEFAULTS | dict(argument.split("=", 1) for argument in sys.argv[1:])
    unknown = options.keys() - DEFAULTS.keys()
    if unknown:
        raise SystemExit(f"Unknown options {sorted(unknown)}; there are {sorted(DEFAULTS)}")
    members, pairs, steps, updates, repeats = (int(options[name]) for name in list(DEFAULTS)[:5])
    generator = torch.Generator().manual_seed(0)
    batches = [random_batch(pairs, steps, options["device"], generator) for _ in range(updates)]
    reward = BradleyTerryReward(OBSERVATION, ACTION, members=members).to(options["device"])
    loop = LoopOfMembers(reward, fused=False)
    fused = LoopOfMembers(reward, fused=True)
    sides = {
        "loop, Adam": loop,
        "loop, fused Adam": fused,
        "batched": OneBatchedComputation(reward, fused=True),
    }
    for side in sides.values():
        side.update(batches[0])
    gap = max(
        (mine - theirs).abs().max().item()
        for index, network in enumerate(fused.networks)
        for mine, theirs in zip(reward.network.member(index).parameters(), network.parameters(), strict=True)
    )
    times = {name: [] for name in sides}
    for _ in range(repeats + 1):
        for name, side in sides.items():
            times[name].append(milliseconds(side, batches))
    print(
        f"{members} members, {pairs} pairs of {steps} steps, {options['device']}, torch {torch.__version__}"
    )
    for name, values in times.items():
        kept = sorted(values[1:])  # the first repeat warms up
        print(f"{name:18s} median {kept[len(kept) // 2]:7.2f} ms, fastest {kept[0]:7.2f} ms per update")
    print(f"largest difference between weights after one update: {gap:.1e}")


if __name__ == "__main__":
    main()
