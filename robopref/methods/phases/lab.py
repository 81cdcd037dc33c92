"""Where phases work: a run that keeps the books, the hardware, and streams of random numbers."""

import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from robopref.data.store import TrajectoryStore
from robopref.errors import DataError
from robopref.methods.components import Component, Fit, Hardware
from robopref.training.collect import COLLECTION_SEEDS
from robopref.training.loop import HeldOut, fit
from robopref.training.metrics import RunLog
from robopref.training.run import FollowingRun, Run
from robopref.training.step import Sampler

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Lab:
    """What every phase is given.

    Args:
        run: Keeps the books.
        hardware: Device, workers, where metrics go.
        seed: Of everything random; each phase draws its own stream from it.
    """

    def __init__(self, run: Run | FollowingRun, hardware: Hardware, seed: int):
        self.run, self.hardware, self.seed = run, hardware, seed
        if hardware.processes > 1:
            run.meet = self.fabric.barrier

    def label_url(self, task: str) -> str:
        """Where this run keeps the labels of a task."""
        folder = self.run.directory / "labels"
        folder.mkdir(exist_ok=True)
        return f"sqlite:///{folder / task}.sqlite"

    @functools.cached_property
    def fabric(self) -> "Fabric":
        """The device that training runs on."""
        from robopref.training.devices import make_fabric

        return make_fabric(
            self.hardware.device, self.hardware.precision, self.hardware.threads, self.hardware.processes
        )

    def fit(
        self,
        learner: nn.Module,
        sampler: Sampler,
        plan: Fit,
        *,
        phase: str,
        folder: Path,
        settings: dict[str, Any],
        held_out: HeldOut | None = None,
    ) -> dict[str, float]:
        """Train a learner where this run keeps it and its log (see :func:`robopref.training.loop.fit`)."""
        first = self.fabric.is_global_zero
        log = RunLog(
            self.run.directory if first else self.run.directory / f"process{self.fabric.global_rank}",
            wandb_mode=self.hardware.wandb_mode if first else "disabled",
            project=self.hardware.wandb_project,
            name=self.run.name,
        )
        with log:
            return fit(
                learner,
                sampler,
                steps=plan.steps,
                batch_size=plan.batch_size,
                seed=self.seed,
                fabric=self.fabric,
                log=log,
                phase=phase,
                directory=folder,
                settings=settings,
                checkpoint_every=plan.checkpoint_every,
                log_every=plan.log_every,
                held_out=held_out,
            )

    def build(self, part: Component, store: TrajectoryStore) -> Any:
        """Build a reward or a policy for the observations and actions of a store."""
        return part.build(
            observation_size=store.layout.observation_size,
            action_size=store.layout.action_size,
            seed=self.seed,
        )


def stream(seed: int, name: str) -> np.random.Generator:
    """Return the random numbers of one purpose, which do not depend on what was drawn for another."""
    words = np.frombuffer(hashlib.sha256(name.encode()).digest()[:8], np.uint32)
    return np.random.default_rng([seed, *words.tolist()])


def training_seeds(lab: Lab, task: str, count: int, *, purpose: str = "starts") -> tuple[int, ...]:
    """Seeds of initial states for one purpose, rollouts that are compared, say; none is an evaluation's.

    Two purposes share a state with a chance of some 1e-7: there are a billion.
    """
    drawn = stream(lab.seed, f"{purpose}/{task}").choice(COLLECTION_SEEDS, count, replace=False)
    return tuple(int(seed) for seed in drawn)


def file_content(path: Path) -> str:
    """Return 12 hex digits of a file's content."""
    if not path.is_file():
        raise DataError(f"There is no {path}: the folder of a trained model holds one.")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
