"""Low-rank adapters by PEFT: few weights that learn, and the policy without them as its own reference.

Hu et al. 2021, arXiv 2106.09685. PEFT is imported when an adapter is attached; it comes with the extra
``vla``.
"""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from robopref.errors import ConfigError, MissingExtraError, unknown_name

TARGETS = (
    *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),  # language model
    *("qkv", "proj", "fc1", "fc2", "fc3"),  # vision and projector
)


@dataclass(frozen=True)
class Adapter:
    """Settings of an adapter.

    Attributes:
        rank: Of the two factors.
        alpha: The update is scaled by alpha / rank; None takes the rank, as OpenVLA's code does up to 16.
        language_only: Leave vision and projector as they are.
    """

    rank: int = 8
    alpha: float | None = None
    language_only: bool = False

    def __post_init__(self):
        if self.rank < 1 or (self.alpha is not None and not 0 < self.alpha < math.inf):
            raise ConfigError(
                f"An adapter has a positive rank and a finite alpha above 0, got {self.rank} and {self.alpha}"
            )

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Adapter":
        """Make one of settings.

        Raises:
            ConfigError: An option does not exist or makes no sense.
        """
        known = [field.name for field in fields(cls)]
        for name in settings:
            if name not in known:
                raise ConfigError(unknown_name("option of an adapter", str(name), known))
        return cls(**settings)

    def attach(self, model: nn.Module) -> None:
        """Put adapters beside the linear layers of ``model``, which starts unchanged, and freeze the rest.

        Raises:
            MissingExtraError: PEFT is not installed.
        """
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise MissingExtraError(
                f"An adapter needs PEFT ({error}): install robopref with the extra 'vla'."
            ) from error
        language, everything = (
            "language_model.",
            [
                name
                for name, module in model.named_modules()
                if isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in TARGETS
            ],
        )
        chosen = [name for name in everything if name.startswith(language) or not self.language_only]
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha or self.rank,  # pyright: ignore[reportArgumentType]  (only ever divided)
            target_modules=chosen,
            init_lora_weights=True,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT remarks on models that are not of transformers
            inject_adapter_in_model(config, model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("lora_" in name)
            if parameter.requires_grad:  # steps of Adam are too small for half precision
                parameter.data = parameter.data.float()


def adapted_layers(model: nn.Module) -> list[Any]:
    """Return the layers that have an adapter."""
    return [
        module
        for module in model.modules()
        if hasattr(module, "lora_A") and hasattr(module, "enable_adapters")
    ]


@contextmanager
def without_adapter(model: nn.Module) -> Iterator[None]:
    """Switch all adapters off for as long as the context lasts.

    Raises:
        ConfigError: The model has none.
    """
    layers = adapted_layers(model)
    if not layers:
        raise ConfigError(
            "This policy has no adapter that could be switched off, so it is not its own reference: give it "
            "one (adapter={rank: 8}), or compare with scores that were kept from its start"
        )
    trained = [parameter.requires_grad for parameter in model.parameters()]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for parameter, flag in zip(model.parameters(), trained, strict=True):
            parameter.requires_grad_(flag)
