"""Collecting episodes of scripted behaviours into a trajectory store.

Episode i is a function of (seed, i) alone: its environment seed and the randomness of its behaviour come from
``SeedSequence((seed, i))``, its behaviour from a fixed interleaving of the shares. So a store does not depend
on the number of workers, a killed collection goes on where it stopped and ends with the same content, and
asking for more episodes appends to what is there.

Environment seeds of collected episodes lie below 2**30; :mod:`robopref.training.evaluation` counts its own
from 2**30 upwards, so no policy is ever tried on an initial state that it learned from.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robopref.data.layout import HEADER
from robopref.data.store import TrajectoryStore
from robopref.data.trajectory import Trajectory
from robopref.errors import ConfigError, DataError
from robopref.training.progress import Progress
from robopref.training.rollout import EpisodeTask, KeptEnvironment, plain_options, run_episode, scripted_actor
from robopref.training.run import differences
from robopref.training.workers import WorkerPool

COLLECTION_SEEDS = 2**30  # environment seeds of collected episodes lie below this number


@dataclass(frozen=True)
class Behaviour:
    """A scripted behaviour and its share of the episodes.

    Attributes:
        kind: Name, as the environment's ``behaviour`` method knows it.
        share: Its part of the episodes, in proportion to the other shares.
        options: Numbers and strings that the behaviour takes.
    """

    kind: str
    share: float
    options: dict[str, float | int | str]

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "Behaviour":
        """Read ``{"kind": "expert", "share": 0.5, "noise": 1.0}``; share is 1 where it is not given.

        Raises:
            ConfigError: There is no kind, or the share is not a positive number.
        """
        options = dict(values)
        kind, share = options.pop("kind", None), options.pop("share", 1.0)
        if not isinstance(kind, str):
            raise ConfigError(f"A behaviour needs a kind, such as 'expert', got {dict(values)}.")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < float("inf"):
            raise ConfigError(f"The share of behaviour '{kind}' must be a positive number, got {share!r}.")
        return cls(kind, float(share), plain_options(options))

    def actor(self) -> dict[str, Any]:
        """Return what :func:`~robopref.training.rollout.scripted_actor` takes."""
        return {"kind": self.kind, **self.options}

    def settings(self) -> dict[str, Any]:
        """Return the inverse of :meth:`parse`."""
        return {"kind": self.kind, "share": self.share, **self.options}


def interleave(shares: Sequence[float], episodes: int) -> list[int]:
    """Return which behaviour each episode has: always the one that is furthest behind its share.

    The first n entries do not depend on ``episodes``, and every behaviour gets its share of them to within
    a whole episode or so.
    """
    portions = np.asarray(shares, dtype=np.float64) / np.sum(shares)
    counts = np.zeros(len(portions))
    chosen = []
    for episode in range(episodes):
        behaviour = int(np.argmax(portions * (episode + 1) - counts))
        counts[behaviour] += 1
        chosen.append(behaviour)
    return chosen


def episode_seeds(seed: int, episode: int) -> tuple[int, np.random.Generator]:
    """Return an episode's environment seed (below 2**30) and the generator of its behaviour."""
    sequence = np.random.SeedSequence((seed, episode))
    environment_seed = int(sequence.generate_state(1)[0]) % COLLECTION_SEEDS
    return environment_seed, np.random.default_rng(sequence.spawn(1)[0])


@dataclass(frozen=True)
class _Collector:
    """Runs episode i of a collection; each worker has one, with an environment of its own."""

    environment: KeptEnvironment
    behaviours: tuple[Behaviour, ...]
    seed: int

    def __call__(self, task: "_CollectionTask") -> Trajectory:
        env = self.environment.get()
        behaviour = self.behaviours[task.behaviour]
        environment_seed, rng = episode_seeds(self.seed, task.index)
        actor = scripted_actor(env, behaviour.actor(), rng)
        return run_episode(
            env,
            actor,
            environment_seed,
            env_id=self.environment.env_id,
            env_options=self.environment.env_options,
            behaviour=behaviour.kind,
            options={
                **behaviour.options,
                **getattr(actor, "options", {}),
            },  # with what the actor drew for itself
        )

    def close(self) -> None:
        self.environment.close()


@dataclass(frozen=True)
class _CollectionTask(EpisodeTask):
    behaviour: int


