"""A token policy of states: each entry of an action is one of V bins, given the state and those before.

What large vision-language-action policies do with a language model, a perceptron does here, so that
everything that needs probabilities of tokens (ORPO, unlikelihood, divergences per token) can be had on
flat observations.

Letters used in shapes: B observations or actions, O entries of an observation, A of an action, V bins, H
actions in a chunk (1).
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from robopref.errors import ConfigError
from robopref.nets.mlp import EnsembleMLP
from robopref.objectives.tokens import categorical_kl
from robopref.policies.exact import ExactActor
from robopref.policies.offline import ImitationPolicy, constructor_arguments


class TokenActor(ExactActor):
    """pi(a | s) = prod_k pi(bin of a_k | s, bins of a_1 ... a_{k-1}); the normaliser is inside.

    Args:
        observation_size: Entries of an observation, O.
        action_size: Entries of an action, A: so many tokens.
        bins: Equal parts of [-1, 1], V; an action is the centre of its bin.
        hidden: Widths of the hidden layers.
        activation: Between layers; a key of :data:`robopref.nets.mlp.ACTIVATIONS`.
        floor, clip: Of the :class:`~robopref.nets.normalise.Normaliser`.
        generator: Draws the starting weights; torch's global one when not given.

    Raises:
        ConfigError: for a value that makes no sense.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        *,
        bins: int = 32,
        hidden: Sequence[int] = (256, 256),
        activation: str = "relu",
        floor: float = 1e-2,
        clip: float = 10.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(observation_size, action_size, floor=floor, clip=clip)
        if bins < 2:
            raise ConfigError(f"Sizes must be at least 1 and bins at least 2, got {bins=}")
        self.bins = bins
        inputs = observation_size + 2 * action_size  # the state, the entries before, and which one is asked
        self.network = EnsembleMLP(1, inputs, bins, tuple(hidden), activation, generator=generator)

    # --- tokens -------------------------------------------------------------------------------------------

    def encode(self, actions: Float[Tensor, "*B"]) -> Int[Tensor, "*B"]:
        """The bin of each entry; what lies outside [-1, 1] goes to the outermost."""
        return ((actions + 1) * (self.bins / 2)).long().clamp(0, self.bins - 1)

    def decode(self, tokens: Int[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """The centre of each bin."""
        return (2 * tokens + 1) / self.bins - 1

    def logits(self, states: Float[Tensor, "B O"], tokens: Int[Tensor, "B A"]) -> Float[Tensor, "B A V"]:
        """Logits of every token given the normalised state and the tokens before it."""
        size = self.action_size
        which = torch.eye(size, device=states.device, dtype=states.dtype)
        before = self.decode(tokens).to(states.dtype)[:, None] * torch.ones_like(which).tril(-1)
        rows = torch.cat(
            [states[:, None].expand(-1, size, -1), before, which.expand(len(states), -1, -1)], -1
        )
        return self.network(rows.flatten(0, 1))[0].unflatten(0, (-1, size))

    def against(
        self, reference: "TokenActor", observations: Float[Tensor, "B O"], actions: Float[Tensor, "B A"]
    ) -> tuple[Float[Tensor, "B A"], Float[Tensor, "B A"], Float[Tensor, "B A"]]:
        """Log-probability of every token, the same under a frozen reference, and KL(reference || this)."""
        tokens, states = self.encode(actions), self.normaliser(observations)
        logits = self.logits(states, tokens)
        with torch.no_grad():
            before = reference.logits(states, tokens)
        return (
            _token_log_probs(logits, tokens),
            _token_log_probs(before, tokens),
            categorical_kl(before, logits),
        )

    # --- acting and scoring -------------------------------------------------------------------------------

    @torch.no_grad()
    def act(
        self,
        observations: Float[Tensor, "B O"],
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = True,
    ) -> Float[Tensor, "B 1 A"]:
        """The likeliest tokens, one after the other, or drawn ones; a chunk of one action.

        Raises:
            DataError: The observations have another width, or hold NaN or infinity.
        """
        states = self.normaliser(self.checked(observations))
        tokens = torch.zeros(len(states), self.action_size, dtype=torch.long, device=states.device)
        for entry in range(self.action_size):
            logits = self.logits(states, tokens)[:, entry]
            if deterministic:
                tokens[:, entry] = logits.argmax(-1)
            else:
                tokens[:, entry] = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
        return self.decode(tokens).to(states.dtype).unsqueeze(1)

    def log_probs(
        self, observations: Float[Tensor, "B O"], actions: Float[Tensor, "B H A"]
    ) -> Float[Tensor, "B H"]:
        """Log-probability of the bins that the actions fall into."""
        tokens = self.encode(actions[:, 0])
        logits = self.logits(self.normaliser(observations), tokens)
        return _token_log_probs(logits, tokens).sum(-1, keepdim=True)


def _token_log_probs(logits: Float[Tensor, "B A V"], tokens: Int[Tensor, "B A"]) -> Float[Tensor, "B A"]:
    """Log-probability of every token, in nats."""
    return -F.cross_entropy(logits.transpose(1, 2), tokens, reduction="none")


class StateTokenPolicy(ImitationPolicy):
    """A token policy learned by imitation: maximum likelihood of the bins of the recorded actions.

    Args:
        observation_size: Entries of an observation.
        action_size: Entries of an action.
        bins: Equal parts of [-1, 1], of each entry.
        hidden: Widths of the hidden layers.
        activation: Between layers; a key of :data:`robopref.nets.mlp.ACTIVATIONS`.
        learning_rate: Step size of Adam.
        floor, clip: Of the :class:`~robopref.nets.normalise.Normaliser` of observations.
        seed: Of the starting weights.

    Raises:
        ConfigError: for a value that makes no sense.
    """

    kind = "token"

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        *,
        bins: int = 32,
        hidden: Sequence[int] = (256, 256),
        activation: str = "relu",
        learning_rate: float = 1e-3,
        floor: float = 1e-2,
        clip: float = 10.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.config = constructor_arguments(locals())
        self.imitate(learning_rate=learning_rate)
        self.actor = TokenActor(
            observation_size,
            action_size,
            bins=bins,
            hidden=hidden,
            activation=activation,
            floor=floor,
            clip=clip,
            generator=torch.Generator().manual_seed(seed),
        )

    def loss(
        self, batch: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Mean negative log-likelihood per token; nothing is drawn."""
        tokens = self.actor.encode(batch["actions"])
        logits = self.actor.logits(self.actor.normaliser(batch["observations"]), tokens)
        loss = F.cross_entropy(logits.transpose(1, 2), tokens)
        with torch.no_grad():
            error = self.actor.decode(logits.argmax(-1)) - batch["actions"]
        return loss, {"squared_error": error.square().mean()}
