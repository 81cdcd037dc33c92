"""How fast an IQL update is, beside the usual structure: separate networks, three Adams, plain eager PyTorch.

Both start from the same weights and see the same batches; that they compute the same is checked in the same
run, in double precision for 100 steps (in single precision rounding alone makes them part).

    python scripts/bench/iql_update.py [--steps 300] [--repeats 3] [--compile]

With the implicit Q-learning of other libraries, of the same sizes and settings (:mod:`iql_libraries`):

    uv run --with d3rlpy --with torchrl python scripts/bench/iql_update.py --libraries d3rlpy torchrl
"""

import argparse
import copy
import itertools
import os
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robopref.policies.dataset import RewardScaling, TransitionSampler
from robopref.policies.iql import ImplicitQLearning

OBSERVATION, ACTION, BATCH, TRANSITIONS = 39, 4, 256, 15_000


class Separate:
    """The same algorithm as it is usually written: five networks, three optimisers, three backward passes."""

    def __init__(self, like: ImplicitQLearning) -> None:
        self.critics = nn.ModuleList(like.critic.member(k) for k in range(2))
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.value = copy.deepcopy(like.value.member(0))
        self.mean = copy.deepcopy(like.actor.network.member(0))
        self.critics = copy.deepcopy(self.critics)
        self.log_deviation = nn.Parameter(like.actor.log_deviation.detach().clone())
        self.normaliser, self.settings = like.actor.normaliser, like
        rate = like.learning_rate
        self.critic_adam = torch.optim.Adam(self.critics.parameters(), lr=rate)
        self.value_adam = torch.optim.Adam(self.value.parameters(), lr=rate)
        self.actor_adam = torch.optim.Adam([*self.mean.parameters(), self.log_deviation], lr=rate)

    def update(self, batch: dict[str, Tensor]) -> None:
        """One step of each network."""
        s = self.settings
        state, action = self.normaliser(batch["observations"]), batch["actions"]
        with torch.no_grad():
            next_value = self.value(self.normaliser(batch["next_observations"])).squeeze(-1)
            pair = torch.cat([state, action], dim=1)
            target = torch.min(*(critic(pair).squeeze(-1) for critic in self.targets))
        advantage = target - self.value(state).squeeze(-1)
        weight = torch.abs(s.expectile - (advantage < 0).to(advantage.dtype))
        value_loss = (weight * advantage**2).mean()
        self.value_adam.zero_grad()
        value_loss.backward()
        self.value_adam.step()

        wanted = batch["rewards"] + (1 - batch["terminals"]) * s.discount * next_value
        pair = torch.cat([state, action], dim=1)
        critic_loss = sum(((critic(pair).squeeze(-1) - wanted) ** 2).mean() for critic in self.critics)
        self.critic_adam.zero_grad()
        critic_loss.backward()  # pyright: ignore[reportAttributeAccessIssue]
        self.critic_adam.step()
        for old, new in zip(self.targets.parameters(), self.critics.parameters(), strict=True):
            old.data.copy_((1 - s.polyak) * old.data + s.polyak * new.data)

        weight = torch.exp(s.temperature * advantage.detach()).clamp(max=s.weight_limit)
        deviation = self.log_deviation.clamp(-5, 2).exp()
        policy = torch.distributions.Normal(torch.tanh(self.mean(state)), deviation)
        actor_loss = -(weight * policy.log_prob(action).sum(-1)).mean()
        self.actor_adam.zero_grad()
        actor_loss.backward()
        self.actor_adam.step()

    def difference(self, other: ImplicitQLearning) -> float:
        """Largest difference of a parameter, over all networks."""
        mine = [*self.critics, *self.targets, self.value, self.mean]
        theirs = [
            other.critic.member(0),
            other.critic.member(1),
            other.target.member(0),
            other.target.member(1),
        ]
        theirs += [other.value.member(0), other.actor.network.member(0)]
        pairs = zip(
            itertools.chain.from_iterable(m.parameters() for m in mine),
            itertools.chain.from_iterable(t.parameters() for t in theirs),
            strict=True,
        )
        return max((a - b).abs().max().item() for a, b in pairs)


