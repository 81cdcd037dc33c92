"""Minari data sets in HDF5.

    <folder>/data/metadata.json       spaces as JSON, totals, robopref (ours)
    <folder>/data/main_data.hdf5
        episode_<i>                   attributes: id, seed, total_steps, robopref (ours)
            observations (T+1, O)   actions (T, A)   rewards (T,)   terminations (T,)   truncations (T,)
            infos/success (T+1,)    infos/keypoint_<name> (T+1, 3)

Nothing of ours is lost. As in Gymnasium, row t of ``infos`` belongs to state t: row 0 to the reset, and row
t + 1 to what followed action t.

They are written by the package ``minari`` and read without it: its reader makes an environment by the entry
point that the file names, where the file says nothing of the spaces, and so would run what a stranger wrote.

Source: ``minari/dataset/_storages/hdf5_storage.py``, version 0.5.4.

Letters used in shapes: T actions in an episode, O observation size, A action size.
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from robopref.data.interchange import hdf5
from robopref.data.interchange.carried import (
    KEY,
    Ledger,
    choose,
    episode_json,
    flags,
    float32,
    header_json,
    named,
    read_episode,
    read_header,
    unknown_origin,
    vectors,
)
from robopref.data.layout import Layout
from robopref.data.store import TrajectoryStore
from robopref.data.trajectory import Trajectory
from robopref.errors import DataError, MissingExtraError
from robopref.files import read_json

METADATA, MAIN = "metadata.json", "main_data.hdf5"
SUCCESS, POINT = "success", "keypoint_"
DESCRIPTION = (
    *("total_episodes", "total_steps", "data_format", "jpeg_encoding", "observation_space", "action_space"),
    *("dataset_size", "dataset_id", "minari_version", "algorithm_name", KEY),
)
"""What the metadata of a data set of ours hold."""
WHOLE = "observations"
"""The name of an observation that is one array, not a dictionary of them."""


def write_minari(store: TrajectoryStore, folder: Path, name: str) -> None:
    """Write all episodes of a store as a data set named ``robopref/<name>-v0``.

    Raises:
        MissingExtraError: The package ``minari`` is not installed.
    """
    try:
        import minari
        from minari.data_collector import EpisodeBuffer
        from minari.dataset.minari_storage import MinariStorage
    except ImportError as error:
        raise MissingExtraError(
            f"Writing Minari data needs the package minari: pip install 'robopref[interchange]' ({error})."
        ) from error
    from gymnasium.spaces import Box

    folder = folder.absolute()  # minari 0.5.4 joins a relative path twice when it counts bytes
    (folder / "data").mkdir(parents=True)
    limit = 1.0 if float(np.abs(store.array("actions")).max()) <= 1 else np.inf
    storage = MinariStorage.new(
        folder / "data",
        observation_space=Box(-np.inf, np.inf, (store.layout.observation_size,), np.float32),
        action_space=Box(-limit, limit, (store.layout.action_size,), np.float32),
        data_format="hdf5",
    )
    for index in range(len(store)):
        episode = store.episode(index)
        last = np.arange(episode.length) == episode.length - 1
        infos = {SUCCESS: np.concatenate([[False], episode.successes])}
        infos |= {POINT + key: points for key, points in episode.keypoints.items()}
        buffer = EpisodeBuffer(
            seed=episode.provenance.seed,
            observations=episode.observations,  # pyright: ignore[reportArgumentType]  # it takes arrays
            actions=episode.actions,  # pyright: ignore[reportArgumentType]
            rewards=episode.rewards,  # pyright: ignore[reportArgumentType]
            terminations=last & episode.terminated,  # pyright: ignore[reportArgumentType]
            truncations=last & (not episode.terminated),  # pyright: ignore[reportArgumentType]
            infos=infos,
        )
        storage.update_episodes([buffer])
        storage.update_episode_metadata([{KEY: episode_json(episode)}], [index])
    storage.update_metadata(
        {
            "dataset_id": f"robopref/{name}-v0",
            "minari_version": minari.__version__,
            "algorithm_name": ", ".join(sorted({store.provenance(i).behaviour for i in range(len(store))})),
            KEY: header_json(store),
        }
    )


def read_minari(path: Path, folder: Path, ledger: Ledger, observation: list[str] | None = None) -> None:
    """Make a store at ``folder`` of all episodes of a data set.

    Args:
        path: The data set: its folder, or the folder ``data`` in it.
        folder: Where the store is made.
        ledger: Takes note of what is lost.
        observation: Which entries of a dictionary observation to join, as ``outer/inner``; all by default.

    Raises:
        DataError: The data set is damaged or foreign; the message names the episode and the key.
    """
    folder_of = minari_folder(path)
    about = _about(folder_of)
    source = folder_of / MAIN
    with hdf5.opened(source) as file:
        names = minari_names(folder_of)
        ledger.lose_others("the group", file, names, source)
        ledger.lose_others("the attribute", file.attrs, (), source)
        if folder_of != path:  # what lies beside the files of the folder given, convert accounts for
            ledger.lose_files(folder_of, (METADATA, MAIN))
        first = hdf5.group(file, names[0], str(source))
        where = f"{source}, {names[0]}"
        known = list(_vectors_of(first, where, ledger))
        keys = choose(observation, known, where)
        layout = _layout(about, first, keys, folder_of, where, ledger)
        with TrajectoryStore.create_with(folder, layout) as store:
            for name in names:
                episode = hdf5.group(file, name, str(source))
                task = str(layout.metadata.get("task", "unknown"))
                where = f"{source}, {name}"
                with named(where):
                    others = _vectors_of(episode, where, ledger)
                    ledger.lose_others("the observation", others, known, where)
                    ledger.lose_changes({"id": len(store)}, episode.attrs, where)
                    store.append(_episode(episode, keys, layout, task, where, ledger))
            ledger.lose_changes({"total_steps": int(store.lengths.sum())}, about, folder_of / METADATA)


def minari_folder(path: Path) -> Path:
    """Return the folder that holds the files of a data set."""
    return path / "data" if (path / "data" / METADATA).exists() else path


def minari_names(folder: Path) -> list[str]:
    """Return the names of the episodes, in order.

    Raises:
        DataError: There are none, or the metadata are damaged.
    """
    total = _about(folder).get("total_episodes")
    if not isinstance(total, int) or total < 0:
        raise DataError(f"{folder / METADATA} is damaged: total_episodes is {total!r}.")
    if not total:
        raise DataError(f"{folder} holds no episodes.")
    return [f"episode_{i}" for i in range(total)]


def _about(folder: Path) -> dict[str, Any]:
    about = read_json(folder / METADATA)
    if not isinstance(about, dict) or about.get("data_format", "hdf5") != "hdf5":
        got = about.get("data_format") if isinstance(about, dict) else about
        raise DataError(f"{folder / METADATA}: robopref reads Minari's HDF5 data, this is {got!r}.")
    return about


def _vectors_of(episode: h5py.Group, where: str, ledger: Ledger) -> dict[str, h5py.Dataset]:
    """Return the observations that are vectors, by their path inside a dictionary; others are lost."""
    found = hdf5.entry(episode, WHOLE, where)
    if isinstance(found, h5py.Dataset):
        return {WHOLE: found}
    entries: dict[str, h5py.Dataset] = {}

    def visit(key: str, entry: object) -> None:
        if isinstance(entry, h5py.Dataset):
            if entry.ndim <= 2 and entry.dtype.kind in "fiub":
                entries[key] = entry
            else:
                ledger.lose(f"the observation '{key}', which is no vector", where)

    hdf5.group(episode, WHOLE, where).visititems(visit)
    if not entries:
        raise DataError(f"{where} has no observation that is a vector a step.")
    return dict(sorted(entries.items()))


def _read_states(episode: h5py.Group, keys: list[str], where: str) -> dict[str, np.ndarray]:
    if keys == [WHOLE]:
        return {WHOLE: hdf5.numbers(episode, WHOLE, where)}
    parts = hdf5.group(episode, WHOLE, where)
    return {key: hdf5.numbers(parts, key, where) for key in keys}


def _layout(
    about: dict[str, Any], first: h5py.Group, keys: list[str], path: Path, where: str, ledger: Ledger
) -> Layout:
    parts = _read_states(first, keys, where)
    widths = {key: int(np.prod(part.shape[1:])) for key, part in parts.items()}
    sizes = sum(widths.values()), int(np.prod(hdf5.numbers(first, "actions", where).shape[1:]))
    ours = about.get(KEY)
    if ours is not None:
        ledger.lose_others("the field", about, DESCRIPTION, path / METADATA)
        return read_header(ours, sizes, f"{path / METADATA}, {KEY}")
    ledger.note("Minari does not say how many actions a second there are; 20 was assumed")
    name = str(about.get("dataset_id", "unknown"))
    metadata = {"from": "minari", "observation": widths, "task": name, "metadata": about}
    return Layout(*sizes, (), 20.0, metadata)


def _account(episode: h5py.Group, steps: int, terminations: np.ndarray, where: str, ledger: Ledger) -> None:
    """Write down what an episode holds and a store has no place for, other than observations and infos."""
    known = (WHOLE, "actions", "rewards", "terminations", "truncations", "infos")
    ledger.lose_others("", episode, known, where)
    attributes = [name for name in episode.attrs if not name.startswith("options")]
    ledger.lose_others("the attribute", attributes, (KEY, "id", "seed", "total_steps"), where)
    ledger.lose_others("the attribute", hdf5.inner_attributes(episode), (), where)
    ends = {"terminations": terminations}
    if "truncations" in episode:
        ends["truncations"] = hdf5.numbers(episode, "truncations", where)
    for name, values in ends.items():
        if len(values) != steps:
            raise DataError(f"{where}: {name} has {len(values)} rows, but there are {steps} actions.")
        if flags(values, name, where)[:-1].any():
            ledger.lose(f"{name} before the last step", where)
    if len(ends) == 2:
        ended, cut = (bool(values[-1]) for values in ends.values())
        if ended and cut:
            ledger.lose("truncations at a step at which the task ended the episode too", where)
        elif not (ended or cut):
            ledger.note("episodes that end by neither terminations nor truncations were taken as cut off")
    count = episode.attrs.get("total_steps", steps)
    if count != steps:
        raise DataError(f"{where}: total_steps is {count}, but there are {steps} actions.")


def _seed(episode: h5py.Group, where: str) -> int:
    seed = episode.attrs.get("seed", -1)
    if not isinstance(seed, int | np.integer):
        raise DataError(f"{where}, attribute seed: must be a whole number, got {seed!r}.")
    return int(seed)


def _episode(
    episode: h5py.Group, keys: list[str], layout: Layout, task: str, where: str, ledger: Ledger
) -> Trajectory:
    arrays = {name: hdf5.numbers(episode, name, where) for name in ("actions", "rewards", "terminations")}
    if not len(arrays["actions"]):
        raise DataError(f"{where} has no actions.")
    actions = float32(vectors({"actions": arrays["actions"]}, where), "actions", where, ledger)
    points = hdf5.group(episode, "infos", where) if "infos" in episode else {}
    known_infos = {SUCCESS, *(POINT + name for name in layout.keypoints)}
    for extra in sorted(set(points) - known_infos):
        ledger.lose(f"infos/{extra}", where)
    _account(episode, len(actions), arrays["terminations"], where, ledger)
    ours, ended = hdf5.text(episode, KEY), bool(arrays["terminations"][-1])
    if ours is not None:
        known = read_episode(ours, f"{where}, attribute {KEY}")
        written = {"seed": known["provenance"].seed, "terminations": known["terminated"]}
        found = {"seed": _seed(episode, where), "terminations": ended}
        ledger.lose_changes(written, found, where)
    else:
        known = {"provenance": unknown_origin(task, task, seed=_seed(episode, where)), "terminated": ended}
        for extra in sorted(key for key in episode.attrs if key.startswith("options")):
            ledger.lose(f"the reset's {extra}", where)
    if isinstance(points, h5py.Group) and SUCCESS in points:
        successes = flags(hdf5.numbers(points, SUCCESS, where), f"infos/{SUCCESS}", where)
        if len(successes) - len(actions) not in (0, 1):
            raise DataError(
                f"{where}: infos/{SUCCESS} has {len(successes)} rows, but there are {len(actions)} actions."
            )
        successes = successes[-len(actions) :]
    else:
        ledger.note("the data set does not say which steps were successes; none was assumed")
        successes = np.zeros(len(actions), bool)
    return Trajectory(
        observations=float32(
            vectors(_read_states(episode, keys, where), where), "observations", where, ledger
        ),
        actions=actions,
        rewards=float32(arrays["rewards"].reshape(-1), "rewards", where, ledger),
        successes=successes,
        keypoints={
            name: hdf5.numbers(points, POINT + name, where)
            for name in layout.keypoints
            if isinstance(points, h5py.Group)
        },
        **known,
    )
