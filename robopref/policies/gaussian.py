"""A Gaussian over actions whose mean depends on the state.

Letters used in shapes: B observations, O their entries, A entries of an action, H actions in a chunk (1).
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robopref.errors import ConfigError
from robopref.nets.mlp import EnsembleMLP
from robopref.objectives.tokens import gaussian_kl
from robopref.policies.exact import ExactActor

LOG_DEVIATION_MIN, LOG_DEVIATION_MAX = -5.0, 2.0  # as in Kostrikov et al. 2021


class GaussianPolicy(ExactActor):
    """pi(a | s) = N(tanh(f(s)), diag(sigma^2)), with one sigma for all states; the normaliser is inside.

    The mean lies in (-1, 1), the range of actions. The Gaussian itself is not squashed: recorded actions
    often lie exactly at -1 or 1, where a squashed density is not defined. A drawn action is clipped.

    Args:
        observation_size: Entries of an observation, O.
        action_size: Entries of an action, A.
        hidden: Widths of the hidden layers.
        activation: Between layers; a key of :data:`robopref.nets.mlp.ACTIVATIONS`.
        deviation: Sigma, if it is to stay as it is; None to learn it (it starts from 1).
        goal: Whether it is told how good what it does shall be, as one more entry of what it observes: 1
            for the best (which it takes where nothing is said), -1 for the worst. It starts out deaf to it.
        floor, clip: Of the :class:`~robopref.nets.normalise.Normaliser`.
        generator: Draws the starting weights; torch's global one when not given.

    Raises:
        ConfigError: for a value that makes no sense.
    """

    log_deviation: Tensor

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        *,
        hidden: Sequence[int] = (256, 256),
        activation: str = "relu",
        deviation: float | None = None,
        goal: bool = False,
        floor: float = 1e-2,
        clip: float = 10.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(observation_size, action_size, floor=floor, clip=clip)
        if deviation is not None and not 0 < deviation < math.inf:
            raise ConfigError(f"deviation must be positive (or null, to learn it), got {deviation}")
        self.goal = goal
        self.network = EnsembleMLP(
            1, observation_size + goal, action_size, tuple(hidden), activation, generator=generator
        )
        if goal:
            with torch.no_grad():
                self.network.weights[0][..., -1] = 0.0
        self.learned_deviation = deviation is None
        start = torch.full((action_size,), 0.0 if deviation is None else math.log(deviation))
        if self.learned_deviation:
            self.log_deviation = nn.Parameter(start)
        else:
            self.register_buffer("log_deviation", start)

    def states(self, observations: Float[Tensor, "B _"], goal: float = 1.0) -> Float[Tensor, "B _"]:
        """What the network sees: normalised observations and, if it takes one, the goal.

        Args:
            observations: O entries, or one more, which then is the goal.
            goal: Where the observations name none.
        """
        states = self.normaliser(observations[:, : self.observation_size])
        if not self.goal:
            return states
        told = observations[:, self.observation_size :]
        if not told.shape[1]:
            told = torch.full_like(observations[:, :1], goal)
        return torch.cat([states, told.to(states.dtype)], 1)

    def mean_of(self, states: Float[Tensor, "B _"]) -> Float[Tensor, "B A"]:
        """The mean action, from :meth:`states`."""
        return self.network(states)[0].tanh()

    def log_density(self, mean: Float[Tensor, "B A"], actions: Float[Tensor, "B A"]) -> Float[Tensor, " B"]:
        """Logarithm of N(actions; mean, sigma^2), in nats."""
        return self.log_densities(mean, actions).sum(-1)

    def log_densities(
        self, mean: Float[Tensor, "B A"], actions: Float[Tensor, "B A"]
    ) -> Float[Tensor, "B A"]:
        """Likewise, of each entry by itself."""
        log_deviation = self.bounded_log_deviation()
        standardised = (actions - mean) * torch.exp(-log_deviation)
        return -0.5 * standardised.square() - log_deviation - 0.5 * math.log(2 * math.pi)

    def against(
        self, reference: "GaussianPolicy", observations: Float[Tensor, "B _"], actions: Float[Tensor, "B A"]
    ) -> tuple[Float[Tensor, "B 1"], Float[Tensor, "B 1"], Float[Tensor, "B 1"]]:
        """Log-density of every action, the same under a frozen reference, and KL(reference || this)."""
        states = self.states(observations)
        mean = self.mean_of(states)
        with torch.no_grad():
            old_mean = reference.mean_of(states)
            old = reference.log_density(old_mean, actions)
        deviation, old_deviation = (
            x.bounded_log_deviation().exp().expand_as(mean) for x in (self, reference)
        )
        kl = gaussian_kl(old_mean, old_deviation, mean, deviation)
        return self.log_density(mean, actions)[:, None], old[:, None], kl[:, None]

    def bounded_log_deviation(self) -> Float[Tensor, " A"]:
        """Log sigma; a learned one is kept in [-5, 2]."""
        if not self.learned_deviation:
            return self.log_deviation
        return self.log_deviation.clamp(LOG_DEVIATION_MIN, LOG_DEVIATION_MAX)

    @torch.no_grad()
    def act(
        self,
        observations: Float[Tensor, "B O"],
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = True,
    ) -> Float[Tensor, "B 1 A"]:
        """The mean action, or one drawn from the Gaussian and clipped to [-1, 1]; a chunk of one action.

        Raises:
            DataError: The observations have another width, or hold NaN or infinity.
        """
        mean = self.mean_of(self.states(self.checked(observations)))
        if not deterministic:
            source = mean.device if generator is None else generator.device
            noise = torch.randn(mean.shape, generator=generator, device=source, dtype=mean.dtype).to(mean)
            mean = (mean + noise * self.bounded_log_deviation().exp()).clamp(-1, 1)
        return mean.unsqueeze(1)

    def log_probs(
        self, observations: Float[Tensor, "B O"], actions: Float[Tensor, "B H A"]
    ) -> Float[Tensor, "B H"]:
        """Log-density of the actions, before clipping."""
        mean = self.mean_of(self.states(observations))
        return self.log_density(mean, actions[:, 0].to(mean.dtype))[:, None]
