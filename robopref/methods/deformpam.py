"""DeformPAM: preferences over what a policy proposes become a reward that picks its best proposal.

Chen et al. 2024, "DeformPAM: Data-Efficient Learning for Long-horizon Deformable Object Manipulation via
Preference-based Action Alignment" (arXiv 2410.11584). The page follows the algorithm:

    collect demonstrations D of the task
    pi_SL = diffusion policy, supervised on D
    in states that pi_SL meets: sample K actions, let a teacher rank them
    pi_PL starts from pi_SL and learns from the rankings (Diffusion-DPO)
    act: sample K actions from pi_SL, carry out the one with the largest implicit reward
        r(s, a) = -beta/2 E_t,noise [ |noise - pi_PL|^2 - |noise - pi_SL|^2 ]

Beside it stand, from the same initial states: pi_SL, pi_SL with twice the demonstrations, samples of pi_PL, a
random one of K, the ranking of an explicit ensemble of rewards, and that of the product of both.
"""

import dataclasses
from pathlib import Path
from typing import Any

from robopref.errors import ConfigError
from robopref.methods.components import Collection, Component, EvaluationPlan, Fit, Hardware, Scene
from robopref.methods.phases.candidates import (
    evaluate_ranked,
    label_candidates,
    prefer,
    train_candidate_reward,
)
from robopref.methods.phases.collect import collect
from robopref.methods.phases.direct import clone_reference
from robopref.methods.phases.evaluate import note_data
from robopref.methods.phases.lab import Lab
from robopref.methods.phases.tryouts import film_candidates, ranked_by_people
from robopref.training.run import Run
from robopref.training.symmetry import Symmetry


@dataclasses.dataclass(frozen=True)
class Selection:
    """What is labelled, and how the best candidate is picked.

    Attributes:
        labels_from: Who ranks candidates: ``teacher`` (by the reward that each earns), ``human`` (people, who
            see films of them), or a file of ranked candidates (.parquet), as ``robopref data candidates``
            makes.
        states: States in which candidates are ranked.
        labelled: Candidates of each such state.
        count: Candidates at each decision of an evaluation, K.
        draws: Times and noises of the implicit reward.
        caution: k of mean - k * epistemic, by which candidates are ranked (:mod:`robopref.scores`).
    """

    labels_from: str
    states: int
    labelled: int
    count: int
    draws: int
    caution: float

    def __post_init__(self):
        if self.labels_from not in ("teacher", "human") and not self.labels_from.endswith(".parquet"):
            raise ConfigError(
                f"selection.labels_from must be teacher, human, or a .parquet file, got {self.labels_from!r}"
            )
        for name, least in (("states", 1), ("labelled", 2), ("count", 1), ("draws", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"selection.{name} must be at least {least}, got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class DeformPAM:
    """The parts of one experiment; what each does is written at its own class."""

    target: Scene
    collection: Collection
    data_dir: Path
    policy: Component
    reward: Component
    selection: Selection
    clone_fit: Fit
    policy_fit: Fit
    reward_fit: Fit
    evaluation: EvaluationPlan
    symmetry: Symmetry | None
    seed: int
    hardware: Hardware

    def __post_init__(self):
        self.target.check()


def ranked(lab: Lab, scene: Scene, policy: Path, chosen: Selection) -> Path:
    """The file of ranked candidates, whoever ranks them."""
    if chosen.labels_from == "teacher":
        return label_candidates(lab, scene, policy, states=chosen.states, count=chosen.labelled)
    if chosen.labels_from == "human":
        return ranked_by_people(
            lab, film_candidates(lab, scene, policy, states=chosen.states, count=chosen.labelled)
        )
    return Path(chosen.labels_from)


def run(parts: DeformPAM, record: Run) -> dict[str, Any]:
    """Learn to pick the best of what a policy proposes.

    Returns:
        The evaluation of implicit ranking: ``n``, ``successes``, ``rate``, ``low``, ``high``,
        ``mean_return``.

    Raises:
        RoboprefError: Something was wrong with the configuration, the data or the machine.
    """
    lab, scene, chosen = Lab(record, parts.hardware, parts.seed), parts.target, parts.selection
    demonstrations = collect(lab, scene, parts.collection, parts.data_dir)
    views: dict[str, Any] = {"symmetry": parts.symmetry}
    supervised = clone_reference(lab, parts.policy, demonstrations, parts.clone_fit, **views)

    candidates = ranked(lab, scene, supervised, chosen)
    preferred = prefer(lab, "policy", parts.policy, candidates, supervised, parts.policy_fit, **views)
    reward = train_candidate_reward(lab, "reward", parts.reward, candidates, parts.reward_fit, **views)

    def attempt(name: str, ranking: str, proposer: Path = supervised) -> dict[str, Any]:
        return evaluate_ranked(
            lab,
            name,
            scene,
            parts.evaluation,
            proposer=proposer,
            ranking=ranking,
            count=chosen.count,
            preferred=preferred,
            reward=reward,
            draws=chosen.draws,
            caution=chosen.caution,
        )

    result = attempt("implicit-ranking", "implicit")
    attempt("explicit-ranking", "explicit")
    attempt("product-ranking", "product")
    attempt("random-of-K", "random")
    attempt("supervised", "sample")
    attempt("DPO-sampling", "sample", preferred)

    twice = dataclasses.replace(parts.collection, episodes=2 * parts.collection.episodes)
    more = collect(lab, scene, twice, parts.data_dir, name="twice")
    larger = clone_reference(lab, parts.policy, more, parts.clone_fit, name="reference-twice", **views)
    attempt("supervised-twice", "sample", larger)
    note_data(lab, demonstrations, scene)
    return result
