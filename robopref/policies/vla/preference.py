"""Preferences of whole trajectories move a policy that sees: published TPO, and what survives it.

The score of a segment of a trajectory (the whole, a window, a stage, a step) is beta times the sum or mean,
over its decisions, of log pi(chunk) - log pi_ref(chunk). Any objective of :mod:`robopref.objectives.registry`
turns scores into a loss:

    plain TPO (GRAPE, arXiv 2411.19309, eq. 5)     objective=dpo, segment=trajectory, reduce=sum
    contrast and imitation                         objective=dpo, segment=trajectory, reduce=mean,
    (``contrast`` of experiment=grape_full)        imitation_weight=0.5
    contrast + proximal + supervised               objective=rpro, segment=window or stage, reduce=mean
    step-wise DPO                                  objective=dpo, segment=step
    unpaired (KTO, BCO)                            objective=kto or bco
    token-level (TDPO; token policies)             objective=tdpo1 or tdpo2, segment=trajectory
    lists of all rollouts                          objective=plackett_luce, lipo_lambda, ...

A segment that one member of a pair has and the other has not (a stage that it never reached) is compared with
a score of zero, that of the reference. Objectives without a reference (cpl, cpo, simpo, orpo) take
log-likelihoods in place of ratios, means over entries where they want a mean, and leave such a segment out:
no likelihood stands for what was not done. A demonstration in a batch is compared with nothing: whatever the
objective, its loss is its negative log-likelihood per number. Gradients are exact at the memory of one window
of decisions, see :mod:`robopref.nets.windows`.

Where scores are exact, those of the reference are read from the batch, where they were kept from the start.
A flow or diffusion policy has surrogates under draws of time and noise: every step draws anew, once for each
group and place in it, so that the policy, its reference and all members of a group share the draw, and the
reference's score is computed beside the policy's. The reference is the policy with its moving weights as they
were: of a policy with an adapter, a copy of the adapter alone.

Letters used in shapes: B groups of K trajectories, M = B K, D decisions, P segments, n decisions that count.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from robopref.errors import ConfigError, unknown_name
from robopref.nets.windows import windowed_loss
from robopref.objectives.description import EXTRAS, Objective
from robopref.objectives.registry import ChosenObjective, find, with_options
from robopref.objectives.scores import REDUCTIONS
from robopref.policies.chunks import Draw
from robopref.policies.preference import SURROGATE_BETA
from robopref.policies.preference_loss import BETA, ESTIMATES
from robopref.policies.vla.policy import TokenPolicy
from robopref.policies.vla.seeing import SeeingPolicy

LABELS = ("soft pairs", "up/down", "per-token", "lists")


class TrajectoryPreference(nn.Module):
    """A policy that learns from groups of trajectories; the training loop's learner.

    Args:
        policy: What learns; its reference is what it is now.
        objective: A name of the registry, or a mapping with ``name`` and options.
        beta: Scale of the scores; None takes the objective's own or 0.1, and 2000 times that for surrogates,
            which are means over a chunk.
        reduce: ``sum`` or ``mean`` over the decisions of a segment.
        imitation_weight: Of the negative log-likelihood per token of the best trajectory of a group, or of
            every single one that is good, added to any objective.
        window: Decisions that are scored at once: memory against speed, no change of the gradient.
        learning_rate: Step size of Adam.

    Raises:
        ConfigError: An option makes no sense, or the objective does not fit.
    """

    baseline: Tensor
    baseline_batches: Tensor

    def __init__(
        self,
        policy: SeeingPolicy,
        *,
        objective: str | Mapping[str, Any] = "rpro",
        beta: float | None = None,
        reduce: str = "mean",
        imitation_weight: float = 0.0,
        window: int = 64,
        learning_rate: float = 1e-4,
    ) -> None:
        super().__init__()
        chosen = dict(objective) if isinstance(objective, Mapping) else {"name": objective}
        fitted = fitting(chosen, reduce)
        own: float = fitted.objective.options().get("beta", BETA) if fitted.objective.scales else BETA
        if beta is None:
            beta = own if policy.exact else own * SURROGATE_BETA / BETA
        self.config = {
            "objective": chosen,
            "beta": beta,
            "reduce": reduce,
            "imitation_weight": imitation_weight,
            "policy": policy.config,
        }
        if not (beta > 0 and learning_rate > 0 and imitation_weight >= 0 and window >= 1):
            raise ConfigError(
                "beta, learning_rate and window must be positive and imitation_weight not negative, got "
                f"{beta}, {learning_rate}, {window} and {imitation_weight}"
            )
        self.policy, self.objective = policy, fitted
        self.without_reference = "likelihood" in fitted.objective.score
        self.beta, self.reduce, self.imitation_weight = beta, reduce, imitation_weight
        self.window, self.learning_rate = window, learning_rate
        self.needs_kl = self.objective.objective.extra == "kl"
        refuse_family(fitted.objective, policy)
        keeps = self.needs_kl or not policy.exact
        self._before = moving_weights(policy) if keeps else {}
        self.register_buffer("baseline", torch.tensor(0.0))  # mean score so far, for KTO and BCO
        self.register_buffer("baseline_batches", torch.tensor(0.0))

    # -- what the training loop asks for -------------------------------------------------------------------

    def loss(
        self, batch: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The objective's loss of groups of trajectories, and how good and bad ones fare."""
        chosen = batch["mask"].nonzero(as_tuple=True)
        rows = {name: batch[name][chosen] for name in ("frames", "targets")}
        rows |= {"words": batch["words"][chosen[0]], "mask": batch["taken"][chosen]}
        draw = self._shared_draw(batch, chosen, generator)

        def score(part: slice) -> Tensor:
            decisions: dict[str, Any] = {name: value[part] for name, value in rows.items()}
            if self.needs_kl:
                return torch.stack(
                    self.policy.decision_kl(**decisions, reference=holding(self.policy, self._before)), 1
                )
            if self.policy.exact:
                return self.policy.decision_scores(**decisions).unsqueeze(1)
            assert draw is not None
            same = Draw(draw.times[:, part], draw.noise[:, part])
            with torch.no_grad(), holding(self.policy, self._before):
                before = self.policy.decision_scores(**decisions, draw=same)
            return torch.stack([self.policy.decision_scores(**decisions, draw=same), before], 1)

        def reduced(scores: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return self.loss_of_scores(scores, batch)

        parameters = [p for p in self.policy.parameters() if p.requires_grad]
        return windowed_loss(score, len(rows["frames"]), self.window, reduced, parameters)

    def _shared_draw(
        self, batch: Mapping[str, Tensor], chosen: tuple[Tensor, ...], generator: torch.Generator | None
    ) -> Draw | None:
        """One draw for each group and place in a trajectory, handed to all members; None of exact scores."""
        if self.policy.exact:
            return None
        (groups, members), places = batch["grades"].shape, batch["mask"].shape[1]
        source = generator or torch.Generator(batch["frames"].device).manual_seed(0)
        drawn = self.policy.draw(groups * places, generator=source)
        assert drawn is not None
        which = chosen[0] // members * places + chosen[1]
        return Draw(drawn.times[:, which], drawn.noise[:, which])

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Whatever of the policy may move."""
        moving = [p for p in self.policy.parameters() if p.requires_grad]
        return [{"params": moving, "lr": self.learning_rate}]

    def after_step(self) -> None:
        """Nothing follows a step."""

    def changing(self) -> set[str]:
        """Names of what learning changes: what may move of the policy, and the running baseline."""
        own = {name for name, _ in self.named_buffers(recurse=False)}
        return own | {f"policy.{name}" for name in self.policy.changing()}

    def shard(self, mesh: Any) -> None:
        """Share out the policy's weights among the processes of a mesh; each keeps a baseline of its own.

        Raises:
            ConfigError: The policy learns in one process, or the objective asks for its reference anew.
        """
        if self._before:
            raise ConfigError(
                f"The objective {self.config['objective']['name']} needs a second copy of the weights, and "
                "so learns in one process"
            )
        self.policy.shard(mesh)

    # -- from scores to the loss ---------------------------------------------------------------------------

    def loss_of_scores(
        self, scores: Float[Tensor, "n C"], batch: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The loss from the score of every decision that counts, and its KL or its reference's score."""
        mask, parts = batch["mask"], batch["parts"]
        log_prob = _unpacked(scores[:, 0], mask)
        reference = batch["reference"] if self.policy.exact else _unpacked(scores[:, 1], mask)
        ratio = torch.where(mask, log_prob - reference, 0.0)
        count = int(parts[mask].max()) + 1
        numbers = self._numbers(batch)
        total, present = segment_scores(log_prob, parts, mask, count, "sum")
        likelihood = total / segment_scores(numbers, parts, mask, count, "sum")[0].clamp(min=1)
        if self.objective.objective.score == "mean likelihood":
            values = likelihood
        else:
            scored = log_prob if self.without_reference else ratio
            values, _ = segment_scores(scored, parts, mask, count, self.reduce)
        if not self.objective.objective.scales:
            values = self.beta * values
        groups, members = batch["grades"].shape
        form = (groups, members, count)
        values, present, imitation = (x.reshape(form) for x in (values, present, -likelihood))
        kl = None
        if self.needs_kl:
            kl, _ = segment_scores(_unpacked(scores[:, 1], mask), parts, mask, count, self.reduce)
            kl = kl.reshape(form)
        whole = (log_prob.sum(1) / numbers.sum(1).clamp(min=1)).reshape(groups, members)
        compared = ~batch["imitated"]
        losses = -whole[:, 0]
        if bool(compared.any()):
            found = self._compared(
                values[compared],
                present[compared],
                imitation[compared],
                batch["grades"][compared],
                None if kl is None else kl[compared],
            )
            losses = losses.masked_scatter(compared, found.to(losses.dtype))
        return _weighed(losses, batch["weights"]), self._diagnosis(ratio, whole, values, present, batch)

    def _numbers(self, batch: Mapping[str, Tensor]) -> Float[Tensor, "M D"]:
        """How many tokens or numbers the score of each decision sums over: 1 of a surrogate, a mean."""
        mask = batch["mask"]
        if not self.policy.exact:
            return mask.float()
        return torch.where(mask, batch["taken"].sum(-1) * self.policy.action_size, 0).float()

    def _compared(
        self, values: Tensor, present: Tensor, imitation: Tensor, grades: Tensor, kl: Tensor | None
    ) -> Float[Tensor, " B"]:
        """Every form of labels reduces to one loss per group; segments of a group share its weight."""
        form, there = self.objective.objective.labels, present.any(-1)
        if form == "lists":
            losses = self.objective(_over_segments(values, present), grades, there)
        elif form == "up/down":
            losses = self._of_singles(values, present, grades)
        else:
            losses = self._of_pairs(values, present, imitation, kl, grades)
        if not self.imitation_weight:
            return losses
        good = there & (grades > 0.5 if form == "up/down" else grades == _best(grades, there))
        return losses + self.imitation_weight * _over_segments(_over_segments(imitation, present), good)

    def _of_singles(self, values: Tensor, present: Tensor, grades: Tensor) -> Float[Tensor, " B"]:
        chances = grades[..., None].expand_as(values)[present]
        further: dict[str, Any] = dict(self._scale())
        name = self.objective.objective.name
        if name in ESTIMATES:
            further[ESTIMATES[name]] = self._baseline(values[present])
        losses = torch.zeros_like(values)
        losses = losses.masked_scatter(present, self.objective(values[present], chances, **further))
        there = present.any(-1)
        return _over_segments(_over_segments(losses, present), there)

    def _of_pairs(
        self, values: Tensor, present: Tensor, imitation: Tensor, kl: Tensor | None, grades: Tensor
    ) -> Float[Tensor, " B"]:
        labels = torch.where(
            grades[:, 0] == grades[:, 1], 0.5, (grades[:, 0] > grades[:, 1]).to(values.dtype)
        )
        first, second = present.unbind(1)
        both = first & second if self.without_reference else first | second
        spread = labels[:, None].expand_as(both)[both]
        a, b = values[:, 0][both], values[:, 1][both]
        extra: tuple[Tensor, ...] = ()
        if self.objective.objective.extra == "imitation":
            extra = (imitation[:, 0][both], imitation[:, 1][both])
        elif kl is not None:
            extra = (kl[:, 0][both], kl[:, 1][both])
        each = self.objective(a, b, spread, *extra, **self._scale())
        losses = torch.zeros(both.shape, dtype=each.dtype, device=each.device).masked_scatter(both, each)
        return _over_segments(losses, both)

    def _scale(self) -> dict[str, float]:
        return {"beta": self.beta} if "beta" in self.objective.objective.options() else {}

    def _baseline(self, scores: Tensor) -> Tensor:
        """Mean score of the training so far; of the last batch alone it would follow the scores down."""
        share = 1 / (self.baseline_batches + 1)
        updated = torch.lerp(self.baseline, scores.detach().mean(), share)
        if self.training:
            self.baseline.copy_(updated)
            self.baseline_batches += 1
        return updated

    @torch.no_grad()
    def _diagnosis(
        self,
        ratio: Tensor,
        likelihood: Float[Tensor, "B K"],
        values: Tensor,
        present: Tensor,
        batch: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        grades, there = batch["grades"], present.any(-1)
        change = (ratio.sum(1) / batch["mask"].sum(1).clamp(min=1)).reshape(grades.shape)
        best = grades.masked_fill(~there, -torch.inf).argmax(1, keepdim=True)
        worst = grades.masked_fill(~there, torch.inf).argmin(1, keepdim=True)
        untied = (grades.gather(1, best) > grades.gather(1, worst))[:, 0].to(change.dtype)
        count = untied.sum().clamp(min=1)
        whole = _over_segments(values, present)
        lead = (whole.gather(1, best) - whole.gather(1, worst))[:, 0]
        return {
            "accuracy": ((lead > 0) * untied).sum() / count,
            "margin": (lead * untied).sum() / count,
            "chosen_log_prob": (likelihood.gather(1, best)[:, 0] * untied).sum() / count,
            "chosen_change": (change.gather(1, best)[:, 0] * untied).sum() / count,
            "rejected_change": (change.gather(1, worst)[:, 0] * untied).sum() / count,
        }

    @torch.no_grad()
    def diagnose(self, batches: Iterable[Mapping[str, Tensor]]) -> dict[str, float]:
        """Mean of what :meth:`loss` logs over batches of the same size."""
        found = [self.loss(batch)[1] for batch in batches]
        return {name: sum(float(f[name]) for f in found) / len(found) for name in found[0]}


def moving_weights(policy: nn.Module) -> dict[str, Tensor]:
    """Return copies of the weights that may move, by name."""
    return {name: p.detach().clone() for name, p in policy.named_parameters() if p.requires_grad}


@contextmanager
def holding(policy: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Let a policy have other weights, those of before it learned, say, for as long as the context lasts."""
    moving = {name: p for name, p in policy.named_parameters() if name in weights}
    now = {name: p.data for name, p in moving.items()}
    for name, p in moving.items():
        p.data = weights[name].to(p)
    try:
        yield
    finally:
        for name, p in moving.items():
            p.data = now[name]


def segment_scores(
    values: Float[Tensor, "M D"],
    parts: Int[Tensor, "M D"],
    mask: Bool[Tensor, "M D"],
    count: int,
    reduce: str,
) -> tuple[Float[Tensor, "M P"], Bool[Tensor, "M P"]]:
    """Sum or mean of ``values`` over the decisions of each segment (zero without any), and which exist."""
    where = F.one_hot(torch.where(mask, parts, 0), count).to(values.dtype) * mask[..., None]
    sizes = where.sum(1)
    total = torch.einsum("mdp,md->mp", where, torch.where(mask, values, 0.0))
    return (total / sizes.clamp(min=1) if reduce == "mean" else total), sizes > 0


def _best(grades: Tensor, there: Tensor) -> Float[Tensor, "B 1"]:
    return grades.masked_fill(~there, -torch.inf).amax(1, keepdim=True)


def _unpacked(values: Tensor, mask: Tensor) -> Tensor:
    """Put the values of the decisions that count back into their places."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)


def _over_segments(values: Tensor, present: Tensor) -> Tensor:
    return torch.where(present, values, 0.0).sum(-1) / present.sum(-1).clamp(min=1)


def _weighed(losses: Tensor, weights: Tensor) -> Tensor:
    return (losses * weights).sum() / weights.sum().clamp(min=1e-12)


def refuse_family(objective: Objective, policy: SeeingPolicy) -> None:
    """Refuse to align a policy that has not what an objective asks for.

    Raises:
        ConfigError: It has no tokens.
    """
    if (objective.extra == "kl" or objective.tokens_only) and not isinstance(policy, TokenPolicy):
        raise ConfigError(
            f"The objective {objective.name} needs the probabilities of tokens, which a "
            f"{type(policy).__name__} has none of."
        )


def fitting(chosen: Mapping[str, Any], reduce: str = "mean") -> ChosenObjective:
    """Return the objective that is named, if trajectories can be compared with it.

    Args:
        chosen: ``name`` and options.
        reduce: ``sum`` or ``mean`` over the decisions of a segment.

    Raises:
        ConfigError: There is none of that name, or it wants something else.
    """
    if reduce not in REDUCTIONS:
        raise ConfigError(unknown_name("reduction", reduce, REDUCTIONS))
    options = dict(chosen)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(f"An objective is a name, or a mapping with its name and options; got {chosen!r}.")
    objective = find(name)
    if objective.labels not in LABELS:
        raise ConfigError(
            f"The objective {name} does not compare trajectories: it learns from {objective.labels}."
        )
    if objective.extra not in ("", "imitation", "kl"):
        raise ConfigError(f"The objective {name} has no place here: it also takes {EXTRAS[objective.extra]}.")
    if objective.score == "power":
        raise ConfigError(f"The objective {name} weakens the reference: trajectories have no option for it.")
    if "mean" in objective.score and reduce != "mean":
        raise ConfigError(f"The objective {name} compares means: reduce={reduce} does not fit it.")
    if "beta" in options:
        raise ConfigError("The beta of an objective over trajectories is that of the scores.")
    return with_options(objective, options)
