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
one initial state, always, and clear ones; what earlier rounds taught is mixed in; and the default does not
contrast whole trajectories (equation 5 is there as ``variants.tpo``, and can destroy a policy): a critic
breaks the scores down to single decisions, whose tokens a clipped step makes likelier or less likely, with
demonstrations beside them (:mod:`robopref.rewards.credit`, :mod:`robopref.policies.vla.advantage`). A policy
that a round destroyed is taken back: the gate says why, and the next round begins with the policy before. Of
all policies that passed, the start among them, the run keeps the one that does best in validation states,
which neither training nor evaluation uses.
What GRAPE does not compare with is run beside it, from the same start and the rollouts of the first round:
the published loss, imitation of the chosen rollouts and of all, step-wise DPO, and scores at random (with
``experiment=grape_full`` the contrast and imitation of demonstrations alone, too); and its other objectives,
safety and efficiency. Each of these is chosen against the start as GRAPE is.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

from robopref.data.language import wordings
from robopref.errors import ConfigError, unknown_name
from robopref.files import write_json
from robopref.methods.components import Collection, Component, Fit, Hardware, Sampling, Scene
from robopref.methods.phases.collect import collect
from robopref.methods.phases.lab import Lab
from robopref.methods.phases.vla import Sight, build_policy, film, sample_rollouts, train_supervised
from robopref.methods.phases.vla_align import align_policy
from robopref.methods.phases.vla_compared import NothingToLearnError
from robopref.methods.phases.vla_gate import gate
from robopref.methods.phases.vla_how import WITHOUT_SCORES, Alignment
from robopref.methods.phases.vla_scores import Judge, Judged, check_reached, judge_rollouts
from robopref.methods.phases.vla_trials import Axis, evaluate_axes, validate
from robopref.policies.vla.data import FilmedEpisodes
from robopref.policies.vla.health import Trials, kept_round
from robopref.policies.vla.preference import refuse_family
from robopref.training.run import Run

