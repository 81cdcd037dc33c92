"""Implicit Q-learning: offline reinforcement learning that never asks about an action outside the data.

Kostrikov, Nair and Levine 2021, "Offline Reinforcement Learning with Implicit Q-Learning" (arXiv 2110.06169).
The defaults are not the paper's but what learns on a hundred mixed Meta-World episodes.

Letters used in shapes: B transitions, O entries of an observation, A of an action.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError
from robopref.nets.mlp import EnsembleMLP
from robopref.policies.dataset import Rewards, TransitionSampler, transition_tensors
from robopref.policies.gaussian import GaussianPolicy
from robopref.policies.offline import ValuePolicy, constructor_arguments


def expectile_loss(difference: Float[Tensor, " B"], expectile: float) -> Float[Tensor, ""]:
    """Mean of |expectile - 1(u < 0)| u^2 over the differences u (equation 5); half the square for 0.5."""
    weight = torch.where(difference < 0, 1 - expectile, expectile)
    return (weight * difference.square()).mean()


def advantage_weights(
    advantage: Float[Tensor, " B"], temperature: float, limit: float
) -> Float[Tensor, " B"]:
    """exp(temperature * advantage), at most ``limit`` (equation 7; the limit is the authors' code's)."""
    return (temperature * advantage).exp().clamp(max=limit)


class ImplicitQLearning(ValuePolicy):
    """Twin critics, an expectile value, and a Gaussian actor by advantage-weighted regression.

    All three losses use the networks as they are before the step, as their parameters are disjoint and what
    they share is detached; so one backward pass of their sum equals a step of each with its own optimiser.
    (The authors' code updates the value first and uses the new one in the other two.)

    Args:
        observation_size: Entries of an observation.
        action_size: Entries of an action.
        hidden: Widths of the hidden layers of all networks.
        activation: Between layers; a key of :data:`robopref.nets.mlp.ACTIVATIONS`.
        expectile: tau in (0, 1); above 0.5 the value leans to the better actions of the data.
        temperature: beta; 0 clones the behaviour, large values keep to the best actions.
        discount: gamma in [0, 1), for each step.
        learning_rate: Step size of Adam, for all networks.
        polyak: Share of the critic that its target takes over after each step, in (0, 1].
        weight_limit: Largest weight of an action in the regression.
        standardise: Of rewards, see :func:`~robopref.policies.dataset.transition_tensors`.
        floor, clip: Of the :class:`~robopref.nets.normalise.Normaliser` of observations.
        compile: Whether ``torch.compile`` shall fuse the loss (needs a C++ compiler; half a minute at first).
        seed: Of the starting weights.

    Raises:
        ConfigError: for a value that makes no sense.
    """

    kind = "iql"

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        *,
        hidden: Sequence[int] = (256, 256),
        activation: str = "relu",
        expectile: float = 0.8,
        temperature: float = 3.0,
        discount: float = 0.97,
        learning_rate: float = 1e-3,
        polyak: float = 0.01,
        weight_limit: float = 100.0,
        standardise: str = "full",
        floor: float = 1e-2,
        clip: float = 10.0,
        compile: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.config = constructor_arguments(locals())
        self.check(self.config)
        _check(self.config)
        generator = torch.Generator().manual_seed(seed)
        sizes = {"hidden": tuple(hidden), "activation": activation, "generator": generator}
        self.actor = GaussianPolicy(observation_size, action_size, floor=floor, clip=clip, **sizes)
        self.critic = EnsembleMLP(2, observation_size + action_size, 1, **sizes)
        self.value = EnsembleMLP(1, observation_size, 1, **sizes)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.expectile, self.temperature, self.discount = expectile, temperature, discount
        self.learning_rate, self.polyak, self.weight_limit = learning_rate, polyak, weight_limit
        self.standardise = standardise
        self._fused: Callable[..., Any] | None = None

    def select(self, store: TrajectoryStore, rewards: Rewards, device: torch.device) -> TransitionSampler:
        """All transitions, rewards standardised; the scaling is kept with the weights."""
        sampler = transition_tensors(store, rewards, device=device, standardise=self.standardise)
        self.keep_scaling(sampler.scaling)
        return sampler

    def loss(
        self, batch: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Sum of the three losses (equations 5, 6 and 7); nothing is drawn."""
        if self._fused is None and self.config["compile"]:
            self._fused = torch.compile(self._losses)
        losses, seen = (self._fused or self._losses)(
            batch["observations"],
            batch["actions"],
            batch["rewards"],
            batch["next_observations"],
            batch["terminals"],
        )
        value_loss, critic_loss, actor_loss = losses
        logged = {"value_loss": value_loss, "critic_loss": critic_loss, "actor_loss": actor_loss, **seen}
        return value_loss + critic_loss + actor_loss, {k: v.detach() for k, v in logged.items()}

    def _losses(
        self,
        observations: Tensor,
        actions: Tensor,
        rewards: Tensor,
        next_observations: Tensor,
        terminals: Tensor,
    ) -> tuple[tuple[Tensor, Tensor, Tensor], dict[str, Tensor]]:
        states = self.actor.normaliser(observations)
        pairs = torch.cat([states, actions], dim=-1)
        with torch.no_grad():
            target_q = self.target(pairs).squeeze(-1).amin(0)
            next_value = self.value(self.actor.normaliser(next_observations))[0, :, 0]
            wanted_q = rewards + self.discount * (1 - terminals) * next_value

        q = self.critic(pairs).squeeze(-1)
        critic_loss = (q - wanted_q).square().mean(-1).sum()
        value_loss, actor_loss, seen = self.value_and_actor(states, actions, target_q)
        return (value_loss, critic_loss, actor_loss), seen

    def value_and_actor(
        self, states: Float[Tensor, "B O"], actions: Float[Tensor, "B A"], target_q: Float[Tensor, " B"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""], dict[str, Tensor]]:
        """The value's and the actor's loss (equations 5 and 7), and numbers worth logging.

        Args:
            states: Normalised observations.
            actions: What was done there.
            target_q: The lesser of the target critics' values of both, detached.
        """
        value = self.value(states)[0, :, 0]
        advantage = target_q - value
        value_loss = expectile_loss(advantage, self.expectile)
        weights = advantage_weights(advantage.detach(), self.temperature, self.weight_limit)
        log_density = self.actor.log_density(self.actor.mean_of(states), actions)
        actor_loss = -(weights * log_density).mean()
        seen = {
            "value": value.mean(),
            "advantage_weight": weights.mean(),
            "log_density": log_density.mean(),
        }
        return value_loss, actor_loss, seen

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Value, critics and actor, all at one learning rate."""
        parts = (self.value, self.critic, self.actor)
        return [{"params": [p for part in parts for p in part.parameters()], "lr": self.learning_rate}]

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the target critic towards the critic."""
        for old, new in zip(self.target.parameters(), self.critic.parameters(), strict=True):
            old.lerp_(new, self.polyak)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the compiled loss, which is made again when it is needed."""
        return {**super().__getstate__(), "_fused": None}


def _check(config: Mapping[str, Any]) -> None:
    if not 0 < config["expectile"] < 1:
        raise ConfigError(f"expectile must lie in (0, 1), got {config['expectile']}")
    if not config["temperature"] >= 0:
        raise ConfigError(f"temperature must not be negative, got {config['temperature']}")
    if not config["weight_limit"] > 0:
        raise ConfigError(f"weight_limit must be positive, got {config['weight_limit']}")
