"""robomimic HDF5, as the ``SequenceDataset`` of robomimic 0.3.0 reads it.

    data                     attributes: total, env_args (JSON), robopref (ours)
    data/demo_<i>            attributes: num_samples, robopref (ours)
        actions (T, A)   rewards (T,)   dones (T,)   successes (T,)
        obs/flat (T, O), next_obs/flat (T, O), obs/keypoint_<name> (T, 3), next_obs/keypoint_<name> (T, 3)
    mask/<name>              names of demos; read as nothing, see below

The observation is called ``flat``, as in robomimic's own Gym environments. ``next_obs`` is ``obs`` one step
later, and its last row the state after the last action, so nothing of ours is lost. ``dones`` is 1 at the
last step of an episode that its task ended, so a learner bootstraps through the time limit.

Source: ``robomimic/utils/dataset.py``, version 0.3.0.

Letters used in shapes: T actions in an episode, O observation size, A action size.
"""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from robopref.data.interchange import hdf5
from robopref.data.interchange.carried import (
    KEY,
    LAST_STATE,
    Ledger,
    choose,
    episode_json,
    flags,
    float32,
    header_json,
    named,
    parse,
    read_episode,
    read_header,
    unknown_origin,
    vectors,
)
from robopref.data.layout import Layout
from robopref.data.store import TrajectoryStore
from robopref.data.trajectory import Trajectory
from robopref.errors import DataError

FLAT, POINT = "flat", "keypoint_"
GYM = 2
"""robomimic's number for environments of the Gym kind."""


def write_robomimic(store: TrajectoryStore, path: Path) -> None:
    """Write all episodes of a store to a new file."""
    first = store.provenance(0)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = int(store.lengths.sum())
        data.attrs["env_args"] = json.dumps(_env_args(first.env_id))
        data.attrs[KEY] = header_json(store)
        for index in range(len(store)):
            episode = store.episode(index)
            demo = data.create_group(f"demo_{index}")
            demo.attrs["num_samples"] = episode.length
            demo.attrs[KEY] = episode_json(episode)
            dones = np.zeros(episode.length, np.int64)
            dones[-1] = episode.terminated
            columns = {"actions": episode.actions, "rewards": episode.rewards, "dones": dones}
            for name, value in (columns | {"successes": episode.successes}).items():
                demo.create_dataset(name, data=value)
            states = {FLAT: episode.observations}
            states |= {POINT + name: points for name, points in episode.keypoints.items()}
            for name, value in states.items():
                demo.create_dataset(f"obs/{name}", data=value[:-1])
                demo.create_dataset(f"next_obs/{name}", data=value[1:])


def _env_args(env_id: str) -> dict[str, Any]:
    return {"env_name": env_id, "type": GYM, "env_kwargs": {}}


def read_robomimic(path: Path, folder: Path, ledger: Ledger, observation: list[str] | None = None) -> None:
    """Make a store at ``folder`` of all demos of a file, in the order of their numbers.

    Args:
        path: The file.
        folder: Where the store is made.
        ledger: Takes note of what is lost.
        observation: Which observations to join, all of one axis by default.

    Raises:
        DataError: The file is damaged or foreign; the message names the demo and the key.
    """
    with hdf5.opened(path) as file:
        data = hdf5.group(file, "data", str(path))
        names = demo_names(data, path)
        _account(file, data, path, ledger)
        known = _observation_keys(hdf5.group(data, names[0], str(path)), f"{path}, {names[0]}", ledger)
        ours = KEY in data.attrs and not observation
        keys = [FLAT] if ours else choose(observation, known, str(path))
        layout = _layout(data, names[0], keys, path, ledger)
        if ours:
            known = [FLAT, *(POINT + name for name in layout.keypoints)]
        task = _environment(data, path)
        with TrajectoryStore.create_with(folder, layout) as store:
            for name in names:
                where = f"{path}, {name}"
                demo = hdf5.group(data, name, str(path))
                with named(where):
                    ledger.lose_others("the observation", hdf5.group(demo, "obs", where), known, where)
                    store.append(_episode(demo, keys, layout, task, where, ledger))
            where = f"{path}, attributes of data"
            ledger.lose_changes({"total": int(store.lengths.sum())}, data.attrs, where)
            if KEY in data.attrs:
                written = {"env_args": _env_args(store.provenance(0).env_id)}
                ledger.lose_changes(written, {"env_args": _arguments(data, path)}, where)


