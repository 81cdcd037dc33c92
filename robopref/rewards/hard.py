"""Where a reward model fails: accuracy on pairs that a short cut gets wrong.

A benchmark of reward models asks hard questions beside easy ones (RAG-RewardBench: noise, several steps,
when to abstain, conflict). For behaviour the questions are ours, taken from the pairs of a store itself:

    alike      the quarter of the pairs with the closest returns
    late       the better one was behind at half way
    calm       the better one moves less: activity is no success
    same start both begin in the same state, so that nothing but behaviour tells them apart

Letters used in shapes: P pairs.
"""

import numpy as np
import torch
from jaxtyping import Bool

from robopref.data.preferences import Preferences, Segments
from robopref.data.store import TrajectoryStore
from robopref.rewards.dataset import preference_tensors
from robopref.rewards.ensemble import EnsembleReward
from robopref.rewards.metrics import preference_metrics

MOST = 2000  # pairs that are looked at


def hard_pairs(store: TrajectoryStore, preferences: Preferences) -> dict[str, Bool[np.ndarray, " P"]]:
    """Which pairs belong to each hard kind.

    Args:
        store: Its rewards are the truth; its provenance tells equal initial states.
        preferences: Labelled by the truth; ties belong to no kind.
    """
    a, b = (_seen(store, side) for side in (preferences.a, preferences.b))
    sign = np.sign(a["return"] - b["return"]) * (preferences.label != 0.5)
    gap = np.abs(a["return"] - b["return"])
    starts = np.array([store.provenance(e).initial_state_hash for e in range(len(store))])
    same = starts[preferences.a.episode] == starts[preferences.b.episode]
    same &= (starts[preferences.a.episode] != "") & (preferences.a.start + preferences.b.start == 0)
    return {
        "alike": (sign != 0) & (gap <= np.quantile(gap, 0.25)),
        "late": (a["half"] - b["half"]) * sign < 0,
        "calm": (a["effort"] - b["effort"]) * sign < 0,
        "same start": same & (sign != 0),
    }


def hard_accuracy(
    reward: EnsembleReward, store: TrajectoryStore, preferences: Preferences
) -> dict[str, float]:
    """Share of the pairs of each hard kind that is ordered right; kinds without pairs are left out."""
    if len(preferences) > MOST:
        preferences = preferences.select(np.linspace(0, len(preferences) - 1, MOST).astype(np.int64))
    device = next(reward.parameters()).device
    found = {}
    for kind, chosen in hard_pairs(store, preferences).items():
        if chosen.any():
            pairs = preference_tensors(store, preferences.select(chosen), device)
            with torch.no_grad():
                found[kind] = preference_metrics(reward, pairs)["pair_accuracy"]
    return found


def _seen(store: TrajectoryStore, side: Segments) -> dict[str, np.ndarray]:
    batch = store.segments(side.episode, side.start, side.length)
    early = batch.mask & (np.arange(batch.mask.shape[1]) < side.length[:, None] / 2)
    return {
        "return": (batch.rewards * batch.mask).sum(1),
        "half": (batch.rewards * early).sum(1),
        "effort": (np.square(batch.actions).sum(-1) * batch.mask).sum(1) / side.length,
    }
