"""Episodes as tokens: single decisions to imitate, and whole trajectories to compare.

A decision is taken at every H-th state: a frame, an instruction and the chunk of H actions that followed.
Frames come from frame caches that hold one in H states, so that every frame is a decision. An episode counts
up to its first success: what happens after it says nothing about the task. A rollout that succeeded in the
middle of a chunk never did the rest of it: a mask says which actions were taken, and no other counts, neither
in a score nor in a loss.

Letters used in shapes: D decisions of the longest trajectory, M trajectories, G groups of K trajectories, S
pixels of a side, L words, N numbers of a decision's target, H actions in a chunk, A entries of an action, T
trajectories, B batch, E entries of a score.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Tensor

from robopref.data.frames import FrameCache
from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, DataError
from robopref.policies.vla.seeing import SeeingPolicy

Batch = dict[str, Tensor]
BATCH = 64  # decisions that are scored at once


@dataclass(frozen=True)
class FilmedEpisodes:
    """Episodes of one task with their frames, and what the robot was told.

    Attributes:
        store: The episodes.
        frames: Of all of them, one in H states.
        instructions: One for each episode.
    """

    store: TrajectoryStore
    frames: FrameCache
    instructions: Sequence[str]

    def __post_init__(self):
        if not len(self.store) == len(self.frames) == len(self.instructions):
            raise DataError(
                f"{self.store.path} has {len(self.store)} episodes, {len(self.frames)} of them filmed, and "
                f"{len(self.instructions)} have an instruction."
            )


def steps_until_success(store: TrajectoryStore) -> Int64[np.ndarray, " N"]:
    """Return the actions of each episode up to and with the first that succeeded, or all of them."""
    lengths = store.lengths.copy()
    for episode in np.flatnonzero(store.successes):
        first = int(store.first_rows[episode])
        successes = store.array("successes")[first : first + int(lengths[episode])]
        lengths[episode] = int(successes.argmax()) + 1
    return lengths


class Decisions:
    """All decisions of some episodes, targets in memory and frames on disk.

    Args:
        policy: Whose targets and words are used.
        episodes: One entry per store.
        device: Where batches shall lie.
        kept: Episodes of each store that count, by number; None for all.

    Raises:
        ConfigError: The caches hold frames at another rate than one per chunk.
        DataError: There is no decision, a frame has another size than the policy sees, or an instruction is
            none that it can read.
    """

    def __init__(
        self,
        policy: SeeingPolicy,
        episodes: Sequence[FilmedEpisodes],
        *,
        device: str | torch.device = "cpu",
        kept: Sequence[Int[np.ndarray, " n"]] | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.sources = list(episodes)
        targets, words, where, counts, names, taken = [], [], [], [], [], []
        for number, source in enumerate(self.sources):
            _check(policy, source)
            chosen = np.arange(len(source.store)) if kept is None else kept[number]
            used = steps_until_success(source.store)
            for episode in chosen.tolist():
                actions, done = _padded(source, episode, int(used[episode]), policy.horizon)
                count = len(actions)
                taken.append(done)
                targets.append(policy.targets(torch.from_numpy(actions)))
                words.append(_words(policy, source, episode).expand(count, -1))
                first = int(source.frames.first[episode])
                where.append(np.stack([np.full(count, number), first + np.arange(count)], 1))
                counts.append(count)
                names.append((number, episode))
        if not counts:
            raise DataError("There are no episodes, so there is no decision to learn from.")
        self.targets, self.words = torch.cat(targets), torch.cat(words)
        self.taken = torch.from_numpy(np.concatenate(taken))
        self.where = np.concatenate(where)
        self.counts = np.array(counts, np.int64)
        self.starts = np.cumsum([0, *counts[:-1]]).astype(np.int64)
        self.names = names
        self._numbers = {name: number for number, name in enumerate(names)}

    def __len__(self) -> int:
        return len(self.targets)

    def trajectory(self, source: int, episode: int) -> int:
        """Return the number of the trajectory that an episode became."""
        return self._numbers[source, episode]

    def rows_of(self, trajectories: Sequence[int]) -> Int64[np.ndarray, " n"]:
        """Return the numbers of all decisions of some trajectories, one trajectory after the other."""
        parts = [self.starts[i] + np.arange(self.counts[i]) for i in trajectories]
        return np.concatenate([np.empty(0, np.int64), *parts])

    def frames(self, rows: Int[np.ndarray, " n"]) -> Tensor:
        """Return frames (n, S, S, 3) of decisions."""
        held = [source.frames.frames for source in self.sources]
        return torch.from_numpy(np.stack([held[source][frame] for source, frame in self.where[rows]]))

    def batch(self, rows: Int[np.ndarray, " n"]) -> Batch:
        """Return ``frames``, ``words``, ``targets`` and ``mask`` (n, H), True of actions that were taken."""
        parts = {
            "frames": self.frames(rows),
            "words": self.words[rows],
            "targets": self.targets[rows],
            "mask": self.taken[rows],
        }
        return {name: part.to(self.device) for name, part in parts.items()}

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw decisions uniformly, with a CPU generator."""
        return self.batch(torch.randint(len(self), (batch_size,), generator=generator).numpy())

    def scores(self, policy: SeeingPolicy) -> Float[Tensor, " n"]:
        """Return the score of every decision: its log-probability in nats, or a surrogate under one draw."""
        return torch.cat([found.sum(-1) for found in self.batch_scores(policy).values()])

    @torch.no_grad()
    def batch_scores(
        self, policy: SeeingPolicy, numbers: Collection[int] | None = None
    ) -> dict[int, Float[Tensor, "n E"]]:
        """Return what :meth:`scores` sums, of every :data:`BATCH` decisions by number, or of some batches.

        A score depends, by rounding, on who shares its batch; so nobody computes a part of one.
        """
        found = dict[int, Tensor]()
        draws = torch.Generator().manual_seed(0)  # the same for every policy that is asked
        for number, first in enumerate(range(0, len(self), BATCH)):
            rows = np.arange(first, min(first + BATCH, len(self)))
            draw = policy.draw(len(rows), generator=draws)
            if numbers is None or number in numbers:
                found[number] = policy.entry_scores(**self.batch(rows), draw=draw)
        return found

    def mean_scores(self, policy: SeeingPolicy) -> Float64[np.ndarray, " T"]:
        """Return the mean score of each trajectory per action taken, in nats where scores are exact."""
        scores, actions = self.scores(policy).double().cpu().numpy(), self.taken.sum(1).numpy()
        total = scores if policy.exact else scores * actions  # surrogates are means already
        return np.add.reduceat(total, self.starts) / np.add.reduceat(actions, self.starts)


