"""GRAPE: preferences of whole trajectories align a vision-language-action policy.

Zhang et al. 2024, "GRAPE: Generalizing Robot Policy via Preference Alignment" (arXiv 2411.19309). The page
follows algorithm 1:

    pi <- supervised learning on expert demonstrations (frames, instructions, actions)
    for k = 1 ... K:
        D_k <- rollouts of pi, N from each of some initial states
        score every rollout: staged costs, success, pi's own likelihood                     (eq. 9)
        pair the best m with the worst m of each initial state
        pi <- pi moved by the preferences, with pi itself before the round as reference     (eq. 5, 6)

Where it differs: scores are floats and standardised within a task; costs are read from contacts; pairs are of
one initial state, always; and the default loss is not equation 5 but contrast + proximal + supervised over
windows of a trajectory, because the former destroys policies (it is there as ``variants.tpo``). A policy that
a round destroyed is not carried on: the gate says why. What GRAPE does not compare with is run beside it:
imitation of the chosen rollouts, of all rollouts, step-wise DPO, and random pairs.
"""

import dataclasses
from pathlib import Path
from typing import Any

from robopref.errors import ConfigError
from robopref.files import write_json
from robopref.methods.components import Collection, Component, Fit, Hardware, Sampling, Scene
from robopref.methods.phases.collect import collect
from robopref.methods.phases.lab import Lab
from robopref.methods.phases.vla import (
    Alignment,
    Axis,
    align_policy,
    build_policy,
    collapsed,
    evaluate_axes,
    film,
    sample_rollouts,
    score_rollouts,
    train_supervised,
)
from robopref.rewards.staged.language import load_costs
from robopref.rewards.staged.pairs import Pairing
from robopref.rewards.staged.scores import EMPHASES, ScoreWeights
from robopref.rewards.staged.tasks import cost_file
from robopref.training.run import Run


@dataclasses.dataclass(frozen=True)
class Grape:
    """The parts of one experiment; what each does is written at its own class."""

    scenes: list[Scene]
    camera: str
    demonstrations: Collection
    data_dir: Path
    policy: Component
    supervised_fit: Fit
    align_fit: Fit
    sampling: Sampling
    emphasis: str
    weights: ScoreWeights
    pairing: Pairing
    rounds: int
    main: Alignment
    variants: dict[str, Alignment]
    axes: dict[str, Axis]
    episodes: int
    seed: int
    hardware: Hardware

    def __post_init__(self):
        if not self.scenes or self.rounds < 1 or self.episodes < 1 or not self.axes:
            raise ConfigError(
                "GRAPE needs a task, a round, an axis and an episode to evaluate, or more of them"
            )
        if self.emphasis not in EMPHASES:
            raise ConfigError(f"emphasis must be one of {', '.join(EMPHASES)}, got {self.emphasis!r}")
        if clash := {"supervised", "grape"} & set(self.variants):
            raise ConfigError(f"A variant may not be called {clash.pop()!r}: that name is taken")
        for scene in self.scenes:
            load_costs(cost_file(scene.task))
            scene.check()


def run(parts: Grape, record: Run) -> dict[str, Any]:
    """Align a policy and compare it with its start and with the controls.

    Returns:
        ``rate``, of the aligned policy along the first axis; and every policy's summary along every axis.

    Raises:
        RoboprefError: Something was wrong with the configuration, the data or the machine.
    """
    lab = Lab(record, parts.hardware, parts.seed)
    stores = {s.task: collect(lab, s, parts.demonstrations, parts.data_dir) for s in parts.scenes}
    shape = build_policy(lab, parts.policy, next(iter(stores.values())).layout.action_size)
    demonstrations = film(lab, "demonstrations", stores, shape, parts.camera)
    start = train_supervised(lab, parts.policy, demonstrations, parts.supervised_fit)
    policies = {"supervised": start}

    current = start
    for number in range(1, parts.rounds + 1):
        name = f"round{number}"
        found = sample_rollouts(lab, name, current, parts.scenes, parts.sampling, parts.camera)
        rollouts = film(lab, name, found, shape, parts.camera)
        labels = score_rollouts(
            lab,
            name,
            current,
            rollouts,
            emphasis=parts.emphasis,
            weights=parts.weights,
            pairing=parts.pairing,
        )
        given = (rollouts, labels, demonstrations)
        if number == 1:
            for variant, how in parts.variants.items():
                policies[variant] = align_policy(lab, variant, start, *given, how, parts.align_fit)
        aligned = align_policy(lab, f"grape-{name}", current, *given, parts.main, parts.align_fit)
        policies[f"grape-{name}"] = aligned
        if collapsed(lab, aligned):
            record.say(f"  round {number} destroyed the policy, so what was before it is kept")
            break
        current = aligned

    results = {
        name: evaluate_axes(
            lab,
            name,
            policy,
            parts.scenes,
            parts.axes,
            camera=parts.camera,
            episodes=parts.episodes,
            sampling=parts.sampling,
        )
        for name, policy in policies.items()
    }
    write_json(record.directory / "grape.json", results)
    main = next(name for name, policy in policies.items() if policy == current)
    return {**results[main][next(iter(parts.axes))], "policies": results}
