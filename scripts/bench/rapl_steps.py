"""What limits the reward of single frames: python scripts/bench/rapl_steps.py

On other episodes than ``rapl.py`` judges (collected with seed 100), with another split and other questions,
100 preferences: ``step``, the mean over test episodes of the rank correlation of a frame's reward with the
score of the steps that led to it, for

- a network that is *told the score of every step* of the training episodes, and sees a frame, or a frame and
  its change since the one before: no reward learned from whole episodes on these features should be better;
- RAPL's rewards of frames, and the same distillation with the change of the frame as further input;
- the change of a frame along the way in which training episodes go on from such frames (``motion``), and the
  mere length of that change (``speed``), neither of which any preference has touched.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rapl_methods import WAYS, Judge, adam, best, builder, questions
from rapl_page import spread
from rapl_scenes import TASKS, Lab
from torch import Tensor, nn

from robopref.rewards.bradley_terry import BradleyTerryReward
from robopref.training.aligning import AligningPlan, DistilledPairs, learn_transport

SEED = 100  # of the episodes; splits, questions and starting weights count on from it
PREFERENCES = 100


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/rapl-steps"))
    parser.add_argument("--tasks", nargs="*", default=["table-avoid", "table-handle"], choices=list(TASKS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, list[float]]] = {}
    for name in given.tasks:
        lab = Lab(given.out, name, given.workers, seed=SEED)
        for criterion in lab.task.criteria:
            for seed in range(SEED, SEED + given.seeds):
                for what, value in tried(lab, criterion, seed).items():
                    found.setdefault(what, {}).setdefault(f"{criterion}, {name}", []).append(value)
    columns = next(iter(found.values()))
    print(f"| reward of a frame | {' | '.join(columns)} |\n|{'---|' * (1 + len(columns))}")
    for what, values in found.items():
        print(f"| {what} | {' | '.join(map(spread, values.values()))} |")


def tried(lab: Lab, criterion: str, seed: int) -> dict[str, float]:
    """``step`` of every reward."""
    truth, (train, test) = lab.truth(criterion), lab.split(seed)
    encoder, sequences = lab.features(seed)
    judge = Judge(truth, test, lab.kinds, lab.task.easy, lab.task.every)
    returns = truth.sum(1)
    asked = questions(np.random.default_rng([seed, 1]), train, returns, truth.shape[1], PREFERENCES)
    build = builder(encoder, sequences, train, best(train, returns), seed)
    drawn = np.random.default_rng([seed, 2])
    reward, _ = learn_transport(build, sequences, asked, train, AligningPlan(), adam, drawn)
    features, _ = sequences.gather(np.arange(len(sequences)))
    with torch.no_grad():
        raw, seen = (features - reward.mean) / reward.scale, reward.step_inputs(features)
    found = {
        "told every step, of a frame": told(raw, judge.between, train),
        "told every step, of a frame and its change": told(with_change(raw), judge.between, train),
    }
    for way in ("blended", *WAYS):
        reward.step_reward = way
        found[f"RAPL, {way}"] = np.stack(reward.steps_all(sequences))
    pairs = DistilledPairs(reward, sequences, train, reward.score_all(sequences)[train], 2000, drawn)
    pairs.inputs = with_change(seen)[torch.from_numpy(train)]
    head = BradleyTerryReward(pairs.inputs.shape[2], 0, hidden=(32, 32), learning_rate=1e-3, seed=seed)
    head.fit_normaliser(pairs.rows())
    adam(head, pairs, 200, 32, "steps")
    with torch.no_grad():
        learned = head.eval().predict(with_change(seen), seen[..., :0])[0]
    found["RAPL, learned, of a frame and its change"] = learned.numpy()
    found["motion"] = motion(raw, train)
    found["speed"] = change(raw).norm(dim=2).numpy()
    return {name: judge.step(list(values)) for name, values in found.items()}


def change(features: Tensor) -> Tensor:
    """Difference of each frame (N, F, d) to the one before; 0 for the first."""
    return torch.diff(features, dim=1, prepend=features[:, :1])


def with_change(features: Tensor) -> Tensor:
    """Frames and their changes, side by side."""
    return torch.cat([features, change(features)], -1)


def told(inputs: Tensor, scores: np.ndarray, train: np.ndarray) -> np.ndarray:
    """A network's prediction (N, F) of the score of every step, learned from those of training episodes."""
    torch.manual_seed(0)
    known = inputs[torch.from_numpy(train)][:, 1:].flatten(0, 1)
    mean, deviation = known.mean(0), known.std(0)
    wanted = torch.from_numpy(scores[train]).float().flatten()
    wanted = (wanted - wanted.mean()) / wanted.std()
    network: Any = nn.Sequential(
        *(nn.Linear(inputs.shape[2], 128), nn.ReLU(), nn.Dropout(0.2)),
        *(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 1)),
    )
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.1)
    for _ in range(600):
        rows = torch.randint(len(known), (256,))
        loss = (network((known[rows] - mean) / deviation)[:, 0] - wanted[rows]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        return network.eval()((inputs - mean) / deviation)[..., 0].numpy()


def motion(features: Tensor, train: np.ndarray, width: float = 0.15) -> np.ndarray:
    """Change of each frame (N, F) along the mean change that follows such frames in other training episodes.

    Args:
        features: (N, F, d).
        train: Training episodes.
        width: Of the kernel, in medians of the squared distances.
    """
    episodes, count, size = features.shape
    moves, known = change(features)[:, 1:], torch.from_numpy(train)
    before = features[:, :-1].reshape(-1, size)
    apart = torch.cdist(before, features[known, :-1].reshape(-1, size)).square()
    own = torch.arange(episodes).repeat_interleave(count - 1)[:, None] == known.repeat_interleave(count - 1)
    logits = (-apart / (width * apart.median())).masked_fill(own, -torch.inf)
    way = (logits.softmax(1) @ moves[known].reshape(-1, size)).reshape(moves.shape)
    along = (moves * way).sum(2) / way.norm(dim=2).clamp(min=1e-6)
    return torch.cat([torch.zeros(episodes, 1), along], 1).numpy()


if __name__ == "__main__":
    main()
