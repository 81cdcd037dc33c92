"""What an episode did not record, by replaying it: contacts, forces, the gripper and poses of every state.

A store keeps observations, actions and keypoints. What the simulator could say besides is got back as frames
are: the seed and the actions replay the episode exactly. That is ``env.signals()``, one number per name and
state, and the poses of those sites and bodies of a MuJoCo model that a cost file names. The results lie
beside the store in ``signals/`` and ``poses/``, under the store's fingerprint.
"""

import functools
import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, DataError, unknown_name
from robopref.files import replacing
from robopref.rewards.staged.costs import EpisodeCosts, Poses, Signals, store_costs
from robopref.rewards.staged.language import StagedCosts
from robopref.training.rollout import ENVIRONMENT_PREFIX, KeptEnvironment


def replayed_signals(store: TrajectoryStore, needed: Sequence[str] = ()) -> Signals:
    """Return the signals of every row of a store, read from beside it or replayed once.

    Args:
        store: The episodes.
        needed: Names of signals; where what lies beside the store lacks one, it is made again.

    Raises:
        ConfigError: The environment offers no ``signals()``.
        DataError: A replay starts in another state than the episode did, or the file beside the store is
            damaged.
    """
    path = _place(store)
    if path.exists():
        found = _read(path, _rows(store))
        if set(needed) <= set(found):
            return found
    return keep_signals(store, _replay(store))


def replayed_poses(store: TrajectoryStore, costs: StagedCosts) -> Poses:
    """Return the poses that a cost file names in every row of a store, as :func:`replayed_signals`.

    Raises:
        ConfigError: The simulator has no such site or body; the message names file and line.
        DataError: As :func:`replayed_signals`.
    """
    named = json.dumps({name: [place.kind, place.name] for name, place in costs.poses.items()})
    path = _place(store, "poses", f"-{hashlib.sha256(named.encode()).hexdigest()[:8]}")
    if path.exists():
        return _read(path, _rows(store), (3, 4))
    episodes = _replay(store, functools.partial(_poses, costs))
    columns = {name: np.concatenate([part[name] for part in episodes]) for name in costs.poses}
    _write(path, columns)
    return columns


def costs_in(costs: StagedCosts, store: TrajectoryStore) -> list[EpisodeCosts]:
    """Return the costs of every episode of a store; what the file names besides points is read or replayed.

    Raises:
        ConfigError: As :func:`replayed_signals` and :func:`replayed_poses`, or a point or signal was not
            recorded; the message names file and line.
        DataError: Likewise, or a cost has no finite value somewhere.
    """
    signals = replayed_signals(store, costs.signals) if costs.signals else None
    return store_costs(costs, store, signals, replayed_poses(store, costs) if costs.poses else None)


def keep_signals(store: TrajectoryStore, episodes: Sequence[dict[str, np.ndarray]]) -> Signals:
    """Write the signals of every episode, one number per name and state, beside their store; return them.

    Raises:
        DataError: There is not one number for each state of each episode.
    """
    columns = {name: np.concatenate([part[name] for part in episodes]) for name in episodes[0]}
    rows = _rows(store)
    if any(column.shape != (rows,) for column in columns.values()):
        raise DataError(f"{store.path} has {rows} states, and signals of another number of them were given.")
    _write(_place(store), columns)
    return columns


def _rows(store: TrajectoryStore) -> int:
    return int((store.lengths + 1).sum())


def _place(store: TrajectoryStore, folder: str = "signals", of: str = "") -> Path:
    return store.path / folder / f"{store.fingerprint()[:16]}{of}.npz"


def _write(path: Path, columns: dict[str, np.ndarray]) -> None:
    held = io.BytesIO()
    np.savez(held, **columns)  # pyright: ignore[reportArgumentType]
    with replacing(path) as temporary:
        temporary.write_bytes(held.getvalue())


def _read(path: Path, rows: int, form: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            columns = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is damaged ({error}). Delete it, and it is made again.") from error
    if not columns or any(column.shape != (rows, *form) for column in columns.values()):
        raise DataError(f"{path} does not fit its store. Delete it, and it is made again.")
    return columns


def _signals(simulator: Any) -> dict[str, float]:
    if not hasattr(simulator, "signals"):
        raise ConfigError(
            f"{type(simulator).__name__} offers no signals(), which costs about contacts and forces need."
        )
    return simulator.signals()


def _poses(costs: StagedCosts, simulator: Any) -> dict[str, np.ndarray]:
    """Rotation beside position, (3, 4), of each place that a cost file names."""
    if not hasattr(simulator, "drawable"):
        raise ConfigError(
            f"{type(simulator).__name__} is no MuJoCo simulator, and {costs.name} names sites or bodies."
        )
    model, data = simulator.drawable()
    found = {}
    for name, place in costs.poses.items():
        kind = place.kind
        known = [getattr(model, kind)(i).name for i in range(getattr(model, f"n{kind}"))]
        if place.name not in known:
            wrong = unknown_name(f"{kind} of this simulator", place.name, filter(None, known))
            raise ConfigError(f"{costs.name}, line {place.line}: {wrong}")
        there = getattr(data, kind)(place.name)
        found[name] = np.concatenate([there.xmat.reshape(3, 3), there.xpos.reshape(3, 1)], 1)
    return found


def _replay(
    store: TrajectoryStore, read: Callable[[Any], Mapping[str, Any]] = _signals
) -> list[dict[str, np.ndarray]]:
    """What is read of every state of every episode."""
    kept: KeptEnvironment | None = None
    found = []
    try:
        for episode in range(len(store)):
            trajectory = store.episode(episode)
            provenance = trajectory.provenance
            options = {
                name.removeprefix(ENVIRONMENT_PREFIX): value
                for name, value in provenance.options.items()
                if name.startswith(ENVIRONMENT_PREFIX) and name != f"{ENVIRONMENT_PREFIX}render_mode"
            }
            if kept is None or (kept.env_id, kept.env_options) != (provenance.env_id, options):
                if kept is not None:
                    kept.close()
                kept = KeptEnvironment(provenance.env_id, options)
            env = kept.get()
            env.reset(seed=provenance.seed)
            simulator: Any = env.unwrapped
            if simulator.state_hash() != provenance.initial_state_hash:
                raise DataError(
                    f"Episode {episode} of {store.path} starts in another state when it is replayed: other "
                    "package versions recorded it."
                )
            states = [read(simulator)]
            for action in trajectory.actions:
                env.step(action)
                states.append(read(simulator))
            found.append({name: np.array([state[name] for state in states]) for name in states[0]})
    finally:
        if kept is not None:
            kept.close()
    return found