MAIN = "grape"
FOLDERS = (
    *("supervised", "grape", "rollouts", "scores", "labels", "validation", "trials", "evaluation"),
    *("phases", "conditions", "references", "likelihoods"),
)
"""Names in a run's directory and in its results, none of which a variant may have."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """Another alignment of the same start, in the first round by the same rollouts.

    Attributes:
        how: How it learns.
        emphasis: Under which rollouts are scored and paired for it; None for the judge's own.
        gap: Of its pairs' scores, at least; None for the judge's own.
        rounds: Of rollouts and alignment; those after the first are of its own rollouts.
    """

    how: Alignment
    emphasis: str | None = None
    gap: float | None = None
    rounds: int = 1

    def __post_init__(self):
        if isinstance(self.rounds, bool) or not isinstance(self.rounds, int) or self.rounds < 1:
            raise ConfigError(f"The rounds of a variant must be a whole number from 1 on, got {self.rounds}")

    @property
    def judged_anew(self) -> bool:
        """Whether the rollouts are scored and paired for it alone."""
        return self.emphasis is not None or self.gap is not None


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
    variants: dict[str, Variant]
    axes: dict[str, Axis]
    episodes: int
    seed: int
    hardware: Hardware

    @property
    def task(self) -> str:
        """What tables call it: its task, or how many it has."""
        return self.scenes[0].task if len(self.scenes) == 1 else f"{len(self.scenes)} tasks"

    def __post_init__(self):
        if not self.scenes or self.rounds < 1 or self.episodes < 1 or not self.axes or self.validation < 1:
            raise ConfigError(
                "GRAPE needs a task, a round, an axis, a validation state and an episode to evaluate, or more"
            )
        tasks = [scene.task for scene in self.scenes]
        if twice := [task for task in tasks if tasks.count(task) > 1]:
            raise ConfigError(f"grape.tasks names {twice[0]} twice")
        self._check_names()
        if self.judge.kind != "human":
            self._check_pairing()
        self._check_emphases()
        self.judge.check(tasks, stages=self.in_stages)
        if self.judge.kind == "human" and any(how.compares == "lists" for how in self.alignments):
            raise ConfigError("Objectives of lists need a score of every rollout, and people give pairs")
        if self.sampling.starts < 2 and any(how.kind == "advantage" for how in self.alignments):
            raise ConfigError(
                "kind=advantage needs grape.rollouts.starts of 2 or more: its critic values the rollouts of "
                "a state by those of others"
            )
        for scene in self.scenes:
            wordings(scene.task)
            scene.check()
        self._check_axes()

    @property
    def alignments(self) -> list[Alignment]:
        """All that is learned from rollouts."""
        return [self.main, *(variant.how for variant in self.variants.values())]

    @property
    def in_stages(self) -> bool:
        """Whether some alignment compares stages."""
        return any(how.segment == "stage" for how in self.alignments)

    def _check_names(self) -> None:
        for name in self.variants:
            taken = name in FOLDERS or re.fullmatch(r"grape-.*|.*-(kept|round\d+)|process\d+", name)
            if taken or not re.fullmatch(r"\w[\w.-]*", name):
                raise ConfigError(
                    f"A variant may not be called {name!r}: its name is that of its folder in the run, where "
                    f"grape-*, *-kept, *-round<number>, process<number> and {', '.join(FOLDERS)} mean "
                    "something else"
                )

    def _check_pairing(self) -> None:
        top, repeats = self.judge.pairing.top, self.sampling.repeats
        most = repeats // 2
        if top is not None and top > most:
            raise ConfigError(
                f"grape.pairing.top={top} compares the best {top} rollouts of a state with its worst "
                f"{top}, and there are grape.rollouts.repeats={repeats}: give grape.pairing.top={most}, "
                "or null for all pairs"
            )

    def _check_axes(self) -> None:
        """Refuse unknown variants, and make one environment with each axis's view."""
        first = next(iter(self.axes))
        if self.axes[first].variants is not None:
            raise ConfigError(f"All policies are compared along the first axis: {first} has variants=null")
        scene = self.scenes[0]
        seen = {**scene.view, "camera": self.camera}
        views = [seen]
        for name, axis in self.axes.items():
            for variant in axis.variants or []:
                if variant not in self.variants:
                    raise ConfigError(unknown_name(f"variant (of the axis {name})", variant, self.variants))
            views.append({**seen, **axis.view})
        for number, view in enumerate(views):
            if view not in views[:number]:
                dataclasses.replace(scene, options={**scene.options, **view}, view={}).check()

    def _check_emphases(self) -> None:
        weighed = [name for name, variant in self.variants.items() if variant.emphasis is not None]
        if weighed and self.judge.kind != "costs":
            raise ConfigError(
                f"An emphasis weighs costs, and grape.judge.kind={self.judge.kind} has none: leave out "
                + " ".join(f"~grape.variants.{name}" for name in weighed)
            )
        for name, variant in self.variants.items():
            if variant.judged_anew and variant.how.kind in WITHOUT_SCORES:
                raise ConfigError(
                    f"The variant {name} imitates (kind={variant.how.kind}) whatever the scores: an emphasis "
                    "or a gap would change nothing"
                )
            self.judge_of(variant)

    def axes_of(self, line: str, *, first: bool = False) -> dict[str, Axis]:
        """Return the axes along which the policies of an alignment are tried, or the first of them alone."""
        found = {name: axis for name, axis in self.axes.items() if axis.tries(line, self.variants)}
        return dict(list(found.items())[:1]) if first else found

    def judge_of(self, variant: Variant) -> Judge:
        """Return who judges for a variant."""
        pairing = self.judge.pairing
        if variant.gap is not None:
            pairing = dataclasses.replace(pairing, gap=variant.gap)
        return dataclasses.replace(
            self.judge, emphasis=variant.emphasis or self.judge.emphasis, pairing=pairing
        )


def run(parts: Grape, record: Run) -> dict[str, Any]:
    """Align a policy and compare it with its start and with the controls.

    Returns:
        ``rate``, of the kept policy along the first axis; and every policy's summary along every axis.

    Raises:
        RoboprefError: Something was wrong with the configuration, the data or the machine.
    """
    course = _begun(Lab(record, parts.hardware, parts.seed), parts)
    start = Made(course.start, course.validated("supervised", course.start))
    rollouts = course.rolled("round1", start.policy)
    lines = {MAIN: Variant(parts.main, rounds=parts.rounds), **parts.variants}
    made = {name: course.line(name, variant, start, rollouts) for name, variant in lines.items()}

    kept = {name: _kept({"supervised": start} | found) for name, found in made.items()}
    best = kept.pop(MAIN)
    passed = {name: one.tried for name, one in {"supervised": start, **made[MAIN]}.items()}
    rates = {name: tried["rate"] for name, tried in passed.items() if tried is not None}
    record.say(f"  kept: {best}, {rates[best]:.0%} successful in the validation states")
    results = {"supervised": course.compared("supervised", start.policy, parts.axes_of("supervised"))}
    for name, found in made.items():
        last = _last(found)
        for policy, one in found.items():
            whole = policy in (last, best, kept.get(name))
            axes = parts.axes_of(name, first=not whole)
            results[policy] = course.compared(policy, one.policy, axes)
        if last is not None:
            results.setdefault(f"{MAIN}-last" if name == MAIN else name, results[last])
    chosen = {f"{name}-kept": policy for name, policy in kept.items()}
    results |= {name: results[policy] for name, policy in {**chosen, MAIN: best}.items()}
    write_json(record.directory / "grape.json", results)
    write_json(record.directory / "kept.json", {"policy": best, "validation": rates, "variants": chosen})
    return {**results[best][next(iter(parts.axes))], "policies": results, "kept": best}


