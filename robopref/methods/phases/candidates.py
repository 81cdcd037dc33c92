"""Candidates: sampled from a policy, tried out by a scripted teacher, learned from, ranked while acting.

Letters used in shapes: K candidates of a state, H actions in a chunk, A entries of an action, O entries of an
observation.
"""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from robopref.data.candidates import Candidates
from robopref.errors import ConfigError
from robopref.files import write_json
from robopref.methods.components import Component, EvaluationPlan, Fit, Scene
from robopref.methods.phases.lab import Lab, file_content
from robopref.methods.phases.tryouts import states_met
from robopref.policies.candidates import CandidateLists, CandidatePairs
from robopref.policies.preference import PreferencePolicy
from robopref.policies.saved import load_policy, save_policy
from robopref.rewards.candidates import (
    CandidateReward,
    ExplicitReward,
    ImplicitReward,
    ProductReward,
    RankedPolicy,
)
from robopref.rewards.saved import load_reward, save_reward
from robopref.training.evaluation import evaluate as try_policy
from robopref.training.evaluation import evaluation_seeds
from robopref.training.rollout import make_environment
from robopref.training.symmetry import Symmetry, in_all_views, in_settings

RANKINGS = ("sample", "random", "implicit", "explicit", "product")


def label_candidates(
    lab: Lab, scene: Scene, policy: Path, *, states: int, count: int, execute: int | None = None
) -> Path:
    """Let a teacher try out what a policy proposes, and grade each proposal by what it leads to.

    The policy plays episodes of its own. In each state the environment is set back after every candidate has
    been carried out; its grade is the sum of rewards meanwhile. Returns the file of candidates.

    Args:
        lab: Where it is kept.
        scene: Whose environment offers ``snapshot()`` and ``restore()``.
        policy: The folder of a policy that samples.
        states: How many states are labelled.
        count: Candidates of each, K.
        execute: Actions of a chunk that are carried out; None for all.

    Raises:
        ConfigError: The environment cannot be set back, or a number makes no sense.
    """
    if states < 1 or count < 2:
        raise ConfigError(f"Labels need at least 1 state and 2 candidates, got {states=} and {count=}")
    path = lab.run.directory / "candidates.parquet"
    settings = {
        "policy": file_content(policy / "model.safetensors"),
        "scene": scene.identity,
        "states": states,
        "count": count,
        "execute": execute,
        "seed": lab.seed,
    }

    def work() -> dict[str, Any]:
        env = make_environment(scene.id, scene.options)
        try:
            met = list(islice(states_met(env, load_policy(policy), count, execute, lab.seed), states))
        finally:
            env.close()
        found = Candidates(
            np.stack([state.observation for state in met]),
            np.stack([state.chunks for state in met]),
            np.array([[sum(tried.rewards) for tried in state.tried] for state in met]),
            np.array([state.seed for state in met]),
            np.array([state.step for state in met]),
            {"task": scene.task, "env_id": scene.id, "source": "teacher", **settings},
        )
        found.save(path)
        return {"states": states, "pairs": len(found.pairs()), "content": found.content()}

    lab.run.phase("label-candidates", settings, work)
    return path


def prefer(
    lab: Lab,
    name: str,
    policy: Component,
    candidates: Path,
    reference: Path,
    plan: Fit,
    *,
    states: int | None = None,
    most: int | None = 16,
    symmetry: Symmetry | None = None,
) -> Path:
    """Learn a policy from ranked candidates, starting from its reference; returns its folder.

    Beside the weights lies ``metrics.json``, with the verdict of the collapse gate: how far samples are from
    preferred chunks, whatever the loss says.

    Args:
        lab: Where it is kept.
        name: Its folder in the run directory.
        policy: A :class:`~robopref.policies.preference.PreferencePolicy`.
        candidates: From :func:`label_candidates`.
        reference: The folder of the policy that proposed them.
        plan: How long to train; a batch holds pairs, or lists.
        states: Learn from the first so many; None takes all.
        most: Largest number of pairs of one state (DeformPAM's code takes 16).
        symmetry: Of the task; every pair or list is learned from in all its views.
    """
    folder = lab.run.directory / name
    data = _first(candidates, states)
    settings = {
        "policy": policy.settings,
        "reference": file_content(reference / "model.safetensors"),
        "candidates": data.content(),
        "most": most,
        "fit": plan.identity,
        "seed": lab.seed,
        **in_settings(symmetry),
    }

    def work() -> dict[str, Any]:
        learner = _build(lab, policy, data)
        if not isinstance(learner, PreferencePolicy):
            raise ConfigError(f"A {type(learner).__name__} does not learn from preferences")
        learner.start_from(load_policy(reference))
        pairs = CandidatePairs(data, most=most, device=lab.fabric.device)
        lists = learner.preference.objective.labels == "lists"
        batches = CandidateLists(data, device=lab.fabric.device) if lists else pairs
        metrics: dict[str, Any] = lab.fit(
            learner,
            in_all_views(batches, symmetry),
            plan,
            phase=f"train-{name}",
            folder=folder,
            settings=settings,
        )
        measured = learner.diagnose(pairs.batches(256))
        metrics |= measured | {"gate": learner.verdict(measured)}
        save_policy(folder, learner)
        write_json(folder / "metrics.json", metrics)
        return metrics

    result = lab.run.phase(f"train-policy/{name}", settings, work)
    lab.run.say(f"  {result['accuracy']:.1%} of the pairs of candidates ordered right")
    if result["gate"]["collapsed"]:
        lab.run.say(
            f"  COLLAPSED: {result['gate']['reason']}. objective=rpro with policy.imitation_weight=1, or a "
            "smaller policy.beta or learning rate, are the usual cures."
        )
    return folder


