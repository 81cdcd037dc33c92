"""How reliable each annotator is, from their answers alone: nobody needs to know the right ones.

Dawid and Skene's model (1979): pair p has a true class z_p with chances pi; annotator j, shown a pair of true
class k, answers l with chance theta_j[k, l], independently of all else. EM finds pi and theta, and with them
the chance of each true class. Three departures, each for few answers:

- The model does not change when a pair is turned round: pi_k = pi_(C-1-k), theta[k, l] = theta[C-1-k, C-1-l].
  Which segment is called a is an accident. With two classes one number is left: the chance of a flip.
- Everyone starts with ``prior`` imagined answers in each row of theta, ``prior_accuracy`` of them right (the
  maximum is then that of the posterior). It also says which way is up: labels alone cannot tell a crowd
  from one that always answers the opposite.
- Missing answers are left out: not everyone sees every pair.

Letters used in shapes: J annotators, P pairs, C classes. Classes are 0 (b is better), 1 (equal), 2 (a); or
0 (b), 1 (a).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from robopref.data.label_store import LabelStore
from robopref.data.preferences import Preferences
from robopref.errors import ConfigError, DataError


@dataclass(frozen=True, eq=False)
class Reliability:
    """What EM found.

    Attributes:
        confusion: theta: chance that annotator j answers l where k is true, (annotator, k, l).
        classes: pi, the chance of each true class.
        truth: Chance of each true class, pair by pair.
        log_likelihood: Of the answers, after each round of EM.
        answers: Number of answers of each annotator.
    """

    confusion: Float[np.ndarray, "J C C"]
    classes: Float[np.ndarray, " C"]
    truth: Float[np.ndarray, "P C"]
    log_likelihood: list[float]
    answers: Int[np.ndarray, " J"]

    @property
    def flip_rates(self) -> Float[np.ndarray, " J"]:
        """Chance that an annotator who prefers a segment prefers the wrong one, in [0, 1].

        Below 0.5 it is the ``flip_prob`` of a loss.
        """
        right, wrong = self.confusion[:, 0, 0], self.confusion[:, 0, -1]
        return wrong / (right + wrong)

    @property
    def weights(self) -> Float[np.ndarray, " J"]:
        """Confidence that an annotator's answers deserve: 1 - 2 flip rate, and 0 for worse than a coin."""
        return np.clip(1 - 2 * self.flip_rates, 0, 1)

    @property
    def labels(self) -> Float[np.ndarray, " P"]:
        """Chance that a is preferred, with all that is known of who said so; a tie counts half."""
        return self.truth @ np.linspace(0, 1, self.truth.shape[1])


def estimate_reliability(
    answers: Int[np.ndarray, "J P"],
    *,
    classes: int = 3,
    prior: float = 5.0,
    prior_accuracy: float = 0.8,
    rounds: int = 200,
    tolerance: float = 1e-8,
) -> Reliability:
    """Fit the model by EM, from the share of each class among the answers to each pair.

    Args:
        answers: Class that each annotator gave to each pair, -1 where not asked. A pair that nobody answered
            gets the prior classes.
        classes: 2 or 3.
        prior: Number of imagined answers in each row of each annotator's theta.
        prior_accuracy: Share of them that is right; the others spread evenly.
        rounds: At most so many.
        tolerance: Stop when the log posterior of an answer gains less than this.

    Raises:
        ConfigError: A setting makes no sense.
        DataError: There are no answers, or one is no class.
    """
    _check(answers, classes, prior, prior_accuracy, rounds)
    given = _one_hot(answers, classes)
    imagined = np.full((classes, classes), prior * (1 - prior_accuracy) / (classes - 1))
    np.fill_diagonal(imagined, prior * prior_accuracy)
    votes = given.sum(axis=1)
    total = votes.sum(axis=1, keepdims=True)
    truth = np.where(total > 0, votes / np.maximum(total, 1), 1 / classes)
    chances, confusion = _maximise(given, truth, imagined)
    history: list[float] = []
    before = -np.inf
    for _ in range(rounds):
        truth, likelihood = _expect(given, chances, confusion)
        history.append(likelihood)
        now = likelihood + float((imagined * np.log(np.maximum(confusion, 1e-300))).sum())
        if now - before < tolerance * given.sum():
            break
        before = now
        chances, confusion = _maximise(given, truth, imagined)
    return Reliability(confusion, chances, truth, history, given.sum((0, 2)).astype(np.int64))


