"""The plain reward model: one number for each step, trained with the Bradley-Terry loss or another.

Letters used in shapes: M members, N steps, B pairs.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from robopref.rewards.ensemble import EnsembleReward


class BradleyTerryReward(EnsembleReward):
    """Christiano et al. 2017 (arXiv 1706.03741): sigmoid(R_a - R_b) is the chance that ``a`` is preferred.

    Its arguments are those of :class:`~robopref.rewards.ensemble.EnsembleReward`.
    """

    kind = "bradley_terry"
    heads = 1

    def estimate(self, outputs: Float[Tensor, "M N heads"]) -> tuple[Tensor, Tensor]:
        """The output is the mean; a single member claims no uncertainty."""
        mean = outputs.squeeze(-1)
        return mean, torch.zeros_like(mean)

    def loss(
        self, batch: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The objective's loss, summed over members; nothing is drawn."""
        estimate, mask = self.estimate_batch(batch)
        returns = self.segment_return(estimate.mean, mask)
        losses = self.batch_losses(returns, batch)
        logged = {
            self.loss_name: losses.detach().mean(),
            "accuracy": self.accuracy(returns.detach(), batch),
        }
        return losses.sum(), logged
