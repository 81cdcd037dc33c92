"""A vision-language-action model: frames and words in, a distribution over action bins out, token by token.

The sequence is [begin, P patches, L words (padding first), N action tokens]; each action token is predicted
from all before it. The distribution of a token is the softmax over the 256 action tokens of the vocabulary,
and over no other: that is the distribution actions are drawn from, so log-probabilities are exact.

Letters used in shapes: B frames, S pixels of a side, L words, N action tokens, V action bins (256), W
width of the language model.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from robopref.errors import ConfigError
from robopref.policies.vla.actions import BINS
from robopref.policies.vla.language_model import Cache, CausalLanguageModel, LanguageSizes
from robopref.policies.vla.vision import FusedVision, Projector


class VisionLanguageAction(nn.Module):
    """Encoder, projector and language model.

    Args:
        vision: The fused encoder.
        language: Sizes of the language model.
        action_end: Action bin i is token ``action_end`` - 1 - i.
        begin: Token that begins a sequence.
    """

    def __init__(self, vision: FusedVision, language: LanguageSizes, *, action_end: int, begin: int) -> None:
        super().__init__()
        if not BINS <= action_end <= language.vocab_size:
            raise ConfigError(
                f"{BINS} action tokens must end within a vocabulary of {language.vocab_size}, at {action_end}"
            )
        self.vision_backbone = vision
        self.projector = Projector(vision.features, language.hidden_size)
        self.language_model = CausalLanguageModel(language)
        self.action_end, self.begin = action_end, begin

    def read(
        self, frames: Float[Tensor, "B 3 S S"], words: Int[Tensor, "B L"], padding: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings of all that comes before the actions, their positions, and which are real."""
        patches = self.projector(self.vision_backbone(frames))
        begin = words.new_full((len(words), 1), self.begin)
        text = self.language_model.embed(torch.cat([begin, words], 1))
        x = torch.cat([text[:, :1], patches.to(text.dtype), text[:, 1:]], 1)
        real = F.pad(words != padding, (1 + patches.shape[1], 0), value=True)
        return x, real.long().cumsum(1) - 1, real

    def features(
        self, frames: Float[Tensor, "B 3 S S"], words: Int[Tensor, "B L"], padding: int
    ) -> Float[Tensor, "B W"]:
        """What the language model makes of frame and instruction, at the last word."""
        x, positions, real = self.read(frames, words, padding)
        return self.language_model(x, positions, real)[0][:, -1].float()

    def logits(
        self,
        frames: Float[Tensor, "B 3 S S"],
        words: Int[Tensor, "B L"],
        bins: Int[Tensor, "B N"],
        padding: int,
    ) -> Float[Tensor, "B N V"]:
        """Logits of every action token given those before it, in one pass.

        Args:
            frames: Pixels in [0, 1].
            words: Of the instruction, padded on the left with ``padding``.
            bins: The action tokens, as bins.
            padding: Which word is none.
        """
        x, positions, real = self.read(frames, words, padding)
        actions = self.language_model.embed(self.action_end - 1 - bins[:, :-1])
        count = torch.arange(1, bins.shape[1], device=bins.device)
        hidden, _ = self.language_model(
            torch.cat([x, actions], 1),
            torch.cat([positions, positions[:, -1:] + count], 1),
            F.pad(real, (0, bins.shape[1] - 1), value=True),
        )
        return self._action_logits(hidden[:, -bins.shape[1] :])

    @torch.no_grad()
    def generate(
        self,
        frames: Float[Tensor, "B 3 S S"],
        words: Int[Tensor, "B L"],
        count: int,
        padding: int,
        *,
        temperature: float = 0.0,
        central: float = 1.0,
        noises: int | None = None,
        decoding: str = "mode",
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "B N"]:
        """Write ``count`` action tokens, one after the other.

        Args:
            frames: Pixels in [0, 1].
            words: Of the instruction.
            count: N.
            padding: Which word is none.
            temperature: 0 draws nothing; 1 draws from the policy.
            central: Share of each token's distribution, around its median, that is drawn from.
            noises: Tokens this far apart share their noise: one is at the same level of its distribution as
                the other of its own. None draws N levels, each token's own.
            decoding: What is taken where nothing is drawn: the ``mode`` or the ``median`` of each token.
            generator: Source of randomness, on the CPU.
        """
        x, positions, real = self.read(frames, words, padding)
        hidden, cache = self.language_model(x, positions, real)
        found: list[Tensor] = []
        last = positions[:, -1:]
        levels = None
        if temperature:
            draws = count if noises is None else noises
            levels = _levels(len(frames), draws, central, generator).to(x.device)
        while True:
            logits = self._action_logits(hidden[:, -1])
            if levels is not None:
                found.append(_quantile(logits / temperature, levels[len(found) % len(levels)]))
            else:
                found.append(logits.argmax(-1) if decoding == "mode" else _quantile(logits, 0.5))
            if len(found) == count:
                return torch.stack(found, 1)
            last, real = last + 1, F.pad(real, (0, 1), value=True)
            hidden, cache = self._next(found[-1], last, real, cache)

    def _next(self, bins: Tensor, positions: Tensor, real: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        token = self.language_model.embed((self.action_end - 1 - bins)[:, None])
        return self.language_model(token, positions, real, cache)

    def _action_logits(self, hidden: Tensor) -> Tensor:
        rows = slice(self.action_end - BINS, self.action_end)
        head = self.language_model.lm_head
        if type(head) is nn.Linear:
            return F.linear(hidden, head.weight[rows]).flip(-1).float()
        return head(hidden)[..., rows].flip(-1).float()  # an adapted or quantised head has no plain weight


def _levels(
    batch: int, count: int, central: float, generator: torch.Generator | None
) -> Float[Tensor, "N B 1"]:
    """How much of a token's probability lies below what is drawn: uniform about the median."""
    return 0.5 + central * (torch.rand(count, batch, 1, generator=generator) - 0.5)


def _quantile(logits: Float[Tensor, "B N"], level: float | Float[Tensor, "B 1"]) -> Int[Tensor, " B"]:
    """The first bin up to which there is this much of the probability; bins are ordered."""
    below = torch.softmax(logits, -1).cumsum(-1) < level
    return below.sum(-1).clamp(max=logits.shape[-1] - 1)
