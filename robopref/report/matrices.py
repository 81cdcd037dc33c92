"""Pictures of the transfer: labels beside the truth, couplings, and whether sure labels are better.

Letters used in shapes: M source episodes, N target episodes.
"""

import itertools

import numpy as np

from robopref.alignment.strata import quality_order
from robopref.report.runs import Alignment
from robopref.report.style import (
    INK,
    SERIES,
    Drawing,
    Panel,
    canvas,
    diverging,
    sequential,
    to_panel,
)

QUARTERS = 4


def label_matrices(alignment: Alignment, *, key: str) -> Drawing:
    """Transferred labels, true labels and confidence, all in the same order of episodes."""
    truth = alignment.true_labels
    order = quality_order(alignment.labels if truth is None else truth)
    n = len(order)
    by = "true return" if truth is not None else "transferred rank"
    shuffle = np.ix_(order, order)
    panels = [
        _square(diverging(alignment.labels[shuffle]), "transferred labels", by, f"{key}-labels", "label")
    ]
    if truth is not None:
        panels.append(_square(diverging(truth[shuffle]), "true labels", by, f"{key}-truth", "label"))
    if alignment.confidence is not None:
        confidence = alignment.confidence[shuffle].copy()
        np.fill_diagonal(confidence, np.nan)
        image = sequential(confidence, (0.0, 0.5, 0.38))
        panels.append(_square(image, "confidence of the labels", by, f"{key}-confidence", "confidence"))
    caption = (
        f"Which of two episodes of the target is better: n = {n} episodes, {n * (n - 1) // 2} pairs, both "
        f"axes sorted from worst to best by {by}. A cell is the chance that the row's episode is preferred "
        "to the column's: blue 1, orange 0, clear one half, grey unknown. "
    )
    if truth is not None:
        caption += "The nearer the first picture comes to the second, the better the transfer. "
    else:
        caption += "The true order is not known in this run. "
    if alignment.confidence is not None:
        caption += "Confidence: clear 0, full green 1."
    return Drawing("Labels of the target task", caption, tuple(panels), columns=3)


def _square(image: np.ndarray, title: str, by: str, key: str, scale: str) -> Panel:
    n = len(image)
    with canvas(3.0, 3.3, left=0.46, right=0.1, top=0.3, bottom=0.56) as (fig, ax):
        ax.imshow(image, interpolation="none", origin="lower", extent=(0.5, n + 0.5, 0.5, n + 0.5))
        ax.set(title=title, xlabel=f"rank by {by}", ylabel="rank")
        ax.grid(visible=False)
        for spine in ax.spines.values():
            spine.set_visible(True)
        ax.locator_params(nbins=5, integer=True)
        _scale(fig, scale)
        return to_panel(fig, ax, key=key, description=f"{title}, {n} by {n}, sorted by {by}")


def _scale(fig, kind: str) -> None:
    """Draw a small colour scale along the lower edge."""
    bar = fig.add_axes((0.34, 0.022, 0.47, 0.022))
    ramp = np.linspace(0, 1, 64)[None, :]
    image = diverging(ramp) if kind == "label" else sequential(ramp, (0.0, 0.5, 0.38))
    bar.imshow(image, aspect="auto", extent=(0, 1, 0, 1), interpolation="none")
    bar.set(xticks=[], yticks=[])
    bar.grid(visible=False)
    bar.text(-0.04, 0.5, "0", ha="right", va="center", transform=bar.transAxes)
    bar.text(1.04, 0.5, "1", ha="left", va="center", transform=bar.transAxes)


def couplings(alignment: Alignment, *, key: str) -> Drawing | None:
    """The transport plan of each source, as the share of a target episode that each source episode gives."""
    if not alignment.couplings:
        return None
    by_truth = alignment.true_labels is not None
    columns = quality_order(alignment.true_labels if alignment.true_labels is not None else alignment.labels)
    panels, sorted_rows = [], []
    for i, (source, plans) in enumerate(alignment.plans.items()):
        labels = alignment.source_labels.get(source)
        plan = np.mean(plans, axis=0)
        known = labels is not None and len(labels) == len(plan)
        rows = quality_order(labels) if labels is not None and known else np.arange(len(plan))
        target = columns if plan.shape[1] == len(columns) else np.arange(plan.shape[1])
        mass = plan.sum(axis=0, keepdims=True)
        share = np.divide(plan, mass, out=np.zeros_like(plan), where=mass > 0)[np.ix_(rows, target)]
        panels.append(_coupling(share, source, known, by_truth, f"{key}-{i}"))
        sorted_rows.append(known)
    sizes = "; ".join(
        f"{source}: {plans[0].shape[0]} to {plans[0].shape[1]}"
        + (f", mean of {len(plans)} plans" if len(plans) > 1 else "")
        for source, plans in alignment.plans.items()
    )
    order = "from worst to best by their labels" if all(sorted_rows) else "in the order of their store"
    by = "true return" if by_truth else "transferred rank"
    caption = (
        f"Coupling of source and target episodes ({sizes}). A cell is the share of the target episode's mass "
        "that comes from the source episode: clear 0, full blue 1, shaded by its square root. Target "
        f"episodes are sorted from worst to best by {by}, source "
        f"episodes are {order if not all(sorted_rows) else 'sorted ' + order}. "
    )
    if all(sorted_rows):
        caption += (
            "Mass along the rising diagonal matches good with good, along the falling one good with bad."
        )
    return Drawing("Couplings", caption, tuple(panels), columns=3)


