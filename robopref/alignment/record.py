"""What a transfer leaves behind: its labels, how it came to them, and the controls it has to beat.

On disk: ``record.json`` (settings, costs, names, accuracy) beside ``arrays.npz`` with ``labels``,
``confidence``, ``true_labels`` (where known), ``source_labels/<source>``, ``coupling/<name>`` and
``control/<name>``. Nothing in either is unpickled.

Letters used in shapes: M source episodes, N target episodes.
"""

import dataclasses
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from robopref.alignment.transfer import check_label_matrix, labels_from_scores
from robopref.errors import DataError, counted
from robopref.files import read_json, replacing, write_json

FORMAT = "robopref transfer record 1"
TRANSFER = "transfer"
"""Name of the transfer itself among the accuracies; no control may have it."""


@dataclass(frozen=True, eq=False)
class TransferRecord:
    """Labels transferred to the target, with all that led to them.

    Args:
        labels: Chance that the row's episode is preferred; NaN where no source had anything to say.
        confidence: ``|2 z - 1|`` of the vote, 0 where unknown (see :func:`~.transfer.confidence` for its
            limits).
        couplings: Plan of each solved problem, over all episodes of both sets: rows and columns of episodes
            that were left out are zero. Named by its source, with feature, subset and start where there are
            several.
        costs: Objective of each plan.
        controls: Labels from rules that any transfer should beat, by name.
        settings: What the transfer was made with, and ``controls_left_out``: name -> reason. Plain JSON
            values.
        true_labels: Labels of the true returns, where known.
        source_labels: What was transferred, by source.

    Raises:
        DataError: Shapes do not fit, or a matrix is not one of labels.
    """

    labels: Float[np.ndarray, "N N"]
    confidence: Float[np.ndarray, "N N"]
    couplings: dict[str, Float[np.ndarray, "_ N"]]
    costs: dict[str, float]
    controls: dict[str, Float[np.ndarray, "N N"]]
    settings: dict[str, Any] = field(default_factory=dict)
    true_labels: Float[np.ndarray, "N N"] | None = None
    source_labels: dict[str, Float[np.ndarray, "_ _"]] = field(default_factory=dict)

    def __post_init__(self):
        check_label_matrix(self.labels, "the transfer", informative=False)
        shape = self.labels.shape
        if self.confidence.shape != shape or not ((self.confidence >= 0) & (self.confidence <= 1)).all():
            raise DataError(
                f"Confidence must lie in [0, 1] and have shape {shape}, got {self.confidence.shape}."
            )
        named = dict(self.controls)
        if self.true_labels is not None:
            named["true labels"] = self.true_labels
        for name, matrix in named.items():
            check_label_matrix(matrix, f"'{name}'", informative=False)
            if matrix.shape != shape:
                raise DataError(f"The labels of '{name}' must have shape {shape}, got {matrix.shape}.")
        if TRANSFER in self.controls:
            raise DataError(f"No control may be called '{TRANSFER}': that is the transfer itself.")
        for name, matrix in self.source_labels.items():
            check_label_matrix(matrix, f"the source '{name}'", informative=False)
        for name, plan in self.couplings.items():
            if plan.ndim != 2 or plan.shape[1] != shape[0]:
                raise DataError(
                    f"The coupling '{name}' must have {shape[0]} columns, got shape {plan.shape}."
                )
        if set(self.costs) != set(self.couplings):
            raise DataError(
                f"Costs {sorted(self.costs)} and couplings {sorted(self.couplings)} must have one name each."
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def coverage(self) -> float:
        """Share of the target's pairs of different episodes that have a label."""
        pairs = ~np.isnan(self.labels[np.triu_indices(len(self), 1)])
        return float(pairs.mean())

    def with_truth(self, true_returns: Float[np.ndarray, " N"]) -> "TransferRecord":
        """Return the record with the labels that the true returns give."""
        return dataclasses.replace(self, true_labels=labels_from_scores(self._checked_returns(true_returns)))

    def accuracy(self, true_returns: Float[np.ndarray, " N"]) -> dict[str, float]:
        """Return the share of pairs ordered right, for the transfer and for every control.

        Pairs with equal true returns are left out. A label of 0.5 counts as half right: it is a coin toss.
        Unknown labels are left out of their own matrix's share (see :attr:`coverage`); a matrix that knows no
        pair has accuracy NaN.

        Raises:
            DataError: Wrong number of returns, NaN among them, or all of them equal.
        """
        returns = self._checked_returns(true_returns)
        if np.ptp(returns) == 0:
            raise DataError(
                f"All {len(returns)} true returns are {returns[0]:g}, so no pair has a right order."
            )
        return self._accuracy_against(labels_from_scores(returns))

    def _accuracy_against(self, truth: Float[np.ndarray, "N N"]) -> dict[str, float]:
        matrices = {TRANSFER: self.labels, **self.controls}
        return {name: pair_accuracy(matrix, truth) for name, matrix in matrices.items()}

    def _checked_returns(self, returns: np.ndarray) -> np.ndarray:
        if returns.shape != (len(self),):
            raise DataError(
                f"There must be {len(self)} true returns, one for each episode, got {returns.shape}."
            )
        if not np.isfinite(returns).all():
            raise DataError(
                f"True returns are NaN or infinite at {np.flatnonzero(~np.isfinite(returns))[:10].tolist()}."
            )
        return returns.astype(np.float64)

    def save(self, directory: Path | str, *, true_returns: Float[np.ndarray, " N"] | None = None) -> None:
        """Write the record, each file whole or not at all; with ``true_returns`` also their accuracy."""
        folder = Path(directory)
        record = self if true_returns is None else self.with_truth(true_returns)
        arrays = {"labels": record.labels, "confidence": record.confidence}
        if record.true_labels is not None:
            arrays["true_labels"] = record.true_labels
        arrays |= {f"coupling/{name}": plan for name, plan in record.couplings.items()}
        arrays |= {f"control/{name}": matrix for name, matrix in record.controls.items()}
        arrays |= {f"source_labels/{name}": matrix for name, matrix in record.source_labels.items()}
        summary: dict[str, Any] = {
            "format": FORMAT,
            "episodes": len(record),
            "coverage": record.coverage,
            "couplings": list(record.couplings),
            "controls": list(record.controls),
            "source_labels": list(record.source_labels),
            "costs": record.costs,
            "settings": record.settings,
        }
        accuracy = None
        if true_returns is not None:
            accuracy = record.accuracy(true_returns)
        elif record.true_labels is not None:
            accuracy = record._accuracy_against(record.true_labels)
        if accuracy is not None:  # JSON has no NaN
            summary["accuracy"] = {name: None if np.isnan(v) else v for name, v in accuracy.items()}
        with replacing(folder / "arrays.npz") as temporary:
            np.savez_compressed(temporary, allow_pickle=False, **arrays)
        write_json(folder / "record.json", summary)

    @classmethod
    def load(cls, directory: Path | str) -> "TransferRecord":
        """Read what :meth:`save` wrote.

        Raises:
            DataError: A file is missing, truncated, foreign, or the two do not belong together.
        """
        folder = Path(directory)
        summary = _read_summary(folder / "record.json")
        arrays = _read_arrays(folder / "arrays.npz")
        wanted = {"labels", "confidence"}
        wanted |= {f"coupling/{name}" for name in summary["couplings"]}
        wanted |= {f"control/{name}" for name in summary["controls"]}
        wanted |= {f"source_labels/{name}" for name in summary["source_labels"]}
        if missing := wanted - set(arrays):
            raise DataError(f"{folder / 'arrays.npz'} lacks {sorted(missing)}, which record.json names.")
        return cls(
            labels=arrays["labels"],
            confidence=arrays["confidence"],
            couplings={name: arrays[f"coupling/{name}"] for name in summary["couplings"]},
            costs=summary["costs"],
            controls={name: arrays[f"control/{name}"] for name in summary["controls"]},
            settings=summary["settings"],
            true_labels=arrays.get("true_labels"),
            source_labels={name: arrays[f"source_labels/{name}"] for name in summary["source_labels"]},
        )


def said_of_inversion(settings: Mapping[str, Any]) -> str | None:
    """Return a sentence on whether a transfer of these settings may be inverted; None where nothing asked."""
    if "chance_inverted" not in settings:
        return None
    chance, known = settings["chance_inverted"], counted(settings["anchors"], "label")
    risk = "at risk" if settings["at_risk"] else "not at risk"
    rhos = ", ".join(f"{name} {rho:+.2f}" for name, rho in settings["agreement"].items())
    return (
        f"The transfer is {risk} of being inverted, by how far what speaks for the target's order agrees "
        f"(Spearman's rho: {rhos}); with {known} of the target, the chance of an inversion is {chance:.0%}"
        f"{', so its mirror image was taken' if chance > 0.5 else ''}."
    )


def pair_accuracy(labels: Float[np.ndarray, "N N"], truth: Float[np.ndarray, "N N"]) -> float:
    """Return the share of truly ordered pairs that ``labels`` order so; 0.5 is half right, NaN left out."""
    upper = np.triu_indices(len(labels), 1)
    given, true = labels[upper], truth[upper]
    kept = ~np.isnan(given) & ~np.isnan(true) & (true != 0.5)
    if not kept.any():
        return float("nan")
    given, true = given[kept], true[kept]
    return float(np.where(given == 0.5, 0.5, (given > 0.5) == (true > 0.5)).mean())


def _read_summary(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise DataError(f"There is no transfer record at {path}.")
    summary = read_json(path)
    if not isinstance(summary, dict) or summary.get("format") != FORMAT:
        got = summary.get("format") if isinstance(summary, dict) else type(summary).__name__
        raise DataError(f"{path} is not a transfer record: its format is {got!r}, expected {FORMAT!r}.")
    kinds = {"couplings": list, "controls": list, "source_labels": list, "costs": dict, "settings": dict}
    for key, kind in kinds.items():
        if not isinstance(summary.get(key), kind):
            raise DataError(f"{path} lacks '{key}' or holds it in another form.")
    return summary


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise DataError(f"There is no {path}, which belongs to the record beside it.") from error
    except (zipfile.BadZipFile, zipfile.error, ValueError, EOFError, OSError, AttributeError) as error:
        raise DataError(f"{path} is truncated or is not a file of arrays: {error}") from error
