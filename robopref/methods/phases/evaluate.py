"""Success of a policy on seeds that no collected episode has."""

from pathlib import Path
from typing import Any

import numpy as np

from robopref.data.store import TrajectoryStore
from robopref.methods.components import EvaluationPlan, Scene
from robopref.methods.phases.lab import Lab, file_content
from robopref.nets.checkpoint import read_config
from robopref.policies.saved import SEEING, load_policy
from robopref.rewards.saved import load_reward
from robopref.training.evaluation import evaluate as try_policy
from robopref.training.evaluation import evaluation_seeds
from robopref.training.recording import Judge
from robopref.training.results import Evaluation


def evaluate(
    lab: Lab,
    name: str,
    policy: Path,
    scene: Scene,
    plan: EvaluationPlan,
    *,
    reward: Path | None = None,
    judge: Judge | None = None,
) -> dict[str, Any]:
    """Try a policy on the evaluation seeds; returns the summary with its Wilson 95 % interval.

    Args:
        name: What tables and bars call the policy.
        policy: Its folder.
        scene: Where it is tried.
        plan: How many episodes, and how many of them are filmed.
        reward: A reward model whose trace is recorded under the films.
        judge: Gives that trace in its place; the summary does not depend on it.
    """
    if read_config(policy)["kind"] in SEEING:
        return _evaluate_seeing(lab, name, policy, scene, plan)
    folder = lab.run.directory / "evaluation"
    settings = {
        "policy": file_content(policy / "model.safetensors"),
        "reward": None if reward is None else file_content(reward / "model.safetensors"),
        "scene": scene.identity,
        "episodes": plan.episodes,
        "seed": lab.seed,
    }

    def work() -> dict[str, Any]:
        result = try_policy(
            load_policy(policy),
            name=name,
            env_id=scene.id,
            env_options={**scene.options, **scene.view},
            seeds=evaluation_seeds(plan.episodes, lab.seed * plan.episodes),
            workers=lab.hardware.workers,
            record=plan.record,
            directory=folder,
            reward=None if reward is None else load_reward(reward).predict,
            judge=judge,
        )
        return result.summary()

    summary = lab.run.phase(f"evaluate/{name}", settings, work)
    _say(lab, name, summary)
    return summary


def _say(lab: Lab, name: str, summary: dict[str, Any]) -> None:
    lab.run.say(
        f"  {name}: {summary['rate']:.0%} of {summary['n']} episodes successful "
        f"(95 % interval {summary['low']:.0%} to {summary['high']:.0%})"
    )


def _evaluate_seeing(lab: Lab, name: str, policy: Path, scene: Scene, plan: EvaluationPlan) -> dict[str, Any]:
    """Try a policy that sees on the same seeds, through the camera of the scene's view; nothing is filmed."""
    from robopref.methods.phases.vla import Sight
    from robopref.methods.phases.vla_trials import Axis, evaluate_axes
    from robopref.policies.vla.saved import load_vla

    found = evaluate_axes(
        lab,
        name,
        policy,
        [scene],
        {"in-domain": Axis()},
        sight=Sight.of(load_vla(policy), str(scene.view.get("camera", "corner2")), scene),
        episodes=plan.episodes,
    )["in-domain"]
    _say(lab, name, found)
    return found


def note_data(lab: Lab, store: TrajectoryStore, scene: Scene) -> None:
    """Write down how the collected episodes fared: what a policy starts from.

    Instead of a seed stands the episode's number.
    """
    collected = Evaluation(
        policy="collected-data",
        task=scene.task,
        env_id=scene.id,
        env_options=scene.options,
        seeds=np.arange(len(store)),
        successes=store.successes,
        returns=store.returns,
        lengths=store.lengths,
    )
    collected.save(lab.run.directory / "evaluation" / "collected-data.json")
