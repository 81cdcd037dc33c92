"""Symmetries of a task on a table: the same batch, turned and mirrored, says the same thing.

Where the goal looks alike from four sides, an observation and an action that are turned by a quarter or
mirrored together are as good as the recorded ones. A learner that sees them all needs fewer of each.

Letters used in shapes: B rows of a batch, G groups of rows that are turned alike, P points.
"""

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from robopref.errors import ConfigError
from robopref.training.step import Batch, Sampler


@dataclass(frozen=True)
class Symmetry:
    """Quarter turns about the vertical axis, and mirrors, of everything in a batch.

    Attributes:
        points: The first so many points of an observation, x, y, z each, in the world frame; what follows
            them is left alone. An action consists of places x, y, on the scale of the observation or not.
        turns: Whether to turn by 0, 1, 2 or 3 quarters.
        mirror: Whether to mirror.
    """

    points: int
    turns: bool = True
    mirror: bool = True

    def __post_init__(self):
        if self.points < 1:
            raise ConfigError(f"symmetry.points must be at least 1, got {self.points}")

    def draw(self, groups: int, generator: torch.Generator) -> Float[Tensor, "G 2 2"]:
        """Orthogonal matrices, with a CPU generator."""
        quarters = torch.randint(4 if self.turns else 1, (groups,), generator=generator)
        sign = 1 - 2 * torch.randint(2 if self.mirror else 1, (groups,), generator=generator)
        sine, cosine = torch.tensor([0, 1, 0, -1])[quarters], torch.tensor([1, 0, -1, 0])[quarters]
        rows = torch.stack([cosine, -sine * sign, sine, cosine * sign], -1)
        return rows.unflatten(1, (2, 2)).float()

    def observations(self, values: Tensor, matrices: Float[Tensor, "B 2 2"]) -> Tensor:
        """Turn the points of observations (B, ..., O)."""
        size = 3 * self.points
        if values.shape[-1] < size:
            raise ConfigError(
                f"symmetry.points={self.points} needs {size} numbers in an observation, there are "
                f"{values.shape[-1]}"
            )
        points = values[..., :size].unflatten(-1, (self.points, 3))
        turned = torch.cat([_turned(points[..., :2], matrices), points[..., 2:]], -1)
        return torch.cat([turned.flatten(-2), values[..., size:]], -1)

    def actions(self, values: Tensor, matrices: Float[Tensor, "B 2 2"]) -> Tensor:
        """Turn the places of actions (B, ..., A)."""
        if values.shape[-1] % 2:
            raise ConfigError(f"A symmetry turns actions made of places x, y, not {values.shape[-1]} numbers")
        return _turned(values.unflatten(-1, (-1, 2)), matrices).flatten(-2)


class SymmetricSampler:
    """Draws from another sampler, every transition, pair or list under a symmetry of its own.

    Both members of a pair and all items of a list are turned alike: they begin in one state.
    """

    def __init__(self, sampler: Sampler, symmetry: Symmetry) -> None:
        self._sampler, self._symmetry = sampler, symmetry

    def __len__(self) -> int:
        return len(self._sampler)

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw a batch with a CPU generator."""
        batch = dict(self._sampler.sample(batch_size, generator))
        matrices = self._symmetry.draw(batch_size, generator)
        for name, values in batch.items():
            kind = name.removesuffix("_a").removesuffix("_b")
            if kind in ("observations", "actions"):
                each = matrices.to(values).repeat_interleave(len(values) // batch_size, 0)
                batch[name] = getattr(self._symmetry, kind)(values, each)
        return batch


def in_all_views(sampler: Sampler, symmetry: Symmetry | None) -> Sampler:
    """The sampler itself where there is no symmetry."""
    return sampler if symmetry is None else SymmetricSampler(sampler, symmetry)


def in_settings(symmetry: Symmetry | None) -> dict[str, dict[str, int | bool]]:
    """What a phase is recognised by: nothing where there is no symmetry."""
    return {} if symmetry is None else {"symmetry": dataclasses.asdict(symmetry)}


def _turned(places: Float[Tensor, "B *rest 2"], matrices: Float[Tensor, "B 2 2"]) -> Tensor:
    shape = (len(matrices), *(1 for _ in places.shape[1:-2]), 2, 2)
    return places @ matrices.reshape(shape).transpose(-1, -2)
