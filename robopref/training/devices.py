"""Where training runs: one CPU or GPU, or several processes with a share of the weights each; the precision.

Lightning Fabric takes four seconds to import, so it is imported when a device is asked for and not before.
"""

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from robopref.errors import ConfigError, unknown_name
from robopref.nets.devices import resolve_device

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# 16-mixed is left out: its loss scaling skips steps with infinite gradients on purpose, which the loop would
# have to tell from a training that diverges. bf16-mixed needs no scaling.
PRECISIONS = ("32-true", "bf16-mixed", "64-true")
PATIENCE = timedelta(days=7)  # processes wait while the first one simulates


def make_fabric(
    device: str = "auto", precision: str = "32-true", threads: int | None = None, processes: int = 1
) -> "Fabric":
    """Return a Fabric for one device, or for this one of several processes that ``torchrun`` started.

    Args:
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:<number>``. Of several
            processes, each takes the GPU of its own number.
        precision: One of :data:`PRECISIONS`.
        threads: CPU threads of PyTorch, for the whole process; None leaves PyTorch's choice.
        processes: How many share out the weights (fully sharded data parallel: Zhao et al. 2023,
            arXiv 2304.11277). A learner says by ``shard`` which; see :mod:`robopref.training.step`.

    Raises:
        ConfigError: An argument is not one of these, or so many processes were not started.
        DeviceError: The device is not there; the message says what to do.
    """
    if precision not in PRECISIONS:
        raise ConfigError(unknown_name("precision", precision, PRECISIONS))
    if threads is not None and threads < 1:
        raise ConfigError(f"threads must be at least 1, got {threads}")
    check_processes(processes)
    if processes > 1 and ":" in device:
        raise ConfigError(f"Each of {processes} processes takes a GPU of its own: device=cuda, not {device}")
    found = resolve_device(device if processes == 1 or device == "cpu" else _own_device(device))
    if threads is not None:
        torch.set_num_threads(threads)

    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    if processes == 1:
        return Fabric(
            accelerator=found.type,
            devices=1 if found.type == "cpu" else [found.index],
            precision=precision,  # pyright: ignore[reportArgumentType]  (a Literal there; checked above)
            # One process, whatever cluster it runs on: left alone, Fabric reads Slurm's variables and expects
            # one process for each task.
            plugins=[LightningEnvironment()],
        )
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    strategy = ModelParallelStrategy(
        parallelize_fn=_share_out, data_parallel_size=processes, tensor_parallel_size=1, timeout=PATIENCE
    )
    fabric = Fabric(
        accelerator=found.type,
        devices=int(os.environ["LOCAL_WORLD_SIZE"]),
        num_nodes=processes // int(os.environ["LOCAL_WORLD_SIZE"]),
        precision=precision,  # pyright: ignore[reportArgumentType]
        strategy=strategy,
        plugins=[TorchElasticEnvironment()],
    )
    fabric.launch()
    return fabric


def check_processes(processes: int) -> None:
    """Refuse a number of processes that are not there.

    Raises:
        ConfigError: The message says how to start them.
    """
    started = int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if processes < 1 or processes != started:
        many = max(processes, started, 2)
        raise ConfigError(
            f"processes={processes} was asked for, but this is one of {started}. Start as many as share the "
            f"weights: torchrun --standalone --nproc-per-node {many} --no-python robopref run ... "
            f"processes={many}"
        )


def _own_device(device: str) -> str:
    resolved = resolve_device(device)
    return "cpu" if resolved.type == "cpu" else f"cuda:{os.environ['LOCAL_RANK']}"


def _share_out(objective: nn.Module, mesh: Any) -> nn.Module:
    """Give every process a share of the weights that the learner says may be shared out."""
    learner: Any = objective.learner
    learner.shard(mesh["data_parallel"])
    return objective
