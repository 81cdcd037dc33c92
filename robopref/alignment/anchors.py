"""A transfer that may be inverted, and the labels of the target (anchors) that settle it.

What speaks for the order of the target's episodes agrees more or less, which numbers say (:mod:`~.speakers`).
Where one of them lies below its bound, the transfer is marked as at risk, and ``on_risk=refuse`` raises.
Anchors settle it: the odds that the transfer, and not its mirror image, made them are computed, and the
mirror is taken where it is likelier. It takes two of them or more to turn a transfer that is not at risk, and
ties say nothing, so anchors that leave more doubt than :data:`UNSETTLED_ABOVE` are a warning, or a refusal,
too. The anchors also move the score and what the couplings count for. Which pairs are worth asking about is
seen from the scores that the anchors so far leave possible (:meth:`PreparedTransfer.ask`).

Letters used in shapes: N target episodes, D numbers of a feature, S drawn scores, B labelled pairs.
"""

import dataclasses
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from robopref.alignment.ranker import MOST_PAIRS, draw_scores, update_score
from robopref.alignment.record import TransferRecord
from robopref.alignment.transfer import check_label_matrix, confidence, labels_from_margins
from robopref.data.queries_informed import Candidates, query_named
from robopref.errors import ConfigError, DataError, counted, unknown_name

log = logging.getLogger(__name__)

ON_RISK = ("warn", "refuse")
INVERTED_A_PRIORI = 0.05
"""Chance of an inverted transfer before any anchor is seen, where nothing points to it; 1/2 where it does."""
LABEL_COUNTS = math.log(9)
"""Most that a label counts for or against an inversion: one in ten may be wrong, however sure it is."""
UNSETTLED_ABOVE = 0.12
"""Chance that the labels are the wrong way round, above which anchors have not settled it.

Above 0.1, which is left where one label agrees with a transfer that is at risk, but sure of that pair. Where
it is not at risk, a label that agrees leaves less than that always, and one that contradicts a chance of 0.73
or more leaves more.
"""


@dataclass(frozen=True)
class Guard:
    """From how little agreement on a transfer is at risk of being inverted, and what is done about it.

    Args:
        least_agreement: Spearman's rho between score and couplings, and between the sources, below which the
            transfer is at risk.
        least_agreement_of_couplings: The same between single couplings.
        on_risk: ``warn``, or ``refuse`` what may be inverted.

    Raises:
        ConfigError: An option out of range.
    """

    least_agreement: float
    least_agreement_of_couplings: float
    on_risk: str

    def __post_init__(self):
        for name in ("least_agreement", "least_agreement_of_couplings"):
            least = getattr(self, name)
            if not -1 <= least <= 1:
                raise ConfigError(f"{name} must lie in [-1, 1], got {least}.")
        if self.on_risk not in ON_RISK:
            raise ConfigError(unknown_name("way to take a risk", self.on_risk, ON_RISK))

    def is_at_risk(self, agreement: Mapping[str, float]) -> bool:
        """Whether one of these numbers, by name, lies below its bound."""
        return any(rho < self._least(name) for name, rho in agreement.items())

    def warn_or_refuse(self, why: str, cure: str) -> None:
        """Say that a transfer may be inverted, or refuse it, as ``on_risk`` says."""
        sentence = f"The transfer may be inverted: {why}. {cure}."
        if self.on_risk == "refuse":
            raise DataError(sentence)
        log.warning(sentence)

    def disagreement(self, agreement: Mapping[str, float]) -> str:
        """Return in words how far what speaks for the target's order agrees, and how far it should."""
        words = [f"{name} {rho:+.2f} ({self._least(name)} or more)" for name, rho in agreement.items()]
        return (
            "what speaks for the target's order disagrees (Spearman's rho, and what is expected: "
            f"{', '.join(words)})"
        )

    def _least(self, agreement: str) -> float:
        is_of_couplings = agreement == "between couplings"
        return self.least_agreement_of_couplings if is_of_couplings else self.least_agreement


