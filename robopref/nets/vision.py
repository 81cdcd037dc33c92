"""Frame encoders: pictures to feature vectors, (B, 3, H, W) uint8 -> (B, d).

Two kinds. :class:`PcaEncoder` needs no weights: the principal components of the frames themselves, or of
random convolutional features of them. :class:`PretrainedEncoder` is a backbone of transformers (DINOv2,
SigLIP, SigLIP 2, ResNet, ViT-MAE) read from safetensors files in a folder or on the hub.

An encoder is frozen. What adapts to a task is a head on its features (:mod:`robopref.rewards.transport`), so
each frame is encoded once, see :mod:`robopref.nets.features`.

Letters used in shapes: B frames, H and W height and width, d features, D values that enter the PCA.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from robopref.errors import ConfigError, DataError, MissingExtraError, unknown_name

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
FITTING_FRAMES = 1024  # the PCA's cost grows with their square


class FrameEncoder(nn.Module, ABC):
    """A frozen map from frames to features.

    Attributes:
        config: Keyword arguments of the constructor; JSON values.
        width: Features of a frame, d.
    """

    kind: str
    config: dict[str, Any]
    width: int

    @abstractmethod
    def forward(self, frames: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B d"]:
        """Encode frames; without a gradient."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a hash of everything that the features depend on, beside the frames."""

    def fit(self, frames: UInt8[Tensor, "B 3 H W"]) -> None:
        """Adapt to unlabelled frames; most encoders have nothing to adapt."""


