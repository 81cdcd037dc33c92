"""Pictures of a reward of frames: what matches a demonstration, and the space before and after alignment.

Letters used in shapes: F frames of an episode, G of a demonstration, n frames.
"""

import numpy as np

from robopref.report.runs import Matches
from robopref.report.style import MUTED, SERIES, Drawing, Panel, canvas, sequential, to_panel


def matched_frames(matches: Matches, *, key: str) -> Drawing:
    """The couplings of a preferred and a disliked episode with the demonstration, before and after."""
    shares = {which: _shares(plan) for which, plan in matches.plans.items()}
    largest = max(float(share.max()) for share in shares.values())
    panels = tuple(
        _coupling(
            shares[side, stage] / largest,
            f"{side}, {stage}: distance {matches.distances[side, stage]:.2f}",
            f"{key}-{number}",
        )
        for number, (side, stage) in enumerate(shares)
    )
    preferred, disliked = matches.episodes
    caption = (
        f"Episode {preferred} was preferred to episode {disliked}: the first such answer, of those held out "
        "where there are any. Each is coupled with its nearest demonstration by optimal transport, in the "
        "features before alignment and after it. A cell is the share of the frame's mass that goes to the "
        f"demonstration's frame: clear 0, full blue {largest:.0%}. A rising diagonal means that the episode "
        "goes through the demonstration in its order and pace; a falling one, backwards, which transport "
        "does not mind unless frame_reward.time_weight makes it; an even row, that the frame looks like all "
        "of it or like none. The distance is what the reward compares: after alignment the preferred episode "
        "should be the nearer one."
    )
    return Drawing("Which frames match", caption, panels)


def _shares(plan: np.ndarray) -> np.ndarray:
    mass = plan.sum(1, keepdims=True)
    return np.divide(plan, mass, out=np.zeros_like(plan), where=mass > 0)


def _coupling(shade: np.ndarray, title: str, key: str) -> Panel:
    count, length = shade.shape
    with canvas(4.0, 2.6, left=0.5) as (fig, ax):
        ax.imshow(
            sequential(shade),
            aspect="auto",
            interpolation="none",
            origin="lower",
            extent=(0.5, length + 0.5, 0.5, count + 0.5),
        )
        ax.set(title=title, xlabel="frame of the demonstration", ylabel="frame of the episode")
        ax.grid(visible=False)
        ax.locator_params(nbins=5, integer=True)
        return to_panel(fig, ax, key=key, description=f"Coupling, {title}")


def spaces(matches: Matches, *, key: str) -> Drawing:
    """Frames on the two main axes of the features, before and after alignment."""
    panels = tuple(
        _space(points, matches.won, f"{stage} alignment", f"{key}-{stage}")
        for stage, points in matches.spaces.items()
    )
    caption = (
        f"{len(matches.won)} frames of compared episodes on the two directions in which the features vary "
        "most, found anew in each picture. Blue: of episodes that won more than half of their comparisons; "
        "orange: that lost more; grey: neither. Where the features say what the answers look at, the "
        "colours part."
    )
    return Drawing("Features of frames", caption, panels)


def _space(points: np.ndarray, won: np.ndarray, title: str, key: str) -> Panel:
    with canvas(4.0, 2.9, left=0.15, bottom=0.15) as (fig, ax):
        for kind, color in ((won == 0.5, MUTED), (won < 0.5, SERIES[1]), (won > 0.5, SERIES[0])):
            ax.plot(*points[kind].T, "o", ms=2.4, mew=0, color=color, alpha=0.6)
        ax.set(title=title, xticks=[], yticks=[])
        ax.margins(0.03)
        return to_panel(fig, ax, key=key, description=f"Features of frames, {title}")
