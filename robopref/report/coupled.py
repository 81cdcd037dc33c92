"""The coupling of two tasks as a drawing: bands from groups of source episodes to groups of the target's.

Letters used in shapes: F frames, H and W height and width in pixels, K groups of a side.
"""

from typing import Any

import numpy as np

from robopref.alignment.strata import Strata, strata_of
from robopref.report.runs import Alignment
from robopref.report.style import BLUE, INK, MUTED, ORANGE, Drawing, canvas, to_panel

WIDE = 10.4
"""Inches across."""
BETWEEN = 1.5
"""Inches from bar to bar."""
BAR, GAP = 0.09, 0.16


def coupled_episodes(alignment: Alignment, target: str, *, key: str) -> Drawing | None:
    """Where the first source's mass goes, with frames of an episode of each group where there are any."""
    if not alignment.couplings:
        return None
    source, plans = next(iter(alignment.plans.items()))
    labels, truth = alignment.source_labels.get(source), alignment.true_labels
    if labels is None or plans[0].shape != (len(labels), len(alignment.labels)):
        return None
    found = strata_of(plans, labels, alignment.labels if truth is None else truth)
    examples: dict[str, list[int]] = dict(zip(("source", "target"), found.examples, strict=True))
    clips = {
        side: [alignment.clips.get(f"{side}/{episode}") for episode in episodes]
        for side, episodes in examples.items()
    }
    panel = _draw(found, examples, clips, {"source": source, "target": target}, key)
    by = "true return" if truth is not None else "transferred rank"
    return Drawing("Coupled episodes", _caption(alignment, found, clips, (source, target), by), (panel,), 0)


def _caption(
    alignment: Alignment, found: Strata, clips: dict[str, list], tasks: tuple[str, str], by: str
) -> str:
    count = len(found.mass)
    near = np.abs(np.subtract.outer(np.arange(count), np.arange(count))) <= 1
    caption = (
        f"Episodes of {tasks[0]} (above, from worst to best by their labels) and of {tasks[1]} (below, from "
        f"worst to best by {by}) in {count} groups of equal size. A band's width is the mass that the "
        "coupling moves from one group to another. Upright bands match good with good, crossing ones good "
        f"with bad: {np.trace(found.mass):.0%} of the mass stays in its group and "
        f"{found.mass[near].sum():.0%} within one of it; without any relation it would be {1 / count:.0%} "
        f"and {near.mean():.0%}."
    )
    if len(alignment.plans) > 1:
        caption += f" Of the {len(alignment.plans)} sources the first is drawn."
    if any(film is not None for side in clips.values() for film in side):
        caption += " Frames: the middle episode of each group half-way and at its end."
    for reason in alignment.clips_missing:
        caption += f" Without frames{' of a side' if alignment.clips else ''}: {reason}"
    return caption


def _draw(
    found: Strata, examples: dict[str, list[int]], clips: dict[str, list], tasks: dict[str, str], key: str
) -> Any:
    count = len(found.mass)
    column = WIDE / count
    strips = {side: _strip_height(films, column) for side, films in clips.items()}
    room = {side: high + (0.62 if high else 0.5) for side, high in strips.items()}
    height = room["source"] + BETWEEN + room["target"]
    with canvas(WIDE, height, left=0.0, right=0.0, top=0.0, bottom=0.0) as (fig, ax):
        ax.set(xlim=(0, WIDE), ylim=(0, height), xticks=[], yticks=[])
        ax.set_aspect("equal")
        ax.axis("off")
        upper, lower = room["target"] + BETWEEN, room["target"]
        _bands(ax, found.mass, upper - BAR, lower + BAR)
        for side, sign, edge in (("source", 1, upper), ("target", -1, lower)):
            high = strips[side]
            for place, (episode, film) in enumerate(zip(examples[side], clips[side], strict=True)):
                middle = (place + 0.5) * column
                start = edge + sign * 0.05
                if film is not None:
                    _strip(ax, film, middle, start if sign > 0 else start - high, high, column)
                rank = {0: "worst: ", count - 1: "best: "}.get(place, "")
                ax.text(
                    middle,
                    start + sign * (high + 0.11),
                    f"{rank}episode {episode}",
                    ha="center",
                    va="center",
                    color=MUTED,
                )
            role = f"{side}: {tasks[side]}"
            ax.text(GAP / 2, edge + sign * (high + 0.36), role, va="center", fontweight="bold", color=INK)
        said = f"Coupling of {tasks['source']} and {tasks['target']} in {count} groups"
        return to_panel(fig, ax, key=key, description=said)


def _strip_height(films: list, column: float) -> float:
    """Inches that the frames of a side are high; 0 without any."""
    wide = [film.shape[0] * film.shape[2] / film.shape[1] for film in films if film is not None]
    return (column - GAP) / max(wide) if wide else 0.0


def _strip(ax: Any, film: np.ndarray, middle: float, bottom: float, high: float, column: float) -> None:
    """Frames side by side, with a hair between them."""
    wide = high * film.shape[2] / film.shape[1]
    left = middle - len(film) * wide / 2
    for number, frame in enumerate(film):
        x = left + number * wide
        extent = (x + 0.012, x + wide - 0.012, bottom, bottom + high)
        ax.imshow(frame, extent=extent, interpolation="none", zorder=3)


def _bands(ax: Any, mass: np.ndarray, upper: float, lower: float) -> None:
    """Bars of each group, and a band for each pair of groups that share mass."""
    from matplotlib.patches import PathPatch, Rectangle
    from matplotlib.path import Path

    count = len(mass)
    column = WIDE / count
    scale = (column - GAP) / max(mass.sum(0).max(), mass.sum(1).max())
    first = _starts(mass, column, scale)
    second = _starts(mass.T, column, scale).T
    for row in range(count):
        color = _shade(row / max(count - 1, 1))
        for col in range(count):
            wide = mass[row, col] * scale
            if wide < 1e-9:
                continue
            (a, b), half = (first[row, col], second[row, col]), (upper + lower) / 2
            points = [(a, upper), (a, half), (b, half), (b, lower)]
            points += [(b + wide, lower), (b + wide, half), (a + wide, half), (a + wide, upper)]
            codes = [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3]
            ax.add_patch(PathPatch(Path(points, codes), facecolor=color, alpha=0.62, linewidth=0, zorder=1))
    for sums, starts, y in ((mass.sum(1), first[:, 0], upper), (mass.sum(0), second[0], lower - BAR)):
        for place, (total, x) in enumerate(zip(sums, starts, strict=True)):
            color = _shade(place / max(count - 1, 1))
            ax.add_patch(Rectangle((x, y), total * scale, BAR, facecolor=color, linewidth=0, zorder=2))


def _starts(mass: np.ndarray, column: float, scale: float) -> np.ndarray:
    """Where along its row's bar each band begins (K, K); bars stand in the middle of their columns."""
    before = np.cumsum(mass, axis=1) - mass
    left = (np.arange(len(mass)) + 0.5) * column - mass.sum(axis=1) * scale / 2
    return left[:, None] + before * scale


def _shade(quality: float) -> tuple[float, ...]:
    """From orange (worst) by grey to blue (best)."""
    end = np.array(ORANGE if quality < 0.5 else BLUE)
    grey = np.full(3, 0.62)
    return tuple(grey + (end - grey) * abs(2 * quality - 1))
