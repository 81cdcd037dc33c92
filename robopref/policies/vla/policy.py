"""Policies that write their actions as tokens: acting, and the exact score of a given chunk.

Letters used in shapes: B observations, n decisions, O entries of an observation, S height and width of a
frame, L words, H actions in a chunk, A entries of an action, N = H A tokens, V bins.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from robopref.errors import ConfigError, unknown_name
from robopref.nets.sharded import share_out
from robopref.objectives.tokens import categorical_kl
from robopref.policies.chunks import Draw
from robopref.policies.offline import constructor_arguments
from robopref.policies.vla.actions import ActionBins, ActionRange
from robopref.policies.vla.seeing import SeeingPolicy
from robopref.policies.vla.small import SmallModel
from robopref.policies.vla.vision import VisionTransformer

DECODINGS = ("median", "mode")
NOISES = ("token", "chunk")


class TokenPolicy(SeeingPolicy):
    """What token policies of any size share: bins, a range of actions, and exact scores.

    Attributes:
        bins: From numbers to tokens and back.
        range: Of actions, scaled to the bins.
        temperature: Of sampling; at 1, where all of each token's distribution is drawn from and each has
            noise of its own, what is drawn has the probability that :meth:`score` says.
        central: Share of each token's distribution, around its median, that is drawn from: of 0.5 the half
            between the quartiles. Draws are then about what a policy does that decodes by the median; those
            of a low temperature are about the mode.
        noise: What has a draw of its own: every ``token``, or each entry of an action for a whole ``chunk``,
            whose actions then err the same way, so that rollouts part where noise of single tokens averages
            out (noise that is correlated over time: Eberhard et al. 2023, "Pink noise is all you need").
            Drawn so, a chunk does not have the probability that :meth:`score` says.
        decoding: What a policy does that draws nothing: the ``mode`` or the ``median`` of each token. Bins
            are ordered, and expert actions pile up at the ends of their range, so that the likeliest bin is
            often an end although most of the probability lies elsewhere.
    """

    temperature: float
    central: float = 1.0
    noise: str = "token"
    decoding: str = "mode"
    bins: ActionBins
    range: ActionRange
    exact = True

    # -- acting --------------------------------------------------------------------------------------------

    @property
    def entries(self) -> int:
        """Tokens of a chunk, N."""
        return self.horizon * self.action_size

    def decide(
        self,
        frames: UInt8[Tensor, "n S S 3"],
        words: Int[Tensor, "n L"],
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = True,
    ) -> Float[Tensor, "n H A"]:
        """A chunk of actions for each frame: of the tokens' modes or medians, or drawn."""
        tokens = self.model.generate(
            self.pixels(frames),
            words,
            self.entries,
            self.padding,
            temperature=0.0 if deterministic else self.temperature,
            central=self.central,
            noises=self.action_size if self.noise == "chunk" else None,
            decoding=self.decoding,
            generator=generator,
        )
        return self.actions(tokens)

    def targets(self, actions: Float[Tensor, "*B H A"]) -> Int[Tensor, "*B N"]:
        """Return the token (bin) of every entry of chunks of actions."""
        return self.bins.encode(self.range.to_bins(actions)).flatten(-2)

    def actions(self, targets: Int[Tensor, "*B N"]) -> Float[Tensor, "*B H A"]:
        """Return the actions of bins, in [-1, 1]."""
        values = self.bins.decode(targets).unflatten(-1, (self.horizon, self.action_size))
        return self.range.from_bins(values).clamp(-1, 1)

    def scaled(self, actions: Float[Tensor, "*n H A"]) -> Float[Tensor, "*n H A"]:
        """Actions on the scale of the bins."""
        return self.range.to_bins(actions)

    # -- scores of tokens ----------------------------------------------------------------------------------

    def token_logits(
        self, frames: UInt8[Tensor, "B S S 3"], words: Int[Tensor, "B L"], tokens: Int[Tensor, "B N"]
    ) -> Float[Tensor, "B N V"]:
        """Logits of every token given those before it."""
        return self.model.logits(self.pixels(frames), words, tokens, self.padding)

    def token_log_probs(
        self, frames: UInt8[Tensor, "B S S 3"], words: Int[Tensor, "B L"], tokens: Int[Tensor, "B N"]
    ) -> Float[Tensor, "B N"]:
        """Log-probability of every token given those before it, in nats."""
        logits = self.token_logits(frames, words, tokens)
        return -F.cross_entropy(logits.transpose(1, 2), tokens, reduction="none")

    def entry_scores(
        self,
        frames: UInt8[Tensor, "n S S 3"],
        words: Int[Tensor, "n L"],
        targets: Int[Tensor, "n N"],
        draw: Draw | None = None,
        mask: Bool[Tensor, "n H"] | None = None,
    ) -> Float[Tensor, "n N"]:
        """Log-probability of each token, in nats."""
        log_probs = self.token_log_probs(frames, words, targets)
        return torch.where(self.counting(targets, mask), log_probs, 0.0)

    def decision_kl(
        self,
        frames: UInt8[Tensor, "n S S 3"],
        words: Int[Tensor, "n L"],
        targets: Int[Tensor, "n N"],
        reference: Any,
        mask: Bool[Tensor, "n H"] | None = None,
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Log-probability of each chunk, and KL(reference || policy) of its tokens, summed over tokens."""
        logits = self.token_logits(frames, words, targets)
        with torch.no_grad(), reference:
            before = self.token_logits(frames, words, targets)
        log_probs = -F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
        each = log_probs, categorical_kl(before, logits)
        counting = self.counting(targets, mask)
        summed = [torch.where(counting, values, 0.0).sum(-1) for values in each]
        return summed[0], summed[1]

    def entropy(
        self,
        frames: UInt8[Tensor, "n S S 3"],
        words: Int[Tensor, "n L"],
        targets: Int[Tensor, "n N"],
        mask: Bool[Tensor, "n H"] | None = None,
    ) -> Float[Tensor, " n"]:
        """Mean entropy of the tokens of each chunk that count, each given those before it, in nats."""
        log_probs = F.log_softmax(self.token_logits(frames, words, targets), -1)
        each, counting = -(log_probs.exp() * log_probs).sum(-1), self.counting(targets, mask)
        return torch.where(counting, each, 0.0).sum(-1) / counting.sum(-1)

    def shard(self, mesh: Any) -> None:
        """Share out the model's weights among the processes of a mesh; four-bit weights stay whole."""
        vision = self.model.vision_backbone
        encoders = (vision.featurizer, vision.fused_featurizer)
        blocks = [block for e in encoders if isinstance(e, VisionTransformer) for block in e.blocks]
        share_out(self.model, [*blocks, *self.model.language_model.model.layers], mesh, entries=("logits",))

    # -- supervised learning -------------------------------------------------------------------------------

    def loss(
        self, batch: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Mean negative log-likelihood per token of recorded chunks."""
        targets = batch["targets"]
        frames = self.seen_in_training(batch["frames"], generator)
        counting = self.counting(targets, batch.get("mask"))
        logits, targets = self.token_logits(frames, batch["words"], targets)[counting], targets[counting]
        loss = F.cross_entropy(logits, targets)
        with torch.no_grad():
            error = self.bins.decode(logits.argmax(-1)) - self.bins.decode(targets)
        return loss, {"squared_error": error.square().mean()}


class VLAPolicy(SmallModel, TokenPolicy):
    """The small one, about a million parameters: it learns from nothing on a CPU in minutes.

    Args:
        action_size: Entries of an action.
        horizon: Actions in a chunk.
        image_size: Height and width of a frame in pixels.
        words: Vocabulary; None takes the words of all instructions to train with.
        length: Most words of an instruction.
        channels: Of the convolutions.
        patch: Of the vision transformer, in pixels; both encoders must see as many patches.
        vision_width: Features of the vision transformer.
        width: Of the language model.
        layers: Of the language model.
        heads: Of both transformers.
        temperature: Of sampling.
        central: Share of each token's distribution that is drawn from, see :class:`TokenPolicy`.
        noise: ``token`` or ``chunk``, see :class:`TokenPolicy`.
        decoding: ``median`` or ``mode`` of each token, where nothing is drawn.
        shift: Frames move by up to so many pixels while it learns (Yarats et al. 2021, DrQ).
        adapter: ``{"rank": 8, ...}`` freezes the weights and learns LoRA adapters, see
            :class:`~robopref.policies.vla.lora.Adapter`; None moves all weights.
        learning_rate: Step size of Adam.
        seed: Of the starting weights.

    Raises:
        ConfigError: for sizes that do not fit each other.
    """

    kind = "vla"

    def __init__(
        self,
        action_size: int,
        *,
        horizon: int = 5,
        image_size: int = 84,
        words: Sequence[str] | None = None,
        length: int = 12,
        channels: Sequence[int] = (16, 32, 64, 64),
        patch: int = 14,
        vision_width: int = 64,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        temperature: float = 1.0,
        central: float = 1.0,
        noise: str = "token",
        decoding: str = "median",
        shift: int = 3,
        adapter: Mapping[str, Any] | None = None,
        learning_rate: float = 1e-3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.config = constructor_arguments(locals())
        if not temperature > 0:
            raise ConfigError(f"temperature must be positive, got {temperature}")
        if not 0 < central <= 1:
            raise ConfigError(f"central is a share, above 0 and at most 1, got {central}")
        if noise not in NOISES:
            raise ConfigError(unknown_name("noise", noise, NOISES))
        if decoding not in DECODINGS:
            raise ConfigError(unknown_name("decoding", decoding, DECODINGS))
        self.temperature, self.central, self.noise, self.decoding = temperature, central, noise, decoding
        self.build_small()
        self.begin_with(adapter, seed)
        self.bins, self.range = ActionBins("uniform"), ActionRange(action_size)
