"""The preference transformer: what a step is worth depends on what came before it, and so does its weight.

Kim et al. 2023, "Preference Transformer: Modeling Human Preferences using Transformers for RL" (ICLR, arXiv
2303.00957). A causal transformer reads the steps of a segment and gives each a reward r_t that knows the
steps up to t. One more layer of attention, which sees the whole segment, says how much each step counts: with
keys k, queries q and L steps,

    w_t = 1/L sum_i softmax_t(q_i . k_t / sqrt(F)),      R = L sum_t w_t r_t

so that even weights give the plain sum. (The paper's R is the weighted mean; ``aggregate="mean"`` is that.)
Weights judge segments only: a policy is given r_t, as in the paper.

Letters used in shapes: M members, B segments, L steps, O observation size, A action size, F features of a
step, H steps of a context, T steps of an episode.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from robopref.errors import ConfigError, DataError
from robopref.nets.seeded import weights_from
from robopref.nets.transformer import Transformer
from robopref.rewards.bradley_terry import BradleyTerryReward
from robopref.rewards.ensemble import RewardEstimate, RewardParts, steps_of


class _Reader(nn.Module):
    """One member: steps to rewards, and to how much each counts."""

    def __init__(self, inputs: int, width: int, layers: int, heads: int, context: int) -> None:
        super().__init__()
        self.embed, self.position = nn.Linear(inputs, width), nn.Embedding(context, width)
        self.transformer = Transformer(width, layers=layers, heads=heads, causal=True)
        self.reward = nn.Linear(width, 1)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)

    def features(self, steps: Float[Tensor, "B L I"]) -> Float[Tensor, "B L F"]:
        places = torch.arange(steps.shape[1], device=steps.device)
        return self.transformer(self.embed(steps) + self.position(places))

    def weights(self, seen: Float[Tensor, "B L F"], mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        """L w_t: their mean over the steps of a segment is 1."""
        scores = self.query(seen) @ self.key(seen).transpose(1, 2) / math.sqrt(seen.shape[-1])
        looks = torch.softmax(scores.masked_fill(~mask[:, None], -torch.inf), -1)
        return (looks * mask[..., None]).sum(1)


class _Readers(nn.Module):
    def __init__(self, members: int, seed: int, *sizes: int) -> None:
        super().__init__()
        with weights_from(seed):
            self.readers = nn.ModuleList(_Reader(*sizes) for _ in range(members))

    @property
    def members(self) -> int:
        return len(self.readers)


class PreferenceTransformer(BradleyTerryReward):
    """A reward of a step and what came before it.

    Args:
        observation_size: Values in an observation.
        action_size: Values in an action.
        members: Transformers in the ensemble.
        width: Features of a step, F.
        layers: Causal layers.
        attention_heads: They share the width evenly.
        context: Most steps that are looked at together, H. A longer segment is refused; of a longer episode
            each step is judged by the last H.

    The other arguments are described in :class:`~robopref.rewards.ensemble.EnsembleReward`.

    Raises:
        ConfigError: for a value that makes no sense.
    """

    kind = "transformer"

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        *,
        members: int = 1,
        width: int = 64,
        layers: int = 1,
        attention_heads: int = 4,
        context: int = 256,
        bound: str = "tanh",
        aggregate: str = "sum",
        objective: str | Mapping[str, Any] = "dpo",
        flip_prob: float = 0.0,
        learning_rate: float = 3e-4,
        floor: float = 1e-2,
        clip: float = 10.0,
        seed: int = 0,
    ) -> None:
        if context < 1 or members < 1:
            raise ConfigError(f"context and members must be at least 1, got {context} and {members}")
        inputs = observation_size + action_size
        super().__init__(
            observation_size,
            action_size,
            members=members,
            bound=bound,
            aggregate=aggregate,
            learning_rate=learning_rate,
            floor=floor,
            clip=clip,
            seed=seed,
            objective=objective,
            flip_prob=flip_prob,
            network=_Readers(members, seed, inputs, width, layers, attention_heads, context),
        )
        self.context = context
        for name in ("hidden", "activation"):
            del self.config[name]
        self.config |= {
            "width": width,
            "layers": layers,
            "attention_heads": attention_heads,
            "context": context,
        }

    def forward(
        self, observations: Float[Tensor, "B L O"], actions: Float[Tensor, "B L A"]
    ) -> RewardEstimate:
        """Every member's causal reward r_t of segments that begin at their first step."""
        return self._estimate(observations, actions, None)

    def estimate_batch(self, batch: Mapping[str, Tensor]) -> tuple[RewardEstimate, Bool[Tensor, "S L"]]:
        """Weighed rewards L w_t r_t of all segments of a batch, and which steps count."""
        observations, actions, mask = self.rows_of(batch)
        return self._estimate(observations, actions, mask), mask

    def segment_scores(
        self,
        observations: Float[Tensor, "B L O"],
        actions: Float[Tensor, "B L A"],
        mask: Bool[Tensor, "B L"],
    ) -> tuple[Float[Tensor, "M B"], Float[Tensor, "M B"]]:
        """Weighed return of each segment, by each member, and no variance."""
        returns = self.segment_return(self._estimate(observations, actions, mask).mean, mask)
        return returns, torch.zeros_like(returns)

    @torch.no_grad()
    def predict_parts(
        self,
        observations: Float[Tensor, "*batch O"],
        actions: Float[Tensor, "*batch A"],
        *,
        batch_size: int = 16384,
    ) -> RewardParts:
        """Reward of steps in their order: the axis before the last is time, and begins an episode.

        A single step is an episode of its own. Other arguments as of
        :meth:`~robopref.rewards.ensemble.EnsembleReward.predict_parts`.
        """
        shape = observations.shape[:-1]
        steps = shape[-1] if shape else 1
        rows = steps_of(observations, actions, batch_size)
        episodes = [values.reshape(-1, steps, values.shape[-1]) for values in rows]
        found = [
            self._episode(o, a, max(1, batch_size // self.context)) for o, a in zip(*episodes, strict=True)
        ]
        means = torch.stack(found, 1) if found else observations.new_empty(self.members, 0)
        between = (means - means.mean(0)).square().mean(0).sqrt()
        return RewardParts(means.mean(0).reshape(shape), torch.zeros(shape).to(means), between.reshape(shape))

    def _episode(
        self, observations: Float[Tensor, "T O"], actions: Float[Tensor, "T A"], windows: int
    ) -> Float[Tensor, "M T"]:
        """r_t of one episode: the first H steps in one pass, later ones each at the end of its window."""
        context = self.context
        found = [self(observations[None, :context], actions[None, :context]).mean[:, 0]]
        ends = torch.arange(context, max(context, len(observations)), device=observations.device)
        for part in ends.split(windows) if len(ends) else ():
            rows = part[:, None] - torch.arange(context - 1, -1, -1, device=part.device)
            found.append(self(observations[rows], actions[rows]).mean[:, :, -1])
        return torch.cat(found, 1)

    def _estimate(self, observations: Tensor, actions: Tensor, mask: Tensor | None) -> RewardEstimate:
        if observations.shape[1] > self.context:
            raise DataError(
                f"A segment of {observations.shape[1]} steps is longer than the context of {self.context}; "
                "make the reward with a larger context."
            )
        self.check_sizes(observations, actions)
        steps = torch.cat([self.normaliser(observations), actions], -1)
        means = []
        for reader in self.network.readers:  # pyright: ignore[reportGeneralTypeIssues]
            seen = reader.features(steps)
            reward = reader.reward(seen).squeeze(-1)
            reward = reward.tanh() if self.bound == "tanh" else reward
            means.append(reward if mask is None else reward * reader.weights(seen, mask))
        mean = torch.stack(means)
        return RewardEstimate(mean, torch.zeros_like(mean))

    def _rows(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        raise ConfigError(
            "A preference transformer judges a step by those before it; single rows say too little. "
            "Use a reward of single steps here (reward=bradley_terry, reward=gaussian)."
        )
