"""From a run to a bundle: networks to ONNX with their normalisers inside, a manifest, the proof of parity.

This package alone knows torch, policies and rewards in ``deploy``; what it writes needs none of them.
"""

import dataclasses
import hashlib
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robopref.data.store import TrajectoryStore
from robopref.deploy import parity
from robopref.deploy.bundle import load
from robopref.deploy.export.description import check_sizes, describe
from robopref.deploy.export.inputs import random_inputs, recorded_inputs
from robopref.deploy.export.networks import Part, policy_parts, scorer_parts
from robopref.deploy.manifest import NAME, Manifest, Network
from robopref.deploy.runtime import Session
from robopref.errors import ConfigError, DataError
from robopref.files import read_json, write_json
from robopref.policies.offline import OfflinePolicy
from robopref.policies.saved import load_policy
from robopref.rewards.saved import load_reward

OPSET = 18


def export(
    policy_dir: Path,
    target: Path,
    *,
    reward_dir: Path | None = None,
    scorer: str | None = None,
    sampler: str = "policy",
    data: Path | None = None,
    spec: Mapping[str, Any] | None = None,
    source: Mapping[str, Any] | None = None,
) -> "Exported":
    """Write a bundle.

    Args:
        policy_dir: Of a saved policy.
        target: Directory of the bundle; must not exist. It is whole or not there.
        reward_dir: Of a saved reward.
        scorer: What ranks candidates: "reward", "implicit" (how much likelier the policy holds them than its
            reference does), their "product" or "none"; if not given, the first of them that there is.
        sampler: What proposes candidates: the "policy", or its frozen "reference", as in DeformPAM.
        data: A trajectory store: recorded inputs for the parity report, the control rate, the task, and how
            fast actions change.
        spec: Instead of what is derived: ``task``, ``control_hz``, ``observation`` (a list of parts) and
            fields of ``action`` and ``limits``, as in the manifest.
        source: Where it comes from; kept in the manifest (JSON values).

    Raises:
        ConfigError: The target exists, or the scorer or the sampler does not fit.
        DataError: A file or the spec makes no sense, or ONNX Runtime differs from torch by more than 1e-5.
    """
    if target.exists():
        raise ConfigError(f"{target} exists already; choose another target, or remove it.")
    policy = load_policy(policy_dir)
    settings, parts = policy_parts(policy, sampler)
    reward = None if reward_dir is None else load_reward(reward_dir)
    scorer_settings, further = scorer_parts(policy, reward, scorer)
    parts |= further
    store = None if data is None else TrajectoryStore.open(data)
    if store is not None:
        for what in ("observation", "action"):
            found, wanted = (getattr(of, f"{what}_size") for of in (store.layout, policy))
            if found != wanted:
                raise DataError(f"{data} holds {what}s of {found} numbers, the policy takes {wanted}")
    record = describe(policy, store, spec or {})
    record |= {"policy": settings, "scorer": scorer_settings, "source": dict(source or {})}
    check_sizes(Manifest.read({**record, "networks": {}}, "spec"), policy)  # before the work begins
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        networks, report = {}, {}
        for name, part in parts.items():
            networks[name] = _write(temporary, name, part)
            report[name] = _compare(temporary, name, part, networks[name], policy, store)
        record["networks"] = {name: network.record() for name, network in networks.items()}
        write_json(temporary / parity.NAME, {"tolerance": parity.TOLERANCE, "networks": report})
        record["parity"] = hashlib.sha256((temporary / parity.NAME).read_bytes()).hexdigest()
        manifest = Manifest.read(record, str(target / NAME))
        write_json(temporary / NAME, manifest.record())
        load(temporary)  # whatever a robot would refuse is refused here
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    notes = _notes(manifest, store) + _assumed(spec or {})
    return Exported(manifest, report, notes + _collapsed(policy_dir) if sampler == "policy" else notes)


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written: the manifest, the parity of each network, and what a person should know."""

    manifest: Manifest
    parity: Mapping[str, Any]
    notes: tuple[str, ...]


def _notes(manifest: Manifest, store: TrajectoryStore | None) -> tuple[str, ...]:
    notes = []
    if store is None or not len(store):
        notes.append("no recorded episodes (data=): parity was tried on random inputs alone")
    if manifest.limits.rate is None:
        notes.append("no limit to how fast actions change: give limits.rate_per_s in a spec")
    if any(part.low is None for part in manifest.observation):
        notes.append("no range of observations: give low and high of each part in a spec")
    return tuple(notes)


def _assumed(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """What was taken for granted of actions, where the spec does not say it."""
    if "hold" in spec.get("action", {}):
        return ()
    return (
        "to hold is taken to be an action of zeros, and actions to follow each other closely, as velocities "
        "do; for positions or primitives (rope, pile) give action.hold and limits.rate_per_s in a spec",
    )


def _collapsed(policy_dir: Path) -> tuple[str, ...]:
    """What the gate of a policy learned from preferences says against sampling from it."""
    metrics = policy_dir / "metrics.json"
    gate = read_json(metrics).get("gate", {}) if metrics.is_file() else {}
    if not gate.get("collapsed"):
        return ()
    return (
        f"COLLAPSED: candidates are samples of a policy that must not act by itself: {gate.get('reason')}. "
        "sampler=reference takes them from the policy that it started from.",
    )


def _write(folder: Path, name: str, part: Part) -> Network:
    """Export a network with a dynamic batch axis, every name and shape as the manifest will say."""
    batch = torch.export.Dim("batch", min=1)
    example = tuple(torch.zeros(3, *shape) for shape in part.inputs.values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's notes on its own internals
        program = torch.onnx.export(
            part.module.eval(),
            example,
            input_names=list(part.inputs),
            output_names=list(part.outputs),
            dynamic_shapes={name: {0: batch} for name in part.inputs},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    outputs = list(program.model.graph.outputs)
    for node in program.model.graph:  # torch names what is computed on the way after its operators
        for value in node.outputs:
            if value.name in part.outputs and not any(value is output for output in outputs):
                value.name = f"{value.name}_within"
    program.save(folder / f"{name}.onnx", external_data=False)
    digest = hashlib.sha256((folder / f"{name}.onnx").read_bytes()).hexdigest()
    return Network(f"{name}.onnx", digest, dict(part.inputs), dict(part.outputs))


def _compare(
    folder: Path,
    name: str,
    part: Part,
    network: Network,
    policy: OfflinePolicy,
    store: TrajectoryStore | None,
) -> dict[str, Any]:
    """The parity report of one network."""
    onnx = Session((folder / network.file).read_bytes(), network, network.file)

    def by_torch(**inputs: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            outputs = part.module(*(torch.from_numpy(inputs[key]) for key in part.inputs))
        return [x.numpy() for x in (outputs if isinstance(outputs, tuple) else (outputs,))]

    rng = np.random.default_rng(0)
    batches = {"random": list(random_inputs(part, policy, rng))}
    if store is not None and len(store):
        batches["recorded"] = list(recorded_inputs(part, store, policy.horizon, rng))
    return parity.compare(name, by_torch, onnx, batches)


def find_in_run(run: Path) -> dict[str, Any]:
    """The policy, reward and data of a run directory, as far as they exist, and its method's sampler.

    Raises:
        DataError: It holds no policy.
    """
    if not (run / "policy" / "config.json").is_file():
        raise DataError(f"{run} holds no policy/: give the folder of a finished run, or policy=<folder>.")
    found: dict[str, Any] = {"policy": run / "policy"}
    if (run / "reward" / "config.json").is_file():
        found["reward"] = run / "reward"
    record = read_json(run / "run.json") if (run / "run.json").is_file() else {}
    if record.get("method") == "deformpam":  # it ranks what its reference proposes
        found["sampler"] = "reference"
    phase = run / "phases" / f"collect-{record.get('task')}.json"
    if phase.is_file():
        data = Path(read_json(phase)["settings"]["data"])
        if (data / "store.json").is_file():
            found["data"] = data
    return found