def _account(file: h5py.File, data: h5py.Group, path: Path, ledger: Ledger) -> None:
    """Write down what lies beside the demos, and for which there is no place in a store."""
    if "mask" in file:
        ledger.lose("the splits in mask", path)
    ledger.lose_others("the group", file, ("data", "mask"), path)
    ledger.lose_others("the group", data, demo_names(data, path), f"{path}, data")
    ledger.lose_others("the attribute", file.attrs, (), path)
    ledger.lose_others("the attribute", data.attrs, (KEY, "total", "env_args"), f"{path}, data")
    version = _arguments(data, path).get("env_version")
    if version is not None:
        ledger.note(f"{path}, attribute env_args: recorded in version {version} of its simulator")


def demo_names(data: h5py.Group, path: Path) -> list[str]:
    """Return the names of the episodes, in the order of their numbers.

    Raises:
        DataError: There are none.
    """
    names = [name for name in map(str, data) if name.startswith("demo_") and name[5:].isdecimal()]
    if not names:
        raise DataError(f"{path} holds no demo_<number> in its group 'data'; this is no robomimic file.")
    return sorted(names, key=lambda name: int(name[5:]))


def _observation_keys(demo: h5py.Group, where: str, ledger: Ledger) -> list[str]:
    """Return the observations that are one vector a step; others (images) are lost."""
    if "obs" not in demo:
        raise DataError(
            f"{where} has no group 'obs', only {', '.join(sorted(demo)) or 'nothing'}. Raw demonstrations "
            "become what robopref reads by robomimic's scripts/dataset_states_to_obs.py."
        )
    obs = hdf5.group(demo, "obs", where)
    keys = []
    for key in sorted(obs):
        entry = hdf5.entry(obs, key, where)
        if isinstance(entry, h5py.Dataset) and entry.ndim <= 2:
            keys.append(key)
        else:
            ledger.lose(f"the observation '{key}', which is no vector", where)
    if not keys:
        raise DataError(f"{where} has no observation that is a vector a step. There are: {', '.join(obs)}.")
    return keys


def _layout(data: h5py.Group, first: str, keys: list[str], path: Path, ledger: Ledger) -> Layout:
    where = f"{path}, {first}"
    demo = hdf5.group(data, first, str(path))
    obs = hdf5.group(demo, "obs", where)
    widths = {key: int(np.prod(hdf5.numbers(obs, key, where).shape[1:])) for key in keys}
    actions = hdf5.numbers(demo, "actions", where)
    sizes = sum(widths.values()), int(np.prod(actions.shape[1:]))
    ours = hdf5.text(data, KEY)
    if ours is not None:
        return read_header(ours, sizes, f"{path}, attribute {KEY} of data")
    arguments: Any = _arguments(data, path).get("env_kwargs", {})
    rate = arguments.get("control_freq") if isinstance(arguments, dict) else None
    if not isinstance(rate, int | float):
        ledger.note("the file does not say how many actions a second there are; 20 was assumed")
        rate = 20.0
    if not 0 < rate < float("inf"):
        raise DataError(f"{path}, attribute env_args: control_freq must be a positive number, got {rate}.")
    metadata = {"from": "robomimic", "observation": widths, "task": _environment(data, path)}
    metadata["env_args"] = _arguments(data, path)
    return Layout(*sizes, (), float(rate), metadata)


