"""From a run to a bundle: networks to ONNX with their normalisers inside, a manifest, the proof of parity.

The only file of ``deploy`` that knows torch, policies and rewards; what it writes needs none of them.

Letters used in shapes: B rows, O observation entries, H actions in a chunk, A action entries, M members.
"""

import dataclasses
import hashlib
import importlib.metadata
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robopref.data.store import TrajectoryStore
from robopref.deploy import parity
from robopref.deploy.bundle import load
from robopref.deploy.manifest import FORMAT, NAME, SCHEMA, Manifest, Network
from robopref.deploy.runtime import Session
from robopref.errors import ConfigError, DataError, unknown_name
from robopref.files import read_json, write_json
from robopref.nets.normalise import Normaliser
from robopref.policies.gaussian import GaussianPolicy
from robopref.policies.offline import OfflinePolicy
from robopref.policies.preference import PreferencePolicy
from robopref.policies.saved import load_policy
from robopref.rewards.candidates import DRAWS, WINDOW, CandidateReward
from robopref.rewards.ensemble import EnsembleReward
from robopref.rewards.saved import load_reward

OPSET = 18
RANDOM_BATCHES = (1, 7, 256)  # rows: one, an odd number, and more than any decision takes
RECORDED_ROWS = 1024
SCORERS = ("reward", "implicit", "product", "none")
REACH = 12.0  # random inputs lie within so many deviations of the mean: the normaliser clips at 10


@dataclasses.dataclass(frozen=True)
class Part:
    """A network to export.

    Attributes:
        module: Takes ``inputs`` by position and returns ``outputs``; normalises by itself.
        inputs: Shape behind the batch axis, by name.
        outputs: Likewise.
    """

    module: nn.Module
    inputs: Mapping[str, tuple[int, ...]]
    outputs: Mapping[str, tuple[int, ...]]


class _Mean(nn.Module):
    """Observations (B, O) to the mean chunk (B, 1, A) of a Gaussian policy."""

    def __init__(self, actor: GaussianPolicy) -> None:
        super().__init__()
        self.actor = actor

    def forward(self, observations: Tensor) -> Tensor:
        return self.actor.mean_of(self.actor.states(observations)).unsqueeze(1)


