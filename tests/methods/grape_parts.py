"""Command lines of GRAPE, and the parts that they ask for."""

import functools
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from robopref.cli import build
from robopref.cli.launch import register_resolvers
from robopref.methods.components import Scene

PREFERENCE = "grape.alignment.kind=preference"
PEOPLE = ["grape.judge.kind=human", "~grape.variants.safety", "~grape.variants.efficiency"]


@functools.cache
def usual():
    register_resolvers()
    with initialize_config_module("robopref.conf", version_base="1.3"):
        return compose("run", ["experiment=grape", "device=cpu", "grape.tasks=[drawer-open]"])


def parts_of(monkeypatch, *overrides):
    """What a command would run with such overrides, without its environments."""
    monkeypatch.setattr(Scene, "check", lambda scene: None)
    config: Any = OmegaConf.create(OmegaConf.to_container(usual(), resolve=False))
    for override in overrides:
        key, _, value = override.removeprefix("+").partition("=")
        if key.startswith("~"):
            where, _, name = key[1:].rpartition(".")
            del OmegaConf.select(config, where)[name]
        else:
            value = OverridesParser.create().parse_override(f"x={value}").value()
            OmegaConf.update(config, key, value, merge=False, force_add=True)
    return build.grape(config)
