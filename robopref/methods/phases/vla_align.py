"""Phase of GRAPE that learns from judged rollouts, and the gate behind it.

Letters used in shapes: n decisions, N rollouts, G groups of K trajectories.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from robopref.data.preferences import Preferences
from robopref.errors import ConfigError, DataError, hide_passwords, unknown_name
from robopref.files import write_json
from robopref.methods.components import Fit
from robopref.methods.phases.lab import Lab, file_content, stream
from robopref.methods.phases.label import content, read_labels
from robopref.methods.phases.vla import WEIGHTS
from robopref.methods.phases.vla_scores import Judged, task_of
from robopref.objectives.description import Objective
from robopref.policies.vla.data import SEGMENTS, Decisions, FilmedEpisodes, TrajectoryGroups, part_numbers
from robopref.policies.vla.health import Trials, condition, verdict
from robopref.policies.vla.lora import Adapter
from robopref.policies.vla.policy import TokenPolicy
from robopref.policies.vla.preference import TrajectoryPreference, fitting
from robopref.policies.vla.saved import load_vla, save_vla
from robopref.policies.vla.seeing import SeeingPolicy
from robopref.rewards.staged.costs import store_costs
from robopref.rewards.staged.pairs import check_rollout_pairs, random_pairs_of_states, ranked_lists
from robopref.training.signals import replayed_signals

GATE = "gate.json"
OF_PREFERENCES = ("objective", "segment", "windows", "reduce", "beta", "imitation_weight")
"""Options of an :class:`Alignment` that imitation (kind chosen or all) knows nothing of."""


@dataclasses.dataclass(frozen=True)
class Alignment:
    """How a policy learns from rollouts.

    Attributes:
        kind: ``preference``; or ``chosen`` and ``all``, imitation of the better or of all rollouts.
        objective: Of the registry, for ``preference``: a name, or a mapping with ``name`` and options. What
            it learns from decides what is compared: pairs; all rollouts of a state as a ranked list
            (``plackett_luce``, ``lipo_lambda``, ...); or single rollouts, up where they succeeded and down
            elsewhere (``kto``, ``bco``).
        segment: ``trajectory``, ``window``, ``stage`` or ``step``.
        windows: How many windows a trajectory is cut into.
        reduce: ``sum`` or ``mean`` over the decisions of a segment.
        beta: Scale of scores; None takes the family's.
        imitation_weight: Of the best rollout's negative log-likelihood, added to the objective.
        pairs: ``ranked`` by who judged, or ``random``: the control that a ranking must beat.
        learning_rate: Step size of Adam; None takes the policy's.
        demonstrations: Share of a batch that are demonstrations: supervised learning, whatever the objective.
        replay: Share that are comparisons of earlier rounds.
        window: Decisions scored at once, which bounds the memory.
        adapter: ``{"rank": 8}`` learns adapters and leaves the weights alone; None moves all.
    """

    kind: str = "preference"
    objective: Any = "rpro"
    segment: str = "window"
    windows: int = 4
    reduce: str = "mean"
    beta: float | None = None
    imitation_weight: float = 0.0
    pairs: str = "ranked"
    learning_rate: float | None = 1e-4
    demonstrations: float = 0.15
    replay: float = 0.15
    window: int = 64
    adapter: dict[str, Any] | None = None

    def __post_init__(self):
        for name, known in (("kind", ("preference", "chosen", "all")), ("pairs", ("ranked", "random"))):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        positive = {name: getattr(self, name) for name in ("learning_rate", "beta", "windows", "window")}
        for name, value in positive.items():
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} must be positive, got {value}")
        if not 0 <= self.imitation_weight < math.inf:
            raise ConfigError(f"imitation_weight must not be negative, got {self.imitation_weight}")
        if not (min(self.demonstrations, self.replay) >= 0 and self.demonstrations + self.replay < 1):
            raise ConfigError(
                "demonstrations and replay must not be negative, and together below 1, got "
                f"{self.demonstrations} and {self.replay}"
            )
        if self.segment not in SEGMENTS:
            raise ConfigError(unknown_name("segment", self.segment, SEGMENTS))
        if self.adapter is not None:
            Adapter.of(self.adapter)
        self.chosen  # noqa: B018  (refuses an unknown objective)
        usual = {field.name: field.default for field in dataclasses.fields(self)}
        changed = [name for name in OF_PREFERENCES if getattr(self, name) != usual[name]]
        if self.kind != "preference" and changed:
            raise ConfigError(f"kind={self.kind} imitates: {', '.join(changed)} would change nothing")

    @property
    def chosen(self) -> Objective:
        """The objective of the registry."""
        given = {"name": self.objective} if isinstance(self.objective, str) else self.objective
        return fitting(given, self.reduce).objective

    @property
    def compares(self) -> str:
        """What is compared: ``pairs``, ``lists`` or ``singles``."""
        return {"lists": "lists", "up/down": "singles"}.get(self.chosen.labels, "pairs")


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
        plan: How long; a batch holds groups. Imitation gets as many decisions per step.
    """
    folder = lab.run.directory / name
    labels = [_labels(lab, judged, how) for judged in rounds]
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
        "seed": lab.seed,
    }

    def work() -> dict[str, Any]:
        learner = load_vla(policy, device=lab.fabric.device)
        if how.adapter is not None and learner.adapter is None:
            learner.adopt(how.adapter)
        rate = how.learning_rate or learner.learning_rate
        comparison = _Comparison(learner, rounds, labels, demonstrations, how, lab)
        if how.kind == "preference":
            trained: Any = TrajectoryPreference(
                learner,
                objective=how.objective,
                beta=how.beta,
                reduce=how.reduce,
                imitation_weight=how.imitation_weight,
                window=how.window,
                learning_rate=rate,
            )
            metrics = lab.fit(
                trained, comparison.groups(), plan, phase=name, folder=folder, settings=settings
            )
        else:
            learner.learning_rate = rate
            size = max(1, int(2 * plan.batch_size * comparison.decisions.counts.mean()))
            budget = dataclasses.replace(plan, batch_size=size)
            metrics = lab.fit(
                learner, comparison.imitated(), budget, phase=name, folder=folder, settings=settings
            )
        save_vla(folder, learner)
        write_json(folder / "metrics.json", metrics)
        return {**metrics, "groups": comparison.size}

    lab.run.phase(f"align/{name}", settings, work, together=True)
    return folder