class _Reward(nn.Module):
    """Observations (B, O) and actions (B, A) to each member's mean and deviation, (B, M) each."""

    def __init__(self, reward: EnsembleReward) -> None:
        super().__init__()
        self.reward = reward

    def forward(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        mean, deviation = self.reward._rows(observations, actions)
        return mean.T, deviation.T


def export(
    policy_dir: Path,
    target: Path,
    *,
    reward_dir: Path | None = None,
    scorer: str | None = None,
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
        data: A trajectory store: recorded inputs for the parity report, the control rate, the task, and how
            fast actions change.
        spec: Instead of what is derived: ``task``, ``control_hz``, ``observation`` (a list of parts) and
            fields of ``action`` and ``limits``, as in the manifest.
        source: Where it comes from; kept in the manifest (JSON values).

    Raises:
        ConfigError: The target exists, or the scorer does not fit.
        DataError: A file or the spec makes no sense, or ONNX Runtime differs from torch by more than 1e-5.
    """
    if target.exists():
        raise ConfigError(f"{target} exists already; choose another target, or remove it.")
    policy = load_policy(policy_dir)
    settings, parts = _policy_parts(policy)
    reward = None if reward_dir is None else load_reward(reward_dir)
    scorer_settings, scorer_parts = _scorer_parts(policy, reward, scorer)
    parts |= scorer_parts
    store = None if data is None else TrajectoryStore.open(data)
    if store is not None and store.layout.observation_size != policy.observation_size:
        raise DataError(
            f"{data} holds observations of {store.layout.observation_size} numbers, "
            f"the policy takes {policy.observation_size}"
        )
    record = describe(policy, store, spec or {})
    record |= {"policy": settings, "scorer": scorer_settings, "source": dict(source or {})}
    _check_sizes(Manifest.read({**record, "networks": {}}, "spec"), policy)  # before the work begins
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        networks, report = {}, {}
        for name, part in parts.items():
            networks[name] = _write(temporary, name, part)
            report[name] = _compare(temporary, name, part, networks[name], policy, store)
        record["networks"] = {name: network.record() for name, network in networks.items()}
        manifest = Manifest.read(record, str(target / NAME))
        write_json(temporary / NAME, manifest.record())
        write_json(temporary / parity.NAME, {"tolerance": parity.TOLERANCE, "networks": report})
        load(temporary)  # whatever a robot would refuse is refused here
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Exported(manifest, report, _notes(manifest, store))


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written: the manifest, the parity of each network, and what a person should know."""

    manifest: Manifest
    parity: Mapping[str, Any]
    notes: tuple[str, ...]


def _notes(manifest: Manifest, store: TrajectoryStore | None) -> tuple[str, ...]:
    notes = []
    if store is None:
        notes.append("no recorded episodes (data=): parity was tried on random inputs alone")
    if manifest.limits.rate is None:
        notes.append("no limit to how fast actions change: give limits.rate_per_s in a spec")
    if any(part.low is None for part in manifest.observation):
        notes.append("no range of observations: give low and high of each part in a spec")
    return tuple(notes)


# --- what there is to export --------------------------------------------------------------------------------


def _policy_parts(policy: OfflinePolicy) -> tuple[dict[str, Any], dict[str, Part]]:
    """What the runtime needs to know of a policy, and its networks."""
    actor: Any = policy.actor
    kind = type(actor).__name__
    if kind not in ACTORS:
        raise ConfigError(f"A {kind} cannot be exported; {', '.join(ACTORS)} can.")
    return ACTORS[kind](actor)


def _gaussian_parts(actor: GaussianPolicy) -> tuple[dict[str, Any], dict[str, Part]]:
    settings = {"kind": "gaussian", "network": "policy", "deviation": _deviation(actor)}
    return settings, {"policy": _mean_part(actor)}


def _mean_part(actor: GaussianPolicy) -> Part:
    return Part(_Mean(actor), {"observations": (actor.observation_size,)}, {"mean": (1, actor.action_size)})


def _deviation(actor: GaussianPolicy) -> list[float]:
    return actor.bounded_log_deviation().detach().double().exp().tolist()


class _Encoder(nn.Module):
    """Observations (B, O) to features (B, C)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, observations: Tensor) -> Tensor:
        return self.encoder(observations)


class _Denoiser(nn.Module):
    """Noisy chunks (B, H, A), times (B,) and features (B, C) to what is predicted, (B, H, A)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, noisy: Tensor, times: Tensor, condition: Tensor) -> Tensor:
        return self.network(noisy, times, condition)


def _denoiser_parts(actor: Any, prefix: str = "") -> dict[str, Part]:
    features, chunk = actor.encoder.size, (actor.horizon, actor.action_size)
    seen = {"observations": (actor.observation_size,)}
    asked = {"noisy": chunk, "times": (), "condition": (features,)}
    return {
        f"{prefix}encoder": Part(_Encoder(actor.encoder), seen, {"features": (features,)}),
        f"{prefix}denoiser": Part(_Denoiser(actor.network), asked, {"predicted": chunk}),
    }


def _diffusion_parts(actor: Any) -> tuple[dict[str, Any], dict[str, Part]]:
    settings = {
        "kind": "diffusion",
        "encoder": "encoder",
        "denoiser": "denoiser",
        "alphas": actor.denoising.alphas_cumprod.double().tolist(),
        "timesteps": actor.denoising.timesteps.tolist(),
        "eta": float(actor.eta),
    }
    return settings, _denoiser_parts(actor)


def _flow_parts(actor: Any) -> tuple[dict[str, Any], dict[str, Part]]:
    settings = {"kind": "flow", "encoder": "encoder", "denoiser": "denoiser", "steps": actor.sample_steps}
    return settings, _denoiser_parts(actor)


# by name, for diffusion and flow policies bring diffusers, which a Gaussian one does not need
ACTORS: dict[str, Callable[[Any], tuple[dict[str, Any], dict[str, Part]]]] = {
    "GaussianPolicy": _gaussian_parts,
    "DiffusionActor": _diffusion_parts,
    "FlowActor": _flow_parts,
}


def _scorer_parts(
    policy: OfflinePolicy, reward: EnsembleReward | None, scorer: str | None
) -> tuple[dict[str, Any] | None, dict[str, Part]]:
    """What the runtime needs to know of the scorer, and its networks."""
    if scorer is None:
        scorer = "reward" if reward is not None else "implicit" if _referenced(policy) else "none"
    if scorer not in SCORERS:
        raise ConfigError(unknown_name("scorer", scorer, SCORERS))
    if scorer == "none":
        return None, {}
    if scorer == "reward":
        if reward is None:
            raise ConfigError("scorer=reward needs reward=<folder of a saved reward>.")
        whole = isinstance(reward, CandidateReward)
        settings = {"kind": "ensemble", "network": "reward", "whole": whole}
        return settings, {"reward": _reward_part(reward, policy)}
    if scorer == "product":
        factors = [_scorer_parts(policy, reward, factor) for factor in ("reward", "implicit")]
        return {"kind": "product", "factors": [s for s, _ in factors]}, {**factors[0][1], **factors[1][1]}
    if not isinstance(policy, PreferencePolicy):
        raise ConfigError(
            f"scorer=implicit compares a policy with its reference, and a {type(policy).__name__} has none; "
            "policy=preference has."
        )
    actor: Any = policy.actor
    reference: Any = policy.reference
    if not actor.exact:
        names = ("encoder", "denoiser", "reference_encoder", "reference_denoiser")
        settings: dict[str, Any] = {"kind": "surrogate", **{name: name for name in names}}
        settings |= {"beta": policy.preference.beta, "draws": DRAWS, "window": list(WINDOW)}
        return settings, _denoiser_parts(reference, "reference_")
    settings = {
        "kind": "implicit",
        "network": "policy",
        "deviation": _deviation(actor),
        "reference": "reference",
        "reference_deviation": _deviation(reference),
        "beta": policy.preference.beta,
    }
    return settings, {"reference": _mean_part(reference)}


def _referenced(policy: OfflinePolicy) -> bool:
    return isinstance(policy, PreferencePolicy)


def _reward_part(reward: EnsembleReward, policy: OfflinePolicy) -> Part:
    sizes = (reward.observation_size, reward.action_size)  # a candidate reward's action is a whole chunk
    chunk = policy.horizon if isinstance(reward, CandidateReward) else 1
    wanted = (policy.observation_size, chunk * policy.action_size)
    if sizes != wanted:
        raise ConfigError(
            f"The reward takes {sizes[0]} observation and {sizes[1]} action entries, the policy "
            f"{wanted[0]} and {wanted[1]}: they are of different tasks."
        )
    inputs = {"observations": (sizes[0],), "actions": (sizes[1],)}
    return Part(_Reward(reward), inputs, {"mean": (reward.members,), "deviation": (reward.members,)})


# --- the manifest -------------------------------------------------------------------------------------------


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
    mean, deviation, clip = _statistics(actor)
    if not np.isfinite(clip):
        return None, None
    return (mean - clip * deviation).tolist(), (mean + clip * deviation).tolist()


def _statistics(actor: Any) -> tuple[np.ndarray, np.ndarray, float]:
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
        if name in ("action", "limits"):
            if not isinstance(value, Mapping):
                raise ConfigError(f"spec: {name} must be a JSON object, got {value!r:.60}")
            record[name] |= value
    scaled = {"low", "high"} & set(spec.get("action", {}))
    if scaled and "limits" not in spec:  # limits are in the action's units
        action, rate = record["action"], record["limits"]["rate_per_s"]
        record["limits"] |= {"low": action["low"], "high": action["high"]}
        if rate is not None:
            spread = np.subtract(action["high"], action["low"]) / 2
            record["limits"]["rate_per_s"] = (np.array(rate) * spread).tolist()
    record |= {name: spec[name] for name in ("task", "control_hz", "observation") if name in spec}
    for name in ("task", "control_hz"):
        if name not in record:
            raise ConfigError(
                f"The bundle must say its {name}: give data=<trajectory store>, or a spec with it."
            )


def _check_sizes(manifest: Manifest, policy: OfflinePolicy) -> None:
    found = (manifest.observation_size, manifest.action.size, manifest.action.horizon)
    wanted = (policy.observation_size, policy.action_size, policy.horizon)
    if found != wanted:
        raise ConfigError(
            "spec: (numbers in an observation, in an action, actions in a chunk) must be "
            f"{wanted} for this policy, got {found}."
        )


# --- networks -----------------------------------------------------------------------------------------------


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
    batches = {"random": [_random_inputs(part, policy, rng, rows) for rows in RANDOM_BATCHES]}
    recorded = None if store is None else _recorded_inputs(part, store, rng)
    if recorded is not None:
        batches["recorded"] = [recorded]
    return parity.compare(name, by_torch, onnx, batches)


def _random_inputs(
    part: Part, policy: OfflinePolicy, rng: np.random.Generator, rows: int
) -> dict[str, np.ndarray]:
    """Observations from well within to beyond where the normaliser clips; all else uniform in [-1, 1]."""
    inputs = {}
    for key, shape in part.inputs.items():
        if key == "observations":
            mean, deviation, _ = _statistics(policy.actor)
            spread = rng.uniform(0, REACH, (rows, 1)) * rng.uniform(-1, 1, (rows, *shape))
            inputs[key] = (mean + spread * deviation).astype(np.float32)
        else:
            inputs[key] = rng.uniform(-1, 1, (rows, *shape)).astype(np.float32)
    return inputs


def _recorded_inputs(
    part: Part, store: TrajectoryStore, rng: np.random.Generator
) -> dict[str, np.ndarray] | None:
    """Steps of the store; None where the network takes something that is not in it."""
    sizes = {"observations": store.layout.observation_size, "actions": store.layout.action_size}
    if any(shape != (sizes.get(key),) for key, shape in part.inputs.items()):
        return None
    every = store.transition_rows()
    rows = np.sort(rng.choice(every, min(RECORDED_ROWS, len(every)), replace=False))
    return {key: store.array(key)[rows] for key in part.inputs}


# --- runs ---------------------------------------------------------------------------------------------------


def find_in_run(run: Path) -> dict[str, Path]:
    """The policy, reward and data of a run directory, as far as they exist.

    Raises:
        DataError: It holds no policy.
    """
    if not (run / "policy" / "config.json").is_file():
        raise DataError(f"{run} holds no policy/: give the folder of a finished run, or policy=<folder>.")
    found = {"policy": run / "policy"}
    if (run / "reward" / "config.json").is_file():
        found["reward"] = run / "reward"
    task = read_json(run / "run.json").get("task") if (run / "run.json").is_file() else None
    phase = run / "phases" / f"collect-{task}.json"
    if phase.is_file():
        data = Path(read_json(phase)["settings"]["data"])
        if (data / "store.json").is_file():
            found["data"] = data
    return found
