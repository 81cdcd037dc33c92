"""Phase of GRAPE that says which rollouts are better: staged costs, a learned reward, or people.

Whoever judges, the result is the same: a label store for each task, whose pairs began in the same states.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from robopref.data.label_store import LabelStore
from robopref.data.queries import SAME_START
from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, WaitingError, hide_passwords, unknown_name
from robopref.files import read_json, write_json
from robopref.methods.phases.lab import Lab, file_content
from robopref.methods.phases.label import store_labels
from robopref.methods.phases.vla import WEIGHTS
from robopref.methods.phases.vla_kept import kept_likelihoods
from robopref.nets.checkpoint import read_config
from robopref.policies.vla.data import FilmedEpisodes
from robopref.policies.vla.saved import load_vla
from robopref.rewards.relabel import relabel
from robopref.rewards.saved import FRAME_KINDS, KINDS, load_frame_reward, load_reward
from robopref.rewards.staged.language import StagedCosts, load_costs
from robopref.rewards.staged.pairs import Pairing, ranked_pairs
from robopref.rewards.staged.scores import EMPHASES, ScoreWeights, combined, score_columns
from robopref.rewards.staged.tasks import cost_file
from robopref.training.signals import costs_in

JUDGES = ("costs", "reward", "human")
CLEAR = Pairing(top=2, gap=1.5)  # success counts 2: a success and a failure, mostly


@dataclasses.dataclass(frozen=True)
class Judge:
    """Who says which rollouts are better.

    Attributes:
        kind: ``costs`` (the staged costs of the task), ``reward`` (a learned one) or ``human``.
        models: Folder of each task's reward, of observations (PEARL's) or of frames (RAPL's).
        files: A task's own cost file, or a model's answer that holds one, in place of the one that comes with
            robopref.
        emphasis: A key of :data:`robopref.rewards.staged.scores.EMPHASES`; of costs.
        weights: Of the terms of a score; of costs and rewards.
        pairing: How pairs are made of scores; those of people are as they gave them.
    """

    kind: str = "costs"
    models: Mapping[str, str] = dataclasses.field(default_factory=dict)
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    emphasis: str = "completion"
    weights: ScoreWeights = dataclasses.field(default_factory=ScoreWeights)
    pairing: Pairing = CLEAR

    def __post_init__(self):
        if self.kind not in JUDGES:
            raise ConfigError(unknown_name("judge", self.kind, JUDGES))
        if self.emphasis not in EMPHASES:
            raise ConfigError(f"emphasis must be one of {', '.join(EMPHASES)}, got {self.emphasis!r}")
        if bool(self.models) != (self.kind == "reward"):
            raise ConfigError(
                "grape.judge.models names a reward for each task, for kind=reward and no other, got "
                f"kind={self.kind} and {dict(self.models)}"
            )
        if self.kind != "costs" and self.emphasis != "completion":
            raise ConfigError(f"emphasis={self.emphasis} weighs costs, which kind={self.kind} has none of")
        if self.kind == "human" and (self.weights, self.pairing) != (ScoreWeights(), CLEAR):
            raise ConfigError("weights and pairing are of scores: where people judge they change nothing")

    def check(self, tasks: Sequence[str], *, stages: bool = False) -> None:
        """See that each task has a reward or costs, and no other task has, before any work is done.

        Args:
            tasks: What is learned.
            stages: Whether costs are needed whoever judges, for the stages that they name.
        """
        given = {"models": self.models, "files": self.files}
        for name, other in ((name, sorted(set(held) - set(tasks))) for name, held in given.items()):
            if other:
                raise ConfigError(f"grape.judge.{name} names {other[0]}, which is none of {', '.join(tasks)}")
        costs = stages or self.kind == "costs"
        if self.files and not costs:
            raise ConfigError(f"grape.judge.files would change nothing under kind={self.kind}")
        for task in tasks:
            if costs:
                self.costs_of(task)
            if self.kind == "reward" and task not in self.models:
                raise ConfigError(f"grape.judge.models names no reward for the task {task}")
        for folder in self.models.values():
            file_content(Path(folder) / WEIGHTS)
            if (found := read_config(folder)["kind"]) not in (known := {**KINDS, **FRAME_KINDS}):
                raise ConfigError(f"{folder}: {unknown_name('kind of reward', found, known)}")

    def file_of(self, task: str) -> Path:
        """Return where the costs of a task stand."""
        return Path(self.files[task]) if task in self.files else cost_file(task)

    def costs_of(self, task: str) -> StagedCosts:
        """Read the costs of a task."""
        return load_costs(self.file_of(task), task=task)

    def identity(self, tasks: Sequence[str]) -> dict[str, Any]:
        """What judgements of some tasks depend on."""
        models = {task: file_content(Path(folder) / WEIGHTS) for task, folder in self.models.items()}
        files = self.contents(tasks) if self.kind == "costs" else {}
        counted = {"counted": EMPHASES[self.emphasis]} if self.emphasis != "completion" else {}
        return {**dataclasses.asdict(self), **counted, "models": models, "files": files}

    def contents(self, tasks: Iterable[str]) -> dict[str, str]:
        """Hashes of the cost files of some tasks."""
        return {task: file_content(self.file_of(task)) for task in tasks}


@dataclasses.dataclass(frozen=True)
class Judged:
    """Rollouts of one round that were judged.

    Attributes:
        rollouts: One entry per task.
        urls: The label store of each task that has labels.
        scores: Of each task, one per rollout; none where people judged.
        judge: Who judged.
        policy: Folder of the policy that made the rollouts.
    """

    rollouts: Sequence[FilmedEpisodes]
    urls: Mapping[str, str]
    scores: Mapping[str, Float64[np.ndarray, " N"]]
    judge: Judge
    policy: Path


def task_of(source: FilmedEpisodes) -> str:
    """Return the task of filmed episodes."""
    return source.store.provenance(0).task


def check_reached(lab: Lab, judge: Judge, demonstrations: Mapping[str, TrajectoryStore]) -> None:
    """Refuse costs of what demonstrations lack, or with a stage that none completes, where some succeed.

    Raises:
        ConfigError: Naming the file, the line, and the point, signal, pose or stage.
    """

    def work() -> dict[str, Any]:
        reached = {}
        for task, store in demonstrations.items():
            costs = judge.costs_of(task)
            found = costs_in(costs, store)
            if not store.successes.any():
                lab.run.say(
                    f"  no demonstration of {task} succeeds: none can show that its stages are reached"
                )
                continue
            reached[task] = {
                stage.name: sum(one.reached[stage.name] is not None for one in found)
                for stage in costs.stages
            }
            for stage in costs.stages:
                if not reached[task][stage.name]:
                    raise ConfigError(
                        f"{costs.name}, line {stage.line}: the stage {stage.name} ({stage.until.text}) is "
                        f"never reached, by none of {len(store)} demonstrations"
                    )
        return {"reached": reached}

    settings = {
        "files": judge.contents(demonstrations),
        "data": {task: store.fingerprint() for task, store in demonstrations.items()},
    }
    lab.run.phase("costs", settings, work)


def judge_rollouts(
    lab: Lab, name: str, policy: Path, rollouts: Sequence[FilmedEpisodes], judge: Judge
) -> Judged:
    """Score rollouts and pair the best with the worst of each initial state, or fetch what people said.

    All terms of scores are written beside the labels, as ``scores-<task>.json``.

    Raises:
        WaitingError: People shall judge, and have not yet.
    """
    folder = lab.run.directory / "scores" / name
    urls = {task_of(source): f"sqlite:///{folder / task_of(source)}.sqlite" for source in rollouts}
    if judge.kind == "human":
        return Judged(rollouts, _judged_by_people(folder, rollouts, urls), {}, judge, policy)

    def work() -> dict[str, Any]:
        folder.mkdir(parents=True, exist_ok=True)
        pairs = {}
        load = functools.cache(lambda: load_vla(policy, device=lab.fabric.device))
        for source in rollouts:
            task = task_of(source)
            columns, notes = _columns(source, judge, kept_likelihoods(lab, policy, source, load))
            found = ranked_pairs(source.store, columns["score"], judge.pairing)
            written = {column: values.tolist() for column, values in columns.items()}
            write_json(
                folder / f"scores-{task}.json", {**written, **notes, "data": source.store.fingerprint()}
            )
            if len(found):
                said_by = "cost" if judge.kind == "costs" else "model"
                store_labels(urls[task], found, source.store, said_by, judge.emphasis)
            pairs[task] = len(found)
        lab.run.say(f"  {sum(pairs.values())} pairs of {sum(len(s.store) for s in rollouts)} rollouts")
        return {"pairs": pairs}

    settings = {
        "policy": file_content(policy / WEIGHTS),
        "data": [source.frames.content() for source in rollouts],
        "judge": judge.identity(list(urls)),
    }
    result = lab.run.phase(f"score/{name}", settings, work)
    scores = {task: np.array(read_json(folder / f"scores-{task}.json")["score"]) for task in urls}
    labelled = {task: url for task, url in urls.items() if result["pairs"][task]}
    return Judged(rollouts, labelled, scores, judge, policy)


def _judged_by_people(
    folder: Path, rollouts: Sequence[FilmedEpisodes], urls: Mapping[str, str]
) -> dict[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    waiting = []
    for source in rollouts:
        task = task_of(source)
        with LabelStore(urls[task]) as labels:
            if not labels.count():
                waiting.append(labelling_command(source.store.path, urls[task]))
    if waiting:
        raise WaitingError(
            "These rollouts wait for people to compare them; afterwards the same command goes on. Whole "
            "rollouts from the same state are compared, and others refused:\n  " + "\n  ".join(waiting)
        )
    return dict(urls)


def labelling_command(store: Path, url: str) -> str:
    """Return the command by which people compare rollouts that began in the same state."""
    return f"robopref label data={store} labels={hide_passwords(url)} query={SAME_START}"


def _columns(
    source: FilmedEpisodes, judge: Judge, likelihood: Float64[np.ndarray, " N"]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Terms of the scores of one task's rollouts, and remarks."""
    store, task = source.store, task_of(source)
    if judge.kind == "costs":
        costs = costs_in(judge.costs_of(task), store)
        columns = score_columns(
            costs, store.successes, likelihood, emphasis=judge.emphasis, weights=judge.weights
        )
        return columns, {"missed": [one.missed for one in costs]}
    external = learned_scores(Path(judge.models[task]), source)
    return combined(external, store.successes, likelihood, judge.weights), {"reward": judge.models[task]}


def learned_scores(folder: Path, source: FilmedEpisodes) -> Float64[np.ndarray, " N"]:
    """Mean reward of each rollout: per action of a reward of observations, per frame of one of frames."""
    store = source.store
    if read_config(folder)["kind"] in FRAME_KINDS:
        reward = load_frame_reward(folder)
        return np.array(
            [reward.judge(source.frames.episode(e)).mean() for e in range(len(store))], np.float64
        )
    rows = relabel(store, load_reward(folder))
    where = zip(store.first_rows.tolist(), store.lengths.tolist(), strict=True)
    return np.array([rows[first : first + length].mean() for first, length in where], np.float64)
