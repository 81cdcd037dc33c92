"""What every objective asks of its inputs, said once.

Shapes are always checked. Values (labels in [0, 1], no row without a step) are checked too, which on an
accelerator waits for the device once; while a graph is compiled or captured nobody could wait, so there
the values are taken on trust. Scores in half precision are worked on in float32: a margin of 1e4 has no
digits left of a loss in bfloat16.

Letters used in shapes: B pairs or examples, K items in a list, T steps or tokens.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from robopref.errors import ConfigError, DataError


def working(values: Tensor) -> Tensor:
    """Return ``values`` in the precision that losses are computed in: float32 or better."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def values_can_be_read() -> bool:
    """Say whether a check may look at values: not while torch compiles or captures a graph."""
    if torch.compiler.is_compiling():
        return False
    return not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())


def check_same_shape(**tensors: Tensor | None) -> None:
    """Refuse tensors whose shapes differ, naming each (``None`` is skipped).

    Raises:
        DataError: Two shapes differ, or a tensor has no entry.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items() if tensor is not None}
    if len(set(shapes.values())) > 1:
        said = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise DataError(f"These must have one shape, got {said}.")
    if any(0 in shape for shape in shapes.values()):
        raise DataError(f"{next(iter(shapes))} is empty: a loss needs at least one example.")


def check_in_range(name: str, values: Tensor, low: float, high: float, meaning: str) -> None:
    """Refuse values outside [low, high] and NaN, saying where the first is, what it holds, what it means.

    Raises:
        DataError: Some value lies outside.
    """
    if not values_can_be_read():
        return
    least, most = torch.aminmax(values.detach())
    if bool((least >= low) & (most <= high)):  # false for NaN as well
        return
    wrong = ~((values >= low) & (values <= high))
    first = tuple(wrong.nonzero()[0].tolist())
    raise DataError(
        f"{name} must lie in [{low:g}, {high:g}] ({meaning}), got {values[first].item():g} at {list(first)}"
        f" ({int(wrong.sum())} of {values.numel()} lie outside)."
    )


def check_labels(labels: Tensor) -> None:
    """Refuse labels outside [0, 1].

    Raises:
        DataError: Some label lies outside, or is NaN.
    """
    check_in_range("labels", labels, 0.0, 1.0, "1: the first is better, 0: the second, 0.5: a tie")


def check_flip_prob(flip_prob: float | Tensor) -> None:
    """Refuse a flip probability outside [0, 0.5): at one half a label says nothing.

    Raises:
        ConfigError: A number lies outside.
        DataError: An entry of a tensor lies outside.
    """
    if isinstance(flip_prob, Tensor):
        check_in_range("flip_prob", flip_prob, 0.0, 0.4995, "the chance that a label is reversed")
    elif not 0 <= flip_prob < 0.5:
        raise ConfigError(f"flip_prob must lie in [0, 0.5), got {flip_prob}.")


def check_positive(**values: float | int) -> None:
    """Refuse numbers that are not finite and above zero.

    Raises:
        ConfigError: Names the first such number.
    """
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{name} must be a finite number above 0, got {value}.")


def check_not_negative(**values: float | int) -> None:
    """Refuse numbers that are not finite and at least zero.

    Raises:
        ConfigError: Names the first such number.
    """
    for name, value in values.items():
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"{name} must be a finite number of at least 0, got {value}.")


def check_some_step(mask: Bool[Tensor, "*B T"], at_least: int = 1, thing: str = "step") -> None:
    """Refuse a row of a mask in which fewer than ``at_least`` entries count.

    Raises:
        DataError: Names the first such row.
    """
    if not values_can_be_read():
        return
    short = mask.sum(-1) < at_least
    if bool(short.any()):
        row = short.nonzero()[0].tolist()
        raise DataError(f"Row {row} of the mask keeps fewer than {at_least} {thing}(s) of {mask.shape[-1]}.")


def check_log_probabilities(name: str, values: Float[Tensor, " *B"], why: str) -> None:
    """Refuse log-probabilities above 0: they are log-densities of continuous actions.

    Raises:
        DataError: Some value is above 0, NaN, or -inf, of which no gradient leads anywhere.
    """
    check_in_range(name, values, torch.finfo(values.dtype).min, 0.0, f"finite; {why}")


def prepare_pair(
    score_a: Float[Tensor, " *B"], score_b: Float[Tensor, " *B"], labels: Float[Tensor, " *B"] | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Check a batch of pairs and return it in working precision.

    Raises:
        DataError: Shapes differ, or a label lies outside [0, 1].
    """
    check_same_shape(score_a=score_a, score_b=score_b, labels=labels)
    score_a, score_b = working(score_a), working(score_b)
    if labels is None:
        return score_a, score_b, None
    check_labels(labels)
    return score_a, score_b, labels.to(torch.promote_types(score_a.dtype, score_b.dtype))
