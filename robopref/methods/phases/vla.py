"""Phases of policies that see: demonstrations with frames, supervised learning, rollouts, scores, alignment.

Letters used in shapes: N rollouts.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robopref.data.language import wordings
from robopref.data.preferences import Preferences
from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, DataError
from robopref.files import write_json
from robopref.methods.components import Component, Fit, Sampling, Scene
from robopref.methods.phases.lab import Lab, file_content, stream, training_seeds
from robopref.methods.phases.label import content, read_labels, store_labels
from robopref.policies.vla.data import (
    Decisions,
    FilmedEpisodes,
    TrajectoryGroups,
    part_numbers,
    steps_until_success,
)
from robopref.policies.vla.health import condition, verdict
from robopref.policies.vla.policy import VLAPolicy
from robopref.policies.vla.preference import TrajectoryPreference
from robopref.policies.vla.saved import load_vla, save_vla
from robopref.rewards.staged.costs import store_costs
from robopref.rewards.staged.language import load_costs
from robopref.rewards.staged.pairs import Pairing, check_same_start, random_pairs_of_states, ranked_pairs
from robopref.rewards.staged.scores import ScoreWeights, score_columns
from robopref.rewards.staged.tasks import cost_file
from robopref.training.filming import film_store
from robopref.training.results import EVALUATION_SEEDS, Evaluation
from robopref.training.rollouts import Assignment, collect_rollouts
from robopref.training.signals import replayed_signals

WEIGHTS = "model.safetensors"


@dataclasses.dataclass(frozen=True)
class Alignment:
    """How a policy learns from rollouts.

    Attributes:
        kind: ``preference``; or ``chosen`` and ``all``, imitation of the better or of all rollouts.
        objective: Of the registry, for ``preference``.
        segment: ``trajectory``, ``window``, ``stage`` or ``step``.
        windows: How many windows a trajectory is cut into.
        reduce: ``sum`` or ``mean`` over the decisions of a segment.
        beta: Scale of scores.
        pairs: ``ranked`` by the scores of rollouts, or ``random``: the control that a ranking must beat.
        learning_rate: Step size of Adam.
        demonstrations: Share of a batch that are demonstrations, tied with themselves: supervised learning.
        window: Decisions scored at once, which bounds the memory.
        adapter: ``{"rank": 8}`` learns adapters and leaves the weights alone; None moves all.
    """

    kind: str = "preference"
    objective: str = "rpro"
    segment: str = "window"
    windows: int = 4
    reduce: str = "mean"
    beta: float = 0.1
    pairs: str = "ranked"
    learning_rate: float = 1e-4
    demonstrations: float = 0.15
    window: int = 64
    adapter: dict[str, Any] | None = None

    def __post_init__(self):
        for name, known in (("kind", ("preference", "chosen", "all")), ("pairs", ("ranked", "random"))):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if not 0 <= self.demonstrations < 1 or not self.learning_rate > 0 or self.windows < 1:
            raise ConfigError(
                "demonstrations must lie in [0, 1), learning_rate and windows be positive, got "
                f"{self.demonstrations}, {self.learning_rate} and {self.windows}"
            )


@dataclasses.dataclass(frozen=True)
class Axis:
    """One way in which an evaluation differs from what was trained.

    Attributes:
        view: What ``gymnasium.make`` gets besides: another camera, effects.
        held_out_wording: Whether instructions are such as no training saw.
        training_starts: Whether it begins where the compared rollouts began.
    """

    view: dict[str, Any] = dataclasses.field(default_factory=dict)
    held_out_wording: bool = False
    training_starts: bool = False


def camera_view(policy: VLAPolicy, camera: str) -> dict[str, Any]:
    """Return what a simulator is made with so that its frames fit a policy."""
    return {"camera": camera, "width": policy.image_size, "height": policy.image_size}


def film(
    lab: Lab, name: str, stores: Mapping[str, TrajectoryStore], policy: VLAPolicy, camera: str
) -> list[FilmedEpisodes]:
    """Draw one frame per decision of all episodes, where that was not done before."""
    view = camera_view(policy, camera)

    def work() -> dict[str, Any]:
        # Mesa's OpenGL before Fabric's Triton ends the process, see phases.evaluate.
        _ = lab.fabric
        for store in stores.values():
            film_store(store, view=view, every=policy.horizon, workers=lab.hardware.workers)
        return {"episodes": sum(len(store) for store in stores.values())}

    settings = {
        "data": {task: store.fingerprint() for task, store in stores.items()},
        "view": view,
        "every": policy.horizon,
    }
    lab.run.phase(f"film/{name}", settings, work)
    return [
        FilmedEpisodes(
            store,
            film_store(store, view=view, every=policy.horizon, workers=0, progress=False),
            _told(task, store),
        )
        for task, store in stores.items()
    ]


def _told(task: str, store: TrajectoryStore) -> list[str]:
    """What the robot was told in each episode; demonstrations get the wordings in turn."""
    texts = wordings(task).seen
    found = [store.provenance(episode).options.get("instruction") for episode in range(len(store))]
    return [texts[i % len(texts)] if text is None else str(text) for i, text in enumerate(found)]


def build_policy(lab: Lab, part: Component, action_size: int) -> VLAPolicy:
    """Build the policy that sees.

    Raises:
        ConfigError: The component is another kind of policy.
    """
    policy = part.build(action_size=action_size, seed=lab.seed)
    if not isinstance(policy, VLAPolicy):
        raise ConfigError(
            f"This method trains a policy that sees (policy=vla), not a {type(policy).__name__}"
        )
    if policy.adapter is not None:
        raise ConfigError(
            "policy.adapter would learn adapters of random weights: the alignment takes one "
            "(grape.alignment.adapter)"
        )
    return policy


def train_supervised(lab: Lab, part: Component, demonstrations: Sequence[FilmedEpisodes], plan: Fit) -> Path:
    """Learn from demonstrations; returns the policy's folder."""
    folder = lab.run.directory / "supervised"
    policy = build_policy(lab, part, demonstrations[0].store.layout.action_size)
    settings = {
        "policy": policy.config,
        "data": [source.frames.content() for source in demonstrations],
        "fit": plan.identity,
        "seed": lab.seed,
    }

    def work() -> dict[str, Any]:
        decisions = Decisions(policy, demonstrations, device=lab.fabric.device)
        metrics = lab.fit(policy, decisions, plan, phase="train-supervised", folder=folder, settings=settings)
        save_vla(folder, policy)
        return {**metrics, "decisions": len(decisions)}

    lab.run.phase("train-supervised", settings, work)
    return folder


