"""One episode in a simulator, from its seed to a trajectory; and the simulator that a worker keeps.

An environment is reached by its Gymnasium id alone ("robopref.envs:robopref/mw-drawer-open-v0"; the part
before the colon is the module that registers it). Beside Gymnasium's own interface it offers, on
``env.unwrapped``: ``keypoints()`` (name to position in metres, world frame), ``state_hash()`` (hex digest of
the simulator's state), ``behaviour(kind, rng, **options)`` (a scripted actor) and ``control_hz``; and
``info["success"]`` after each step.

Letters used in shapes: T actions of an episode, O observation entries, A action entries.
"""

import contextlib
import functools
import importlib.metadata
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float

from robopref.data.trajectory import Provenance, Trajectory
from robopref.errors import ConfigError, DataError, unknown_name

Actor = Callable[[np.ndarray], np.ndarray]  # (O,) observation, as the environment gives it, to (A,) action

REQUIRED = ("keypoints", "state_hash", "behaviour", "control_hz")
MAX_STEPS = 10_000
HOW_AN_ID_READS = "An id reads 'module:namespace/name-v0'."
ENVIRONMENT_PREFIX = "env."  # in Provenance.options: what the environment was made with


def make_environment(
    env_id: str, env_options: Mapping[str, Any] | None = None, *, render_mode: str | None = None
) -> gymnasium.Env:
    """Make an environment and check that it offers what robopref needs.

    Args:
        env_id: "module:namespace/name-v0".
        env_options: Keyword arguments of its constructor.
        render_mode: "rgb_array" for frames.

    Raises:
        ConfigError: There is no such environment, it refuses these options, or it lacks a needed method.
    """
    options = dict(env_options or {})
    if render_mode is not None:
        options["render_mode"] = render_mode
    try:
        env = gymnasium.make(env_id, disable_env_checker=True, **options)
    except (gymnasium.error.UnregisteredEnv, gymnasium.error.Error, ModuleNotFoundError) as error:
        raise ConfigError(_no_environment(env_id, error)) from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{env_id} cannot be made with {options}: {error}") from error
    missing = [name for name in REQUIRED if not hasattr(env.unwrapped, name)]
    if missing:
        raise ConfigError(f"{env_id} lacks {', '.join(missing)}, which robopref needs to record an episode.")
    return env