class Ours:
    """This package's learner, with the optimiser that the training loop gives it."""

    def __init__(self, learner: ImplicitQLearning) -> None:
        self.learner = learner
        self.adam = torch.optim.Adam(learner.parameter_groups(), fused=True)

    def update(self, batch: dict[str, Tensor]) -> None:
        """One step."""
        loss, _ = self.learner.loss(batch)
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
        self.adam.step()
        self.learner.after_step()


class Products:
    """The matrix products of one update and nothing else: what no arrangement of the rest can pass."""

    def __init__(self, hidden: Sequence[int]) -> None:
        pairs = OBSERVATION + ACTION
        critics = [(pairs, 1, True)] * 2 + [(pairs, 1, False)] * 2  # inputs, outputs, whether it learns
        others = [(OBSERVATION, 1, True), (OBSERVATION, 1, False), (OBSERVATION, ACTION, True)]
        self.factors: list[tuple[Tensor, Tensor]] = []
        for inputs, outputs, learns in critics + others:
            for layer, (fan_in, fan_out) in enumerate(itertools.pairwise([inputs, *hidden, outputs])):
                x, weight, gradient = (
                    torch.randn(*shape) for shape in ((BATCH, fan_in), (fan_out, fan_in), (BATCH, fan_out))
                )
                self.factors += [(x, weight.T)] + [(x.T, gradient)] * learns
                self.factors += [(gradient, weight)] * (learns and layer > 0)
        self.results = [a @ b for a, b in self.factors]

    def update(self, batch: dict[str, Tensor]) -> None:
        """All of them once; the batch is not read."""
        for (a, b), result in zip(self.factors, self.results, strict=True):
            torch.mm(a, b, out=result)


def transitions(dtype: torch.dtype) -> TransitionSampler:
    """Random transitions of the size of Meta-World's."""
    generator = torch.Generator().manual_seed(0)
    observations = torch.randn(TRANSITIONS + 1, OBSERVATION, generator=generator, dtype=dtype)
    actions = torch.rand(TRANSITIONS + 1, ACTION, generator=generator, dtype=dtype) * 2 - 1
    rewards = torch.randn(TRANSITIONS + 1, generator=generator, dtype=dtype)
    rows = torch.arange(TRANSITIONS)
    return TransitionSampler(observations, actions, rewards, torch.zeros_like(rewards), rows, RewardScaling())


def seconds(update: Any, data: Any, steps: int) -> float:
    """CPU seconds of ``steps`` updates, drawing the batches included."""
    generator = torch.Generator().manual_seed(1)
    start = time.process_time()
    for _ in range(steps):
        update.update(data.sample(BATCH, generator))
    return time.process_time() - start


def agreement(steps: int = 100) -> float:
    """Largest difference of a parameter after ``steps`` of both, in double precision."""
    learner = ImplicitQLearning(OBSERVATION, ACTION).double()
    reference, data = Separate(learner), transitions(torch.float64)
    for update in (Ours(learner), reference):
        seconds(update, data, steps)
    return reference.difference(learner)


def main() -> None:
    """Print the agreement and the speeds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="also time the compiled loss")
    parser.add_argument("--libraries", nargs="+", default=[], choices=["d3rlpy", "torchrl"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread, load {os.getloadavg()[0]:.1f}")
    print(f"largest difference of a parameter after 100 steps in double precision: {agreement():.1e}")
    learner, data = ImplicitQLearning(OBSERVATION, ACTION), transitions(torch.float32)
    rivals: dict[str, tuple[Any, Any]] = {"separate": (Separate(learner), data)}
    rivals["ours"] = Ours(learner), data
    if options.compile:
        rivals["ours, compiled"] = Ours(ImplicitQLearning(OBSERVATION, ACTION, compile=True)), data
    rivals["products alone"] = Products(learner.config["hidden"]), data
    if options.libraries:
        from iql_libraries import libraries

        rivals |= libraries(options.libraries, learner, data, BATCH)
    spent = {name: [] for name in rivals}
    for update, source in rivals.values():
        seconds(update, source, 20)
    for _ in range(options.repeats):  # in turns, so that the load of the machine falls on all
        for name, (update, source) in rivals.items():
            spent[name].append(seconds(update, source, options.steps))
    base = statistics.median(spent["separate"])
    for name, times in spent.items():
        middle = statistics.median(times)
        print(f"{name:20s} {options.steps / middle:6.1f} steps per CPU second, {base / middle:.2f}x")


if __name__ == "__main__":
    main()
