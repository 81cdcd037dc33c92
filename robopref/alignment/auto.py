"""An alignment weighed on its sources, which says how sure it is and whether it may be inverted.

Two things speak about the target: a score of episodes learned from the sources' labels in features that mean
the same in every task (:mod:`~.ranker`), and the vote of fused Gromov-Wasserstein couplings (:mod:`~.cpa`).
How much each counts, and how sure the result is, comes from the sources alone: each source in turn is treated
as a target whose labels are known, the others label it, and a logistic regression without negative weights
learns what the two are worth. Labels are its probabilities, so they are calibrated as far as the target
resembles the sources. All other settings stay as given, unless ``choose`` lists values for some: then that
combination is taken whose probabilities lose least on the labels of the held-out sources.

A coupling of inner distances may match good episodes with bad ones, and votes that share the mistake hide it.
The two speakers fail differently: the coupling by reflection, the score where the target asks for something
else than the sources did. Three numbers say how far what speaks for the target's order agrees, each the
Spearman's rho of two orders of its episodes: that of the score and that of the couplings' vote; the mean over
pairs of scores of single sources; and the mean over pairs of single couplings (of every source, feature,
subset and start, so that with ``couplings.restarts`` it asks other optima of the same problem). Where one of
them lies below its bound, the transfer is marked as at risk, and ``on_risk=refuse`` raises. Labels of the
target (anchors) settle it: the odds that the transfer, and not its mirror image, made them are computed, and
the mirror is taken where it is likelier. It takes two of them or more to turn a transfer that is not at risk,
and ties say nothing, so anchors that leave more doubt than :data:`UNSETTLED_ABOVE` are a warning, or a
refusal, too. The anchors also move the score and what the couplings count for. Which pairs are worth asking
about is seen from the scores that the anchors so far leave possible (:meth:`PreparedTransfer.ask`).

The published method has none of this (Liu et al. 2023 take one coupling of each source as it is).

Letters used in shapes: M source episodes, N target episodes, D numbers of a feature, K speakers,
S drawn scores, B labelled pairs.
"""

import dataclasses
import inspect
import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from robopref.alignment.cpa import CrossTaskAlignment
from robopref.alignment.features import compute_features
from robopref.alignment.ranker import (
    MOST_PAIRS,
    draw_scores,
    fit_score,
    labelled_differences,
    update_score,
)
from robopref.alignment.record import TransferRecord
from robopref.alignment.sets import LabelledSet, check_sources
from robopref.alignment.transfer import check_label_matrix, confidence, labels_from_margins, mean_labels
from robopref.data.queries_informed import Candidates, query_named
from robopref.data.trajectory import SegmentBatch
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
WITHOUT_VALIDATION = (1.0, 0.5)
"""What score and couplings are worth where a single source leaves nothing to validate on."""


