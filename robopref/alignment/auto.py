"""An alignment weighed on its sources, which says how sure it is and whether it may be inverted.

Two things speak about the target: a score of episodes that is learned from the sources' labels, and the vote
of fused Gromov-Wasserstein couplings (:mod:`~.speakers`). How much each counts, and how sure the result is,
comes from the sources alone: each source in turn is treated as a target whose labels are known, the others
label it, and a logistic regression without negative weights learns what the two are worth. Labels are its
probabilities, so they are calibrated as far as the target resembles the sources. All other settings stay as
given, unless ``choose`` lists values for some: then that combination is taken whose probabilities lose least
on the labels of the held-out sources.

A coupling of inner distances may match good episodes with bad ones, and votes that share the mistake hide it.
So a transfer is marked as at risk of being inverted where what speaks for the target's order agrees too
little, and a few labels of the target (anchors) settle whether it is (:mod:`~.anchors`).

The published method has none of this (Liu et al. 2023 take one coupling of each source as it is).

Letters used in shapes: N target episodes.
"""

import dataclasses
import inspect
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from robopref.alignment.anchors import Guard, PreparedTransfer, check_anchors
from robopref.alignment.cpa import CrossTaskAlignment
from robopref.alignment.features import compute_features
from robopref.alignment.record import TransferRecord
from robopref.alignment.sets import LabelledSet, check_sources
from robopref.alignment.speakers import (
    Validation,
    between,
    learn_worth,
    mean_votes,
    orders_of_couplings,
    shared_feature,
    speak,
    validate,
)
from robopref.data.trajectory import SegmentBatch
from robopref.errors import ConfigError, DataError, unknown_name


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
            whose anchors leave a chance of more than :data:`~.anchors.UNSETTLED_ABOVE` that it is the wrong
            way round.
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
        self.guard = Guard(least_agreement, least_agreement_of_couplings, on_risk)
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
            check_anchors(anchors, len(target))
        return self.prepare(sources, target, rng=rng).settle(anchors, rng=rng)

    def prepare(
        self, sources: Sequence[LabelledSet], target: SegmentBatch, *, rng: np.random.Generator
    ) -> PreparedTransfer:
        """Do all that needs no label of the target, once; as :meth:`transfer`, whose errors it raises."""
        check_sources(sources)
        feature = shared_feature([source.segments for source in sources] + [target])
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
        voted = mean_votes(record.labels, best.couplings)
        spoken = speak(sources, target, voted, feature, best.l2, rng)
        agreement = spoken.agreement | between("couplings", list(orders_of_couplings(record).values()))
        found = self._settings(feature) | {
            "l2": best.l2,
            "tried": [each.chosen | {"log_loss": each.loss} for each in tried] if self.choose else [],
            "worth": {"score": float(best.worth[0]), "couplings": float(best.worth[1])},
            "validation": shares,
            "agreement": agreement,
            "at_risk": self.guard.is_at_risk(agreement),
        }
        record = dataclasses.replace(record, settings=record.settings | found)
        features = np.column_stack([spoken.features, spoken.scores[:, 1]])
        weights = np.append(best.worth[0] * spoken.weights, best.worth[1])
        return PreparedTransfer(record, features, weights, self.anchor_precision, self.guard)

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
            found: dict[float, dict[str, Validation]] = {l2: {} for l2 in self.penalties}
            for held_out in sources if len(sources) > 1 else ():
                others = [source for source in sources if source is not held_out]
                try:
                    voted = mean_votes(
                        couplings.transfer(others, held_out.segments, rng=rng).labels, couplings
                    )
                except DataError as error:
                    name = held_out.name
                    raise DataError(f"With the source '{name}' as target of the others: {error}") from error
                for l2, validation in found.items():
                    scores = speak(others, held_out.segments, voted, feature, l2, rng).scores
                    validation[held_out.name] = validate(scores, held_out.labels, rng)
            tried += [
                _Tried({"l2": l2} | chosen, couplings, l2, validation, *learn_worth(validation))
                for l2, validation in found.items()
            ]
        return tried


@dataclass(frozen=True, eq=False)
class _Tried:
    """A combination of settings: what each speaker is worth in it, and the log-loss on held-out sources."""

    chosen: dict[str, Any]
    couplings: CrossTaskAlignment
    l2: float
    validation: dict[str, Validation]
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
