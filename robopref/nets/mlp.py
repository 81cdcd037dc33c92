"""An ensemble of multi-layer perceptrons, computed as one.

The members share their shape and nothing else. Each layer of all members is one batched matrix product,
so that M small networks cost about as many kernel launches as one.

Letters used in shapes: M members, B rows in a batch, I inputs, O outputs.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robopref.errors import ConfigError, DataError, unknown_name

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(inplace=True),
    "elu": lambda: nn.ELU(inplace=True),
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


# On a CPU, rows go through all layers in blocks whose activations stay in the cache. Measured with 3 members
# of 43-128-128-1 on 19,200 rows, forward and backward, one thread: 115 ms in blocks, 165 ms without.
CPU_ROWS = 1024
LAYER_NORM_EPS = 1e-6  # Flax's, with which ReBRAC was published


class EnsembleMLP(nn.Module):
    """M independent perceptrons of one shape; every layer is one ``baddbmm`` over the members.

    Weights are laid out as in :class:`torch.nn.Linear`, with the member in front: ``weights[k]`` is
    (M, out, in) and ``biases[k]`` is (M, 1, out). Each member starts from ``Linear``'s own distribution,
    uniform within 1 / sqrt(in), drawn independently.

    Args:
        members: Number of networks, M.
        inputs: Width of the input, I.
        outputs: Width of the output, O.
        hidden: Widths of the hidden layers; empty for a linear map.
        activation: Between layers, one of :data:`ACTIVATIONS`; none after the last.
        layer_norm: Whether each activation is followed by layer normalisation (Ba et al. 2016).
        generator: Draws the starting weights; torch's global generator when not given.

    Raises:
        ConfigError: for a width or a number of members below one, or an unknown activation.
    """

    def __init__(
        self,
        members: int,
        inputs: int,
        outputs: int,
        hidden: Sequence[int] = (256, 256),
        activation: str = "relu",
        *,
        layer_norm: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        widths = [inputs, *hidden, outputs]
        if members < 1:
            raise ConfigError(f"An ensemble needs at least one member, got {members}")
        if min(widths) < 1:
            raise ConfigError(f"Every layer needs a width of at least one, got {widths}")
        if activation not in ACTIVATIONS:
            raise ConfigError(unknown_name("activation", activation, ACTIVATIONS))
        self.members, self.inputs, self.outputs = members, inputs, outputs
        self.activation = ACTIVATIONS[activation]()
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for fan_in, fan_out in itertools.pairwise(widths):
            bound = 1 / math.sqrt(fan_in)
            weight = torch.empty(members, fan_out, fan_in).uniform_(-bound, bound, generator=generator)
            bias = torch.empty(members, 1, fan_out).uniform_(-bound, bound, generator=generator)
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(bias))
        sizes = hidden if layer_norm else ()
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(members, 1, size)) for size in sizes)
        self.shifts = nn.ParameterList(nn.Parameter(torch.zeros(members, 1, size)) for size in sizes)

    def forward(self, x: Float[Tensor, "M B I"] | Float[Tensor, "B I"]) -> Float[Tensor, "M B O"]:
        """Every member's output; an input without a member axis goes to all members."""
        if x.dim() not in (2, 3) or x.shape[-1] != self.inputs or (x.dim() == 3 and len(x) != self.members):
            raise DataError(
                f"The input must be (B, {self.inputs}) or ({self.members}, B, {self.inputs}), "
                f"got {tuple(x.shape)}"
            )
        if x.dim() == 2:
            x = x.unsqueeze(0).expand(self.members, -1, -1)
        if x.device.type == "cpu" and x.shape[1] > CPU_ROWS and not torch.compiler.is_compiling():
            return torch.cat([self._layers(rows) for rows in x.split(CPU_ROWS, dim=1)], dim=1)
        return self._layers(x)

    def _layers(self, x: Float[Tensor, "M B I"]) -> Float[Tensor, "M B O"]:
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight.transpose(1, 2))
            if layer < last:
                x = self.activation(x)
                if len(self.scales):
                    x = F.layer_norm(x, x.shape[-1:], eps=LAYER_NORM_EPS)
                    x = torch.addcmul(self.shifts[layer], x, self.scales[layer])
        return x

    def member(self, index: int) -> nn.Sequential:
        """One member as plain ``Linear`` layers that share this ensemble's memory (but not its gradients)."""
        if not 0 <= index < self.members:
            raise ConfigError(f"Member must lie in 0..{self.members - 1}, got {index}")
        layers: list[nn.Module] = []
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            linear = nn.Linear(weight.shape[2], weight.shape[1], device="meta")
            linear.weight = nn.Parameter(weight.detach()[index])
            linear.bias = nn.Parameter(bias.detach()[index, 0])
            layers.append(linear)
            if layer == len(self.weights) - 1:
                break
            layers.append(self.activation)
            if len(self.scales):
                norm = nn.LayerNorm(weight.shape[1], eps=LAYER_NORM_EPS, device="meta")
                norm.weight = nn.Parameter(self.scales[layer].detach()[index, 0])
                norm.bias = nn.Parameter(self.shifts[layer].detach()[index, 0])
                layers.append(norm)
        return nn.Sequential(*layers)

    def extra_repr(self) -> str:
        """Sizes, for printing."""
        return f"members={self.members}, inputs={self.inputs}, outputs={self.outputs}"
