"""What all policies that see have in common: frames and instructions in, chunks of actions out.

An observation is one flat vector, as everywhere: the frame's pixels (height, width, colour; 0 to 255), then
the numbers of the instruction's words. :meth:`SeeingPolicy.see` makes it. What a policy of this kind is asked
to do is therefore part of what it observes, and evaluation, sampling and scoring need no other interface.

Families differ in what a chunk of actions is to them (its *target*: tokens, or the numbers themselves) and in
how a target is scored. A trainer asks :attr:`SeeingPolicy.exact` and nothing else of a family.

Letters used in shapes: B observations, n decisions, O entries of an observation, S height and width of a
frame, L words, H actions in a chunk, A entries of an action, N numbers of a target, E of a score.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from robopref.errors import ConfigError, DataError
from robopref.nets.seeded import weights_from
from robopref.policies.chunks import Draw, check_chunks
from robopref.policies.vla.lora import Adapter, without_adapter
from robopref.policies.vla.model import VisionLanguageAction


class SeeingPolicy(nn.Module, ABC):
    """A model, a tokenizer of words, and what can be said of any decision.

    Attributes:
        kind: Name by which a saved one is built again.
        model: The network.
        tokenizer: Has ``length`` and ``encode(instruction) -> (L,)``.
        padding: Which of its numbers is no word.
        image_size: Height and width of a frame in pixels, S.
        horizon: Actions in a chunk, H.
        action_size: Entries of an action, A.
        exact: Whether scores are log-probabilities.
        shift: Frames move by up to so many pixels while it imitates.
        learning_rate: Step size of Adam.
    """

    kind: str
    model: VisionLanguageAction
    tokenizer: Any
    padding: int
    image_size: int
    horizon: int
    action_size: int
    adapter: Adapter | None
    config: dict[str, Any]
    exact: bool
    shift: int = 0
    learning_rate: float = 1e-3

    # -- what a family supplies ----------------------------------------------------------------------------

    @property
    @abstractmethod
    def entries(self) -> int:
        """Numbers that the score of a decision sums over, so that score / entries is per token or number."""

    @abstractmethod
    def targets(self, actions: Float[Tensor, "n H A"]) -> Tensor:
        """What is kept of chunks to score them, (n, N)."""

    @abstractmethod
    def actions(self, targets: Tensor) -> Float[Tensor, "*n H A"]:
        """The chunks that targets stand for, in [-1, 1]."""

    @abstractmethod
    def decide(
        self,
        frames: UInt8[Tensor, "n S S 3"],
        words: Int[Tensor, "n L"],
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = True,
    ) -> Float[Tensor, "n H A"]:
        """A chunk of actions in [-1, 1] for each frame and instruction."""

    @abstractmethod
    def entry_scores(
        self,
        frames: UInt8[Tensor, "n S S 3"],
        words: Int[Tensor, "n L"],
        targets: Tensor,
        draw: Draw | None = None,
        mask: Bool[Tensor, "n H"] | None = None,
    ) -> Float[Tensor, "n E"]:
        """What the score of each target is the sum of, zero of actions that do not count.

        One for each number where :attr:`exact`, in nats; else one alone.
        """

    def decision_scores(
        self,
        frames: UInt8[Tensor, "n S S 3"],
        words: Int[Tensor, "n L"],
        targets: Tensor,
        draw: Draw | None = None,
        mask: Bool[Tensor, "n H"] | None = None,
    ) -> Float[Tensor, " n"]:
        """Score of each target, of the actions that count; in nats where :attr:`exact`."""
        return self.entry_scores(frames, words, targets, draw, mask).sum(-1)

    def draw(self, batch_size: int, *, generator: torch.Generator) -> Draw | None:
        """Draw the times and the noise of so many scores; None where scores are exact."""
        return None

    def decision_kl(
        self,
        frames: UInt8[Tensor, "n S S 3"],
        words: Int[Tensor, "n L"],
        targets: Tensor,
        reference: Any,
        mask: Bool[Tensor, "n H"] | None = None,
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Score of each target, and the divergence of the policy from a reference in its states, in nats.

        Args:
            frames: What was seen.
            words: What was told.
            targets: What was done.
            reference: Context in which this policy is its reference.
            mask: True where an action counts; all of them when not given.

        Raises:
            ConfigError: This family has no closed form of it.
        """
        raise ConfigError(f"A {type(self).__name__} has no divergence in closed form, which this needs")

    def entropy(
        self,
        frames: UInt8[Tensor, "n S S 3"],
        words: Int[Tensor, "n L"],
        targets: Tensor,
        mask: Bool[Tensor, "n H"] | None = None,
    ) -> Float[Tensor, " n"] | None:
        """Entropy per token in nats; None of numbers (a Gaussian's is the same in all states)."""
        return None

    def scaled(self, actions: Float[Tensor, "*n H A"]) -> Float[Tensor, "*n H A"]:
        """Actions on the scale on which they are learned: [-1, 1] is what training saw of each entry."""
        return actions

    def counting(self, targets: Tensor, mask: Bool[Tensor, "n H"] | None) -> Bool[Tensor, "n N"]:
        """Which numbers of targets belong to actions that count: all of them without a mask."""
        if mask is None:
            return torch.ones_like(targets, dtype=torch.bool)
        return mask.repeat_interleave(self.action_size, 1)

    # -- what it sees --------------------------------------------------------------------------------------

    @property
    def observation_size(self) -> int:
        """Entries of an observation, O: pixels and words."""
        return 3 * self.image_size**2 + self.tokenizer.length

    def see(self, frames: UInt8[np.ndarray, "B S S 3"], instructions: Sequence[str]) -> Float[Tensor, "B O"]:
        """Join frames and instructions to observations.

        Raises:
            DataError: A frame has another size, or an instruction is empty or too long.
        """
        self._check_frames(frames)
        if len(instructions) != len(frames):
            raise DataError(f"{len(frames)} frames need as many instructions, got {len(instructions)}.")
        words = np.stack([self.tokenizer.encode(text) for text in instructions])
        flat = frames.reshape(len(frames), -1)
        return torch.from_numpy(np.concatenate([flat, words], 1).astype(np.float32))

    def parts(self, observations: Float[Tensor, "B O"]) -> tuple[Tensor, Tensor]:
        """Return frames (B, S, S, 3) uint8 and words (B, L) of observations.

        Raises:
            DataError: The observations have another width, or a value that is no pixel or no word.
        """
        if observations.dim() != 2 or observations.shape[1] != self.observation_size:
            raise DataError(
                f"This policy takes observations (B, {self.observation_size}), pixels and words as see() "
                f"joins them, got {tuple(observations.shape)}"
            )
        pixels, words = observations.split([3 * self.image_size**2, self.tokenizer.length], 1)
        if not bool(((pixels >= 0) & (pixels <= 255)).all()):  # NaN is neither
            raise DataError("The pixels of an observation must be numbers from 0 to 255.")
        known = self.model.language_model.sizes.vocab_size
        if not bool(((words >= 0) & (words < known)).all()):
            raise DataError(f"The words of an observation must be numbers of tokens, 0 to {known - 1}.")
        return pixels.to(torch.uint8).unflatten(1, (self.image_size, self.image_size, 3)), words.long()

    def _check_frames(self, frames: Any) -> None:
        wanted = (self.image_size, self.image_size, 3)
        if frames.ndim != 4 or frames.shape[1:] != wanted or frames.dtype not in (np.uint8, torch.uint8):
            raise DataError(
                f"This policy sees frames {wanted} of bytes, got {tuple(frames.shape)} of {frames.dtype}. "
                f"Draw them with width={self.image_size} and height={self.image_size}."
            )

    def pixels(self, frames: UInt8[Tensor, "B S S 3"]) -> Float[Tensor, "B 3 S S"]:
        """Return frames as the model takes them, in [0, 1]."""
        dtype = self.model.projector.fc1.weight.dtype
        return frames.permute(0, 3, 1, 2).to(dtype if dtype.is_floating_point else torch.float32) / 255

    # -- acting --------------------------------------------------------------------------------------------

    def act(
        self,
        observations: Float[Tensor, "B O"],
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = True,
    ) -> Float[Tensor, "B H A"]:
        """A chunk of actions in [-1, 1] for each observation: the likeliest, or drawn."""
        frames, words = self.parts(observations.to(self.model.projector.fc1.weight.device))
        return self.decide(frames, words, generator=generator, deterministic=deterministic)

    def sample(
        self, observations: Float[Tensor, "B O"], count: int, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "B K H A"]:
        """Draw ``count`` chunks for each observation."""
        drawn = self.act(observations.repeat_interleave(count, 0), generator=generator, deterministic=False)
        return drawn.unflatten(0, (len(observations), count))

    def score(
        self,
        observations: Float[Tensor, "B O"],
        actions: Float[Tensor, "B H A"],
        draw: Draw | None = None,
        mask: Bool[Tensor, "B H"] | None = None,
    ) -> Float[Tensor, " B"]:
        """Score given chunks, differentiably: in nats where ``exact``, else a surrogate under the draw."""
        check_chunks(self, observations, actions)
        frames, words = self.parts(observations)
        return self.decision_scores(frames, words, self.targets(actions), draw, mask)

    # -- itself as its reference ---------------------------------------------------------------------------

    def begin_with(self, adapter: Mapping[str, Any] | None, seed: int) -> None:
        """Take an adapter, or none, as this policy is made; its weights start from the seed."""
        self.adapter = None
        if adapter is not None:
            with weights_from(seed):
                self.adopt(adapter)

    def adopt(self, adapter: Mapping[str, Any]) -> None:
        """Freeze the weights and learn adapters beside them from now on; the policy does not change by it.

        Raises:
            ConfigError: It has one already, or the settings make no sense.
        """
        if self.adapter is not None:
            raise ConfigError("This policy has an adapter already")
        self.adapter = Adapter.of(adapter)
        self.adapter.attach(self.model)
        self.config["adapter"] = dict(adapter)

    def refuse_another(self, adapter: Mapping[str, Any] | None) -> None:
        """Refuse to learn by another adapter than the one that this policy has, if it has one.

        Raises:
            ConfigError: It has one with other settings.
        """
        if adapter is not None and self.adapter not in (None, Adapter.of(adapter)):
            raise ConfigError(
                f"This policy has an adapter already, {self.adapter}, and the alignment asks for "
                f"{Adapter.of(adapter)}: give policy.adapter or grape.alignment.adapter, or both alike"
            )

    @contextmanager
    def frozen(self) -> Iterator["SeeingPolicy"]:
        """Give the policy as it was before its adapter learned, for as long as the context lasts.

        Raises:
            ConfigError: It has no adapter.
        """
        with without_adapter(self.model):
            yield self

    # -- the training loop ---------------------------------------------------------------------------------

    @abstractmethod
    def loss(
        self, batch: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Loss of imitating recorded chunks; frames are shifted by a few pixels.

        Args:
            batch: ``frames`` (B, S, S, 3) uint8, ``words`` (B, L), ``targets`` (B, N) and, where not all
                actions count, ``mask`` (B, H).
            generator: Draws the shifts; without one, frames stay as they are.
        """

    def seen_in_training(
        self, frames: UInt8[Tensor, "B S S 3"], generator: torch.Generator | None
    ) -> UInt8[Tensor, "B S S 3"]:
        """Frames as they are imitated from: shifted."""
        return shifted(frames, self.shift, generator) if generator is not None and self.shift else frames

    def parameter_groups(self) -> list[dict[str, Any]]:
        """All that may move: everything, or the adapter where there is one."""
        moving = [p for p in self.parameters() if p.requires_grad]
        if not moving:
            raise ConfigError(
                "Nothing of this policy may move: four-bit weights learn by an adapter (adapter={rank: 32})"
            )
        return [{"params": moving, "lr": self.learning_rate}]

    def after_step(self) -> None:
        """Nothing follows a step."""

    def changing(self) -> set[str]:
        """Names of what learning changes: everything, or the adapter where there is one."""
        if self.adapter is None:
            return set(self.state_dict())
        return {name for name, p in self.named_parameters() if p.requires_grad}

    def shard(self, mesh: Any) -> None:
        """Share out the weights among the processes of a mesh.

        Raises:
            ConfigError: This family learns in one process.
        """
        raise ConfigError(
            f"A {type(self).__name__} learns in one process; token policies (policy=vla or openvla) learn in "
            "several"
        )


def shifted(
    frames: UInt8[Tensor, "B S S 3"], most: int, generator: torch.Generator
) -> UInt8[Tensor, "B S S 3"]:
    """Move each frame by up to ``most`` pixels in both directions; its border is repeated."""
    size = frames.shape[1]
    by = torch.randint(-most, most + 1, (2, len(frames)), generator=generator, device=generator.device)
    place = torch.arange(size, device=frames.device)
    rows, columns = ((place + b[:, None].to(frames.device)).clamp(0, size - 1) for b in by)
    each = torch.arange(len(frames), device=frames.device)[:, None, None]
    return frames[each, rows[:, :, None], columns[:, None, :]]
