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
one initial state, always; comparisons of earlier rounds are mixed in; and the default loss is not equation 5
but contrast + proximal + supervised over windows of a trajectory, because the former can destroy a policy (it
is there as ``variants.tpo``). A policy that a round destroyed is not carried on: the gate says why. Of all
policies that passed, the start among them, the run keeps the one that does best in validation states, which
neither training nor evaluation uses. What GRAPE does not compare with is run beside it: imitation of the
chosen rollouts, of all rollouts, step-wise DPO, and random pairs.
"""

import dataclasses
from pathlib import Path
from typing import Any

from robopref.errors import ConfigError
from robopref.files import write_json
from robopref.methods.components import Collection, Component, Fit, Hardware, Sampling, Scene
from robopref.methods.phases.collect import collect
from robopref.methods.phases.lab import Lab
from robopref.methods.phases.vla import build_policy, film, sample_rollouts, train_supervised
from robopref.methods.phases.vla_align import Alignment, align_policy, gate
from robopref.methods.phases.vla_scores import Judge, Judged, judge_rollouts
from robopref.methods.phases.vla_trials import Axis, evaluate_axes, validate
from robopref.policies.vla.health import Trials, kept_round
from robopref.training.run import Run


@dataclasses.dataclass(frozen=True)
class Grape:
    """The parts of one experiment; what each does is written at its own class."""

    scenes: list[Scene]
    camera: str
    demonstrations: Collection
    data_dir: Path
    policy: Component
    supervised: bool
    supervised_fit: Fit
    align_fit: Fit
    sampling: Sampling
    judge: Judge
    rounds: int
    validation: int
    main: Alignment
    variants: dict[str, Alignment]
    axes: dict[str, Axis]
    episodes: int
    seed: int
    hardware: Hardware

    def __post_init__(self):
        if not self.scenes or self.rounds < 1 or self.episodes < 1 or not self.axes or self.validation < 1:
            raise ConfigError(
                "GRAPE needs a task, a round, an axis, a validation state and an episode to evaluate, or more"
            )
        if clash := {"supervised", "grape"} & set(self.variants):
            raise ConfigError(f"A variant may not be called {clash.pop()!r}: that name is taken")
        self.judge.check([scene.task for scene in self.scenes])
        for scene in self.scenes:
            scene.check()


def run(parts: Grape, record: Run) -> dict[str, Any]:
    """Align a policy and compare it with its start and with the controls.

    Returns:
        ``rate``, of the kept policy along the first axis; and every policy's summary along every axis.

    Raises:
        RoboprefError: Something was wrong with the configuration, the data or the machine.
    """
    lab = Lab(record, parts.hardware, parts.seed)
    stores = {s.task: collect(lab, s, parts.demonstrations, parts.data_dir) for s in parts.scenes}
    shape = build_policy(lab, parts.policy, next(iter(stores.values())).layout.action_size)
    demonstrations = film(lab, "demonstrations", stores, shape, parts.camera)
    start = train_supervised(lab, parts.policy, demonstrations, parts.supervised_fit, learns=parts.supervised)
    policies, passed = {"supervised": start}, {"supervised": _validated(lab, parts, "supervised", start)}

    current, judged = "supervised", list[Judged]()
    for number in range(1, parts.rounds + 1):
        name, before = f"round{number}", policies[current]
        found = sample_rollouts(lab, name, before, parts.scenes, parts.sampling, parts.camera)
        judged.append(
            judge_rollouts(lab, name, before, film(lab, name, found, shape, parts.camera), parts.judge)
        )
        if number == 1:
            for variant, how in parts.variants.items():
                policies[variant] = align_policy(
                    lab, variant, start, judged, demonstrations, how, parts.align_fit
                )
                gate(lab, variant, start, policies[variant], judged[-1], how, None)
        aligned = f"grape-{name}"
        policies[aligned] = align_policy(
            lab, aligned, before, judged, demonstrations, parts.main, parts.align_fit
        )
        tried = _validated(lab, parts, aligned, policies[aligned])
        trials = Trials(passed[current]["successes"], tried["successes"])
        if gate(lab, aligned, before, policies[aligned], judged[-1], parts.main, trials)["collapsed"]:
            record.say(f"  round {number} destroyed the policy: stopping, and keeping what was before it")
            break
        passed[aligned], current = tried, aligned

    kept = kept_round(
        list(passed), [p["rate"] for p in passed.values()], [p["steps"] for p in passed.values()]
    )
    record.say(f"  kept: {kept}, {passed[kept]['rate']:.0%} successful in the validation states")
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
    results["grape"] = results[kept]
    write_json(record.directory / "grape.json", results)
    write_json(
        record.directory / "kept.json",
        {"policy": kept, "validation": {name: found["rate"] for name, found in passed.items()}},
    )
    return {**results[kept][next(iter(parts.axes))], "policies": results, "kept": kept}


def _validated(lab: Lab, parts: Grape, name: str, policy: Path) -> dict[str, Any]:
    return validate(
        lab,
        name,
        policy,
        parts.scenes,
        camera=parts.camera,
        states=parts.validation,
        at_once=parts.sampling.at_once,
    )
