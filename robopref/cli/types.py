"""Values from a command line, checked against the types that a constructor declares."""

import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from robopref.errors import ConfigError, unknown_name

WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", types.NoneType: "null"}


def make(constructor: Callable[..., Any], **values: Any) -> Any:
    """Call a constructor after a look at the names of its options and :func:`check_types`.

    Raises:
        ConfigError: An option does not exist, is missing, or is of another type.
    """
    parameters = inspect.signature(constructor).parameters
    for name in values:
        if name not in parameters:
            raise ConfigError(unknown_name(f"option of {constructor.__name__}", str(name), parameters))
    for name, parameter in parameters.items():
        if name not in values and parameter.default is parameter.empty:
            raise ConfigError(f"{constructor.__name__} lacks {name}")
    check_types(constructor, values)
    return constructor(**values)


def make_of(constructor: Callable[..., Any], where: str, given: Any, **others: Any) -> Any:
    """Call a constructor with what stands at a place of the configuration, and others that stand elsewhere.

    Raises:
        ConfigError: No options stand there, or one of the others does; or as :func:`make` says.
    """
    options = mapping(where, given)
    if twice := options.keys() & others:
        raise ConfigError(f"{where} has no option {min(twice)}: it stands elsewhere, or follows from others")
    return make(constructor, **options, **others)


def mapping(where: str, given: Any) -> dict[str, Any]:
    """Return what stands at a place of the configuration.

    Raises:
        ConfigError: It holds no options by name.
    """
    if not isinstance(given, dict):
        raise ConfigError(f"{where} must hold options, as {{name: value, ...}}, got {given!r}")
    return {str(name): value for name, value in given.items()}


def check_types(constructor: Callable[..., Any], values: Mapping[str, Any], owner: str = "") -> None:
    """Refuse a number, a text or a truth value where something else is declared; NaN is no number.

    Parameters of richer types are left to the constructor itself.

    Raises:
        ConfigError: Naming the option, what it must be, and what it is.
    """
    for name, parameter in inspect.signature(constructor).parameters.items():
        kinds = _simple_kinds(parameter.annotation)
        if name in values and kinds and not any(_fits(values[name], kind) for kind in kinds):
            wanted = " or ".join(WORDS[kind] for kind in kinds)
            raise ConfigError(f"{owner}{name} must be {wanted}, got {values[name]!r}")


def _simple_kinds(annotation: Any) -> tuple[type, ...]:
    """Return the members of a union of simple types; nothing for any other annotation."""
    union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    kinds = typing.get_args(annotation) if union else (annotation,)
    return kinds if all(kind in WORDS for kind in kinds) else ()


def _fits(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)
