"""The small model, about a million parameters, that learns from nothing on a CPU: convolutions beside a
transformer of one block, a projector, and a causal language model over words and actions.
"""

import math
from typing import Any

from torch import nn

from robopref.data.language import WordTokenizer
from robopref.errors import ConfigError
from robopref.nets.seeded import weights_from
from robopref.policies.vla.actions import BINS
from robopref.policies.vla.language_model import LanguageSizes
from robopref.policies.vla.model import VisionLanguageAction
from robopref.policies.vla.seeing import SeeingPolicy
from robopref.policies.vla.vision import HALF, Convolutions, FusedVision, VisionTransformer

PADDING = 0  # the tokenizer's


class SmallModel(SeeingPolicy):
    """Builds ``model`` and ``tokenizer`` from the arguments in ``config`` that all small policies have."""

    def build_small(self) -> None:
        """Build them.

        Raises:
            ConfigError: for a value that makes no sense, or sizes that do not fit each other.
        """
        given: dict[str, Any] = self.config
        self.shift, self.learning_rate = given["shift"], given["learning_rate"]
        for name in ("action_size", "horizon", "image_size", "layers"):
            if given[name] < 1:
                raise ConfigError(f"{name} must be at least 1, got {given[name]}")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate must be positive and finite, got {self.learning_rate}")
        if not 0 <= self.shift < given["image_size"]:
            raise ConfigError(
                f"shift must be at least 0 and below image_size={given['image_size']}, got {self.shift}"
            )
        if given["words"] is None:
            self.tokenizer = WordTokenizer.of_seen_wordings(length=given["length"])
            given["words"] = list(self.tokenizer.words[2:])
        else:
            self.tokenizer = WordTokenizer(given["words"], length=given["length"])
        self.padding = PADDING
        self.action_size, self.horizon = given["action_size"], given["horizon"]
        self.image_size = given["image_size"]
        vocabulary = len(self.tokenizer) + 1  # one more begins a sequence
        width, heads = given["width"], given["heads"]
        with weights_from(given["seed"]):
            vision = FusedVision(
                Convolutions(self.image_size, channels=given["channels"]),
                VisionTransformer(
                    self.image_size,
                    patch=given["patch"],
                    width=given["vision_width"],
                    depth=1,
                    heads=heads,
                    hidden=2 * given["vision_width"],
                ),
                means=HALF,
                deviations=HALF,
            )
            sizes = LanguageSizes(vocabulary + BINS, width, 8 * width // 3, given["layers"], heads, heads)
            self.model = VisionLanguageAction(
                vision, sizes, action_end=vocabulary + BINS, begin=vocabulary - 1
            )
            for parameter in self.model.language_model.parameters():
                if parameter.dim() > 1:
                    nn.init.normal_(parameter, std=0.02)
