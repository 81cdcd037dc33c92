"""One cell of the table of objectives: a learner, an objective, a share of reversed labels, some strengths.

The task is that of :mod:`objectives_arm`; what is recorded and judged, :mod:`objectives_table` says.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from objectives_arm import RESETS, compare, record, success
from objectives_flow import Flow, learn
from torch import Tensor

from robopref.data.graded_lists import GradedLists, graded_lists, most_preferred
from robopref.data.preferences import Preferences
from robopref.objectives.audits import collapse
from robopref.objectives.description import POLICY, REWARD, SURROGATE, TOKENS
from robopref.objectives.registry import REGISTRY
from robopref.policies.offline import OfflinePolicy
from robopref.policies.preference import PreferencePolicy
from robopref.rewards.bradley_terry import BradleyTerryReward
from robopref.rewards.dataset import PreferencePairs, list_tensors, preference_tensors
from robopref.rewards.metrics import preference_metrics

FlowBatches = Callable[[torch.Generator | None], tuple[Tensor, Tensor, dict[str, Tensor]]]
FLIPS = (0.0, 0.1, 0.2, 0.3, 0.4)
LEARNERS = {"reward": REWARD, "policy": POLICY, "flow": SURROGATE, "token": TOKENS}
# beta, of a reward the factor of its returns; a flow's error counts less than a likelihood.
STRENGTHS = {
    "reward": (0.3, 1.0, 3.0),
    "policy": (0.1, 0.3, 1.0),
    "flow": (1.0, 3.0, 10.0),
    "token": (0.1, 0.3, 1.0),
}
BY_TAU = ("ipo", "sppo")  # they take beta out again
BY_TEMPERATURE = ("rwr", "awr", "ac_flow")  # weighted imitation, whose loss knows no beta
TEMPERATURES = (0.1, 0.3, 1.0)
REWARD_STEPS, CLONE_STEPS, POLICY_STEPS = 150, 800, 200
REWARD_RATE, POLICY_RATE = 3e-3, 1e-3
TOKEN_CLONE_STEPS, TOKEN_STEPS, BINS = 3000, 100, 16
PAIRS, LISTS, LIST_SIZE = 16, 8, 4  # in a batch of a policy: 32 segments either way
TOKEN_ACTOR = {"kind": "token", "bins": BINS, "hidden": [64, 64]}
FLOW_CLONE_STEPS, FLOW_CLONE_BATCH, FLOW_STEPS, FLOW_RATE = 3000, 256, 100, 2e-3


def trains(name: str, learner: str) -> bool:
    """Whether an objective trains a learner."""
    return not REGISTRY[name].refusal(LEARNERS[learner])


def strengths(name: str, learner: str) -> tuple[float, ...]:
    """The strengths that an objective is tried at: beta, tau or temperature; cloning by goals has none."""
    if name in BY_TEMPERATURE:
        return TEMPERATURES
    return (1.0,) if REGISTRY[name].extra == "goal" else STRENGTHS[learner]


class ScaledReward(BradleyTerryReward):
    """A reward model whose loss sees its returns times a factor, as a policy's sees beta times log-ratios."""

    scale = 1.0

    def batch_losses(self, returns: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """The objective's loss of the scaled returns."""
        return super().batch_losses(self.scale * returns, batch)


class Bench:
    """Data, clones and labels of one seed."""

    def __init__(self, seed: int, folder: Path):
        self.seed = seed
        self.store = record(folder / f"train{seed}", np.random.default_rng([seed, 0]))
        other = record(folder / f"test{seed}", np.random.default_rng([seed, 1]))
        self.held_out = preference_tensors(other, compare(other, 0.0, np.random.default_rng(0)))

    @functools.cached_property
    def clone(self) -> tuple[OfflinePolicy, float]:
        """The Gaussian clone of all episodes, and its success."""
        clone = PreferencePolicy(6, 2, hidden=(64, 64), seed=self.seed).cloner()
        train(clone, clone.prepare_data(self.store, None), CLONE_STEPS, 128, self.seed)
        return clone, success(lambda o: clone.act(o)[:, 0], self.seed)[0]

    @functools.cached_property
    def told_clone(self) -> tuple[OfflinePolicy, float]:
        """The same with one more input, how good it shall be, which is the best in all that it has seen."""
        clone = PreferencePolicy(6, 2, hidden=(64, 64), goal=True, seed=self.seed).cloner()
        train(clone, clone.prepare_data(self.store, None), CLONE_STEPS, 128, self.seed)
        return clone, success(lambda o: clone.act(o)[:, 0], self.seed)[0]

    @functools.cached_property
    def token_clone(self) -> tuple[OfflinePolicy, float]:
        """The token policy that imitates all episodes, and its success."""
        clone = PreferencePolicy(6, 2, actor=TOKEN_ACTOR, seed=self.seed).cloner()
        train(clone, clone.prepare_data(self.store, None), TOKEN_CLONE_STEPS, 128, self.seed)
        return clone, success(lambda o: clone.act(o)[:, 0], self.seed)[0]

    @functools.cached_property
    def flow_clone(self) -> tuple[Flow, float]:
        """The flow that matches all episodes, and its success."""
        clone = Flow(self.store, 1, self.seed)
        clone.imitate(FLOW_CLONE_STEPS, FLOW_CLONE_BATCH, 1e-3, self.seed)
        return clone, clone.success(self.seed)[0]

    def labels(self, flip: float) -> Preferences:
        """The same labels for every objective."""
        return compare(self.store, flip, np.random.default_rng([self.seed, 3]))

    def data(self, name: str, flip: float) -> PreferencePairs:
        """Pairs or lists, as the objective wants them; the tenth that is preferred most demonstrates."""
        preferences = self.labels(flip)
        if REGISTRY[name].labels == "lists":
            return list_tensors(self.store, self.lists(flip))
        shown = most_preferred(preferences, 0.1) if REGISTRY[name].extra == "demonstration" else None
        told = 2 * preferences.label - 1
        goals = np.stack([told, -told]) if REGISTRY[name].extra == "goal" else None
        return preference_tensors(self.store, preferences, demonstrations=shown, goals=goals)

    def lists(self, flip: float) -> GradedLists:
        """As many lists of four as there are reset states; which, the labels decide."""
        rng = np.random.default_rng([self.seed, 4])
        return graded_lists(self.labels(flip), LIST_SIZE, 4 * RESETS, rng)

    def reward(self, name: str, flip: float, strengths: tuple[float, ...]) -> list[dict[str, Any]]:
        """Accuracy of reward models, one for each strength, on pairs of other reset states."""
        return [self._reward(name, flip, strength) for strength in strengths]

    def _reward(self, name: str, flip: float, strength: float) -> dict[str, Any]:
        learner = ScaledReward(
            6, 2, hidden=(64, 64), objective=name, learning_rate=REWARD_RATE, seed=self.seed
        )
        learner.scale = strength
        pairs = self.data(name, flip)
        learner.fit_normaliser(pairs.observations())
        train(learner, pairs, REWARD_STEPS, 32 if len(pairs.segment_of) == 2 else 2 * LISTS, self.seed)
        return {"accuracy": preference_metrics(learner, self.held_out)["pair_accuracy"]}

    def policy(self, name: str, flip: float, strengths: tuple[float, ...]) -> list[dict[str, Any]]:
        """Success of Gaussian policies, one for each strength, and the collapse gate."""
        goal = REGISTRY[name].extra == "goal"
        clone = self.told_clone if goal else self.clone
        return [self._policy(name, flip, x, clone, POLICY_STEPS, goal=goal) for x in strengths]

    def token(self, name: str, flip: float, strengths: tuple[float, ...]) -> list[dict[str, Any]]:
        """The same of token policies."""
        options = {"actor": TOKEN_ACTOR}
        return [self._policy(name, flip, x, self.token_clone, TOKEN_STEPS, **options) for x in strengths]

    def _policy(
        self,
        name: str,
        flip: float,
        strength: float,
        clone: tuple[OfflinePolicy, float],
        steps: int,
        **options: Any,
    ) -> dict[str, Any]:
        options |= scaled(name, strength) | {"learning_rate": POLICY_RATE, "seed": self.seed}
        learner = PreferencePolicy(6, 2, hidden=(64, 64), **options)
        learner.start_from(clone[0])
        pairs = self.data(name, flip)
        listed = REGISTRY[name].labels == "lists"
        train(learner, pairs, steps, LISTS if listed else PAIRS, self.seed)
        found = learner.diagnose(pairs.batches(240))
        gate = collapse(found["chosen_change"], found["kl"])
        reached = success(lambda o: learner.act(o)[:, 0], self.seed)[0]
        return {"success": reached, "clone": clone[1]} | gate

    def flow(self, name: str, flip: float, strengths: tuple[float, ...]) -> list[dict[str, Any]]:
        """The same of flow policies, all strengths at once."""
        options = [scaled(name, strength) for strength in strengths]
        policy, found = learn(
            self.flow_clone[0],
            [o["objective"] for o in options],
            [o.get("beta", 1.0) for o in options],
            self.flow_batches(name, flip),
            FLOW_RATE,
            FLOW_STEPS,
            self.seed,
        )
        gates = [collapse(f["chosen_change"], f["kl"]) for f in found]
        return [
            {"success": reached, "clone": self.flow_clone[1]} | gate
            for reached, gate in zip(policy.success(self.seed), gates, strict=True)
        ]

    def flow_batches(self, name: str, flip: float) -> FlowBatches:
        """Episodes in one row, which of them share draws, and labels, at random or all of them."""
        listed, labels = REGISTRY[name].labels == "lists", self.labels(flip)
        ranked = self.lists(flip) if listed else None
        shown = most_preferred(labels, 0.1).episode if REGISTRY[name].extra == "demonstration" else None

        def draw(generator: torch.Generator | None) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
            count, size = (len(labels), PAIRS) if ranked is None else (len(ranked), LISTS)
            index = torch.arange(count)
            if generator is not None:
                index = torch.randint(count, (size,), generator=generator)
            rows, group = index.numpy(), torch.arange(len(index))
            batch = {"weights": torch.ones(len(index))}
            if ranked is not None:
                episodes = ranked.segments.episode.reshape(-1, LIST_SIZE)[rows].ravel()
                batch["labels"] = torch.from_numpy(ranked.grades[rows])
                batch["items"] = torch.from_numpy(ranked.items[rows])
                return torch.from_numpy(episodes), group.repeat_interleave(LIST_SIZE), batch
            sides = [labels.a.episode[rows], labels.b.episode[rows]]
            if shown is not None:
                sides.append(shown[rows % len(shown)])
            batch["labels"] = torch.from_numpy(labels.label[rows])
            return torch.from_numpy(np.concatenate(sides)), group.repeat(len(sides)), batch

        return draw


def scaled(name: str, strength: float) -> dict[str, Any]:
    """An objective at a strength."""
    if name in BY_TAU:
        return {"objective": {"name": name, "tau": strength}}
    if name in BY_TEMPERATURE:
        return {"objective": {"name": name, "temperature": strength}}
    return {"objective": name, "beta": strength}


def train(learner: Any, sampler: Any, steps: int, batch_size: int, seed: int) -> None:
    """Adam on batches that depend on the seed alone."""
    optimiser = torch.optim.Adam(learner.parameter_groups())
    generator = torch.Generator().manual_seed(seed)
    learner.train()
    for _ in range(steps):
        optimiser.zero_grad()
        learner.loss(sampler.sample(batch_size, generator), generator)[0].backward()
        optimiser.step()
        learner.after_step()
    learner.eval()
