"""What policies share that are learned from stored transitions: the actor, the data, and the training step.

Letters used in shapes: B observations or transitions, O entries of an observation, A of an action, H actions
in a chunk, E those of them that are executed, K chunks for each observation, R rows of a store.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, unknown_name
from robopref.policies.chunks import Draw
from robopref.policies.dataset import (
    STANDARDISE,
    Rewards,
    RewardScaling,
    TransitionSampler,
    transition_tensors,
)


def constructor_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a constructor's ``locals()`` into JSON values that make the same object again."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in arguments.items()
        if name not in ("self", "__class__")
    }


class OfflinePolicy(nn.Module, ABC):
    """A policy that the training loop can fit.

    Subclasses say which data they learn from (:meth:`select`) and what their loss is (:meth:`loss`).

    Attributes:
        kind: Name under which it is saved.
        config: The constructor's arguments, JSON values; with the weights they make the policy again.
        actor: What acts, a :class:`~robopref.policies.chunks.ChunkPolicy` with its normaliser inside.
        uses_rewards: Whether it matters which rewards the data hold.
    """

    kind: ClassVar[str]
    config: dict[str, Any]
    actor: Any
    uses_rewards: bool

    @property
    def observation_size(self) -> int:
        """Entries of an observation, O."""
        return self.actor.observation_size

    @property
    def action_size(self) -> int:
        """Entries of an action, A."""
        return self.actor.action_size

    @property
    def horizon(self) -> int:
        """Actions in a chunk, H."""
        return self.actor.horizon

    @property
    def exact(self) -> bool:
        """Whether scores are log-probabilities."""
        return self.actor.exact

    def act(
        self,
        observations: Float[Tensor, "B O"],
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = True,
    ) -> Float[Tensor, "B E A"]:
        """The actions in [-1, 1] to execute next: the policy's best, or drawn from it."""
        return self.actor.act(observations, generator=generator, deterministic=deterministic)

    def sample(
        self,
        observations: Float[Tensor, "B O"],
        count: int,
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "B K H A"]:
        """So many whole chunks for each observation, drawn from the policy."""
        return self.actor.sample(observations, count, generator=generator)

    def draw(self, batch_size: int, *, generator: torch.Generator) -> Draw | None:
        """The times and the noise of so many scores; None where scores are exact."""
        return self.actor.draw(batch_size, generator=generator)

    def score(
        self,
        observations: Float[Tensor, "B O"],
        actions: Float[Tensor, "B H A"],
        draw: Draw | None = None,
        mask: Bool[Tensor, "B H"] | None = None,
    ) -> Float[Tensor, " B"]:
        """Score given chunks (:meth:`robopref.policies.chunks.ChunkPolicy.score`); differentiable."""
        return self.actor.score(observations, actions, draw, mask)

    def prepare_data(
        self,
        store: TrajectoryStore,
        rewards: Rewards = "true",
        *,
        device: str | torch.device = "cpu",
    ) -> TransitionSampler:
        """Turn episodes into the batches that this policy learns from, and fit its normaliser to them.

        Args:
            store: The episodes.
            rewards: Of :data:`~robopref.policies.dataset.Rewards`.
            device: Where batches shall lie.

        Raises:
            ConfigError: The policy learns from rewards, and gets none.
            DataError: There are no transitions, or they cannot be learned from; the message says why.
        """
        if rewards is None and self.uses_rewards:
            raise ConfigError(
                f"This {type(self).__name__} learns from rewards and got none: give it a reward model's, or "
                "the environment's own (rewards=true)"
            )
        sampler = self.select(store, rewards, torch.device(device))
        self.fit_normaliser(sampler.seen_observations())
        return sampler

    def fit_normaliser(self, observations: Float[Tensor, "B O"]) -> None:
        """Take the observations' mean and deviation."""
        normaliser = self.actor.normaliser
        normaliser.fit(observations.to(normaliser.mean.device))

    @abstractmethod
    def select(self, store: TrajectoryStore, rewards: Rewards, device: torch.device) -> TransitionSampler:
        """Choose transitions and scale rewards as this policy needs them."""

    @abstractmethod
    def loss(
        self, batch: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Loss of a batch of transitions, and numbers worth logging."""

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimiser shall move, and how fast."""

    def after_step(self) -> None:
        """What follows an optimiser step: nothing, unless a subclass says so."""


class ImitationPolicy(OfflinePolicy):
    """A policy that does what was done in all episodes, or in the best of them.

    Subclasses call :meth:`imitate` and state a loss of transitions, or choose chunks of actions instead.

    Attributes:
        learning_rate: Step size of Adam.
        top_fraction: Share of the episodes to learn from, the best by the sum of their rewards.
    """

    learning_rate: float
    top_fraction: float

    def imitate(self, *, learning_rate: float, top_fraction: float = 1.0) -> None:
        """Set how this policy learns, and whether it needs rewards to find the best episodes.

        Raises:
            ConfigError: for a value that makes no sense.
        """
        if not learning_rate > 0:
            raise ConfigError(f"learning_rate must be positive, got {learning_rate}")
        if not 0 < top_fraction <= 1:
            raise ConfigError(f"top_fraction must lie in (0, 1], got {top_fraction}")
        self.learning_rate, self.top_fraction = learning_rate, top_fraction
        self.uses_rewards = top_fraction < 1

    def select(self, store: TrajectoryStore, rewards: Rewards, device: torch.device) -> TransitionSampler:
        """The transitions of the best episodes."""
        rewards = rewards if self.uses_rewards else None
        return transition_tensors(store, rewards, device=device, top_fraction=self.top_fraction)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The actor."""
        return [{"params": list(self.actor.parameters()), "lr": self.learning_rate}]


class ValuePolicy(OfflinePolicy):
    """A policy that learns values of discounted rewards, with target networks.

    Attributes:
        reward_mean, reward_deviation: How rewards were scaled that the values are of; kept with the weights.
    """

    uses_rewards = True
    reward_mean: Tensor
    reward_deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("reward_mean", torch.tensor(0.0))
        self.register_buffer("reward_deviation", torch.tensor(1.0))

    def keep_scaling(self, scaling: RewardScaling) -> None:
        """Remember how the rewards were scaled."""
        self.reward_mean.fill_(scaling.mean)
        self.reward_deviation.fill_(scaling.deviation)

    @staticmethod
    def check(config: Mapping[str, Any]) -> None:
        """Look at the arguments that every such policy has.

        Raises:
            ConfigError: One of them makes no sense.
        """
        if not 0 <= config["discount"] < 1:
            raise ConfigError(f"discount must lie in [0, 1), got {config['discount']}")
        if not 0 < config["polyak"] <= 1:
            raise ConfigError(f"polyak must lie in (0, 1], got {config['polyak']}")
        if not config["learning_rate"] > 0:
            raise ConfigError(f"learning_rate must be positive, got {config['learning_rate']}")
        if config["standardise"] not in STANDARDISE:
            raise ConfigError(unknown_name("way to standardise", config["standardise"], STANDARDISE))
