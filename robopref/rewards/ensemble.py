"""What all reward ensembles share: the network, the returns of segments, prediction, and the training step.

A reward model is an ensemble of perceptrons over (normalised observation, action). All members see the same
batches in the same order; they differ by their independently drawn starting weights, and nothing is
bootstrapped. The loss is summed over members, whose parameters are disjoint, so that training them together
equals training each alone (as long as the training loop does not clip the gradient's norm over all of them).

Letters used in shapes: M members, B pairs or lists, S (or B) segments, L steps, O observation size, A action
size.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from robopref.errors import ConfigError, DataError, unknown_name
from robopref.nets.mlp import EnsembleMLP
from robopref.nets.normalise import Normaliser, refuse_not_finite
from robopref.objectives.bradley_terry import preference_logits, preference_loss, sign_accuracy
from robopref.objectives.description import REWARD
from robopref.objectives.gaussian import expected_preference
from robopref.objectives.people import flip_likelihood
from robopref.objectives.reduction import check_takes_ratings, refuse_weights
from robopref.objectives.registry import choose
from robopref.objectives.scores import all_segments, rated
from robopref.objectives.unpaired import nft

BOUNDS = ("tanh", "none")
AGGREGATES = ("sum", "mean")


class RewardEstimate(NamedTuple):
    """What each member thinks of each step."""

    mean: Float[Tensor, "M B L"]
    deviation: Float[Tensor, "M B L"]


class RewardParts(NamedTuple):
    """The reward of steps, and its deviation in two parts."""

    mean: Float[Tensor, "*batch"]
    aleatoric: Float[Tensor, "*batch"]
    epistemic: Float[Tensor, "*batch"]


class EnsembleReward(nn.Module, ABC):
    """A reward of observation and action, learned by M networks from preferences between segments.

    Subclasses say what a network emits at each step (:meth:`estimate`) and how a batch of preferences is
    scored (:meth:`loss`).

    Args:
        observation_size: Values in an observation, O.
        action_size: Values in an action, A; actions are expected in [-1, 1] and enter as they are.
        members: Networks in the ensemble, M.
        hidden: Widths of the hidden layers.
        activation: Between layers; a key of :data:`robopref.nets.mlp.ACTIVATIONS`.
        bound: "tanh" keeps every step's mean reward in (-1, 1), as in PEBBLE; "none" leaves it free.
        aggregate: Reward of a segment: the "sum" over its steps (as a return is; of two segments that differ
            in length, length then matters), or the "mean" over its steps (length is ignored; with "tanh" the
            log-odds then stay within 2, so that no preference is ever predicted above 0.88).
        learning_rate: Step size of Adam.
        floor: Smallest deviation that an observation is divided by.
        clip: Largest magnitude of a normalised observation.
        seed: Of the starting weights.
        objective: Loss of a pair of returns: a name of :mod:`robopref.objectives.registry`, or a mapping with
            ``name`` and options. The default is the Bradley-Terry cross-entropy.
        flip_prob: Chance that a label is the opposite of what was meant, in [0, 0.5); softens the labels. A
            batch that says it pair by pair goes before.
        network: What reads the steps, if it is no perceptron; it knows its ``members``.

    Raises:
        ConfigError: for a value that makes no sense, or an objective that does not fit a reward.
    """

    kind: str
    heads: int

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        *,
        members: int = 3,
        hidden: Sequence[int] = (128, 128),
        activation: str = "leaky_relu",
        bound: str = "tanh",
        aggregate: str = "sum",
        objective: str | Mapping[str, Any] = "dpo",
        flip_prob: float = 0.0,
        learning_rate: float = 3e-4,
        floor: float = 1e-2,
        clip: float = 10.0,
        seed: int = 0,
        network: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if observation_size < 1 or action_size < 0:
            raise ConfigError(f"Sizes must be positive, got {observation_size=} and {action_size=}")
        if not learning_rate > 0:
            raise ConfigError(f"learning_rate must be positive, got {learning_rate}")
        if bound not in BOUNDS:
            raise ConfigError(unknown_name("bound", bound, BOUNDS))
        if aggregate not in AGGREGATES:
            raise ConfigError(unknown_name("aggregate", aggregate, AGGREGATES))
        if not 0 <= flip_prob < 0.5:
            raise ConfigError(f"flip_prob must lie in [0, 0.5), got {flip_prob}")
        self.objective, self.flip_prob = choose(objective, REWARD), flip_prob
        self.config: dict[str, Any] = {
            "observation_size": observation_size,
            "action_size": action_size,
            "members": members,
            "hidden": [int(width) for width in hidden],
            "activation": activation,
            "bound": bound,
            "aggregate": aggregate,
            "learning_rate": learning_rate,
            "floor": floor,
            "clip": clip,
            "seed": seed,
            "objective": self.objective.description(),
            "flip_prob": flip_prob,
        }
        self.observation_size, self.action_size = observation_size, action_size
        self.bound, self.aggregate, self.learning_rate = bound, aggregate, learning_rate
        self.normaliser = Normaliser(observation_size, floor=floor, clip=clip)
        self.network: Any = network or EnsembleMLP(
            members,
            observation_size + action_size,
            self.heads,
            tuple(hidden),
            activation,
            generator=torch.Generator().manual_seed(seed),
        )

    @property
    def members(self) -> int:
        """Networks in the ensemble, M."""
        return self.network.members

    @property
    def loss_name(self) -> str:
        """What the log calls the loss of preferences."""
        name = self.objective.objective.name
        return "cross_entropy" if name == "dpo" else name

    # --- prediction ---------------------------------------------------------------------------------------

    @abstractmethod
    def estimate(self, outputs: Float[Tensor, "M N heads"]) -> tuple[Tensor, Tensor]:
        """Mean and deviation, (M, N) each, from the network's raw outputs at N steps."""

    def forward(
        self, observations: Float[Tensor, "B L O"], actions: Float[Tensor, "B L A"]
    ) -> RewardEstimate:
        """Every member's reward at every step."""
        batch, steps = observations.shape[:2]
        mean, deviation = self._rows(observations.flatten(0, 1), actions.flatten(0, 1))
        return RewardEstimate(mean.unflatten(1, (batch, steps)), deviation.unflatten(1, (batch, steps)))

    def predict(
        self,
        observations: Float[Tensor, "*batch O"],
        actions: Float[Tensor, "*batch A"],
        *,
        batch_size: int = 16384,
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """Reward of single steps: the mean over members, and how uncertain they are together.

        The deviation follows from the law of total variance: the members' mean variance plus the variance of
        their means, the two parts of :meth:`predict_parts`.

        Raises:
            DataError: for a wrong size, or values that are not finite.
        """
        mean, aleatoric, epistemic = self.predict_parts(observations, actions, batch_size=batch_size)
        return mean, (aleatoric.square() + epistemic.square()).sqrt()

    @torch.no_grad()
    def predict_parts(
        self,
        observations: Float[Tensor, "*batch O"],
        actions: Float[Tensor, "*batch A"],
        *,
        batch_size: int = 16384,
    ) -> RewardParts:
        """Reward of single steps, what the members say of its noise, and how far they disagree.

        The aleatoric part, the root of the members' mean variance, is what more labels of the same kind do
        not take away; the epistemic part is the deviation between the members' means. Memory is bounded by
        ``batch_size`` steps at a time.

        Raises:
            DataError: for a wrong size, or values that are not finite.
        """
        shape = observations.shape[:-1]
        observations, actions = steps_of(observations, actions, batch_size)
        empty = observations.new_empty(0)
        found = [(empty, empty, empty)]
        for part, chosen in zip(observations.split(batch_size), actions.split(batch_size), strict=True):
            mean, deviation = self._rows(part, chosen)
            between = (mean - mean.mean(0)).square().mean(0).sqrt()
            found.append((mean.mean(0), deviation.square().mean(0).sqrt(), between))
        return RewardParts(*(torch.cat(parts).reshape(shape) for parts in zip(*found, strict=True)))

    def _rows(
        self, observations: Float[Tensor, "N O"], actions: Float[Tensor, "N A"]
    ) -> tuple[Tensor, Tensor]:
        self.check_sizes(observations, actions)
        mean, deviation = self.estimate(self.network(torch.cat([self.normaliser(observations), actions], -1)))
        return (mean.tanh() if self.bound == "tanh" else mean), deviation

    def check_sizes(self, observations: Tensor, actions: Tensor) -> None:
        """Refuse observations and actions of other sizes."""
        if observations.shape[-1] != self.observation_size or actions.shape[-1] != self.action_size:
            raise DataError(
                f"This reward takes observations of {self.observation_size} and actions of "
                f"{self.action_size} values, got {observations.shape[-1]} and {actions.shape[-1]}"
            )

    # --- segments -----------------------------------------------------------------------------------------

    def segment_return(
        self, rewards: Float[Tensor, "*heads B L"], mask: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "*heads B"]:
        """Reward of each segment: the masked sum (or mean) over its steps."""
        total = torch.where(mask, rewards, 0.0).sum(-1)
        return total if self.aggregate == "sum" else total / mask.sum(-1).clamp(min=1)

    def segment_variance(
        self, deviation: Float[Tensor, "*heads B L"], mask: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "*heads B"]:
        """Variance of :meth:`segment_return` when steps err independently."""
        total = torch.where(mask, deviation.square(), 0.0).sum(-1)
        return total if self.aggregate == "sum" else total / mask.sum(-1).clamp(min=1).square()

    def estimate_batch(self, batch: Mapping[str, Tensor]) -> tuple[RewardEstimate, Bool[Tensor, "S L"]]:
        """Estimates of all segments of a batch of pairs or lists, from one pass, and which steps count."""
        observations, actions, mask = self.rows_of(batch)
        return self(observations, actions), mask

    @staticmethod
    def rows_of(batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Observations, actions and mask of all segments of a batch, one after the other."""
        return all_segments(batch)

    def estimate_pair(self, batch: Mapping[str, Tensor]) -> tuple[RewardEstimate, RewardEstimate]:
        """Estimates of both segments of each pair, from one pass through the network."""
        both, pairs = self.estimate_batch(batch)[0], len(batch["observations_a"])
        first = RewardEstimate(both.mean[:, :pairs], both.deviation[:, :pairs])
        return first, RewardEstimate(both.mean[:, pairs:], both.deviation[:, pairs:])

    def segment_scores(
        self,
        observations: Float[Tensor, "B L O"],
        actions: Float[Tensor, "B L A"],
        mask: Bool[Tensor, "B L"],
    ) -> tuple[Float[Tensor, "M B"], Float[Tensor, "M B"]]:
        """Return and variance of each segment, by each member."""
        estimate = self(observations, actions)
        return self.segment_return(estimate.mean, mask), self.segment_variance(estimate.deviation, mask)

    @torch.no_grad()
    def preference_probability(self, batch: Mapping[str, Tensor]) -> Float[Tensor, " B"]:
        """Chance that ``a`` is preferred: each member's own, averaged over members."""
        returns, variances = self.segment_scores(*self.rows_of(batch))
        lead, variance = preference_logits(*returns.chunk(2, -1)), torch.add(*variances.chunk(2, -1))
        return expected_preference(lead, variance).mean(0)

    def batch_losses(
        self, returns: Float[Tensor, "*heads S"], batch: Mapping[str, Tensor]
    ) -> Float[Tensor, "*heads"]:
        """The objective's loss, averaged over pairs or lists by their weights, for every member (and sample).

        Args:
            returns: Of all segments, in the order of :meth:`estimate_batch`.
            batch: Their labels and weights.

        Raises:
            DataError: The objective learns from something else than the batch holds.
        """
        labels, weights = batch["labels"], batch["weights"]
        objective = self.objective.objective
        if rated(batch):
            return _weighed(self._single_losses(returns, labels), weights)
        if "items" not in batch:
            first, second = returns.chunk(2, -1)
            return self.pair_losses(first, second, batch)
        if objective.labels != "lists":
            raise DataError(f"{objective.name} learns from {objective.labels}, and got lists.")
        heads, size = returns.shape[:-1], labels.shape[-1]
        scores = returns.reshape(*heads, -1, size)
        count = scores.shape[:-1].numel() // len(labels)
        losses = self.objective(
            scores.reshape(-1, size), labels.repeat(count, 1), batch["items"].repeat(count, 1)
        )
        return _weighed(losses.reshape(*heads, -1), weights)

    def pair_losses(
        self,
        return_a: Float[Tensor, "*heads B"],
        return_b: Float[Tensor, "*heads B"],
        batch: Mapping[str, Tensor],
    ) -> Float[Tensor, "*heads"]:
        """The objective's loss, averaged over pairs by their weights, for every member (and sample).

        Where the batch says how likely each label was reversed, cross-entropy becomes the likelihood of the
        label under reversals (:func:`robopref.objectives.people.flip_likelihood`): a pair of an annotator who
        errs often pulls less, and less still where it is far wrong. Other objectives get softened labels.
        """
        labels, weights = batch["labels"], batch["weights"]
        objective, flip = self.objective.objective, batch.get("flip_prob")
        if flip is not None and objective.name == "dpo":
            expanded = labels.expand_as(return_a)
            return _weighed(flip_likelihood(return_a, return_b, expanded, flip_prob=flip), weights)
        if objective.name == "dpo":  # one pass
            logits = preference_logits(return_a, return_b)
            return preference_loss(logits, labels, weights=weights, flip_prob=self.flip_prob)
        if objective.labels == "lists":  # of two
            if flip is not None:
                raise ConfigError(
                    f"{objective.name} learns from lists, and knows nothing of annotators' noise."
                )
            both = torch.stack([return_a, return_b], -1).flatten(-2)
            grades = torch.stack([labels, 1 - labels], -1)
            listed = {
                "labels": grades,
                "items": torch.ones_like(grades, dtype=torch.bool),
                "weights": weights,
            }
            return self.batch_losses(both, listed)
        if not objective.per_pair:
            refuse_weights(objective, weights)
        flip = self.flip_prob if flip is None else flip
        targets = labels * (1 - flip) + (1 - labels) * flip
        if objective.labels == "up/down":
            both = torch.cat([return_a, return_b], -1)
            singles = self._single_losses(both, torch.cat([targets, 1 - targets], -1))
            return _weighed(singles.unflatten(-1, (2, -1)).mean(-2), weights)
        return _weighed(self.objective(return_a, return_b, targets.expand_as(return_a)), weights)

    def _single_losses(
        self, returns: Float[Tensor, "*heads S"], chances: Float[Tensor, " S"]
    ) -> Float[Tensor, "*heads S"]:
        """Losses of segments that were good or bad by themselves; baselines are each member's own."""
        objective = self.objective.objective
        loss = self.objective if objective.labels == "up/down" else nft
        if loss is nft:
            check_takes_ratings(objective)
        rows = returns.reshape(-1, returns.shape[-1])
        return torch.stack([loss(row, chances) for row in rows]).reshape(returns.shape)

    def accuracy(self, returns: Float[Tensor, "M S"], batch: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """Share of untied pairs, also of those within lists, that the returns order as the labels do."""
        if not rated(batch) and "items" not in batch:
            first, second = returns.chunk(2, -1)
            return sign_accuracy(first - second, batch["labels"])
        grades = batch["labels"][None] if rated(batch) else batch["labels"]  # ratings are one long list
        items = batch.get("items", torch.ones_like(grades, dtype=torch.bool))
        ordered = (grades[:, :, None] > grades[:, None, :]) & items[:, :, None] & items[:, None, :]
        scores = returns.reshape(len(returns), *grades.shape)
        right = (scores[..., :, None] > scores[..., None, :]) & ordered
        return right.sum() / (ordered.sum() * len(returns)).clamp(min=1)

    # --- what the training loop asks for ------------------------------------------------------------------

    @abstractmethod
    def loss(
        self, batch: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Loss of a preference batch, summed over members, and numbers worth logging (means over members)."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimiser shall move, and how fast."""
        return [{"params": list(self.network.parameters()), "lr": self.learning_rate}]

    def after_step(self) -> None:
        """Nothing follows an optimiser step."""

    def fit_normaliser(self, observations: Float[Tensor, "N O"]) -> None:
        """Take mean and deviation of the observations; they are saved with the reward."""
        self.normaliser.fit(observations)


def steps_of(
    observations: Float[Tensor, "*batch O"], actions: Float[Tensor, "*batch A"], batch_size: int
) -> tuple[Float[Tensor, "N O"], Float[Tensor, "N A"]]:
    """All steps that rewards shall be predicted of, one after the other.

    Raises:
        ConfigError: There is no room for a single one.
        DataError: Observations and actions do not belong together, or hold NaN or infinity.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    if observations.shape[:-1] != actions.shape[:-1]:
        raise DataError(
            f"Observations and actions must agree in all axes but the last, got "
            f"{tuple(observations.shape)} and {tuple(actions.shape)}"
        )
    count = observations.shape[:-1].numel()
    rows = observations.reshape(count, observations.shape[-1]), actions.reshape(count, actions.shape[-1])
    for name, values in zip(("observations", "actions"), rows, strict=True):
        refuse_not_finite(name, values)
    return rows


def _weighed(losses: Float[Tensor, "*heads B"], weights: Float[Tensor, " B"]) -> Float[Tensor, "*heads"]:
    return (losses * weights).sum(-1) / weights.sum().clamp(min=1e-12)