def weighted_preferences(labels: LabelStore, weights: Mapping[str, float]) -> Preferences:
    """Return the judgements of the named annotators, each one's confidence times the annotator's weight.

    Raises:
        ConfigError: A weight lies outside [0, 1].
    """
    parts = []
    for annotator, weight in weights.items():
        if not 0 <= weight <= 1:
            raise ConfigError(f"The weight of {annotator} must lie in [0, 1], got {weight}.")
        own = labels.preferences(annotator=annotator)
        parts.append(Preferences(own.a, own.b, own.label, own.confidence * np.float32(weight)))
    return Preferences.concatenate(parts)


def _maximise(
    given: Float[np.ndarray, "P J C"], truth: Float[np.ndarray, "P C"], imagined: Float[np.ndarray, "C C"]
) -> tuple[Float[np.ndarray, " C"], Float[np.ndarray, "J C C"]]:
    """Dawid and Skene's equations 2.3 and 2.4, with the prior and the symmetry."""
    chances = truth[given.any(axis=(1, 2))].mean(axis=0)
    pairs, annotators, classes = given.shape
    counts = (truth.T @ given.reshape(pairs, -1)).reshape(classes, annotators, classes).swapaxes(0, 1)
    counts = (counts + counts[:, ::-1, ::-1]) / 2 + imagined
    return (chances + chances[::-1]) / 2, counts / counts.sum(axis=2, keepdims=True)


def _expect(
    given: Float[np.ndarray, "P J C"], chances: Float[np.ndarray, " C"], confusion: Float[np.ndarray, "J C C"]
) -> tuple[Float[np.ndarray, "P C"], float]:
    """Dawid and Skene's equation 2.5: Bayes' rule for each pair; and the log likelihood of all answers."""
    tiny = 1e-300
    logs = np.log(np.maximum(confusion, tiny)).swapaxes(1, 2).reshape(-1, len(chances))  # (J C, k)
    log_joint = np.log(np.maximum(chances, tiny)) + given.reshape(len(given), -1) @ logs
    highest = log_joint.max(axis=1, keepdims=True)
    joint = np.exp(log_joint - highest)
    evidence = joint.sum(axis=1, keepdims=True)
    return joint / evidence, float((highest + np.log(evidence)).sum())


def _one_hot(answers: Int[np.ndarray, "J P"], classes: int) -> Float[np.ndarray, "P J C"]:
    """Return 1 where an annotator gave a class: one row a pair, so that EM is two matrix products."""
    return (answers.T[:, :, None] == np.arange(classes)).astype(np.float64)


def _check(answers: np.ndarray, classes: int, prior: float, accuracy: float, rounds: int) -> None:
    if classes not in (2, 3):
        raise ConfigError(f"Reliability knows 2 classes (b, a) or 3 (b, equal, a), got {classes}.")
    if not (prior >= 0 and 0 < accuracy < 1 and rounds >= 1):
        raise ConfigError(
            "prior must be at least 0, prior_accuracy between 0 and 1, rounds at least 1; got "
            f"{prior}, {accuracy}, {rounds}."
        )
    bad = np.argwhere((answers < -1) | (answers >= classes))
    if len(bad):
        row, column = bad[0].tolist()
        got = answers[row, column]
        raise DataError(f"Annotator {row} gave pair {column} the class {got}; known are 0 to {classes - 1}.")
    if not (answers >= 0).any():
        raise DataError("There are no answers to estimate reliability from.")
