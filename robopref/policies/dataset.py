"""Transitions of a trajectory store as batches of tensors, with the rewards that a policy shall learn from.

An observation is kept once: that of row t + 1 is what followed the action of row t. An episode that ends at
its time limit goes on, as far as values are concerned; only one that its task ended is terminal.

Letters used in shapes: R rows of the store, N transitions, B in a batch, O entries of an observation, A of an
action, H actions of a chunk, E episodes.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, DataError, unknown_name

Batch = dict[str, Tensor]
Rewards = Float[np.ndarray, " R"] | Literal["true"] | None
"""One for every row of a store (a reward model's), ``"true"`` for the environment's own, None for none."""

STANDARDISE = ("full", "scale", "none")


@dataclass(frozen=True)
class RewardScaling:
    """A reward r enters a batch as (r - mean) / deviation."""

    mean: float = 0.0
    deviation: float = 1.0


class TransitionSampler:
    """Draws transitions uniformly, with replacement; the training loop's sampler.

    A batch holds ``observations`` (B, O), ``actions`` (B, A), ``rewards`` (B,), ``next_observations`` (B, O)
    and ``terminals`` (B,), 1 where the task ended and 0 elsewhere. Built by :func:`transition_tensors`.

    Args:
        observations, actions, rewards, terminals: One line for each row of the store.
        rows: Numbers of the rows that may be drawn; row + 1 holds the observation that follows.
        scaling: How ``rewards`` were scaled.
    """

    def __init__(
        self,
        observations: Float[Tensor, "R O"],
        actions: Float[Tensor, "R A"],
        rewards: Float[Tensor, " R"],
        terminals: Float[Tensor, " R"],
        rows: Int[Tensor, " N"],
        scaling: RewardScaling,
    ) -> None:
        self._observations, self._rows, self.scaling = observations, rows, scaling
        # One gather instead of three.
        self._rest = torch.cat([actions, rewards[:, None], terminals[:, None]], dim=1)
        self._action_size = actions.shape[1]

    @property
    def device(self) -> torch.device:
        """Where batches lie."""
        return self._observations.device

    def __len__(self) -> int:
        return len(self._rows)

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw a batch with a CPU generator."""
        return self.batch(torch.randint(len(self), (batch_size,), generator=generator))

    def batch(self, index: Int[Tensor, " B"]) -> Batch:
        """The transitions of these numbers, 0 to N - 1."""
        rows = self._rows[index.to(self.device)]
        rest = self._rest.index_select(0, rows)
        size = self._action_size
        return {
            "observations": self._observations.index_select(0, rows),
            "actions": rest[:, :size],
            "rewards": rest[:, size],
            "next_observations": self._observations.index_select(0, rows + 1),
            "terminals": rest[:, size + 1],
        }

    def seen_observations(self) -> Float[Tensor, "K O"]:
        """Every observation that can occur in a batch, once: what a normaliser is fitted to."""
        return self._observations[torch.unique(torch.cat([self._rows, self._rows + 1]))]


class ChunkSampler(TransitionSampler):
    """Draws chunks of H actions that begin at any transition; built by :func:`chunk_tensors`.

    A batch holds ``observations`` (B, O), before the first action, ``actions`` (B, H, A) and ``mask`` (B, H).
    Where the mask is False the episode is over, and its last action is repeated.

    Args:
        arguments: Of :class:`TransitionSampler`.
        last: For each row, that of the last action of its episode.
        horizon: H.
    """

    def __init__(self, *arguments: Any, last: Int[Tensor, " R"], horizon: int) -> None:
        super().__init__(*arguments)
        self._last = last
        self._steps = torch.arange(horizon, device=self.device)

    def batch(self, index: Int[Tensor, " B"]) -> Batch:
        """The chunks that begin at these transitions, 0 to N - 1."""
        rows = self._rows[index.to(self.device)]
        wanted, last = rows[:, None] + self._steps, self._last[rows][:, None]
        return {
            "observations": self._observations.index_select(0, rows),
            "actions": self._rest[torch.minimum(wanted, last), : self._action_size],
            "mask": wanted <= last,
        }


class FollowedSampler(TransitionSampler):
    """Draws transitions with the action that followed them, too; built by :func:`followed_tensors`.

    A batch holds ``next_actions`` (B, A) beside what :class:`TransitionSampler` gives; zero where the task
    ended.
    """

    def batch(self, index: Int[Tensor, " B"]) -> Batch:
        """The transitions of these numbers, 0 to N - 1."""
        following = self._rest.index_select(0, self._rows[index.to(self.device)] + 1)
        return super().batch(index) | {"next_actions": following[:, : self._action_size]}


def transition_tensors(
    store: TrajectoryStore,
    rewards: Rewards = "true",
    *,
    device: str | torch.device = "cpu",
    standardise: str = "none",
    top_fraction: float = 1.0,
    scores: Float[np.ndarray, " E"] | None = None,
) -> TransitionSampler:
    """Load the transitions of a store onto ``device``.

    Args:
        store: The episodes.
        rewards: One for each row, as a reward model predicts them; ``"true"`` for the recorded ones; None for
            none (zero everywhere).
        device: Where batches shall lie.
        standardise: ``full`` subtracts the mean over transitions and divides by the deviation; ``scale`` only
            divides, which is right for tasks that end (a shift would pay for ending sooner or later);
            ``none`` leaves rewards alone.
        top_fraction: Share of the episodes to keep, the best by ``scores``; at least one.
        scores: One for each episode; the sum of its rewards when not given.

    Raises:
        ConfigError: An option makes no sense, or does not go with these data.
        DataError: No transitions, a wrong shape, NaN or infinity, actions outside [-1, 1], or (where rewards
            are standardised) rewards that are all the same, from which nothing can be learned.
    """
    arrays, _ = _selected(store, rewards, standardise, top_fraction, scores)
    return TransitionSampler(*_on(device, arrays))


def followed_tensors(
    store: TrajectoryStore,
    rewards: Rewards = "true",
    *,
    device: str | torch.device = "cpu",
    standardise: str = "none",
) -> FollowedSampler:
    """Load the transitions of a store with their next actions, as :func:`transition_tensors` does.

    The last transition of an episode that its time limit cut has none and is left out, as in D4RL's reader.

    Raises:
        DataError: Nothing is left, besides what :func:`transition_tensors` refuses.
    """
    (observations, actions, values, terminals, rows, scaling), last = _selected(
        store, rewards, standardise, 1.0, None
    )
    rows = rows[(rows < last[rows]) | (terminals[rows] > 0)]
    if not len(rows):
        raise DataError("No action is followed by another one: every episode is a single step")
    return FollowedSampler(*_on(device, (observations, actions, values, terminals, rows, scaling)))


def chunk_tensors(
    store: TrajectoryStore,
    rewards: Rewards = None,
    *,
    horizon: int,
    device: str | torch.device = "cpu",
    top_fraction: float = 1.0,
    scores: Float[np.ndarray, " E"] | None = None,
) -> ChunkSampler:
    """Load the chunks of ``horizon`` actions of a store onto ``device``, as :func:`transition_tensors` does.

    A chunk may begin at every transition, also where its episode ends before it does.
    """
    if horizon < 1:
        raise ConfigError(f"horizon must be at least 1, got {horizon}")
    arrays, last = _selected(store, rewards, "none", top_fraction, scores)
    return ChunkSampler(
        *_on(device, arrays), last=torch.from_numpy(last).to(torch.device(device)), horizon=horizon
    )


Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, RewardScaling]