def sample_rollouts(
    lab: Lab, name: str, policy: Path, scenes: Sequence[Scene], sampling: Sampling, camera: str
) -> dict[str, TrajectoryStore]:
    """Let a policy act several times from each of some initial states; returns a store per task."""
    actor = load_vla(policy)
    assignments = [
        Assignment(
            scene.task,
            scene.id,
            {**scene.options, **camera_view(actor, camera)},
            wordings(scene.task).seen,
            training_seeds(lab, scene.task, sampling.starts),
            sampling.repeats,
            deterministic=False,
            draw_seed=lab.seed,
            view=camera_view(actor, camera),
        )
        for scene in scenes
    ]
    return _rolled(lab, f"rollouts/{name}", policy, actor, assignments, sampling.at_once)


def _rolled(
    lab: Lab, phase: str, policy: Path, actor: VLAPolicy, assignments: list[Assignment], at_once: int
) -> dict[str, TrajectoryStore]:
    folder = lab.run.directory / phase
    made_of = file_content(policy / WEIGHTS)

    def collect() -> dict[str, TrajectoryStore]:
        return collect_rollouts(
            folder,
            actor,
            assignments,
            policy_content=made_of,
            at_once=at_once,
            workers=lab.hardware.workers,
        )

    def work() -> dict[str, Any]:
        _ = lab.fabric
        stores = collect()
        rates = {task: float(np.mean(store.successes)) for task, store in stores.items()}
        return {"success": rates, "mean_success": float(np.mean(list(rates.values())))}

    settings = {"policy": made_of, "assignments": [a.settings() for a in assignments], "at_once": at_once}
    result = lab.run.phase(phase, settings, work)
    lab.run.say(f"  {phase}: {result['mean_success']:.0%} successful")
    return collect()


