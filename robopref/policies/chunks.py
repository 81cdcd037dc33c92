"""What every policy offers beside acting: more than one answer, and the score of an answer that is given.

A policy answers an observation with a chunk of actions. It can sample several chunks, and it can say how
likely a given chunk is: exactly (a Gaussian, tokens) or by a surrogate, -1/2 times its denoising error
(diffusion and flow). A surrogate depends on the times and the noise at which the error is taken. These are
drawn once and handed to every score that will be compared: of policy and reference, of both members
of a pair, of all candidates in one state. Independent draws raise the spread of a margin some 300 times.

A learner never asks which family it trains. It asks :attr:`ChunkPolicy.exact` where an objective needs true
log-probabilities.

Letters used in shapes: B observations, O their entries, K chunks for each of them, H actions in a chunk, A
entries of an action, N draws of time and noise.
"""

from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from robopref.errors import DataError
from robopref.nets.normalise import refuse_not_finite
from robopref.objectives.scores import Draws as Draw

__all__ = [
    "ChunkPolicy",
    "Draw",
    "Referenced",
    "check_chunks",
    "check_observations",
    "fold",
    "score_candidates",
]


@runtime_checkable
class ChunkPolicy(Protocol):
    """A policy over chunks of actions in [-1, 1].

    Attributes:
        observation_size: O.
        action_size: A.
        horizon: H, actions in a chunk that is sampled or scored.
        exact: Whether scores are log-probabilities; otherwise they are surrogates under a draw, of which only
            differences with the same draw mean anything.
    """

    @property
    def observation_size(self) -> int: ...  # noqa: D102
    @property
    def action_size(self) -> int: ...  # noqa: D102
    @property
    def horizon(self) -> int: ...  # noqa: D102
    @property
    def exact(self) -> bool: ...  # noqa: D102

    def act(
        self,
        observations: Float[Tensor, "B O"],
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = True,
    ) -> Float[Tensor, "B E A"]:
        """Answer with the actions to execute before the next decision: the first E of a chunk's H."""
        ...

    def sample(
        self,
        observations: Float[Tensor, "B O"],
        count: int,
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "B K H A"]:
        """Draw ``count`` whole chunks for each observation."""
        ...

    def draw(self, batch_size: int, *, generator: torch.Generator) -> Draw | None:
        """Draw the times and the noise of so many scores; None where scores are exact."""
        ...

    def score(
        self,
        observations: Float[Tensor, "B O"],
        actions: Float[Tensor, "B H A"],
        draw: Draw | None = None,
        mask: Bool[Tensor, "B H"] | None = None,
    ) -> Float[Tensor, " B"]:
        """Score given chunks; differentiable.

        Args:
            observations: What was seen before the first action of each chunk.
            actions: The chunks.
            draw: From :meth:`draw`, of the same batch size; None where scores are exact.
            mask: True where an action counts; all of them when not given.
        """
        ...


@runtime_checkable
class Referenced(Protocol):
    """A policy that can be asked as it was before its preferences: a copy, or itself without its adapter."""

    def frozen(self) -> AbstractContextManager[ChunkPolicy]:
        """Give the reference, for as long as the context lasts; no gradient flows into it."""
        ...


def check_chunks(policy: ChunkPolicy, observations: Tensor, actions: Tensor) -> None:
    """Refuse observations and chunks that do not belong together, or not to this policy.

    Raises:
        DataError: A shape is wrong; the message says which was wanted.
    """
    _check_width(policy.observation_size, observations)
    wanted = (len(observations), policy.horizon, policy.action_size)
    if actions.shape != wanted:
        raise DataError(f"Actions must be {wanted}, got {tuple(actions.shape)}")


def check_observations(size: int, observations: Tensor) -> None:
    """Refuse observations that are not ``size`` wide, or hold NaN or infinity.

    Raises:
        DataError: Says which width was wanted, or which entries are not finite.
    """
    _check_width(size, observations)
    refuse_not_finite("observations", observations)


def _check_width(size: int, observations: Tensor) -> None:
    if observations.dim() != 2 or observations.shape[1] != size:
        raise DataError(f"This policy takes observations (B, {size}), got {tuple(observations.shape)}")


def fold(draw: Draw | None, count: int) -> Draw | None:
    """Repeat a draw for ``count`` chunks of each observation, which lie beside each other: (B,) to (B K,)."""
    if draw is None:
        return None
    return Draw(draw.times.repeat_interleave(count, 1), draw.noise.repeat_interleave(count, 1))


def score_candidates(
    policy: ChunkPolicy,
    observations: Float[Tensor, "B O"],
    candidates: Float[Tensor, "B K H A"],
    draw: Draw | None,
) -> Float[Tensor, "B K"]:
    """Score K chunks of each observation, all of them with the one draw of their observation."""
    batch, count = candidates.shape[:2]
    scores = policy.score(
        observations.repeat_interleave(count, 0), candidates.flatten(0, 1), fold(draw, count)
    )
    return scores.reshape(batch, count)
