"""What an alignment of GRAPE learns from: pairs, lists or single rollouts, and what is imitated.

Letters used in shapes: n decisions.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robopref.data.preferences import Preferences
from robopref.data.queries import initial_states
from robopref.errors import ConfigError, DataError, hide_passwords
from robopref.methods.phases.lab import Lab, stream
from robopref.methods.phases.label import read_labels
from robopref.methods.phases.vla_how import Alignment
from robopref.methods.phases.vla_kept import kept_scores
from robopref.methods.phases.vla_scores import Judged, task_of
from robopref.policies.vla.advantage import CreditedDecisions
from robopref.policies.vla.data import BATCH, Decisions, FilmedEpisodes, TrajectoryGroups, part_numbers
from robopref.policies.vla.seeing import SeeingPolicy
from robopref.rewards.credit import decision_advantages
from robopref.rewards.staged.pairs import check_rollout_pairs, random_pairs_of_states, ranked_lists
from robopref.training.signals import costs_in


def labels_of(lab: Lab, judged: Judged, how: Alignment) -> dict[str, Preferences]:
    """Pairs of each task, all of them from one initial state, as they were judged or at random; ties dropped.

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
        pairs = pairs.select(pairs.label != 0.5)
        if how.pairs == "random":
            pairs = random_pairs_of_states(store, len(pairs), stream(lab.seed, f"random-pairs/{task}"))
        found[task] = pairs
    return found


class NothingToLearnError(DataError):
    """There are rollouts, and none of them is better than another, or none is of the kind to imitate."""


