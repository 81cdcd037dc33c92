"""Advantages of single decisions move a policy that sees: what a critic made of judged rollouts.

A decision is drawn as often as its advantage is large, and its chunk becomes likelier or less likely:

    loss = -min(s r, s clip(r, 1 - epsilon, 1 + epsilon)),    s = sign of the advantage
    r = (pi(chunk) / pi_ref(chunk))^(1 / numbers in the chunk)

which is the clipped objective of PPO (Schulman et al. 2017, arXiv 1707.06347, eq. 7) with the ratio of a
whole sequence, normalised by its length (GSPO: Zheng et al. 2025, arXiv 2507.18071). A chunk that has
moved by epsilon moves no further: the proximal part of what keeps a policy alive. Decisions of demonstrations
are imitated beside. PPO draws new rollouts every few steps; here one set serves a whole round.

A policy of flow or diffusion has a surrogate in place of the log-likelihood, its negative denoising error;
the ratio is then that of FPO (McAllister et al. 2025, arXiv 2507.21053), exp of how much the error fell. Policy
and reference share the draw of time and noise, and the reference is computed beside.

Letters used in shapes: n decisions, N numbers of a decision's target.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robopref.errors import ConfigError
from robopref.nets.windows import windowed_loss
from robopref.policies.chunks import Draw
from robopref.policies.vla.preference import holding, moving_weights
from robopref.policies.vla.seeing import SeeingPolicy


class ClippedAdvantage(nn.Module):
    """A policy that learns from the advantages of decisions; the training loop's learner.

    Args:
        policy: What learns.
        clip: epsilon.
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

        ``reference`` (n,) is the score of each before learning, read where scores are exact, and ``sign``
        (n,) that of its advantage: 0 is imitated.
        """
        rows = {name: batch[name] for name in ("frames", "words", "targets", "mask")}
        count = len(rows["mask"])
        source = generator or torch.Generator(rows["mask"].device).manual_seed(0)
        draw = None if self.policy.exact else self.policy.draw(count, generator=source)

        def score(part: slice) -> Tensor:
            of_part: dict[str, Any] = {name: value[part] for name, value in rows.items()}
            if draw is None:
                return self.policy.decision_scores(**of_part).unsqueeze(1)
            same = Draw(draw.times[:, part], draw.noise[:, part])
            with torch.no_grad(), holding(self.policy, self._before):
                before = self.policy.decision_scores(**of_part, draw=same)
            return torch.stack([self.policy.decision_scores(**of_part, draw=same), before], 1)

        def reduced(scores: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return self.loss_of_scores(scores, batch)

        parameters = [p for p in self.policy.parameters() if p.requires_grad]
        return windowed_loss(score, count, self.window, reduced, parameters)

    def loss_of_scores(
        self, given: Float[Tensor, "n C"], batch: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The loss from every decision's score, and its reference's, and how good and bad ones fare."""
        sign, scores, before = batch["sign"], given[:, 0], batch["reference"]
        numbers = (batch["mask"].sum(-1) * self.policy.action_size).float()
        if not self.policy.exact:
            before, numbers = given[:, 1].detach(), torch.ones_like(numbers)  # surrogates are means
        change = (scores - before) / numbers
        ratio = torch.where(sign == 0, 0.0, change).exp()
        clipped = ratio.clamp(1 - self.clip, 1 + self.clip)
        learned = -torch.minimum(sign * ratio, sign * clipped)
        loss = torch.where(sign == 0, -scores / numbers, learned).mean()
        shown = change.detach()
        return loss, {
            "good_change": _mean(shown[sign > 0]),
            "bad_change": _mean(shown[sign < 0]),
            "clipped": ((ratio != clipped) & (sign != 0)).float().mean(),
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
