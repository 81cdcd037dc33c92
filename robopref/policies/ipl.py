"""Inverse preference learning: the reward that a Q-function implies is what preferences are fitted to.

Hejna and Sadigh 2023, "Inverse Preference Learning: Preference-based RL without a Reward Function" (arXiv
2305.15363), in its form with implicit Q-learning. There is no reward model: Q(s, a) - gamma V(s') takes the
place of r(s, a) in the Bradley-Terry loss, held to zero by its square, and value and actor learn from Q as
implicit Q-learning's do.

Letters used in shapes: B pairs, S steps drawn from each segment, O entries of an observation, A of an action.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError
from robopref.objectives.bradley_terry import preference_logits, preference_loss, sign_accuracy
from robopref.policies.dataset import Rewards, TransitionSampler
from robopref.policies.iql import ImplicitQLearning
from robopref.policies.offline import constructor_arguments


class InversePreferenceLearning(ImplicitQLearning):
    """Implicit Q-learning whose rewards are implied, and fitted to pairs of segments.

    A batch holds, of both segments of B pairs, ``observations`` (2, B, S, O), ``next_observations``,
    ``actions`` (2, B, S, A) and ``terminals`` (2, B, S), with ``labels`` and ``weights`` (B,)
    (:class:`robopref.rewards.dataset.StepPairs`). A segment's return is the sum over the S steps that were
    drawn of it, as published (16 of 25).

    Args:
        observation_size, action_size, hidden, activation, expectile, temperature, discount, learning_rate,
            polyak, weight_limit, floor, clip, seed: Of
            :class:`~robopref.policies.iql.ImplicitQLearning`.
        reward_penalty: lambda, of the mean square of the implied rewards; they are not defined without it.
        segment_steps: S.

    Raises:
        ConfigError: for a value that makes no sense.
    """

    kind = "ipl"
    uses_rewards = False

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        *,
        hidden: Sequence[int] = (256, 256),
        activation: str = "relu",
        reward_penalty: float = 3.0,
        segment_steps: int = 16,
        expectile: float = 0.75,
        temperature: float = 3.0,
        discount: float = 0.97,
        learning_rate: float = 1e-3,
        polyak: float = 0.01,
        weight_limit: float = 100.0,
        floor: float = 1e-2,
        clip: float = 10.0,
        seed: int = 0,
    ) -> None:
        given = constructor_arguments(locals())
        of_preferences = ("reward_penalty", "segment_steps")
        super().__init__(**{name: value for name, value in given.items() if name not in of_preferences})
        self.config = given
        if not reward_penalty > 0:
            raise ConfigError(f"reward_penalty must be positive, got {reward_penalty}")
        if segment_steps < 1:
            raise ConfigError(f"segment_steps must be at least 1, got {segment_steps}")
        self.reward_penalty, self.segment_steps = reward_penalty, segment_steps

    def select(self, store: TrajectoryStore, rewards: Rewards, device: torch.device) -> TransitionSampler:
        """Refuse: this policy learns from pairs of segments."""
        raise ConfigError(
            "This policy learns from preferences, not from rewards: give it labels (labels=sqlite:///...)"
        )

    def loss(
        self, batch: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Sum of the critics', the value's and the actor's loss; nothing is drawn."""
        states, following = (
            self.actor.normaliser(batch[name].flatten(0, 2)) for name in ("observations", "next_observations")
        )
        actions = batch["actions"].flatten(0, 2)
        pairs = torch.cat([states, actions], -1)
        with torch.no_grad():
            target_q = self.target(pairs).squeeze(-1).amin(0)
            next_value = self.value(following)[0, :, 0] * (1 - batch["terminals"].flatten())

        rewards = self.critic(pairs).squeeze(-1) - self.discount * next_value
        first, second = rewards.unflatten(1, batch["terminals"].shape).sum(-1).unbind(1)
        logits = preference_logits(first, second)
        preference = preference_loss(logits, batch["labels"], weights=batch["weights"]).mean()
        size = rewards.square().mean()

        value_loss, actor_loss, of_actor = self.value_and_actor(states, actions, target_q)
        seen = {
            "preference_loss": preference,
            "squared_reward": size,
            "value_loss": value_loss,
            "actor_loss": actor_loss,
            "accuracy": sign_accuracy(logits.mean(0), batch["labels"]),
            "advantage_weight": of_actor["advantage_weight"],
        }
        loss = preference + self.reward_penalty * size + value_loss + actor_loss
        return loss, {name: value.detach() for name, value in seen.items()}