@dataclasses.dataclass(frozen=True)
class Made:
    """A policy of the run, and how it did in the validation states; None of one that collapsed."""

    policy: Path
    tried: dict[str, Any] | None


@dataclasses.dataclass(frozen=True)
class _Course:
    """What all alignments of a run have in common."""

    lab: Lab
    parts: Grape
    sight: Sight
    demonstrations: list[FilmedEpisodes]
    start: Path

    def line(
        self, name: str, variant: Variant, start: Made, rollouts: list[FilmedEpisodes]
    ) -> dict[str, Made]:
        """Let an alignment go through its rounds; returns the policy of each.

        One that destroys the policy is taken back, and the next goes on from what was before, with new
        rollouts beside those that there are; one that has nothing to teach makes none, and is the last.
        """
        judge, judged, now, made = self.parts.judge_of(variant), list[Judged](), start, dict[str, Made]()
        for number in range(1, variant.rounds + 1):
            own = f"{name}-round{number}"
            if number > 1:
                rollouts = self.rolled(own, now.policy)
            scored = own if number > 1 or variant.judged_anew else "round1"
            judged.append(judge_rollouts(self.lab, scored, now.policy, rollouts, judge))
            several = name == MAIN or variant.rounds > 1
            found = self.aligned(own if several else name, now, judged, variant.how)
            if found is None:
                break
            made[found.policy.name] = found
            if found.tried is None:
                self.lab.run.say(f"  {found.policy.name} collapsed: what was before it is kept")
            else:
                now = found
        return made

    def rolled(self, name: str, policy: Path) -> list[FilmedEpisodes]:
        """Let a policy act from new initial states, its frames kept."""
        rollouts = sample_rollouts(self.lab, name, policy, self.parts.scenes, self.parts.sampling, self.sight)
        return film(self.lab, name, rollouts, self.sight)

    def aligned(self, name: str, before: Made, judged: list[Judged], how: Alignment) -> Made | None:
        """Align a policy; nothing comes of rollouts that have nothing to teach."""
        lab, fit = self.lab, self.parts.align_fit
        try:
            policy = align_policy(lab, name, before.policy, judged, self.demonstrations, how, fit)
        except NothingToLearnError as error:
            lab.run.say(f"  LEFT OUT: {name}. {error}")
            return None
        assert before.tried is not None
        tried = self.validated(name, policy)
        trials = Trials(before.tried["successes"], tried["successes"])
        first = self.start if before.policy != self.start else None
        found = gate(lab, name, before.policy, policy, judged[-1], how, trials, first=first)
        return Made(policy, None if found["collapsed"] else tried)

    def validated(self, name: str, policy: Path) -> dict[str, Any]:
        """Try a policy from the validation states."""
        return validate(
            self.lab,
            name,
            policy,
            self.parts.scenes,
            sight=self.sight,
            states=self.parts.validation,
            at_once=self.parts.sampling.at_once,
        )

    def compared(self, name: str, policy: Path, axes: dict[str, Axis]) -> dict[str, dict[str, Any]]:
        """Try a policy along some axes."""
        parts = self.parts
        return evaluate_axes(
            self.lab,
            name,
            policy,
            parts.scenes,
            axes,
            sight=self.sight,
            episodes=parts.episodes,
            sampling=parts.sampling,
        )


def _begun(lab: Lab, parts: Grape) -> _Course:
    """Collect demonstrations and learn from them, once it is clear that all can be done with the policy."""
    policy = build_policy(lab, parts.policy, parts.scenes, learns=parts.supervised)
    for how in parts.alignments:
        refuse_family(how.chosen, policy)
        policy.refuse_another(how.adapter)
    sight = Sight.of(policy, parts.camera, parts.scenes[0])
    stores = {s.task: collect(lab, s, parts.demonstrations, parts.data_dir) for s in parts.scenes}
    if parts.judge.kind == "costs" or parts.in_stages:
        check_reached(lab, parts.judge, stores)
    demonstrations = film(lab, "demonstrations", stores, sight)
    start = train_supervised(lab, policy, demonstrations, parts.supervised_fit, learns=parts.supervised)
    return _Course(lab, parts, sight, demonstrations, start)


def _last(line: dict[str, Made]) -> str | None:
    """Name of the policy that the rounds end with: of the last that did not collapse, or else of the last."""
    sound = [name for name, made in line.items() if made.tried is not None]
    return next(reversed(sound or list(line)), None)


def _kept(line: dict[str, Made]) -> str:
    """Name of the policy that does best in the validation states, of those that did not collapse."""
    found = {name: made.tried for name, made in line.items() if made.tried is not None}
    tried = found.values()
    return kept_round(list(found), [each["rate"] for each in tried], [each["steps"] for each in tried])
