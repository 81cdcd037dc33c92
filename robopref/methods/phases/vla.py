"""Phases of policies that see: demonstrations with frames, supervised learning, rollouts."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robopref.data.language import wordings
from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError
from robopref.methods.components import Component, Fit, Sampling, Scene
from robopref.methods.phases.lab import Lab, file_content, training_seeds
from robopref.policies.vla.data import Decisions, FilmedEpisodes
from robopref.policies.vla.openvla import OpenVLAPolicy
from robopref.policies.vla.saved import load_vla, save_vla
from robopref.policies.vla.seeing import SeeingPolicy
from robopref.training.filming import film_store
from robopref.training.rollouts import Assignment, collect_rollouts, open_rollouts
from robopref.training.step import Sampler

WEIGHTS = "model.safetensors"
SETTLING = {"share": 0.25, "rate": 0.1}
"""The last share of supervised learning, and of every alignment, goes at this part of the step size.

At a constant step size a policy ends where the noise of its batches left it; whatever learns on more slowly,
from demonstrations alone too, then moves it as far as an alignment does (docs/results/grape-development.md).
"""


@dataclasses.dataclass(frozen=True)
class Sight:
    """How a policy looks at a simulator.

    Attributes:
        view: What the simulator is made with so that its frames fit the policy.
        every: Steps between two frames, which are as many as the actions of a chunk.
    """

    view: dict[str, Any]
    every: int

    @classmethod
    def of(cls, policy: SeeingPolicy, camera: str, scene: Scene) -> "Sight":
        """Return how a policy looks through a camera, with as little detail as frames of the scene have."""
        size = policy.image_size
        drawn = {name: value for name, value in scene.view.items() if name == "detail_m" and value}
        return cls({"camera": camera, "width": size, "height": size, **drawn}, policy.horizon)


def film(lab: Lab, name: str, stores: Mapping[str, TrajectoryStore], sight: Sight) -> list[FilmedEpisodes]:
    """Draw one frame per decision of all episodes, where that was not done before."""
    view, every = sight.view, sight.every

    def work() -> dict[str, Any]:
        for store in stores.values():
            film_store(store, view=view, every=every, workers=lab.hardware.workers)
        return {"episodes": sum(len(store) for store in stores.values())}

    settings = {
        "data": {task: store.fingerprint() for task, store in stores.items()},
        "view": view,
        "every": every,
    }
    lab.run.phase(f"film/{name}", settings, work)
    return [
        FilmedEpisodes(
            store,
            film_store(store, view=view, every=every, workers=0, progress=False),
            _told(task, store),
        )
        for task, store in stores.items()
    ]


def _told(task: str, store: TrajectoryStore) -> list[str]:
    """What the robot was told in each episode; demonstrations get the wordings in turn."""
    texts = wordings(task).seen
    found = [store.provenance(episode).options.get("instruction") for episode in range(len(store))]
    return [texts[i % len(texts)] if text is None else str(text) for i, text in enumerate(found)]


def build_policy(lab: Lab, part: Component, scenes: Sequence[Scene], *, learns: bool = True) -> SeeingPolicy:
    """Build the policy that sees, and refuse whatever of it would not do, before there is any episode.

    Args:
        lab: Where it works.
        part: The policy.
        scenes: What it shall do; all tasks take the same actions.
        learns: Whether it learns from demonstrations.

    Raises:
        ConfigError: The policy knows nothing and shall not learn.
        DataError: An instruction is too long for it.
    """
    policy: SeeingPolicy = part.build(action_size=scenes[0].action_size(), seed=lab.seed)
    if policy.adapter is not None and not isinstance(policy, OpenVLAPolicy):
        raise ConfigError(
            "policy.adapter would learn adapters of random weights: the alignment takes one "
            "(grape.alignment.adapter)"
        )
    if not learns and not isinstance(policy, OpenVLAPolicy):
        raise ConfigError("grape.supervised=false keeps a policy as it is published; this one is random")
    for scene in scenes:
        texts = wordings(scene.task)
        for text in (*texts.seen, *texts.held_out):
            policy.tokenizer.encode(text)
    return policy


def train_supervised(
    lab: Lab,
    policy: SeeingPolicy,
    demonstrations: Sequence[FilmedEpisodes],
    plan: Fit,
    *,
    learns: bool = True,
) -> Path:
    """Let a new policy learn from demonstrations, or keep a published one; returns the policy's folder.

    Learning ends more slowly, see :data:`SETTLING`.
    """
    folder = lab.run.directory / "supervised"
    settings = {
        "policy": policy.config,
        "data": [source.frames.content() for source in demonstrations],
        "fit": plan.identity if learns else None,
        "settling": SETTLING if learns else None,
        "seed": lab.seed,
    }

    def work() -> dict[str, Any]:
        metrics = {}
        if learns:
            decisions = Decisions(policy, demonstrations, device=lab.fabric.device)
            metrics = fit_and_settle(lab, policy, decisions, plan, "train-supervised", folder, settings)
            metrics["decisions"] = len(decisions)
        save_vla(folder, policy)
        return metrics

    lab.run.phase("train-supervised", settings, work, together=True)
    return folder


def fit_and_settle(
    lab: Lab, learner: Any, material: Sampler, plan: Fit, name: str, folder: Path, settings: dict[str, Any]
) -> dict[str, float]:
    """Let a policy learn, at the end more slowly, see :data:`SETTLING`; returns what was logged last."""
    slow = int(SETTLING["share"] * plan.steps)
    phases = [(name, folder, plan.steps - slow, 1.0)]
    if slow:
        settling = f"settle-{name.removeprefix('train-')}"
        phases.append((settling, folder / "settled", slow, SETTLING["rate"]))
    metrics, usual = dict[str, float](), learner.learning_rate
    for phase, where, steps, rate in phases:
        learner.learning_rate = rate * usual
        part = dataclasses.replace(plan, steps=steps)
        metrics = lab.fit(learner, material, part, phase=phase, folder=where, settings=settings)
    return metrics


def sample_rollouts(
    lab: Lab, name: str, policy: Path, scenes: Sequence[Scene], sampling: Sampling, sight: Sight
) -> dict[str, TrajectoryStore]:
    """Let a policy act several times from each of some initial states; returns a store per task."""
    assignments = [
        Assignment(
            scene.task,
            scene.id,
            {**scene.options, **sight.view},
            wordings(scene.task).seen,
            training_seeds(lab, scene.task, sampling.starts, purpose=name),
            sampling.repeats,
            deterministic=False,
            draw_seed=lab.seed,
            view=sight.view,
            until_success=True,
        )
        for scene in scenes
    ]
    return rolled(lab, f"rollouts/{name}", policy, assignments, sampling.at_once)


def rolled(
    lab: Lab, phase: str, policy: Path, assignments: list[Assignment], at_once: int
) -> dict[str, TrajectoryStore]:
    """Let a policy do assignments, in workers; returns a store per task."""
    folder = lab.run.directory / phase
    device = lab.fabric.device
    acts_on_gpu = device.type == "cuda"  # else on the CPU, from where workers copy it
    made_of = file_content(policy / WEIGHTS)

    def collect() -> dict[str, TrajectoryStore]:
        there = open_rollouts(folder, assignments, policy_content=made_of, at_once=at_once)
        if there is not None:
            return there
        return collect_rollouts(
            folder,
            load_vla(policy, device=device if acts_on_gpu else "cpu"),
            assignments,
            policy_content=made_of,
            at_once=at_once,
            workers=0 if acts_on_gpu else lab.hardware.workers,
        )

    def work() -> dict[str, Any]:
        stores = collect()
        rates = {task: float(np.mean(store.successes)) for task, store in stores.items()}
        return {"success": rates, "mean_success": float(np.mean(list(rates.values())))}

    settings = {"policy": made_of, "assignments": [a.settings() for a in assignments], "at_once": at_once}
    result = lab.run.phase(phase, settings, work)
    lab.run.say(f"  {phase}: {result['mean_success']:.0%} successful")
    return collect()
