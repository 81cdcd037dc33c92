"""What alignment does, drawn: python scripts/bench/rapl_picture.py --task table-avoid

A preferred and a disliked test episode, each as a film strip above the reward of its frames and the
criterion's score; their couplings with the nearest demonstration before and after alignment; and all frames
on the two main axes of the space before and after.
"""

import argparse
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from rapl_methods import adam, best, builder, questions
from rapl_scenes import TASKS, Lab

from robopref.rewards.sequences import FeatureSequences
from robopref.rewards.transport import TransportReward
from robopref.training.aligning import AligningPlan, learn_transport

STILLS = 8


def main() -> None:
    """Learn one reward and draw it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/rapl"))
    parser.add_argument("--task", default="table-avoid", choices=list(TASKS))
    parser.add_argument("--preferences", type=int, default=100)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--picture", type=Path, default=Path("docs/images/rapl.png"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    lab = Lab(given.out, given.task, given.workers)
    truth = lab.truth(next(iter(lab.task.criteria)))
    returns = truth.sum(1)
    train, test = lab.split(0)
    encoder, sequences = lab.features(0)
    build = builder(encoder, sequences, train, best(train, returns), 0)
    asked = questions(np.random.default_rng([0, 1]), train, returns, lab.task.horizon, given.preferences)
    drawn = np.random.default_rng([0, 2])
    aligned, _ = learn_transport(build, sequences, asked, train, AligningPlan(), adam, drawn)
    stages = {"before": build(aligned.epsilon, aligned.temperature), "after": aligned}
    order = test[np.argsort(returns[test])]
    shown = {"preferred": int(order[-2]), "disliked": int(order[len(order) // 10])}

    matplotlib.rcParams.update({"axes.titlesize": 9, "font.size": 8})
    figure = Figure(figsize=(11, 9), layout="constrained")
    grid: Any = figure.add_gridspec(4, 4, height_ratios=[0.55, 0.8, 1.2, 1.3])
    for column, (name, episode) in enumerate(shown.items()):
        half = slice(2 * column, 2 * column + 2)
        strip, trace = (figure.add_subplot(grid[row, half]) for row in (0, 1))
        draw_trace(strip, trace, lab, aligned, sequences, episode, truth[episode], name)
        for place, (when, reward) in enumerate(stages.items()):
            axis = figure.add_subplot(grid[2, 2 * column + place])
            draw_coupling(axis, reward, sequences, episode)
            axis.set_title(f"{name}, {when}: coupling")
    for column, (when, reward) in enumerate(stages.items()):
        axis = figure.add_subplot(grid[3, 2 * column : 2 * column + 2])
        draw_features(axis, reward, sequences, np.repeat(returns, sequences.lengths))
        axis.set_title(f"features of all frames, {when} (blue: of episodes that are liked)")
    given.picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(given.picture, dpi=90)


def draw_trace(
    strip: Any,
    trace: Any,
    lab: Lab,
    reward: TransportReward,
    sequences: FeatureSequences,
    episode: int,
    truth: np.ndarray,
    name: str,
) -> None:
    """A film strip, and under each of its frames the reward and the score there."""
    first, last = lab.cache.first[episode : episode + 2]
    film = lab.frames[first:last]
    chosen = np.linspace(0, len(film) - 1, STILLS).round().astype(int)
    strip.imshow(np.concatenate(film[chosen], 1))
    strip.set(title=f"{name}: a frame in each of {STILLS} parts", xticks=[], yticks=[])
    steps = np.arange(1, len(film)) * lab.task.every
    trace.plot(steps, standard(reward.steps_all(sequences)[episode][1:]), label="reward of frames")
    scores = standard(truth.reshape(-1, lab.task.every).mean(1))
    trace.plot(steps, scores, "--", label="what the teacher looks at")
    trace.set(xlabel="step", ylabel="standardised", xlim=(0, lab.task.horizon))
    trace.legend(fontsize=7)


def draw_coupling(axis: Any, reward: TransportReward, sequences: FeatureSequences, episode: int) -> None:
    """The plan with the nearest demonstration."""
    features, lengths = sequences.gather([episode])
    with torch.no_grad():
        cost, plan = reward.to_demonstrations(features, lengths)
    paid = (cost * plan).sum((2, 3))[0]
    axis.imshow(plan[0, int(paid.argmin())], cmap="viridis", aspect="auto")
    axis.set(xlabel=f"frame of demonstration (distance {paid.min():.2f})", ylabel="frame of episode")


def draw_features(
    axis: Any, reward: TransportReward, sequences: FeatureSequences, colour: np.ndarray
) -> None:
    """All frames on the two main axes of the space."""
    with torch.no_grad():
        space = reward.aligned(torch.from_numpy(np.array(sequences.features)))
        _, _, main = torch.pca_lowrank(space, 2)
        x, y = ((space - space.mean(0)) @ main).T
    axis.scatter(x, y, c=colour, s=2, cmap="coolwarm_r")
    axis.set(xticks=[], yticks=[])


def standard(values: np.ndarray) -> np.ndarray:
    """Mean 0, deviation 1."""
    return (values - values.mean()) / max(float(values.std()), 1e-9)


if __name__ == "__main__":
    main()
