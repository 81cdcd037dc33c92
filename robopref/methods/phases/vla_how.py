"""How GRAPE aligns a policy: what a configuration may say of it, checked before anything is done."""

import dataclasses
import math
from collections.abc import Collection
from typing import Any

from robopref.errors import ConfigError, unknown_name
from robopref.objectives.description import Objective
from robopref.policies.vla.data import SEGMENTS
from robopref.policies.vla.lora import Adapter
from robopref.policies.vla.preference import fitting

KINDS = ("preference", "advantage", "chosen", "successes", "all", "demonstrations")
WITHOUT_SCORES = ("successes", "all", "demonstrations")
"""Kinds that take no notice of which rollouts were scored higher."""
READERS = {
    **dict.fromkeys(
        ("objective", "segment", "windows", "reduce", "beta", "imitation_weight"), ("preference",)
    ),
    **dict.fromkeys(("clip", "trace"), ("advantage",)),
    "pairs": ("preference", "advantage", "chosen"),
    **dict.fromkeys(("demonstrations", "replay"), KINDS[:-1]),
}
"""Kinds that know of an option of an :class:`Alignment`; of any other, all do."""


@dataclasses.dataclass(frozen=True)
class Alignment:
    """How a policy learns from rollouts.

    Attributes:
        kind: ``preference``, of whole rollouts or their parts; ``advantage``, of single decisions, which a
            critic makes of the rollouts' scores (:mod:`robopref.rewards.credit`); or imitation of the better
            rollouts (``chosen``), of those that succeeded (``successes``), of all, or of ``demonstrations``
            alone: what further learning does by itself.
        objective: Of the registry, for ``preference``: a name, or a mapping with ``name`` and options. What
            it learns from decides what is compared: pairs; all rollouts of a state as a ranked list
            (``plackett_luce``, ``lipo_lambda``, ...); or single rollouts, up where they succeeded and down
            elsewhere (``kto``, ``bco``).
        segment: ``trajectory``, ``window``, ``stage`` or ``step``.
        windows: How many windows a trajectory is cut into.
        reduce: ``sum`` or ``mean`` over the decisions of a segment.
        beta: Scale of scores; None takes the family's.
        imitation_weight: Of the best rollout's negative log-likelihood, added to the objective.
        clip: Of ``advantage``: by how much the likelihood of a token may change.
        trace: Of ``advantage``: 0 trusts the critic, 1 the score of the rollout alone.
        pairs: ``ranked`` by who judged, or ``random``: the control that a ranking must beat. Of
            ``advantage``, scores at random among the rollouts of a state.
        learning_rate: Step size of Adam; None takes the policy's.
        demonstrations: Share of a batch that are demonstrations: supervised learning, whatever the objective.
        replay: Share that are comparisons of earlier rounds.
        window: Decisions scored at once, which bounds the memory.
        adapter: ``{"rank": 8}`` learns adapters and leaves the weights alone; None moves all.
    """

    kind: str = "preference"
    objective: Any = "rpro"
    segment: str = "window"
    windows: int = 4
    reduce: str = "mean"
    beta: float | None = None
    imitation_weight: float = 0.0
    clip: float = 0.2
    trace: float = 0.9
    pairs: str = "ranked"
    learning_rate: float | None = 1e-4
    demonstrations: float = 0.15
    replay: float = 0.15
    window: int = 64
    adapter: dict[str, Any] | None = None

    def __post_init__(self):
        for name, known in (("kind", KINDS), ("pairs", ("ranked", "random"))):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        positive = {name: getattr(self, name) for name in ("learning_rate", "beta", "windows", "window")}
        for name, value in positive.items():
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} must be positive, got {value}")
        if not 0 <= self.imitation_weight < math.inf:
            raise ConfigError(f"imitation_weight must not be negative, got {self.imitation_weight}")
        if not (0 < self.clip < 1 and 0 <= self.trace <= 1):
            raise ConfigError(
                f"clip must lie between 0 and 1, and trace from 0 to 1, got {self.clip} and {self.trace}"
            )
        if not (min(self.demonstrations, self.replay) >= 0 and self.demonstrations + self.replay < 1):
            raise ConfigError(
                "demonstrations and replay must not be negative, and together below 1, got "
                f"{self.demonstrations} and {self.replay}"
            )
        if self.segment not in SEGMENTS:
            raise ConfigError(unknown_name("segment", self.segment, SEGMENTS))
        if self.adapter is not None:
            Adapter.of(self.adapter)
        self.chosen  # noqa: B018  (refuses an unknown objective)
        usual = {field.name: field.default for field in dataclasses.fields(self)}
        if self.kind == "preference" and self.segment != "window" and self.windows != usual["windows"]:
            raise ConfigError(f"windows={self.windows} would change nothing under segment={self.segment}")
        self.refuse_unread([f.name for f in dataclasses.fields(self) if getattr(self, f.name) != f.default])

    def refuse_unread(self, said: Collection[str]) -> None:
        """Refuse what was said, whatever its value, if this kind knows nothing of it.

        Raises:
            ConfigError: There are such; the message names the kinds that read the first.
        """
        if unread := [name for name in self.unread(self.kind) if name in said]:
            raise ConfigError(
                f"{', '.join(unread)} would change nothing under kind={self.kind}: only "
                f"kind={' or '.join(READERS[unread[0]])} reads {unread[0]}"
            )

    @staticmethod
    def unread(kind: str) -> tuple[str, ...]:
        """Options that a kind knows nothing of."""
        return tuple(name for name, kinds in READERS.items() if kind not in kinds)

    @property
    def chosen(self) -> Objective:
        """The objective of the registry."""
        given = {"name": self.objective} if isinstance(self.objective, str) else self.objective
        if not isinstance(given, dict):
            raise ConfigError(
                f"An objective is a name, or a mapping with its name and options; got {given!r}"
            )
        return fitting(given, self.reduce).objective

    @property
    def compares(self) -> str:
        """What is compared: ``pairs``, ``lists`` or ``singles``."""
        return {"lists": "lists", "up/down": "singles"}.get(self.chosen.labels, "pairs")
