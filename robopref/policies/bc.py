"""Behaviour cloning: do what the data did, of all episodes or of the best.

Letters used in shapes: B transitions.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from robopref.policies.gaussian import GaussianPolicy
from robopref.policies.offline import ImitationPolicy, constructor_arguments


class BehaviourCloning(ImitationPolicy):
    """Maximum likelihood of the recorded actions under a Gaussian policy.

    Args:
        observation_size: Entries of an observation.
        action_size: Entries of an action.
        hidden: Widths of the hidden layers.
        activation: Between layers; a key of :data:`robopref.nets.mlp.ACTIVATIONS`.
        deviation: Of the Gaussian. None learns it; a number keeps it, and the loss is then the mean-squared
            error of the mean action (the likelihood's, up to a factor and a constant).
        goal: Whether the policy takes a goal (:class:`~robopref.policies.gaussian.GaussianPolicy`);
            cloning names none, preferences may.
        top_fraction: Share of the episodes to learn from, the best by the sum of their rewards.
        learning_rate: Step size of Adam.
        floor, clip: Of the :class:`~robopref.nets.normalise.Normaliser` of observations.
        seed: Of the starting weights.

    Raises:
        ConfigError: for a value that makes no sense.
    """

    kind = "bc"

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        *,
        hidden: Sequence[int] = (256, 256),
        activation: str = "relu",
        deviation: float | None = None,
        goal: bool = False,
        top_fraction: float = 1.0,
        learning_rate: float = 1e-3,
        floor: float = 1e-2,
        clip: float = 10.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.config = constructor_arguments(locals())
        self.imitate(learning_rate=learning_rate, top_fraction=top_fraction)
        self.actor = GaussianPolicy(
            observation_size,
            action_size,
            hidden=hidden,
            activation=activation,
            deviation=deviation,
            goal=goal,
            floor=floor,
            clip=clip,
            generator=torch.Generator().manual_seed(seed),
        )

    def loss(
        self, batch: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Negative log-likelihood, or the squared error where the deviation is fixed; nothing is drawn."""
        mean = self.actor.mean_of(self.actor.states(batch["observations"], goal=0.0))
        error = (mean - batch["actions"]).square().mean()
        if self.actor.learned_deviation:
            loss = -self.actor.log_density(mean, batch["actions"]).mean()
        else:
            loss = error
        return loss, {"squared_error": error.detach()}
