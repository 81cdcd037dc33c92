"""Episodes of thousands of worlds on one device: a policy acts, a learned reward judges, nothing is copied.

The environment is a vector whose actions and observations are torch tensors on the device, such as
``gymnasium.make_vec("robopref.envs:robopref/planar-group-v0", num_envs=4096, device="cuda", tensors=True)``.
Between the first step and the last the host only launches work; it waits for the device once, at the end.

Letters used in shapes: T steps of an episode, B worlds, O observation size, A action size.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from robopref.policies.chunks import ChunkPolicy
from robopref.rewards.ensemble import EnsembleReward


@dataclass(frozen=True)
class Episodes:
    """One episode of every world, on the device.

    Attributes:
        observations: Before every action, and after the last.
        actions: As they were carried out.
        rewards: What the learned reward says of every step; the environment's where there is none.
        own_rewards: The environment's.
        successes: Whether the task was done at the end.
    """

    observations: Float[Tensor, "T+1 B O"]
    actions: Float[Tensor, "T B A"]
    rewards: Float[Tensor, "T B"]
    own_rewards: Float[Tensor, "T B"]
    successes: Bool[Tensor, " B"]


@torch.no_grad()
def collect_on_device(
    envs: Any,
    policy: ChunkPolicy,
    reward: EnsembleReward | None = None,
    *,
    seed: int,
    generator: torch.Generator | None = None,
    deterministic: bool = False,
) -> Episodes:
    """Play one whole episode in every world.

    Args:
        envs: A vector of tensors; its ``horizon`` is T.
        policy: On the same device; all actions of its chunks are carried out before it is asked again.
        reward: On the same device, too.
        seed: World i begins as ``reset(seed=seed + i)`` says.
        generator: Of the policy's chance, on the device.
        deterministic: Take the policy's best action.

    Raises:
        DataError: The reward or the policy is for other sizes.
        ArithmeticError: An action was not finite, or the physics failed.
    """
    observation, info = envs.reset(seed=seed)
    seen, done, own = [observation], [], []
    while len(done) < envs.horizon:
        chunk = policy.act(observation, generator=generator, deterministic=deterministic)
        for action in chunk.clamp(-1, 1).unbind(1)[: envs.horizon - len(done)]:
            observation, earned, *_, info = envs.step(action)
            seen.append(observation)
            done.append(action)
            own.append(earned)
    observations, actions, own_rewards = torch.stack(seen), torch.stack(done), torch.stack(own)
    rewards = own_rewards if reward is None else reward.predict(observations[:-1], actions)[0]
    return Episodes(observations, actions, rewards, own_rewards, info["success"])
