"""robomimic 0.3.0's algorithms as policies of ours: its networks and losses, our data, loop and file format.

The networks are robomimic's own, made by its ``algo_factory``; losses are computed by its own functions and
summed, which equals its separate optimisers as their parameters are disjoint. A recurrent policy is open-loop
(robomimic's ``rnn.open_loop``): it is told the observation once and answers with a chunk.

robomimic's checkpoints are pickles. :func:`read_checkpoint` reads those that hold tensors and plain values
alone, which is what robomimic writes unless it normalises observations; nothing in them is executed.

Letters used in shapes: B observations or transitions, O entries of an observation, A of an action, H actions
in a chunk, K chunks for each observation.
"""

import contextlib
import io
import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, DataError, unknown_name
from robopref.nets.seeded import weights_from
from robopref.policies.dataset import Rewards, TransitionSampler, chunk_tensors, transition_tensors
from robopref.policies.exact import ExactActor
from robopref.policies.offline import OfflinePolicy, constructor_arguments

ALGORITHMS = {
    "bc_gaussian": ("bc", {"gaussian": {"enabled": True}}),
    "bc_gmm": ("bc", {"gmm": {"enabled": True}}),
    "bc_rnn_gmm": ("bc", {"gmm": {"enabled": True}, "rnn": {"enabled": True, "open_loop": True}}),
    "iql": ("iql", {}),
}
"""Our name, robomimic's, and what it sets. Those of 0.3.0 that need alternating updates (TD3-BC, CQL, BCQ) or
have no density (plain BC) are not offered."""