def _check(policy: SeeingPolicy, source: FilmedEpisodes) -> None:
    if source.frames.every != policy.horizon:
        raise ConfigError(
            f"{source.frames.path} holds one frame in {source.frames.every} states, a policy with chunks of "
            f"{policy.horizon} actions needs one in {policy.horizon}"
        )
    if (source.frames.height, source.frames.width) != (policy.image_size, policy.image_size):
        raise DataError(
            f"{source.frames.path} holds frames of {source.frames.width} x {source.frames.height} pixels, "
            f"the policy sees {policy.image_size} x {policy.image_size}."
        )


def _words(policy: SeeingPolicy, source: FilmedEpisodes, episode: int) -> Int64[Tensor, " L"]:
    try:
        return torch.from_numpy(policy.tokenizer.encode(source.instructions[episode]))
    except DataError as error:
        raise DataError(f"{source.store.path}, episode {episode}: {error}") from error


def _padded(
    source: FilmedEpisodes, episode: int, used: int, horizon: int
) -> tuple[Float[np.ndarray, "D H A"], Bool[np.ndarray, "D H"]]:
    """Actions of every decision that began before the end, and which of them were taken.

    The last chunk is filled up with its last action.
    """
    actions = source.store.episode(episode).actions
    count = math.ceil(used / horizon)
    padded = np.concatenate([actions, np.repeat(actions[-1:], count * horizon, 0)])[: count * horizon]
    taken = np.arange(count * horizon) < len(actions)
    return padded.reshape(count, horizon, -1), taken.reshape(count, horizon)


