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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from safetensors import SafetensorError, safe_open
from torch import Tensor

from robopref.errors import ConfigError, DataError, MissingExtraError, unknown_name
from robopref.files import read_json
from robopref.nets.quantised import quantise
from robopref.policies.vla.actions import ActionBins, ActionRange
from robopref.policies.vla.language_model import LanguageSizes
from robopref.policies.vla.model import VisionLanguageAction
from robopref.policies.vla.policy import TokenPolicy
from robopref.policies.vla.vision import HALF, FusedVision, VisionTransformer

PROMPT = "In: What action should the robot take to {}?\nOut:"
SPACE = 29871  # Llama's token for a lone space, which OpenVLA was trained to see before its actions
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
POOLED = ("q", "kv", "proj", "norm", "mlp.fc1", "mlp.fc2")  # layers behind SigLIP's features, in timm


@dataclass(frozen=True)
class Encoder:
    """What a published vision encoder consists of, besides the sizes that its tensors have."""

    heads: int
    depth: int
    registers: int = 0
    scaled: bool = False


ENCODERS = {
    "vit_large_patch14_reg4_dinov2.lvd142m": Encoder(16, 24, registers=4, scaled=True),
    "vit_so400m_patch14_siglip_224": Encoder(16, 27),
}


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

    Raises:
        DataError: A file is missing or damaged, tensors are missing or not expected, the tokenizer does not
            fit the vocabulary, or the loaded model does not look at its frames.
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
    ) -> None:
        super().__init__()
        if not (0 < temperature < math.inf and 0 < learning_rate < math.inf):
            raise ConfigError(
                f"temperature and learning_rate must be positive, got {temperature} and {learning_rate}"
            )
        if dtype not in DTYPES:
            raise ConfigError(unknown_name("type of numbers", dtype, DTYPES))
        if weights not in (None, "int4"):
            raise ConfigError(f"weights must be int4 or null, got {weights!r}")
        path = Path(path)
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
        described = read_json(path / "config.json")
        files = _tensor_files(path)
        try:
            self.image_size = int(described["image_sizes"][0])
            text = described["text_config"]
            action_end = int(text["vocab_size"]) - int(described["pad_to_multiple_of"])
            self.padding = int(described["pad_token_id"])
            self.model = _build(files, described, self.image_size, action_end, path)
        except (KeyError, TypeError, IndexError) as error:
            raise DataError(
                f"{path / 'config.json'} does not describe an OpenVLA model: {error!r}."
            ) from error
        _load(self.model, files, path, DTYPES[dtype])
        self.tokenizer = PromptTokenizer(path / "tokenizer.json", action_end, self.padding)
        self.model.begin = self.tokenizer.begin
        self.model.language_model.checkpointed = checkpointed
        self.horizon, self.temperature, self.learning_rate = 1, temperature, learning_rate
        self.bins = ActionBins("openvla")
        self._set_range(described, statistics, path)
        if action_size not in (None, self.action_size):
            raise ConfigError(
                f"{path} was trained on actions of {self.action_size} entries ({statistics}), and the robot "
                f"takes {action_size}"
            )
        if weights == "int4":
            quantise(self.model.language_model.model, LAYERS)
            self.requires_grad_(False)
        self._look()
        self.begin_with(adapter, seed)

    def _set_range(self, described: Mapping[str, Any], statistics: str | None, path: Path) -> None:
        known = described.get("norm_stats") or {}
        if statistics is None and len(known) != 1:
            raise ConfigError(
                f"{path} knows the actions of {len(known)} data sets ({', '.join(sorted(known))}): name one "
                "with statistics=..."
            )
        name = next(iter(known)) if statistics is None else statistics
        if name not in known:
            raise ConfigError(unknown_name("data set of this checkpoint", name, known))
        action = known[name]["action"]
        low, high = (torch.tensor(action[key], dtype=torch.float32) for key in ("q01", "q99"))
        self.action_size, self.range = len(low), ActionRange(len(low))
        scaled = torch.tensor(action.get("mask", [True] * len(low)))
        for entry in ((low.minimum(-high) < -1 - 1e-6) & scaled).nonzero().flatten().tolist():
            raise DataError(
                f"{path / 'config.json'}: entry {entry} of the actions of {name} goes from {low[entry]:g} to "
                f"{high[entry]:g}, and actions here lie in [-1, 1]: what goes beyond would be cut off."
            )
        self.range.set(low, high, scaled)

    @torch.no_grad()
    def _look(self) -> None:
        """Refuse a model to which black and white look alike."""
        words = torch.from_numpy(self.tokenizer.encode("pick up the cup"))[None].expand(2, -1)
        frames = torch.zeros(2, self.image_size, self.image_size, 3, dtype=torch.uint8)
        frames[1] = 255
        logits = self.token_logits(frames, words, torch.zeros(2, self.action_size, dtype=torch.long))
        if not bool(torch.isfinite(logits).all()):
            raise DataError("The loaded model answers with NaN or infinity: its weights are damaged.")
        if torch.equal(logits[0], logits[1]):
            raise DataError(
                "The loaded model answers a black and a white frame alike: it does not look at them, so "
                "its weights are not what they should be."
            )


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
        self.padding, self.length = padding, length
        self.begin = self._tokenizer.encode(PROMPT.format("x")).ids[0]

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