def collect(
    path: Path | str,
    *,
    env_id: str,
    env_options: Mapping[str, Any] | None = None,
    behaviours: Sequence[Mapping[str, Any]],
    episodes: int,
    seed: int,
    workers: int | None = None,
    progress: bool = True,
) -> TrajectoryStore:
    """Collect episodes into a store, or finish a collection that was interrupted.

    Every finished episode is on disk before the next one is waited for: a kill loses the episodes in hand
    only, and the same call again carries on.

    Args:
        path: Directory of the store.
        env_id: "module:namespace/name-v0".
        env_options: Keyword arguments of the environment, numbers and strings.
        behaviours: One ``{"kind": ..., "share": ..., **options}`` each.
        episodes: How many the store shall hold in the end.
        seed: Seed of the whole collection.
        workers: Processes, 0 for this one; ``None`` for one per CPU up to 16, once that saves time.
        progress: Show a progress bar.

    Returns:
        The store, open for reading.

    Raises:
        ConfigError: An option makes no sense, or the store at ``path`` was made with other settings (which
            differ is said), or holds more episodes than are asked for.
        DataError: ``path`` holds something else, or another process is writing to it.
        RoboprefError: An episode failed; the message names it.
    """
    if episodes < 1:
        raise ConfigError(f"episodes must be 1 or more, got {episodes}: there is nothing to collect.")
    if seed < 0:
        raise ConfigError(f"seed must be 0 or more, got {seed}.")
    if not behaviours:
        raise ConfigError("behaviours is empty: give at least one, such as {'kind': 'expert', 'share': 1}.")
    parsed = tuple(Behaviour.parse(values) for values in behaviours)
    options = plain_options(env_options or {})
    settings = {
        "env_id": env_id,
        "env_options": options,
        "behaviours": [behaviour.settings() for behaviour in parsed],
        "seed": seed,
    }
    path = Path(path)
    if (path / HEADER).exists():
        with TrajectoryStore.open(path) as store:
            _check_settings(store, settings, episodes)
            if len(store) == episodes:
                return TrajectoryStore.open(path)
    collector = _Collector(KeptEnvironment(env_id, options), parsed, seed)
    _fill(path, collector, settings, episodes, workers, progress)
    return TrajectoryStore.open(path)


def _check_settings(store: TrajectoryStore, settings: dict[str, Any], episodes: int) -> None:
    there = store.metadata.get("collection")
    if there is None:
        raise DataError(f"{store.path} is a store, but not one that was collected here. Choose another path.")
    differing = differences(_named(there), _named(json.loads(json.dumps(settings))))
    if differing:
        raise ConfigError(
            f"{store.path} was collected with other settings ({differing}). "
            "Choose another path, or ask for the settings it was made with."
        )
    if len(store) > episodes:
        raise ConfigError(
            f"{store.path} holds {len(store)} episodes, more than the {episodes} asked for. "
            "Choose another path, or ask for as many or more."
        )


def _named(settings: dict[str, Any]) -> dict[str, Any]:
    """Give each behaviour a name instead of a place in a list, so that a difference can be pointed at."""
    return {**settings, "behaviours": {str(i): values for i, values in enumerate(settings["behaviours"])}}


def _fill(
    path: Path,
    collector: _Collector,
    settings: dict[str, Any],
    episodes: int,
    workers: int | None,
    progress: bool,
) -> None:
    with (
        closing(collector),
        WorkerPool(collector, workers) as pool,
        _open_or_create(path, collector, settings) as store,
    ):
        chosen = interleave([behaviour.share for behaviour in collector.behaviours], episodes)
        tasks = [
            _CollectionTask(index, episode_seeds(collector.seed, index)[0], chosen[index])
            for index in range(len(store), episodes)
        ]
        bar = Progress(f"collect {path.name}", episodes, len(store), unit="episodes") if progress else None
        with bar or nullcontext(), closing(pool.map(tasks)) as trajectories:
            for trajectory in trajectories:
                store.append(trajectory)
                if bar is not None:
                    bar.advance(1, note=f"return {trajectory.episode_return:.0f}")


def _open_or_create(path: Path, collector: _Collector, settings: dict[str, Any]) -> TrajectoryStore:
    """Open the store for writing, or create it with the sizes that the environment has."""
    if (path / HEADER).exists():
        return TrajectoryStore.open(path, writable=True)
    env = collector.environment.get()
    for behaviour in collector.behaviours:  # a misspelt one shall fail here, not in the hundredth episode
        scripted_actor(env, behaviour.actor(), np.random.default_rng(0))
    spaces = env.observation_space, env.action_space
    if any(space.shape is None or len(space.shape) != 1 for space in spaces):
        raise ConfigError(f"Observations and actions must be vectors, {settings['env_id']} has {spaces}.")
    observation, _ = env.reset(seed=0)
    simulator: Any = env.unwrapped
    return TrajectoryStore.create(
        path,
        observation_size=len(observation),
        action_size=len(env.action_space.sample()),
        keypoints=sorted(simulator.keypoints()),
        control_hz=float(simulator.control_hz),
        metadata={"collection": settings},
    )
