"""The directory of a published OpenVLA checkpoint: what its files say, and the model that they hold.

``config.json``, and ``model.safetensors`` or its shards with ``model.safetensors.index.json``. Sizes of
vision encoders are read from the shapes of the tensors; whatever is missing, surplus or of another shape is
refused by name.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from robopref.errors import ConfigError, DataError, RoboprefError, unknown_name
from robopref.files import read_json
from robopref.policies.vla.actions import ActionRange
from robopref.policies.vla.language_model import LanguageSizes
from robopref.policies.vla.model import VisionLanguageAction
from robopref.policies.vla.vision import HALF, FusedVision, VisionTransformer

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SAMPLED = 4096  # bytes of each tensor that say whether it is the same
POOLED = ("q", "kv", "proj", "norm", "mlp.fc1", "mlp.fc2")  # layers behind SigLIP's features, in timm


@dataclass(frozen=True)
class Encoder:
    """What a published vision encoder consists of, besides the sizes that its tensors have."""

    heads: int
    depth: int
    registers: int = 0
    scaled: bool = False

    def __post_init__(self):
        if self.heads < 1 or self.depth < 2 or self.registers < 0:
            raise ConfigError(
                "an encoder has a head and two blocks or more (the last is not used), and no less than 0 "
                f"registers, got {self}"
            )


ENCODERS = {
    "vit_large_patch14_reg4_dinov2.lvd142m": Encoder(16, 24, registers=4, scaled=True),
    "vit_so400m_patch14_siglip_224": Encoder(16, 27),
}


@dataclass(frozen=True)
class Published:
    """A checkpoint's directory, and what its ``config.json`` says of the model.

    Attributes:
        directory: Holds the files.
        image_size: Height and width of a frame in pixels.
        padding: The token that pads.
        action_end: Behind the last action token: the vocabulary without what rounds its size up.
        encoders: DINOv2 and SigLIP.
        sizes: Of the language model.
        statistics: Of the actions of each data set, by name.
    """

    directory: Path
    image_size: int
    padding: int
    action_end: int
    encoders: tuple[Encoder, Encoder]
    sizes: LanguageSizes
    statistics: Mapping[str, Any]

    def __post_init__(self):
        if self.image_size < 1 or not 0 <= self.padding < self.sizes.vocab_size:
            raise ConfigError(
                f"frames have a pixel or more, and padding is one of {self.sizes.vocab_size} tokens, got "
                f"{self.image_size} and {self.padding}"
            )

    @classmethod
    def read(cls, directory: Path) -> "Published":
        """Read ``config.json``.

        Raises:
            DataError: It is missing, or does not describe an OpenVLA model.
        """
        path = directory / "config.json"
        described = read_json(path)
        with _describing(path):
            text = dict(described["text_config"])
            sizes = {key: text[key] for key in LanguageSizes.__dataclass_fields__ if key in text}
            if "num_key_value_heads" not in sizes and "num_attention_heads" in sizes:
                sizes["num_key_value_heads"] = sizes["num_attention_heads"]
            known = [ENCODERS[name] for name in described["timm_model_ids"] if name in ENCODERS]
            parts = [Encoder(**part) for part in described.get("vision_encoders", [])] or known
            if len(parts) != 2:
                raise ConfigError(f"only the fused backbone {sorted(ENCODERS)} is known here")
            return cls(
                directory,
                image_size=int(described["image_sizes"][0]),
                padding=int(described["pad_token_id"]),
                action_end=int(text["vocab_size"]) - int(described["pad_to_multiple_of"]),
                encoders=(parts[0], parts[1]),
                sizes=LanguageSizes(**sizes),
                statistics=dict(described.get("norm_stats") or {}),
            )

    def model(self, dtype: torch.dtype) -> VisionLanguageAction:
        """Build the model and load its tensors, all of them and no other.

        Raises:
            DataError: A file is missing or damaged, tensors are missing or not expected, or do not fit.
        """
        files = _tensor_files(self.directory)
        with _describing(self.directory / "config.json"):
            model = _build(files, self)
        _load(model, files, self.directory, dtype)
        return model

    def content(self) -> str:
        """Return 12 hex digits that change when another checkpoint takes this one's place.

        They are of the configuration, the tokenizer, the name and header of each file of tensors, and the
        beginning of every tensor: some megabytes of many gigabytes.
        """
        digest = hashlib.sha256()
        for name in ("config.json", "tokenizer.json"):
            digest.update((self.directory / name).read_bytes())
        for path in sorted(set(_tensor_files(self.directory).values())):
            digest.update(path.name.encode())
            for part in _samples(path):
                digest.update(part)
        return digest.hexdigest()[:12]

    def action_range(self, statistics: str | None) -> tuple[str, ActionRange]:
        """Return the name of a data set, the only one for None, and the range of its actions.

        Raises:
            ConfigError: There is no such data set, or several to choose from.
            DataError: Its numbers make no sense, or go beyond what can be sent.
        """
        known, path = self.statistics, self.directory / "config.json"
        if statistics is None and len(known) != 1:
            raise ConfigError(
                f"{self.directory} knows the actions of {len(known)} data sets ({', '.join(sorted(known))}): "
                "name one with statistics=..."
            )
        name = next(iter(known)) if statistics is None else statistics
        if name not in known:
            raise ConfigError(unknown_name("data set of this checkpoint", name, known))
        with _describing(path, f", in the actions of {name}"):
            action = known[name]["action"]
            low, high = (torch.tensor(action[key], dtype=torch.float32) for key in ("q01", "q99"))
            scaled = torch.tensor(action.get("mask", [True] * len(low)))
            found = ActionRange(len(low))
            if not (low.shape == high.shape == scaled.shape and len(low)):
                raise ConfigError("q01, q99 and mask hold one number for each entry of an action")
        try:
            found.set(low, high, scaled)
        except DataError as error:
            raise DataError(f"{path}, in the actions of {name}: {error}") from error
        for entry in ((low.minimum(-high) < -1 - 1e-6) & found.scaled).nonzero().flatten().tolist():
            raise DataError(
                f"{path}: entry {entry} of the actions of {name} goes from {low[entry]:g} to "
                f"{high[entry]:g}, and actions here lie in [-1, 1]: what goes beyond would be cut off."
            )
        return name, found


@contextmanager
def _describing(path: Path, where: str = "") -> Iterator[None]:
    """Say of whatever a description lets fail which file it stands in."""
    try:
        yield
    except DataError:  # which says so itself
        raise
    except (
        KeyError,
        TypeError,
        IndexError,
        AttributeError,
        ValueError,
        RuntimeError,
        ArithmeticError,
    ) as error:
        what = str(error) if isinstance(error, RoboprefError) else repr(error)
        raise DataError(f"{path} does not describe an OpenVLA model{where}: {what}") from error


def _tensor_files(path: Path) -> dict[str, Path]:
    """Return the file of every tensor, by name."""
    index = path / "model.safetensors.index.json"
    if index.exists():
        held = read_json(index)
        weights = held.get("weight_map") if isinstance(held, dict) else None
        if not isinstance(weights, dict) or not all(isinstance(file, str) for file in weights.values()):
            raise DataError(f"{index} has no weight_map from tensors to files.")
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


def _samples(path: Path) -> Iterator[bytes]:
    """Give the header of a safetensors file, and the first bytes of each of its tensors."""
    with path.open("rb") as file:
        header = file.read(int.from_bytes(file.read(8), "little"))
        yield header
        start = file.tell()
        for name, tensor in json.loads(header).items():
            if name != "__metadata__":
                first, last = tensor["data_offsets"]
                file.seek(start + first)
                yield file.read(min(last - first, SAMPLED))


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


def _build(files: Mapping[str, Path], described: Published) -> VisionLanguageAction:
    """Build the model on no device at all, with the sizes that its tensors have."""
    shapes, encoders = _shapes(files), []
    with torch.device("meta"):
        for name, part in zip(("featurizer", "fused_featurizer"), described.encoders, strict=True):
            encoders.append(_encoder(f"vision_backbone.{name}.", shapes, part, described))
        vision = FusedVision(
            encoders[0], encoders[1], means=[IMAGENET[0], HALF[0]], deviations=[IMAGENET[1], HALF[1]]
        )
        model = VisionLanguageAction(vision, described.sizes, action_end=described.action_end, begin=1)
    vision.means = torch.tensor([IMAGENET[0], HALF[0]])[:, :, None, None]
    vision.deviations = torch.tensor([IMAGENET[1], HALF[1]])[:, :, None, None]
    return model


def _encoder(
    prefix: str, shapes: Mapping[str, tuple[int, ...]], part: Encoder, described: Published
) -> VisionTransformer:
    def shape(name: str) -> tuple[int, ...]:
        if prefix + name not in shapes:
            raise DataError(
                f"{described.directory} lacks the tensor {prefix + name}, so it is no OpenVLA model."
            )
        return shapes[prefix + name]

    return VisionTransformer(
        described.image_size,
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
        where = f", the first in {files[min(surplus)]}" if surplus else ""
        raise DataError(
            f"{path} does not hold this OpenVLA model: missing {missing[:5]} ({len(missing)} in all), not "
            f"expected {sorted(surplus)[:5]} ({len(surplus)} in all{where})."
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
