"""What an objective says of itself: what it takes, what a score is to it, and whom it can train.

Nothing here imports torch: a function is named, and imported when it is first called.
"""

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from robopref.errors import ConfigError, unknown_name

LABELS = {
    "soft pairs": "(score_a, score_b, labels): chance in [0, 1] that the first is better",
    "hard pairs": "(score_a, score_b, labels): 1 or 0, without ties; equal weights",
    "lists": "(scores, labels, mask): grades of any scale, best highest",
    "up/down": "(scores, labels): chance in [0, 1] that the behaviour is good",
    "rewards": "(log-likelihoods, rewards or advantages): thumbs, or how far a segment was preferred",
    "per-token": "(score_a, score_b, labels, ...): soft pairs with one KL or gate per token",
    "none": "no label: the contrast is built from contexts",
}
SCORES = {
    "sum": "beta times the log-ratio summed over steps, or a return",
    "mean": "beta times the log-ratio averaged over steps, or a return",
    "power": "beta times the summed log-ratio with the reference to the power gamma",
    "likelihood": "log-likelihood summed over steps, no reference",
    "mean likelihood": "log-likelihood averaged over steps, no reference",
    "error": "squared errors of policy and reference, summed over chunks",
    "mean error": "squared errors of policy and reference, averaged over chunks",
}
EXTRAS = {
    "": "nothing but scores and labels",
    "imitation": "the imitation loss of both members",
    "kl": "the summed KL to the reference of both members",
    "reference margin": "the reference's own margin of each pair",
    "demonstration": "a third behaviour, the demonstration",
    "roles": "samples of the reference, beside what was demonstrated",
    "steps": "log-ratios, KL and gates of every step or token",
    "contexts": "scores under other contexts",
    "goal": "what it is told: how good the behaviour was",
    "rewards": "a reward or an advantage",
    "errors": "errors of velocity or noise",
    "inverted noise": "errors at the noise that the policy itself would have begun from",
}
REWARD, POLICY, SURROGATE = "reward model", "Gaussian policy", "diffusion or flow policy"
TOKENS = "token policy"
LEARNERS = (REWARD, POLICY, SURROGATE, TOKENS)
FED = {  # the extras that a learner's training provides
    REWARD: ("",),
    POLICY: ("", "imitation", "kl", "steps", "reference margin", "demonstration", "goal", "rewards"),
    SURROGATE: (
        *("", "imitation", "reference margin", "demonstration", "rewards"),
        *("errors", "inverted noise", "roles"),
    ),
    TOKENS: ("", "imitation", "kl", "steps", "reference margin", "demonstration", "rewards"),
}
SINGLE = ("up/down", "rewards")  # labels of single behaviours; of a pair, both members have one


@dataclass(frozen=True)
class Objective:
    """One objective: a pure function with its description.

    Attributes:
        name: What a config says.
        function: Pure function of scores and labels that returns one loss per example; or its name, such as
            ``pairs.ipo``, below ``robopref.objectives``.
        labels: A key of ``LABELS``.
        needs_reference: Whether its scores compare with a frozen reference when the model is a policy. A
            reward model never needs one.
        score: A key of ``SCORES``: which adapter of :mod:`robopref.objectives.scores` to use.
        equation: The loss of a preferred w over l, as one line of text.
        source: Paper or code.
        per_pair: Whether an entry of the result belongs to a pair, and so may be weighed.
        extra: A key of ``EXTRAS``: what it takes beside scores and labels.
        scales: Whether the function multiplies by its own ``beta``, so that scores come to it unscaled.
        tokens_only: Whether it needs probabilities, which a density of continuous actions is not.
        policy_only: Why a reward model has no use for it; empty if it has.
    """

    name: str
    function: Callable[..., Any] | str
    labels: str
    needs_reference: bool
    score: str
    equation: str
    source: str
    per_pair: bool = True
    extra: str = ""
    scales: bool = False
    tokens_only: bool = False
    policy_only: str = ""

    def __post_init__(self):
        """Refuse kinds of labels, scores and extras that do not exist."""
        for what, value, known in (
            ("kind of labels", self.labels, LABELS),
            ("score", self.score, SCORES),
            ("extra", self.extra, EXTRAS),
        ):
            if value not in known:
                raise ConfigError(unknown_name(what, value, known))

    @property
    def loss(self) -> Callable[..., Any]:
        """The function itself."""
        if not isinstance(self.function, str):
            return self.function
        module, name = self.function.rsplit(".", 1)
        return getattr(importlib.import_module(f"robopref.objectives.{module}"), name)

    def __call__(self, *inputs: Any, weights: Any = None, reduction: str = "mean", **options: Any) -> Any:
        """Loss of a batch of tensors, weighed and reduced; ``options`` go to the function.

        Raises:
            ConfigError: Weights are given to a loss that sorts the batch.
        """
        from robopref.objectives.reduction import reduce_losses

        if weights is not None and not self.per_pair:
            raise ConfigError(f"{self.name} compares sorted batches, so weights per pair mean nothing to it.")
        return reduce_losses(self.loss(*inputs, **options), weights, reduction)

    def options(self) -> dict[str, Any]:
        """Its options with their defaults; what a learner estimates (a baseline, say) is none of them."""
        parameters = inspect.signature(self.loss).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not None}

    def refusal(self, learner: str) -> str:
        """Say why a learner (one of ``LEARNERS``) cannot be trained with it; empty if it can."""
        if self.tokens_only and learner != TOKENS:
            return "it needs probabilities of tokens; a density of continuous actions is none"
        if "error" in self.score and learner != SURROGATE:
            return "it takes errors of noise or velocities, which only diffusion and flow policies have"
        if learner == REWARD and "likelihood" in self.score:
            return "its scores are log-likelihoods of a policy"
        if learner == SURROGATE and self.labels == "per-token":
            return "it needs a number for each token; a chunk of a diffusion or flow policy has one"
        known = ("soft pairs", "hard pairs", "lists", "up/down")
        if self.labels not in (known if learner == REWARD else (*known, "rewards", "per-token")):
            return f"it learns from {self.labels} and not from what was preferred"
        if learner == REWARD and self.policy_only:
            return self.policy_only
        if self.extra not in FED[learner]:
            return f"it also takes {EXTRAS[self.extra]}"
        return ""
