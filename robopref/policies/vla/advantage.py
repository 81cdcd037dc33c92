"""Advantages of single decisions move a policy that sees: what a critic made of judged rollouts.

A decision is drawn as often as its advantage is large, and its chunk becomes likelier or less likely:

    loss = -min(s r, s clip(r, 1 - epsilon, 1 + epsilon)),    s = sign of the advantage
    r = (pi(chunk) / pi_ref(chunk))^(1 / numbers in the chunk)

which is the clipped objective of PPO (Schulman et al. 2017, arXiv 1707.06347, eq. 7) with the ratio of a
whole sequence, normalised by its length (GSPO: Zheng et al. 2025, arXiv 2507.18071, eq. 7). A chunk that has
moved by epsilon moves no further: the proximal part of what keeps a policy alive. Decisions of demonstrations
are imitated beside. PPO draws new rollouts every few steps; here one set serves a whole round.

Letters used in shapes: n decisions, N numbers of a decision's target.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robopref.errors import ConfigError
from robopref.nets.windows import windowed_loss
from robopref.policies.vla.seeing import SeeingPolicy


class ClippedAdvantage(nn.Module):
    """A policy that learns from the advantages of decisions; the training loop's learner.

    Args:
        policy: What learns.
        clip: epsilon.
        window: Decisions that are scored at once: memory against speed, no change of the gradient.
        learning_rate: Step size of Adam.

    Raises:
        ConfigError: An option makes no sense, or the policy has no exact likelihoods.
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
        refuse_surrogates(policy)
        self.config = {"clip": clip, "policy": policy.config}
        self.policy, self.clip, self.window, self.learning_rate = policy, clip, window, learning_rate

    def loss(
        self, batch: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The clipped objective of ``frames``, ``words``, ``targets`` and ``mask`` of n decisions.

        ``reference`` (n,) is the score of each before learning, ``sign`` (n,) that of its advantage: 0 is
        imitated.
        """
        rows = {name: batch[name] for name in ("frames", "words", "targets", "mask")}
        numbers = (batch["mask"].sum(-1) * self.policy.action_size).float()

        def score(part: slice) -> Tensor:
            of_part: dict[str, Any] = {name: value[part] for name, value in rows.items()}
            return self.policy.decision_scores(**of_part).unsqueeze(1)

        def reduced(scores: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return self.loss_of_scores(scores[:, 0], batch, numbers)

        parameters = [p for p in self.policy.parameters() if p.requires_grad]
        return windowed_loss(score, len(numbers), self.window, reduced, parameters)

    def loss_of_scores(
        self, scores: Float[Tensor, " n"], batch: Mapping[str, Tensor], numbers: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The loss from the score of every decision, and how good and bad ones fare."""
        sign = batch["sign"]
        change = (scores - batch["reference"]) / numbers
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
        """Share out the policy's weights among the processes of a mesh."""
        self.policy.shard(mesh)


def refuse_surrogates(policy: SeeingPolicy) -> None:
    """Refuse a policy whose scores are no likelihoods.

    Raises:
        ConfigError: It is of flow or diffusion.
    """
    if not policy.exact:
        raise ConfigError(
            "kind=advantage clips ratios of likelihoods, which policies of flow and diffusion do not have: "
            "take kind=preference, or policy=vla, vla_gaussian or openvla"
        )


def _mean(values: Tensor) -> Tensor:
    return values.mean() if len(values) else torch.zeros((), device=values.device)
