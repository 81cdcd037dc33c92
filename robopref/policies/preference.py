"""A policy learned from preferences directly: no reward model between the labels and the actions.

A segment's score is a function of the policy's own log-probabilities of its actions, mostly beta times their
sum over steps less that of a frozen reference (direct preference optimisation, Rafailov et al. 2023; of whole
trajectories, GRAPE). A diffusion or flow policy has surrogates of log-probabilities, one for each chunk of a
segment, under draws that policy, reference and all that is compared share (Diffusion-DPO, Wallace et al.
2023). Any objective of :mod:`robopref.objectives.registry` that fits turns scores and labels into a loss. The
policy starts from its reference, which cloned the data and is a whole network of its own. (DeformPAM's
published code sends the reference's features through the fine-tuned head, which is another quantity.)

Letters used in shapes: S segments, L steps of the longest, C chunks of the longest, H actions of a chunk, O
entries of an observation, A of an action, P pairs or lists, K segments in each.
"""

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, unknown_name
from robopref.objectives.audits import collapse, sampled_collapse
from robopref.objectives.description import POLICY, SURROGATE, TOKENS
from robopref.objectives.scores import all_segments, row_groups
from robopref.policies.bc import BehaviourCloning
from robopref.policies.chunks import ChunkPolicy, Draw
from robopref.policies.dataset import Rewards, TransitionSampler
from robopref.policies.denoising import Denoiser
from robopref.policies.diffusion import DiffusionPolicy
from robopref.policies.flow import FlowPolicy
from robopref.policies.gaussian import GaussianPolicy
from robopref.policies.offline import OfflinePolicy, constructor_arguments
from robopref.policies.preference_loss import BETA, Compared, PreferenceLoss, Steps, diagnose
from robopref.policies.token import StateTokenPolicy, TokenActor

# A surrogate is a mean over all entries of a chunk, so that its beta is hundreds of times a likelihood's;
# DeformPAM's 100, without the half, is this 200.
SURROGATE_BETA = 200.0
ACTORS: dict[str, type[OfflinePolicy]] = {
    "diffusion": DiffusionPolicy,
    "flow": FlowPolicy,
    "token": StateTokenPolicy,
}
SAMPLES = 4  # chunks for each observation, of which the collapse gate takes the error


