"""Refusals that all environments share, each with a sentence."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .names import unknown_name


def positive_whole(**values: object) -> None:
    """Refuse what is not a whole number from 1 on.

    Raises:
        ValueError: The message names the option and what it got.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number from 1 on, got {value!r}.")


def lengths(**values: object) -> None:
    """Refuse what is not a number from 0 on.

    Raises:
        ValueError: The message names the option and what it got.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a length in metres, 0 or more, got {value!r}.")


def one_of(kind: str, value: object, known: Iterable[str]) -> None:
    """Refuse a name that does not exist; the message names the nearest one.

    Raises:
        ValueError: It is not known.
    """
    known = tuple(known)
    if value not in known:
        raise ValueError(unknown_name(kind, value, known))


def finite_actions(actions: np.ndarray, size: int, count: int | None = None) -> np.ndarray:
    """Return actions as they are stored: float32, clipped to [-1, 1].

    Args:
        actions: (size,), or (count, size) where ``count`` is given.
        size: Numbers in an action.
        count: Actions, for a batch.

    Raises:
        ValueError: Another shape, or a number that is not finite.
    """
    checked = np.asarray(actions, np.float32)
    shape = (size,) if count is None else (count, size)
    if checked.shape != shape:
        raise ValueError(f"An action has shape {shape}, got {checked.shape}.")
    if not np.isfinite(checked).all():
        raise ValueError(f"An action must be finite, got {checked.tolist()}.")
    return np.minimum(np.maximum(checked, -1.0), 1.0)


def behaviour_options(
    kind: str, options: Mapping[str, Any], known: Mapping[str, Mapping[str, float | int]]
) -> dict[str, float | int]:
    """Return the options of a scripted behaviour with its defaults filled in.

    Args:
        kind: Name of the behaviour.
        options: What was asked for.
        known: Every behaviour with its options and their defaults; all are numbers from 0 on, whole ones
            where the default is whole.

    Raises:
        ValueError: Unknown behaviour or option, or a value that makes no sense.
    """
    one_of("behaviour", kind, known)
    chosen = dict(known[kind])
    for name, value in options.items():
        one_of(f"option of the behaviour '{kind}'", name, chosen)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value < 0:
            raise ValueError(f"'{name}' of the behaviour '{kind}' must be a number from 0 on, got {value!r}.")
        if isinstance(chosen[name], int) and not isinstance(value, int):
            raise ValueError(f"'{name}' of the behaviour '{kind}' must be a whole number, got {value!r}.")
        chosen[name] = value
    return chosen