class AutoAlignment:
    """Carry labels over by a score and by couplings, each worth what it is on the sources.

    Args:
        couplings: Options of the :class:`~.cpa.CrossTaskAlignment` that votes beside the score.
        l2: Of the score's weights, on standardised features.
        anchor_precision: How firmly the score holds to the sources against the target's own labels.
        least_agreement: Spearman's rho between score and couplings, and between the sources, below which the
            transfer is marked as at risk of being inverted.
        least_agreement_of_couplings: The same between single couplings, which differ more where all is well.
        on_risk: ``warn``, or ``refuse`` what may be inverted: a transfer at risk without anchors, and any
            whose anchors leave a chance of more than :data:`UNSETTLED_ABOVE` that it is the wrong way round.
        choose: Values to choose from, of ``l2`` and of any option of the couplings, such as
            ``{l2: [0.001, 0.01], semi_relaxed: [false, true]}``. All combinations are tried on the sources,
            of which there must be two or more; other options stay as given.

    Raises:
        ConfigError: An option out of range, or nothing to choose from.
    """

    def __init__(
        self,
        couplings: Mapping[str, Any] | None = None,
        *,
        l2: float = 0.01,
        anchor_precision: float = 3.0,
        least_agreement: float = 0.7,
        least_agreement_of_couplings: float = 0.2,
        on_risk: str = "warn",
        choose: Mapping[str, Sequence[Any]] | None = None,
    ):
        default = {"features": ("mean", "frame", "statistics"), "alpha": 0.9}
        options = default if couplings is None else dict(couplings)
        known = list(inspect.signature(CrossTaskAlignment).parameters)
        for name in options:
            if name not in known:
                raise ConfigError(unknown_name("option of the couplings", name, known))
        self.couplings = CrossTaskAlignment(**options)
        self.choose = None if choose is None else _checked_choices(choose)
        grid = dict(self.choose or {})
        self.penalties = grid.pop("l2", [l2])
        combined = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
        self.voters = [(chosen, CrossTaskAlignment(**(options | chosen))) for chosen in combined]
        positive = (*self.penalties, anchor_precision)
        if not all(_is_positive(each) for each in positive):
            raise ConfigError(
                "l2 and anchor_precision must be positive, got "
                f"{' or '.join(map(str, self.penalties))} and {anchor_precision}."
            )
        for name, least in (
            ("least_agreement", least_agreement),
            ("least_agreement_of_couplings", least_agreement_of_couplings),
        ):
            if not -1 <= least <= 1:
                raise ConfigError(f"{name} must lie in [-1, 1], got {least}.")
        if on_risk not in ON_RISK:
            raise ConfigError(unknown_name("way to take a risk", on_risk, ON_RISK))
        self.l2, self.anchor_precision = l2, anchor_precision
        self.least_agreement, self.on_risk = least_agreement, on_risk
        self.least_agreement_of_couplings = least_agreement_of_couplings

    def transfer(
        self,
        sources: Sequence[LabelledSet],
        target: SegmentBatch,
        *,
        rng: np.random.Generator,
        anchors: Float[np.ndarray, "N N"] | None = None,
    ) -> TransferRecord:
        """Return the target's labels, the couplings, and the controls.

        Args:
            sources: Labelled sets of other tasks.
            target: Whole episodes.
            rng: Draws what is drawn.
            anchors: Known labels of the target, NaN elsewhere; they are kept as they are.

        Raises:
            DataError: As :meth:`~.cpa.CrossTaskAlignment.transfer`; the keypoints ``hand`` and ``object`` are
                missing; anchors of other episodes; or it may be inverted and ``on_risk`` is ``refuse``.
        """
        if anchors is not None:
            _check_anchors(anchors, len(target))
        return self.prepare(sources, target, rng=rng).settle(anchors, rng=rng)

    def prepare(
        self, sources: Sequence[LabelledSet], target: SegmentBatch, *, rng: np.random.Generator
    ) -> "PreparedTransfer":
        """Do all that needs no label of the target, once; as :meth:`transfer`, whose errors it raises."""
        check_sources(sources)
        feature = _shared_feature([source.segments for source in sources] + [target])
        for source in sources:
            self._check_features(source.segments, feature, f"the source '{source.name}'")
        self._check_features(target, feature, "the target")
        if self.choose and len(sources) < 2:
            raise DataError("Settings are chosen on sources that the others label: give two or more, got 1.")
        tried = self._validate(sources, feature, rng)
        best = min(tried, key=lambda each: each.loss)
        shares = {name: of_source.accuracy for name, of_source in best.validation.items()}
        if not best.worth.any():
            raise DataError(
                "No source is explained by the others, so nothing can be said of the target. Give sources "
                "that ask for similar things. Shares of each source's pairs that the others ordered right: "
                f"{shares}."
            )
        record = best.couplings.transfer(sources, target, rng=rng)
        voted = _voted(record.labels, best.couplings)
        spoken = _speak(sources, target, voted, feature, best.l2, rng)
        agreement = spoken.agreement | between("couplings", list(orders_of_couplings(record).values()))
        found = self._settings(feature) | {
            "l2": best.l2,
            "tried": [each.chosen | {"log_loss": each.loss} for each in tried] if self.choose else [],
            "worth": {"score": float(best.worth[0]), "couplings": float(best.worth[1])},
            "validation": shares,
            "agreement": agreement,
            "at_risk": any(rho < self._least(name) for name, rho in agreement.items()),
        }
        record = dataclasses.replace(record, settings=record.settings | found)
        features = np.column_stack([spoken.features, spoken.scores[:, 1]])
        weights = np.append(best.worth[0] * spoken.weights, best.worth[1])
        return PreparedTransfer(self, record, features, weights)

    def _check_features(self, segments: SegmentBatch, feature: str, owner: str) -> None:
        """Refuse a set by its own name, before it is taken for a target or a source of others."""
        self.couplings.all_features(segments, owner)
        try:
            compute_features(feature, segments)
        except DataError as error:
            raise DataError(f"In {owner}: {error}") from error

    def _settings(self, feature: str) -> dict[str, Any]:
        names = "anchor_precision least_agreement least_agreement_of_couplings on_risk"
        options = {name: getattr(self, name) for name in names.split()}
        return {"method": "auto", "shared_feature": feature, **options}

    def _validate(
        self, sources: Sequence[LabelledSet], feature: str, rng: np.random.Generator
    ) -> list["_Tried"]:
        """Label each source by the others, as if it were the target, in every combination of settings."""
        tried = []
        for chosen, couplings in self.voters:
            found: dict[float, dict[str, _Validation]] = {l2: {} for l2 in self.penalties}
            for held_out in sources if len(sources) > 1 else ():
                others = [source for source in sources if source is not held_out]
                try:
                    voted = _voted(couplings.transfer(others, held_out.segments, rng=rng).labels, couplings)
                except DataError as error:
                    name = held_out.name
                    raise DataError(f"With the source '{name}' as target of the others: {error}") from error
                for l2, validation in found.items():
                    scores = _speak(others, held_out.segments, voted, feature, l2, rng).scores
                    validation[held_out.name] = _compared(scores, held_out.labels, rng)
            tried += [
                _Tried({"l2": l2} | chosen, couplings, l2, validation, *_worth(validation))
                for l2, validation in found.items()
            ]
        return tried

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
        alignment: Whose options hold.
        record: Of the couplings, with what was found on the sources.
        features: D - 1 shared features of the target and the couplings' score.
        weights: What each is worth, in logits, as the sources say.
    """

    alignment: AutoAlignment
    record: TransferRecord
    features: Float[np.ndarray, "N D"]
    weights: Float[np.ndarray, " D"]

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
            self.alignment.warn_or_refuse(*_left_open(known, min(inverted, 1 - inverted)))
        elif settings["at_risk"] and not known:
            why = self.alignment.disagreement(settings["agreement"])
            self.alignment.warn_or_refuse(why, "A few labels of the target settle it")
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
                precision=self.alignment.anchor_precision,
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
        _check_anchors(anchors, len(self.features))
        return anchors

    def _chance_inverted(self, anchors: Float[np.ndarray, "N N"]) -> float:
        """As :func:`chance_inverted`, each margin the less the less the sources say of its pair."""
        at_risk = self.record.settings["at_risk"]
        rows, columns = np.nonzero(np.triu(~np.isnan(anchors), 1))
        apart = self.features[rows] - self.features[columns]
        variance = (apart**2).sum(axis=1) / self.alignment.anchor_precision
        margins = apart @ self.weights / np.sqrt(1 + np.pi / 8 * variance)  # MacKay 1992, equation 10
        return chance_inverted(margins, anchors[rows, columns], at_risk)

    def _moved(
        self, anchors: Float[np.ndarray, "N N"], sign: float, rng: np.random.Generator
    ) -> Float[np.ndarray, " D"]:
        precision = self.alignment.anchor_precision
        return update_score(sign * self.weights, self.features, anchors, precision=precision, rng=rng)


@dataclass(frozen=True, eq=False)
class _Spoken:
    """Features of the target, the score's weights, both speakers' standardised scores, how far they agree."""

    features: np.ndarray
    weights: np.ndarray
    scores: np.ndarray
    agreement: dict[str, float]


@dataclass(frozen=True, eq=False)
class _Validation:
    """A source as target: each speaker's margin of every labelled pair, the labels, shares ordered right."""

    margins: np.ndarray
    labels: np.ndarray
    accuracy: dict[str, float]


