"""An objective over segments of a policy: from what is known of every step to one loss.

Which family the policy is of does not matter here. A step is one action of a Gaussian policy, one chunk of a
diffusion or flow policy, or one action of a token policy, and what is known of it is its log-probability (or
the surrogate that stands for it), the same under the frozen reference, and the divergence of the two, where
that has a closed form.

Letters used in shapes: B pairs or lists, K segments in each (2 in a pair), S segments in a batch, L steps of
the longest segment.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from robopref.errors import ConfigError, DataError, unknown_name
from robopref.objectives.checks import check_labels
from robopref.objectives.description import SINGLE
from robopref.objectives.diffusion import anchor
from robopref.objectives.reduction import check_takes_ratings, refuse_weights
from robopref.objectives.registry import choose
from robopref.objectives.scores import REDUCTIONS, log_ratio, over_steps, rated
from robopref.objectives.tokens import surprise_gates
from robopref.objectives.unpaired import nft

BETA = 0.1  # where neither the configuration nor the objective says
ESTIMATES = {"kto": "baseline", "bco": "shift"}  # what the training estimates, by the option it is given as
ADVANTAGES = ("awr", "ac_flow")  # take rewards less their mean over the training so far


class Steps(NamedTuple):
    """What is known of every step or token of some segments, padding included; ``numbers`` make a step.

    ``drift`` is how far the predictions of a surrogate and its reference lie apart, in mean squares.
    """

    log_prob: Float[Tensor, "S L"]
    reference: Float[Tensor, "S L"]
    kl: Float[Tensor, "S L"] | None
    mask: Bool[Tensor, "S L"]
    numbers: int = 1
    drift: Float[Tensor, "S L"] | None = None


class PreferenceLoss(nn.Module):
    """An objective with its scale, and the baselines that some objectives estimate while they train.

    Args:
        objective: A name of the registry, or a mapping with ``name`` and options.
        learner: Who is trained: ``POLICY`` or another of :mod:`robopref.objectives.description`.
        beta: Scale of the scores. None takes the objective's own, or ``usual_beta``.
        usual_beta: Of this learner's scores.
        reduce: ``sum`` or ``mean`` over steps; None leaves it to the objective.
        discount: gamma in (0, 1]: the score of step t counts gamma^t.
        reference_power: gamma of the objective ``dpo_gamma``.
        imitation_weight: Of the preferred segment's negative log-likelihood per step, added to any objective.

    Raises:
        ConfigError: A value makes no sense, or the objective does not fit the learner; it says why.
    """

    baseline: Tensor
    baseline_batches: Tensor

    def __init__(
        self,
        objective: str | Mapping[str, Any],
        learner: str,
        *,
        beta: float | None = None,
        usual_beta: float = BETA,
        reduce: str | None = None,
        discount: float = 1.0,
        reference_power: float = 0.5,
        imitation_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if beta is not None and not 0 < beta < math.inf:
            raise ConfigError(f"beta must be positive and finite (null: the objective's own), got {beta}")
        if reduce is not None and reduce not in REDUCTIONS:
            raise ConfigError(unknown_name("reduction", reduce, REDUCTIONS))
        if not 0 < discount <= 1:
            raise ConfigError(f"discount must lie in (0, 1], got {discount}")
        for name, value in (("reference_power", reference_power), ("imitation_weight", imitation_weight)):
            if not 0 <= value < math.inf:
                raise ConfigError(f"{name} must not be negative or infinite, got {value}")
        self.chosen = choose(objective, learner)
        if "beta" in self.chosen.settings:
            raise ConfigError("The beta of a policy's objective is policy.beta, not objective.beta.")
        self.objective = self.chosen.objective
        own = self.objective.options().get("beta", BETA)
        # Its own is for likelihoods; that of a mean squared error is as many times larger as the usual one.
        own *= 1 if "error" in self.objective.score else usual_beta / BETA
        self.beta = beta or (own if self.objective.scales else usual_beta)
        if self.objective.extra == "steps" and reduce == "mean":
            raise ConfigError(
                f"{self.objective.name} gates every step and sums them: reduce=mean does not fit it"
            )
        self.reduce = reduce or ("mean" if "mean" in self.objective.score else "sum")
        self.discount, self.reference_power = discount, reference_power
        self.imitation_weight = imitation_weight
        self.register_buffer("baseline", torch.tensor(0.0))  # mean score or reward so far
        self.register_buffer("baseline_batches", torch.tensor(0.0))

    def scores(self, steps: Steps) -> Float[Tensor, " S"]:
        """One number per segment, as the objective wants it."""
        log_prob, reference = self._discounted(steps)
        if "likelihood" in self.objective.score:
            values = over_steps(log_prob, steps.mask, reduce=self.reduce)
        else:
            power = self.reference_power if self.objective.score == "power" else 1.0
            values = log_ratio(log_prob, reference, steps.mask, reduce=self.reduce, reference_power=power)
        return values if self.objective.scales else self.beta * values

    def _discounted(self, steps: Steps) -> tuple[Float[Tensor, "S L"], Float[Tensor, "S L"]]:
        log_prob, reference = steps.log_prob, steps.reference
        if self.discount < 1:
            time = torch.arange(log_prob.shape[1], device=log_prob.device) // steps.numbers
            log_prob, reference = (x * self.discount**time for x in (log_prob, reference))
        return log_prob, reference

    def forward(
        self, steps: Steps, batch: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The objective's loss, weighed over pairs or lists, and how chosen and rejected actions fare.

        Args:
            steps: Of all segments of the batch, as :func:`robopref.objectives.scores.in_one_row` orders them.
            batch: ``weights`` (B,), and ``labels``: of pairs (B,) the chance that the first is preferred; of
                lists (B, K) grades of any scale, with ``items`` (B, K), False where a list is shorter; of
                segments that were judged one by one, with one ``mask`` for all, (B,) the chance of good. An
                objective of pairs takes the cross-entropy of these (UnifiedReward,
                :func:`robopref.objectives.pairs.with_ratings`).

        Raises:
            DataError: The objective learns from something else than the batch holds, or a label lies
                outside [0, 1].
        """
        compared = Compared.of(batch)
        scores = compared.rows(self.scores(steps))
        imitation = -over_steps(steps.log_prob, steps.mask, reduce="mean")
        if self.objective.labels == "lists":
            losses = self.chosen(scores, compared.grades, compared.items)
        elif "items" in batch:
            raise DataError(f"{self.objective.name} learns from {self.objective.labels}, and got lists.")
        elif rated(batch):
            check_labels(batch["labels"])
            losses = self._of_single(scores.flatten(), batch["labels"], steps)
        else:
            check_labels(batch["labels"])
            losses = self._of_pairs(scores, batch["labels"], steps, imitation)
        share = self._share(batch["weights"])
        loss = (losses * share).sum()
        if self.imitation_weight:
            if rated(batch):
                preferred = batch["labels"] * imitation
            else:
                preferred = (compared.good * compared.rows(imitation)).sum(1)
            loss = loss + self.imitation_weight * (share * preferred).sum()
        logged = {self.objective.name: (losses.detach() * share).sum()}
        return loss, logged | _diagnosis(scores.detach(), steps, compared)

    def _of_pairs(
        self, scores: Float[Tensor, "B 2"], labels: Tensor, steps: Steps, imitation: Float[Tensor, " S"]
    ) -> Float[Tensor, " B"]:
        pairs = len(labels)
        further = {"beta": self.beta} if "beta" in self.objective.options() else {}
        if self.objective.labels in SINGLE:
            chances = torch.cat([labels, 1 - labels])
            return self._of_single(scores.T.flatten(), chances, steps).reshape(2, pairs).mean(0)
        if "error" in self.objective.score:
            errors, before, _ = self._errors(steps)
            return self.chosen(*errors.chunk(2), labels, *before.chunk(2), **further)
        if self.objective.extra == "steps":
            return self.chosen(*self._step_inputs(steps, labels), **further)
        extra: tuple[Tensor, ...] = ()
        if self.objective.extra == "imitation":
            extra = imitation[: 2 * pairs].chunk(2)
        elif self.objective.extra == "kl":
            assert steps.kl is not None  # refused for surrogates
            extra = over_steps(steps.kl, steps.mask, reduce=self.reduce)[: 2 * pairs].chunk(2)
        elif self.objective.extra == "reference margin":
            first, second = over_steps(steps.reference, steps.mask, reduce=self.reduce)[: 2 * pairs].chunk(2)
            extra = (self.beta * (first - second),)
        elif self.objective.extra == "demonstration":
            extra = (imitation[2 * pairs :],)
            if len(extra[0]) != pairs:
                raise DataError(f"{self.objective.name} needs a demonstration for each pair, and got none.")
        return self.chosen(scores[:, 0], scores[:, 1], labels, *extra, **further)

    def _of_single(
        self, scores: Float[Tensor, " S"], chances: Float[Tensor, " S"], steps: Steps
    ) -> Float[Tensor, " S"]:
        """Losses of segments that were good or bad by themselves."""
        if self.objective.labels not in SINGLE:
            check_takes_ratings(self.objective)
            return nft(scores, chances)
        if self.objective.extra == "goal":  # they were told to the policy already
            return self.chosen(scores)
        further = {"beta": self.beta} if "beta" in self.objective.options() else {}
        if self.objective.name in ESTIMATES:
            further[ESTIMATES[self.objective.name]] = self._baseline(scores)
        if self.objective.name in ADVANTAGES:
            chances = chances - self._baseline(chances)
        if self.objective.extra == "roles":
            sampled = self.scores(steps)[len(scores) :]
            return chances * self.chosen(scores, sampled, anchor(sampled, scores))
        if self.objective.extra != "errors":
            return self.chosen(scores, chances, **further)
        errors, before, drift = self._errors(steps)
        known = (errors, drift) if self.objective.labels == "rewards" else (errors, before, drift)
        return self.chosen(*known, chances, **further)

    def _errors(self, steps: Steps) -> tuple[Tensor, Tensor, Tensor]:
        """Squared errors of policy and reference and their drift, one number each per segment."""
        assert steps.drift is not None  # refused for exact scores
        log_prob, reference = self._discounted(steps)
        known = (-2 * log_prob, -2 * reference, steps.drift)
        errors, before, drift = (over_steps(x, steps.mask, reduce=self.reduce) for x in known)
        return errors, before, drift

    def _step_inputs(self, steps: Steps, labels: Tensor) -> tuple[Any, ...]:
        """Log-ratios, KL, gates and masks of first and second members, as ``sparse_po`` takes them."""
        assert steps.kl is not None  # refused for surrogates
        log_prob, reference = self._discounted(steps)
        gates = surprise_gates(steps.reference, steps.mask)
        both = ((log_prob - reference), steps.kl, gates, steps.mask)
        ratios, kl, gates, mask = (x[: 2 * len(labels)].chunk(2) for x in both)
        return (*ratios, labels, *kl, *((gate, gate) for gate in gates), *mask)

    def _share(self, weights: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """What each entry of the losses counts; where it belongs to a rank and to no pair, all the same."""
        if not self.objective.per_pair:
            refuse_weights(self.objective, weights)
            weights = torch.ones_like(weights)
        return weights / weights.sum().clamp(min=1e-12)

    def _baseline(self, scores: Tensor) -> Tensor:
        """Mean score (or reward) of the training so far: there is one task, no segment of another.

        A mean of the last batches alone would follow the scores down and anchor nothing.

        Raises:
            DataError: The batch holds a single one, which would be its own baseline.
        """
        if len(scores) < 2:
            raise DataError(
                f"{self.objective.name} compares each behaviour with their mean: a batch needs at least 2"
            )
        share = 1 / (self.baseline_batches + 1)
        updated = torch.lerp(self.baseline, scores.detach().mean(), share)
        if self.training:
            self.baseline.copy_(updated)
            self.baseline_batches += 1
        return updated


class Compared(NamedTuple):
    """What a batch says of its segments: grades, which entries count, and how good and bad each is.

    ``good`` is a distribution over the preferred of each row, ``bad`` over the others: of a pair the label
    and its rest, of a list the shares of those with the best grade and of those below it (none if all tie). A
    batch of segments that were judged one by one is one row: all the good against all the bad.
    """

    grades: Float[Tensor, "B K"]
    items: Bool[Tensor, "B K"]
    good: Float[Tensor, "B K"]
    bad: Float[Tensor, "B K"]
    paired: bool

    @classmethod
    def of(cls, batch: Mapping[str, Tensor]) -> "Compared":
        """Read the labels of a batch of pairs or lists."""
        labels = batch["labels"]
        if rated(batch):  # one by one: as good as a list of all of them
            good, bad = (side / side.sum().clamp(min=1e-12) for side in (labels, 1 - labels))
            there = torch.ones_like(labels, dtype=torch.bool)
            return cls(labels[None], there[None], good[None], bad[None], False)
        if "items" not in batch:
            grades = torch.stack([labels, 1 - labels], 1)
            return cls(grades, torch.ones_like(grades, dtype=torch.bool), grades, 1 - grades, True)
        items = batch["items"]
        best = labels.masked_fill(~items, -torch.inf).amax(1, keepdim=True)
        top, rest = ((side & items).to(labels.dtype) for side in (labels == best, labels < best))
        good, bad = (side / side.sum(1, keepdim=True).clamp(min=1) for side in (top, rest))
        return cls(labels, items, good, bad, False)

    def rows(self, values: Float[Tensor, " S"]) -> Float[Tensor, "B K"]:
        """Values of the segments in one row, laid out by pair or list; demonstrations are left out."""
        values = values[: self.grades.numel()]
        return values.reshape(2, -1).T if self.paired else values.reshape(self.grades.shape)


@torch.no_grad()
def _diagnosis(scores: Float[Tensor, "B K"], steps: Steps, compared: Compared) -> dict[str, Tensor]:
    """What a falling loss does not show; likelihoods and KL in nats per step."""
    both = compared.items[:, :, None] & compared.items[:, None, :]
    ordered = (compared.grades[:, :, None] > compared.grades[:, None, :]) & both
    lead = scores[:, :, None] - scores[:, None, :]
    comparisons = ordered.sum().clamp(min=1)
    change = over_steps(steps.log_prob - steps.reference, steps.mask, reduce="mean")
    means = {
        "chosen_log_prob": (compared.good, over_steps(steps.log_prob, steps.mask, reduce="mean")),
        "chosen_change": (compared.good, change),
        "rejected_change": (compared.bad, change),
    }
    if steps.kl is not None:
        means["kl"] = (compared.items.to(scores.dtype), over_steps(steps.kl, steps.mask, reduce="mean"))
    return {
        "accuracy": ((lead > 0) & ordered).sum() / comparisons,
        "margin": torch.where(ordered, lead, 0.0).sum() / comparisons,
    } | {
        name: (share * compared.rows(values)).sum() / share.sum().clamp(min=1e-12)
        for name, (share, values) in means.items()
    }


def diagnose(
    loss: Callable[[Mapping[str, Tensor]], tuple[Tensor, dict[str, Tensor]]],
    batches: Iterable[Mapping[str, Tensor]],
) -> dict[str, float]:
    """Mean over batches of pairs of what a loss logs; ties have no order, and no share in that of others."""
    found: list[dict[str, Tensor]] = []
    pairs: list[int] = []
    untied: list[int] = []
    for batch in batches:
        found.append(loss(batch)[1])
        pairs.append(len(batch["labels"]))
        untied.append(int((batch["labels"] != 0.5).sum()))
    means = {}
    for name in found[0]:
        weights = untied if name in ("accuracy", "margin") else pairs
        total = sum(w * float(values[name]) for w, values in zip(weights, found, strict=True))
        means[name] = total / max(sum(weights), 1)
    return means