class Comparison:
    """Rollouts, who is better, and the reference's scores, ready for a learner that has not moved yet.

    Args:
        start: Folder of the learner as it is, and its reference.
        policy: The learner.
        rounds: Judged rollouts, the present round last; those of the policy that made it are present, too.
        labels: Of each round.
        demonstrations: To be imitated beside.
        how: See :class:`Alignment`.
        lab: Where it works.
    """

    def __init__(
        self,
        start: Path,
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
        self._start, self._policy, self._lab = start, policy, lab
        last = len(self.rollouts)
        self._present = next(i for i, judged in enumerate(rounds) if judged.policy == rounds[-1].policy)
        self._demonstrations = [i for i, (source, _) in enumerate(self.decisions.names) if source >= last]

    @property
    def size(self) -> int:
        """Groups of the present round."""
        return sum(len(self._groups_of(number)[0]) for number in range(self._present, len(self.rounds)))

    def groups(self) -> TrajectoryGroups:
        """Groups of all rounds and demonstrations, each drawn in its share."""
        each = [self._groups_of(number) for number in range(len(self.rounds))]
        present, replayed = (
            sum(len(members) for members, _ in part)
            for part in (each[self._present :], each[: self._present])
        )
        if not present:
            raise NothingToLearnError(f"{self._alike()}, so there is nothing to learn from.")
        alone = [[i] for i in self._demonstrations]
        fresh, replay, imitated = self._shares(bool(replayed))
        members, grades, chances = [], [], []
        for number, (found, graded) in enumerate(each):
            share = fresh / present if number >= self._present else replay / max(replayed, 1)
            members += found
            grades += graded
            chances += [share] * len(found)
        chances += [imitated / max(len(alone), 1)] * len(alone)
        stages = _stages(self.decisions, self.rounds) if self.how.segment == "stage" else None
        parts = part_numbers(self.decisions.counts, self.how.segment, windows=self.how.windows, stages=stages)
        return TrajectoryGroups(
            self.decisions,
            _padded([*members, *alone], -1).astype(np.int64),
            _padded([*grades, *([1.0] for _ in alone)], 0.0),
            reference=self._reference([number for group in members for number in group]),
            parts=parts,
            chances=np.array(chances),
            imitated=np.arange(len(chances)) >= len(members),
        )

    def _reference(self, compared: Sequence[int]) -> Tensor:
        """Scores of those that are compared under the policy as it is now, where a loss reads them."""
        return self._reference_of(self.decisions.rows_of(sorted(set(compared)))).sum(-1)

    def _reference_of(self, rows: np.ndarray) -> Tensor:
        """Scores by entry under the policy as it is now, where a loss reads them."""
        if not self._policy.exact:
            return torch.zeros(len(self.decisions), 1)
        return kept_scores(self._lab, self._start, self._policy, self.decisions, rows)

    def imitated(self) -> "_Rows":
        """Decisions to imitate, demonstrations and earlier rounds in the same shares as among the groups."""
        if self.how.kind == "demonstrations":
            return _Rows(self.decisions, [(self.decisions.rows_of(self._demonstrations), 1.0)])
        each = [self._imitated_of(number) for number in range(len(self.rounds))]
        present, earlier = (
            [i for found in part for i in found] for part in (each[self._present :], each[: self._present])
        )
        if not present:
            lacking = {
                "chosen": self._alike(),
                "successes": "No rollout succeeded",
                "all": "There are no rollouts",
            }
            raise NothingToLearnError(f"{lacking[self.how.kind]}, so there is nothing to imitate.")
        parts = [
            (self.decisions.rows_of(numbers), share)
            for numbers, share in zip(
                (present, earlier, self._demonstrations), self._shares(bool(earlier)), strict=True
            )
            if share
        ]
        return _Rows(self.decisions, parts)

    def credited(self) -> CreditedDecisions:
        """Decisions of all rounds by their advantages, and demonstrations to imitate, each in its share.

        Of k rounds of earlier policies every k-th batch is replayed; their reference costs as much as one's.
        """
        advantages = self._advantages()
        fresh = self.decisions.where[:, 0] >= self._offset(self._present)
        batches = np.arange(len(advantages)) // BATCH
        replayed = ~fresh & (batches % max(1, self._present) == 0)
        present, earlier = np.where(fresh, advantages, 0), np.where(replayed, advantages, 0)
        if not present.any():
            raise NothingToLearnError(
                "All rollouts of each task that were judged have the same score, or began in one state, so "
                "there is nothing to learn from."
            )
        demonstrated = np.zeros(len(advantages))
        demonstrated[self.decisions.rows_of(self._demonstrations)] = 1.0
        chances = np.zeros(len(advantages))
        shares = self._shares(bool(earlier.any()))
        for share, drawn in zip(shares, (abs(present), abs(earlier), demonstrated), strict=True):
            chances += share * drawn / max(drawn.sum(), 1e-12)
        signs = np.sign(present + earlier)
        return CreditedDecisions(self.decisions, chances, signs, self._reference_of(np.flatnonzero(signs)))

    def _advantages(self) -> np.ndarray:
        """Advantage of every decision, zero of demonstrations; a task's critic learns from all rounds."""
        tasks: dict[str, list[tuple[np.ndarray, ...]]] = {}
        for number, judged in enumerate(self.rounds):
            for source, episodes in enumerate(judged.rollouts, start=self._offset(number)):
                tasks.setdefault(task_of(episodes), []).append(self._judged(number, source, episodes))
        found, known = np.zeros(len(self.decisions)), []
        for task, judged_ones in tasks.items():
            rows, read, counts, scores, starts = map(np.concatenate, zip(*judged_ones, strict=True))
            if len(set(starts.tolist())) < 2:
                self._lab.run.say(f"  {task}: no two initial states were judged, so no critic learns")
                continue
            found[rows], about = decision_advantages(
                read, counts, scores, starts, trace=self.how.trace, seed=self._lab.seed
            )
            known.append(about["explained"])
        if known:
            self._lab.run.say(f"  the critic explains {np.mean(known):.0%} of the variance of scores")
        return found

    def _judged(self, number: int, source: int, episodes: FilmedEpisodes) -> tuple[np.ndarray, ...]:
        """Decisions of the judged rollouts of a task in a round, and what a critic learns of them.

        Those are: what it reads (the state at each decision, and the round, since policies and the scale of
        scores change), the number of decisions, the score, and the initial state of each rollout.
        """
        members, scores, starts = self._scored(number, episodes)
        trajectories = [self.decisions.trajectory(source, int(e)) for e in members]
        counts = self.decisions.counts[trajectories]
        steps = part_numbers(counts, "step") * episodes.frames.every
        states = episodes.store.array("observations")[
            np.repeat(episodes.store.first_rows[members], counts) + steps
        ]
        read = np.concatenate([states, np.full((len(states), 1), number)], 1)
        return self.decisions.rows_of(trajectories), read, counts, scores, starts

    def _scored(self, number: int, episodes: FilmedEpisodes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rollouts of a task that have a score, the scores, and a name of the state each began in.

        Where people gave pairs and no scores, a rollout's is the share of its comparisons that it won, and
        those that nobody compared have none.
        """
        task, store = task_of(episodes), episodes.store
        starts = np.array([f"{number}/{i}" for i in range(len(store))], object)  # by itself where unknown
        states = initial_states(store)
        for state, members in states.items():
            starts[members] = state
        scores = self.rounds[number].scores.get(task)
        if scores is None:
            scores = _shares_won(len(store), self.labels[number].get(task))
        elif self.how.pairs == "random":
            rng, scores = stream(self._lab.seed, f"random-scores/{task}"), scores.copy()
            for members in states.values():
                scores[members] = rng.permutation(scores[members])
        members = np.flatnonzero(~np.isnan(scores))
        return members, scores[members], starts[members]

    def _alike(self) -> str:
        judge = self.rounds[-1].judge
        if judge.kind == "human":
            return "Nobody preferred a rollout to another"
        if self.how.kind == "preference" and self.how.compares == "lists":
            return "All rollouts of each state have the same score"
        return f"No two rollouts of one state differ by {judge.pairing.gap} in their scores"

    def _shares(self, earlier: bool) -> tuple[float, float, float]:
        """Of a batch: the present round, which takes what is left, earlier ones, and demonstrations."""
        replay = self.how.replay if earlier else 0.0
        demonstrations = self.how.demonstrations if self._demonstrations else 0.0
        return 1 - replay - demonstrations, replay, demonstrations

    def _imitated_of(self, number: int) -> list[int]:
        if self.how.kind == "chosen":
            members, grades = self._pairs(number)
            return sorted({m[int(np.argmax(g))] for m, g in zip(members, grades, strict=True)})
        return [
            self.decisions.trajectory(source, episode)
            for source, episodes in enumerate(self.rounds[number].rollouts, start=self._offset(number))
            for episode, succeeded in enumerate(episodes.store.successes.tolist())
            if succeeded or self.how.kind == "all"
        ]

    def _groups_of(self, number: int) -> tuple[list[list[int]], list[list[float]]]:
        """Members and grades of the groups of one round."""
        make = {"pairs": self._pairs, "lists": self._lists, "singles": self._singles}
        return make[self.how.compares](number)

    def _offset(self, number: int) -> int:
        return sum(len(judged.rollouts) for judged in self.rounds[:number])

    def _pairs(self, number: int) -> tuple[list[list[int]], list[list[float]]]:
        members, grades = [], []
        for source, episodes in enumerate(self.rounds[number].rollouts, start=self._offset(number)):
            found = self.labels[number].get(task_of(episodes))
            if found is None:
                continue
            for a, b, label in zip(found.a.episode, found.b.episode, found.label, strict=True):
                members.append([self.decisions.trajectory(source, int(e)) for e in (a, b)])
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
                    members.append([self.decisions.trajectory(source, int(e)) for e in order])
                    grades.append(given.tolist())
        return members, grades

    def _singles(self, number: int) -> tuple[list[list[int]], list[list[float]]]:
        """Every rollout by itself: up where it succeeded, down elsewhere."""
        members, grades = [], []
        for source, episodes in enumerate(self.rounds[number].rollouts, start=self._offset(number)):
            good = episodes.store.successes.astype(float)
            if self.how.pairs == "random":
                good = stream(self._lab.seed, f"random-singles/{task_of(episodes)}").permutation(good)
            members += [[self.decisions.trajectory(source, episode)] for episode in range(len(good))]
            grades += [[one] for one in good.tolist()]
        return members, grades


def _shares_won(count: int, pairs: Preferences | None) -> np.ndarray:
    """Share of its comparisons that each of some rollouts won; NaN of those without any."""
    won, met = np.zeros(count), np.zeros(count)
    if pairs is not None:
        for side, label in ((pairs.a, pairs.label), (pairs.b, 1 - pairs.label)):
            np.add.at(won, side.episode, label)
            np.add.at(met, side.episode, 1)
    return np.divide(won, met, out=np.full(count, np.nan), where=met > 0)


def _padded(rows: Sequence[Sequence[int]] | Sequence[Sequence[float]], filler: int | float) -> np.ndarray:
    width = max(len(row) for row in rows)
    return np.array([[*row, *[filler] * (width - len(row))] for row in rows])


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
        for episode, found in enumerate(costs_in(costs, store)):
            number = decisions.trajectory(source, episode)
            first, count = decisions.starts[number], decisions.counts[number]
            states = np.arange(count) * episodes.frames.every
            stages[first : first + count] = np.minimum(found.stages[states], len(costs.stages) - 1)
    return stages
