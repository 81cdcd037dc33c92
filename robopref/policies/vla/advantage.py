"""Advantages of single decisions move a policy that sees: what a critic made of judged rollouts.

A decision is drawn in proportion to its advantage, and each of its tokens becomes likelier or less likely:

    loss = -min(s r, s clip(r, 1 - epsilon, 1 + epsilon)),    s = sign of the advantage
    r = pi(token) / pi_ref(token)

which is the clipped objective of PPO (Schulman et al. 2017, arXiv 1707.06347, eq. 7), token by token. A token
that has moved by epsilon moves no further: the proximal part of what keeps a policy alive. Decisions of
demonstrations are imitated beside. PPO draws new rollouts every few steps; here one set serves a whole round.

A Gaussian's numbers stand for tokens. A policy of flow or diffusion has a surrogate in place of the
log-likelihood, its negative denoising error of the chunk; the ratio is then that of FPO (McAllister et al.
2025, arXiv 2507.21053), exp of how much the error fell. Policy and reference share the draw of time and
noise, and the reference is computed beside.

Letters used in shapes: n decisions, E entries of a score: numbers of a chunk, or 1 of a surrogate.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from robopref.errors import ConfigError
from robopref.nets.windows import windowed_loss
from robopref.policies.chunks import Draw
from robopref.policies.vla.data import Decisions
from robopref.policies.vla.preference import holding, moving_weights
from robopref.policies.vla.seeing import SeeingPolicy


class CreditedDecisions:
    """Draws decisions in proportion to their chances, with the sign of each one's advantage.

    Args:
        decisions: Of rollouts and demonstrations.
        chances: How often each is drawn, in proportion.
        signs: Of the advantages; 0 of what is imitated.
        reference: Score by entry of each decision that has an advantage, before learning.
    """

    def __init__(
        self,
        decisions: Decisions,
        chances: Float64[np.ndarray, " n"],
        signs: Float64[np.ndarray, " n"],
        reference: Float[Tensor, "n E"],
    ) -> None:
        self.decisions, self.reference = decisions, reference.cpu()
        self.signs = torch.from_numpy(signs.astype(np.float32))
        self._up_to = torch.from_numpy(np.cumsum(chances) / chances.sum())

    def __len__(self) -> int:
        return len(self.decisions)

    def sample(self, batch_size: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw as :meth:`Decisions.sample` does, with ``sign`` (n,) and ``reference`` (n, E)."""
        pick = torch.rand(batch_size, generator=generator, dtype=torch.float64)
        rows = torch.searchsorted(self._up_to, pick, right=True).clamp(max=len(self) - 1).numpy()
        own = {"sign": self.signs[rows], "reference": self.reference[rows]}
        return self.decisions.batch(rows) | {k: v.to(self.decisions.device) for k, v in own.items()}


class ClippedAdvantage(nn.Module):
    """A policy that learns from the advantages of decisions; the training loop's learner.

    Args:
        policy: What learns.
        clip: epsilon: how far the likelihood of a token may move.
        window: Decisions that are scored at once: memory against speed, no change of the gradient.
        learning_rate: Step size of Adam.

    Raises:
        ConfigError: An option makes no sense.
    """

    def __init__(
        self, policy: SeeingPolicy, *, clip: float = 0.2, window: int = 96, learning_rate: float = 1e-4
    ) -> None:
        super().__init__()
        if not (0 < clip < 1 and window >= 1 and learning_rate > 0):
            raise ConfigError(
                f"clip must lie between 0 and 1, window and learning_rate be positive, got {clip}, {window} "
                f"and {learning_rate}"
            )
        self.config = {"clip": clip, "policy": policy.config}
        self.policy, self.clip, self.window, self.learning_rate = policy, clip, window, learning_rate
        self._before = {} if policy.exact else moving_weights(policy)

    def loss(
        self, batch: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The clipped objective of ``frames``, ``words``, ``targets`` and ``mask`` of n decisions.

        ``reference`` (n, E) are the entries of their scores before learning, read where scores are exact, and
        ``sign`` (n,) those of their advantages: 0 is imitated.
        """
        imitated, frames = batch["sign"] == 0, batch["frames"]
        shown = torch.where(
            imitated[:, None, None, None], self.policy.seen_in_training(frames, generator), frames
        )
        rows = {"frames": shown, **{name: batch[name] for name in ("words", "targets", "mask")}}
        source = generator or torch.Generator(frames.device).manual_seed(0)
        draw = self.policy.draw(len(frames), generator=source)

        def score(part: slice) -> Tensor:
            of_part: dict[str, Any] = {name: value[part] for name, value in rows.items()}
            if draw is None:
                return self.policy.entry_scores(**of_part)
            same = Draw(draw.times[:, part], draw.noise[:, part])
            with torch.no_grad(), holding(self.policy, self._before):
                before = self.policy.entry_scores(**of_part, draw=same)
            return torch.cat([self.policy.entry_scores(**of_part, draw=same), before], 1)

        def reduced(scores: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return self.loss_of_scores(scores, batch)

        parameters = [p for p in self.policy.parameters() if p.requires_grad]
        return windowed_loss(score, len(frames), self.window, reduced, parameters)

    def loss_of_scores(
        self, given: Float[Tensor, "n C"], batch: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The loss from all entries, of a surrogate with its reference's behind it, and how they fare."""
        if self.policy.exact:
            entries, before = given, batch["reference"]
            counting = self.policy.counting(batch["targets"], batch["mask"])
        else:
            (entries, before), counting = given.split(1, 1), torch.ones_like(given[:, :1], dtype=torch.bool)
        sign = batch["sign"][:, None].expand_as(entries)
        change = torch.where(sign == 0, 0.0, entries - before.detach())
        ratio = change.exp()
        clipped = ratio.clamp(1 - self.clip, 1 + self.clip)
        loss = torch.where(sign == 0, -entries, -torch.minimum(sign * ratio, sign * clipped))
        return loss[counting].mean(), {
            "good_change": _mean(change.detach()[counting & (sign > 0)]),
            "bad_change": _mean(change.detach()[counting & (sign < 0)]),
            "clipped": (ratio != clipped)[counting].float().mean(),
        }

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Whatever of the policy may move."""
        return [
            {"params": [p for p in self.policy.parameters() if p.requires_grad], "lr": self.learning_rate}
        ]

    def after_step(self) -> None:
        """Nothing follows a step."""

    def changing(self) -> set[str]:
        """Names of what learning changes."""
        return {f"policy.{name}" for name in self.policy.changing()}

    def shard(self, mesh: Any) -> None:
        """Share out the policy's weights among the processes of a mesh.

        Raises:
            ConfigError: The policy's reference is computed anew, from a second copy of the weights.
        """
        if self._before:
            raise ConfigError("Advantages of a flow or diffusion policy are learned in one process")
        self.policy.shard(mesh)


def _mean(values: Tensor) -> Tensor:
    return values.mean() if len(values) else torch.zeros((), device=values.device)
