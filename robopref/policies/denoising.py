"""What diffusion and flow policies share: they take noise out of a chunk of actions, step by step.

A family says where on its path from action to noise a chunk lies at a time (:meth:`Denoiser.path`) and how it
comes back from noise (:meth:`Denoiser.generate`). The score of a given chunk is -1/2 times the mean squared
error of what the network predicts, averaged over the times and the noise of a draw, all times weighing alike
(Wallace et al. 2023, "Diffusion Model Alignment Using Direct Preference Optimization"). It is no
log-probability; only differences of scores with the same draw mean anything.

Letters used in shapes: B observations, O their entries, K chunks for each of them, H actions in a chunk, E
those that are executed, A entries of an action, N draws of time and noise, C features of an observation.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, DataError
from robopref.nets.denoisers import make_denoiser
from robopref.nets.encoders import make_encoder
from robopref.nets.seeded import weights_from
from robopref.objectives.scores import draw as draw_stratified
from robopref.policies.chunks import Draw, check_chunks, check_observations
from robopref.policies.dataset import ChunkSampler, Rewards, chunk_tensors
from robopref.policies.offline import ImitationPolicy, constructor_arguments

Window = tuple[float, float]


class Denoiser(nn.Module, ABC):
    """An encoder of observations and a network that denoises chunks of actions; the normaliser is inside.

    Args:
        observation_size: Entries of an observation, O.
        action_size: Entries of an action, A.
        horizon: Actions in a chunk, H.
        execute: How many of them :meth:`act` hands out before the next decision; None for all.
        encoder: What reads observations; see :func:`robopref.nets.encoders.make_encoder`.
        backbone: What denoises; see :func:`robopref.nets.denoisers.make_denoiser`.
        sample_steps: Steps from noise to a chunk.
        draws: Times and noises that a score averages over, N.
        seed: Of the starting weights.

    Raises:
        ConfigError: for a value that makes no sense.
    """

    exact = False

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        *,
        horizon: int,
        execute: int | None,
        encoder: Mapping[str, Any],
        backbone: Mapping[str, Any],
        sample_steps: int,
        draws: int,
        seed: int,
    ) -> None:
        super().__init__()
        for name, value in (
            ("observation_size", observation_size),
            ("action_size", action_size),
            ("horizon", horizon),
            ("sample_steps", sample_steps),
            ("draws", draws),
        ):
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        if execute is not None and not 1 <= execute <= horizon:
            raise ConfigError(f"execute must lie in 1..horizon ({horizon}), or be null, got {execute}")
        self.observation_size, self.action_size, self.horizon = observation_size, action_size, horizon
        self.execute = execute or horizon
        self.sample_steps, self.draws = sample_steps, draws
        with weights_from(seed):
            self.encoder = make_encoder(encoder, observation_size)
            self.network = make_denoiser(backbone, horizon, action_size, self.encoder.size)

    # --- what a family supplies ---------------------------------------------------------------------------

    @abstractmethod
    def times(self, levels: Float[Tensor, "N B"]) -> Float[Tensor, "N B"]:
        """The family's own time at a level of noise, from 0 (the action) to 1 (noise)."""

    @abstractmethod
    def path(
        self, actions: Float[Tensor, "N B H A"], draw: Draw
    ) -> tuple[Float[Tensor, "N B H A"], Float[Tensor, "N B"], Float[Tensor, "N B H A"]]:
        """The noisy chunks of a draw, the times that the network is told, and what it shall predict."""

    @abstractmethod
    def invert(
        self,
        observations: Float[Tensor, "B O"],
        actions: Float[Tensor, "B H A"],
        times: Float[Tensor, "N B"],
    ) -> Float[Tensor, "N B H A"]:
        """The noise with which :meth:`path` leads to where sampling would have come from, at these times.

        The sampler is followed back from the action in ``sample_steps`` steps (InPO, 2025); no gradients.
        """

    @abstractmethod
    def generate(
        self,
        condition: Float[Tensor, "B C"],
        noise: Float[Tensor, "B H A"],
        generator: torch.Generator | None,
    ) -> Float[Tensor, "B H A"]:
        """Chunks from noise, in ``sample_steps`` steps."""

    # --- acting -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(
        self,
        observations: Float[Tensor, "B O"],
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = True,
    ) -> Float[Tensor, "B E A"]:
        """The first ``execute`` actions of one sample; without a generator, always of the same noise.

        There is no best action of such a policy, so ``deterministic`` changes nothing.
        """
        generator = generator or torch.Generator(observations.device).manual_seed(0)
        return self.sample(observations, 1, generator=generator)[:, 0, : self.execute]

    @torch.no_grad()
    def sample(
        self,
        observations: Float[Tensor, "B O"],
        count: int,
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "B K H A"]:
        """So many chunks in [-1, 1] for each observation, from independent noise.

        Raises:
            ConfigError: ``count`` is below 1.
            DataError: The observations have another width, or hold NaN or infinity.
        """
        if count < 1:
            raise ConfigError(f"The number of samples must be at least 1, got {count}")
        check_observations(self.observation_size, observations)
        condition = self._condition(observations).repeat_interleave(count, 0)
        shape = (len(condition), self.horizon, self.action_size)
        device = observations.device if generator is None else generator.device
        noise = torch.randn(shape, generator=generator, device=device).to(condition)
        chunks = self.generate(condition, noise, generator).clamp(-1, 1)
        return chunks.unflatten(0, (len(observations), count))

    # --- scores -------------------------------------------------------------------------------------------

    def draw(
        self,
        batch_size: int,
        *,
        generator: torch.Generator,
        draws: int | None = None,
        window: Window = (0.0, 1.0),
    ) -> Draw:
        """Times and noise of so many scores, where this policy lies.

        Args:
            batch_size: B.
            generator: Source of randomness; may live on another device.
            draws: N; None for the policy's own.
            window: Levels of noise that times are drawn from, between 0 (the action) and 1 (noise).
        """
        low, high = window
        if not 0 <= low < high <= 1:
            raise ConfigError(f"window must be two levels of noise, 0 <= low < high <= 1, got {window}")
        like = next(self.parameters()).new_empty(batch_size, self.horizon, self.action_size)
        drawn = draw_stratified(like, self.draws if draws is None else draws, generator)
        return Draw(self.times(low + (high - low) * drawn.times), drawn.noise)

    def score(
        self,
        observations: Float[Tensor, "B O"],
        actions: Float[Tensor, "B H A"],
        draw: Draw | None = None,
        mask: Bool[Tensor, "B H"] | None = None,
    ) -> Float[Tensor, " B"]:
        """-1/2 times the mean squared error of the predictions, averaged over the draw; differentiable.

        Raises:
            DataError: No draw, one of another batch, or shapes that do not fit.
        """
        check_observations(self.observation_size, observations)
        return -0.5 * self.errors(observations, actions, draw, mask).mean(0)

    def errors(
        self,
        observations: Float[Tensor, "S O"],
        actions: Float[Tensor, "B H A"],
        draw: Draw | None,
        mask: Bool[Tensor, "B H"] | None = None,
        *,
        each: int = 1,
    ) -> Float[Tensor, "N B"]:
        """Mean squared error over the entries that count, for every draw; values are taken on trust.

        An observation is read once for ``each`` chunks of it, which lie beside each other: B is S * each.
        """
        check_chunks(self, observations, actions[::each])
        if draw is None:
            raise DataError("A diffusion or flow policy scores under a draw of times and noise: see draw()")
        if draw.noise.shape[1:] != actions.shape:
            raise DataError(
                f"The draw is for chunks {tuple(draw.noise.shape[1:])}, these are {tuple(actions.shape)}"
            )
        condition = self._condition(observations).repeat_interleave(each, 0)
        predicted, wanted = self._predict(condition, actions, draw)
        return _mean_square(predicted - wanted, mask)

    def against(
        self,
        reference: "Denoiser",
        observations: Float[Tensor, "B O"],
        actions: Float[Tensor, "B H A"],
        draw: Draw,
        mask: Bool[Tensor, "B H"] | None = None,
    ) -> tuple[Float[Tensor, "N B"], Float[Tensor, "N B"], Float[Tensor, "N B"]]:
        """Errors of every draw, the reference's, and how far the two predictions lie apart (mean squares).

        Raises:
            DataError: Shapes do not fit, or values are not finite.
        """
        check_observations(self.observation_size, observations)
        check_chunks(self, observations, actions)
        with torch.no_grad():
            before, _ = reference._predict(reference._condition(observations), actions, draw)
        now, wanted = self._predict(self._condition(observations), actions, draw)
        errors, frozen = _mean_square(now - wanted, mask), _mean_square(before - wanted, mask)
        return errors, frozen, _mean_square(now - before, mask)

    def _predict(
        self, condition: Float[Tensor, "B C"], actions: Float[Tensor, "B H A"], draw: Draw
    ) -> tuple[Float[Tensor, "N B H A"], Float[Tensor, "N B H A"]]:
        """What the network predicts under every draw, and what it shall predict."""
        noisy, times, wanted = self.path(actions.to(condition).expand_as(draw.noise), draw)
        return self._at(noisy, times, condition), wanted

    def _at(
        self, noisy: Float[Tensor, "N B H A"], times: Float[Tensor, "N B"], condition: Float[Tensor, "B C"]
    ) -> Float[Tensor, "N B H A"]:
        """The network's prediction at these points and times."""
        count = len(times)
        predicted = self.network(
            noisy.flatten(0, 1), times.flatten(), condition.expand(count, -1, -1).flatten(0, 1)
        )
        return predicted.unflatten(0, (count, -1))

    def _condition(self, observations: Tensor) -> Float[Tensor, "B C"]:
        return self.encoder(observations.to(self.encoder.normaliser.mean.dtype))


