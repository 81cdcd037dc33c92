"""A loss over more rows than memory holds, with its exact gradient.

A preference of two trajectories is one number of several hundred forward passes. Keeping the graphs of all of
them needs their memory at once; cutting the trajectories into pieces changes the loss. Instead, in two
passes: first every row is scored without a graph, and the loss and its derivative by each score are computed
from the scores alone; then the rows are scored again, window by window, and each window's graph is driven
backwards with those derivatives and freed. By the chain rule,

    dL/dtheta = sum over rows i of dL/ds_i * ds_i/dtheta,

this is the gradient of the whole. The graph of the last window is kept from the first pass, so W windows cost
1 + (W - 1) / (3 W) times the arithmetic of one forward and backward pass, a backward pass counting twice a
forward one. It is also gradient accumulation: a batch of any size has the gradient it would have in one
piece.

Letters used in shapes: n rows, C numbers for each.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robopref.errors import ConfigError

Score = Callable[[slice], Float[Tensor, "w C"]]
Loss = Callable[[Float[Tensor, "n C"]], tuple[Float[Tensor, ""], dict[str, Tensor]]]


def windowed_loss(
    score: Score, rows: int, window: int, loss: Loss, parameters: Sequence[nn.Parameter]
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Compute ``loss`` of the scores of all rows; its backward pass is exact, at the memory of a window.

    Args:
        score: Scores of a slice of the rows; the same each time, so nothing random.
        rows: How many there are, n.
        window: How many are scored at once.
        loss: From all scores to a scalar and what shall be logged.
        parameters: What the gradient is taken of: all that may move of what scores depend on.

    Raises:
        ConfigError: ``window`` is not positive.
    """
    if window < 1:
        raise ConfigError(f"A window holds at least one row, got {window}")
    slices = [slice(first, min(first + window, rows)) for first in range(0, rows, window)]
    if len(slices) <= 1 or not torch.is_grad_enabled():
        return loss(torch.cat([score(part) for part in slices]))
    with torch.no_grad():
        scores = [score(part) for part in slices[:-1]]
    last = score(slices[-1])
    leaf = torch.cat([*scores, last.detach()]).requires_grad_()
    value, logged = loss(leaf)
    (by_score,) = torch.autograd.grad(value, leaf)
    moving = [p for p in parameters if p.requires_grad]
    kept = [p.grad for p in moving]
    for p in moving:
        p.grad = None
    for part in reversed(slices):
        again = last if part is slices[-1] else score(part)
        # Not autograd.grad: hooks of the backward pass put gradients of shared-out weights (FSDP) together.
        torch.autograd.backward(again, by_score[part].to(again.dtype))
        del again
        last = leaf  # frees the graph of the last window
    total = [p.grad for p in moving]
    for p, before in zip(moving, kept, strict=True):
        p.grad = before
    return _WithGradients.apply(value.detach(), len(moving), *total, *moving), logged  # pyright: ignore


class _WithGradients(torch.autograd.Function):
    """A number whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, count: int, *tensors: Any) -> Tensor:
        ctx.count, ctx.gradients = count, tensors[:count]
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [None if g is None else g * outer[0] for g in ctx.gradients]
        return None, None, *[None] * ctx.count, *scaled
