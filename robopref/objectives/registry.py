"""Every objective by name, and how a configuration chooses one.

Adding one is a pure function, an entry in :mod:`robopref.objectives.catalogue` and a test. Code outside of
robopref adds its own with :func:`register`.
"""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robopref.errors import ConfigError, unknown_name
from robopref.objectives.catalogue import ENTRIES
from robopref.objectives.description import Objective

REGISTRY: dict[str, Objective] = {entry.name: entry for entry in ENTRIES}


def register(objective: Objective) -> None:
    """Make an objective known by its name.

    Raises:
        ConfigError: The name is taken.
    """
    if objective.name in REGISTRY:
        raise ConfigError(
            f"An objective called '{objective.name}' exists already: {REGISTRY[objective.name].source}."
        )
    REGISTRY[objective.name] = objective


def find(name: str) -> Objective:
    """The objective of that name.

    Raises:
        ConfigError: There is none; the message names the nearest.
    """
    if name not in REGISTRY:
        raise ConfigError(unknown_name("objective", name, REGISTRY))
    return REGISTRY[name]


@dataclass(frozen=True)
class ChosenObjective:
    """An objective with its options fixed, ready to be called with scores and labels."""

    objective: Objective
    settings: dict[str, Any]

    def __call__(self, *inputs: Any, **further: Any) -> Any:
        """Loss of each example."""
        return self.objective.loss(*inputs, **self.settings, **further)

    def description(self) -> dict[str, Any]:
        """What :func:`choose` makes the same objective of; JSON values."""
        return {"name": self.objective.name, **self.settings}

    def check(self) -> None:
        """Call it once on two examples, so that a senseless option is refused before any work is done."""
        import torch

        needed = [
            p
            for p in inspect.signature(self.objective.loss).parameters.values()
            if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty
        ]
        shape = (2, 2) if self.objective.labels == "lists" or self.objective.extra == "steps" else (2,)
        zeros = torch.zeros(shape)
        pair = torch.zeros(2) if self.objective.extra == "steps" else zeros
        inputs = {"labels": pair, "gates_a": (zeros, zeros), "gates_b": (zeros, zeros)}
        try:
            self(*(inputs.get(p.name, zeros) for p in needed))
        except TypeError as error:
            raise ConfigError(f"An option of {self.objective.name} has the wrong type: {error}.") from error


def choose(description: str | Mapping[str, Any], learner: str) -> ChosenObjective:
    """The objective that a configuration names, if it fits the learner.

    Args:
        description: A name, or ``{"name": ..., <option>: ...}``.
        learner: One of :data:`robopref.objectives.description.LEARNERS`.

    Raises:
        ConfigError: No such objective or option, or it does not fit; the message says why.
    """
    options: dict[str, Any] = {"name": description}
    if isinstance(description, Mapping):
        options = dict(description)
    if not isinstance(options.get("name"), str):
        raise ConfigError(
            f"An objective is a name, or a mapping with its name and options; got {description!r}."
        )
    objective = find(options.pop("name"))
    if reason := objective.refusal(learner):
        fitting = ", ".join(sorted(o.name for o in REGISTRY.values() if not o.refusal(learner)))
        raise ConfigError(
            f"The objective {objective.name} does not train a {learner}: {reason}. These do: {fitting}."
        )
    return with_options(objective, options)


def with_options(objective: Objective, options: Mapping[str, Any]) -> ChosenObjective:
    """The objective with options that exist, are of their type and make sense.

    Raises:
        ConfigError: One does not.
    """
    known, settings = objective.options(), {}
    for option, value in options.items():
        if option not in known:
            raise ConfigError(unknown_name(f"option of {objective.name}", option, known))
        settings[option] = _value(f"{option} of {objective.name}", value, known[option])
    chosen = ChosenObjective(objective, settings)
    chosen.check()
    return chosen


def _value(what: str, value: Any, default: Any) -> Any:
    """The value of an option, which must be of its default's type, and finite.

    Raises:
        ConfigError: It is not.
    """
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if type(value) is not type(default):
        raise ConfigError(f"{what} has the wrong type: it is {default!r} by default, got {value!r}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{what} must be finite, got {value}.")
    return value
