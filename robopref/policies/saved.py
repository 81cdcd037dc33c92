"""Policies on disk; the normaliser travels with the weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from robopref.errors import DataError
from robopref.nets.checkpoint import load_module, read_config, save_module
from robopref.policies.bc import BehaviourCloning
from robopref.policies.diffusion import DiffusionPolicy
from robopref.policies.flow import FlowPolicy
from robopref.policies.ipl import InversePreferenceLearning
from robopref.policies.iql import ImplicitQLearning
from robopref.policies.offline import OfflinePolicy
from robopref.policies.preference import PreferencePolicy
from robopref.policies.rebrac import ReBRAC
from robopref.policies.robomimic import RobomimicPolicy
from robopref.policies.token import StateTokenPolicy

KINDS: dict[str, type[OfflinePolicy]] = {
    BehaviourCloning.kind: BehaviourCloning,
    DiffusionPolicy.kind: DiffusionPolicy,
    FlowPolicy.kind: FlowPolicy,
    ImplicitQLearning.kind: ImplicitQLearning,
    InversePreferenceLearning.kind: InversePreferenceLearning,
    PreferencePolicy.kind: PreferencePolicy,
    ReBRAC.kind: ReBRAC,
    StateTokenPolicy.kind: StateTokenPolicy,
    RobomimicPolicy.kind: RobomimicPolicy,
}
SEEING = ("vla", "continuous-vla", "openvla")


def save_policy(
    directory: str | Path, policy: OfflinePolicy, *, extra: Mapping[str, Any] | None = None
) -> None:
    """Write ``config.json`` and ``model.safetensors``; ``extra`` is kept beside the config (JSON values)."""
    save_module(directory, policy, kind=policy.kind, config=policy.config, extra=extra)


def load_policy(directory: str | Path, *, device: str | torch.device = "cpu") -> OfflinePolicy:
    """Read what :func:`save_policy` wrote, ready to act.

    Raises:
        DataError: for a missing, truncated or foreign file, or another kind of module.
    """
    if read_config(directory)["kind"] in SEEING:
        raise DataError(
            f"{directory} holds a policy that sees frames and instructions: robopref evaluate tries it, and "
            "robopref.policies.vla.saved.load_vla reads it."
        )
    policy = load_module(directory, KINDS, device=device)
    assert isinstance(policy, OfflinePolicy)
    return policy