class PcaEncoder(FrameEncoder):
    """Principal components of reduced frames, or of random convolutional features of them.

    The components are those of unlabelled frames that :meth:`fit` is given, and belong to the state dict. The
    sign of a component is chosen so that its largest entry is positive.

    Args:
        width: Components, d.
        size: Side of the square that a frame is reduced to, by averaging, in pixels.
        filters: Random 5 x 5 filters with a rectifier before the PCA (Jarrett et al. 2009); 0 takes the
            pixels.
        seed: Of the random filters.
    """

    kind = "pca"
    mean: Tensor
    components: Tensor
    fitted: Tensor
    filters: Tensor

    def __init__(self, width: int = 32, size: int = 42, filters: int = 0, seed: int = 0) -> None:
        super().__init__()
        if width < 1 or size < 8 or filters < 0:
            raise ConfigError(
                f"width must be at least 1, size 8 and filters 0, got {width}, {size} and {filters}"
            )
        self.config = {"width": width, "size": size, "filters": filters, "seed": seed}
        self.width, self.size = width, size
        generator = torch.Generator().manual_seed(seed)
        random = torch.randn(filters, 3, 5, 5, generator=generator)
        self.register_buffer("filters", random - random.mean((2, 3), keepdim=True))
        entries = 3 * size**2 if filters == 0 else filters * ((size + 1) // 2 // 2) ** 2
        self.register_buffer("mean", torch.zeros(entries))
        self.register_buffer("components", torch.zeros(width, entries))
        self.register_buffer("fitted", torch.tensor(False))

    def forward(self, frames: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B d"]:
        """Project on the components.

        Raises:
            ConfigError: It was not fitted.
        """
        if not bool(self.fitted):
            raise ConfigError("This PCA encoder has no components yet: call fit(frames) first")
        return (self._entries(frames) - self.mean) @ self.components.T

    @torch.no_grad()
    def fit(self, frames: UInt8[Tensor, "B 3 H W"]) -> None:
        """Take the components from at most 1024 of the frames, evenly chosen.

        Raises:
            DataError: There are fewer frames than components, or they are all the same.
        """
        if len(frames) > FITTING_FRAMES:
            frames = frames[torch.linspace(0, len(frames) - 1, FITTING_FRAMES).long()]
        entries = self._entries(frames).double()
        mean = entries.mean(0)
        centred = entries - mean
        values, vectors = torch.linalg.eigh(
            centred @ centred.T
        )  # of the frames' Gram matrix: it is the smaller
        if len(frames) < self.width or values[-self.width] <= 1e-9 * values[-1].clamp(min=1e-9):
            raise DataError(
                f"{len(frames)} frames do not span {self.width} components: give more or more different "
                "frames, "
                "or a smaller width"
            )
        chosen = vectors[:, -self.width :].flip(1)
        components = (chosen / values[-self.width :].flip(0).sqrt()).T @ centred
        largest = components.gather(1, components.abs().argmax(1, keepdim=True))
        self.mean.copy_(mean)
        self.components.copy_(components * largest.sign())
        self.fitted.fill_(True)

    def fingerprint(self) -> str:
        """Return a hash of settings and components."""
        return _hash(self.kind, self.config, self.state_dict())

    def _entries(self, frames: Tensor) -> Float[Tensor, "B D"]:
        small = F.adaptive_avg_pool2d(frames.float() / 255, self.size)
        if not len(self.filters):
            return small.flatten(1)
        answers = F.relu(F.conv2d(small, self.filters, stride=2, padding=2))
        return F.avg_pool2d(answers, 2).flatten(1)


FAMILIES: Mapping[str, tuple[str, tuple]] = {
    "dinov2": ("Dinov2Model", IMAGENET),
    "siglip": ("SiglipVisionModel", HALF),
    "siglip2": ("Siglip2VisionModel", HALF),
    "resnet": ("ResNetModel", IMAGENET),
    "vit_mae": ("ViTMAEModel", IMAGENET),
}
"""Model types of transformers, with the class that holds their vision part and the colours it was "
"trained on."""
_VISION_PARTS = {"siglip_vision_model": "siglip", "siglip2_vision_model": "siglip2"}


class PretrainedEncoder(FrameEncoder):
    """A backbone of transformers, with its pooled output as features; its weights stay where they came from.

    Only safetensors are read, and no code of the checkpoint is run. A checkpoint that leaves a weight of the
    backbone undefined is refused, where transformers itself would go on with random numbers.

    Args:
        model: A folder, or an id on the hub such as ``facebook/dinov2-small``.
        size: Side that frames are scaled to, in pixels; None takes the checkpoint's own, or 224.
        revision: Of an id on the hub.
        weights: Fingerprint that the weights must have; None accepts any. A saved reward keeps it here.

    Raises:
        MissingExtraError: transformers is not installed. DataError: There is no such model, it is truncated
        or incomplete, has no safetensors, is of a family that
            is not supported, or has other weights than ``weights`` says.
    """

    kind = "pretrained"

    def __init__(
        self,
        model: str,
        *,
        size: int | None = None,
        revision: str | None = None,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        config, network, colours = _load(model, revision)
        self._network = [network.eval().requires_grad_(False)]  # in a list: no part of the state dict
        side = size or getattr(config, "image_size", None) or 224
        if not isinstance(side, int) or side < 8:
            raise ConfigError(f"size must be a whole number of at least 8, got {side!r}")
        self.size = side
        self._mean, self._deviation = (torch.tensor(c).reshape(1, 3, 1, 1) for c in colours)
        self._hash = _hash(self.kind, {"size": side, "colours": colours}, network.state_dict())
        if weights is not None and weights != self._hash:
            raise DataError(
                f"{model} holds other weights than this was made with (or another size). Give the folder "
                "or the "
                "revision of the checkpoint that was used."
            )
        self.config = {"model": model, "size": size, "revision": revision, "weights": self._hash}
        self.width = int(self(torch.zeros(1, 3, side, side, dtype=torch.uint8)).shape[1])

    @torch.no_grad()
    def forward(self, frames: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B d"]:
        """Scale, normalise the colours, and pool what the backbone sees."""
        network: Any = self._network[0]
        self._network[0] = network = network.to(frames.device)
        pixels = F.interpolate(
            frames.float() / 255,
            size=(self.size, self.size),
            mode="bilinear",
            antialias=True,
            align_corners=False,
        )
        pixels = (pixels - self._mean.to(frames.device)) / self._deviation.to(frames.device)
        return _pooled(network, pixels)

    def fingerprint(self) -> str:
        """Return a hash of settings and weights."""
        return self._hash


def _load(model: str, revision: str | None) -> tuple[Any, nn.Module, tuple]:
    try:
        import transformers
        from huggingface_hub.errors import HfHubHTTPError
        from safetensors import SafetensorError
    except ImportError as error:
        raise MissingExtraError(
            f"Pretrained encoders need {error.name}, which is not installed: pip install 'robopref[vision]'"
        ) from error
    try:
        config = transformers.AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=False)
        family = _VISION_PARTS.get(config.model_type, config.model_type)
        if family not in FAMILIES:
            raise DataError(f"{model}: {unknown_name('vision backbone', config.model_type, FAMILIES)}")
        name, colours = FAMILIES[family]
        options: dict[str, Any] = {"mask_ratio": 0.0} if family == "vit_mae" else {}
        if family == "vit_mae":
            config.mask_ratio = 0.0
            options = {"config": config}
        network, info = getattr(transformers, name).from_pretrained(
            model,
            revision=revision,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            dtype=torch.float32,
            **options,
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError, HfHubHTTPError) as error:
        if isinstance(error, DataError):
            raise
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"The vision backbone {model} cannot be read: {said[0]}") from error
    broken = sorted([*info["missing_keys"], *(str(entry[0]) for entry in info["mismatched_keys"])])
    if broken:
        raise DataError(
            f"{model} is not a whole {name}: {len(broken)} weights are missing or of another shape, such as "
            f"{broken[0]}"
        )
    return config, network, colours


def _pooled(network: Any, pixels: Tensor) -> Float[Tensor, "B d"]:
    name = type(network).__name__
    if name == "Siglip2VisionModel":
        return _pooled_siglip2(network, pixels)
    output = network(pixel_values=pixels)
    if name == "ViTMAEModel":  # it has no pooler: the class token stands for the picture
        return output.last_hidden_state[:, 0]
    return output.pooler_output.flatten(1)


def _pooled_siglip2(network: Any, pixels: Tensor) -> Float[Tensor, "B d"]:
    """SigLIP 2 takes patches in rows, with the number of rows and columns."""
    side = network.config.patch_size
    rows, columns = (n // side for n in pixels.shape[2:])
    patches = (
        pixels[:, :, : rows * side, : columns * side].unflatten(2, (rows, side)).unflatten(4, (columns, side))
    )
    patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # rows, columns, then (y, x, colour)
    shape = torch.tensor([[rows, columns]] * len(pixels), device=pixels.device)
    mask = torch.ones(patches.shape[:2], dtype=torch.int32, device=pixels.device)
    return network(pixel_values=patches, pixel_attention_mask=mask, spatial_shapes=shape).pooler_output


ENCODERS: Mapping[str, type[FrameEncoder]] = {c.kind: c for c in (PcaEncoder, PretrainedEncoder)}


def make_encoder(settings: Mapping[str, Any]) -> FrameEncoder:
    """Build ``{kind: pca, width: 32}`` or ``{kind: pretrained, model: ...}``.

    Raises:
        ConfigError: The kind is unknown or an option makes no sense.
    """
    options = dict(settings)
    kind = str(options.pop("kind", PcaEncoder.kind))
    if kind not in ENCODERS:
        raise ConfigError(unknown_name("encoder", kind, ENCODERS))
    try:
        return ENCODERS[kind](**options).eval()
    except TypeError as error:
        raise ConfigError(f"The encoder {kind!r} does not take these options: {error}") from error


def _hash(kind: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(f"{kind} {sorted(config.items())}".encode())
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:24]