def _no_environment(env_id: str, error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"{env_id} names a module that cannot be imported ({error}). {HOW_AN_ID_READS}"
    module, _, name = env_id.rpartition(":")
    namespace = name.rpartition("/")[0]
    known = [known for known in gymnasium.registry if known.rpartition("/")[0] == namespace]
    if name in known:
        return f"{env_id} cannot be made: {error}"
    if not namespace or not known:
        return f"No environment is called '{env_id}': {error}. {HOW_AN_ID_READS}"
    return unknown_name("environment", env_id, [f"{module}:{name}" if module else name for name in known])


@dataclass
class KeptEnvironment:
    """An environment that is made when first asked for and kept; pickled, it carries only how to make it."""

    env_id: str
    env_options: Mapping[str, Any] = field(default_factory=dict)
    _env: gymnasium.Env | None = field(default=None, init=False, repr=False)

    def get(self) -> gymnasium.Env:
        """Return the environment; errors as :func:`make_environment`."""
        if self._env is None:
            self._env = make_environment(self.env_id, self.env_options)
        return self._env

    def close(self) -> None:
        """Close the environment if it was made."""
        if self._env is not None:
            self._env.close()
            self._env = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_env": None}


@dataclass(frozen=True)
class EpisodeTask:
    """Which episode to run; ``str`` of it is how error messages name the episode."""

    index: int
    seed: int

    def __str__(self) -> str:
        return f"episode {self.index} (environment seed {self.seed})"


def run_episode(
    env: gymnasium.Env,
    actor: Actor,
    seed: int,
    *,
    env_id: str,
    env_options: Mapping[str, Any] | None = None,
    behaviour: str,
    options: Mapping[str, Any] | None = None,
) -> Trajectory:
    """Run one episode until the environment ends or truncates it.

    The actor sees the observation as the environment gives it (float64 in Meta-World); the trajectory keeps
    it as float32. An action is clipped to the action space and cast to its type before it is sent, and is
    recorded as sent, so that ``env_id``, ``seed`` and the recorded actions replay the episode exactly.

    Args:
        env: An environment from :func:`make_environment`.
        actor: Observation (O,) to action (A,).
        seed: Seed of ``env.reset``: it alone decides the initial state.
        env_id: As given to :func:`make_environment`; kept in the provenance.
        env_options: Likewise, under "env."-prefixed names.
        behaviour: Name of the actor, for the provenance.
        options: The actor's options, for the provenance.

    Raises:
        DataError: An action has the wrong shape or holds NaN; the simulator returned NaN or no
            ``info["success"]``; the episode does not end within 10,000 steps.
    """
    observation, _ = env.reset(seed=seed)
    simulator: Any = env.unwrapped
    start = simulator.state_hash()
    more = getattr(simulator, "packages", ())  # that decide its numbers beside those which all share
    observations, keypoints = [observation], [keypoints_of(simulator)]
    actions, rewards, successes = [], [], []
    terminated = truncated = False
    while not (terminated or truncated):
        step = len(actions)
        if step >= MAX_STEPS:
            raise DataError(f"{env_id} did not end within {MAX_STEPS} steps: give it a horizon.")
        action = checked_action(actor(observation), env.action_space, step)
        observation, reward, terminated, truncated, info = env.step(action)
        if "success" not in info:
            raise DataError(f"{env_id} reports no info['success'], so an episode cannot be judged.")
        if not (np.isfinite(observation).all() and math.isfinite(reward)):
            raise DataError(f"The simulator {env_id} returned NaN or infinity after step {step}.")
        actions.append(action)
        rewards.append(reward)
        successes.append(bool(info["success"]))
        observations.append(observation)
        keypoints.append(keypoints_of(simulator))
    return Trajectory(
        observations=np.asarray(observations, dtype=np.float32),
        actions=np.asarray(actions, dtype=np.float32),
        rewards=np.asarray(rewards, dtype=np.float32),
        successes=np.asarray(successes, dtype=bool),
        keypoints={name: np.stack([point[name] for point in keypoints]) for name in keypoints[0]},
        terminated=bool(terminated),
        provenance=Provenance(
            task=task_of(env),
            env_id=env_id,
            seed=seed,
            behaviour=behaviour,
            options=plain_options(options or {})
            | plain_options(env_options or {}, prefix=ENVIRONMENT_PREFIX),
            initial_state_hash=start,
            versions=versions() | {name: importlib.metadata.version(name) for name in more},
        ),
        frames=None,
    )


def scripted_actor(env: gymnasium.Env, behaviour: Mapping[str, Any], rng: np.random.Generator) -> Actor:
    """Return the environment's scripted behaviour ``{"kind": ..., **options}``, for one episode.

    Raises:
        ConfigError: The environment does not know it, or refuses an option.
    """
    options = dict(behaviour)
    kind = options.pop("kind", None)
    if not isinstance(kind, str):
        raise ConfigError(f"A behaviour needs a kind, such as 'expert', got {dict(behaviour)}.")
    simulator: Any = env.unwrapped
    try:
        return simulator.behaviour(kind, rng, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"The behaviour {dict(behaviour)} is not possible here: {error}") from error


def keypoints_of(simulator: Any) -> dict[str, np.ndarray]:
    """Return the named positions of the present state, as they are recorded."""
    return {name: np.array(point, dtype=np.float32) for name, point in simulator.keypoints().items()}


def checked_action(action: Any, space: gymnasium.Space, step: int) -> Float[np.ndarray, " A"]:
    """Return the action as it is sent: within the bounds of its space, of the space's type."""
    if not isinstance(space, gymnasium.spaces.Box):
        raise ConfigError(f"Only continuous actions (a Box space) are supported, got {space}.")
    action = np.asarray(action)
    if action.shape != space.shape:
        raise DataError(
            f"The action at step {step} has shape {action.shape}, the environment takes {space.shape}."
        )
    if not np.isfinite(action).all():
        raise DataError(f"The action at step {step} holds NaN or infinity: {action}.")
    return np.clip(action, space.low, space.high).astype(space.dtype)


def task_of(env: gymnasium.Env) -> str:
    """Return the environment's task, by its own word or from its id ("robopref/mw-push-v0": "mw-push")."""
    task = getattr(env.unwrapped, "task", None)
    if task is None:
        if env.spec is None:
            raise ConfigError("An environment without a task must come from gymnasium.make, which names it.")
        task = env.spec.name
    return str(task)


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions that decide an episode's numbers; a package that is not installed is left out."""
    versions = {}
    for package in ("robopref", "gymnasium", "metaworld", "mujoco", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def plain_options(options: Mapping[str, Any], prefix: str = "") -> dict[str, float | int | str]:
    """Return options as provenance and metadata keep them: numbers and strings, NumPy scalars unpacked.

    Raises:
        ConfigError: An option is something else.
    """
    plain = {}
    for name, value in options.items():
        value = value.item() if isinstance(value, np.generic) else value
        if not isinstance(value, float | int | str):
            raise ConfigError(
                f"The option {name} must be a number or a string to be recorded, got {value!r}."
            )
        plain[prefix + name] = value
    return plain
