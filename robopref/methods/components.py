"""What a method is given: parts that are described by their settings and built when they are needed."""

import dataclasses
from collections.abc import Callable
from typing import Any, get_args

from robopref.errors import ConfigError, unknown_name
from robopref.nets.devices import resolve_device
from robopref.training.collect import Behaviour
from robopref.training.devices import PRECISIONS, check_processes
from robopref.training.metrics import WandbMode
from robopref.training.rollout import make_environment


@dataclasses.dataclass(frozen=True)
class Component:
    """A part as the configuration names it.

    Attributes:
        settings: Its options, JSON-like; a finished phase is recognised by them.
        build: Makes it; takes the arguments that only the data know, such as ``observation_size``.
    """

    settings: dict[str, Any]
    build: Callable[..., Any]

    def check(self, **arguments: Any) -> None:
        """Build it once, so that a wrong option is refused before any work is done."""
        self.build(**arguments)


@dataclasses.dataclass(frozen=True)
class Scene:
    """A simulated task.

    Attributes:
        task: Its name.
        id: Its Gymnasium id, with the module that registers it.
        options: What ``gymnasium.make`` gets and what happens depends on.
        view: What ``gymnasium.make`` gets for films; no number depends on it.
    """

    task: str
    id: str
    options: dict[str, Any]
    view: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def identity(self) -> dict[str, Any]:
        """What the numbers depend on."""
        return {"task": self.task, "id": self.id, "options": self.options}

    def check(self) -> None:
        """Make the environment once, so that a misspelt task is refused before any work is done."""
        make_environment(self.id, {**self.options, **self.view}).close()

    def action_size(self) -> int:
        """Return the entries of an action."""
        env = make_environment(self.id, self.options)
        try:
            return env.action_space.shape[0]  # pyright: ignore[reportOptionalSubscript]
        finally:
            env.close()


@dataclasses.dataclass(frozen=True)
class Collection:
    """How episodes are collected: which behaviours in which shares, how many, from which seed."""

    behaviours: list[Any]  # of dictionaries, checked below
    episodes: int
    seed: int

    def __post_init__(self):
        if self.seed < 0:
            raise ConfigError(f"seed must be 0 or more, got {self.seed}")
        if not self.behaviours:
            raise ConfigError("behaviours is empty: give at least one, such as [{kind: expert, share: 1}]")
        for behaviour in self.behaviours:
            if not isinstance(behaviour, dict):
                raise ConfigError(f"A behaviour is written as {{kind: expert, share: 1}}, got {behaviour!r}")
            Behaviour.parse(behaviour)
        if self.episodes < 2:
            raise ConfigError(f"episodes must be at least 2 (a preference compares two), got {self.episodes}")


@dataclasses.dataclass(frozen=True)
class Fit:
    """How long a model is trained, on batches of what size, and how often it is saved and logged (steps)."""

    steps: int
    batch_size: int
    checkpoint_every: int = 500
    log_every: int = 50

    @property
    def identity(self) -> dict[str, int]:
        """What the result depends on."""
        return {"steps": self.steps, "batch_size": self.batch_size}

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise ConfigError(f"{field.name} must be at least 1, got {getattr(self, field.name)}")


@dataclasses.dataclass(frozen=True)
class Hardware:
    """Where things run; nothing here but ``processes`` changes what is computed, up to rounding.

    Attributes:
        processes: That train together, each with a share of the weights and a batch of its own.
    """

    device: str = "auto"
    precision: str = "32-true"
    threads: int | None = None
    workers: int | None = None
    processes: int = 1
    wandb_mode: str = "auto"
    wandb_project: str = "robopref"

    def __post_init__(self):
        resolve_device(self.device)
        check_processes(self.processes)
        if self.precision not in PRECISIONS:
            raise ConfigError(unknown_name("precision", self.precision, PRECISIONS))
        if self.wandb_mode not in get_args(WandbMode):
            raise ConfigError(unknown_name("wandb mode", self.wandb_mode, get_args(WandbMode)))
        for name, value, least in (("threads", self.threads, 1), ("workers", self.workers, 0)):
            if value is not None and value < least:
                raise ConfigError(f"{name} must be {least} or more, got {value}")


@dataclasses.dataclass(frozen=True)
class LearnedFrom:
    """A baseline: a policy, and the rewards it learns from.

    Attributes:
        rewards: ``learned`` (the same reward model), ``true`` (the environment's own) or ``none``. In PEARL
            also ``oracle`` (a reward model of the same kind, from the teacher's own labels of all pairs of
            the target) and ``labels`` (no reward: the policy learns from the labels themselves).
    """

    policy: Component
    rewards: str

    def __post_init__(self):
        if self.rewards not in REWARD_CHOICES:
            raise ConfigError(f"rewards must be one of {', '.join(REWARD_CHOICES)}, got {self.rewards!r}")


REWARD_CHOICES = ("learned", "true", "none", "oracle", "labels")


@dataclasses.dataclass(frozen=True)
class EvaluationPlan:
    """How many episodes a policy is tried on, and how many of them are filmed."""

    episodes: int
    record: int = 2

    def __post_init__(self):
        if self.episodes < 1 or not 0 <= self.record <= self.episodes:
            raise ConfigError(
                "evaluation needs at least one episode and films at most all of them, "
                f"got episodes={self.episodes}, record={self.record}"
            )


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Rollouts that are compared.

    Attributes:
        starts: Initial states of each task.
        repeats: Rollouts from each of them; GRAPE takes 5.
        at_once: Rollouts of a task that advance together.
    """

    starts: int = 8
    repeats: int = 5
    at_once: int = 32

    def __post_init__(self):
        if self.starts < 1 or self.repeats < 2 or self.at_once < 1:
            raise ConfigError(
                "A comparison needs one initial state or more and two rollouts or more from each, got "
                f"starts={self.starts}, repeats={self.repeats}, at_once={self.at_once}"
            )


def check_sources(sources: list[Scene], target: Scene) -> None:
    """Refuse an alignment without sources, with one twice, or from the target to itself."""
    names = [source.task for source in sources]
    if not names or len(set(names)) < len(names) or target.task in names:
        raise ConfigError(
            "alignment.sources must be one or more different tasks other than the target "
            f"{target.task!r}, got {names}"
        )


def check_split(held_out: float, max_pairs: int | None) -> None:
    """Refuse a share of held-out episodes or a number of pairs that makes no sense."""
    if not 0 <= held_out < 1:
        raise ConfigError(f"held_out must lie in [0, 1), got {held_out}")
    if max_pairs is not None and max_pairs < 1:
        raise ConfigError(f"max_pairs must be 1 or more, or null, got {max_pairs}")
