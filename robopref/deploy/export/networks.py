"""The networks of a policy and of what ranks its candidates, as they are exported: each one step, no loop.

Letters used in shapes: B rows, O observation entries, H actions in a chunk, A action entries, M members, C
features.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from robopref.errors import ConfigError, unknown_name
from robopref.policies.gaussian import GaussianPolicy
from robopref.policies.offline import OfflinePolicy
from robopref.policies.preference import PreferencePolicy
from robopref.rewards.candidates import DRAWS, WINDOW, CandidateReward
from robopref.rewards.ensemble import EnsembleReward

PREFIXES = {"policy": "", "reference": "reference_"}  # of a denoiser's networks
SAMPLERS = tuple(PREFIXES)
SCORERS = ("reward", "implicit", "product", "none")


@dataclass(frozen=True)
class Part:
    """A network to export.

    Attributes:
        module: Takes ``inputs`` by position and returns ``outputs``; normalises by itself.
        inputs: Shape behind the batch axis, by name.
        outputs: Likewise.
        denoises: Of a denoiser the :class:`~robopref.policies.denoising.Denoiser` that it belongs to, which
            says how chunks are noised and observations encoded.
    """

    module: nn.Module
    inputs: Mapping[str, tuple[int, ...]]
    outputs: Mapping[str, tuple[int, ...]]
    denoises: Any = None


class _Mean(nn.Module):
    """Observations (B, O) to the mean chunk (B, 1, A) of a Gaussian policy."""

    def __init__(self, actor: GaussianPolicy) -> None:
        super().__init__()
        self.actor = actor

    def forward(self, observations: Tensor) -> Tensor:
        return self.actor.mean_of(self.actor.states(observations)).unsqueeze(1)


class _Reward(nn.Module):
    """Observations (B, O) and actions (B, A) to each member's mean and deviation, (B, M) each."""

    def __init__(self, reward: EnsembleReward) -> None:
        super().__init__()
        self.reward = reward

    def forward(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        mean, deviation = self.reward._rows(observations, actions)
        return mean.T, deviation.T


class _Encoder(nn.Module):
    """Observations (B, O) to features (B, C)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, observations: Tensor) -> Tensor:
        return self.encoder(observations)


class _Denoiser(nn.Module):
    """Noisy chunks (B, H, A), times (B,) and features (B, C) to what is predicted, (B, H, A)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, noisy: Tensor, times: Tensor, condition: Tensor) -> Tensor:
        return self.network(noisy, times, condition)


def policy_parts(policy: OfflinePolicy, sampler: str = "policy") -> tuple[dict[str, Any], dict[str, Part]]:
    """What the runtime needs to know of a policy, or of its frozen ``reference``, to sample; its networks.

    Raises:
        ConfigError: It is of a family that cannot be exported, or has no reference.
    """
    if sampler not in SAMPLERS:
        raise ConfigError(unknown_name("sampler", sampler, SAMPLERS))
    if sampler == "reference" and not isinstance(policy, PreferencePolicy):
        raise ConfigError(
            f"sampler=reference samples from the reference of a policy learned from preferences, and a "
            f"{type(policy).__name__} has none; sampler=policy samples from itself."
        )
    actor: Any = policy.actor if sampler == "policy" else policy.reference
    kind = type(actor).__name__
    if kind not in ACTORS:
        raise ConfigError(f"A {kind} cannot be exported; {', '.join(ACTORS)} can.")
    return ACTORS[kind](actor, sampler)


def _gaussian_parts(actor: GaussianPolicy, sampler: str) -> tuple[dict[str, Any], dict[str, Part]]:
    settings = {"kind": "gaussian", "network": sampler, "deviation": _deviation(actor)}
    return settings, {sampler: _mean_part(actor)}


def _mean_part(actor: GaussianPolicy) -> Part:
    return Part(_Mean(actor), {"observations": (actor.observation_size,)}, {"mean": (1, actor.action_size)})


def _deviation(actor: GaussianPolicy) -> list[float]:
    return actor.bounded_log_deviation().detach().double().exp().tolist()


def _denoiser_parts(actor: Any, sampler: str = "policy") -> dict[str, Part]:
    prefix = PREFIXES[sampler]
    features, chunk = actor.encoder.size, (actor.horizon, actor.action_size)
    seen = {"observations": (actor.observation_size,)}
    asked = {"noisy": chunk, "times": (), "condition": (features,)}
    return {
        f"{prefix}encoder": Part(_Encoder(actor.encoder), seen, {"features": (features,)}),
        f"{prefix}denoiser": Part(_Denoiser(actor.network), asked, {"predicted": chunk}, denoises=actor),
    }