class RobomimicPolicy(OfflinePolicy):
    """One of robomimic's algorithms.

    Args:
        observation_size: Entries of an observation.
        action_size: Entries of an action.
        algorithm: A key of :data:`ALGORITHMS`.
        keys: What robomimic calls the parts of an observation, with their sizes, in order; None for ``flat``.
        hidden: Widths of the hidden layers; in a recurrent policy, of those before it.
        horizon: Actions in a chunk of a recurrent policy, H; others act once.
        discount: For each step; of ``iql``.
        settings: Further settings of robomimic's ``algo`` section, over its own defaults.
        learning_rate: Step size of Adam.
        floor, clip: Of the :class:`~robopref.nets.normalise.Normaliser` of observations.
        seed: Of the starting weights.

    Raises:
        ConfigError: A value makes no sense, or robomimic knows no such setting.
        ImportError: A package is missing; the message says which extra to install.
    """

    kind = "robomimic"

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        *,
        algorithm: str,
        keys: Mapping[str, int] | None = None,
        hidden: Sequence[int] = (256, 256),
        horizon: int = 10,
        discount: float = 0.97,
        settings: Mapping[str, Any] | None = None,
        learning_rate: float = 1e-3,
        floor: float = 1e-2,
        clip: float = 10.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.config = constructor_arguments(locals())
        if algorithm not in ALGORITHMS:
            raise ConfigError(unknown_name("algorithm of robomimic", algorithm, ALGORITHMS))
        if horizon < 1:
            raise ConfigError(f"horizon must be at least 1, got {horizon}")
        if not learning_rate > 0:
            raise ConfigError(f"learning_rate must be positive, got {learning_rate}")
        keys = dict(keys or {"flat": observation_size})
        if sum(keys.values()) != observation_size:
            raise ConfigError(f"An observation has {observation_size} entries, its keys {keys}")
        name, preset = ALGORITHMS[algorithm]
        wanted: dict[str, Any] = {"actor_layer_dims": list(hidden)}
        if name == "iql":
            wanted = {"discount": discount}
            wanted |= {part: {"layer_dims": list(hidden)} for part in ("actor", "critic")}
        elif algorithm == "bc_rnn_gmm":
            wanted["rnn"] = {"horizon": horizon}
        self.algorithm, self.learning_rate = algorithm, learning_rate
        self.uses_rewards = algorithm == "iql"
        with weights_from(seed):
            self._upstream = _upstream(name, keys, action_size, [preset, wanted, settings or {}])
        chunk = horizon if algorithm == "bc_rnn_gmm" else 1
        self.actor = _Actor(self._upstream.nets, keys, action_size, horizon=chunk, floor=floor, clip=clip)

    def select(self, store: TrajectoryStore, rewards: Rewards, device: torch.device) -> TransitionSampler:
        """All transitions, or chunks for a recurrent policy."""
        if self.algorithm == "bc_rnn_gmm":
            return chunk_tensors(store, None, horizon=self.horizon, device=device)
        if self.uses_rewards:
            return transition_tensors(store, rewards, device=device, standardise="scale")
        return transition_tensors(store, None, device=device)

    def loss(
        self, batch: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """robomimic's own loss, or the sum of its losses; nothing is drawn."""
        if self.algorithm != "iql":
            actions = batch["actions"].reshape(len(batch["observations"]), self.horizon, -1)
            scores = self.actor.score(batch["observations"], actions, mask=batch.get("mask"))
            counted = batch["mask"].sum() if "mask" in batch else len(scores)
            loss = -scores.sum() / counted
            return loss, {"negative_log_likelihood": loss.detach()}
        inputs = {
            "obs": self.actor.named(batch["observations"]),
            "next_obs": self.actor.named(batch["next_observations"]),
            "goal_obs": None,
            "actions": batch["actions"],
            "rewards": batch["rewards"],
            "dones": batch["terminals"],
        }
        critic_losses, value_loss, seen = self._upstream._compute_critic_loss(inputs)
        actor_loss, _ = self._upstream._compute_actor_loss(inputs, seen)
        critic_loss = torch.stack(critic_losses).sum()
        logged = {"value_loss": value_loss, "critic_loss": critic_loss, "actor_loss": actor_loss}
        total = value_loss + critic_loss + actor_loss
        return total, {name: value.detach() for name, value in logged.items()}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """All networks but the target."""
        parts = [part for name, part in self.actor.nets.items() if name != "critic_target"]
        return [{"params": [p for part in parts for p in part.parameters()], "lr": self.learning_rate}]

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the target critics towards the critics."""
        if self.algorithm == "iql":
            share = self._upstream.algo_config.target_tau
            old, new = self.actor.nets["critic_target"], self.actor.nets["critic"]
            for target, source in zip(old.parameters(), new.parameters(), strict=True):
                target.lerp_(source, share)


class _Actor(ExactActor):
    """What acts, with robomimic's networks."""

    def __init__(
        self,
        nets: nn.ModuleDict,
        keys: dict[str, int],
        action_size: int,
        *,
        horizon: int,
        floor: float,
        clip: float,
    ) -> None:
        super().__init__(sum(keys.values()), action_size, horizon=horizon, floor=floor, clip=clip)
        self.nets, self.keys = nets, keys

    def named(self, observations: Float[Tensor, "B O"]) -> dict[str, Tensor]:
        """Normalised observations by robomimic's names."""
        parts = self.normaliser(observations).split(list(self.keys.values()), dim=-1)
        return dict(zip(self.keys, parts, strict=True))

    def _densities(self, observations: Float[Tensor, "B O"]) -> Any:
        """Distribution of the actions, of shape (B,), or (B, H) of a chunk."""
        seen = self.named(observations)
        if self.horizon > 1:
            seen = {name: part[:, None].expand(-1, self.horizon, -1) for name, part in seen.items()}
        network: Any = self.nets["actor" if "actor" in self.nets else "policy"]
        return network.forward_train(obs_dict=seen)

    def act(
        self,
        observations: Float[Tensor, "B O"],
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = True,
    ) -> Float[Tensor, "B H A"]:
        """The mean of the likeliest component, or a draw."""
        if not deterministic:
            return self.sample(observations, 1, generator=generator)[:, 0]
        density = self._densities(self.checked(observations))
        if isinstance(density, torch.distributions.MixtureSameFamily):
            likeliest = density.mixture_distribution.logits.argmax(-1)
            means = density.component_distribution.mean
            where = likeliest[..., None, None].expand(*likeliest.shape, 1, self.action_size)
            actions = means.gather(-2, where).squeeze(-2)
        else:
            actions = density.mean
        return actions.reshape(len(observations), self.horizon, self.action_size).clamp(-1, 1)

    def sample(
        self, observations: Float[Tensor, "B O"], count: int, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "B K H A"]:
        """Draw chunks."""
        seed = int(torch.randint(2**62, (1,), generator=generator, device=_device_of(generator)))
        density = self._densities(self.checked(observations))
        on_gpu = [observations.device] if observations.is_cuda else []
        with torch.random.fork_rng(devices=on_gpu):  # torch's distributions take no generator
            torch.manual_seed(seed)
            drawn = density.sample(torch.Size([count]))
        shape = (count, len(observations), self.horizon, self.action_size)
        return drawn.reshape(shape).transpose(0, 1).clamp(-1, 1)

    def log_probs(
        self, observations: Float[Tensor, "B O"], actions: Float[Tensor, "B H A"]
    ) -> Float[Tensor, "B H"]:
        """Log-probability of each action of chunks."""
        found = self._densities(observations).log_prob(actions if self.horizon > 1 else actions[:, 0])
        return found.reshape(len(observations), self.horizon)


def _device_of(generator: torch.Generator | None) -> torch.device:
    return torch.device("cpu") if generator is None else generator.device


def _upstream(name: str, keys: Mapping[str, int], action_size: int, settings: list[Mapping[str, Any]]) -> Any:
    """Make robomimic's algorithm; only its networks and its losses are used."""
    try:
        from robomimic.algo import algo_factory
        from robomimic.config import config_factory
        from robomimic.utils import obs_utils
    except ModuleNotFoundError as error:
        raise ImportError(
            f"robomimic's algorithms need {error.name}: pip install 'robopref[robomimic]'"
        ) from error
    config = config_factory(name)
    with config.unlocked():
        for part in settings:
            _update(config.algo, part, "algo")
        config.observation.modalities.obs.low_dim = list(keys)
        for modality in ("rgb", "depth", "scan"):
            config.observation.modalities.obs[modality] = []
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it was told
        obs_utils.initialize_obs_utils_with_config(config)
    shapes = {key: [size] for key, size in keys.items()}
    return algo_factory(name, config, shapes, action_size, torch.device("cpu"))


def _update(config: Any, settings: Mapping[str, Any], where: str) -> None:
    for name, value in settings.items():
        if name not in config:
            raise ConfigError(unknown_name(f"setting in robomimic's {where}", name, list(config.keys())))
        if isinstance(value, Mapping):
            _update(config[name], value, f"{where}.{name}")
        else:
            config[name] = value


def read_checkpoint(path: Path | str, keys: Mapping[str, int]) -> RobomimicPolicy:
    """Read a policy from a checkpoint (.pth) that robomimic 0.3.0 wrote; save it with ``save_policy``.

    Args:
        path: The checkpoint.
        keys: The observations it was trained on, as they stand in our vector, with their sizes.

    Raises:
        DataError: The file holds more than tensors and plain values, is none of robomimic's, or was made by
            an algorithm or for observations that do not fit.
    """
    path = Path(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError(f"There is no checkpoint {path}.") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise DataError(
            f"{path} is no checkpoint that can be read safely: it is damaged, or holds objects beside "
            "tensors and plain values (as robomimic writes with hdf5_normalize_obs=true), which would have "
            "to be executed."
        ) from error
    lacking = {"model", "config", "algo_name", "shape_metadata"} - set(
        found if isinstance(found, dict) else ()
    )
    if lacking:
        raise DataError(f"{path} is no checkpoint of robomimic: it lacks {', '.join(sorted(lacking))}.")
    try:
        policy = _described(found, keys, path)
    except (DataError, ConfigError):
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DataError(
            f"{path} is damaged: its config or shape_metadata describes no policy ({error!r})."
        ) from error
    try:
        policy.actor.nets.load_state_dict(found["model"])
    except RuntimeError as error:
        raise DataError(
            f"{path} does not fit the networks that its own settings describe: {error}"
        ) from error
    return policy.eval()


def _described(found: Mapping[str, Any], keys: Mapping[str, int], path: Path) -> RobomimicPolicy:
    """Make the policy that a checkpoint's settings describe, with weights of its own."""
    shapes = found["shape_metadata"]
    sizes = {key: shape[0] for key, shape in shapes["all_shapes"].items() if len(shape) == 1}
    if sizes != dict(keys) or len(sizes) != len(shapes["all_shapes"]):
        raise DataError(
            f"{path} was trained on the observations {shapes['all_shapes']}, not on {dict(keys)}."
        )
    settings = json.loads(found["config"])["algo"]
    algorithm = _algorithm_of(found["algo_name"], settings, path)
    settings = {name: value for name, value in settings.items() if name != "optim_params"}
    return RobomimicPolicy(
        sum(keys.values()),
        int(shapes["ac_dim"]),
        algorithm=algorithm,
        keys=keys,
        horizon=settings["rnn"]["horizon"] if algorithm == "bc_rnn_gmm" else 1,
        settings=settings,
        clip=1e6,  # robomimic's networks saw observations as they are
    )


def _algorithm_of(name: str, settings: Mapping[str, Any], path: Path) -> str:
    if name == "iql":
        return "iql"
    parts = ("gaussian", "gmm", "vae", "rnn", "transformer")
    on = {part for part in parts if name == "bc" and settings[part]["enabled"]}
    for ours, (theirs, preset) in ALGORITHMS.items():
        if name == theirs and on == set(preset):
            if "rnn" in on and not settings["rnn"]["open_loop"]:
                raise DataError(
                    f"{path} holds a recurrent policy that is not open-loop; it needs rnn.open_loop."
                )
            return ours
    held = " with ".join([str(name), *sorted(on)])
    raise DataError(f"{path} holds {held}; robopref reads {', '.join(ALGORITHMS)}.")