def gate(
    lab: Lab,
    name: str,
    start: Path,
    aligned: Path,
    judged: Judged,
    how: Alignment,
    trials: Trials | None,
    first: Path | None = None,
) -> dict[str, Any]:
    """Say whether an aligned policy has collapsed, see :mod:`robopref.policies.vla.health`.

    Args:
        lab: Where it works.
        name: What the phase is called.
        start: What was aligned.
        aligned: What came of it.
        judged: The rollouts of ``start`` that it learned from.
        how: How it learned.
        trials: Success of both from the validation states.
        first: The supervised policy, where ``start`` is one of an earlier round: drift adds up.
    """
    labels = _labels(lab, judged, how)
    settings = {
        "start": file_content(start / WEIGHTS),
        "aligned": file_content(aligned / WEIGHTS),
        "labels": {task: content(found) for task, found in labels.items()},
        "trials": None if trials is None else [trials.start.tolist(), trials.now.tolist()],
        "first": None if first is None else file_content(first / WEIGHTS),
    }

    def work() -> dict[str, Any]:
        before = load_vla(start, device=lab.fabric.device)
        after = load_vla(aligned, device=lab.fabric.device)
        decisions = Decisions(before, judged.rollouts, device=lab.fabric.device)
        chosen = _better(decisions, judged, labels)
        rows = _rows(decisions, chosen)
        belongs = np.repeat(chosen, decisions.counts[chosen])
        from_first = None
        if first is not None:
            supervised = load_vla(first, device=lab.fabric.device)
            from_first = _divergence(supervised, after, decisions, rows)
        found = verdict(
            condition(before, decisions, rows),
            condition(after, decisions, rows),
            belongs,
            divergence=_divergence(before, after, decisions, rows),
            exact=after.exact,
            trials=trials,
            from_first=from_first,
        )
        write_json(aligned / GATE, found)
        return found

    found = lab.run.phase(f"gate/{name}", settings, work)
    if found["collapsed"]:
        lab.run.say(f"  COLLAPSED: {found['reason']}")
    return found


@torch.no_grad()
def _divergence(
    before: SeeingPolicy, after: SeeingPolicy, decisions: Decisions, rows: Int64[np.ndarray, " n"]
) -> float | None:
    """KL(start || policy) of token policies in nats per token, in the states of preferred rollouts."""
    if not (isinstance(before, TokenPolicy) and isinstance(after, TokenPolicy)):
        return None
    total = 0.0
    for first in range(0, len(rows), 64):
        batch = decisions.batch(rows[first : first + 64])
        seen, counting = (
            (batch["frames"], batch["words"], batch["targets"]),
            before.counting(batch["targets"], batch["mask"]),
        )
        logs = [torch.log_softmax(policy.token_logits(*seen), -1)[counting] for policy in (before, after)]
        total += float((logs[0].exp() * (logs[0] - logs[1])).sum())
    return total / (int(decisions.taken[rows].sum()) * before.action_size)


