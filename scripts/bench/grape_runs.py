"""Runs of GRAPE that are finished: what they left, whether they are alike, and what is compared in them.

All policies of a run are tried from the same initial states along every axis, so two of them are compared
state by state.

Letters used in shapes: n initial states of a run.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from robopref.cli.launch import register_resolvers, result_settings
from robopref.errors import ConfigError, DataError
from robopref.files import read_json
from robopref.training.run import differences

SEEN, DRAWN = "in-domain", "sampled"
NOT_UNSEEN = (SEEN, DRAWN, "training-starts")
BEFORE = "supervised"
KEPT = ("grape", "filtered-bc-kept")  # an alignment or its start, whichever validated better
ROUND = re.compile(r"-round\d+$")


@dataclass(frozen=True)
class Finished:
    """What one finished run left: ``results`` of its policies, gates, phases, and how it was called."""

    seed: int
    results: Mapping[str, Mapping[str, Any]]
    gates: Mapping[str, Mapping[str, Any]]
    kept: str
    phases: Mapping[str, float]
    machine: Mapping[str, Any]
    started: str
    command: str
    config: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "Finished":
        """Read a run directory.

        Raises:
            DataError: It is not complete.
        """
        about = read_json(folder / "run.json")
        if about["status"] != "complete":
            raise DataError(f"The run in {folder} is not complete but {about['status']}.")
        return cls(
            about["seed"],
            read_json(folder / "grape.json"),
            {path.parent.name: read_json(path) for path in sorted(folder.glob("*/gate.json"))},
            read_json(folder / "kept.json")["policy"],
            {phase["name"]: phase["seconds"] for phase in about["phases"]},
            about["machine"],
            about["started"],
            about["command"],
            yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")),
        )

    def column(self, policy: str, axes: Sequence[str], name: str) -> np.ndarray:
        """Return a number for each initial state, the mean over some axes, in the order of task and seed.

        Raises:
            DataError: The axes begin in different states.
        """
        if len({tuple(self.states(policy, axis)) for axis in axes}) > 1:
            raise DataError(f"Run {self.seed} tried {policy} from different states along {', '.join(axes)}.")
        found = []
        for axis in axes:
            episodes = self.results[policy][axis]["episodes"]
            order = np.lexsort((episodes["seed"], episodes["task"]))
            found.append(np.array(episodes[name], float)[order])
        return np.mean(found, 0)

    def states(self, policy: str, axis: str) -> list[tuple[str, int]]:
        """Task and environment seed of every episode, in the same order."""
        episodes = self.results[policy][axis]["episodes"]
        return sorted(zip(episodes["task"], episodes["seed"], strict=True))


def composed(overrides: list[str]) -> DictConfig:
    """Return the configuration of ``robopref run`` with these words behind it."""
    register_resolvers()
    with initialize_config_module("robopref.conf", version_base="1.3"):
        return compose("run", overrides)


def is_finished(folder: Path, config: DictConfig) -> bool:
    """Whether a folder holds a complete run of this configuration.

    Raises:
        ConfigError: It holds a complete run of another; the message says in what they differ.
    """
    if not (folder / "run.json").exists() or read_json(folder / "run.json")["status"] != "complete":
        return False
    held, wanted = (
        result_settings(yaml.safe_load(text))
        for text in ((folder / "config.yaml").read_text("utf-8"), OmegaConf.to_yaml(config, resolve=True))
    )
    if changed := differences(held, wanted):
        raise ConfigError(
            f"{folder} holds a run with other settings ({changed}). Choose another --folder, or "
            "delete it; --read makes tables of what is there"
        )
    return True


def check_alike(runs: Sequence[Finished]) -> None:
    """Refuse runs that differ in more than their seed, and in which variants were run beside.

    Raises:
        DataError: There is no run, or two differ; the message says in what.
    """
    if not runs:
        raise DataError("There is no run to make tables of.")
    first, *others = (result_settings({**run.config, "seed": 0}) for run in runs)
    for run, settings in zip(runs[1:], others, strict=True):
        names = _variants(first).keys() & _variants(settings).keys()
        if changed := differences(*(_with_variants(each, names) for each in (first, settings))):
            raise DataError(f"The runs {runs[0].seed} and {run.seed} differ: {changed}.")


def _variants(settings: Mapping[str, Any]) -> dict[str, Any]:
    return settings["grape"].get("variants", {})


def _with_variants(settings: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return settings with no other variants than those."""
    kept = {name: how for name, how in _variants(settings).items() if name in names}
    return {**settings, "grape": {**settings["grape"], "variants": kept}}


def policies_of(runs: Sequence[Finished]) -> list[str]:
    """All policies that any run has, in the order of their first appearance, without rounds.

    Of those that are another one or the start, chosen by validation, ``grape`` and the control's alone.
    """
    there = dict.fromkeys(policy for run in runs for policy in run.results if not ROUND.search(policy))
    return [policy for policy in there if not policy.endswith("-kept") or policy in KEPT]


def rounds_of(runs: Sequence[Finished]) -> list[str]:
    """The policy of every round that any run has, in the order of their first appearance."""
    return list(dict.fromkeys(name for run in runs for name in run.results if ROUND.search(name)))


def pairs(runs: Sequence[Finished], a: str, b: str, axes: Sequence[str], measure: str) -> list[np.ndarray]:
    """What two policies measured in the same states, an array (2, n) for each run that has both.

    Raises:
        DataError: They were not tried from the same states.
    """
    found = []
    for run in runs:
        if a in run.results and b in run.results:
            if run.states(a, axes[0]) != run.states(b, axes[0]):
                raise DataError(f"Run {run.seed} tried {a} and {b} from different states.")
            found.append(np.stack([run.column(policy, axes, measure) for policy in (a, b)]))
    return found


def places(runs: Sequence[Finished]) -> dict[str, list[str]]:
    """The axes of all runs: as in training, the same with actions drawn as in rollouts, and unseen ones."""
    axes = runs[0].results[BEFORE]
    found = {
        "seen": [axis for axis in axes if axis == SEEN],
        "drawn": [axis for axis in axes if axis == DRAWN],
        "unseen": [axis for axis in axes if axis not in NOT_UNSEEN],
    }
    return {name: kept for name, kept in found.items() if kept}


def tried_along(
    runs: Sequence[Finished], place: str, axes: Sequence[str], *policies: str
) -> tuple[str, list[str]]:
    """The axes of a place along which some policies were tried in every run that has them, and its name."""
    having = [run.results for run in runs if all(policy in run.results for policy in policies)]
    found = [axis for axis in axes if all(axis in each[p] for each in having for p in policies)]
    return place if found == list(axes) else f"{place}: {', '.join(found)}", found if having else []
