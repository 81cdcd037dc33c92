"""What speaks about the order of a target's episodes, how far it agrees, and what it is worth.

Two things speak: a score of episodes learned from the sources' labels in features that mean the same in every
task (:mod:`~.ranker`), and the vote of fused Gromov-Wasserstein couplings (:mod:`~.cpa`). They fail
differently: the coupling by reflection, the score where the target asks for something else than the sources
did. Three numbers say how far what speaks for the target's order agrees, each the Spearman's rho of two
orders of its episodes: that of the score and that of the couplings' vote; the mean over pairs of scores of
single sources; and the mean over pairs of single couplings (of every source, feature, subset and start, so
that with ``restarts`` it asks other optima of the same problem).

What each is worth is learned from targets whose labels are known: from sources that others label.

Letters used in shapes: N target episodes, D numbers of a feature, K speakers, B labelled pairs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from robopref.alignment.cpa import CrossTaskAlignment
from robopref.alignment.features import compute_features
from robopref.alignment.ranker import fit_score, labelled_differences
from robopref.alignment.record import TransferRecord
from robopref.alignment.sets import LabelledSet
from robopref.alignment.transfer import mean_labels
from robopref.data.trajectory import SegmentBatch
from robopref.errors import DataError

WITHOUT_VALIDATION = (1.0, 0.5)
"""What score and couplings are worth where a single source leaves nothing to validate on."""


@dataclass(frozen=True, eq=False)
class Spoken:
    """Features of the target, the score's weights, both speakers' standardised scores, how far they agree."""

    features: np.ndarray
    weights: np.ndarray
    scores: np.ndarray
    agreement: dict[str, float]


@dataclass(frozen=True, eq=False)
class Validation:
    """A source as target: each speaker's margin of every labelled pair, the labels, shares ordered right."""

    margins: np.ndarray
    labels: np.ndarray
    accuracy: dict[str, float]


def shared_feature(sets: Sequence[SegmentBatch]) -> str:
    """Return the name of the feature that means the same in all of these sets, and that the score reads.

    Raises:
        DataError: The keypoint ``hand`` or ``object`` is missing in one.
    """
    for name in ("hand", "object"):
        if any(name not in segments.keypoints for segments in sets):
            raise DataError(
                f"alignment=auto needs the keypoint '{name}' in every source and in the target; without it, "
                "alignment=cpa compares distances inside each task alone."
            )
    return "progress" if all("goal" in segments.keypoints for segments in sets) else "approach"


def mean_votes(labels: Float[np.ndarray, "N N"], couplings: CrossTaskAlignment) -> Float[np.ndarray, " N"]:
    """Return the mean label of each episode beside the others, as these couplings say.

    Raises:
        DataError: An episode has no label.
    """
    others = np.where(np.eye(len(labels), dtype=bool), np.nan, labels)
    unlabelled = np.count_nonzero(np.isnan(others).all(axis=1))
    if unlabelled:
        drawn = couplings.max_episodes is not None or couplings.clusters is not None
        raise DataError(
            f"The couplings left {unlabelled} target episodes without a label; label more source pairs"
            f"{', or draw more episodes: couplings.subsets, couplings.max_episodes' if drawn else ''}."
        )
    return np.nanmean(others, axis=1)


def speak(
    sources: Sequence[LabelledSet],
    target: SegmentBatch,
    voted: Float[np.ndarray, " N"],
    feature: str,
    l2: float,
    rng: np.random.Generator,
) -> Spoken:
    """Let both speak about the target.

    Args:
        sources: What the score is learned from.
        target: Whole episodes.
        voted: Of the target's episodes, from :func:`mean_votes`.
        feature: That the score reads, from :func:`shared_feature`.
        l2: Of the score's weights.
        rng: Draws pairs where there are more than :data:`~.ranker.MOST_PAIRS`.
    """
    features = compute_features(feature, target)
    known = [(compute_features(feature, source.segments), source.labels) for source in sources]
    weights = fit_score([x for x, _ in known], [z for _, z in known], l2=l2, rng=rng)
    by_score = features @ weights
    singles = [features @ fit_score([x], [z], l2=l2, rng=rng) for x, z in known]
    agreement = {"score and couplings": _rho(by_score, voted)} | between("sources", singles)
    scores = np.stack([_standardised(by_score), _standardised(voted)], axis=1)
    return Spoken(features, weights / (by_score.std() or 1.0), scores, agreement)


def validate(
    scores: Float[np.ndarray, "N K"], labels: Float[np.ndarray, "N N"], rng: np.random.Generator
) -> Validation:
    """Compare what the speakers say of a source, taken for a target, with its labels."""
    margins, known = labelled_differences(scores, labels, rng)
    untied = known != 0.5
    right = ((margins > 0) == (known > 0.5)[:, None])[untied].mean(axis=0)
    return Validation(margins, known, {"score": float(right[0]), "couplings": float(right[1])})


def learn_worth(validation: Mapping[str, Validation]) -> tuple[Float[np.ndarray, " K"], float]:
    """Learn what a standardised margin of each speaker is worth, in logits; never less than nothing.

    Also return the mean log-loss that is left; NaN where nothing was validated.
    """
    from scipy.optimize import minimize  # here: it is slow to import
    from scipy.special import expit

    if not validation:
        return np.array(WITHOUT_VALIDATION), math.nan
    margins = np.concatenate([found.margins for found in validation.values()])
    labels = np.concatenate([found.labels for found in validation.values()])

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        logits = margins @ w
        value = (np.logaddexp(0, logits) - labels * logits).mean()
        return float(value), margins.T @ (expit(logits) - labels) / len(labels)

    bounds = [(0.0, None)] * margins.shape[1]
    found = minimize(loss, WITHOUT_VALIDATION, jac=True, method="L-BFGS-B", bounds=bounds)
    return found.x, float(found.fun)


def orders_of_couplings(record: TransferRecord) -> dict[str, Float[np.ndarray, " N"]]:
    """Return how each coupling orders the target's episodes, NaN for those that it left out."""
    sources = record.source_labels
    return {name: mean_labels(plan, sources[name.split("/")[0]]) for name, plan in record.couplings.items()}


def between(what: str, orders: Sequence[Float[np.ndarray, " N"]]) -> dict[str, float]:
    """Return ``between <what>``: the mean over pairs of orders of Spearman's rho; nothing without a pair.

    Of each pair over the episodes that both order; two of them at least.
    """
    known = [~np.isnan(order) for order in orders]
    pairs = [
        _rho(orders[i][both], orders[j][both])
        for i in range(len(orders))
        for j in range(i)
        if np.count_nonzero(both := known[i] & known[j]) > 1
    ]
    return {f"between {what}": float(np.mean(pairs))} if pairs else {}


def _standardised(scores: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    return (scores - scores.mean()) / (scores.std() or 1.0)


def _rho(a: Float[np.ndarray, " N"], b: Float[np.ndarray, " N"]) -> float:
    from scipy.stats import rankdata

    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])