def score_rollouts(
    lab: Lab,
    name: str,
    policy: Path,
    rollouts: Sequence[FilmedEpisodes],
    *,
    emphasis: str,
    weights: ScoreWeights,
    pairing: Pairing,
) -> dict[str, str]:
    """Score rollouts by their staged costs, pair the best with the worst; returns a label store per task.

    All terms are written beside the labels, as ``scores-<task>.json``.
    """
    folder = lab.run.directory / "scores" / name
    urls = {source.store.provenance(0).task: "" for source in rollouts}
    urls = {task: f"sqlite:///{folder / task}.sqlite" for task in urls}

    def work() -> dict[str, Any]:
        folder.mkdir(parents=True, exist_ok=True)
        actor = load_vla(policy, device=lab.fabric.device)
        pairs = {}
        for source in rollouts:
            store = source.store
            task = store.provenance(0).task
            decisions = Decisions(actor, [source], device=lab.fabric.device)
            each = decisions.log_probs(actor).cpu().numpy()
            likelihood = np.add.reduceat(each, decisions.starts) / decisions.counts
            costs = store_costs(load_costs(cost_file(task)), store, replayed_signals(store))
            columns = score_columns(costs, store.successes, likelihood, emphasis=emphasis, weights=weights)
            found = ranked_pairs(store, columns["score"], pairing)
            write_json(
                folder / f"scores-{task}.json",
                {
                    **{column: values.tolist() for column, values in columns.items()},
                    "missed": [one.missed for one in costs],
                    "data": store.fingerprint(),
                },
            )
            if len(found):
                store_labels(urls[task], found, store, "cost", emphasis)
            pairs[task] = len(found)
        lab.run.say(f"  {sum(pairs.values())} pairs of {sum(len(s.store) for s in rollouts)} rollouts")
        return {"pairs": pairs}

    settings = {
        "policy": file_content(policy / WEIGHTS),
        "data": [source.frames.content() for source in rollouts],
        "emphasis": emphasis,
        "weights": vars(weights),
        "pairing": vars(pairing),
    }
    result = lab.run.phase(f"score/{name}", settings, work)
    return {task: url for task, url in urls.items() if result["pairs"][task]}


def align_policy(
    lab: Lab,
    name: str,
    policy: Path,
    rollouts: Sequence[FilmedEpisodes],
    urls: Mapping[str, str],
    demonstrations: Sequence[FilmedEpisodes],
    how: Alignment,
    plan: Fit,
) -> Path:
    """Learn from compared rollouts; returns the folder of what was learned, or ``policy`` if that collapsed.

    Args:
        name: Its folder in the run directory.
        policy: What it starts from, which is also its reference.
        rollouts: That were compared, one entry per task.
        urls: The label store of each task that has labels; of any source.
        demonstrations: Some of them are mixed in, as ties with themselves.
        how: See :class:`Alignment`.
        plan: How long; a batch holds pairs. Imitation gets as many decisions per step.
    """
    folder = lab.run.directory / name
    labels = {task: _labels(lab, rollouts, task, url, how) for task, url in urls.items()}
    settings = {
        "start": file_content(policy / WEIGHTS),
        "how": dataclasses.asdict(how),
        "rollouts": [source.frames.content() for source in rollouts],
        "labels": {task: content(found) for task, found in labels.items()},
        "demonstrations": [source.frames.content() for source in demonstrations],
        "fit": plan.identity,
        "seed": lab.seed,
    }

    def work() -> dict[str, Any]:
        learner = load_vla(policy, device=lab.fabric.device)
        if how.adapter is not None and learner.adapter is None:
            learner.adopt(how.adapter)
        if not labels:
            raise DataError("No two rollouts differ in their scores, so there is nothing to learn from.")
        comparison = _Comparison(learner, rollouts, labels, demonstrations, how, lab)
        if how.kind == "preference":
            trained: Any = TrajectoryPreference(
                learner,
                objective=how.objective,
                beta=how.beta,
                reduce=how.reduce,
                window=how.window,
                learning_rate=how.learning_rate,
            )
            metrics = lab.fit(
                trained, comparison.groups(), plan, phase=name, folder=folder, settings=settings
            )
        else:
            learner.learning_rate = how.learning_rate
            imitated = comparison.imitated()
            size = int(2 * plan.batch_size * comparison.decisions.counts.mean())
            budget = dataclasses.replace(plan, batch_size=size)
            metrics = lab.fit(learner, imitated, budget, phase=name, folder=folder, settings=settings)
        gate = comparison.gate(learner)
        save_vla(folder, learner)
        write_json(folder / "metrics.json", {**metrics, "gate": gate})
        return {**metrics, "gate": gate, "pairs": sum(len(found) for found in labels.values())}

    gate = lab.run.phase(f"align/{name}", settings, work)["gate"]
    if gate["collapsed"]:
        lab.run.say(f"  COLLAPSED: {gate['reason']}")
    return folder


