"""RAPL's reward of camera frames: optimal transport to demonstrations, in a space that preferences align.

RAPL (Tian et al. 2023, arXiv 2310.07932; 2024, arXiv 2412.04835) spends preferences on the representation
alone: a frozen encoder, a small head on it, and the distance of a video to demonstrations by optimal
transport in the head's space. A preference a > b says d(a, demonstration) < d(b, demonstration), through
Bradley-Terry or another objective of pairs.

The transport cost that a frame pays tells little about progress (a coupling spreads every video over the
whole demonstration), so a reward of single steps is learned from it: pairs of *unlabelled* videos are ordered
by their transport scores, and a small ensemble over (aligned features, progress, nearness) learns a reward
whose sum explains these orders.

Letters used in shapes: B videos, F frames of the longest, d features, K demonstrations, G frames of their
longest.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from robopref.alignment.sequences import (
    context_cost,
    cosine_cost,
    present,
    sinkhorn,
    soft_progress,
    step_costs,
    temporal_cost,
    uniform_mass,
)
from robopref.errors import ConfigError, DataError, unknown_name
from robopref.nets.vision import FrameEncoder
from robopref.objectives.bradley_terry import preference_loss, sign_accuracy
from robopref.objectives.description import REWARD
from robopref.objectives.reduction import reduce_losses, refuse_weights
from robopref.objectives.registry import choose
from robopref.rewards.bradley_terry import BradleyTerryReward
from robopref.rewards.visual import FrameReward

STEPS = ("blended", "learned", "progress", "transport")
PLANS = ("detached", "unrolled")
SPREAD_KEPT = 0.1  # of the raw features' spread; below it all frames look alike
ACCURACY_KEPT = 0.7  # on the preferences that were learned from; lower went with failure where measured


class ResidualHead(nn.Module):
    """x + W2 relu(W1 x): begins as the identity, since W2 begins as zero."""

    def __init__(self, width: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, hidden), nn.Linear(hidden, width)
        with torch.no_grad():
            self.inner.weight.copy_(torch.randn(hidden, width, generator=generator) / width**0.5)
            self.inner.bias.zero_()
            self.outer.weight.zero_()
            self.outer.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Move each feature vector a little."""
        return x + self.outer(torch.relu(self.inner(x)))