def _coupling(share: np.ndarray, source: str, rows_sorted: bool, by_truth: bool, key: str) -> Panel:
    m, n = share.shape
    with canvas(3.0, 3.1, left=0.46, right=0.1, top=0.3, bottom=0.42) as (fig, ax):
        image = sequential(np.sqrt(share))
        ax.imshow(
            image, aspect="auto", interpolation="none", origin="lower", extent=(0.5, n + 0.5, 0.5, m + 0.5)
        )
        ax.set(title=source, ylabel="source rank" if rows_sorted else "source episode")
        ax.set_xlabel(f"target rank by {'true return' if by_truth else 'labels'}")
        ax.grid(visible=False)
        for spine in ax.spines.values():
            spine.set_visible(True)
        ax.locator_params(nbins=5, integer=True)
        return to_panel(fig, ax, key=key, description=f"Coupling of {source} with the target, {m} by {n}")


def accuracy_by_confidence(alignment: Alignment) -> list[tuple[float, int, float]] | None:
    """Split the judged pairs into quarters by confidence, least sure first.

    Returns:
        ``(mean confidence, pairs, share labelled right)`` per quarter; None without truth or confidence, or
        where all pairs are equally sure. A label of exactly one half counts as half right.
    """
    if alignment.true_labels is None or alignment.confidence is None:
        return None
    upper = np.triu_indices(len(alignment.labels), 1)
    truth, label, sure = (m[upper] for m in (alignment.true_labels, alignment.labels, alignment.confidence))
    judged = np.isfinite(truth) & np.isfinite(label) & np.isfinite(sure) & (truth != 0.5)
    truth, label, sure = truth[judged], label[judged], sure[judged]
    if len(sure) < QUARTERS or np.ptp(sure) == 0:
        return None
    right = np.where(label == 0.5, 0.5, (label > 0.5) == (truth > 0.5)).astype(np.float64)
    quarters = np.array_split(np.argsort(sure, kind="stable"), QUARTERS)
    return [(float(sure[q].mean()), len(q), float(right[q].mean())) for q in quarters]


def confidence_bars(alignment: Alignment, *, key: str) -> Drawing | None:
    """Accuracy of the transferred labels among the least to the most confident quarter of pairs."""
    quarters = accuracy_by_confidence(alignment)
    if quarters is None:
        return None
    names = ("least sure quarter", "second quarter", "third quarter", "most sure quarter")
    with canvas(4.4, 1.95, left=1.3, right=0.5, top=0.1, bottom=0.42) as (fig, ax):
        for i, (confidence, _, share) in enumerate(quarters):
            ax.barh(-i, share, height=0.55, color=SERIES[2], alpha=0.75, linewidth=0)
            ax.text(share + 0.015, -i, f"{share:.3f}", va="center", fontweight="bold")
            ax.text(0.02, -i, f"mean confidence {confidence:.2f}", va="center", fontsize=7.5)
        ax.axvline(0.5, color=INK, linewidth=0.9, linestyle="--")
        ax.set(xlim=(0, 1), xlabel="share of pairs labelled right (dashed: chance)")
        ax.set_yticks([0, -1, -2, -3], names)
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", visible=False)
        panel = to_panel(fig, ax, key=key, description="Label accuracy by quarter of confidence")
    total = sum(count for _, count, _ in quarters)
    rising = all(a[2] <= b[2] for a, b in itertools.pairwise(quarters))
    verdict = (
        "In this run surer labels are better ones."
        if rising
        else "In this run confidence does not rank the labels by their quality."
    )
    caption = (
        f"Are confident labels better? The n = {total} pairs with a strict true order, split into quarters "
        f"of {quarters[0][1]} or so by the confidence of the transfer. {verdict} No interval is drawn: pairs "
        "that share an episode are not independent."
    )
    return Drawing("Accuracy by confidence", caption, (panel,), columns=1)
