"""What the nodes of a composed configuration hold."""

from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from robopref.errors import ConfigError


def plain(node: Any) -> Any:
    """Return a resolved copy of a node as dictionaries and lists; what is no node as it is."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def listed(value: Any) -> list[Any]:
    """Return a list; one name stands for a list of one."""
    return value if isinstance(value, list) else [value]


def required(config: DictConfig, key: str, meaning: str) -> Any:
    """Return an option without a default, or say what it should hold."""
    try:
        return config[key]
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}=<...> is missing: {meaning}.") from error
