"""What is compared on the same frames, preferences and demonstrations, and how it is judged.

Letters used in shapes: N episodes, T steps of each.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from robopref.data.preferences import Preferences, Segments
from robopref.nets.vision import PcaEncoder
from robopref.rewards.sequences import FeatureSequences
from robopref.rewards.transport import TransportReward
from robopref.rewards.visual import EnsembleFrameReward, FrameReward
from robopref.training.aligning import AligningPlan, Build, learn_ensemble, learn_transport

DEMONSTRATIONS = 3
MOST = 150  # preferences
WAYS = ("transport", "progress", "learned")


def learned(
    encoder: PcaEncoder,
    sequences: FeatureSequences,
    train: np.ndarray,
    truth: np.ndarray,
    seed: int,
    count: int,
) -> Iterator[tuple[str, FrameReward, dict[str, Any]]]:
    """Yield every method's reward, learned from the same preferences and demonstrations, and its report.

    Args:
        encoder: Of the frames.
        sequences: Features of all episodes.
        train: Episodes to learn from.
        truth: The criterion's score of every step, (N, T).
        seed: Of questions and starting weights.
        count: Preferences.
    """
    returns, length = truth.sum(1), truth.shape[1]
    rng = np.random.default_rng([seed, 1])
    preferences = questions(rng, train, returns, length, count)
    demonstrations = best(train, returns)
    build = builder(encoder, sequences, train, demonstrations, seed)
    for name, steps in (("untrained OT", 0), ("RAPL", 150)):
        plan = AligningPlan(steps=steps)
        drawn = np.random.default_rng([seed, 2])
        reward, report = learn_transport(build, sequences, preferences, train, plan, adam, drawn)
        yield name, reward, {"epsilon": report["epsilon"], "collapsed": report["alarm"]["collapsed"]}
    others = rng.choice(train, count)
    told = asked(rng.choice(demonstrations, count), others, returns, length)
    for name, model, labels in (
        ("Bradley-Terry", "bradley_terry", preferences),
        ("Bradley-Terry + demonstrations", "bradley_terry", Preferences.concatenate([preferences, told])),
        ("Gaussian (RRL)", "gaussian", preferences),
    ):
        options = {"hidden": (64, 64), "learning_rate": 1e-3}
        ensemble = EnsembleFrameReward(encoder, model=model, options=options, seed=seed)
        yield name, learn_ensemble(ensemble, sequences, labels, train, adam, steps=200), {}


def questions(
    rng: np.random.Generator, train: np.ndarray, returns: np.ndarray, length: int, count: int
) -> Preferences:
    """The first answers of a fixed row of random pairs, so that more preferences include fewer."""
    a = rng.choice(train, MOST)
    b = rng.choice(train, MOST)
    b[a == b] = np.roll(train, 1)[np.searchsorted(train, b[a == b])]
    return asked(a[:count], b[:count], returns, length)


def asked(a: np.ndarray, b: np.ndarray, returns: np.ndarray, length: int) -> Preferences:
    """Answers of a teacher who never errs about whole episodes."""
    labels = np.where(returns[a] == returns[b], 0.5, returns[a] > returns[b]).astype(np.float32)
    zero, lengths = np.zeros(len(a), np.int64), np.full(len(a), length)
    return Preferences(Segments(a, zero, lengths), Segments(b, zero, lengths), labels, np.ones_like(labels))


def best(train: np.ndarray, returns: np.ndarray) -> np.ndarray:
    """The demonstrations: the training episodes that the criterion likes most."""
    return train[np.argsort(-returns[train])[:DEMONSTRATIONS]]


def builder(
    encoder: PcaEncoder, sequences: FeatureSequences, train: np.ndarray, demonstrations: np.ndarray, seed: int
) -> Build:
    """How an untrained reward is made."""
    videos, lengths = sequences.gather(demonstrations)
    pool = sequences.gather(train)[0].flatten(0, 1)

    def build(epsilon: float, temperature: float) -> TransportReward:
        reward = TransportReward(
            encoder,
            demonstrations=len(videos),
            frames=videos.shape[1],
            epsilon=epsilon,
            temperature=temperature,
            seed=seed,
        )
        reward.set_demonstrations(videos, lengths, pool)
        return reward

    return build


def adam(learner: Any, sampler: Any, steps: int, batch_size: int, name: str) -> dict[str, float]:
    """Train without a run directory: a cell is small enough to be repeated."""
    optimiser = torch.optim.Adam(learner.parameter_groups())
    batches, noise = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)
    for _ in range(steps):
        loss, _ = learner.loss(sampler.sample(batch_size, batches), noise)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        learner.after_step()
    return {}


class Judge:
    """Rank correlations with a criterion on the test episodes.

    Args:
        truth: The criterion's score of every step, (N, T).
        test: Test episodes.
        kinds: Behaviour of every episode.
        easy: Behaviour that ``strict`` leaves out beside the experts.
        every: Steps from one frame to the next.
    """

    def __init__(self, truth: np.ndarray, test: np.ndarray, kinds: np.ndarray, easy: str, every: int) -> None:
        self.returns = truth.sum(1)
        self.between = truth.reshape(len(truth), -1, every).mean(2)  # score between two frames
        self.so_far = self.between.cumsum(1)
        self.test = test
        self.groups = {
            "all": test,
            "non-expert": test[kinds[test] != "expert"],
            "strict": test[(kinds[test] != "expert") & (kinds[test] != easy)],
        }

    def of(self, reward: FrameReward, sequences: FeatureSequences) -> dict[str, float]:
        """Correlations of episodes' scores and of frames' rewards."""
        scores = reward.score_all(sequences)
        found = {name: correlation(scores[which], self.returns[which]) for name, which in self.groups.items()}
        steps = reward.steps_all(sequences)
        found |= {"step": self.step(steps), "progress": self.step(steps, self.so_far)}
        if isinstance(reward, TransportReward):
            usual = reward.step_reward
            for way in WAYS:
                reward.step_reward = way
                found[f"step_{way}"] = self.step(reward.steps_all(sequences))
            reward.step_reward = usual
        return found

    def step(self, steps: list[np.ndarray], truth: np.ndarray | None = None) -> float:
        """Mean correlation within a test episode; episodes in which nothing changes say nothing."""
        wanted = self.between if truth is None else truth
        moving = [i for i in self.test if np.ptp(wanted[i]) > 0]
        return float(np.mean([correlation(steps[i][1:], wanted[i]) for i in moving]))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation; 0 where one side does not vary."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    found: Any = spearmanr(a, b)
    return round(float(found.statistic), 4)
