"""RAPL: rewards from pixels, in a visual representation that preferences align.

Tian et al. 2023, "What Matters to You? Towards Visual Representation Alignment for Robot Learning" (arXiv
2310.07932), and 2024, "Maximizing Alignment with Minimal Feedback" (arXiv 2412.04835). The page follows the
method:

    collect episodes D of the task and film them
    ask 20 to 150 preferences between them;  the episodes that won most are the demonstrations o+
    phi = head(encoder): a frozen encoder and a small residual head, identity at first
    head minimises  -log sigmoid((d(b, o+) - d(a, o+)) / temperature)  over preferred a and disliked b,
        d(o, o') = <C, P>,  C = 1 - cos(phi(o_t), phi(o'_t')),  P = argmin <C, P> - epsilon H(P)
    rank D by -d(o, o+);  a reward of single steps follows from those ranks
    learn a policy from that reward;  or, where policy= learns from preferences (Diffusion-DPO):
        pi_ref = clone of D;  film and rank its rollouts by the reward;  pi moves from pi_ref by their order
    evaluate it, and beside it a policy from the true reward and a clone of D
"""

import dataclasses
from pathlib import Path
from typing import Any

from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError
from robopref.methods.components import (
    Collection,
    Component,
    EvaluationPlan,
    Fit,
    Hardware,
    LearnedFrom,
    Sampling,
    Scene,
    check_split,
)
from robopref.methods.phases.collect import collect
from robopref.methods.phases.comparisons import Comparisons
from robopref.methods.phases.direct import clone_reference, train_direct
from robopref.methods.phases.evaluate import evaluate, note_data
from robopref.methods.phases.lab import Lab
from robopref.methods.phases.label import label
from robopref.methods.phases.policy import train_policy
from robopref.methods.phases.visual import (
    align_reward,
    encode,
    film,
    filmed_judge,
    frame_rewards,
    rank_rollouts,
    sample_rollouts,
)
from robopref.nets.vision import make_encoder
from robopref.policies.preference import PreferencePolicy
from robopref.training.aligning import AligningPlan
from robopref.training.run import Run


@dataclasses.dataclass(frozen=True)
class Camera:
    """How episodes are filmed: options of the environment, and a frame every so many steps."""

    view: dict[str, Any]
    every: int

    def __post_init__(self):
        if self.every < 1:
            raise ConfigError(f"camera.every must be at least 1, got {self.every}")


@dataclasses.dataclass(frozen=True)
class Ranked:
    """How a policy that learns from preferences is moved by the reward.

    Attributes:
        sampling: Rollouts of its reference.
        gap: Least difference of two of their scores that makes a pair, in deviations of all scores.
        clone_fit: Of the reference.
        fit: Of the policy; a batch holds pairs, or lists.
        comparisons: What is made of the pairs.
    """

    sampling: Sampling
    gap: float
    clone_fit: Fit
    fit: Fit
    comparisons: Comparisons

    def __post_init__(self):
        if not self.gap >= 0:
            raise ConfigError(f"rollouts.gap must be 0 or more, got {self.gap}")


@dataclasses.dataclass(frozen=True)
class Rapl:
    """The parts of one experiment; what each does is written at its own class."""

    target: Scene
    collection: Collection
    data_dir: Path
    labels: str | None
    queries: int
    teacher: Component
    camera: Camera
    encoder: dict[str, Any]
    frame_reward: Component
    aligning: AligningPlan
    demonstrations: int
    policy: Component
    policy_fit: Fit
    ranked: Ranked
    evaluation: EvaluationPlan
    baselines: dict[str, LearnedFrom]
    held_out: float
    seed: int
    hardware: Hardware

    def __post_init__(self):
        check_split(self.held_out, self.queries)
        self.teacher.check()
        self.frame_reward.check(encoder=make_encoder(self.encoder))
        for name, baseline in self.baselines.items():
            if baseline.rewards in ("oracle", "labels"):
                raise ConfigError(f"baselines.{name}.rewards={baseline.rewards} is for experiment=pearl")
        for part in (self.policy, *(b.policy for b in self.baselines.values())):
            part.check(observation_size=1, action_size=1)
        self.target.check()


def run(parts: Rapl, record: Run) -> dict[str, Any]:
    """Learn a reward from frames and preferences, and a policy from it.

    Returns:
        The evaluation of the policy: ``n``, ``successes``, ``rate``, ``low``, ``high``, ``mean_return``.

    Raises:
        RoboprefError: Something was wrong with the configuration, the data or the machine.
    """
    lab = Lab(record, parts.hardware, parts.seed)
    store = collect(lab, parts.target, parts.collection, parts.data_dir)
    labels = parts.labels or label(lab, store, parts.target.task, parts.teacher, pairs=parts.queries)

    cache = film(lab, store, parts.camera.view, parts.camera.every)
    encoder, sequences = encode(lab, cache, parts.encoder)
    reward = align_reward(
        lab,
        parts.frame_reward,
        parts.aligning,
        encoder,
        sequences,
        store,
        labels,
        demonstrations=parts.demonstrations,
        held_out=parts.held_out,
        max_pairs=parts.queries,
    )
    rewards = frame_rewards(lab, reward, sequences, store)

    if _learns_from_preferences(parts.policy):
        policy = _moved(lab, parts, store, reward)
    else:
        policy = train_policy(lab, "policy", parts.policy, store, rewards, parts.policy_fit)
    judge = filmed_judge(reward, parts.camera.view, parts.camera.every)
    result = evaluate(lab, "RAPL", policy, parts.target, parts.evaluation, judge=judge)

    note_data(lab, store, parts.target)
    for name, baseline in parts.baselines.items():
        given = rewards if baseline.rewards == "learned" else baseline.rewards
        policy = train_policy(lab, f"baselines/{name}", baseline.policy, store, given, parts.policy_fit)
        evaluate(lab, name, policy, parts.target, dataclasses.replace(parts.evaluation, record=0))
    return result


def _learns_from_preferences(policy: Component) -> bool:
    return isinstance(policy.build(observation_size=1, action_size=1), PreferencePolicy)


def _moved(lab: Lab, parts: Rapl, store: TrajectoryStore, reward: Path) -> Path:
    """Clone the episodes, rank rollouts of the clone by the reward, and move it by their order."""
    plan, camera = parts.ranked, parts.camera
    reference = clone_reference(lab, parts.policy, store, plan.clone_fit)
    rollouts = sample_rollouts(lab, reference, parts.target, plan.sampling)
    frames = film(lab, rollouts, camera.view, camera.every, name="film-rollouts")
    labels = rank_rollouts(lab, reward, frames, gap=plan.gap)
    policy = train_direct(
        lab,
        parts.policy,
        rollouts,
        labels,
        reference,
        plan.fit,
        source="model",
        held_out=parts.held_out,
        comparisons=plan.comparisons,
    )
    evaluate(lab, "reference", reference, parts.target, dataclasses.replace(parts.evaluation, record=0))
    return policy
