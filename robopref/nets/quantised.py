"""Linear layers whose frozen weights take four bits: plain torch, on any device.

Normal-float quantisation (Dettmers et al. 2023, "QLoRA", arXiv 2305.14314): in every block of 64 weights,
each is rounded to one of sixteen levels times the block's largest magnitude. Weights are unpacked when they
are used, in the backward pass again, so that no layer's full weights outlive its turn.

Letters used in shapes: I entries in, O entries out, B rows.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 64
# Quantiles of the normal distribution that hold equal shares of it, scaled to [-1, 1], zero among them
# (appendix E of the paper).
LEVELS = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


class Int4Linear(nn.Linear):
    """A linear layer with four-bit weights that do not learn; adapters beside it may.

    Args:
        linear: The layer whose weights are rounded.
    """

    qweight: Tensor
    scales: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_parameter("weight", None)
        self.bias = linear.bias
        packed, scales = packed_weights(linear.weight.detach())
        self.register_buffer("qweight", packed)
        self.register_buffer("scales", scales)

    def forward(self, input: Tensor) -> Tensor:
        """Multiply with the unpacked weights."""
        size = (self.out_features, self.in_features)
        found: Any = _Multiplied.apply(input, self.qweight, self.scales, size)
        return found if self.bias is None else found + self.bias


class _Multiplied(torch.autograd.Function):
    """x W^T, which keeps W packed until its backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, scales: Tensor, size: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(packed, scales)
        ctx.size = size
        return F.linear(x, unpacked_weights(packed, scales, size, x.dtype))

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        packed, scales = ctx.saved_tensors
        return outer[0] @ unpacked_weights(packed, scales, ctx.size, outer[0].dtype), None, None, None


def packed_weights(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round weights (O, I); returns two numbers per byte, 32 bytes a block, and the scale of each block."""
    flat = weight.float().flatten()
    blocks = F.pad(flat, (0, -len(flat) % BLOCK)).reshape(-1, BLOCK)
    scales = blocks.abs().amax(1)
    levels = torch.tensor(LEVELS, device=weight.device)
    middles = (levels[1:] + levels[:-1]) / 2
    numbers = torch.bucketize(blocks / scales.clamp(min=1e-30)[:, None], middles).to(torch.uint8).flatten()
    return numbers[::2] << 4 | numbers[1::2], scales


def unpacked_weights(packed: Tensor, scales: Tensor, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Return the weights (O, I) that :func:`packed_weights` rounded."""
    levels = torch.tensor(LEVELS, device=packed.device)
    numbers = torch.stack([packed >> 4, packed & 15], 1).flatten().long()
    values = levels[numbers].reshape(-1, BLOCK) * scales[:, None]
    return values.flatten()[: math.prod(size)].reshape(size).to(dtype)


def quantise(module: nn.Module, names: tuple[str, ...]) -> int:
    """Replace all linear layers with these names below ``module``, and freeze it; returns how many."""
    count = 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if name in names and type(child) is nn.Linear:
                setattr(parent, name, Int4Linear(child))
                count += 1
    module.requires_grad_(False)
    return count
