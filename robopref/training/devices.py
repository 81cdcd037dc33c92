"""Where training runs: one CPU or one GPU, in which precision.

Lightning Fabric takes four seconds to import, so it is imported when a device is asked for and not before.
"""

import re
from typing import TYPE_CHECKING

import torch

from robopref.errors import ConfigError, DeviceError, unknown_name

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# 16-mixed is left out: its loss scaling skips steps with infinite gradients on purpose, which the loop would
# have to tell from a training that diverges. bf16-mixed needs no scaling.
PRECISIONS = ("32-true", "bf16-mixed", "64-true")


def resolve_device(device: str = "auto") -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:1`` into a device that is there.

    Raises:
        ConfigError: The name is none of these.
        DeviceError: A GPU was asked for by name, and there is none or too few.
    """
    match = re.fullmatch(r"(auto|cpu|cuda)|cuda:(\d+)", device)
    if match is None:
        raise ConfigError(unknown_name("device", device, ("auto", "cpu", "cuda", "cuda:<number>")))
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise DeviceError(
            f"device={device} was asked for, but PyTorch {torch.__version__} ({built}) sees no CUDA GPU. "
            "Use device=cpu or device=auto; or, if this machine has a GPU, check that nvidia-smi lists it, "
            "that CUDA_VISIBLE_DEVICES does not hide it, and that the driver is new enough for this PyTorch."
        )
    index = int(match.group(2) or 0)
    count = torch.cuda.device_count()
    if index >= count:
        names = ", ".join(f"cuda:{i}" for i in range(count))
        raise DeviceError(
            f"device={device} was asked for, but PyTorch sees {count} CUDA GPU(s): use {names}."
        )
    return torch.device("cuda", index)


def make_fabric(device: str = "auto", precision: str = "32-true", threads: int | None = None) -> "Fabric":
    """Return a Fabric for one device.

    Args:
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:<number>``.
        precision: One of :data:`PRECISIONS`.
        threads: CPU threads of PyTorch, for the whole process; None leaves PyTorch's choice.

    Raises:
        ConfigError: An argument is not one of these.
        DeviceError: The device is not there; the message says what to do.
    """
    if precision not in PRECISIONS:
        raise ConfigError(unknown_name("precision", precision, PRECISIONS))
    if threads is not None and threads < 1:
        raise ConfigError(f"threads must be at least 1, got {threads}")
    found = resolve_device(device)
    if threads is not None:
        torch.set_num_threads(threads)

    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment

    return Fabric(
        accelerator=found.type,
        devices=1 if found.type == "cpu" else [found.index],
        precision=precision,  # pyright: ignore[reportArgumentType]  (a Literal there; checked above)
        # One process, whatever cluster it runs on: left alone, Fabric reads Slurm's variables and expects
        # one process for each task.
        plugins=[LightningEnvironment()],
    )
