"""Policies that see, on disk: ``config.json`` and ``model.safetensors``.

Of a published checkpoint that has adapters, only what learned is written: the rest lies in its own directory,
which the configuration names.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from robopref.errors import ConfigError, DataError
from robopref.nets.checkpoint import CONFIG_NAME, load_module, load_tensors, read_config, save_tensors
from robopref.nets.sharded import is_first, wholes
from robopref.policies.vla.continuous import ContinuousVLA
from robopref.policies.vla.openvla import OpenVLAPolicy
from robopref.policies.vla.policy import VLAPolicy
from robopref.policies.vla.seeing import SeeingPolicy

SMALL_KINDS: dict[str, Callable[..., nn.Module]] = {
    VLAPolicy.kind: VLAPolicy,
    ContinuousVLA.kind: ContinuousVLA,
}
KINDS = (*SMALL_KINDS, OpenVLAPolicy.kind)


def save_vla(directory: Path | str, policy: SeeingPolicy) -> None:
    """Write a policy: all of a small one, what may move of a published one.

    Of a policy whose weights are shared out, every process must ask for it, and the first writes.
    """
    kept: dict[str, Tensor] = policy.state_dict()
    if isinstance(policy, OpenVLAPolicy):
        kept = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    kept = wholes(kept)
    if is_first():
        save_tensors(directory, kept, {"kind": policy.kind, "config": policy.config, "extra": None})


def load_vla(directory: Path | str, *, device: str | torch.device = "cpu") -> SeeingPolicy:
    """Read what :func:`save_vla` wrote, ready to act.

    Raises:
        DataError: for a missing, truncated or foreign file, or a checkpoint that is not where it was.
    """
    record = read_config(directory)
    if record["kind"] != OpenVLAPolicy.kind:
        policy = load_module(directory, SMALL_KINDS, device=device)
        assert isinstance(policy, SeeingPolicy)
        return policy
    try:
        policy = OpenVLAPolicy(**record["config"])
    except (ConfigError, TypeError) as error:
        raise DataError(f"{Path(directory) / CONFIG_NAME} does not fit an openvla: {error}") from error
    learned = load_tensors(directory)
    moving = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    wrong = sorted(set(learned) ^ set(moving))
    wrong += [name for name in set(learned) & set(moving) if learned[name].shape != moving[name].shape]
    if wrong:
        raise DataError(f"{directory} does not fit the checkpoint {policy.config['path']}: {wrong[:5]}.")
    with torch.no_grad():
        for name, parameter in moving.items():
            parameter.copy_(learned[name])
    return policy.to(device).eval()
