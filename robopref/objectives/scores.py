"""What a score is: four ways to say how good a trajectory is, so that every loss serves every model.

A reward model's score is its return, the sum of predicted rewards. A policy's score is beta times its
log-ratio against a frozen reference: exact for policies with a density (:func:`log_ratio`), a surrogate for
diffusion and flow policies (:func:`surrogate_log_ratio`), or without any reference (:func:`log_likelihood`).
All functions return the log-ratio itself; the caller multiplies by beta.

Padding never counts: what a masked position holds, even NaN, reaches neither value nor gradient.

Letters used in shapes: B trajectories, T steps or tokens, C steps of an action chunk, A action dimensions,
N draws of time and noise.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from robopref.errors import ConfigError, DataError, unknown_name
from robopref.objectives.checks import check_not_negative, check_same_shape, check_some_step, working

REDUCTIONS = ("sum", "mean")
SIDES = ("a", "b", "demonstration")


def in_one_row(batch: Mapping[str, Tensor], name: str) -> Float[Tensor, "S ..."] | Bool[Tensor, "S ..."]:
    """``observations``, ``actions`` or ``mask`` of all segments of a batch.

    Of pairs first those of all first members, then those of the second, then those of demonstrations, where
    the batch holds some; of lists one list after the other, and of segments that were judged one by one,
    as the batch has them already.
    """
    if name in batch:
        return batch[name]
    return torch.cat([batch[f"{name}_{side}"] for side in SIDES if f"{name}_{side}" in batch])


def all_segments(
    batch: Mapping[str, Tensor],
) -> tuple[Float[Tensor, "S L O"], Float[Tensor, "S L A"], Bool[Tensor, "S L"]]:
    """Observations, actions and mask of all segments of a batch (:func:`in_one_row`), for a network to read.

    Padding is finite: NaN there would reach the gradients of a network that reads it, counted or not.

    Raises:
        DataError: A segment has no step that counts.
    """
    observations, actions, mask = (in_one_row(batch, name) for name in ("observations", "actions", "mask"))
    check_some_step(mask)
    there = mask[..., None]
    return (
        torch.where(there, observations, torch.nan_to_num(observations, 0.0, 0.0, 0.0)),
        torch.where(there, actions, torch.nan_to_num(actions, 0.0, 0.0, 0.0)),
        mask,
    )


def rated(batch: Mapping[str, Tensor]) -> bool:
    """Whether a batch holds segments that were judged one by one, and neither pairs nor lists."""
    return "mask" in batch and "items" not in batch


def row_groups(batch: Mapping[str, Tensor]) -> Int[Tensor, " S"]:
    """Number of the pair or list that each segment of :func:`in_one_row` belongs to: who shares a draw.

    Of segments that were judged one by one, each its own.
    """
    numbers = torch.arange(len(batch["labels"]), device=batch["labels"].device)
    if "items" in batch:
        return numbers.repeat_interleave(batch["items"].shape[1])
    if "mask" in batch:
        return numbers
    return numbers.repeat(sum(f"mask_{side}" in batch for side in SIDES))


def over_steps(
    values: Float[Tensor, "*B T"], mask: Bool[Tensor, "*B T"] | None = None, *, reduce: str = "sum"
) -> Float[Tensor, " *B"]:
    """Sum or mean over the steps that count.

    Sums grow with the length: at beta 0.1 and hundreds of steps a margin saturates within one update.
    Segments of equal length avoid the question; otherwise take the mean and a larger beta.

    Args:
        values: One number per step.
        mask: True where a step counts.
        reduce: ``sum`` or ``mean``.

    Raises:
        ConfigError: ``reduce`` is unknown.
        DataError: Shapes differ, or a row has no step that counts.
    """
    if reduce not in REDUCTIONS:
        raise ConfigError(unknown_name("reduction", reduce, REDUCTIONS))
    values = working(values)
    if mask is None:
        return values.sum(-1) if reduce == "sum" else values.mean(-1)
    check_same_shape(values=values, mask=mask)
    check_some_step(mask)
    total = torch.where(mask, values, 0.0).sum(-1)
    return total if reduce == "sum" else total / mask.sum(-1).clamp(min=1)


def log_ratio(
    log_probs: Float[Tensor, "*B T"],
    reference: Float[Tensor, "*B T"],
    mask: Bool[Tensor, "*B T"] | None = None,
    *,
    reduce: str = "sum",
    reference_power: float = 1.0,
) -> Float[Tensor, " *B"]:
    """ell = sum (or mean) over steps of log pi - gamma log pi_ref: the exact log-ratio.

    Args:
        log_probs: Log-probability or log-density of each step's action under the policy.
        reference: The same under the frozen reference; no gradient flows into it.
        mask: True where a step counts.
        reduce: ``sum`` is DPO and GRAPE's trajectory form, ``mean`` is length-normalised DPO.
        reference_power: gamma of DPO-gamma (Chen et al. 2024, *PL algorithms do not learn rankings*): 1 is
            DPO, 0 forgets the reference, between them a wrong reference weighs less.
    """
    check_same_shape(log_probs=log_probs, reference=reference)
    check_not_negative(reference_power=reference_power)
    ratios = torch.sub(working(log_probs), working(reference.detach()), alpha=reference_power)
    return over_steps(ratios, mask, reduce=reduce)


def log_likelihood(
    log_probs: Float[Tensor, "*B T"], mask: Bool[Tensor, "*B T"] | None = None, *, reduce: str = "mean"
) -> Float[Tensor, " *B"]:
    """Mean (or sum) over steps of log pi: the score without a reference."""
    return over_steps(log_probs, mask, reduce=reduce)


def desensitised_log_ratio(
    log_probs: Float[Tensor, "*B T"],
    reference: Float[Tensor, "*B T"],
    mask: Bool[Tensor, "*B T"],
    shared_length: Int[Tensor, " *B"],
    *,
    tail_weight: float = 0.5,
    reference_too: bool = False,
) -> Float[Tensor, " *B"]:
    """Log-ratio whose steps beyond the pair's shared length weigh less: LD-DPO (Liu et al. 2024).

    Args:
        log_probs: Log-probability of each step's action under the policy.
        reference: The same under the reference.
        mask: True where a step counts; counted steps come first.
        shared_length: Length in steps of the shorter member of each pair.
        tail_weight: Weight in [0, 1] of the steps beyond it; 1 is plain DPO.
        reference_too: Weigh the reference's steps likewise, so that a policy equal to it scores 0. TRL weighs
            those of the policy alone.
    """
    if not 0 <= tail_weight <= 1:
        raise ConfigError(f"tail_weight must lie in [0, 1], got {tail_weight}.")
    check_same_shape(log_probs=log_probs, reference=reference, mask=mask)
    shared = torch.arange(mask.shape[-1], device=mask.device) < shared_length[..., None]
    policy, frozen = working(log_probs), working(reference.detach())
    weighed = torch.where(shared, policy, tail_weight * policy)
    if reference_too:
        frozen = torch.where(shared, frozen, tail_weight * frozen)
    return over_steps(weighed - frozen, mask)


def stage_log_ratio(
    ratios: Float[Tensor, "B T"],
    stages: Int[Tensor, "B T"],
    stage_weights: Float[Tensor, " S"],
    mask: Bool[Tensor, "B T"] | None = None,
) -> Float[Tensor, " B"]:
    """Sum over steps of c_stage times the step's log-ratio: stages that decide the task weigh more.

    Args:
        ratios: Log-ratio of each step.
        stages: Index of the stage that each step belongs to.
        stage_weights: c, one weight per stage.
        mask: True where a step counts.

    Raises:
        DataError: A counted step belongs to a stage without a weight.
    """
    check_same_shape(ratios=ratios, stages=stages, mask=mask)
    known = (stages >= 0) & (stages < len(stage_weights))
    if bool((~known & (mask if mask is not None else torch.ones_like(known))).any()):
        raise DataError(f"stages must lie in 0 ... {len(stage_weights) - 1}, one weight each, got others.")
    weights = working(stage_weights)[torch.where(known, stages, 0)]
    return over_steps(weights * working(ratios), mask)


def timed(
    scores: Float[Tensor, " *B"], durations_s: Float[Tensor, " *B"], *, cost_per_s: float
) -> Float[Tensor, " *B"]:
    """s - gamma t: of two behaviours equally good the faster one; a variant after SimulPL.

    SimulPL adds the latency of a translation to its preferences, by a formula that could not be read; here
    each score pays for its time, so a slower winner must lead by what its time costs. In rewards
    of steps :class:`robopref.rewards.relabel.Blend` has it as ``step_cost``.

    Args:
        scores: s, of any loss.
        durations_s: t, in seconds.
        cost_per_s: gamma, in units of the score.
    """
    check_not_negative(cost_per_s=cost_per_s)
    check_same_shape(scores=scores, durations_s=durations_s)
    return torch.sub(working(scores), working(durations_s), alpha=cost_per_s)


@dataclass(frozen=True)
class Draws:
    """Times and noise that policy and reference, and both members of a pair, are scored with.

    Independent draws raise the spread of a margin several hundred times; these are shared.

    Attributes:
        times: (N, B), in (0, 1).
        noise: (N, B, C, A), standard normal.
    """

    times: Float[Tensor, "N B"]
    noise: Float[Tensor, "N B C A"]

    def __post_init__(self):
        """Refuse times and noise of different batches."""
        if self.noise.shape[:2] != self.times.shape:
            raise DataError(
                f"times (N, B) and noise (N, B, C, A) must share N and B, got {tuple(self.times.shape)}"
                f" and {tuple(self.noise.shape)}."
            )


def draw(actions: Float[Tensor, "B C A"], draws: int, generator: torch.Generator) -> Draws:
    """Draw ``draws`` times and noises for each trajectory, on the device of ``actions``.

    Times are stratified: draw n of N falls into [n/N, (n+1)/N), in another order for each trajectory's noise,
    which lowers the spread of the estimate at no cost.

    Args:
        actions: Only its shape, device and precision are used.
        draws: N, at least 1.
        generator: Source of randomness; may live on another device.
    """
    if draws < 1:
        raise ConfigError(f"draws must be at least 1, got {draws}.")
    batch = actions.shape[0]
    within = torch.rand(draws, batch, generator=generator, device=generator.device)
    first = torch.arange(draws, device=generator.device)[:, None]
    noise = torch.randn(draws, *actions.shape, generator=generator, device=generator.device)
    times = ((first + within) / draws).clamp(1e-5, 1 - 1e-5)
    return Draws(times.to(actions.device, actions.dtype), noise.to(actions.device, actions.dtype))


def flow_path(
    actions: Float[Tensor, "B C A"], draws: Draws
) -> tuple[Float[Tensor, "N B C A"], Float[Tensor, "N B C A"]]:
    """Points (1-t) noise + t action of the straight path, and its velocity action - noise.

    Time 0 is noise and time 1 the action.
    """
    times = draws.times[..., None, None]
    return torch.lerp(draws.noise, actions.expand_as(draws.noise), times), actions - draws.noise


def surrogate_log_ratio(
    errors: Float[Tensor, "*N B"], reference_errors: Float[Tensor, "*N B"]
) -> Float[Tensor, " B"]:
    """-(e - e_ref) / 2, averaged over draws: the log-ratio of a policy without a density.

    e is the squared error of the predicted noise or velocity (Wallace et al. 2023, constant time weight),
    with the same draws for policy and reference. Its beta depends on how e is reduced: Diffusion-DPO takes
    2000 to 5000 with the MEAN over D numbers, which is beta/D with their sum; DeformPAM's beta has no half,
    so twice its value does the same here.
    """
    check_same_shape(errors=errors, reference_errors=reference_errors)
    ratios = (working(reference_errors.detach()) - working(errors)) * 0.5
    return ratios.reshape(-1, ratios.shape[-1]).mean(0)


def pair_log_ratios(
    error: Callable[[Tensor, Draws], Tensor],
    reference_error: Callable[[Tensor, Draws], Tensor],
    actions_a: Float[Tensor, "B C A"],
    actions_b: Float[Tensor, "B C A"],
    draws: Draws,
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Surrogate log-ratios of both members of each pair, all four errors from the same draws.

    Args:
        error: The policy: (actions (B, C, A), draws) -> errors (N, B).
        reference_error: The frozen reference, likewise; called without recording gradients.
        actions_a: Action chunks of the first.
        actions_b: Action chunks of the second.
        draws: From :func:`draw`.
    """
    check_same_shape(actions_a=actions_a, actions_b=actions_b)
    with torch.no_grad():
        reference_a, reference_b = reference_error(actions_a, draws), reference_error(actions_b, draws)
    return (
        surrogate_log_ratio(error(actions_a, draws), reference_a),
        surrogate_log_ratio(error(actions_b, draws), reference_b),
    )
