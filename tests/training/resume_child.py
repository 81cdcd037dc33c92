"""A training to be run in a process of its own, where it is killed or interrupted."""

import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from robopref.policies.dataset import RewardScaling, TransitionSampler
from robopref.policies.iql import ImplicitQLearning
from robopref.training.devices import make_fabric
from robopref.training.loop import fit
from robopref.training.metrics import RunLog

STEPS = 300


class Slow(ImplicitQLearning):
    """IQL that takes its time, so that there is time to kill it."""

    pause_s = 0.0

    def after_step(self):
        super().after_step()
        time.sleep(self.pause_s)


def train(folder: Path, pause_s: float) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(101, 3, generator=generator)
    data = TransitionSampler(
        rows, rows[:, :1].tanh(), rows[:, 1], torch.zeros(101), torch.arange(100), RewardScaling()
    )
    learner = Slow(3, 1, hidden=(16,))
    learner.pause_s = pause_s
    with RunLog(folder, wandb_mode="disabled") as log:
        fit(
            learner,
            data,
            steps=STEPS,
            batch_size=16,
            seed=0,
            fabric=make_fabric("cpu", threads=1),
            log=log,
            phase="train-policy",
            directory=folder,
            checkpoint_every=20,
            log_every=7,
        )
    save_file(learner.state_dict(), folder / "final.safetensors")


def main(folder: Path, pause_s: float) -> None:
    """What the command line does: a sentence and 130 for ctrl-C."""
    with (folder / "output.txt").open("w") as sys.stdout:
        try:
            train(folder, pause_s)
        except KeyboardInterrupt as interrupt:
            print(interrupt, flush=True)
            sys.exit(130)
