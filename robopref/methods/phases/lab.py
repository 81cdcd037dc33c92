"""Where phases work: a run that keeps the books, the hardware, and streams of random numbers."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from robopref.errors import DataError
from robopref.methods.components import Hardware
from robopref.training.run import Run

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from robopref.training.metrics import RunLog


class Lab:
    """What every phase is given.

    Args:
        run: Keeps the books.
        hardware: Device, workers, where metrics go.
        seed: Of everything random; each phase draws its own stream from it.
    """

    def __init__(self, run: Run, hardware: Hardware, seed: int):
        self.run, self.hardware, self.seed = run, hardware, seed

    def label_url(self, task: str) -> str:
        """Where this run keeps the labels of a task."""
        folder = self.run.directory / "labels"
        folder.mkdir(exist_ok=True)
        return f"sqlite:///{folder / task}.sqlite"

    def fabric(self) -> "Fabric":
        """Return the device that training runs on."""
        from robopref.training.devices import make_fabric

        return make_fabric(self.hardware.device, self.hardware.precision, self.hardware.threads)

    def log(self) -> "RunLog":
        """Open the log of the run."""
        from robopref.training.metrics import RunLog

        return RunLog(
            self.run.directory,
            wandb_mode=self.hardware.wandb_mode,
            project=self.hardware.wandb_project,
            name=self.run.name,
        )


def stream(seed: int, name: str) -> np.random.Generator:
    """Return the random numbers of one purpose, which do not depend on what was drawn for another."""
    words = np.frombuffer(hashlib.sha256(name.encode()).digest()[:8], np.uint32)
    return np.random.default_rng([seed, *words.tolist()])


def file_content(path: Path) -> str:
    """Return 12 hex digits of a file's content."""
    if not path.is_file():
        raise DataError(f"There is no {path}: the folder of a trained model holds one.")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
