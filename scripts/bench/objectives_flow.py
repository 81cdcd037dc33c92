"""A flow policy of the arm of :mod:`objectives_arm`, its clone, and objectives on its scores.

It emits chunks of five actions: the velocity of the straight path from noise to a chunk, integrated in five
steps. A chunk's score is minus half its squared error of velocity, at times and noise that both members of a
pair, policy and reference share. All strengths of one objective are trained at once, on the same batches, as
members of one ensemble of networks.

Letters used in shapes: M members, E episodes, C chunks in an episode, D numbers in a chunk, O observation
size, S segments in a batch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from objectives_arm import HORIZON, success
from torch import Tensor, nn

from robopref.data.store import TrajectoryStore
from robopref.nets.mlp import EnsembleMLP
from robopref.nets.normalise import Normaliser
from robopref.objectives.description import SURROGATE
from robopref.policies.preference_loss import PreferenceLoss, Steps

CHUNK, DRAWS, INTEGRATION_STEPS = 5, 2, 5
HIDDEN = (64, 64)


class Flow(nn.Module):
    """Velocities of M policies of one shape."""

    def __init__(self, store: TrajectoryStore, members: int, seed: int):
        super().__init__()
        self.members = members
        self.normaliser = Normaliser(store.layout.observation_size)
        episodes = len(store)
        rows = torch.from_numpy(store.first_rows.copy())[:, None] + torch.arange(HORIZON)
        seen = torch.from_numpy(store.array("observations").copy())[rows]
        self.normaliser.fit(seen.flatten(0, 1))
        self.states = self.normaliser(seen[:, ::CHUNK])  # (E, C, O)
        actions = torch.from_numpy(store.array("actions").copy())[rows]
        self.chunks = actions.reshape(episodes, HORIZON // CHUNK, -1)  # (E, C, D)
        size = self.chunks.shape[-1]
        self.network = EnsembleMLP(
            members,
            self.states.shape[-1] + size + 1,
            size,
            HIDDEN,
            generator=torch.Generator().manual_seed(seed),
        )

    def velocity(self, states: Tensor, noisy: Tensor, times: Tensor) -> Tensor:
        """(M, rows, D), of rows that all members share or of (M, rows, ...) of their own."""
        return self.network(torch.cat([states, noisy, times[..., None]], -1))

    def imitate(self, steps: int, batch_size: int, rate: float, seed: int) -> None:
        """Match the flow of all recorded chunks."""
        states, chunks = self.states.flatten(0, 1), self.chunks.flatten(0, 1)
        optimiser = torch.optim.Adam(self.network.parameters(), rate)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            rows = torch.randint(len(chunks), (batch_size,), generator=generator)
            times = torch.rand(batch_size, generator=generator)
            noise = torch.randn(batch_size, chunks.shape[1], generator=generator)
            noisy = torch.lerp(noise, chunks[rows], times[:, None])
            error = self.velocity(states[rows], noisy, times) - (chunks[rows] - noise)
            optimiser.zero_grad()
            error.square().mean().backward()
            optimiser.step()

    def copies(self, count: int) -> "Flow":
        """So many members that all start as this one's only member."""
        twin = Flow.__new__(Flow)
        nn.Module.__init__(twin)
        twin.members, twin.normaliser = count, self.normaliser
        twin.states, twin.chunks = self.states, self.chunks
        twin.network = EnsembleMLP(count, self.network.inputs, self.network.outputs, HIDDEN)
        for mine, other in zip(twin.network.parameters(), self.network.parameters(), strict=True):
            mine.data.copy_(other.data.expand_as(mine))
        return twin

    @torch.no_grad()
    def generate(self, states: Tensor, noise: Tensor) -> Tensor:
        """Chunks (M, rows, D) of states (M, rows, O) or (rows, O), from noise (rows, D)."""
        chunk = noise.expand(self.members, -1, -1)
        for k in range(INTEGRATION_STEPS):
            times = torch.full(chunk.shape[:2], k / INTEGRATION_STEPS)
            chunk = (
                chunk + self.velocity(states.expand(self.members, -1, -1), chunk, times) / INTEGRATION_STEPS
            )
        return chunk

    @torch.no_grad()
    def inverted(self, states: Tensor, chunks: Tensor, times: Tensor) -> Tensor:
        """Noise (M, rows, D) of the straight path to where the way back from a chunk is at these times."""
        states, times = (x.expand(self.members, *x.shape) for x in (states, times))
        step, point = (1 - times) / INTEGRATION_STEPS, chunks.expand(self.members, -1, -1)
        mean = torch.zeros_like(point)
        for k in range(INTEGRATION_STEPS):
            velocity = self.velocity(states, point, 1 - k * step)
            point, mean = point - step[..., None] * velocity, mean + velocity / INTEGRATION_STEPS
        return chunks - mean

    @torch.no_grad()
    def success(self, seed: int) -> list[float]:
        """Share of fresh reset states that each member solves, five actions at a time."""
        generator = torch.Generator().manual_seed(seed)
        plan: list[Tensor] = []

        def act(observations: Tensor) -> Tensor:
            if not plan:
                states = self.normaliser(observations).reshape(self.members, -1, observations.shape[-1])
                noise = torch.randn(states.shape[1], self.network.outputs, generator=generator)
                chunk = self.generate(states, noise)
                plan.extend(chunk.reshape(len(observations), CHUNK, -1).unbind(1))
            return plan.pop(0)

        return success(act, seed, self.members)

    def steps(
        self, reference: "Flow", episodes: Tensor, group: Tensor, generator: torch.Generator, extra: str
    ) -> list[Steps]:
        """Scores of the chunks of some episodes (S,), by member; those of one group share their draws.

        ``extra`` is what the objective takes beside them: ``roles`` adds as many samples of the reference,
        and ``inverted noise`` takes the noise that each member itself would have begun from.
        """
        states, chunks = self.states[episodes], self.chunks[episodes]
        if extra == "roles":
            noise = torch.randn(chunks.flatten(0, 1).shape, generator=generator)
            sampled = reference.generate(states.flatten(0, 1), noise)[0].clamp(-1, 1).reshape(chunks.shape)
            states, chunks = states.repeat(2, 1, 1), torch.cat([chunks, sampled])
            group = group.repeat(2)
        groups, count = int(group.max()) + 1, len(group)
        states, chunks = (x.repeat_interleave(DRAWS, 1) for x in (states, chunks))
        times = torch.rand(groups, chunks.shape[1], generator=generator)[group]
        noise = torch.randn(groups, *chunks.shape[1:], generator=generator)[group]
        states, chunks, times, noise = (x.flatten(0, 1) for x in (states, chunks, times, noise))
        if extra == "inverted noise":
            noise = self.inverted(states, chunks, times)
        target, noisy = chunks - noise, torch.lerp(noise, chunks.expand_as(noise), times[:, None])
        if noise.dim() == 3:  # of each member its own
            states, times = (x.expand(self.members, *x.shape) for x in (states, times))
        velocity = self.velocity(states, noisy, times)
        with torch.no_grad():
            rows = [x.flatten(0, -2) for x in (states, noisy, times[..., None])]
            before = reference.velocity(rows[0], rows[1], rows[2][:, 0])[0].reshape(noisy.shape)

        def score(difference: Tensor) -> Tensor:
            values = -0.5 * difference.square().sum(-1)
            return values.reshape(*values.shape[:-1], count, -1, DRAWS).mean(-1)

        own, old, kl = score(velocity - target), score(before - target), -score(velocity - before)
        old = old.expand_as(own)
        mask = torch.ones_like(old[0], dtype=torch.bool)
        return [Steps(own[m], old[m], kl[m], mask, drift=2 * kl[m]) for m in range(self.members)]


