"""From overrides to a running verb: composes the configuration, explains what does not fit, starts Hydra."""

import copy
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from robopref.errors import ConfigError, unknown_name
from robopref.files import cannot_write
from robopref.training.run import fingerprint

MULTIRUN = {"-m", "--multirun"}
NO_TRUTH_VALUES = {"yes", "no", "on", "off"}  # texts to Hydra, as in YAML 1.2, and texts count as true
NOT_RESULTS = (  # options that change no number
    *("device", "threads", "workers", "wandb", "out", "data_dir", "hydra", "env.view", "film_coupling"),
    *("training.checkpoint_every", "training.log_every", "training.evaluation.record"),
)


def launch(verb: str, overrides: list[str]) -> int:
    """Run a verb through Hydra, which adds ``--help``, ``--cfg``, ``-m`` and its launchers.

    Raises:
        ConfigError: An override names an option, group or choice that does not exist.
    """
    register_resolvers()
    flags = {o for o in overrides if o.startswith("-")}
    if not flags - MULTIRUN:
        check(verb, [o for o in overrides if o not in flags], sweep=bool(flags))
    sys.argv = [f"robopref {verb}", *overrides]
    hydra.main(version_base="1.3", config_path="pkg://robopref.conf", config_name=verb)(_task(verb))()
    return 0


def _task(verb: str) -> Callable[[DictConfig], Any]:
    if verb == "label":  # without torch, which takes seconds
        from robopref.cli.label import label

        return label
    from robopref.cli import verbs

    return verbs.VERB_FUNCTIONS[verb]


def register_resolvers() -> None:
    """Register ``${config_hash:}``: six hex digits of all that changes a result."""
    OmegaConf.register_new_resolver("config_hash", _config_hash, replace=True)


def _config_hash(*, _root_: DictConfig) -> str:
    everything: Any = OmegaConf.to_container(_root_, resolve=False)
    return fingerprint(result_settings(everything))[:6]


def result_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without the options that change no number."""
    kept = copy.deepcopy(dict(config))
    for path in NOT_RESULTS:
        *parents, key = path.split(".")
        node: Any = kept
        for parent in parents:
            node = node.get(parent, {})
        node.pop(key, None)
    return kept


def check(verb: str, overrides: list[str], *, sweep: bool = False) -> None:
    """Compose once, so that a wrong override is answered with a sentence and not with Hydra's stack."""
    from hydra import compose, initialize_config_module

    try:
        with initialize_config_module("robopref.conf", version_base="1.3"):
            overrides = _first_of_each(overrides) if sweep else overrides
            config = compose(verb, overrides)
            folder = None if OmegaConf.is_missing(config, "out") else Path(config.out)
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # a group of null: ValueError
        raise ConfigError(_explain(verb, overrides, error)) from error
    finally:
        GlobalHydra.instance().clear()
    _refuse_words(verb, overrides)
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(folder, error) from error


def _refuse_words(verb: str, overrides: list[str]) -> None:
    """Refuse a "no" that stands where the configuration has true or false."""
    for option, _, word in (each.partition("=") for each in overrides):
        if word.lower() in NO_TRUTH_VALUES:
            parent, _, name = option.rpartition(".")
            if isinstance(_node(verb, _chosen(overrides), parent).get(name), bool):
                raise ConfigError(f"{option} must be true or false, got {word!r}")


def _first_of_each(overrides: list[str]) -> list[str]:
    """The first job of a sweep."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    return [
        f"{o.get_key_element()}={next(iter(o.sweep_string_iterator()))}" if o.is_sweep_override() else text
        for o, text in zip(parsed, overrides, strict=True)
    ]


def _explain(verb: str, overrides: list[str], error: Exception) -> str:
    text = str(error)
    if group := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
        return unknown_name(group[1], group[2], choices(group[1]))
    if option := re.search(r"Could not override '([^']+)'", text):
        parent, _, name = option[1].rpartition(".")
        chosen = _chosen(overrides)
        node = _node(verb, chosen, parent)
        if name in _constructor_arguments(node):
            return f"{option[1]} is not listed in the configuration; to set it, write +{option[1]}=..."
        part = _node(verb, chosen, option[1].partition(".")[0])
        if elsewhere := _elsewhere(option[1], part):
            return f"No option is called '{option[1]}' here. {elsewhere}"
        known = [f"{parent}.{key}".lstrip(".") for key in node] or list(_node(verb, chosen, ""))
        inner = " To add one that is not listed, write + before it." if node and "_target_" in part else ""
        return unknown_name("option", option[1], known) + (inner if "." in parent else "")
    return text.strip().splitlines()[0]


def _chosen(overrides: list[str]) -> list[str]:
    """Return the overrides that choose a file of a group."""
    return [each for each in overrides if choices(each.partition("=")[0])]


def choices(group: str) -> list[str]:
    """Return the names of the files in a folder of ``conf/``."""
    folder = Path(__file__).parent.parent / "conf" / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def _elsewhere(option: str, part: Mapping[str, Any]) -> str:
    """Say which other choices of its group have an option, or what it stands in; nothing where none has."""
    group, _, rest = option.partition(".")
    first = rest.partition(".")[0]
    found = []
    for choice in choices(group) if first and first not in part else ():
        node: Any = OmegaConf.load(Path(__file__).parent.parent / "conf" / group / f"{choice}.yaml")
        if first in node or first in _constructor_arguments(node):
            found.append(choice)
    return f"{group}.{first} belongs to {group}={', '.join(found)}." if found else ""


def _constructor_arguments(node: Mapping[str, Any]) -> list[str]:
    """Name what a part can be made with, listed in its file or not."""
    target = node.get("_target_")
    return list(inspect.signature(get_object(target)).parameters) if target else []


def _node(verb: str, chosen: list[str], path: str) -> dict[str, Any]:
    """Return what a verb with these choices composes to at a dotted path; empty if there is nothing."""
    from hydra import compose, initialize_config_module

    GlobalHydra.instance().clear()
    with initialize_config_module("robopref.conf", version_base="1.3"):
        node = OmegaConf.to_container(compose(verb, chosen), resolve=False)
    for key in filter(None, path.split(".")):
        node = node.get(key) if isinstance(node, dict) else None
    return {str(key): value for key, value in node.items()} if isinstance(node, dict) else {}
