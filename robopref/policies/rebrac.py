"""ReBRAC: TD3+BC as it should have been, with penalties of their own for actor and critics.

Tarasov et al. 2023, "Revisiting the Minimalist Approach to Offline Reinforcement Learning" (arXiv
2305.09836). Actor and critics are each held to the data by a squared distance with a weight of its own; the
critics are deep and layer-normalised; Q is scaled by its mean size where the actor climbs it. The defaults
are the paper's but for the discount and the targets' share, which suit some thousand steps of training, and
the critics' penalty (docs/results/pearl.md).

Letters used in shapes: B transitions, A entries of an action.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call

from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError
from robopref.nets.mlp import EnsembleMLP
from robopref.policies.dataset import FollowedSampler, Rewards, followed_tensors
from robopref.policies.gaussian import GaussianPolicy
from robopref.policies.offline import ValuePolicy, constructor_arguments


class ReBRAC(ValuePolicy):
    """Twin critics with layer normalisation and a deterministic actor, both held to the data.

    Every second step, by default, also moves the actor and both targets, as in the authors' code: the
    critics step, the targets follow the new critics and the actor as it was, the actor steps against the new
    critics. That last step needs nothing which the next step of the critics changes, so it is taken together
    with it, on its batch: one backward pass serves both. (The authors' code takes it on the batch before.)

    The actor is a Gaussian of a fixed width around its action, so that it can be sampled and scored.

    Args:
        observation_size: Entries of an observation.
        action_size: Entries of an action.
        hidden: Widths of the hidden layers of all networks.
        activation: Between layers; a key of :data:`robopref.nets.mlp.ACTIVATIONS`.
        actor_penalty: beta_1, of the actor's squared distance to the recorded action; Q has mean size 1.
        critic_penalty: beta_2, of the target action's squared distance to the recorded one; in rewards.
        discount: gamma in [0, 1), for each step.
        learning_rate: Step size of Adam, for all networks.
        polyak: Share of critics and actor that their targets take over, in (0, 1].
        noise: Deviation of the noise on the target's action, and of the actor where it is sampled.
        noise_limit: Largest size of that noise in a target.
        actor_every: Steps of the critics for one of the actor and the targets.
        standardise: Of rewards, see :func:`~robopref.policies.dataset.transition_tensors`.
        floor, clip: Of the :class:`~robopref.nets.normalise.Normaliser` of observations.
        seed: Of the starting weights.

    Raises:
        ConfigError: for a value that makes no sense.
    """

    kind = "rebrac"
    actor_seen: Tensor

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        *,
        hidden: Sequence[int] = (256, 256, 256),
        activation: str = "relu",
        actor_penalty: float = 1.0,
        critic_penalty: float = 0.1,
        discount: float = 0.97,
        learning_rate: float = 1e-3,
        polyak: float = 0.02,
        noise: float = 0.2,
        noise_limit: float = 0.5,
        actor_every: int = 2,
        standardise: str = "full",
        floor: float = 1e-2,
        clip: float = 10.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.config = constructor_arguments(locals())
        self.check(self.config)
        _check(self.config)
        generator = torch.Generator().manual_seed(seed)
        sizes = {"hidden": tuple(hidden), "activation": activation, "generator": generator}
        self.actor = GaussianPolicy(
            observation_size, action_size, deviation=noise, floor=floor, clip=clip, **sizes
        )
        self.critic = EnsembleMLP(2, observation_size + action_size, 1, layer_norm=True, **sizes)
        self.target_actor = copy.deepcopy(self.actor.network).requires_grad_(False)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.register_buffer("actor_seen", torch.zeros(2))  # what the actor's last step logged
        self.actor_penalty, self.critic_penalty = actor_penalty, critic_penalty
        self.discount, self.learning_rate, self.polyak = discount, learning_rate, polyak
        self.noise, self.noise_limit, self.actor_every = noise, noise_limit, actor_every
        self.standardise = standardise
        self.updates = 0

    def get_extra_state(self) -> Tensor:
        """The steps that were taken, which say whose turn it is; on the CPU, where they are asked for."""
        return torch.tensor(self.updates)

    def set_extra_state(self, state: Tensor) -> None:
        """Go on from so many steps."""
        self.updates = int(state)

    def select(self, store: TrajectoryStore, rewards: Rewards, device: torch.device) -> FollowedSampler:
        """All transitions that another action followed, rewards standardised; the scaling is kept."""
        sampler = followed_tensors(store, rewards, device=device, standardise=self.standardise)
        self.keep_scaling(sampler.scaling)
        return sampler

    def loss(
        self, batch: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The critics' loss and, where the step before moved the targets, the actor's.

        The noise of targets is drawn.
        """
        states, actions = self.actor.normaliser(batch["observations"]), batch["actions"]
        wanted = self._wanted(batch, generator)
        q = self.critic(torch.cat([states, actions], -1)).squeeze(-1)
        critic_loss = (q - wanted).square().mean(-1).sum()
        loss = critic_loss
        if self.updates and (self.updates - 1) % self.actor_every == 0:
            actor_loss, distance = self._actor_loss(states, actions)
            loss = critic_loss + actor_loss
            self.actor_seen.copy_(torch.stack([actor_loss, distance]).detach())
        seen = {"critic_loss": critic_loss, "q": q.mean(), "wanted_q": wanted.mean()}
        seen |= dict(zip(("actor_loss", "actor_distance"), self.actor_seen.clone(), strict=True))
        return loss, {name: value.detach() for name, value in seen.items()}

    @torch.no_grad()
    def _wanted(self, batch: Mapping[str, Tensor], generator: torch.Generator | None) -> Float[Tensor, " B"]:
        """r + gamma (min Q'(s', a') - beta_2 |a' - the recorded one|^2), a' the target's action and noise."""
        states = self.actor.normaliser(batch["next_observations"])
        actions = self.target_actor(states)[0].tanh()
        drawn = torch.randn(actions.shape, generator=generator, device=actions.device, dtype=actions.dtype)
        actions = actions + (drawn * self.noise).clamp(-self.noise_limit, self.noise_limit)
        actions = actions.clamp(-1, 1)
        distance = (actions - batch["next_actions"]).square().sum(-1)
        q = self.target_critic(torch.cat([states, actions], -1)).squeeze(-1).amin(0)
        going_on = self.discount * (1 - batch["terminals"])
        return batch["rewards"] + going_on * (q - self.critic_penalty * distance)

    def _actor_loss(
        self, states: Float[Tensor, "B _"], actions: Float[Tensor, "B A"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """beta_1 |pi(s) - a|^2 - min Q(s, pi(s)) / mean |min Q|, and the mean of that distance."""
        own = self.actor.mean_of(states)
        frozen = {name: weight.detach() for name, weight in self.critic.named_parameters()}
        q = functional_call(self.critic, frozen, (torch.cat([states, own], -1),)).squeeze(-1).amin(0)
        distance = (own - actions).square().sum(-1).mean()
        return self.actor_penalty * distance - q.mean() / q.detach().abs().mean(), distance

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Critics and actor, at one learning rate."""
        moving = [*self.critic.parameters(), *self.actor.parameters()]
        return [{"params": moving, "lr": self.learning_rate}]

    @torch.no_grad()
    def after_step(self) -> None:
        """Count the step, and move the targets towards critics and actor where it is their turn."""
        if self.updates % self.actor_every == 0:
            pairs = ((self.target_critic, self.critic), (self.target_actor, self.actor.network))
            for target, source in pairs:
                for old, new in zip(target.parameters(), source.parameters(), strict=True):
                    old.lerp_(new, self.polyak)
        self.updates += 1


def _check(config: Mapping[str, Any]) -> None:
    if config["actor_every"] < 1:
        raise ConfigError(f"actor_every must be at least 1, got {config['actor_every']}")
    for name in ("actor_penalty", "critic_penalty"):
        if not config[name] >= 0:
            raise ConfigError(f"{name} must not be negative, got {config[name]}")
    for name in ("noise", "noise_limit"):
        if not config[name] > 0:
            raise ConfigError(f"{name} must be positive, got {config[name]}")