@dataclass(frozen=True, eq=False)
class PreparedTransfer:
    """What the sources say of a target before any label of it, to be settled with as many as there are.

    The episodes' score is linear in the shared features and in the couplings' vote; the sources give the
    mean of its weights, and the anchors move them.

    Attributes:
        record: Of the couplings, with what was found on the sources.
        features: D - 1 shared features of the target and the couplings' score.
        weights: What each is worth, in logits, as the sources say.
        anchor_precision: How firmly the weights hold to the sources against the anchors.
        guard: Warns of an inversion, or refuses it.
    """

    record: TransferRecord
    features: Float[np.ndarray, "N D"]
    weights: Float[np.ndarray, " D"]
    anchor_precision: float
    guard: Guard

    def settle(
        self, anchors: Float[np.ndarray, "N N"] | None = None, *, rng: np.random.Generator
    ) -> TransferRecord:
        """Return the target's labels, given some of them.

        Raises:
            DataError: The anchors are no label matrix of these episodes; or ``on_risk`` is ``refuse``, and
                the transfer is at risk without any, or they leave open whether it is inverted.
        """
        settings = self.record.settings
        anchors = self._known(anchors)
        known = int(np.count_nonzero(np.triu(~np.isnan(anchors), 1)))
        inverted = self._chance_inverted(anchors)
        if known and min(inverted, 1 - inverted) > UNSETTLED_ABOVE:
            self.guard.warn_or_refuse(*_left_open(known, min(inverted, 1 - inverted)))
        elif settings["at_risk"] and not known:
            why = self.guard.disagreement(settings["agreement"])
            self.guard.warn_or_refuse(why, "A few labels of the target settle it")
        labels = _labels(self.features @ self._moved(anchors, -1.0 if inverted > 0.5 else 1.0, rng))
        labels = np.where(np.isnan(anchors), labels, anchors)
        return dataclasses.replace(
            self.record,
            labels=labels,
            confidence=confidence(labels),
            settings=settings | {"anchors": known, "chance_inverted": inverted},
        )

    def opinions(
        self, anchors: Float[np.ndarray, "N N"] | None = None, *, count: int = 64, rng: np.random.Generator
    ) -> Float[np.ndarray, "S N"]:
        """Draw S scores of the episodes, in logits, that the anchors leave possible.

        They are of the transfer or of its mirror image, whichever is likelier; where the transfer is at risk,
        each takes its share. To the strategies of :mod:`robopref.data.queries_informed` they are the members
        of an ensemble: worth most is the label of a pair on which they are sure and contradict each other.
        """
        anchors = self._known(anchors)
        inverted = self._chance_inverted(anchors)
        share = inverted if self.record.settings["at_risk"] else float(inverted > 0.5)
        mirrored = int(rng.binomial(count, share))
        drawn = [
            draw_scores(
                self._moved(anchors, sign, rng),
                self.features,
                anchors,
                number,
                precision=self.anchor_precision,
                rng=rng,
            )
            for sign, number in ((1.0, count - mirrored), (-1.0, mirrored))
            if number
        ]
        return np.concatenate(drawn) @ self.features.T

    def ask(
        self, anchors: Float[np.ndarray, "N N"], *, query: str = "information_gain", rng: np.random.Generator
    ) -> tuple[int, int]:
        """Return the two episodes whose comparison is asked for next, none that is an anchor already.

        Of more than :data:`~.ranker.MOST_PAIRS` pairs so many are looked at, drawn at random.

        Args:
            anchors: Known labels of the target, NaN elsewhere.
            query: A strategy of :mod:`robopref.data.queries_informed` that reads probabilities, or random.
            rng: Draws opinions, and what the strategy draws.

        Raises:
            ConfigError: No such strategy.
            DataError: The anchors are no label matrix of these episodes, or every pair is one.
        """
        from scipy.special import expit

        anchors = self._known(anchors)
        rows, columns = np.nonzero(np.triu(np.isnan(anchors), 1))
        if not len(rows):
            raise DataError(f"All pairs of the {len(anchors)} episodes of the target have a label already.")
        if len(rows) > MOST_PAIRS:
            kept = rng.choice(len(rows), MOST_PAIRS, replace=False)
            rows, columns = rows[kept], columns[kept]
        scores = self.opinions(anchors, rng=rng)
        candidates = Candidates(len(rows), probabilities=expit(scores[:, rows] - scores[:, columns]))
        (chosen,) = query_named(query)(candidates, 1, rng, random_share=0.0).index
        return int(rows[chosen]), int(columns[chosen])

    def _known(self, anchors: Float[np.ndarray, "N N"] | None) -> Float[np.ndarray, "N N"]:
        """Return the anchors, checked, or a matrix that knows none."""
        if anchors is None:
            return np.full((len(self.features),) * 2, np.nan)
        check_anchors(anchors, len(self.features))
        return anchors

    def _chance_inverted(self, anchors: Float[np.ndarray, "N N"]) -> float:
        """As :func:`chance_inverted`, each margin the less the less the sources say of its pair."""
        at_risk = self.record.settings["at_risk"]
        rows, columns = np.nonzero(np.triu(~np.isnan(anchors), 1))
        apart = self.features[rows] - self.features[columns]
        variance = (apart**2).sum(axis=1) / self.anchor_precision
        margins = apart @ self.weights / np.sqrt(1 + np.pi / 8 * variance)  # MacKay 1992, equation 10
        return chance_inverted(margins, anchors[rows, columns], at_risk)

    def _moved(
        self, anchors: Float[np.ndarray, "N N"], sign: float, rng: np.random.Generator
    ) -> Float[np.ndarray, " D"]:
        precision = self.anchor_precision
        return update_score(sign * self.weights, self.features, anchors, precision=precision, rng=rng)