def collapsed(lab: Lab, policy: Path) -> bool:
    """Whether the gate found that a policy collapsed."""
    from robopref.files import read_json

    metrics = policy / "metrics.json"
    return metrics.exists() and bool(read_json(metrics)["gate"]["collapsed"])


def _labels(lab: Lab, rollouts: Sequence[FilmedEpisodes], task: str, url: str, how: Alignment) -> Preferences:
    store = next(source.store for source in rollouts if source.store.provenance(0).task == task)
    found = read_labels(store, url)
    check_same_start(store, found.a.episode, found.b.episode)
    if how.pairs == "random":
        return random_pairs_of_states(store, len(found), stream(lab.seed, f"random-pairs/{task}"))
    return found


class _Comparison:
    """Rollouts, their labels and the reference's scores, ready for a learner that has not moved yet."""

    def __init__(
        self,
        policy: VLAPolicy,
        rollouts: Sequence[FilmedEpisodes],
        labels: Mapping[str, Preferences],
        demonstrations: Sequence[FilmedEpisodes],
        how: Alignment,
        lab: Lab,
    ) -> None:
        self.how, self.rollouts, device = how, rollouts, lab.fabric.device
        self.decisions = Decisions(policy, [*rollouts, *demonstrations], device=device)
        self.reference = self.decisions.log_probs(policy)
        number = {name: index for index, name in enumerate(self.decisions.names)}
        groups, grades = [], []
        for source, episodes in enumerate(rollouts):
            found = labels.get(episodes.store.provenance(0).task)
            if found is None:
                continue
            for a, b, label in zip(found.a.episode, found.b.episode, found.label, strict=True):
                groups.append([number[source, int(a)], number[source, int(b)]])
                grades.append([float(label), 1 - float(label)])
        self.pairs = len(groups)
        self.chosen = sorted({g[0] if s[0] >= s[1] else g[1] for g, s in zip(groups, grades, strict=True)})
        ties = [
            [number[len(rollouts) + source, episode]] * 2
            for source, episodes in enumerate(demonstrations)
            for episode in range(len(episodes.store))
        ]
        share = how.demonstrations if ties else 0.0
        groups += ties
        grades += [[1.0, 1.0]] * len(ties)
        chances = [(1 - share) / self.pairs] * self.pairs + [share / max(len(ties), 1)] * len(ties)
        self._groups, self._grades = np.array(groups, np.int64), np.array(grades)
        self._chances = np.array(chances)
        self._kept_rows = self._rows(self.chosen)
        self._start = condition(policy, self.decisions.batch(self._kept_rows))

    def groups(self) -> TrajectoryGroups:
        stages = _stages(self.decisions, self.rollouts) if self.how.segment == "stage" else None
        parts = part_numbers(self.decisions, self.how.segment, windows=self.how.windows, stages=stages)
        return TrajectoryGroups(
            self.decisions,
            self._groups,
            self._grades,
            reference=self.reference,
            parts=parts,
            chances=self._chances,
        )

    def imitated(self) -> "_Rows":
        """Decisions to imitate, demonstrations in the same share as among the pairs."""
        last = len(self.rollouts)
        trajectories = self.chosen if self.how.kind == "chosen" else self._numbers(lambda s: s < last)
        demonstrations = self._rows(self._numbers(lambda s: s >= last))
        return _Rows(self.decisions, self._rows(trajectories), demonstrations, self.how.demonstrations)

    def gate(self, policy: VLAPolicy) -> dict[str, Any]:
        """Compare the policy with its start, from which the rollouts were drawn: they estimate the KL."""
        policy.eval()
        tokens = policy.horizon * policy.action_size
        change = (self.decisions.log_probs(policy) - self.reference).cpu().numpy() / tokens
        own = self._rows(self._numbers(lambda source: source < len(self.rollouts)))
        now = condition(policy, self.decisions.batch(self._kept_rows))
        return verdict(
            self._start,
            now,
            chosen_change=float(change[self._kept_rows].mean()),
            divergence=float(-change[own].mean()),
        )

    def _numbers(self, wanted: Any) -> list[int]:
        return [i for i, (source, _) in enumerate(self.decisions.names) if wanted(source)]

    def _rows(self, trajectories: Sequence[int]) -> np.ndarray:
        made = self.decisions
        parts = [made.starts[i] + np.arange(made.counts[i]) for i in trajectories]
        return np.concatenate([np.empty(0, np.int64), *parts])


