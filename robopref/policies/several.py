"""Several implicit Q-learners, trained together as one computation: K seeds of one training.

On a GPU that saves launches; a CPU core multiplies as many numbers in either order, and gains a tenth at most
(scripts/bench/iql_seeds.py; docs/results/pearl.md).

``torch.func.stack_module_state`` gives the weights of K learners a further axis in front, ``vmap`` maps the
learner's own loss over it and over K batches, and the sum of the K losses has, as their parameters are
disjoint, each learner's own gradient. Adam works entry by entry, so the K trainings are those of K separate
runs (tests/policies/test_several.py: within 1e-6 after 100 steps in double precision).

Letters used in shapes: K learners, B transitions.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from robopref.errors import ConfigError
from robopref.policies.dataset import Batch, TransitionSampler
from robopref.policies.iql import ImplicitQLearning


class SeveralLearners:
    """K implicit Q-learners as one computation.

    Args:
        learners: They differ by their weights (and so by their seeds) and in nothing else; they are left as
            they are. Their normalisers must be fitted.

    Raises:
        ConfigError: There are none, or they differ in more than the seed.
    """

    def __init__(self, learners: Sequence[ImplicitQLearning]) -> None:
        if not learners:
            raise ConfigError("There are no learners to train together")
        settings = [{k: v for k, v in learner.config.items() if k != "seed"} for learner in learners]
        if any(one != settings[0] for one in settings):
            raise ConfigError("Learners that are trained together may differ by their seed alone")
        self._template = copy.deepcopy(learners[0])
        self._learners = [copy.deepcopy(learner) for learner in learners]
        self.parameters, self.buffers = stack_module_state(list(learners))
        self._trained = {name for name, p in learners[0].named_parameters() if p.requires_grad}
        self.learning_rate = learners[0].learning_rate
        self._body = _Losses(self._template)

    def __len__(self) -> int:
        return len(self._learners)

    def trained(self) -> list[Tensor]:
        """The stacked parameters that an optimiser moves, at ``learning_rate``."""
        return [self.parameters[name] for name in self.parameters if name in self._trained]

    def loss(self, batch: Batch) -> Float[Tensor, " K"]:
        """Each learner's loss on its own batch; sum it and differentiate.

        Args:
            batch: As of :class:`~robopref.policies.dataset.TransitionSampler`, with K in front.
        """
        state = {f"learner.{k}": v for k, v in {**self.parameters, **self.buffers}.items()}
        return vmap(lambda s, b: functional_call(self._body, s, (b,)))(state, dict(batch))

    @torch.no_grad()
    def after_step(self) -> None:
        """Move every target critic towards its critic."""
        polyak = self._template.polyak
        for name in self.parameters:
            if name.startswith("target."):
                self.parameters[name].lerp_(self.parameters["critic." + name.removeprefix("target.")], polyak)

    @torch.no_grad()
    def separate(self) -> list[ImplicitQLearning]:
        """The learners, each with its own weights again."""
        for index, learner in enumerate(self._learners):
            own = {name: values[index] for name, values in {**self.parameters, **self.buffers}.items()}
            learner.load_state_dict(own)
        return self._learners


class _Losses(nn.Module):
    def __init__(self, learner: ImplicitQLearning) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.learner.loss(batch)[0]


def stacked_batches(
    samplers: Sequence[TransitionSampler], batch_size: int, generators: Sequence[torch.Generator]
) -> Batch:
    """One batch for each learner, (K, B, ...), drawn as each would draw it alone."""
    drawn: list[Any] = [s.sample(batch_size, g) for s, g in zip(samplers, generators, strict=True)]
    return {name: torch.stack([batch[name] for batch in drawn]) for name in drawn[0]}