def _tensor_files(path: Path) -> dict[str, Path]:
    """Return the file of every tensor, by name."""
    index = path / "model.safetensors.index.json"
    if index.exists():
        weights = read_json(index).get("weight_map")
        if not isinstance(weights, dict):
            raise DataError(f"{index} has no weight_map.")
        escaping = [file for file in weights.values() if Path(file).name != file]
        if escaping:
            raise DataError(f"{index} names a file outside of its directory: {escaping[0]}.")
        return {name: path / file for name, file in weights.items()}
    whole = path / "model.safetensors"
    with _opened(whole) as file:
        return dict.fromkeys(file.keys(), whole)


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (FileNotFoundError, SafetensorError) as error:
        raise DataError(f"{path} is missing, or no readable safetensors file: {error}.") from error


def _shapes(files: Mapping[str, Path]) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for path in sorted(set(files.values())):
        with _opened(path) as file:
            held = set(file.keys())
            names = [name for name, where in files.items() if where == path]
            if lacking := sorted(set(names) - held):
                raise DataError(f"{path} lacks the tensors {lacking[:5]} that the index places there.")
            shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in names}
    return shapes


def _build(
    files: Mapping[str, Path], described: Mapping[str, Any], image_size: int, action_end: int, path: Path
) -> VisionLanguageAction:
    """Build the model on no device at all, with the sizes that its tensors have."""
    shapes = _shapes(files)
    known = [ENCODERS[name] for name in described["timm_model_ids"] if name in ENCODERS]
    parts = [Encoder(**part) for part in described.get("vision_encoders", [])] or known
    if len(parts) != 2:
        raise DataError(f"{path / 'config.json'}: only the fused backbone {sorted(ENCODERS)} is known here.")
    text = dict(described["text_config"])
    sizes = {key: text[key] for key in LanguageSizes.__dataclass_fields__ if key in text}
    if "num_key_value_heads" not in sizes and "num_attention_heads" in sizes:
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    encoders = []
    with torch.device("meta"):
        for name, part in zip(("featurizer", "fused_featurizer"), parts, strict=True):
            encoders.append(_encoder(f"vision_backbone.{name}.", shapes, image_size, part, path))
        vision = FusedVision(
            encoders[0], encoders[1], means=[IMAGENET[0], HALF[0]], deviations=[IMAGENET[1], HALF[1]]
        )
        model = VisionLanguageAction(vision, LanguageSizes(**sizes), action_end=action_end, begin=1)
    vision.means = torch.tensor([IMAGENET[0], HALF[0]])[:, :, None, None]
    vision.deviations = torch.tensor([IMAGENET[1], HALF[1]])[:, :, None, None]
    return model


def _encoder(
    prefix: str, shapes: Mapping[str, tuple[int, ...]], image_size: int, part: Encoder, path: Path
) -> VisionTransformer:
    def shape(name: str) -> tuple[int, ...]:
        if prefix + name not in shapes:
            raise DataError(f"{path} lacks the tensor {prefix + name}, so it is no OpenVLA model.")
        return shapes[prefix + name]

    return VisionTransformer(
        image_size,
        patch=shape("patch_embed.proj.weight")[2],
        width=shape("patch_embed.proj.weight")[0],
        depth=part.depth - 1,  # features are those before the last block
        heads=part.heads,
        hidden=shape("blocks.0.mlp.fc1.weight")[0],
        registers=part.registers,
        scaled=part.scaled,
    )


def _not_used(model: VisionLanguageAction) -> tuple[set[str], set[str]]:
    """Names of what a published checkpoint holds besides: always, and perhaps (behind the features)."""
    always, perhaps = set[str](), set[str]()
    for name in ("featurizer", "fused_featurizer"):
        encoder, prefix = getattr(model.vision_backbone, name), f"vision_backbone.{name}."
        last = f"{prefix}blocks.{len(encoder.blocks)}."
        always |= {last + parameter for parameter, _ in encoder.blocks[0].named_parameters()}
        layers = ["norm"] if encoder.prefix else ["norm", *(f"attn_pool.{layer}" for layer in POOLED)]
        perhaps |= {f"{prefix}{layer}.{part}" for layer in layers for part in ("weight", "bias")}
        if not encoder.prefix:
            perhaps.add(f"{prefix}attn_pool.latent")
    for number in range(len(model.language_model.model.layers)):
        perhaps.add(f"language_model.model.layers.{number}.self_attn.rotary_emb.inv_freq")
    return always, perhaps


def _load(model: VisionLanguageAction, files: Mapping[str, Path], path: Path, dtype: torch.dtype) -> None:
    wanted = dict(model.named_parameters())
    always, perhaps = _not_used(model)
    surplus = set(files) - set(wanted) - always - perhaps
    missing = sorted((set(wanted) | always) - set(files))
    if missing or surplus:
        raise DataError(
            f"{path} does not hold this OpenVLA model: missing {missing[:5]} ({len(missing)} in all), not "
            f"expected {sorted(surplus)[:5]} ({len(surplus)} in all)."
        )
    tensors: dict[str, Tensor] = {}
    for file_path in sorted(set(files.values())):
        with _opened(file_path) as file:
            for name in (name for name, where in files.items() if where == file_path and name in wanted):
                tensor = file.get_tensor(name)
                if tensor.shape != wanted[name].shape:
                    raise DataError(
                        f"{file_path}: {name} is {tuple(tensor.shape)}, not {tuple(wanted[name].shape)} as "
                        "the configuration says."
                    )
                tensors[name] = tensor.to(dtype)
    model.load_state_dict(tensors, assign=True, strict=True)
    model.eval()
