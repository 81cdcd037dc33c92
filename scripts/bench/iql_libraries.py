"""The implicit Q-learning of d3rlpy and of torchrl, as rivals of :mod:`iql_update`.

Both get the sizes and settings of one of our learners, and batches drawn by our sampler, which is cheaper
than theirs; or they draw for themselves, each by the cheapest of its own ways from memory. Neither normalises
observations here, which ours does.
"""

# pyright: reportMissingImports=false

import importlib.util
from typing import Any

import torch
from torch import Tensor, nn

from robopref.policies.dataset import TransitionSampler
from robopref.policies.iql import ImplicitQLearning

EPISODE = 500  # steps; of d3rlpy's buffer, which holds episodes


class D3rlpy:
    """``d3rlpy.algos.IQL``: two Adams; value and critics step, then the actor with what they have become."""

    def __init__(self, like: ImplicitQLearning, observation: int, action: int) -> None:
        from d3rlpy.algos import IQLConfig
        from d3rlpy.models.encoders import VectorEncoderFactory
        from d3rlpy.torch_utility import TorchMiniBatch

        encoder = VectorEncoderFactory(list(like.config["hidden"]))
        self._algorithm: Any = IQLConfig(
            actor_learning_rate=like.learning_rate,
            critic_learning_rate=like.learning_rate,
            actor_encoder_factory=encoder,
            critic_encoder_factory=encoder,
            value_encoder_factory=encoder,
            gamma=like.discount,
            tau=like.polyak,
            expectile=like.expectile,
            weight_temp=like.temperature,
            max_weight=like.weight_limit,
        ).create(device=False)
        self._algorithm.create_impl((observation,), action)
        self._batch, self._steps = TorchMiniBatch, 0

    def update(self, batch: Any) -> None:
        """One step, by a batch of ours or of :class:`D3rlpyReplay`."""
        if not isinstance(batch, dict):
            self._algorithm.update(batch)
            return
        rewards = batch["rewards"][:, None]
        given = self._batch(
            observations=batch["observations"],
            actions=batch["actions"],
            rewards=rewards,
            next_observations=batch["next_observations"],
            next_actions=batch["actions"],  # which this algorithm does not read
            returns_to_go=rewards,  # nor these
            terminals=batch["terminals"][:, None],
            intervals=torch.ones_like(rewards),
            device="cpu:0",
        )
        self._algorithm.impl.update(given, self._steps)
        self._steps += 1


class D3rlpyReplay:
    """``d3rlpy.dataset.ReplayBuffer``, which gathers a batch transition by transition."""

    def __init__(self, everything: dict[str, Tensor]) -> None:
        from d3rlpy.dataset import MDPDataset

        terminals = everything["terminals"].numpy()
        timeouts = terminals.copy()
        timeouts[EPISODE - 1 :: EPISODE] = 1
        timeouts[-1] = 1
        self._buffer = MDPDataset(
            everything["observations"].numpy(),
            everything["actions"].numpy(),
            everything["rewards"].numpy(),
            terminals,
            timeouts,
        )

    def sample(self, batch_size: int, _generator: torch.Generator) -> Any:
        """A batch, drawn by NumPy's global generator."""
        return self._buffer.sample_transition_batch(batch_size)


class Torchrl:
    """``torchrl.objectives.IQLLoss`` as in torchrl's example: one backward pass, Adam, ``SoftUpdate``.

    Its Adam is fused, as ours is, and one for all networks. The twin critics are one ``vmap``.
    """

    def __init__(self, like: ImplicitQLearning, observation: int, action: int) -> None:
        from tensordict.nn import AddStateIndependentNormalScale, TensorDictModule
        from torchrl.modules import MLP, IndependentNormal, ProbabilisticActor, ValueOperator
        from torchrl.objectives import IQLLoss, SoftUpdate

        def network(inputs: int, outputs: int) -> nn.Module:
            return MLP(inputs, outputs, num_cells=list(like.config["hidden"]), activation_class=nn.ReLU)

        mean = nn.Sequential(network(observation, action), nn.Tanh(), AddStateIndependentNormalScale(action))
        actor = ProbabilisticActor(
            TensorDictModule(mean, in_keys=["observation"], out_keys=["loc", "scale"]),
            in_keys=["loc", "scale"],
            distribution_class=IndependentNormal,
        )
        critic = ValueOperator(network(observation + action, 1), in_keys=["observation", "action"])
        value = ValueOperator(network(observation, 1), in_keys=["observation"])
        self._loss = IQLLoss(
            actor,
            critic,
            value,
            loss_function="l2",
            temperature=like.temperature,
            expectile=like.expectile,
        )
        self._loss.make_value_estimator(gamma=like.discount)
        self._target = SoftUpdate(self._loss, tau=like.polyak)
        trained = [p for p in self._loss.parameters() if p.requires_grad]
        self._adam = torch.optim.Adam(trained, lr=like.learning_rate, fused=True)

    def update(self, batch: Any) -> None:
        """One step, by a batch of ours or of :class:`TorchrlReplay`."""
        losses = self._loss(_tensordict(batch) if isinstance(batch, dict) else batch)
        self._adam.zero_grad(set_to_none=True)
        (losses["loss_actor"] + losses["loss_value"] + losses["loss_qvalue"]).backward()
        self._adam.step()
        self._target.step()


class TorchrlReplay:
    """``TensorDictReplayBuffer`` on a ``LazyTensorStorage``: all transitions are tensors in memory."""

    def __init__(self, everything: dict[str, Tensor], batch_size: int) -> None:
        from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

        storage = LazyTensorStorage(len(everything["rewards"]))
        self._buffer = TensorDictReplayBuffer(storage=storage, batch_size=batch_size)
        self._buffer.extend(_tensordict(everything))

    def sample(self, _batch_size: int, _generator: torch.Generator) -> Any:
        """A batch, drawn by torch's global generator."""
        return self._buffer.sample()


def _tensordict(batch: dict[str, Tensor]) -> Any:
    """Our batch under torchrl's names."""
    from tensordict import TensorDict

    ended = batch["terminals"][:, None].bool()
    following = TensorDict(
        {
            "observation": batch["next_observations"],
            "reward": batch["rewards"][:, None],
            "done": ended,
            "terminated": ended,
        },
        batch_size=len(ended),
    )
    return TensorDict(
        {"observation": batch["observations"], "action": batch["actions"], "next": following},
        batch_size=len(ended),
    )


def libraries(
    names: list[str], like: ImplicitQLearning, data: TransitionSampler, batch_size: int
) -> dict[str, tuple[Any, Any]]:
    """Each library twice: with batches of ``data``, and with those that it draws for itself.

    Raises:
        SystemExit: One is not installed; says how to run with it.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise SystemExit(f"{name} is not installed: run this by uv run --with {name} python ...")
    everything = data.batch(torch.arange(len(data)))
    observation, action = (everything[name].shape[1] for name in ("observations", "actions"))
    found: dict[str, tuple[Any, Any]] = {}
    if "d3rlpy" in names:
        found["d3rlpy"] = D3rlpy(like, observation, action), data
        found["d3rlpy, its replay"] = D3rlpy(like, observation, action), D3rlpyReplay(everything)
    if "torchrl" in names:
        found["torchrl"] = Torchrl(like, observation, action), data
        found["torchrl, its replay"] = (
            Torchrl(like, observation, action),
            TorchrlReplay(everything, batch_size),
        )
    return found
