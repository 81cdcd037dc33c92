"""What a manifest says of a policy's inputs and outputs: from the policy, the data and a person's spec.

Letters used in shapes: O observation entries.
"""

import importlib.metadata
from collections.abc import Mapping
from typing import Any

import numpy as np

from robopref.data.store import TrajectoryStore
from robopref.deploy.manifest import FORMAT, SCHEMA, Manifest, read_action
from robopref.errors import ConfigError, unknown_name
from robopref.nets.normalise import Normaliser
from robopref.policies.offline import OfflinePolicy


def describe(policy: OfflinePolicy, store: TrajectoryStore | None, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest but for policy, scorer and networks: what policy and data tell, then what the spec says.

    Raises:
        ConfigError: The spec has an unknown field, or neither it nor the data say what must be said.
    """
    size = policy.action_size
    low, high = _range(policy.actor)
    record: dict[str, Any] = {
        "format": FORMAT,
        "schema": SCHEMA,
        "observation": [
            {
                "name": "observation/state",
                "size": policy.observation_size,
                "units": "as recorded",
                "frame": "as recorded",
                "low": low,
                "high": high,
            }
        ],
        "action": {
            "names": [f"action[{i}]" for i in range(size)],
            "horizon": policy.horizon,
            "execute": getattr(policy.actor, "execute", policy.horizon),
            "units": ["1"] * size,
            "frame": "as recorded",
            "low": [-1.0] * size,
            "high": [1.0] * size,
            "hold": [0.0] * size,
            "home": None,
        },
        "limits": {"low": [-1.0] * size, "high": [1.0] * size, "rate_per_s": None, "boxes": []},
        "versions": {name: importlib.metadata.version(name) for name in ("robopref", "torch", "onnx")},
    }
    if store is not None and len(store):
        record |= {"task": store.provenance(0).task, "control_hz": float(store.layout.control_hz)}
        record["limits"]["rate_per_s"] = _fastest(store)
    _apply(record, spec)
    return record


def _range(actor: Any) -> tuple[list[float] | None, list[float] | None]:
    """Where the normaliser begins to clip: beyond it, the network cannot tell observations apart."""
    mean, deviation, clip = statistics(actor)
    if not np.isfinite(clip):
        return None, None
    return (mean - clip * deviation).tolist(), (mean + clip * deviation).tolist()


def statistics(actor: Any) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean and floored deviation of each observation entry, (O,), and how many deviations are told apart.

    All points of a cloud share their channels' statistics. A normaliser that was not fitted tells nothing.
    """
    encoder = getattr(actor, "encoder", actor)
    found: list[tuple[Normaliser, int]] = [(encoder.normaliser, getattr(encoder, "count", 1))]
    if getattr(encoder, "rest", None) is not None:
        found.append((encoder.rest, 1))
    mean, deviation = (
        np.concatenate([np.tile(x(n).double().numpy(), repeats) for n, repeats in found])
        for x in (lambda n: n.mean, lambda n: n.deviation.clamp(min=n.floor))
    )
    fitted = all(bool(normaliser.fitted) for normaliser, _ in found)
    return mean, deviation, min(n.clip for n, _ in found) if fitted else float("inf")


def _fastest(store: TrajectoryStore) -> list[float]:
    """The largest recorded change of each action entry, per second; at least 1 % of its range a step."""
    largest = np.full(store.layout.action_size, 0.02)
    for episode in range(len(store)):
        actions = store.episode(episode).actions
        if len(actions) > 1:
            largest = np.maximum(largest, np.abs(np.diff(actions, axis=0)).max(0))
    return (largest * store.layout.control_hz).tolist()


def _apply(record: dict[str, Any], spec: Mapping[str, Any]) -> None:
    """Put what a person knows of the robot in the place of what was derived."""
    known = ("task", "control_hz", "observation", "action", "limits")
    for name, value in spec.items():
        if name not in known:
            raise ConfigError(f"spec: {unknown_name('field', name, known)}")
        if name in ("action", "limits") and not isinstance(value, Mapping):
            raise ConfigError(f"spec: {name} must be a JSON object, got {value!r:.60}")
    record["action"] |= spec.get("action", {})
    if {"low", "high"} & set(spec.get("action", {})):  # limits are in the action's units
        action, rate = read_action(record["action"], "spec: action"), record["limits"]["rate_per_s"]
        record["limits"] |= {"low": action.low.tolist(), "high": action.high.tolist()}
        if rate is not None:
            record["limits"]["rate_per_s"] = (np.array(rate) * (action.high - action.low) / 2).tolist()
    record["limits"] |= spec.get("limits", {})
    record |= {name: spec[name] for name in ("task", "control_hz", "observation") if name in spec}
    for name in ("task", "control_hz"):
        if name not in record:
            raise ConfigError(
                f"The bundle must say its {name}: give data=<trajectory store>, or a spec with it."
            )


def check_sizes(manifest: Manifest, policy: OfflinePolicy) -> None:
    """Refuse a manifest whose sizes are not the policy's.

    Raises:
        ConfigError: Says which sizes were wanted.
    """
    found = (manifest.observation_size, manifest.action.size, manifest.action.horizon)
    wanted = (policy.observation_size, policy.action_size, policy.horizon)
    if found != wanted:
        raise ConfigError(
            "spec: (numbers in an observation, in an action, actions in a chunk) must be "
            f"{wanted} for this policy, got {found}."
        )
