"""A picture of a data set: returns by behaviour, and where its keypoints went."""

from pathlib import Path
from typing import Any

import numpy as np

from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, DataError
from robopref.files import replacing

MOST_PATHS = 60
"""Episodes whose paths are drawn; more hide each other."""


def draw(store: TrajectoryStore, path: Path) -> Path:
    """Write a PNG: one dot an episode by behaviour, then the path of each keypoint seen from above.

    Paths are coloured by the episode's return, from dark (least) to light (most).

    Raises:
        ConfigError: The name does not end in .png.
        DataError: There are no episodes, or the file cannot be written.
    """
    if path.suffix != ".png":
        raise ConfigError(f"out must be the name of a picture ending in .png, got {path}.")
    if len(store) == 0:
        raise DataError(f"{store.path} holds no episodes to draw.")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = 1 + len(store.layout.keypoints)
    figure = Figure(figsize=(3.4 * panels + 1, 3.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    _returns(axes[0], store)
    if panels > 1:
        _paths(list(axes[1:]), store)
    with replacing(path) as temporary:
        figure.savefig(temporary)
    return path


def _returns(axis: Any, store: TrajectoryStore) -> None:
    """Draw one dot an episode, filled where it succeeded, and each behaviour's mean as a line."""
    names = np.array([store.provenance(i).behaviour for i in range(len(store))])
    order = sorted(set(names.tolist()), key=lambda name: -float(store.returns[names == name].mean()))
    rng = np.random.default_rng(0)
    for place, name in enumerate(order):
        chosen = np.flatnonzero(names == name)
        aside = place + rng.uniform(-0.25, 0.25, len(chosen))
        solved = store.successes[chosen]
        returns = store.returns[chosen]
        axis.scatter(
            aside[solved], returns[solved], s=14, color="#1f77b4", label="success" if not place else ""
        )
        axis.scatter(
            aside[~solved], returns[~solved], s=14, facecolors="none", edgecolors="#1f77b4", linewidths=0.8
        )
        axis.hlines(returns.mean(), place - 0.35, place + 0.35, color="#d62728", linewidth=1.5)
    axis.set_xticks(range(len(order)), order, rotation=30 if len(order) > 2 else 0)
    axis.set_ylabel("return")
    axis.set_title(f"{len(store)} episodes; filled: success, line: mean", fontsize=8.5)
    axis.spines[["top", "right"]].set_visible(False)


def _paths(axes: list[Any], store: TrajectoryStore) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import LineCollection
    from matplotlib.colors import Normalize

    shown = np.unique(np.linspace(0, len(store) - 1, min(len(store), MOST_PATHS)).astype(int))
    scale = Normalize(store.returns.min(), store.returns.max())
    colours = colormaps["viridis"](scale(store.returns[shown]))
    for axis, name in zip(axes, store.layout.keypoints, strict=True):
        points = store.array(f"keypoints/{name}")
        rows = [slice(store.first_rows[i], store.first_rows[i] + store.lengths[i] + 1) for i in shown]
        lines = [points[some, :2] for some in rows]
        axis.add_collection(LineCollection(lines, colors=colours, linewidths=0.8, alpha=0.8))
        ends = np.stack([line[-1] for line in lines])
        axis.scatter(ends[:, 0], ends[:, 1], s=10, c=colours, zorder=3)
        axis.set_aspect("equal", adjustable="datalim")
        axis.autoscale_view()
        axis.set(xlabel="x, m", ylabel="y, m")
        axis.set_title(f"{name} from above; dot: end", fontsize=8.5)
    mappable = ScalarMappable(scale, "viridis")
    axes[-1].figure.colorbar(mappable, ax=axes[-1], label="return", shrink=0.85)