def _labels(lab: Lab, judged: Judged, how: Alignment) -> dict[str, Preferences]:
    """Pairs of each task, all of them from one initial state, as they were judged or at random.

    Raises:
        DataError: A pair compares rollouts from different initial states, or parts of rollouts; the message
            names the file and its row.
    """
    found = {}
    for source in judged.rollouts:
        task, store = task_of(source), source.store
        if task not in judged.urls:
            continue
        pairs = read_labels(store, judged.urls[task])
        check_rollout_pairs(store, pairs, where=hide_passwords(judged.urls[task]))
        if how.pairs == "random":
            pairs = random_pairs_of_states(store, len(pairs), stream(lab.seed, f"random-pairs/{task}"))
        found[task] = pairs
    return found


class _Comparison:
    """Rollouts, who is better, and the reference's scores, ready for a learner that has not moved yet."""

    def __init__(
        self,
        policy: SeeingPolicy,
        rounds: Sequence[Judged],
        labels: Sequence[dict[str, Preferences]],
        demonstrations: Sequence[FilmedEpisodes],
        how: Alignment,
        lab: Lab,
    ) -> None:
        self.how, self.rounds, self.labels = how, rounds, labels
        self.rollouts = [source for judged in rounds for source in judged.rollouts]
        self.decisions = Decisions(policy, [*self.rollouts, *demonstrations], device=lab.fabric.device)
        self._number = {name: index for index, name in enumerate(self.decisions.names)}
        self._policy, self._lab = policy, lab
        last = len(self.rollouts)
        self._demonstrations = [i for i, (source, _) in enumerate(self.decisions.names) if source >= last]

    @property
    def size(self) -> int:
        """Groups of the present round."""
        return len(self._of_round(len(self.rounds) - 1)[0])

    def groups(self) -> TrajectoryGroups:
        """Groups of all rounds and demonstrations, each drawn in its share."""
        present = len(self.rounds) - 1
        each = [self._of_round(number) for number in range(len(self.rounds))]
        if not each[present][0]:
            raise DataError("No two rollouts differ in their scores, so there is nothing to learn from.")
        replayed = sum(len(members) for members, _ in each[:-1])
        alone = [[i] for i in self._demonstrations]
        fresh, replay, imitated = self._shares(bool(replayed))
        members, grades, chances = [], [], []
        for number, (found, graded) in enumerate(each):
            share = replay / max(replayed, 1)
            if number == present:
                share = fresh / len(found)
            members += found
            grades += graded
            chances += [share] * len(found)
        chances += [imitated / max(len(alone), 1)] * len(alone)
        stages = _stages(self.decisions, self.rounds) if self.how.segment == "stage" else None
        parts = part_numbers(self.decisions, self.how.segment, windows=self.how.windows, stages=stages)
        return TrajectoryGroups(
            self.decisions,
            _padded([*members, *alone], -1).astype(np.int64),
            _padded([*grades, *([1.0] for _ in alone)], 0.0),
            reference=self.decisions.scores(self._policy),
            parts=parts,
            chances=np.array(chances),
            imitated=np.arange(len(chances)) >= len(members),
        )

    def imitated(self) -> "_Rows":
        """Decisions to imitate, demonstrations and earlier rounds in the same shares as among the groups."""
        each = [self._imitated_of(number) for number in range(len(self.rounds))]
        if not each[-1]:
            raise DataError("No two rollouts differ in their scores, so there is nothing to imitate.")
        earlier = [i for found in each[:-1] for i in found]
        parts = [
            (_rows(self.decisions, np.array(numbers, np.int64)), share)
            for numbers, share in zip(
                (each[-1], earlier, self._demonstrations), self._shares(bool(earlier)), strict=True
            )
            if share
        ]
        return _Rows(self.decisions, parts)

    def _shares(self, earlier: bool) -> tuple[float, float, float]:
        """Of a batch: the present round, which takes what is left, earlier ones, and demonstrations."""
        replay = self.how.replay if earlier else 0.0
        demonstrations = self.how.demonstrations if self._demonstrations else 0.0
        return 1 - replay - demonstrations, replay, demonstrations

    def _imitated_of(self, number: int) -> list[int]:
        if self.how.kind == "chosen":
            members, grades = self._pairs(number)
            return sorted({m[int(np.argmax(g))] for m, g in zip(members, grades, strict=True)})
        offset = self._offset(number)
        sources = range(offset, offset + len(self.rounds[number].rollouts))
        return [i for i, (source, _) in enumerate(self.decisions.names) if source in sources]

    def _of_round(self, number: int) -> tuple[list[list[int]], list[list[float]]]:
        """Members and grades of the groups of one round."""
        make: Callable[[int], tuple[list[list[int]], list[list[float]]]] = {
            "pairs": self._pairs,
            "lists": self._lists,
            "singles": self._singles,
        }[self.how.compares if self.how.kind == "preference" else "pairs"]
        return make(number)

    def _offset(self, number: int) -> int:
        return sum(len(judged.rollouts) for judged in self.rounds[:number])

    def _pairs(self, number: int) -> tuple[list[list[int]], list[list[float]]]:
        members, grades = [], []
        for source, episodes in enumerate(self.rounds[number].rollouts, start=self._offset(number)):
            found = self.labels[number].get(task_of(episodes))
            if found is None:
                continue
            for a, b, label in zip(found.a.episode, found.b.episode, found.label, strict=True):
                members.append([self._number[source, int(a)], self._number[source, int(b)]])
                grades.append([float(label), 1 - float(label)])
        return members, grades

    def _lists(self, number: int) -> tuple[list[list[int]], list[list[float]]]:
        """All rollouts of each initial state, ranked by their scores."""
        members, grades = [], []
        judged = self.rounds[number]
        for source, episodes in enumerate(judged.rollouts, start=self._offset(number)):
            task = task_of(episodes)
            if task not in judged.scores:
                raise ConfigError(
                    f"The objective {self.how.objective} compares lists, which need a score of every "
                    "rollout: people gave pairs"
                )
            rng = stream(self._lab.seed, f"random-lists/{task}")
            for order, scores in ranked_lists(episodes.store, judged.scores[task]):
                if np.ptp(scores) > 0:
                    given = rng.permutation(scores) if self.how.pairs == "random" else scores
                    members.append([self._number[source, int(e)] for e in order])
                    grades.append(given.tolist())
        return members, grades

    def _singles(self, number: int) -> tuple[list[list[int]], list[list[float]]]:
        """Every rollout by itself: up where it succeeded, down elsewhere."""
        members, grades = [], []
        for source, episodes in enumerate(self.rounds[number].rollouts, start=self._offset(number)):
            good = episodes.store.successes.astype(float)
            if self.how.pairs == "random":
                good = stream(self._lab.seed, f"random-singles/{task_of(episodes)}").permutation(good)
            members += [[self._number[source, episode]] for episode in range(len(good))]
            grades += [[one] for one in good.tolist()]
        return members, grades