def _mean_square(
    difference: Float[Tensor, "N B H A"], mask: Bool[Tensor, "B H"] | None
) -> Float[Tensor, "N B"]:
    squares = difference.square().mean(-1)
    if mask is None:
        return squares.mean(-1)
    return (squares * mask).sum(-1) / mask.sum(-1).clamp(min=1)


class DenoisingPolicy(ImitationPolicy):
    """A denoiser learned from stored episodes; what acts is the running average of what is trained.

    Args of subclasses, beside those of :class:`Denoiser`:
        learning_rate: Step size of Adam.
        average: Share of the average that stays at each step, at most (diffusers' ``EMAModel``, with its
            warm-up); 0 for none, then what is trained acts.
        top_fraction: Share of the episodes to learn from, the best by the sum of their rewards.
    """

    actor: Denoiser
    average_steps: Tensor

    def _build(self, kind: type[Denoiser], arguments: Mapping[str, Any]) -> None:
        """Keep a constructor's ``locals()``, of which those that say nothing of learning make what acts."""
        self.config = constructor_arguments(arguments)
        learning = {name: self.config[name] for name in ("learning_rate", "average", "top_fraction")}
        actor = kind(**{name: value for name, value in self.config.items() if name not in learning})
        average = learning.pop("average")
        if not 0 <= average < 1:
            raise ConfigError(f"average must lie in [0, 1), got {average}")
        self.imitate(**learning)
        self.actor = actor.requires_grad_(False) if average else actor
        self.trained = copy.deepcopy(actor).requires_grad_(True) if average else None
        self.register_buffer("average_steps", torch.tensor(0))
        self.average = average
        self._averaging: Any = None

    def fit_normaliser(self, observations: Float[Tensor, "B O"]) -> None:
        """Take the observations' mean and deviation, for what acts and for what is trained."""
        for denoiser in (self.actor, self.trained):
            if denoiser is not None:
                denoiser.encoder.fit(observations.to(denoiser.encoder.normaliser.mean.device))

    def select(self, store: TrajectoryStore, rewards: Rewards, device: torch.device) -> ChunkSampler:
        """Chunks of the best episodes."""
        rewards = rewards if self.uses_rewards else None
        return chunk_tensors(
            store, rewards, horizon=self.horizon, device=device, top_fraction=self.top_fraction
        )

    def loss(
        self, batch: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Mean squared error of one prediction for every chunk, at a time and noise of its own."""
        learner = self.actor if self.trained is None else self.trained
        source = generator or torch.Generator(batch["actions"].device).manual_seed(0)
        draw = learner.draw(len(batch["actions"]), generator=source, draws=1)
        loss = learner.errors(batch["observations"], batch["actions"], draw, batch["mask"]).mean()
        return loss, {"denoising_error": loss.detach()}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What is trained, not its average."""
        learner = self.actor if self.trained is None else self.trained
        return [{"params": list(learner.parameters()), "lr": self.learning_rate}]

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the average towards what was just trained."""
        if self.trained is None:
            return
        if self._averaging is None:
            self._averaging = averaging(self.trained, self.average)
        self._averaging.shadow_params = list(self.actor.parameters())
        self._averaging.optimization_step = int(self.average_steps)
        self._averaging.step(self.trained.parameters())
        self.average_steps += 1

    def __getstate__(self) -> dict[str, Any]:
        """Leave out diffusers' helper, which is made again when it is needed."""
        return {**super().__getstate__(), "_averaging": None}


def averaging(module: nn.Module, decay: float) -> Any:
    """diffusers' exponential moving average of a module's parameters.

    Raises:
        ImportError: diffusers is not installed; says what to install.
    """
    try:
        from diffusers.training_utils import EMAModel
    except ImportError as error:
        raise ImportError(MISSING) from error
    return EMAModel(
        module.parameters(), decay=decay, use_ema_warmup=True, inv_gamma=1.0, power=0.75, foreach=True
    )


MISSING = "Diffusion and flow policies need diffusers: pip install 'robopref[diffusion]'"
