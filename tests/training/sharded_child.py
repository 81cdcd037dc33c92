"""A policy that sees learns from preferences, alone or as one of the processes that share out its weights."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from robopref.nets.sharded import is_first, wholes
from robopref.policies.vla.openvla import OpenVLAPolicy
from robopref.policies.vla.preference import TrajectoryPreference
from robopref.training.devices import make_fabric
from robopref.training.loop import fit
from robopref.training.metrics import RunLog
from tests.policies.vla.conftest import tiny
from tests.policies.vla.test_preference import PER_GROUP, batch_of


class OwnPairs:
    """The pairs of both processes, or those of one; the same in every step."""

    def __init__(self, policy, rank, processes):
        whole = batch_of(policy, [3, 2, 2, 3], [[1.0, 0.0], [0.0, 1.0]])
        first, count = (2 * rank, 2) if processes > 1 else (0, 4)
        self.batch = {
            name: value[first // 2 : (first + count) // 2] if name in PER_GROUP else value[first:][:count]
            for name, value in whole.items()
        }

    def __len__(self):
        return len(self.batch["grades"])

    def sample(self, batch_size, generator):
        return self.batch


def train(fabric, folder: Path, steps: int, policy) -> None:
    with torch.no_grad():  # adapters begin at zero, where half of their gradients are zero
        for number, p in enumerate(q for q in policy.parameters() if q.requires_grad):
            p += 0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(number))
    learner = TrajectoryPreference(policy, objective="rpro", window=2, learning_rate=1e-2)
    with RunLog(folder / f"process{fabric.global_rank}", wandb_mode="disabled") as log:
        found = fit(
            learner,
            OwnPairs(policy, fabric.global_rank, fabric.world_size),
            steps=steps,
            batch_size=2,
            seed=0,
            fabric=fabric,
            log=log,
            phase="align",
            directory=folder,
            checkpoint_every=2,
            log_every=1,
            gradient_clip=0.5,
        )
    shares = [p.to_local() for p in learner.parameters() if isinstance(p, DTensor)]
    assert len(shares) == (0 if fabric.world_size == 1 else len(list(learner.parameters())))
    assert sum(p.numel() for p in shares) < 0.6 * sum(p.numel() for p in learner.parameters())
    kept = wholes(learner.state_dict())
    if is_first():
        save_file(kept | {"loss": torch.tensor(found["loss"])}, folder / "final.safetensors")


def main(folder: Path, processes: int, checkpoint: Path) -> None:
    fabric = make_fabric("cpu", threads=1, processes=processes)
    train(fabric, folder / "whole", 3, tiny())
    train(fabric, folder / "adapter", 4, tiny(adapter={"rank": 2}))
    train(fabric, folder / "broken", 2, tiny(adapter={"rank": 2}))
    train(fabric, folder / "broken", 4, tiny(adapter={"rank": 2}))
    published = OpenVLAPolicy(checkpoint, dtype="bfloat16", adapter={"rank": 2}, checkpointed=True)
    train(fabric, folder / "published", 2, published)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
