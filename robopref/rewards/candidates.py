"""What each candidate of a state is worth: read off a preference policy, predicted, or both.

``score`` answers (observations (B, O), candidates (B, K, H, A)) with :class:`~robopref.scores.Scores`, (B, K)
each, in log-odds of preference: by the difference of two means, the first is the likelier to be preferred.

- :class:`ImplicitReward`: beta times the log-ratio of a preference policy to its reference (Rafailov et al.
  2023); of a surrogate with the error of the estimate over draws.
- :class:`ExplicitReward`: a Gaussian ensemble over (observation, chunk), with what its members disagree by
  and what each leaves open.
- :class:`ProductReward`: the product of both strengths exp(score), hence the sum of the scores.

:class:`RankedPolicy` acts with the best by the rule of :mod:`robopref.scores`, as a robot does.

Letters used in shapes: B observations, K candidates, H actions in a chunk, A entries of an action, O entries
of an observation, M members, N draws of time and noise.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robopref.errors import ConfigError, DataError
from robopref.nets.encoders import make_encoder
from robopref.nets.mlp import EnsembleMLP
from robopref.nets.seeded import weights_from
from robopref.policies.chunks import ChunkPolicy, fold, score_candidates
from robopref.policies.denoising import Window
from robopref.policies.preference import PreferencePolicy
from robopref.rewards.gaussian import GaussianReward
from robopref.scores import Scores, product

DRAWS, WINDOW = 16, (0.0, 1.0)  # of an implicit reward by surrogates, unless told otherwise
Observations = Float[Tensor, "B O"]
Chunks = Float[Tensor, "B K H A"]


class CandidateScorer(Protocol):
    """What ranks candidates; an ``nn.Module``."""

    def score(self, observations: Observations, candidates: Chunks, *, generator: torch.Generator) -> Scores:
        """What every candidate is worth, (B, K)."""
        ...


class ImplicitReward(nn.Module):
    """beta [log pi(a|s) - log pi_ref(a|s)] of a preference policy, by surrogates where it has no densities.

    All candidates of a state, policy and reference are scored with the same draws. DeformPAM's code draws
    times from the lowest tenth of the noise; here they come from all levels, which the policy learned from.

    Args:
        policy: From preferences; its reference is whole and frozen.
        draws: Times and noises of an estimate, N; its error falls with the root, and is not known of one.
        window: Levels of noise that times are drawn from, 0 (the action) to 1 (noise).

    Raises:
        ConfigError: for a value that makes no sense.
    """

    def __init__(self, policy: PreferencePolicy, *, draws: int = DRAWS, window: Window = WINDOW) -> None:
        super().__init__()
        if draws < 1:
            raise ConfigError(f"draws must be at least 1, got {draws}")
        self.policy, self.draws, self.window = policy, draws, window

    @torch.no_grad()
    def score(self, observations: Observations, candidates: Chunks, *, generator: torch.Generator) -> Scores:
        """Mean over draws, and its standard error: 0 where scores are exact, NaN of a single draw."""
        actor, reference, beta = self.policy.actor, self.policy.reference, self.policy.preference.beta
        if actor.exact:
            now, before = (score_candidates(p, observations, candidates, None) for p in (actor, reference))
            none = torch.zeros_like(now)
            return Scores(beta * (now - before), none, none, none)
        batch, count = candidates.shape[:2]
        drawn = actor.draw(batch, generator=generator, draws=self.draws, window=self.window)
        shared, chunks = fold(drawn, count), candidates.flatten(0, 1)
        now, before = (p.errors(observations, chunks, shared, each=count) for p in (actor, reference))
        rewards = 0.5 * beta * (before - now)  # (N, B K)
        error = rewards.std(0) / self.draws**0.5 if self.draws > 1 else torch.full_like(rewards[0], torch.nan)
        mean, none = rewards.mean(0).reshape(batch, count), rewards.new_zeros(batch, count)
        return Scores(mean, none, none, error.reshape(batch, count))


class CandidateReward(GaussianReward):
    """A Gaussian ensemble over (observation, chunk of actions), learned from preferences of candidates.

    The loss is that of :class:`~robopref.rewards.gaussian.GaussianReward`, with a chunk as one step. Members
    share the encoder of observations where that learns (points), which makes them agree more than they
    should.

    Args:
        observation_size: Values in an observation.
        action_size: Values in an action.
        horizon: Actions in a chunk.
        encoder: What reads observations; see :func:`robopref.nets.encoders.make_encoder`.

    The other arguments are described in :class:`~robopref.rewards.gaussian.GaussianReward`.
    """

    kind = "candidates"

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        *,
        horizon: int = 1,
        encoder: Mapping[str, Any] = {"kind": "state"},
        members: int = 5,
        hidden: Sequence[int] = (128, 128),
        activation: str = "leaky_relu",
        samples: int = 4,
        entropy_margin: float = 1.0,
        entropy_weight: float = 0.1,
        objective: str | Mapping[str, Any] = "dpo",
        flip_prob: float = 0.0,
        learning_rate: float = 1e-3,
        seed: int = 0,
    ) -> None:
        if horizon < 1:
            raise ConfigError(f"horizon must be at least 1, got {horizon}")
        super().__init__(
            observation_size,
            horizon * action_size,
            members=members,
            hidden=hidden,
            activation=activation,
            bound="none",
            samples=samples,
            entropy_margin=entropy_margin,
            entropy_weight=entropy_weight,
            objective=objective,
            flip_prob=flip_prob,
            learning_rate=learning_rate,
            seed=seed,
        )
        known = inspect.signature(CandidateReward).parameters  # the base class has options of its own
        self.config = {k: v for k, v in self.config.items() if k in known}
        self.config |= {"action_size": action_size, "horizon": horizon, "encoder": dict(encoder)}
        generator = torch.Generator().manual_seed(seed)
        with weights_from(seed):
            self.encoder = make_encoder(encoder, observation_size)
        del self.normaliser  # the encoder has its own
        inputs = self.encoder.size + horizon * action_size
        self.network = EnsembleMLP(
            members, inputs, self.heads, tuple(hidden), activation, generator=generator
        )

    def _rows(
        self, observations: Float[Tensor, "N O"], actions: Float[Tensor, "N A"]
    ) -> tuple[Tensor, Tensor]:
        self._check_sizes(observations, actions)
        return self.estimate(self.network(torch.cat([self.encoder(observations), actions], -1)))

    def _check_sizes(self, observations: Tensor, actions: Tensor) -> None:
        if observations.shape[-1] != self.observation_size or actions.shape[-1] != self.action_size:
            raise DataError(
                f"This reward takes observations of {self.observation_size} and chunks of "
                f"{self.action_size} values, got {observations.shape[-1]} and {actions.shape[-1]}"
            )

    def fit_normaliser(self, observations: Float[Tensor, "N O"]) -> None:
        """Take mean and deviation of the observations; they are saved with the reward."""
        self.encoder.fit(observations)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Network and encoder."""
        moving = [*self.network.parameters(), *self.encoder.parameters()]
        return [{"params": moving, "lr": self.learning_rate}]

    @torch.no_grad()
    def doubt(
        self, observations: Observations, candidates: Chunks
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K"], Float[Tensor, "B K"]]:
        """Mean, epistemic deviation (members differ) and aleatoric deviation (labels do)."""
        batch, count = candidates.shape[:2]
        chunks = candidates.flatten(2).flatten(0, 1)
        self._check_sizes(observations, chunks)
        features = self.encoder(observations).repeat_interleave(count, 0)  # read once for all of a state
        mean, deviation = self.estimate(self.network(torch.cat([features, chunks], -1)))
        found = (mean.mean(0), mean.std(0, correction=0), deviation.square().mean(0).sqrt())
        first, epistemic, aleatoric = (values.reshape(batch, count) for values in found)
        return first, epistemic, aleatoric


class ExplicitReward(nn.Module):
    """What a :class:`CandidateReward` predicts, with both its doubts."""

    def __init__(self, reward: CandidateReward) -> None:
        super().__init__()
        self.reward = reward

    def score(self, observations: Observations, candidates: Chunks, *, generator: torch.Generator) -> Scores:
        """Nothing is drawn."""
        mean, epistemic, aleatoric = self.reward.doubt(observations, candidates)
        return Scores(mean, epistemic, aleatoric, torch.zeros_like(mean))


class ProductReward(nn.Module):
    """The product of two strengths exp(score)."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def score(self, observations: Observations, candidates: Chunks, *, generator: torch.Generator) -> Scores:
        """Sum of the scores, and roots of the sums of squared doubts."""
        return product(
            [
                part.score(observations, candidates, generator=generator)  # pyright: ignore[reportCallIssue]
                for part in (self.first, self.second)
            ]
        )


class RankedPolicy(nn.Module):
    """Samples K chunks and acts with the best of them.

    Args:
        policy: Proposes.
        scorer: Ranks; None takes the first, which is a random one.
        count: K.
        caution: k of mean - k * epistemic, the rule of :mod:`robopref.scores`.
        execute: Actions of a chunk that are carried out before the next decision; None for all.
    """

    def __init__(
        self,
        policy: ChunkPolicy,
        scorer: nn.Module | None,
        *,
        count: int,
        caution: float = 1.0,
        execute: int | None = None,
    ) -> None:
        super().__init__()
        if count < 1:
            raise ConfigError(f"The number of candidates must be at least 1, got {count}")
        if not caution >= 0:
            raise ConfigError(f"caution must not be negative, got {caution}")
        self.policy, self.scorer, self.count, self.caution = policy, scorer, count, caution
        self.execute = execute or policy.horizon

    @torch.no_grad()
    def act(
        self,
        observations: Observations,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = True,
    ) -> Float[Tensor, "B E A"]:
        """The first actions of the best candidate; without a generator, always of the same noise."""
        generator = generator or torch.Generator(observations.device).manual_seed(0)
        candidates = self.policy.sample(observations, self.count, generator=generator)
        if self.scorer is None:
            return candidates[:, 0, : self.execute]
        scores = self.scorer.score(  # pyright: ignore[reportCallIssue]  (a CandidateScorer)
            observations, candidates, generator=generator
        )
        value = scores.value(self.caution)
        known = value.isfinite()
        if not known.any(1).all():
            raise DataError("No candidate of an observation has a finite score: the scorer is broken.")
        best = value.masked_fill(~known, -torch.inf).argmax(1)  # as a robot does (deploy.selection)
        return candidates[torch.arange(len(candidates)), best, : self.execute]
