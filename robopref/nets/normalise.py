"""Input normalisation that travels with the network that was trained on it.

Letters used in shapes: N rows, D dimensions.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robopref.errors import ConfigError, DataError

_ROWS_AT_ONCE = 65536


class Normaliser(nn.Module):
    """Subtract the mean and divide by the standard deviation of the data it was fitted to.

    Before :meth:`fit` the mean is 0 and the deviation 1. A dimension that hardly varies is divided by
    ``floor``, and the result is clipped: otherwise a value that the data never showed may lie tens of
    deviations out, and the network answers with nonsense.

    Args:
        size: Number of dimensions, D.
        floor: Smallest number to divide by, in the data's own units.
        clip: Largest magnitude of a normalised value; ``inf`` for none.
    """

    mean: Tensor
    deviation: Tensor
    fitted: Tensor

    def __init__(self, size: int, floor: float = 1e-2, clip: float = 10.0) -> None:
        super().__init__()
        if size < 1:
            raise ConfigError(f"size must be at least 1, got {size}")
        if not floor > 0:
            raise ConfigError(f"floor must be positive, got {floor}")
        if not clip > 0:
            raise ConfigError(f"clip must be positive, got {clip}")
        self.size, self.floor, self.clip = size, floor, clip
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("deviation", torch.ones(size))
        self.register_buffer("fitted", torch.tensor(False))

    @torch.no_grad()
    def fit(self, x: Float[Tensor, "N D"]) -> None:
        """Take mean and (population) deviation from the rows of ``x``, accumulated in double precision.

        Raises:
            DataError: for a wrong width, no rows, or values that are not finite (it names the dimensions).
        """
        if x.dim() != 2 or x.shape[1] != self.size:
            raise DataError(f"The normaliser takes rows of {self.size} values, got shape {tuple(x.shape)}")
        if len(x) == 0:
            raise DataError("The normaliser cannot be fitted to zero rows")
        bad = torch.nonzero(~torch.isfinite(x).all(dim=0)).flatten().tolist()
        if bad:
            raise DataError(f"Dimensions {bad} hold NaN or infinity, so they have no mean and deviation")
        chunks = x.split(_ROWS_AT_ONCE)
        mean = torch.stack([chunk.double().sum(0) for chunk in chunks]).sum(0) / len(x)
        square = torch.stack([(chunk.double() - mean).square().sum(0) for chunk in chunks]).sum(0) / len(x)
        self.mean.copy_(mean)
        self.deviation.copy_(square.sqrt())
        self.fitted.fill_(True)

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """Normalise the last axis."""
        return ((x - self.mean) / self.deviation.clamp(min=self.floor)).clamp(-self.clip, self.clip)

    def extra_repr(self) -> str:
        """Settings, for printing."""
        return f"size={self.size}, floor={self.floor}, clip={self.clip}"


def refuse_not_finite(name: str, rows: Float[Tensor, "N D"]) -> None:
    """Refuse rows that hold NaN or infinity.

    Raises:
        DataError: Names the dimensions.
    """
    finite = torch.isfinite(rows)
    if not bool(finite.all()):
        bad = torch.nonzero(~finite.all(dim=0)).flatten().tolist()
        raise DataError(f"The {name} hold NaN or infinity in dimensions {bad}")