def _padded(rows: Sequence[Sequence[int]] | Sequence[Sequence[float]], filler: int | float) -> np.ndarray:
    width = max(len(row) for row in rows)
    return np.array([[*row, *[filler] * (width - len(row))] for row in rows])


def _better(decisions: Decisions, judged: Judged, labels: dict[str, Preferences]) -> Int64[np.ndarray, " N"]:
    """Numbers of the trajectories that won a comparison; of all where single rollouts were graded alike."""
    found = set()
    for source, episodes in enumerate(judged.rollouts):
        pairs = labels.get(task_of(episodes))
        if pairs is not None:
            won = np.where(pairs.label >= 0.5, pairs.a.episode, pairs.b.episode)
            found |= {decisions.trajectory(source, int(episode)) for episode in won}
    return np.array(sorted(found) or range(len(decisions.names)), np.int64)


def _rows(decisions: Decisions, trajectories: Int64[np.ndarray, " N"]) -> Int64[np.ndarray, " n"]:
    parts = [decisions.starts[i] + np.arange(int(decisions.counts[i])) for i in trajectories.tolist()]
    return np.concatenate([np.empty(0, np.int64), *parts])


class _Rows:
    """Draws decisions from several sets, each in its share; the shares sum to one."""

    def __init__(self, decisions: Decisions, parts: Sequence[tuple[np.ndarray, float]]) -> None:
        self.decisions, self.parts = decisions, [rows for rows, _ in parts]
        shares = np.array([share for _, share in parts])
        self._bounds = np.cumsum(shares)

    def __len__(self) -> int:
        return len(self.parts[0])

    def sample(self, batch_size: int, generator: torch.Generator) -> dict[str, Tensor]:
        pick = torch.rand(2, batch_size, generator=generator, dtype=torch.float64).numpy()
        which = np.minimum(np.searchsorted(self._bounds, pick[0], side="right"), len(self.parts) - 1)
        rows = [self.parts[w][int(p * len(self.parts[w]))] for w, p in zip(which, pick[1], strict=True)]
        return self.decisions.batch(np.array(rows))


def _stages(decisions: Decisions, rounds: Sequence[Judged]) -> np.ndarray:
    """Stage of the state at each decision of the rollouts; 0 for demonstrations."""
    stages = np.zeros(len(decisions), np.int64)
    rollouts = [(judged.judge, episodes) for judged in rounds for episodes in judged.rollouts]
    for source, (judge, episodes) in enumerate(rollouts):
        store, costs = episodes.store, judge.costs_of(task_of(episodes))
        signals = replayed_signals(store) if costs.signals else None
        for episode, found in enumerate(store_costs(costs, store, signals)):
            number = decisions.trajectory(source, episode)
            first, count = decisions.starts[number], decisions.counts[number]
            states = np.arange(count) * episodes.frames.every
            stages[first : first + count] = np.minimum(found.stages[states], len(costs.stages) - 1)
    return stages