def learn(
    clone: Flow,
    objectives: Sequence[str | Mapping[str, Any]],
    strengths: Sequence[float],
    batches: Any,
    rate: float,
    steps: int,
    seed: int,
) -> tuple[Flow, list[dict[str, float]]]:
    """Move copies of a clone, one for each strength, by preferences; returns them and their diagnosis.

    Args:
        clone: Start and reference.
        objectives: Of each strength.
        strengths: beta of each.
        batches: (generator, or None for everything) -> (episodes in one row, groups that share draws, batch).
        rate: Step size of Adam.
        steps: How many.
        seed: Of batches and draws.
    """
    policy = clone.copies(len(strengths))
    heads = [
        PreferenceLoss(objective, SURROGATE, beta=beta)
        for objective, beta in zip(objectives, strengths, strict=True)
    ]
    extra = heads[0].objective.extra
    optimiser = torch.optim.Adam(policy.network.parameters(), rate)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        episodes, group, batch = batches(generator)
        found = policy.steps(clone, episodes, group, generator, extra)
        optimiser.zero_grad()
        torch.stack([head(x, batch)[0] for head, x in zip(heads, found, strict=True)]).sum().backward()
        optimiser.step()
    with torch.no_grad():
        episodes, group, batch = batches(None)
        found = policy.steps(clone, episodes, group, generator, extra)
        logged = [head.eval()(x, batch)[1] for head, x in zip(heads, found, strict=True)]
    return policy, [{k: float(v) for k, v in values.items()} for values in logged]