def _episode(
    demo: h5py.Group, keys: list[str], layout: Layout, task: str, where: str, ledger: Ledger
) -> Trajectory:
    actions = float32(hdf5.numbers(demo, "actions", where), "actions", where, ledger)
    rewards = float32(hdf5.numbers(demo, "rewards", where).reshape(-1), "rewards", where, ledger)
    known_keys = ["actions", "rewards", "dones", "successes", "obs", "next_obs"]
    known_attributes = [KEY, "num_samples"]
    if KEY in demo.attrs:  # of a replay, which can be repeated
        known_keys += ["states", "gripper_action"]
        known_attributes += ["model_file", "initial_joint"]
    ledger.lose_others("", demo, known_keys, where)
    ledger.lose_others("the attribute", demo.attrs, known_attributes, where)
    ledger.lose_others("the attribute", hdf5.inner_attributes(demo), (), where)
    dones = flags(hdf5.numbers(demo, "dones", where), "dones", where) if "dones" in demo else None
    if dones is not None and len(dones) != len(actions):
        raise DataError(f"{where}: dones has {len(dones)} rows, but there are {len(actions)} actions.")
    if dones is not None and dones[:-1].any():
        ledger.lose("dones before the last step", where)
    count = demo.attrs.get("num_samples")
    if count is not None and count != len(actions):
        raise DataError(f"{where}: num_samples is {count}, but there are {len(actions)} actions.")
    if len(actions) == 0:
        raise DataError(f"{where} has no actions.")
    ours = hdf5.text(demo, KEY)
    if ours is not None:
        known = read_episode(ours, f"{where}, attribute {KEY}")
        if dones is not None:
            ledger.lose_changes({"dones": known["terminated"]}, {"dones": bool(dones[-1])}, where)
    else:
        ended = dones is not None and bool(dones[-1])
        known = {"provenance": unknown_origin(task, task), "terminated": ended}
    states = _states(demo, keys, where, ledger)
    points = _states(demo, [POINT + name for name in layout.keypoints], where, ledger)
    return Trajectory(
        observations=float32(vectors(states, where), "observations", where, ledger),
        actions=actions,
        rewards=rewards,
        successes=_successes(demo, rewards, dones, where, ledger),
        keypoints={name: points[POINT + name] for name in layout.keypoints},
        **known,
    )


def _states(demo: h5py.Group, keys: list[str], where: str, ledger: Ledger) -> dict[str, np.ndarray]:
    """Return each observation at every state, the one after the last action included."""
    obs = hdf5.group(demo, "obs", where)
    after = hdf5.group(demo, "next_obs", where) if "next_obs" in demo else None
    if after is not None:
        ledger.lose_others("the observation after a step", after, obs, where)
    states = {}
    for key in keys:
        before = hdf5.numbers(obs, key, where)
        if after is None:
            ledger.lose(LAST_STATE, where)
            last = before[-1:]
        else:
            later = hdf5.numbers(after, key, where)
            if later.shape != before.shape:
                raise DataError(f"{where}: obs/{key} has shape {before.shape}, next_obs/{key} {later.shape}.")
            if not np.array_equal(later[:-1], before[1:]):
                ledger.lose(f"next_obs/{key}, which is not obs/{key} one step later", where)
            last = later[-1:]
        states[key] = np.concatenate([before, last])
    return states


def _successes(
    demo: h5py.Group, rewards: np.ndarray, dones: np.ndarray | None, where: str, ledger: Ledger
) -> np.ndarray:
    if "successes" in demo:
        return flags(hdf5.numbers(demo, "successes", where), "successes", where)
    if np.isin(rewards, (0, 1)).all():
        ledger.note("a reward of 1 was taken for success, as in robomimic's sparse rewards")
        return rewards > 0
    ledger.note("the file does not say which steps were successes; none was assumed")
    return np.zeros(len(rewards), bool)


def _arguments(data: h5py.Group, path: Path) -> dict[str, Any]:
    text = hdf5.text(data, "env_args")
    return dict(parse(text, f"{path}, attribute env_args")) if text is not None else {}


def _environment(data: h5py.Group, path: Path) -> str:
    return str(_arguments(data, path).get("env_name", "unknown"))
