"""Weights that several processes share out: fully sharded data parallel, by PyTorch's ``fully_shard``.

Zhao et al. 2023 (arXiv 2304.11277). Each process keeps a part of every weight, of its gradient and of Adam's
moments; a block's weights are gathered for its forward and its backward pass and dropped behind it. Each
process has its own batch, and gradients are means over processes.
"""

import os
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn


def share_out(model: nn.Module, blocks: Iterable[nn.Module], mesh: Any, *, entries: Iterable[str]) -> None:
    """Give every process a part of the weights of ``model``, in place.

    Args:
        model: Its parameters become ``DTensor``; buffers stay whole everywhere.
        blocks: Submodules whose weights are gathered one at a time; the rest is gathered together.
        mesh: Of processes, one axis: a ``torch.distributed`` device mesh.
        entries: Methods of ``model`` through which it is used.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    # A layer's cache of keys and values is a view; nothing is written into it.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for name in entries:
        register_fsdp_forward_method(model, name)


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor as it is when put together; every process must ask for it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # pyright: ignore


def wholes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put tensors together, one after another, onto the CPU."""
    return {name: whole(tensor.detach()).cpu() for name, tensor in tensors.items()}


def share(tensor: Tensor, like: Tensor) -> Tensor:
    """Return this process's share of a whole tensor, if ``like`` is shared out; else the tensor."""
    if not hasattr(like, "device_mesh"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)  # pyright: ignore


def is_first() -> bool:
    """Whether this process is the first of those that ``torchrun`` started, or alone."""
    return "TORCHELASTIC_RUN_ID" not in os.environ or int(os.environ["RANK"]) == 0
