"""Published OpenVLA weights in our own module: safetensors loaded by their names, nothing executed.

``trust_remote_code`` runs code that was written for transformers of 2024; with later versions it answers
without looking at the image and says nothing of it (openvla issue 346). So the layout is ours
(:mod:`robopref.policies.vla.vision`, :mod:`robopref.policies.vla.language_model`), sizes are read from the
shapes of the tensors, and what was loaded is asked whether a black and a white frame make a difference.

A directory holds ``config.json``, ``model.safetensors`` (or its shards with ``model.safetensors.index.json``)
and ``tokenizer.json``, as published on the Hugging Face hub.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from robopref.errors import ConfigError, DataError, MissingExtraError, unknown_name
from robopref.nets.quantised import quantise
from robopref.policies.vla.actions import ActionBins
from robopref.policies.vla.policy import TokenPolicy
from robopref.policies.vla.published import Published

PROMPT = "In: What action should the robot take to {}?\nOut:"
SPACE = 29871  # Llama's token for a lone space, which OpenVLA was trained to see before its actions
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ALIKE = 0.02
"""Logits that differ by less than this part of their spread differ by rounding alone.

Rounding to bfloat16 leaves 0.004 in the two layers of the tests' model, which differ by 0.3 where it looks.
"""


class OpenVLAPolicy(TokenPolicy):
    """OpenVLA, from a directory.

    Args:
        path: The directory.
        statistics: Which of the checkpoint's data sets gives the range of actions, such as ``bridge_orig``;
            None where there is one only.
        dtype: ``bfloat16`` or ``float32``.
        weights: ``int4`` rounds the linear layers of the language model to four bits, which freezes them
            (:mod:`robopref.nets.quantised`): an adapter learns. None leaves them as they are.
        adapter: Settings of LoRA adapters, see :class:`~robopref.policies.vla.lora.Adapter`.
        checkpointed: Compute activations of the language model anew in the backward pass: less memory, a
            third more arithmetic.
        temperature: Of sampling.
        learning_rate: Step size of Adam; 2e-5 is GRAPE's.
        action_size: Entries of the actions that the robot takes, where they are known: others are refused.
        seed: Of the adapter's starting weights.
        content: What the directory must hold, as the ``config`` of an earlier policy says; None takes all.

    Raises:
        DataError: A file is missing or damaged, tensors are missing or not expected, the tokenizer does not
            fit the vocabulary, the loaded model does not look at its frames, or it is another checkpoint.
        ConfigError: An option makes no sense.
    """

    kind = "openvla"

    def __init__(
        self,
        path: str | Path,
        *,
        statistics: str | None = None,
        dtype: str = "bfloat16",
        weights: str | None = None,
        adapter: Mapping[str, Any] | None = None,
        checkpointed: bool = False,
        temperature: float = 1.0,
        learning_rate: float = 2e-5,
        action_size: int | None = None,
        seed: int = 0,
        content: str | None = None,
    ) -> None:
        super().__init__()
        _check_options(temperature, learning_rate, dtype, weights)
        if not isinstance(path, str | Path):
            raise ConfigError(f"path must be the directory of a checkpoint, got {path!r}")
        path = Path(path).absolute()  # what is saved is read from anywhere
        self.config = {
            "path": str(path),
            "statistics": statistics,
            "dtype": dtype,
            "weights": weights,
            "adapter": None if adapter is None else dict(adapter),
            "checkpointed": checkpointed,
            "temperature": temperature,
            "learning_rate": learning_rate,
            "seed": seed,
        }
        published = Published.read(path)
        self.image_size, self.padding = published.image_size, published.padding
        self.model = published.model(DTYPES[dtype])
        self.tokenizer = PromptTokenizer(path / "tokenizer.json", published.action_end, self.padding)
        self.config["content"] = published.content()
        if content not in (None, self.config["content"]):
            raise DataError(
                f"{path} holds another checkpoint than the one that this policy was made of (content "
                f"{self.config['content']}, was {content}): put that one back, or make the policy anew."
            )
        self.model.begin = self.tokenizer.begin
        self.model.language_model.checkpointed = checkpointed
        self.horizon, self.temperature, self.learning_rate = 1, temperature, learning_rate
        self.bins = ActionBins("openvla")
        name, self.range = published.action_range(statistics)
        self.action_size = len(self.range.low)
        if action_size not in (None, self.action_size):
            raise ConfigError(
                f"{path} was trained on actions of {self.action_size} entries ({name}), and the robot takes "
                f"{action_size}"
            )
        if weights == "int4":
            quantise(self.model.language_model.model, LAYERS)
            self.requires_grad_(False)
        self._look(path)
        self.begin_with(adapter, seed)

    @torch.no_grad()
    def _look(self, path: Path) -> None:
        """Refuse a model to which black and white look alike."""
        words = torch.from_numpy(self.tokenizer.encode("pick up the cup"))[None].expand(2, -1)
        frames = torch.zeros(2, self.image_size, self.image_size, 3, dtype=torch.uint8)
        frames[1] = 255
        logits = self.token_logits(frames, words, torch.zeros(2, self.action_size, dtype=torch.long))
        if not bool(torch.isfinite(logits).all()):
            raise DataError(f"The model in {path} answers with NaN or infinity: its weights are damaged.")
        centred = logits.float() - logits.float().mean(2, keepdim=True)  # a softmax sees no more
        if float((centred[0] - centred[1]).norm()) <= ALIKE * float(centred[0].norm()):
            raise DataError(
                f"The model in {path} answers a black and a white frame alike: it does not look at them, so "
                "its weights are not what they should be."
            )


def _check_options(temperature: float, learning_rate: float, dtype: str, weights: str | None) -> None:
    if not (0 < temperature < math.inf and 0 < learning_rate < math.inf):
        raise ConfigError(
            f"temperature and learning_rate must be positive, got {temperature} and {learning_rate}"
        )
    if dtype not in DTYPES:
        raise ConfigError(unknown_name("type of numbers", dtype, DTYPES))
    if weights not in (None, "int4"):
        raise ConfigError(f"weights must be int4 or null, got {weights!r}")


class PromptTokenizer:
    """OpenVLA's prompt around an instruction, in tokens of its Llama tokenizer, padded on the left.

    Args:
        path: ``tokenizer.json``.
        vocabulary: Tokens that it must have: action tokens are the last of them.
        padding: Token that pads.
        length: Most tokens of a prompt, without the one that begins it.

    Raises:
        DataError: It cannot be read, or its vocabulary does not fit.
        MissingExtraError: The package ``tokenizers`` is not installed.
    """

    def __init__(self, path: Path, vocabulary: int, padding: int, *, length: int = 64) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise MissingExtraError(
                "Published tokenizers need the package tokenizers: install robopref with the extra 'vla'."
            ) from error
        if not path.is_file():
            raise DataError(f"There is no {path}.")
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises nothing narrower
            raise DataError(f"{path} is no tokenizer: {error}.") from error
        size = self._tokenizer.get_vocab_size(with_added_tokens=False)
        if size != vocabulary:
            raise DataError(
                f"{path} has {size} tokens, but the model's action tokens are the last 256 of {vocabulary}: "
                "this is another model's tokenizer."
            )
        highest = max(self._tokenizer.get_vocab(with_added_tokens=False).values())
        if highest >= vocabulary:
            raise DataError(
                f"{path} has a token numbered {highest}, but the model's end at {vocabulary - 1}."
            )
        self.padding, self.length = padding, length
        text = PROMPT.format("x")
        whole, bare = (self._tokenizer.encode(text, add_special_tokens=own).ids for own in (True, False))
        if not bare or whole[1:] != bare:
            raise DataError(
                f"{path} must put one token of its own before a text and none behind it (post_processor): "
                "the model's prompts begin with it."
            )
        self.begin = whole[0]

    def encode(self, instruction: str) -> Int64[np.ndarray, " L"]:
        """Return the tokens of the prompt for an instruction.

        Raises:
            DataError: The instruction is empty or too long.
        """
        if not instruction.strip():
            raise DataError(f"An instruction needs at least one word, got {instruction!r}.")
        ids = self._tokenizer.encode(PROMPT.format(instruction.lower().strip())).ids[1:]
        if ids[-1] != SPACE and self._tokenizer.id_to_token(SPACE) is not None:
            ids = [*ids, SPACE]
        if len(ids) > self.length:
            raise DataError(f"A prompt has at most {self.length} tokens, got {len(ids)}: {instruction!r}.")
        return np.array([self.padding] * (self.length - len(ids)) + ids, np.int64)
