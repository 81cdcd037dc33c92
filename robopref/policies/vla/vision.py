"""Frames to patch features: two encoders beside each other, whose features are joined (a fused backbone).

The vision transformer has the layout of timm's, so that the published weights of DINOv2 and SigLIP in OpenVLA
load by their names (Kim et al. 2024, section 3.1). Their features are those of the last but one block,
without the final norm, as OpenVLA takes them; what lies behind is not built. The small policy joins a stack
of convolutions, which finds edges after a few hundred steps, and a transformer of one block.

Letters used in shapes: B frames, P patches, D features, S height and width in pixels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robopref.errors import ConfigError

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # mean and deviation of pixels that are scaled to [-1, 1]


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "B P D"]) -> Float[Tensor, "B P D"]:
        batch, patches, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, patches, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.proj(
            F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, patches, width)
        )


class _Perceptron(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Scale(nn.Module):
    """LayerScale; OpenVLA's files call its parameter ``scale_factor``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale_factor = nn.Parameter(torch.full((width,), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale_factor


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, scaled: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = _Attention(width, heads)
        self.ls1 = _Scale(width) if scaled else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = _Perceptron(width, hidden)
        self.ls2 = _Scale(width) if scaled else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class _PatchEmbedding(nn.Module):
    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """A ViT in timm's layout, up to the block whose features are used.

    Args:
        image_size: Height and width of a frame in pixels.
        patch: Height and width of a patch; divides ``image_size``.
        width: Features, D.
        depth: Blocks that are computed.
        heads: Of the attention; divides ``width``.
        hidden: Width of the perceptrons.
        registers: Register tokens of DINOv2; with them comes a class token. Neither is a feature.
        scaled: Whether blocks have LayerScale, as DINOv2's.
    """

    def __init__(
        self,
        image_size: int,
        *,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        hidden: int,
        registers: int = 0,
        scaled: bool = False,
    ) -> None:
        super().__init__()
        if image_size % patch or width % heads:
            raise ConfigError(
                f"A patch must divide the frame and the heads the width, got {patch} of {image_size} pixels "
                f"and {heads} heads of {width} features"
            )
        self.features, self.patches = width, (image_size // patch) ** 2
        self.patch_embed = _PatchEmbedding(width, patch)
        self.pos_embed = nn.Parameter(torch.randn(1, self.patches, width) * 0.02)
        self.prefix = registers + 1 if registers else 0
        if registers:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
            self.reg_token = nn.Parameter(torch.zeros(1, registers, width))
        self.blocks = nn.Sequential(*(_Block(width, heads, hidden, scaled) for _ in range(depth)))

    def forward(self, x: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B P D"]:
        """Features of every patch, row by row."""
        x = self.patch_embed(x) + self.pos_embed
        if self.prefix:
            tokens = torch.cat([self.cls_token, self.reg_token], 1).expand(len(x), -1, -1)
            x = torch.cat([tokens, x], 1)
        return self.blocks(x)[:, self.prefix :]


class Convolutions(nn.Module):
    """Convolutions of stride 2, each followed by a normalisation over channels and a rectifier.

    Args:
        image_size: Height and width of a frame in pixels.
        channels: Of each layer; the last is the number of features, D.
    """

    def __init__(self, image_size: int, *, channels: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        size = image_size
        for before, after in zip((3, *channels[:-1]), channels, strict=True):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(1, after), nn.ReLU(inplace=True)]
            size = (size + 1) // 2
        self.features, self.patches = channels[-1], size**2
        self.layers = nn.Sequential(*layers)
        self.pos_embed = nn.Parameter(torch.randn(1, self.patches, self.features) * 0.02)

    def forward(self, x: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B P D"]:
        """Features of every place, row by row."""
        return self.layers(x).flatten(2).transpose(1, 2) + self.pos_embed


class FusedVision(nn.Module):
    """Two encoders with as many patches each; their features stand beside each other.

    Args:
        featurizer: The first, DINOv2 in OpenVLA.
        fused_featurizer: The second, SigLIP in OpenVLA.
        means: Of the pixels of red, green and blue in [0, 1], for each encoder.
        deviations: Likewise.
    """

    means: Tensor
    deviations: Tensor

    def __init__(
        self,
        featurizer: VisionTransformer | Convolutions,
        fused_featurizer: VisionTransformer | Convolutions,
        *,
        means: Sequence[Sequence[float]],
        deviations: Sequence[Sequence[float]],
    ) -> None:
        super().__init__()
        if featurizer.patches != fused_featurizer.patches:
            raise ConfigError(
                f"Both encoders must see as many patches, got {featurizer.patches} and "
                f"{fused_featurizer.patches}"
            )
        self.featurizer, self.fused_featurizer = featurizer, fused_featurizer
        self.features = featurizer.features + fused_featurizer.features
        self.patches = featurizer.patches
        self.register_buffer("means", torch.tensor(means)[:, :, None, None], persistent=False)
        self.register_buffer("deviations", torch.tensor(deviations)[:, :, None, None], persistent=False)

    def forward(self, frames: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B P D"]:
        """Features of frames whose pixels lie in [0, 1]."""
        normalised = [
            ((frames - mean) / deviation).to(frames.dtype)  # the buffers have single precision
            for mean, deviation in zip(self.means, self.deviations, strict=True)
        ]
        return torch.cat([self.featurizer(normalised[0]), self.fused_featurizer(normalised[1])], -1)


class Projector(nn.Module):
    """Patch features to the width of the language model: three layers, as OpenVLA's fused backbone has.

    Args:
        features: D of the fused backbone.
        width: Of the language model.
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, 4 * features)
        self.fc2 = nn.Linear(4 * features, width)
        self.fc3 = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "B P D"]) -> Float[Tensor, "B P W"]:
        """Project each patch."""
        return self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(x)))))