class TrajectoryGroups:
    """Batches of groups of trajectories: single ones (K = 1), pairs (K = 2) or whole lists.

    A batch of B groups holds the M = B K trajectories one group after the other, padded to the longest:
    ``frames`` (M, D, S, S, 3), ``words`` (M, L), ``targets`` (M, D, N), ``mask`` (M, D), ``taken`` (M, D, H),
    the actions that count, ``reference`` (M, D), the score of each decision under the frozen reference,
    ``parts`` (M, D), the segment that it counts to, ``grades`` (B, K), best highest, ``imitated`` (B,),
    whether a group is one demonstration to imitate and no comparison, and ``weights`` (B,). A group with
    fewer than K members has some without any decision.

    Args:
        decisions: Of all trajectories.
        groups: Trajectory numbers of each group; -1 where it has no further member.
        grades: Best highest; 1 and 0 for a pair, equal ones for a tie.
        reference: From :meth:`Decisions.scores`, before training; read where scores are exact, and of
            groups that are compared.
        parts: Segment of each decision, in the order of ``decisions``.
        chances: How often each group is drawn, in proportion; None for all alike.
        imitated: Whether each group is a demonstration; None for none.

    Raises:
        DataError: Numbers do not fit.
    """

    def __init__(
        self,
        decisions: Decisions,
        groups: Int[np.ndarray, "G K"],
        grades: Float[np.ndarray, "G K"],
        *,
        reference: Float[Tensor, " n"],
        parts: Int[np.ndarray, " n"],
        chances: Float[np.ndarray, " G"] | None = None,
        imitated: Bool[np.ndarray, " G"] | None = None,
    ) -> None:
        if groups.shape != grades.shape or len(parts) != len(decisions) or len(reference) != len(decisions):
            raise DataError(
                f"Groups {groups.shape} need as many grades, got {grades.shape}; {len(decisions)} decisions "
                f"need as many parts and reference scores, got {len(parts)} and {len(reference)}."
            )
        self.decisions, self.groups, self.grades = decisions, groups, grades
        self.imitated = np.zeros(len(groups), bool) if imitated is None else imitated
        self.reference, self.parts = reference.cpu(), parts
        self.chances = None if chances is None else torch.from_numpy(np.asarray(chances, np.float64))

    def __len__(self) -> int:
        return len(self.groups)

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw groups with replacement, with a CPU generator."""
        if self.chances is None:
            index = torch.randint(len(self), (batch_size,), generator=generator)
        else:
            index = torch.multinomial(self.chances, batch_size, replacement=True, generator=generator)
        return self.batch(index.numpy())

    def batch(self, index: Int[np.ndarray, " B"]) -> Batch:
        """Return groups by number."""
        made, members = self.decisions, self.groups[index].reshape(-1)
        there = members >= 0
        members = np.where(there, members, members[there][0])
        counts = made.counts[members]
        steps = np.arange(counts[there].max())
        mask = (steps < counts[:, None]) & there[:, None]
        rows = made.starts[members][:, None] + np.minimum(steps, counts[:, None] - 1)
        flat = rows.reshape(-1)
        shape = rows.shape
        batch = {
            "frames": made.frames(flat).unflatten(0, shape),
            "words": made.words[made.starts[members]],
            "targets": made.targets[flat].unflatten(0, shape),
            "mask": torch.from_numpy(mask),
            "taken": made.taken[flat].unflatten(0, shape),
            "reference": self.reference[flat].reshape(shape),
            "parts": torch.from_numpy(self.parts[rows]),
            "grades": torch.from_numpy(self.grades[index].astype(np.float32)),
            "imitated": torch.from_numpy(self.imitated[index]),
            "weights": torch.ones(len(index)),
        }
        return {name: value.to(made.device) for name, value in batch.items()}


SEGMENTS = ("trajectory", "window", "stage", "step")


def part_numbers(
    counts: Int[np.ndarray, " T"],
    segment: str,
    *,
    windows: int = 4,
    stages: Int[np.ndarray, " n"] | None = None,
) -> Int64[np.ndarray, " n"]:
    """Return the segment that each decision of some trajectories counts to.

    Args:
        counts: Decisions of each trajectory.
        segment: ``trajectory`` (one), ``window`` (``windows`` equal parts of each trajectory, so that parts
            of long and short ones correspond), ``stage`` (of its staged costs) or ``step`` (each its own).
        windows: How many.
        stages: Stage of each decision, needed for ``stage``.

    Raises:
        ConfigError: The segment is unknown, or stages are missing.
    """
    if segment not in SEGMENTS:
        raise ConfigError(f"segment must be one of {', '.join(SEGMENTS)}, got {segment!r}")
    if segment == "stage":
        if stages is None or len(stages) != counts.sum():
            raise ConfigError("segment=stage needs the stage of every decision, from staged costs")
        return np.asarray(stages, np.int64)
    step = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    if segment == "trajectory":
        return np.zeros_like(step)
    if segment == "window":
        return step * windows // np.maximum(np.repeat(counts, counts), 1)
    return step