def check_anchors(anchors: np.ndarray, episodes: int) -> None:
    """Refuse what is no label matrix of so many target episodes; it may leave all of them unknown."""
    check_label_matrix(anchors, "the anchors", informative=False)
    if len(anchors) != episodes:
        raise DataError(
            f"The anchors must have a row for each of the {episodes} target episodes, got {len(anchors)}."
        )


def chance_inverted(
    margins: Float[np.ndarray, " B"], labels: Float[np.ndarray, " B"], at_risk: bool
) -> float:
    """Return the chance that the mirror image of the margins, and not the margins, made the labels.

    A label counts at most :data:`LABEL_COUNTS`, and a tie nothing.

    Args:
        margins: By how much the transfer prefers the first of each labelled pair, in logits.
        labels: Which was preferred.
        at_risk: Whether an inversion is as likely as none, before any label.
    """
    from scipy.special import expit

    prior = 0.5 if at_risk else INVERTED_A_PRIORI
    evidence = (2 * labels - 1) * np.clip(margins, -LABEL_COUNTS, LABEL_COUNTS)
    return float(expit(np.log(prior / (1 - prior)) - evidence.sum()))


def _left_open(known: int, wrong: float) -> tuple[str, str]:
    """Return in words how likely an inversion is after so many labels, and how many more settle it."""
    needed = math.log((1 - UNSETTLED_ABOVE) / UNSETTLED_ABOVE) + math.log((1 - wrong) / wrong)
    more = counted(math.ceil(needed / LABEL_COUNTS), "further label")  # enough also to turn the odds
    why = f"after {counted(known, 'label')} of the target, all others are wrong with a chance of {wrong:.0%}"
    return why, f"It takes {more} to settle it, of pairs on which the transfer is sure; more if they disagree"


def _labels(scores: Float[np.ndarray, " N"]) -> Float[np.ndarray, "N N"]:
    from scipy.special import expit

    margins = scores[:, None] - scores[None]
    return labels_from_margins(expit(margins) - 0.5)
