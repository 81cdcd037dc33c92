"""Phase of GRAPE that learns from judged rollouts."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robopref.files import write_json
from robopref.methods.components import Fit
from robopref.methods.phases.lab import Lab, file_content
from robopref.methods.phases.label import content
from robopref.methods.phases.vla import SETTLING, WEIGHTS, fit_and_settle
from robopref.methods.phases.vla_compared import Comparison, labels_of
from robopref.methods.phases.vla_how import Alignment
from robopref.methods.phases.vla_scores import Judged, task_of
from robopref.policies.vla.advantage import ClippedAdvantage
from robopref.policies.vla.data import FilmedEpisodes
from robopref.policies.vla.preference import TrajectoryPreference
from robopref.policies.vla.saved import load_vla, save_vla
from robopref.policies.vla.seeing import SeeingPolicy
from robopref.training.step import Sampler


def align_policy(
    lab: Lab,
    name: str,
    policy: Path,
    rounds: Sequence[Judged],
    demonstrations: Sequence[FilmedEpisodes],
    how: Alignment,
    plan: Fit,
) -> Path:
    """Learn from judged rollouts; returns the folder of what was learned.

    Args:
        lab: Where it works.
        name: Its folder in the run directory.
        policy: What it starts from, which is also its reference.
        rounds: Judged rollouts, the present round last; earlier ones are replayed.
        demonstrations: Some of them are mixed in, to be imitated.
        how: See :class:`Alignment`.
        plan: How long; a batch holds groups. Advantages and imitation get as many decisions per step.
    """
    folder = lab.run.directory / name
    labels = [labels_of(lab, judged, how) for judged in rounds]
    settings = {
        "start": file_content(policy / WEIGHTS),
        "how": dataclasses.asdict(how),
        "rollouts": [[source.frames.content() for source in judged.rollouts] for judged in rounds],
        "labels": [{task: content(found) for task, found in each.items()} for each in labels],
        "demonstrations": [source.frames.content() for source in demonstrations],
        "stages": [judged.judge.contents(map(task_of, judged.rollouts)) for judged in rounds]
        if how.segment == "stage"
        else None,
        "fit": plan.identity,
        "settling": SETTLING,
        "seed": lab.seed,
    }

    def work() -> dict[str, Any]:
        learner = load_vla(policy, device=lab.fabric.device)
        learner.refuse_another(how.adapter)
        if how.adapter is not None and learner.adapter is None:
            learner.adopt(how.adapter)
        comparison = Comparison(policy, learner, rounds, labels, demonstrations, how, lab)
        learns, material, budget = _lesson(learner, comparison, how, plan)
        metrics = fit_and_settle(lab, learns, material, budget, name, folder, settings)
        save_vla(folder, learner)
        write_json(folder / "metrics.json", metrics)
        return {**metrics, "groups": comparison.size}

    lab.run.phase(f"align/{name}", settings, work, together=True)
    return folder


def _lesson(
    learner: SeeingPolicy, comparison: Comparison, how: Alignment, plan: Fit
) -> tuple[Any, Sampler, Fit]:
    """What is trained, on what, and how long."""
    if how.kind == "preference":
        return preferring(learner, how), comparison.groups(), plan
    size = max(1, int(2 * plan.batch_size * comparison.decisions.counts.mean()))
    decisions = dataclasses.replace(plan, batch_size=size)
    rate = how.learning_rate or learner.learning_rate
    if how.kind == "advantage":
        learns = ClippedAdvantage(learner, clip=how.clip, window=how.window, learning_rate=rate)
        return learns, comparison.credited(), decisions
    learner.learning_rate = rate
    return learner, comparison.imitated(), decisions


def preferring(policy: SeeingPolicy, how: Alignment) -> TrajectoryPreference:
    """Return what learns from preferences as an alignment says."""
    return TrajectoryPreference(
        policy,
        objective=how.objective,
        beta=how.beta,
        reduce=how.reduce,
        imitation_weight=how.imitation_weight,
        window=how.window,
        learning_rate=how.learning_rate or policy.learning_rate,
    )
