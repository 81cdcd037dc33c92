"""Numbers that an episode did not record, by replaying it: contacts and forces of every state.

A store keeps observations, actions and keypoints. What the simulator could say besides (``env.signals()``,
one number per name and state) is got back as frames are: the seed and the actions replay the episode exactly.
The result lies beside the store in ``signals/``, under the store's fingerprint.
"""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, DataError
from robopref.files import replacing
from robopref.rewards.staged.costs import EpisodeCosts, Signals, store_costs
from robopref.rewards.staged.language import StagedCosts
from robopref.training.rollout import ENVIRONMENT_PREFIX, KeptEnvironment

FOLDER = "signals"


def replayed_signals(store: TrajectoryStore) -> Signals:
    """Return the signals of every row of a store, read from beside it or replayed once.

    Raises:
        ConfigError: The environment offers no ``signals()``.
        DataError: A replay starts in another state than the episode did, or the file beside the store is
            damaged.
    """
    path = _place(store)
    if path.exists():
        return _read(path, int((store.lengths + 1).sum()))
    return keep_signals(store, _replay(store))


def costs_in(costs: StagedCosts, store: TrajectoryStore) -> list[EpisodeCosts]:
    """Return the costs of every episode of a store; signals are read or replayed where the file names some.

    Raises:
        ConfigError: As :func:`replayed_signals`.
        DataError: Likewise, or a point or signal is missing.
    """
    return store_costs(costs, store, replayed_signals(store) if costs.signals else None)


def keep_signals(store: TrajectoryStore, episodes: Sequence[dict[str, np.ndarray]]) -> Signals:
    """Write the signals of every episode, one number per name and state, beside their store; return them.

    Raises:
        DataError: There is not one number for each state of each episode.
    """
    columns = {name: np.concatenate([part[name] for part in episodes]) for name in episodes[0]}
    rows = int((store.lengths + 1).sum())
    if any(column.shape != (rows,) for column in columns.values()):
        raise DataError(f"{store.path} has {rows} states, and signals of another number of them were given.")
    held = io.BytesIO()
    np.savez(held, **columns)  # pyright: ignore[reportArgumentType]
    with replacing(_place(store)) as temporary:
        temporary.write_bytes(held.getvalue())
    return columns


def _place(store: TrajectoryStore) -> Path:
    return store.path / FOLDER / f"{store.fingerprint()[:16]}.npz"


def _read(path: Path, rows: int) -> Signals:
    try:
        with np.load(path, allow_pickle=False) as archive:
            columns = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is damaged ({error}). Delete it, and it is made again.") from error
    if not columns or any(column.shape != (rows,) for column in columns.values()):
        raise DataError(f"{path} does not fit its store. Delete it, and it is made again.")
    return columns


def _replay(store: TrajectoryStore) -> list[Signals]:
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
            if not hasattr(simulator, "signals"):
                raise ConfigError(
                    f"{provenance.env_id} offers no signals(), which costs about contacts and forces need."
                )
            if simulator.state_hash() != provenance.initial_state_hash:
                raise DataError(
                    f"Episode {episode} of {store.path} starts in another state when it is replayed: other "
                    "package versions recorded it."
                )
            states = [simulator.signals()]
            for action in trajectory.actions:
                env.step(action)
                states.append(simulator.signals())
            found.append({name: np.array([state[name] for state in states]) for name in states[0]})
    finally:
        if kept is not None:
            kept.close()
    return found