class TransportReward(FrameReward):
    """RAPL: minus the transport distance to the nearest demonstration, in a space that preferences align.

    The features are standardised by the spread of all of them together, so that ``epsilon`` and the size of
    the head's steps mean the same for every encoder.

    Args:
        encoder: Settings, or a fitted encoder.
        demonstrations: K, how many videos :meth:`set_demonstrations` will be given.
        frames: G, their most frames.
        hidden: Width of the residual head; 0 leaves the features as they are.
        epsilon: Weight of the entropy in the plan, in units of the cosine cost.
        temperature: Distance that makes the odds of a preference e : 1.
        sweeps: Of Sinkhorn's algorithm.
        plan: "detached" takes the plan as a constant in the gradient, "unrolled" goes through all sweeps.
        time_weight: Weight of the difference in relative time in the cost.
        window: Frames over which the cost looks ahead (TemporalOT); 1 for none.
        step_reward: "learned" (see the module), "progress" (along the demonstrations, times nearness), their
            standardised sum "blended", or "transport" (minus what the frame pays, as in ROT).
        step_hidden: Widths of the step reward's network.
        objective: Loss of a pair of distances, less than zero and in units of ``temperature``: a name of
            :mod:`robopref.objectives.registry` that takes pairs, or a mapping with ``name`` and options.
        learning_rate: Step size of Adam on the head.
        stay: Weight of the head's mean squared change of the features, which keeps it near the identity.
        seed: Of the starting weights.

    Raises:
        ConfigError: An option makes no sense, or the objective learns from something else than pairs.
    """

    kind = "transport"
    demonstrations: Tensor
    demonstration_lengths: Tensor
    mean: Tensor
    scale: Tensor
    step_scales: Tensor

    def __init__(
        self,
        encoder: Mapping[str, Any] | FrameEncoder,
        *,
        demonstrations: int = 1,
        frames: int = 2,
        hidden: int = 64,
        epsilon: float = 0.05,
        temperature: float = 0.05,
        sweeps: int = 30,
        plan: str = "detached",
        time_weight: float = 0.0,
        window: int = 1,
        step_reward: str = "blended",
        step_hidden: int = 32,
        objective: str | Mapping[str, Any] = "dpo",
        learning_rate: float = 3e-3,
        stay: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(encoder)
        for name, value, choices in (("plan", plan, PLANS), ("step_reward", step_reward, STEPS)):
            if value not in choices:
                raise ConfigError(unknown_name(name, value, choices))
        if not (epsilon > 0 and temperature > 0 and learning_rate > 0 and stay >= 0 and time_weight >= 0):
            raise ConfigError(
                "epsilon, temperature and learning_rate must be positive, stay and time_weight not negative, "
                f"got {epsilon}, {temperature}, {learning_rate}, {stay} and {time_weight}"
            )
        if min(demonstrations, frames, sweeps, window, step_hidden) < 1 or hidden < 0:
            raise ConfigError("demonstrations, frames, sweeps, window and step_hidden must be at least 1")
        self.objective = choose(objective, REWARD)
        taken = self.objective.objective
        if "pairs" not in taken.labels:
            raise ConfigError(
                f"{taken.name} learns from {taken.labels}, and videos are compared in pairs here"
            )
        self.config = {
            "encoder": self.encoder_settings,
            "demonstrations": demonstrations,
            "frames": frames,
            "hidden": hidden,
            "epsilon": epsilon,
            "temperature": temperature,
            "sweeps": sweeps,
            "plan": plan,
            "time_weight": time_weight,
            "window": window,
            "step_reward": step_reward,
            "step_hidden": step_hidden,
            "objective": self.objective.description(),
            "learning_rate": learning_rate,
            "stay": stay,
            "seed": seed,
        }
        self.epsilon, self.temperature, self.sweeps, self.plan = epsilon, temperature, sweeps, plan
        self.time_weight, self.window, self.step_reward = time_weight, window, step_reward
        self.learning_rate, self.stay = learning_rate, stay
        width = self.encoder.width
        generator = torch.Generator().manual_seed(seed)
        self.head = ResidualHead(width, hidden, generator) if hidden else nn.Identity()
        self.step_network = BradleyTerryReward(
            width + 2, 0, hidden=(step_hidden, step_hidden), learning_rate=1e-3, seed=seed
        )
        self.register_buffer("demonstrations", torch.zeros(demonstrations, frames, width))
        self.register_buffer("demonstration_lengths", torch.zeros(demonstrations, dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("step_scales", torch.tensor([[0.0, 1.0], [0.0, 1.0]]))  # mean, deviation

    # -- what it is given ----------------------------------------------------------------------------------

    @torch.no_grad()
    def set_demonstrations(
        self, features: Float[Tensor, "K G d"], lengths: Int[Tensor, " K"], pool: Float[Tensor, "n d"]
    ) -> None:
        """Keep the demonstrations' features, and the mean and spread of a pool of frames.

        Raises:
            DataError: Their number or size is not what the reward was built for, or all frames are alike.
        """
        if features.shape != self.demonstrations.shape:
            raise DataError(
                f"This reward was built for demonstrations of shape {tuple(self.demonstrations.shape)}, got "
                f"{tuple(features.shape)}"
            )
        spread = (pool - pool.mean(0)).square().sum(1).mean().sqrt()
        if not float(spread) > 0:
            raise DataError("All frames have the same features: they are black, or the encoder sees nothing")
        self.demonstrations.copy_(features)
        self.demonstration_lengths.copy_(lengths)
        self.mean.copy_(pool.mean(0))
        self.scale.copy_(spread / pool.shape[1] ** 0.5)

    def aligned(self, features: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """The space in which videos are compared."""
        if features.shape[-1] != self.mean.shape[0]:
            raise DataError(
                f"This reward was learned on {self.mean.shape[0]} features of a frame, got "
                f"{features.shape[-1]}: "
                "the encoder's width changed"
            )
        return self.head((features - self.mean) / self.scale)

    # -- distances -----------------------------------------------------------------------------------------

    def match(
        self,
        a: Float[Tensor, "B F d"],
        lengths_a: Int[Tensor, " B"],
        b: Float[Tensor, "B G _"],
        lengths_b: Int[Tensor, " B"],
    ) -> tuple[Float[Tensor, "B F G"], Float[Tensor, "B F G"]]:
        """Costs and plans between pairs of videos, from their features."""
        cost = cosine_cost(self.aligned(a), self.aligned(b))
        n, m = cost.shape[1:]
        if self.time_weight:
            cost = cost + self.time_weight * temporal_cost(lengths_a, lengths_b, n, m)
        if self.window > 1:
            cost = context_cost(cost, self.window)
        plan = sinkhorn(
            cost,
            self.epsilon,
            mass_a=uniform_mass(lengths_a, n),
            mass_b=uniform_mass(lengths_b, m),
            iterations=self.sweeps,
            unrolled=self.plan == "unrolled" and torch.is_grad_enabled(),
        )
        return cost, plan

    def distance(
        self,
        a: Float[Tensor, "B F d"],
        lengths_a: Int[Tensor, " B"],
        b: Float[Tensor, "B G d"],
        lengths_b: Int[Tensor, " B"],
    ) -> Float[Tensor, " B"]:
        """<C, P> between pairs of videos."""
        cost, plan = self.match(a, lengths_a, b, lengths_b)
        return step_costs(cost, plan).sum(1)

    def to_demonstrations(
        self, features: Float[Tensor, "B F d"], lengths: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B K F G"], Float[Tensor, "B K F G"]]:
        """Costs and plans between videos and all demonstrations."""
        count = len(self.demonstrations)
        cost, plan = self.match(
            features.repeat_interleave(count, 0),
            lengths.repeat_interleave(count),
            self.demonstrations.repeat(len(features), 1, 1),
            self.demonstration_lengths.repeat(len(features)),
        )
        return cost.unflatten(0, (-1, count)), plan.unflatten(0, (-1, count))

    def score(self, features: Float[Tensor, "B F d"], lengths: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Minus the distance to the nearest demonstration."""
        cost, plan = self.to_demonstrations(features, lengths)
        return -(cost * plan).sum((2, 3)).min(1).values

    # -- single steps --------------------------------------------------------------------------------------

    def steps(self, features: Float[Tensor, "B F d"], lengths: Int[Tensor, " B"]) -> Float[Tensor, "B F"]:
        """Reward of each frame, by the way that ``step_reward`` names."""
        if self.step_reward == "transport":
            cost, plan = self.to_demonstrations(features, lengths)
            paid = (cost * plan).sum(3)
            nearest = paid.sum(2).argmin(1)
            return -paid[torch.arange(len(paid), device=paid.device), nearest]
        seen = self.step_inputs(features)
        if self.step_reward == "blended":
            (shift_a, scale_a), (shift_b, scale_b) = self.step_scales.tolist()
            return (_progress(seen) - shift_a) / scale_a + (self._learned(seen) - shift_b) / scale_b
        return _progress(seen) if self.step_reward == "progress" else self._learned(seen)

    def _learned(self, seen: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
        return self.step_network.predict(seen, seen[..., :0])[0]

    @torch.no_grad()
    def fit_step_scales(self, seen: Float[Tensor, "n d"]) -> None:
        """Take mean and deviation of both parts of the blended step reward over many frames."""
        for row, values in zip(self.step_scales, (_progress(seen), self._learned(seen)), strict=True):
            row.copy_(torch.stack([values.mean(), values.std().clamp(min=1e-6)]))

    def step_inputs(self, features: Float[Tensor, "B F d"]) -> Float[Tensor, "B F d2"]:
        """What the step reward sees of a frame: aligned features, progress and nearness; no other frame."""
        aligned = self.aligned(features)
        count, longest = self.demonstrations.shape[:2]
        bank = self.aligned(self.demonstrations).reshape(1, count * longest, -1)
        last = (self.demonstration_lengths[:, None] - 1).clamp(min=1)
        times = torch.arange(longest, device=bank.device) / last
        there = present(self.demonstration_lengths, longest).reshape(1, -1).expand(len(aligned), -1)
        cost = cosine_cost(aligned, bank.expand(len(aligned), -1, -1))
        progress, nearness = soft_progress(
            cost, times.reshape(-1), temperature=self.epsilon, mass_b=there.to(cost.dtype)
        )
        return torch.cat([aligned, progress[..., None], nearness[..., None]], -1)

    # -- what the training loop asks for -------------------------------------------------------------------

    def loss(
        self, batch: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The objective of the preferences, anchored to demonstrations or, if there is one, a third video."""
        a, b = (batch["features_a"], batch["lengths_a"]), (batch["features_b"], batch["lengths_b"])
        if "features_anchor" in batch:
            anchor = batch["features_anchor"], batch["lengths_anchor"]
            first, second = -self.distance(*a, *anchor), -self.distance(*b, *anchor)
        else:
            scores = self.score(torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]]))
            first, second = scores.chunk(2)
        logits = (first - second) / self.temperature
        loss = self._of_pairs(first / self.temperature, second / self.temperature, logits, batch)
        name = self.objective.objective.name
        logged = {
            "cross_entropy" if name == "dpo" else name: loss.detach(),
            "accuracy": sign_accuracy(logits, batch["labels"]),
        }
        if self.stay > 0:
            raw = (a[0] - self.mean) / self.scale
            moved = (self.head(raw) - raw).square().mean()
            logged["moved"] = moved.detach()
            loss = loss + self.stay * moved
        return loss, logged

    def _of_pairs(
        self, first: Tensor, second: Tensor, logits: Tensor, batch: Mapping[str, Tensor]
    ) -> Float[Tensor, ""]:
        labels, weights = batch["labels"], batch["weights"]
        if self.objective.objective.name == "dpo":  # one pass
            return preference_loss(logits, labels, weights=weights)
        if not self.objective.objective.per_pair:
            refuse_weights(self.objective.objective, weights)
        return reduce_losses(self.objective(first, second, labels), weights)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The head alone; the step reward is trained afterwards, as a learner of its own."""
        return [{"params": list(self.head.parameters()), "lr": self.learning_rate}]

    def after_step(self) -> None:
        """Nothing follows an optimiser step."""

    @torch.no_grad()
    def alarm(self, batch: Mapping[str, Tensor]) -> dict[str, Any]:
        """Say whether the alignment collapsed, on the preferences that it was learned from.

        Returns:
            ``collapsed``, ``reason`` (empty where it did not), ``accuracy`` and ``spread`` (of the aligned
            features, as a share of the raw ones').
        """
        _, logged = self.loss(batch)
        raw = ((batch["features_a"] - self.mean) / self.scale).flatten(0, 1)
        moved = self.head(raw)
        spread = float(_angular_spread(moved) / _angular_spread(raw).clamp(min=1e-9))
        accuracy = float(logged["accuracy"])
        reason = ""
        if accuracy < ACCURACY_KEPT:
            reason = f"only {accuracy:.0%} of the preferences that were learned from are ordered right"
        if spread < SPREAD_KEPT:
            reason = f"the aligned features keep {spread:.0%} of the spread of the raw ones"
        return {"collapsed": bool(reason), "reason": reason, "accuracy": accuracy, "spread": spread}


def _progress(seen: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """Progress along the demonstrations times nearness to them, in [0, 1] where costs are at most 1."""
    return seen[..., -2] * (1 - seen[..., -1])


def _angular_spread(x: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Mean of 1 - cos over all pairs: 1 - |mean direction|^2."""
    return 1 - (x / x.norm(dim=1, keepdim=True).clamp(min=1e-6)).mean(0).square().sum()
