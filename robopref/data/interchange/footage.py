"""Where the camera frames of a data set are.

- LeRobotDataset v3: one mp4 for many episodes, each with the times at which it begins and ends
  (``videos/<key>/from_timestamp`` in ``meta/episodes``); or, where a feature's type is ``image``, one encoded
  image a step in the Parquet files of the steps, as a struct of ``bytes`` and ``path``.
- robomimic HDF5 and Minari: observations of three axes a step, uint8.

Source: ``lerobot/datasets`` of lerobot 0.4.4; ``robomimic/utils/dataset.py`` 0.3.0; Minari 0.5.4.
"""

from pathlib import Path
from typing import Any

import h5py

from robopref.data.footage import Cameras, Footage
from robopref.data.interchange import hdf5
from robopref.data.interchange.convert import format_of
from robopref.data.interchange.lerobot import episode_records, file_named, lerobot_info
from robopref.data.interchange.minari import MAIN, minari_folder, minari_names
from robopref.data.interchange.robomimic import demo_names
from robopref.errors import ConfigError, DataError, unknown_name


def cameras_of(path: Path) -> Cameras:
    """Return what the cameras of a data set of another format saw; empty where it holds no frames.

    The frames stay where they are; a conversion copies videos (:mod:`~.videos`).

    Raises:
        DataError: It is damaged.
    """
    return {"robomimic": _robomimic, "minari": _minari, "lerobot": _lerobot}[format_of(path)](path)


def chosen_cameras(cameras: Cameras, wanted: list[str] | None) -> list[str]:
    """Return the cameras to show, side by side: those that are wanted, or the first.

    Raises:
        ConfigError: There is no such camera.
    """
    for name in wanted or []:
        if name not in cameras:
            raise ConfigError(unknown_name("camera", name, cameras))
    return wanted or list(cameras)[:1]


def _lerobot(path: Path) -> Cameras:
    info = lerobot_info(path)
    records = episode_records(path)
    return {**lerobot_videos(path), **_lerobot_images(path, info, records)}


def _lerobot_images(path: Path, info: dict[str, Any], records: list[dict[str, Any]]) -> Cameras:
    files = [file_named(path, info, "data_path", record, "data") for record in records]
    lengths = [int(record["length"]) for record in records]
    return {
        _camera(key): [
            Footage(_camera(key), file, length, dataset=key, episode=episode)
            for episode, (file, length) in enumerate(zip(files, lengths, strict=True))
        ]
        for key in _features(info, "image")
    }


def _features(info: dict[str, Any], dtype: str) -> list[str]:
    return [key for key, feature in info["features"].items() if feature["dtype"] == dtype]


def _camera(key: str) -> str:
    return key.removeprefix("observation.").removeprefix("images.")


def lerobot_videos(path: Path) -> Cameras:
    """Return what the videos of a LeRobotDataset show.

    Raises:
        DataError: It does not say where they are.
    """
    info = lerobot_info(path)
    keys = _features(info, "video")
    if not keys:
        return {}
    records = episode_records(path, ("videos/",))
    fps = float(info["fps"])
    found: dict[str, list[Footage]] = {}
    for key in keys:
        name = _camera(key)
        try:
            found[name] = [
                Footage(
                    name,
                    file_named(path, info, "video_path", record, f"videos/{key}", video_key=key),
                    int(record["length"]),
                    float(record[f"videos/{key}/from_timestamp"]),
                    fps,
                )
                for record in records
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path / 'meta/episodes'} does not say where the frames of '{key}' are: {error!r}."
            ) from error
    return found


def video_keys(path: Path) -> dict[str, str]:
    """Return what a LeRobotDataset calls each of its cameras."""
    return {_camera(key): key for key in _features(lerobot_info(path), "video")}


def _robomimic(path: Path) -> Cameras:
    with hdf5.opened(path) as file:
        data = hdf5.group(file, "data", str(path))
        episodes = [hdf5.group(data, name, str(path)) for name in demo_names(data, path)]
        return _images(path, [(episode, "obs") for episode in episodes])


def _minari(path: Path) -> Cameras:
    folder = minari_folder(path)
    with hdf5.opened(folder / MAIN) as file:
        episodes = [hdf5.group(file, name, str(folder / MAIN)) for name in minari_names(folder)]
        return _images(folder / MAIN, [(episode, "observations") for episode in episodes])


def _images(path: Path, episodes: list[tuple[h5py.Group, str]]) -> Cameras:
    """Return the arrays of pixels that every episode has."""
    each = [_pixels(hdf5.entry(episode, key, f"{path}, {episode.name}")) for episode, key in episodes]
    names = [name for name in (each[0] if each else {}) if all(name in episode for episode in each)]
    return {
        name: [
            Footage(name, path, len(entry), dataset=str(entry.name))
            for entry in (episode[name] for episode in each)
        ]
        for name in sorted(names)
    }


def _pixels(holder: h5py.Group | h5py.Dataset | None) -> dict[str, h5py.Dataset]:
    if not isinstance(holder, h5py.Group):
        return {}
    found: dict[str, h5py.Dataset] = {}

    def visit(key: str, entry: object) -> None:
        if not isinstance(entry, h5py.Dataset) or entry.ndim != 4 or entry.dtype != "uint8":
            return
        if 3 in (entry.shape[1], entry.shape[3]) and not entry.external and not entry.is_virtual:
            found[key.removesuffix("_image")] = entry

    holder.visititems(visit)  # follows no link to another file
    return found