class PreferencePolicy(OfflinePolicy):
    """A policy, its frozen reference, and an objective over pairs or lists of segments.

    Args:
        observation_size: Entries of an observation.
        action_size: Entries of an action.
        objective: A name of the registry, or a mapping with ``name`` and options.
        actor: What acts. None is a Gaussian of the options below; ``{"kind": "diffusion", ...}``, ``flow`` or
            ``token`` with options of :class:`~robopref.policies.diffusion.DiffusionPolicy`,
            :class:`~robopref.policies.flow.FlowPolicy` or :class:`~robopref.policies.token.StateTokenPolicy`
            takes its own instead.
        beta: Scale of the scores. None takes the objective's own, or 0.1 for a Gaussian and 200 for a
            surrogate. IPO and SPPO take it out again: their strength is ``tau``.
        reduce: ``sum`` or ``mean`` over steps; None leaves it to the objective. A sum grows with the length
            of segments, and so should 1 / beta.
        discount: gamma in (0, 1]: the score of step t counts gamma^t, as in contrastive preference learning.
        reference_power: gamma of DPO-gamma, for the objective ``dpo_gamma`` alone.
        imitation_weight: Of the preferred segment's negative log-likelihood per step, added to any objective:
            it keeps preferred actions from becoming unlikely while their lead grows.
        learn_deviation: Whether the spread of the Gaussian shall move too. Left alone, the divergence from
            the reference is |mean - mean_ref|^2 / (2 deviation^2), and no likelihood is gained by narrowing.
        goal: Whether the Gaussian takes a goal, how good its actions shall be: for ``conditional_bc`` and
            for labels that name one (``training.labels.goals``). What acts is told the best.
        hidden: Widths of the hidden layers.
        activation: Between layers; a key of :data:`robopref.nets.mlp.ACTIVATIONS`.
        deviation: Of the reference's Gaussian; None lets the cloning learn it.
        learning_rate: Step size of Adam, of the preferences.
        clone_learning_rate: Step size of Adam, of the reference.
        floor, clip: Of the :class:`~robopref.nets.normalise.Normaliser` of observations.
        seed: Of the starting weights.

    Raises:
        ConfigError: for a value that makes no sense, or an objective that does not fit; it says why.
    """

    kind = "preference"
    uses_rewards = False

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        *,
        objective: str | Mapping[str, Any] = "dpo",
        actor: Mapping[str, Any] | None = None,
        beta: float | None = None,
        reduce: str | None = None,
        discount: float = 1.0,
        reference_power: float = 0.5,
        imitation_weight: float = 0.0,
        learn_deviation: bool = False,
        goal: bool = False,
        hidden: Sequence[int] = (256, 256),
        activation: str = "relu",
        deviation: float | None = None,
        learning_rate: float = 1e-4,
        clone_learning_rate: float = 1e-3,
        floor: float = 1e-2,
        clip: float = 10.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.config = constructor_arguments(locals())
        for name in ("learning_rate", "clone_learning_rate"):
            if not 0 < self.config[name] < math.inf:
                raise ConfigError(f"{name} must be positive and finite, got {self.config[name]}")
        if goal and actor is not None:
            raise ConfigError("A goal is for the Gaussian policy (actor: null); other actors take none")
        self.actor = self.cloner().actor.requires_grad_(True)
        self.reference = copy.deepcopy(self.actor).requires_grad_(False)
        self.preference = PreferenceLoss(
            objective,
            learner_of(self.actor),
            beta=beta,
            usual_beta=BETA if self.actor.exact else SURROGATE_BETA,
            reduce=reduce,
            discount=discount,
            reference_power=reference_power,
            imitation_weight=imitation_weight,
        )
        if self.preference.objective.extra == "goal" and not goal:
            raise ConfigError(
                f"{self.preference.objective.name} tells the policy how good each behaviour was: "
                "policy.goal=true "
                "makes it listen"
            )
        self.config["objective"] = self.preference.chosen.description()
        self.learning_rate = learning_rate
        if isinstance(self.actor, GaussianPolicy):
            self.actor.log_deviation.requires_grad_(learn_deviation and deviation is None)

    # --- the reference ------------------------------------------------------------------------------------

    def select(self, store: TrajectoryStore, rewards: Rewards, device: torch.device) -> TransitionSampler:
        """Refuse: this policy learns from pairs of segments."""
        raise ConfigError(
            "This policy learns from preferences, not from rewards: give it labels (labels=sqlite:///...)"
        )

    def cloner(self) -> OfflinePolicy:
        """A policy that learns by imitation, with an actor of the same shape, for :meth:`start_from`."""
        if self.config["actor"] is not None:
            return _cloner(self.config)
        names = (
            "observation_size",
            "action_size",
            *("hidden", "activation", "deviation", "goal", "floor", "clip", "seed"),
        )
        shape = {name: self.config[name] for name in names}
        return BehaviourCloning(**shape, learning_rate=self.config["clone_learning_rate"])

    def start_from(self, policy: OfflinePolicy) -> None:
        """Take over the actor of another policy, normaliser included, as start and as reference.

        Raises:
            ConfigError: Its actor has another shape.
        """
        try:
            for mine in (self.actor, self.reference):
                mine.load_state_dict(policy.actor.state_dict())
        except RuntimeError as error:
            raise ConfigError(
                "The reference must have this policy's family, sizes, hidden layers and kind of deviation: "
                f"{str(error).splitlines()[-1].strip()}"
            ) from error

    @contextmanager
    def frozen(self) -> Iterator[ChunkPolicy]:
        """The policy as it was before its preferences."""
        with torch.no_grad():
            yield self.reference

    # --- scores -------------------------------------------------------------------------------------------

    def steps(
        self,
        observations: Float[Tensor, "S L _"],
        actions: Float[Tensor, "S L A"],
        mask: Bool[Tensor, "S L"],
        *,
        groups: Int[Tensor, " S"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Steps:
        """Score of every action, token or chunk, under the reference too, and the KL of exact ones.

        Args:
            observations, actions, mask: Segments.
            groups: Number of the pair or list that each belongs to, 0 to P - 1: those of one share their
                draws. Each has its own when not given.
            generator: Of the draws of surrogates; seed 0 when not given.
        """
        if self.actor.exact:
            return self._exact_steps(observations, actions, mask)
        observations, actions, mask = chunks_of(observations, actions, mask, self.actor.horizon)
        groups = torch.arange(len(mask), device=mask.device) if groups is None else groups
        count = mask.shape[1]
        draw = self.draw(
            (int(groups[-1]) + 1) * count, generator=generator or torch.Generator().manual_seed(0)
        )
        assert draw is not None  # of a surrogate
        rows = (groups[:, None] * count + torch.arange(count, device=groups.device)).flatten()
        draw = Draw(draw.times[:, rows], draw.noise[:, rows])
        seen, chosen, counted = (x.flatten(0, 1) for x in (observations, actions, mask))
        assert isinstance(self.actor, Denoiser)
        if self.preference.objective.extra == "inverted noise":
            draw = Draw(draw.times, self.actor.invert(seen, chosen, draw.times))
        errors, before, drift = (
            x.mean(0).reshape(mask.shape[:2])
            for x in self.actor.against(self.reference, seen, chosen, draw, counted)
        )
        return Steps(-0.5 * errors, -0.5 * before, None, mask.any(-1), drift=drift)

    def _exact_steps(
        self,
        observations: Float[Tensor, "S L _"],
        actions: Float[Tensor, "S L A"],
        mask: Bool[Tensor, "S L"],
    ) -> Steps:
        known = self.actor.against(self.reference, observations.flatten(0, 1), actions.flatten(0, 1))
        numbers = known[0].shape[1]  # of a step: one, or one for each token
        log_prob, reference, kl = (x.reshape(len(mask), -1) for x in known)
        return Steps(log_prob, reference, kl, mask.repeat_interleave(numbers, 1), numbers)

    @torch.no_grad()
    def diagnose(self, batches: Iterable[Mapping[str, Tensor]]) -> dict[str, float]:
        """Measure ``accuracy``, ``margin``, ``chosen_change`` and so on over batches of pairs or lists.

        Of a surrogate also ``sampled_error`` and ``reference_sampled_error``: how far sampled first chunks
        lie from preferred ones (mean squares).
        """
        return diagnose(self._measured, batches)

    def _measured(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        loss, logged = self.loss(batch)
        if self.exact:
            return loss, logged
        for name, policy in (("sampled_error", self.actor), ("reference_sampled_error", self.reference)):
            logged[name] = _sampled_error(policy, batch)
        return loss, logged

    def verdict(self, measured: Mapping[str, float | int]) -> dict[str, Any]:
        """Say whether the policy has collapsed, from what :meth:`diagnose` measured on its own pairs."""
        if self.exact:
            return collapse(measured["chosen_change"], measured["kl"])
        return sampled_collapse(measured["sampled_error"], measured["reference_sampled_error"])

    # --- what the training loop asks for ------------------------------------------------------------------

    def loss(
        self, batch: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The loss of pairs or lists (:class:`~robopref.policies.preference_loss.PreferenceLoss`)."""
        observations, actions, mask = all_segments(batch)
        groups = row_groups(batch)
        if self.preference.objective.extra == "roles":
            actions = torch.cat([actions, self._sampled(observations, actions, generator)])
            observations, mask = observations.repeat(2, 1, 1), mask.repeat(2, 1)
            groups = groups.repeat(2)
        steps = self.steps(observations, actions, mask, groups=groups, generator=generator)
        return self.preference(steps, batch)

    def _sampled(
        self,
        observations: Float[Tensor, "S L O"],
        actions: Float[Tensor, "S L A"],
        generator: torch.Generator | None,
    ) -> Float[Tensor, "S L A"]:
        """What the reference would have done, chunk by chunk, where these actions were taken."""
        source = generator or torch.Generator(actions.device).manual_seed(0)
        horizon, length = self.actor.horizon, actions.shape[1]
        chunks = self.reference.sample(observations[:, ::horizon].flatten(0, 1), 1, generator=source)
        return chunks.reshape(len(actions), -1, actions.shape[-1])[:, :length]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The actor, its spread only if that is to be learned; never the reference."""
        moving = [p for p in self.actor.parameters() if p.requires_grad]
        return [{"params": moving, "lr": self.learning_rate}]


def chunks_of(
    observations: Float[Tensor, "S L O"],
    actions: Float[Tensor, "S L A"],
    mask: Bool[Tensor, "S L"],
    horizon: int,
) -> tuple[Float[Tensor, "S C O"], Float[Tensor, "S C H A"], Bool[Tensor, "S C H"]]:
    """Cut segments into chunks of ``horizon`` actions, each with what was seen before its first action.

    What is missing of the last chunk is masked.
    """
    missing = -mask.shape[1] % horizon
    if missing:
        actions = torch.cat([actions, actions[:, -1:].expand(-1, missing, -1)], 1)
        mask = torch.cat([mask, mask.new_zeros(len(mask), missing)], 1)
    shape = (-1, horizon)
    return observations[:, ::horizon], actions.unflatten(1, shape), mask.unflatten(1, shape)


def _sampled_error(policy: ChunkPolicy, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean squared distance of sampled first chunks from preferred ones, always from the same noise."""
    observations, actions, mask = chunks_of(*all_segments(batch), horizon=policy.horizon)
    noise = torch.Generator(actions.device).manual_seed(0)
    sampled = policy.sample(observations[:, 0], SAMPLES, generator=noise)
    squares = (sampled - actions[:, :1]).square().mean((1, 3))
    errors = (squares * mask[:, 0]).sum(-1) / mask[:, 0].sum(-1).clamp(min=1)
    compared = Compared.of(batch)
    return (compared.good * compared.rows(errors)).sum() / compared.good.sum().clamp(min=1e-12)


def learner_of(actor: ChunkPolicy) -> str:
    """What an actor is to an objective; one of :data:`robopref.objectives.description.LEARNERS`."""
    if isinstance(actor, TokenActor):
        return TOKENS
    return POLICY if actor.exact else SURROGATE


def _cloner(config: Mapping[str, Any]) -> OfflinePolicy:
    """The policy that ``actor`` describes, to be learned by imitation."""
    options = dict(config["actor"])
    kind = options.pop("kind", None)
    if kind not in ACTORS:
        raise ConfigError(unknown_name("kind of actor", str(kind), ACTORS))
    own = {"learning_rate": config["clone_learning_rate"], "seed": config["seed"]}
    try:
        return ACTORS[kind](config["observation_size"], config["action_size"], **{**own, **options})
    except TypeError as error:
        raise ConfigError(f"The actor {dict(config['actor'])} cannot be built: {error}") from error