def _on(device: str | torch.device, arrays: Arrays) -> list[Any]:
    """Tensors of the arrays, and the scaling as it is."""
    return [torch.from_numpy(x).to(device) if isinstance(x, np.ndarray) else x for x in arrays]


def _selected(
    store: TrajectoryStore,
    rewards: Rewards,
    standardise: str,
    top_fraction: float,
    scores: np.ndarray | None,
) -> tuple[Arrays, Int[np.ndarray, " R"]]:
    """What a sampler of transitions is made of, checked; and the row of each row's last action."""
    if standardise not in STANDARDISE:
        raise ConfigError(unknown_name("way to standardise", standardise, STANDARDISE))
    if not 0 < top_fraction <= 1:
        raise ConfigError(f"top_fraction must lie in (0, 1], got {top_fraction}")
    if len(store) == 0:
        raise DataError("The store holds no episodes, so there is nothing to learn from")
    episode_of, rows = _episodes_of_rows(store), np.asarray(store.transition_rows())
    values = _values(store, rewards, rows, episode_of)
    if top_fraction < 1:
        if scores is None:
            if rewards is None:
                raise ConfigError("top_fraction keeps the best episodes: it needs scores or rewards")
            scores = np.bincount(episode_of[rows], weights=values[rows], minlength=len(store))
        rows = rows[_best(np.asarray(scores), len(store), top_fraction)[episode_of[rows]]]
    observations = np.array(store.array("observations"), dtype=np.float32)
    actions = np.array(store.array("actions"), dtype=np.float32)
    terminals = np.zeros(len(observations), dtype=np.float32)
    ends = np.asarray(store.first_rows) + np.asarray(store.lengths) - 1
    terminals[ends] = np.asarray(store.terminated)
    _check_steps(observations, actions, rows, episode_of)
    scaling = _scaling(values[rows], standardise, any_terminal=bool(terminals[rows].any()))
    values = (values - scaling.mean) / scaling.deviation
    arrays = (observations, actions, values.astype(np.float32), terminals, rows.astype(np.int64), scaling)
    return arrays, ends[episode_of].astype(np.int64)