@dataclass(frozen=True, eq=False)
class _Tried:
    """A combination of settings: what each speaker is worth in it, and the log-loss on held-out sources."""

    chosen: dict[str, Any]
    couplings: CrossTaskAlignment
    l2: float
    validation: dict[str, _Validation]
    worth: np.ndarray
    loss: float


def _is_positive(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < value < math.inf


def _checked_choices(choose: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    known = {"l2", *inspect.signature(CrossTaskAlignment).parameters}
    if not choose:
        raise ConfigError("choose must name an option and its values, as {l2: [0.001, 0.01]}, or be null.")
    for name, values in choose.items():
        if name not in known:
            raise ConfigError(unknown_name("option to choose", name, known))
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise ConfigError(f"choose.{name} must be a list of one value or more, got {values!r}.")
    return {name: list(values) for name, values in choose.items()}


def _voted(labels: Float[np.ndarray, "N N"], couplings: CrossTaskAlignment) -> Float[np.ndarray, " N"]:
    """Return the mean label of each episode beside the others, as these couplings say."""
    others = np.where(np.eye(len(labels), dtype=bool), np.nan, labels)
    unlabelled = np.count_nonzero(np.isnan(others).all(axis=1))
    if unlabelled:
        drawn = couplings.max_episodes is not None or couplings.clusters is not None
        raise DataError(
            f"The couplings left {unlabelled} target episodes without a label; label more source pairs"
            f"{', or draw more episodes: couplings.subsets, couplings.max_episodes' if drawn else ''}."
        )
    return np.nanmean(others, axis=1)


def _speak(
    sources: Sequence[LabelledSet],
    target: SegmentBatch,
    voted: Float[np.ndarray, " N"],
    feature: str,
    l2: float,
    rng: np.random.Generator,
) -> _Spoken:
    features = compute_features(feature, target)
    known = [(compute_features(feature, source.segments), source.labels) for source in sources]
    weights = fit_score([x for x, _ in known], [z for _, z in known], l2=l2, rng=rng)
    by_score = features @ weights
    singles = [features @ fit_score([x], [z], l2=l2, rng=rng) for x, z in known]
    agreement = {"score and couplings": _rho(by_score, voted)} | between("sources", singles)
    scores = np.stack([_standardised(by_score), _standardised(voted)], axis=1)
    return _Spoken(features, weights / (by_score.std() or 1.0), scores, agreement)


def _compared(
    scores: Float[np.ndarray, "N K"], labels: Float[np.ndarray, "N N"], rng: np.random.Generator
) -> _Validation:
    margins, known = labelled_differences(scores, labels, rng)
    untied = known != 0.5
    right = ((margins > 0) == (known > 0.5)[:, None])[untied].mean(axis=0)
    return _Validation(margins, known, {"score": float(right[0]), "couplings": float(right[1])})


def _shared_feature(sets: Sequence[SegmentBatch]) -> str:
    for name in ("hand", "object"):
        if any(name not in segments.keypoints for segments in sets):
            raise DataError(
                f"alignment=auto needs the keypoint '{name}' in every source and in the target; without it, "
                "alignment=cpa compares distances inside each task alone."
            )
    return "progress" if all("goal" in segments.keypoints for segments in sets) else "approach"


def _check_anchors(anchors: np.ndarray, episodes: int) -> None:
    check_label_matrix(anchors, "the anchors", informative=False)
    if len(anchors) != episodes:
        raise DataError(
            f"The anchors must have a row for each of the {episodes} target episodes, got {len(anchors)}."
        )


def _worth(validation: Mapping[str, _Validation]) -> tuple[Float[np.ndarray, " K"], float]:
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


def _labels(scores: Float[np.ndarray, " N"]) -> Float[np.ndarray, "N N"]:
    from scipy.special import expit

    margins = scores[:, None] - scores[None]
    return labels_from_margins(expit(margins) - 0.5)


def _standardised(scores: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    return (scores - scores.mean()) / (scores.std() or 1.0)


def _rho(a: Float[np.ndarray, " N"], b: Float[np.ndarray, " N"]) -> float:
    from scipy.stats import rankdata

    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])
