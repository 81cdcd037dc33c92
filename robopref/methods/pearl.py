"""PEARL: preferences of one task are carried to another, and a robust reward learns from them.

Liu et al. 2024, "PEARL: Zero-shot Cross-task Preference Alignment and Robust Reward Learning for Robotic
Manipulation", ICML (arXiv 2306.03615). The page follows the algorithm:

    for each source task:  collect episodes D_s and label pairs of them
    collect episodes D_t of the target task, unlabelled
    CPA:  T_s = Gromov-Wasserstein coupling of D_s and D_t;   Z_t = mean over s of P_s' Z_s P_s
    RRL:  r(s, a) ~ N(mu, sigma^2) fitted to Z_t
    relabel D_t with mu, learn a policy offline, evaluate it

Each part can be another one: any alignment, reward, policy. ``alignment=auto`` goes beyond the paper: it
validates itself on the sources, and asks the teacher or people for a few labels of the target
(``anchor_pairs``). The paper's offline learner is IQL (``policy=iql``); ``conf/experiment/pearl.yaml`` says
why the default is another.
"""

import dataclasses
from pathlib import Path
from typing import Any

from robopref.data.queries_informed import query_named
from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError
from robopref.methods.components import (
    Collection,
    Component,
    EvaluationPlan,
    Fit,
    Hardware,
    LearnedFrom,
    Scene,
    check_sources,
    check_split,
)
from robopref.methods.phases.align import align, answered_by_people, ask, check_anchors
from robopref.methods.phases.clips import film_coupling
from robopref.methods.phases.collect import collect
from robopref.methods.phases.comparisons import Comparisons
from robopref.methods.phases.direct import clone_reference, train_direct
from robopref.methods.phases.evaluate import evaluate, note_data
from robopref.methods.phases.inverse import train_inverse
from robopref.methods.phases.lab import Lab
from robopref.methods.phases.label import label
from robopref.methods.phases.policy import train_policy
from robopref.methods.phases.reward import train_reward
from robopref.policies.ipl import InversePreferenceLearning
from robopref.policies.preference import PreferencePolicy
from robopref.training.run import Run


@dataclasses.dataclass(frozen=True)
class Pearl:
    """The parts of one experiment; what each does is written at its own class."""

    target: Scene
    sources: list[Scene]
    collection: Collection
    data_dir: Path
    teacher: Component
    alignment: Component
    anchor_pairs: int
    anchor_query: str
    anchors_from: str
    film_coupling: bool
    reward: Component
    policy: Component
    reward_fit: Fit
    policy_fit: Fit
    clone_fit: Fit
    preferences_fit: Fit
    evaluation: EvaluationPlan
    baselines: dict[str, LearnedFrom]
    held_out: float
    max_pairs: int | None
    comparisons: Comparisons
    seed: int
    hardware: Hardware

    def __post_init__(self):
        check_sources(self.sources, self.target)
        check_split(self.held_out, self.max_pairs)
        self.teacher.check()
        self.alignment.check()
        if self.anchor_pairs < 0:
            raise ConfigError(f"anchor_pairs must be 0 or more, got {self.anchor_pairs}")
        if self.anchor_pairs:
            check_anchors(self.alignment)
            query_named(self.anchor_query)
        if self.anchors_from not in ("teacher", "human"):
            raise ConfigError(f"anchors_from must be teacher or human, got {self.anchors_from!r}")
        asked = self.anchor_pairs > 0 and self.anchor_query == "information_gain"
        if self.anchors_from == "human" and not asked:
            raise ConfigError(
                "People are asked about anchor_pairs=<how many> pairs that tell most "
                f"(anchor_query=information_gain), got {self.anchor_pairs} and {self.anchor_query}"
            )
        for part in (self.reward, self.policy, *(b.policy for b in self.baselines.values())):
            part.check(observation_size=1, action_size=1)
        for name, baseline in self.baselines.items():
            _check_learns_from(name, baseline)
        for scene in (*self.sources, self.target):
            scene.check()