def _episodes_of_rows(store: TrajectoryStore) -> Int[np.ndarray, " R"]:
    return np.repeat(np.arange(len(store)), np.asarray(store.lengths) + 1)


def _values(
    store: TrajectoryStore,
    rewards: Rewards,
    rows: np.ndarray,
    episode_of: np.ndarray,
) -> Float[np.ndarray, " R"]:
    """Rewards of all rows in double precision; checked where they mean something."""
    if rewards is None:
        return np.zeros(len(episode_of))
    if isinstance(rewards, str):
        if rewards != "true":
            raise ConfigError(f"rewards must be an array, 'true' or None, got {rewards!r}")
        rewards = np.asarray(store.array("rewards"))
    if rewards.shape != episode_of.shape:
        raise DataError(
            f"There must be one reward for each of the store's {len(episode_of)} rows, "
            f"got shape {rewards.shape}"
        )
    values = rewards.astype(np.float64)
    bad = rows[~np.isfinite(values[rows])]
    if len(bad):
        raise DataError(
            f"{len(bad)} of {len(rows)} rewards are NaN or infinite, "
            f"the first in episode {episode_of[bad[0]]}"
        )
    return values


def _best(scores: np.ndarray, episodes: int, fraction: float) -> Bool[np.ndarray, " E"]:
    if scores.shape != (episodes,) or not np.isfinite(scores).all():
        raise DataError(
            f"scores must be {episodes} finite numbers, one for each episode; got shape {scores.shape} with "
            f"{int((~np.isfinite(scores)).sum())} that are not finite"
        )
    keep = np.zeros(episodes, dtype=bool)
    keep[np.argsort(-scores, kind="stable")[: math.ceil(fraction * episodes)]] = True
    return keep


def _check_steps(
    observations: np.ndarray, actions: np.ndarray, rows: np.ndarray, episode_of: np.ndarray
) -> None:
    for name, array, where in (
        ("observations", observations, np.concatenate([rows, rows + 1])),
        ("actions", actions, rows),
    ):
        bad = where[~np.isfinite(array[where]).all(1)]
        if len(bad):
            raise DataError(f"Episode {episode_of[bad[0]]} holds NaN or infinity in its {name}")
    largest = np.abs(actions[rows]).max(0)
    outside = np.flatnonzero(largest > 1 + 1e-5)
    if len(outside):
        raise DataError(
            f"Actions must lie in [-1, 1]; entries {outside.tolist()} reach {largest[outside].tolist()}. "
            "Scale the actions of these data to the range"
        )


def _scaling(rewards: np.ndarray, standardise: str, *, any_terminal: bool) -> RewardScaling:
    if standardise == "none":
        return RewardScaling()
    if standardise == "full" and any_terminal:
        raise ConfigError(
            "standardise=full subtracts the mean reward, which changes what is best where episodes end by "
            "their task, as some of these do. Use standardise=scale"
        )
    mean, deviation = float(rewards.mean()), float(rewards.std())
    # Rounding alone spreads single-precision values by about 1e-7 of their size.
    if deviation <= 1e-6 * float(np.abs(rewards).max()):
        raise DataError(
            f"All {len(rewards)} rewards are {mean:g}: no action is better than another, so nothing can be "
            "learned from them. Look at the labels and the reward model"
        )
    return RewardScaling(mean if standardise == "full" else 0.0, deviation)