def _diffusion_parts(actor: Any, sampler: str) -> tuple[dict[str, Any], dict[str, Part]]:
    settings = {
        "kind": "diffusion",
        "encoder": f"{PREFIXES[sampler]}encoder",
        "denoiser": f"{PREFIXES[sampler]}denoiser",
        "alphas": actor.denoising.alphas_cumprod.double().tolist(),
        "timesteps": actor.denoising.timesteps.tolist(),
        "eta": float(actor.eta),
    }
    return settings, _denoiser_parts(actor, sampler)


def _flow_parts(actor: Any, sampler: str) -> tuple[dict[str, Any], dict[str, Part]]:
    settings = {name: f"{PREFIXES[sampler]}{name}" for name in ("encoder", "denoiser")}
    return {"kind": "flow", **settings, "steps": actor.sample_steps}, _denoiser_parts(actor, sampler)


# by name, for diffusion and flow policies bring diffusers, which a Gaussian one does not need
ACTORS: dict[str, Callable[[Any, str], tuple[dict[str, Any], dict[str, Part]]]] = {
    "GaussianPolicy": _gaussian_parts,
    "DiffusionActor": _diffusion_parts,
    "FlowActor": _flow_parts,
}


def scorer_parts(
    policy: OfflinePolicy, reward: EnsembleReward | None, scorer: str | None
) -> tuple[dict[str, Any] | None, dict[str, Part]]:
    """What the runtime needs to know of the scorer, and its networks.

    Raises:
        ConfigError: There is no such scorer, or it does not fit the policy.
    """
    if scorer is None:
        referenced = isinstance(policy, PreferencePolicy)
        scorer = "reward" if reward is not None else "implicit" if referenced else "none"
    if scorer not in SCORERS:
        raise ConfigError(unknown_name("scorer", scorer, SCORERS))
    if scorer == "none":
        return None, {}
    if scorer == "reward":
        if reward is None:
            raise ConfigError("scorer=reward needs reward=<folder of a saved reward>.")
        whole = isinstance(reward, CandidateReward)
        settings = {"kind": "ensemble", "network": "reward", "whole": whole}
        return settings, {"reward": _reward_part(reward, policy)}
    if scorer == "product":
        factors = [scorer_parts(policy, reward, factor) for factor in ("reward", "implicit")]
        return {"kind": "product", "factors": [s for s, _ in factors]}, {**factors[0][1], **factors[1][1]}
    if not isinstance(policy, PreferencePolicy):
        raise ConfigError(
            f"scorer=implicit compares a policy with its reference, and a {type(policy).__name__} has none; "
            "policy=preference has."
        )
    actor: Any = policy.actor
    reference: Any = policy.reference
    if not actor.exact:
        names = ("encoder", "denoiser", "reference_encoder", "reference_denoiser")
        settings: dict[str, Any] = {"kind": "surrogate", **{name: name for name in names}}
        settings |= {"beta": policy.preference.beta, "draws": DRAWS, "window": list(WINDOW)}
        return settings, _denoiser_parts(actor) | _denoiser_parts(reference, "reference")
    settings = {
        "kind": "implicit",
        "network": "policy",
        "deviation": _deviation(actor),
        "reference": "reference",
        "reference_deviation": _deviation(reference),
        "beta": policy.preference.beta,
    }
    return settings, {"policy": _mean_part(actor), "reference": _mean_part(reference)}


def _reward_part(reward: EnsembleReward, policy: OfflinePolicy) -> Part:
    sizes = (reward.observation_size, reward.action_size)  # a candidate reward's action is a whole chunk
    chunk = policy.horizon if isinstance(reward, CandidateReward) else 1
    wanted = (policy.observation_size, chunk * policy.action_size)
    if sizes != wanted:
        raise ConfigError(
            f"The reward takes {sizes[0]} observation and {sizes[1]} action entries, the policy "
            f"{wanted[0]} and {wanted[1]}: they are of different tasks."
        )
    inputs = {"observations": (sizes[0],), "actions": (sizes[1],)}
    return Part(_Reward(reward), inputs, {"mean": (reward.members,), "deviation": (reward.members,)})