class _Rows:
    """Draws from some decisions, and a share from others."""

    def __init__(self, decisions: Decisions, rows: np.ndarray, others: np.ndarray, share: float) -> None:
        self.decisions, self.rows, self.others = decisions, rows, others
        self.share = share if len(others) else 0.0

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, batch_size: int, generator: torch.Generator) -> dict[str, Tensor]:
        pick = torch.rand(3, batch_size, generator=generator, dtype=torch.float64).numpy()
        rows = self.rows[(pick[0] * len(self.rows)).astype(np.int64)]
        if self.share:
            others = self.others[(pick[1] * len(self.others)).astype(np.int64)]
            rows = np.where(pick[2] < self.share, others, rows)
        return self.decisions.batch(rows)


def _stages(decisions: Decisions, rollouts: Sequence[FilmedEpisodes]) -> np.ndarray:
    """Stage of the state at each decision of the rollouts; 0 for demonstrations."""
    stages = np.zeros(len(decisions), np.int64)
    for source, episodes in enumerate(rollouts):
        store = episodes.store
        file = load_costs(cost_file(store.provenance(0).task))
        for episode, found in enumerate(store_costs(file, store, replayed_signals(store))):
            number = decisions.trajectory(source, episode)
            first, count = decisions.starts[number], decisions.counts[number]
            states = np.arange(count) * episodes.frames.every
            stages[first : first + count] = np.minimum(found.stages[states], len(file.stages) - 1)
    return stages


def evaluate_axes(
    lab: Lab,
    name: str,
    policy: Path,
    scenes: Sequence[Scene],
    axes: Mapping[str, Axis],
    *,
    camera: str,
    episodes: int,
    sampling: Sampling,
) -> dict[str, dict[str, Any]]:
    """Try a policy greedily along every axis; returns success with its interval, collisions and length.

    Every policy is tried on the same seeds. ``collision`` is the share of episodes in which the arm touches
    the scene, ``steps`` the mean number of actions until success or the end; a Wilson 95 % interval is around
    the success rate over all tasks.
    """
    actor = load_vla(policy)
    found = {}
    for axis, how in axes.items():
        assignments = [
            Assignment(
                scene.task,
                scene.id,
                {**scene.options, **camera_view(actor, camera), **how.view},
                wordings(scene.task).held_out if how.held_out_wording else wordings(scene.task).seen,
                _evaluation_seeds(lab, scene.task, how, episodes, sampling),
                1,
                deterministic=True,
            )
            for scene in scenes
        ]
        stores = _rolled(lab, f"trials/{name}/{axis}", policy, actor, assignments, sampling.at_once)
        evaluation, found[axis] = _summary(name, stores)
        if axis == next(iter(axes)):
            evaluation.save(lab.run.directory / "evaluation" / f"{name}.json")  # what the report reads
    return found


def _evaluation_seeds(lab: Lab, task: str, how: Axis, episodes: int, sampling: Sampling) -> tuple[int, ...]:
    if how.training_starts:
        return training_seeds(lab, task, sampling.starts)
    first = EVALUATION_SEEDS + lab.seed * episodes
    return tuple(range(first, first + episodes))


def _summary(name: str, stores: Mapping[str, TrajectoryStore]) -> tuple[Evaluation, dict[str, Any]]:
    successes, returns, steps, collided = [], [], [], []
    for store in stores.values():
        signals = replayed_signals(store)
        used = steps_until_success(store)
        for episode in range(len(store)):
            first = int(store.first_rows[episode])
            rows = slice(first, first + int(used[episode]) + 1)
            collided.append(bool((signals["collision"][rows] > 0).any()))
        successes.append(store.successes)
        returns.append(store.returns)
        steps.append(used)
    flat = np.concatenate(successes)
    evaluation = Evaluation(
        policy=name,
        task="+".join(stores),
        env_id="several",
        seeds=np.arange(EVALUATION_SEEDS, EVALUATION_SEEDS + len(flat)),
        successes=flat,
        returns=np.concatenate(returns),
        lengths=np.concatenate(steps),
    )
    summary = evaluation.summary()
    del summary["held_out"]
    tasks = {task: float(np.mean(s)) for task, s in zip(stores, successes, strict=True)}
    return evaluation, {
        **summary,
        "steps": float(np.concatenate(steps).mean()),
        "collision": float(np.mean(collided)),
        "tasks": tasks,
        "successes_by_episode": flat.tolist(),
    }
