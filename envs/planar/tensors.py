"""The rules of :mod:`.scene` in torch, for episodes that stay on a device; the same numbers, in float32."""

# pyright: reportMissingImports=false

from typing import Any

import torch

from .scene import BLOCK_M, BLOCKS, COLOURS, LOOSE_M, SPEED_M_S, SUBSTEPS, ZONE_Y_M

Tensor = torch.Tensor


class PlanarRules:
    """See :class:`robopref.envs.warp.TensorRules` and :class:`~.scene.PlanarGroupScene`."""

    def controls(self, memory: dict[str, Any], actions: Tensor) -> Tensor:
        """Hold one velocity: (B, 2, 2)."""
        return (SPEED_M_S * actions)[:, None].expand(-1, SUBSTEPS, -1)

    def remember(self, memory: dict[str, Any], qpos: Tensor, qvel: Tensor) -> dict[str, Any]:
        """Note how tightly a colour was gathered when its first block entered the zone."""
        blocks, tightness = _blocks(qpos), memory["tightness"]
        entered = torch.stack([(blocks[:, colour, 1] > ZONE_Y_M).any(1) for colour in COLOURS], -1)
        return {"tightness": torch.where(entered & (tightness < 0), _gathered(blocks), tightness)}

    def observe(self, memory: dict[str, Any], qpos: Tensor, qvel: Tensor) -> Tensor:
        """Return (B, 22)."""
        inside = (_blocks(qpos)[:, :, 1] > ZONE_Y_M).to(qpos.dtype)
        return torch.cat([qpos[:, :2], qvel[:, :2], qpos[:, 2:], inside], 1)

    def judge(self, before: Tensor, qpos: Tensor, memory: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Reward what the blocks' mean distance to the zone decreased by, in decimetres."""
        y = _blocks(qpos)[:, :, 1]
        share = (y > ZONE_Y_M).to(qpos.dtype).mean(1)
        tightness = memory["tightness"].clamp_min(0).mean(1)
        left = (ZONE_Y_M - y).clamp_min(0).mean(1)
        gained = (ZONE_Y_M - _blocks(before)[:, :, 1]).clamp_min(0).mean(1) - left
        info = {
            "success": share == 1,
            "in_zone": share,
            "tightness": tightness,
            "score": share * (0.5 + 0.5 * tightness),
        }
        return 10 * gained, info


def _blocks(qpos: Tensor) -> Tensor:
    return qpos[:, 2:].reshape(len(qpos), BLOCKS, 2)


def _gathered(blocks: Tensor) -> Tensor:
    tightness = []
    for colour in COLOURS:
        three = blocks[:, colour]
        apart = (three - three.roll(1, dims=1)).norm(dim=-1).mean(1)  # every pair once
        tightness.append(((LOOSE_M - apart) / (LOOSE_M - 2 * BLOCK_M)).clamp(0, 1))
    return torch.stack(tightness, -1)
