"""Whether a policy that learned from preferences still does anything sensible: the gate of every round.

A pair loss falls and its accuracy rises while both members of a pair become impossible, the rejected one
faster. So the gate looks elsewhere, each time at how a policy changed from its start:

- the *actions that it takes by itself* in the states of preferred rollouts: they shall not move away from
  those that were preferred. (Errors given the preferred tokens before them, which a teacher forces, hide
  it: one wrong token is corrected before the next.)
- the likelihood of what was preferred, and the divergence from the start;
- the entropy of its tokens, and how often it takes the largest action there is;
- its success from initial states that are kept aside for that, paired with the start's.

Changes are judged over trajectories, with their standard error: what chance explains is no collapse.

Letters used in shapes: n decisions, T trajectories.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from robopref.policies.chunks import Draw
from robopref.policies.vla.data import Decisions
from robopref.policies.vla.seeing import SeeingPolicy

AWAY = 1.25  # times the start's error, and more than chance explains: a policy at 1.15 lost nothing
FALL, DRIFT = 0.05, 0.5  # nats per token or number
FALL_OF_SURROGATE = 0.1  # of the start's score
ENTROPY, SATURATION = 0.25, 0.2  # of the start's, and more than its share
CERTAIN = 2.0  # standard errors


@dataclass(frozen=True)
class Condition:
    """What was measured of a policy in some decisions.

    Attributes:
        error: Mean squared difference of the actions it takes from those that were taken, both on the scale
            of its bins, on which 1 is the largest action.
        score: Of what was done, per token or number; a surrogate where scores are not exact.
        entropy: Of its tokens in nats; None where it is not known.
        saturation: Share of its actions beyond 0.95 on that scale.
    """

    error: Float[np.ndarray, " n"]
    score: Float[np.ndarray, " n"]
    entropy: Float[np.ndarray, " n"] | None
    saturation: Float[np.ndarray, " n"]

    def columns(self) -> dict[str, Float[np.ndarray, " n"]]:
        """Return what is known, by name."""
        return {name: column for name, column in vars(self).items() if column is not None}


@torch.no_grad()
def condition(
    policy: SeeingPolicy, decisions: Decisions, rows: Int[np.ndarray, " n"], *, rows_at_once: int = 64
) -> Condition:
    """Measure a policy, which is in evaluation mode, in some decisions."""
    found: dict[str, list[Tensor]] = {name: [] for name in ("error", "score", "entropy", "saturation")}
    # The same for every policy that is asked, and of a decision whichever others are asked about.
    drawn = policy.draw(len(decisions), generator=torch.Generator().manual_seed(0))
    for first in range(0, len(rows), rows_at_once):
        which = rows[first : first + rows_at_once]
        part = decisions.batch(which)
        taken = policy.scaled(policy.decide(part["frames"], part["words"]))
        done = policy.scaled(policy.actions(part["targets"]))
        draw = None if drawn is None else Draw(drawn.times[:, which], drawn.noise[:, which])
        counted = part["mask"].sum(1)
        away = torch.where(part["mask"], (taken - done).square().mean(2), 0.0)
        found["error"].append(away.sum(1) / counted)
        found["saturation"].append((taken.abs() > 0.95).float().mean((1, 2)))
        numbers = counted * policy.action_size if policy.exact else 1
        found["score"].append(policy.decision_scores(**part, draw=draw) / numbers)
        entropy = policy.entropy(**part)
        if entropy is not None:
            found["entropy"].append(entropy)
    arrays = {name: torch.cat(each).double().cpu().numpy() if each else None for name, each in found.items()}
    return Condition(**arrays)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Trials:
    """How start and policy fared from the same initial states, which nothing else uses.

    Attributes:
        start: Whether the start succeeded in each.
        now: Whether the policy did.
    """

    start: Bool[np.ndarray, " T"]
    now: Bool[np.ndarray, " T"]

    @property
    def lost(self) -> int:
        """Successes of the start that are none any more."""
        return int((self.start & ~self.now).sum())

    @property
    def won(self) -> int:
        """Successes that the start had not."""
        return int((~self.start & self.now).sum())


def verdict(
    start: Condition,
    now: Condition,
    trajectories: Int[np.ndarray, " n"],
    *,
    divergence: float | None,
    exact: bool,
    trials: Trials | None = None,
    from_first: float | None = None,
) -> dict[str, Any]:
    """Compare a policy with its start in the decisions of preferred rollouts.

    Args:
        start: Of the start.
        now: Of the policy, in the same decisions.
        trajectories: Which rollout each decision belongs to.
        divergence: KL from the start, in nats per token or number; None where it is not known.
        exact: Whether scores are log-probabilities.
        trials: Success of both from validation states, where they were tried.
        from_first: KL from the supervised policy, where the start is another, of an earlier round.

    Returns:
        Means of all that was measured, ``collapsed``, and ``reason``, empty if it has not.
    """
    means = {
        name: (float(np.mean(before)), float(np.mean(after)))
        for name, before, after in (
            (name, getattr(start, name), getattr(now, name))
            for name in ("error", "score", "entropy", "saturation")
        )
        if before is not None
    }
    away, away_spread = _change(now.error - start.error, trajectories)
    fall, fall_spread = _change(now.score - start.score, trajectories)
    found = {
        **{f"start_{name}": before for name, (before, _) in means.items()},
        **{name: after for name, (_, after) in means.items()},
        "error_change": away,
        "error_change_deviation": away_spread,
        "chosen_change": fall,
        "chosen_change_deviation": fall_spread,
        "kl": divergence,
        "kl_from_first": from_first,
    }
    reasons = [*_of_actions(found, means), *_of_scores(found, exact)]
    if trials is not None:
        found |= {"validation_lost": trials.lost, "validation_won": trials.won}
        changed = trials.lost + trials.won
        if trials.lost - trials.won > CERTAIN * math.sqrt(changed):
            reasons.append(
                f"it fails in {trials.lost} validation states that its start solved, and solves {trials.won} "
                "that its start did not"
            )
    return {**found, "collapsed": bool(reasons), "reason": " and ".join(reasons)}


def _of_actions(found: dict[str, Any], means: dict[str, tuple[float, float]]) -> list[str]:
    before, after = means["error"]
    reasons = []
    certain = found["error_change"] > CERTAIN * found["error_change_deviation"]
    if not after <= AWAY * before + 1e-4 and (certain or not math.isfinite(after)):
        reasons.append(
            f"its actions moved away from the preferred ones (squared error {before:.3g} before, "
            f"{after:.3g} now)"
        )
    if "entropy" in means and not means["entropy"][1] >= ENTROPY * means["entropy"][0]:
        before, after = means["entropy"]
        reasons.append(f"the entropy of its tokens fell from {before:.3g} to {after:.3g} nats")
    if not means["saturation"][1] <= means["saturation"][0] + SATURATION:
        reasons.append(f"{means['saturation'][1]:.0%} of its actions are as large as can be")
    return reasons


def _of_scores(found: dict[str, Any], exact: bool) -> list[str]:
    reasons = []
    fall, spread = found["chosen_change"], found["chosen_change_deviation"]
    least = FALL if exact else FALL_OF_SURROGATE * abs(found["start_score"])
    if not fall >= -least and not fall >= -CERTAIN * spread:
        unit = "nats of likelihood per token" if exact else "of their score"
        reasons.append(f"preferred actions lost {-fall:.3g} {unit}")
    if found["kl"] is not None and not found["kl"] <= DRIFT:
        reasons.append(f"the divergence from its start is {found['kl']:.3g} nats per token")
    if found["kl_from_first"] is not None and not found["kl_from_first"] <= DRIFT:
        reasons.append(
            f"the divergence from the supervised policy is {found['kl_from_first']:.3g} nats per token"
        )
    return reasons


def _change(each: Float[np.ndarray, " n"], trajectories: Int[np.ndarray, " n"]) -> tuple[float, float]:
    """Mean over trajectories of a change, and its standard error; infinite from one trajectory alone."""
    _, which = np.unique(trajectories, return_inverse=True)
    means = np.bincount(which, each) / np.bincount(which)
    if len(means) < 2:
        return float(means.mean()), math.inf
    return float(means.mean()), float(means.std(ddof=1) / math.sqrt(len(means)))


def kept_round(names: Sequence[str], successes: Sequence[float], steps: Sequence[float]) -> str:
    """Return which policy to keep: the one of most successes on validation, then fewest steps, then last."""
    ranked = max(range(len(names)), key=lambda i: (successes[i], -steps[i], i))
    return names[ranked]
