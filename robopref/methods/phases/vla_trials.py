"""Phases of GRAPE that try policies, greedily or by drawing, from the same states along every axis."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robopref.data.language import wordings
from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError
from robopref.methods.components import Sampling, Scene
from robopref.methods.phases.lab import Lab, training_seeds
from robopref.methods.phases.vla import Sight, rolled
from robopref.policies.vla.data import steps_until_success
from robopref.training.evaluation import evaluation_seeds
from robopref.training.results import Evaluation
from robopref.training.rollouts import Assignment
from robopref.training.signals import replayed_signals

SAME_ALONG_ALL = {"task", "horizon", "terminate_on_success", "width", "height", "detail_m", "render_mode"}


@dataclasses.dataclass(frozen=True)
class Axis:
    """One way in which an evaluation differs from what was trained.

    Attributes:
        view: What ``gymnasium.make`` gets besides: another camera, light, an object of another colour.
        held_out_wording: Whether instructions are such as no training saw.
        training_starts: Whether it begins where the compared rollouts of the first round began.
        sampled: Whether actions are drawn, at the temperature of rollouts, and not the best ones.
        variants: Names of the variants that are tried along it, beside the start and the policies of the
            rounds; None for all.
    """

    view: dict[str, Any] = dataclasses.field(default_factory=dict)
    held_out_wording: bool = False
    training_starts: bool = False
    sampled: bool = False
    variants: Sequence[str] | None = None

    def __post_init__(self):
        if same := sorted(self.view.keys() & SAME_ALONG_ALL):
            raise ConfigError(
                f"A view may be another camera, light or start; {same[0]} is the same along every axis"
            )
        if self.variants is not None and not isinstance(self.variants, list | tuple):
            raise ConfigError(f"The variants of an axis are written as [tpo], got {self.variants!r}")

    def tries(self, name: str, variants: Collection[str]) -> bool:
        """Whether a policy, which may be a variant, is tried along it."""
        return self.variants is None or name in self.variants or name not in variants


def evaluate_axes(
    lab: Lab,
    name: str,
    policy: Path,
    scenes: Sequence[Scene],
    axes: Mapping[str, Axis],
    *,
    sight: Sight,
    episodes: int,
    sampling: Sampling | None = None,
) -> dict[str, dict[str, Any]]:
    """Return success with its interval, collisions and length of a policy along every axis.

    It acts greedily unless the axis says otherwise, and on the same seeds as every policy. ``collision`` is
    the share of episodes in which the arm touches the scene, ``steps`` the mean number of actions until
    success or the end; a Wilson 95 % interval is around the success rate over all tasks. ``episodes`` holds
    the columns ``task``, ``seed`` (the environment's), ``success``, ``collision`` and ``steps``, one entry
    per episode.
    """
    found, sampling = {}, sampling or Sampling()
    for axis, how in axes.items():
        seeds = trial_seeds(lab, [scene.task for scene in scenes], how, episodes, sampling)
        stores = _tried(lab, f"trials/{name}/{axis}", policy, scenes, seeds, how, sight, sampling.at_once)
        evaluation, found[axis] = _summary(name, stores)
        if axis == next(iter(axes)):
            evaluation.save(lab.run.directory / "evaluation" / f"{name}.json")  # what the report reads
    return found


def validate(
    lab: Lab,
    name: str,
    policy: Path,
    scenes: Sequence[Scene],
    *,
    sight: Sight,
    states: int,
    at_once: int,
) -> dict[str, Any]:
    """Try a policy greedily from states that are kept for choosing among a run's own policies.

    No demonstration, rollout or evaluation begins in them.

    Returns:
        ``successes`` of every state, task by task, ``rate``, and ``steps``, their mean number until success.
    """
    seeds = {scene.task: training_seeds(lab, scene.task, states, purpose="validation") for scene in scenes}
    stores = _tried(lab, f"validation/{name}", policy, scenes, seeds, Axis(), sight, at_once)
    _, summary = _summary(name, stores)
    successes = np.array(summary["episodes"]["success"], bool)
    return {"successes": successes, "rate": summary["rate"], "steps": summary["steps"]}


def _tried(
    lab: Lab,
    phase: str,
    policy: Path,
    scenes: Sequence[Scene],
    seeds: Mapping[str, tuple[int, ...]],
    how: Axis,
    sight: Sight,
    at_once: int,
) -> dict[str, TrajectoryStore]:
    assignments = [
        Assignment(
            scene.task,
            scene.id,
            {**scene.options, **sight.view, **how.view},
            wordings(scene.task).held_out if how.held_out_wording else wordings(scene.task).seen,
            seeds[scene.task],
            1,
            deterministic=not how.sampled,
            until_success=True,
        )
        for scene in scenes
    ]
    return rolled(lab, phase, policy, assignments, at_once)


def trial_seeds(
    lab: Lab, tasks: Sequence[str], how: Axis, episodes: int, sampling: Sampling
) -> dict[str, tuple[int, ...]]:
    """Environment seeds of each task's episodes along an axis; no two tasks or runs evaluate the same."""
    if how.training_starts:
        return {task: training_seeds(lab, task, sampling.starts, purpose="round1") for task in tasks}
    first = lab.seed * len(tasks) * episodes
    return {
        task: tuple(evaluation_seeds(episodes, first + number * episodes))
        for number, task in enumerate(tasks)
    }


def _summary(name: str, stores: Mapping[str, TrajectoryStore]) -> tuple[Evaluation, dict[str, Any]]:
    columns: dict[str, list[Any]] = {k: [] for k in ("task", "seed", "success", "collision", "steps")}
    returns, tasks = [], {}
    for task, store in stores.items():
        collisions = replayed_signals(store)["collision"]
        used = steps_until_success(store)
        for episode in range(len(store)):
            first = int(store.first_rows[episode])
            rows = slice(first, first + int(used[episode]) + 1)
            columns["collision"].append(bool((collisions[rows] > 0).any()))
            columns["seed"].append(store.provenance(episode).seed)
        columns["task"] += [task] * len(store)
        columns["success"] += store.successes.tolist()
        columns["steps"] += used.tolist()
        returns.append(store.returns)
        tasks[task] = float(store.successes.mean())
    evaluation = Evaluation(
        policy=name,
        task="+".join(stores),
        env_id="several",
        seeds=np.array(columns["seed"]),
        successes=np.array(columns["success"]),
        returns=np.concatenate(returns),
        lengths=np.array(columns["steps"]),
    )
    summary = evaluation.summary()
    del summary["held_out"]
    return evaluation, {
        **summary,
        "steps": float(np.mean(columns["steps"])),
        "collision": float(np.mean(columns["collision"])),
        "tasks": tasks,
        "episodes": columns,
    }
