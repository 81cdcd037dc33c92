"""From overrides to a running verb: composes the configuration, explains what does not fit, starts Hydra."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from robopref.errors import ConfigError, unknown_name
from robopref.training.run import fingerprint

# keys that change no number
NOT_RESULTS = ("device", "threads", "workers", "wandb", "out", "data_dir", "hydra")


def launch(verb: str, overrides: list[str]) -> int:
    """Run a verb through Hydra, which adds ``--help``, ``--cfg``, ``-m`` and its launchers.

    Raises:
        ConfigError: An override names an option, group or choice that does not exist.
    """
    register_resolvers()
    if not any(o.startswith("-") for o in overrides):
        check(verb, overrides)
    sys.argv = [f"robopref {verb}", *overrides]
    hydra.main(version_base="1.3", config_path="pkg://robopref.conf", config_name=verb)(_task(verb))()
    return 0


def _task(verb: str) -> Callable[[DictConfig], Any]:
    from robopref.cli import verbs

    return verbs.VERB_FUNCTIONS[verb]


def register_resolvers() -> None:
    """Register ``${config_hash:}``: six hex digits of all that changes a result."""
    OmegaConf.register_new_resolver("config_hash", _config_hash, replace=True)


def _config_hash(*, _root_: DictConfig) -> str:
    everything = OmegaConf.to_container(_root_, resolve=False)
    assert isinstance(everything, dict)
    return fingerprint({key: value for key, value in everything.items() if key not in NOT_RESULTS})[:6]


def check(verb: str, overrides: list[str]) -> None:
    """Compose once, so that a wrong override is answered with a sentence and not with Hydra's stack."""
    from hydra import compose, initialize_config_module

    try:
        with initialize_config_module("robopref.conf", version_base="1.3"):
            compose(verb, overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(verb, error)) from error
    finally:
        GlobalHydra.instance().clear()


def _explain(verb: str, error: Exception) -> str:
    text = str(error)
    if group := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
        return unknown_name(group[1], group[2], choices(group[1]))
    if option := re.search(r"Could not override '([^']+)'", text):
        parent = option[1].rpartition(".")[0]
        return unknown_name("option", option[1], _options(verb, parent) or _options(verb, ""))
    return text.strip().splitlines()[0]


def choices(group: str) -> list[str]:
    """Return the names of the files in a folder of ``conf/``."""
    folder = Path(__file__).parent.parent / "conf" / group
    return sorted(path.stem for path in folder.glob("*.yaml"))


def _options(verb: str, parent: str) -> list[str]:
    """Name a verb's options directly below ``parent``; none if there is no such parent."""
    from hydra import compose, initialize_config_module

    GlobalHydra.instance().clear()
    with initialize_config_module("robopref.conf", version_base="1.3"):
        node = OmegaConf.to_container(compose(verb), resolve=False)
    for key in filter(None, parent.split(".")):
        node = node.get(key) if isinstance(node, dict) else None
    return [f"{parent}.{key}".lstrip(".") for key in node] if isinstance(node, dict) else []
