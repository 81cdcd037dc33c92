"""A linear score of episodes, learned from preferences of several sets in features that they share.

    s(x) = w'x,   P(a preferred to b) = sigma(s(x_a) - s(x_b))
    w = argmin  mean over sets, mean over labelled pairs of cross-entropy  +  l2 / 2 |w|^2           (sets)
    w = argmin  sum over labelled pairs of cross-entropy  +  precision / 2 |w - w_0|^2               (update)

The features must mean the same in every set (``approach`` and ``progress`` of :mod:`~.features`), each set
standardised by itself. The second form updates a score that came from other sets with a few labels of a new
one: it is the posterior mode under a Gaussian prior around w_0. Around the mode the posterior is taken as a
Gaussian, too (Laplace's approximation), from which scores are drawn that the labels leave possible.

Letters used in shapes: N episodes of a set, B labelled pairs, D numbers of a feature, S drawn scores.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from robopref.errors import DataError

MOST_PAIRS = 20_000
"""Pairs of a set that are looked at: drawn at random where there are more."""


def fit_score(
    features: Sequence[Float[np.ndarray, "_ D"]],
    labels: Sequence[Float[np.ndarray, "_ _"]],
    *,
    l2: float,
    rng: np.random.Generator,
) -> Float[np.ndarray, " D"]:
    """Learn one score from several labelled sets, each with the same weight.

    Raises:
        DataError: No set holds a label that prefers one episode.
    """
    pairs = [labelled_differences(x, z, rng) for x, z in zip(features, labels, strict=True)]
    pairs = [(x, z) for x, z in pairs if len(z)]
    if not pairs:
        raise DataError("A score needs at least one labelled pair to learn from.")
    differences = np.concatenate([x for x, _ in pairs])
    targets = np.concatenate([z for _, z in pairs])
    weights = np.concatenate([np.full(len(z), 1 / (len(z) * len(pairs))) for _, z in pairs])
    return _minimise(differences, targets, weights, np.zeros(differences.shape[1]), l2)


def update_score(
    score: Float[np.ndarray, " D"],
    features: Float[np.ndarray, "N D"],
    labels: Float[np.ndarray, "N N"],
    *,
    precision: float,
    rng: np.random.Generator,
) -> Float[np.ndarray, " D"]:
    """Move a score towards the labels of a set; without labels it stays."""
    differences, targets = labelled_differences(features, labels, rng)
    return _minimise(differences, targets, np.ones(len(targets)), score, precision)


def draw_scores(
    mode: Float[np.ndarray, " D"],
    features: Float[np.ndarray, "N D"],
    labels: Float[np.ndarray, "N N"],
    count: int,
    *,
    precision: float,
    rng: np.random.Generator,
) -> Float[np.ndarray, "S D"]:
    """Draw weights from the posterior around the mode that :func:`update_score` found from these labels."""
    from scipy.special import expit  # here: it is slow to import

    differences, _ = labelled_differences(features, labels, rng)
    chance = expit(differences @ mode)
    curvature = (differences * (chance * (1 - chance))[:, None]).T @ differences
    root = np.linalg.cholesky(curvature + precision * np.eye(len(mode)))
    return mode + np.linalg.solve(root.T, rng.standard_normal((len(mode), count))).T


def labelled_differences(
    features: Float[np.ndarray, "N D"], labels: Float[np.ndarray, "N N"], rng: np.random.Generator
) -> tuple[Float[np.ndarray, "B D"], Float[np.ndarray, " B"]]:
    """Return the difference of features and the label of every labelled pair of different episodes."""
    rows, columns = np.nonzero(np.triu(~np.isnan(labels), 1))
    if len(rows) > MOST_PAIRS:
        kept = rng.choice(len(rows), MOST_PAIRS, replace=False)
        rows, columns = rows[kept], columns[kept]
    return features[rows] - features[columns], labels[rows, columns].astype(np.float64)


def _minimise(
    differences: np.ndarray, targets: np.ndarray, weights: np.ndarray, centre: np.ndarray, precision: float
) -> Float[np.ndarray, " D"]:
    from scipy.optimize import minimize  # here: it is slow to import
    from scipy.special import expit

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        logits = differences @ w
        away = w - centre
        value = weights @ (np.logaddexp(0, logits) - targets * logits) + precision / 2 * away @ away
        slope = differences.T @ (weights * (expit(logits) - targets)) + precision * away
        return float(value), slope

    return minimize(loss, centre, jac=True, method="L-BFGS-B").x
