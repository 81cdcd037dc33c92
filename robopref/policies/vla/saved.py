"""Policies that see, on disk: ``config.json`` and ``model.safetensors``.

Of a published checkpoint that has adapters, only what learned is written: the rest lies in its own directory,
which the configuration names, with a digest of its content.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
        DataError: for a missing, truncated or foreign file, or a checkpoint that is not where it was or
            not what it was.
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
    learned, moving = _learned(directory, policy)
    with torch.no_grad():
        for name, parameter in moving.items():
            parameter.copy_(learned[name])
    return policy.to(device).eval()


def _learned(directory: Path | str, policy: OpenVLAPolicy) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Read what was saved of a policy that moves; returns it, and what it belongs to, by the same names."""
    learned = load_tensors(directory)
    moving: dict[str, Tensor] = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    wrong = sorted(set(learned) ^ set(moving))
    wrong += [name for name in set(learned) & set(moving) if learned[name].shape != moving[name].shape]
    if wrong:
        raise DataError(f"{directory} does not fit the checkpoint {policy.config['path']}: {wrong[:5]}.")
    return learned, moving


Beside = Callable[[], AbstractContextManager[SeeingPolicy]]
"""Gives a policy for as long as the context lasts, in which another one may be no policy of its own."""


def load_beside(policy: SeeingPolicy, directory: Path | str) -> Beside:
    """Read what :func:`save_vla` wrote beside a policy that was made of it, on the same device.

    Of a published checkpoint with the same adapters only these are read, and take their places in ``policy``
    meanwhile: there is one copy of the rest. Anything else is read whole.
    """
    device = next(policy.parameters()).device
    alike = read_config(directory)["config"] == policy.config
    if not isinstance(policy, OpenVLAPolicy) or policy.adapter is None or not alike:
        whole = load_vla(directory, device=device)
        return lambda: nullcontext(whole)
    learned, moving = _learned(directory, policy)
    earlier = {name: learned[name].to(p) for name, p in moving.items()}

    @contextmanager
    def beside() -> Iterator[SeeingPolicy]:
        now = {name: p.data for name, p in moving.items()}
        for name, p in moving.items():
            p.data = earlier[name]
        try:
            yield policy
        finally:
            for name, p in moving.items():
                p.data = now[name]

    return beside