def train_candidate_reward(
    lab: Lab,
    name: str,
    reward: Component,
    candidates: Path,
    plan: Fit,
    *,
    states: int | None = None,
    most: int | None = 16,
    symmetry: Symmetry | None = None,
) -> Path:
    """Learn an ensemble over (observation, candidate) from rankings; arguments as of :func:`prefer`."""
    folder = lab.run.directory / name
    data = _first(candidates, states)
    settings = {
        "reward": reward.settings,
        "candidates": data.content(),
        "most": most,
        "fit": plan.identity,
        "seed": lab.seed,
        **in_settings(symmetry),
    }

    def work() -> dict[str, Any]:
        learner = _build(lab, reward, data)
        pairs = CandidatePairs(data, most=most, joined=True, device=lab.fabric.device)
        learner.fit_normaliser(pairs.observations().cpu())
        sampler = in_all_views(pairs, symmetry)
        metrics = lab.fit(learner, sampler, plan, phase=f"train-{name}", folder=folder, settings=settings)
        save_reward(folder, learner)
        return metrics

    lab.run.phase(f"train-reward/{name}", settings, work)
    return folder


def evaluate_ranked(
    lab: Lab,
    name: str,
    scene: Scene,
    plan: EvaluationPlan,
    *,
    proposer: Path,
    ranking: str,
    count: int,
    preferred: Path | None = None,
    reward: Path | None = None,
    draws: int = 16,
    caution: float = 1.0,
) -> dict[str, Any]:
    """Try a policy that samples ``count`` chunks and acts with the best; returns the evaluation's summary.

    Args:
        lab: Where it is kept.
        name: What tables and bars call it.
        scene: Where it is tried.
        plan: How many episodes.
        proposer: The folder of the policy that samples.
        ranking: One of :data:`RANKINGS`: ``sample`` (what the proposer itself does), ``random`` of the count,
            ``implicit`` (of ``preferred``), ``explicit`` (of ``reward``), or their ``product``.
        count: Candidates, K.
        preferred: The folder of a preference policy.
        reward: The folder of a :class:`~robopref.rewards.candidates.CandidateReward`.
        draws: Of the implicit reward.
        caution: k of mean - k * epistemic, by which candidates are ranked (:mod:`robopref.scores`).
    """
    folders = {"proposer": proposer, "preferred": preferred, "reward": reward}
    settings = {
        **{k: None if f is None else file_content(f / "model.safetensors") for k, f in folders.items()},
        "scene": scene.identity,
        "episodes": plan.episodes,
        "ranking": ranking,
        "count": count,
        "draws": draws,
        "caution": caution,
        "seed": lab.seed,
    }

    def work() -> dict[str, Any]:
        sampler = load_policy(proposer)
        scorer = _scorer(ranking, preferred, reward, draws)
        policy = (
            sampler if ranking == "sample" else RankedPolicy(sampler, scorer, count=count, caution=caution)
        )
        result = try_policy(
            policy,
            name=name,
            env_id=scene.id,
            env_options=scene.options,
            seeds=evaluation_seeds(plan.episodes, lab.seed * plan.episodes),
            workers=lab.hardware.workers,
            directory=lab.run.directory / "evaluation",
        )
        return result.summary()

    summary = lab.run.phase(f"evaluate/{name}", settings, work)
    lab.run.say(
        f"  {name}: return {summary['mean_return']:.3g}, {summary['rate']:.0%} of {summary['n']} successful"
    )
    return summary


def _scorer(ranking: str, preferred: Path | None, reward: Path | None, draws: int) -> Any:
    if ranking in ("sample", "random"):
        return None
    parts = []
    if ranking in ("implicit", "product"):
        policy = None if preferred is None else load_policy(preferred)
        if not isinstance(policy, PreferencePolicy):
            raise ConfigError(f"The ranking {ranking} needs the folder of a preference policy")
        parts.append(ImplicitReward(policy, draws=draws))
    if ranking in ("explicit", "product"):
        ensemble = None if reward is None else load_reward(reward)
        if not isinstance(ensemble, CandidateReward):
            raise ConfigError(f"The ranking {ranking} needs the folder of a reward of candidates")
        parts.append(ExplicitReward(ensemble))
    if not parts:
        raise ConfigError(f"ranking must be one of {', '.join(RANKINGS)}, got {ranking!r}")
    return parts[0] if len(parts) == 1 else ProductReward(*parts)


def _first(path: Path, states: int | None) -> Candidates:
    found = Candidates.load(path)
    return found if states is None else found.first(states)


def _build(lab: Lab, part: Component, data: Candidates) -> Any:
    return part.build(
        observation_size=data.observations.shape[1], action_size=data.chunks.shape[3], seed=lab.seed
    )
