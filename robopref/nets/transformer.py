"""A transformer over a short sequence: everything sees everything, or (causal) what came before.

Letters used in shapes: B sequences, L tokens, F features of a token.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robopref.errors import ConfigError


class Block(nn.Module):
    """Self-attention and a perceptron, each after a normalisation and beside a shortcut (pre-norm).

    Args:
        size: Features of a token, F.
        heads: Attention heads; they share the features evenly.
        causal: Whether a token is informed by itself and earlier ones alone.
    """

    def __init__(self, size: int, heads: int, *, causal: bool = False) -> None:
        super().__init__()
        if heads < 1 or size % heads:
            raise ConfigError(f"The size of a token must be a multiple of the heads, got {size=}, {heads=}")
        self.heads, self.causal = heads, causal
        self.before_attention, self.before_mlp = nn.LayerNorm(size), nn.LayerNorm(size)
        self.split, self.join = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.mlp = nn.Sequential(nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size))

    def forward(self, tokens: Float[Tensor, "B L F"]) -> Float[Tensor, "B L F"]:
        """The sequence, each token informed by all (or all before it)."""
        parts = self.split(self.before_attention(tokens)).chunk(3, -1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = (
            F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
            .transpose(1, 2)
            .flatten(2)
        )
        tokens = tokens + self.join(mixed)
        return tokens + self.mlp(self.before_mlp(tokens))


class Transformer(nn.Module):
    """So many :class:`Block` in a row, and a last normalisation.

    Args:
        size: Features of a token, F.
        layers: Number of blocks.
        heads: Attention heads of each.
        causal: Whether a token is informed by itself and earlier ones alone.
    """

    def __init__(self, size: int, *, layers: int = 3, heads: int = 4, causal: bool = False) -> None:
        super().__init__()
        if layers < 1:
            raise ConfigError(f"A transformer needs at least one layer, got {layers}")
        self.blocks = nn.Sequential(
            *(Block(size, heads, causal=causal) for _ in range(layers)), nn.LayerNorm(size)
        )

    def forward(self, tokens: Float[Tensor, "B L F"]) -> Float[Tensor, "B L F"]:
        """The sequence, each token informed by all."""
        return self.blocks(tokens)
