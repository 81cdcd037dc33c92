"""Credit: which decisions of a judged rollout made it better or worse than was to be expected.

A judgement of a whole rollout says nothing of its parts: most of what a failure did was no worse than what a
success did, and much of it came when all was lost. A critic learns from many judged rollouts how one will be
judged, given its state and the time; the advantage of a decision is by how much the prospects rose with it,

    A_t = sum over k >= 0 of trace^k (V_{t+k+1} - V_{t+k}),    V after the last decision = the judgement

which is generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438, eq. 16) without discount,
where the judgement is the one reward, given at the end. With a trace of 1 it is the judgement less V_t.

The critic reads the observations of the store, in simulation the state of all objects, which a policy that
sees does not (an asymmetric critic, Pinto et al. 2018, arXiv 1710.06542). Each rollout's values come from a
critic that it did not teach itself; others from the same initial state did, since how those fared says most
of what was to be expected (as the leave-one-out baseline of Kool et al. 2019, from the first decision on).

Letters used in shapes: T rollouts, n decisions of all of them, F features, K folds.
"""

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Shaped
from torch import Tensor

from robopref.errors import DataError
from robopref.nets.mlp import EnsembleMLP
from robopref.nets.normalise import Normaliser

FOLDS = 4
HIDDEN = (64, 64)
STEPS, ROWS = 400, 512
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 3e-2


def decision_advantages(
    observations: Float[np.ndarray, "n F"],
    counts: Int[np.ndarray, " T"],
    scores: Float[np.ndarray, " T"],
    starts: Shaped[np.ndarray, " T"],
    *,
    trace: float = 0.9,
    seed: int = 0,
) -> tuple[Float64[np.ndarray, " n"], dict[str, float]]:
    """Return the advantage of every decision, in deviations of the scores, and how good the critic is.

    Args:
        observations: State in which each decision was taken, one rollout after the other.
        counts: Decisions of each rollout.
        scores: How each was judged, higher is better.
        starts: Name or number of the initial state of each; those of one state have different critics.
        trace: lambda; 0 trusts the critic, 1 the judgement of the rollout alone.
        seed: Of the critic.

    Returns:
        The advantages, and ``explained``: the share of the scores' variance that the critic knows in rollouts
        that did not teach it, seen from all decisions. Where all scores are alike every advantage is zero.

    Raises:
        DataError: Numbers do not fit, are not finite, or all rollouts began in one state.
    """
    if not (len(observations) == counts.sum() and len(counts) == len(scores) == len(starts)):
        raise DataError(
            f"{len(counts)} rollouts of {counts.sum()} decisions need as many observations, scores and "
            f"starts, got {len(observations)}, {len(scores)} and {len(starts)}."
        )
    if not np.isfinite(scores).all():
        raise DataError("Scores hold NaN or infinity: every rollout needs a finite one.")
    if np.ptp(scores) == 0:
        return np.zeros(len(observations)), {"explained": 0.0}
    found = np.unique(starts, return_inverse=True)[1]
    if found.max() == 0:
        raise DataError(
            "All rollouts began in one state: a critic needs others to learn from, of two at least."
        )
    scaled = (scores - scores.mean()) / scores.std()
    folds = (found + _places(found)) % FOLDS
    values = _cross_fitted(_with_time(observations, counts), counts, scaled, folds, seed)
    each = np.repeat(scaled, counts)
    explained = 1 - np.mean((each - values) ** 2) / np.var(each)
    return generalised_advantages(values, counts, scaled, trace), {"explained": float(explained)}


def generalised_advantages(
    values: Float[np.ndarray, " n"],
    counts: Int[np.ndarray, " T"],
    final: Float[np.ndarray, " T"],
    trace: float,
) -> Float64[np.ndarray, " n"]:
    """Return the advantage of each decision, of rollouts that are judged at their end."""
    last = np.cumsum(counts) - 1
    after = np.append(values[1:], 0.0)
    after[last] = final
    change = after - values
    found = np.zeros((len(counts), int(counts.max()) + 1))
    where = np.repeat(np.arange(len(counts)), counts), _steps(counts)
    found[where] = change
    for step in range(found.shape[1] - 2, -1, -1):
        found[:, step] += trace * found[:, step + 1]
    return found[where]


def _steps(counts: Int[np.ndarray, " T"]) -> Int[np.ndarray, " n"]:
    """Number of each decision within its rollout."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _places(groups: Int[np.ndarray, " T"]) -> Int[np.ndarray, " T"]:
    """Place of each entry among those of its group, from 0 on."""
    order = np.argsort(groups, kind="stable")
    sizes = np.bincount(groups)
    places = np.empty(len(groups), int)
    places[order] = _steps(sizes[sizes > 0])
    return places


def _with_time(
    observations: Float[np.ndarray, "n F"], counts: Int[np.ndarray, " T"]
) -> Float[Tensor, "n F1"]:
    """Observations and the time of each decision, which says how much of a horizon is left; normalised."""
    features = np.concatenate([observations, (_steps(counts) / counts.max())[:, None]], 1)
    rows = torch.from_numpy(features.astype(np.float32))
    normaliser = Normaliser(rows.shape[1], floor=1e-4)
    normaliser.fit(rows)
    return normaliser(rows)


def _cross_fitted(
    features: Float[Tensor, "n F"],
    counts: Int[np.ndarray, " T"],
    scores: Float[np.ndarray, " T"],
    folds: Int[np.ndarray, " T"],
    seed: int,
) -> Float64[np.ndarray, " n"]:
    """Expected scores, of each fold by a critic that learned from the others; all critics learn at once."""
    fold = torch.from_numpy(np.repeat(folds, counts))
    target = torch.from_numpy(np.repeat(scores, counts)).float()
    present = [k for k in range(FOLDS) if bool((fold == k).any())]
    others = [torch.nonzero(fold != k).flatten() for k in present]
    generator = torch.Generator().manual_seed(seed)
    critics = EnsembleMLP(len(present), features.shape[1], 1, HIDDEN, generator=generator)
    adam = torch.optim.AdamW(critics.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for _ in range(STEPS):
        rows = torch.stack([own[torch.randint(len(own), (ROWS,), generator=generator)] for own in others])
        loss = (critics(features[rows])[..., 0] - target[rows]).square().mean(1).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
    with torch.no_grad():
        every = critics(features)[..., 0].double()
    place = torch.zeros(FOLDS, dtype=torch.long)
    place[present] = torch.arange(len(present))
    return every[place[fold], torch.arange(len(fold))].numpy()