def run(parts: Pearl, record: Run) -> dict[str, Any]:
    """Carry labels of the source tasks to a policy of the target task.

    Returns:
        The evaluation of the policy: ``n``, ``successes``, ``rate``, ``low``, ``high``, ``mean_return``.

    Raises:
        RoboprefError: Something was wrong with the configuration, the data or the machine.
    """
    lab = Lab(record, parts.hardware, parts.seed)
    sources = {}
    for source in parts.sources:
        store = collect(lab, source, parts.collection, parts.data_dir)
        sources[source.task] = (store, label(lab, store, source.task, parts.teacher))
    target = collect(lab, parts.target, parts.collection, parts.data_dir)

    anchors = None
    if parts.anchor_pairs and parts.anchors_from == "human":
        anchors = answered_by_people(
            lab, parts.alignment, sources, target, parts.target.task, pairs=parts.anchor_pairs
        )
    elif parts.anchor_pairs:
        asked = {"pairs": parts.anchor_pairs, "query": parts.anchor_query}
        anchors = ask(lab, parts.alignment, sources, target, parts.target.task, parts.teacher, **asked)
    labels = align(lab, parts.alignment, sources, target, parts.target.task, anchors=anchors)
    if parts.film_coupling:
        stores = {name: store for name, (store, _) in sources.items()}
        film_coupling(lab, stores, target, parts.target.view)
    reward = train_reward(
        lab,
        parts.reward,
        target,
        labels,
        parts.reward_fit,
        source="transfer",
        held_out=parts.held_out,
        max_pairs=parts.max_pairs,
        comparisons=parts.comparisons,
    )
    policy = train_policy(lab, "policy", parts.policy, target, reward, parts.policy_fit)
    result = evaluate(lab, "PEARL", policy, parts.target, parts.evaluation, reward=reward)

    note_data(lab, target, parts.target)
    for name in parts.baselines:
        policy = _baseline(lab, parts, name, target, labels, reward)
        evaluate(lab, name, policy, parts.target, dataclasses.replace(parts.evaluation, record=0))
    return result


def _check_learns_from(name: str, baseline: LearnedFrom) -> None:
    """Refuse labels for a policy that learns from rewards, and the reverse."""
    policy = baseline.policy.build(observation_size=1, action_size=1)
    takes_labels = isinstance(policy, PreferencePolicy | InversePreferenceLearning)
    if takes_labels != (baseline.rewards == "labels"):
        wanted = "rewards=labels" if takes_labels else "rewards=learned, oracle, true or none"
        raise ConfigError(
            f"baselines.{name}: {type(policy).__name__} needs {wanted}, got rewards={baseline.rewards}"
        )


def _baseline(lab: Lab, parts: Pearl, name: str, target: TrajectoryStore, labels: str, reward: Path) -> Path:
    """Learn a policy that PEARL's is compared with, on the same episodes; returns its folder."""
    baseline, folder = parts.baselines[name], f"baselines/{name}"
    split: dict[str, Any] = {"held_out": parts.held_out, "max_pairs": parts.max_pairs}
    if baseline.rewards != "labels":
        rewards: Path | str = baseline.rewards
        if rewards == "learned":
            rewards = reward
        elif rewards == "oracle":
            rewards = _oracle_reward(lab, parts, target, split)
        return train_policy(lab, folder, baseline.policy, target, rewards, parts.policy_fit)
    split["source"] = "transfer"
    policy = baseline.policy
    if isinstance(policy.build(observation_size=1, action_size=1), InversePreferenceLearning):
        return train_inverse(lab, folder, policy, target, labels, parts.policy_fit, **split)
    reference = clone_reference(lab, policy, target, parts.clone_fit, name=f"reference-{name}")
    return train_direct(lab, policy, target, labels, reference, parts.preferences_fit, name=folder, **split)


def _oracle_reward(lab: Lab, parts: Pearl, target: TrajectoryStore, split: dict[str, Any]) -> Path:
    """Learn the reward from what the teacher says of the target itself: as of a perfect transfer."""
    url = label(lab, target, "oracle", parts.teacher)
    return train_reward(
        lab,
        parts.reward,
        target,
        url,
        parts.reward_fit,
        name="oracle",
        comparisons=parts.comparisons,
        **split,
    )
