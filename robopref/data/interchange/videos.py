"""The videos that belong to a store: mp4 files of any number of cameras, a frame for each action.

    frames/cameras.json            of each camera and episode: its file, where it begins, how many frames; and
                                   the view that a camera was filmed from, where robopref filmed it
    frames/<camera>/file-000.mp4   whole files; one may hold many episodes

Conversions copy these files and never decode them, so a frame is the same after any number of them.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robopref.data.footage import Cameras, Footage
from robopref.errors import DataError
from robopref.files import read_json, write_json

FORMAT, VERSION = "robopref-cameras", 1
FOLDER = "frames"
INDEX = "cameras.json"


def read_videos(store: Path, episodes: int) -> Cameras:
    """Return what the videos of a store show; empty where it has none.

    Args:
        store: Its folder.
        episodes: How many it holds.

    Raises:
        DataError: The index is damaged, of another version, or speaks of other episodes.
    """
    index = store / FOLDER / INDEX
    held = _index(store)
    try:
        found = {
            str(camera): [_footage(store / FOLDER, str(camera), place) for place in places]
            for camera, places in held["cameras"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{index} is damaged: {error!r}.") from error
    for camera, places in found.items():
        if len(places) != episodes:
            raise DataError(
                f"{index}: camera '{camera}' saw {len(places)} episodes, the store holds {episodes}."
            )
    return found


def read_views(store: Path) -> dict[str, Any]:
    """Return the view that each camera was, or is being, filmed from, where robopref filmed it.

    Raises:
        DataError: The index is damaged or of another version.
    """
    views = _index(store).get("views", {})
    if not isinstance(views, dict):
        raise DataError(f"{store / FOLDER / INDEX} is damaged: its views are {views!r}.")
    return views


def _index(store: Path) -> dict[str, Any]:
    index = store / FOLDER / INDEX
    if not index.exists():
        return {"cameras": {}}
    held = read_json(index)
    if not isinstance(held, dict) or (held.get("format"), held.get("version")) != (FORMAT, VERSION):
        raise DataError(f"{index} is no {FORMAT} {VERSION}.")
    return held


def _footage(folder: Path, camera: str, place: Mapping[str, Any]) -> Footage:
    file = folder / str(place["file"])
    if not file.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{place['file']} leaves the folder")
    return Footage(camera, file, int(place["frames"]), float(place["start_s"]), float(place["fps"]))


def write_videos(store: Path, cameras: Cameras, views: Mapping[str, Any]) -> None:
    """Copy videos to a store, and write its index.

    Args:
        store: Its folder.
        cameras: The videos.
        views: As of :func:`read_views`.

    Raises:
        DataError: A file cannot be written.
    """
    if not cameras:
        return
    copied = {
        camera: copy_files(places, store / FOLDER / camera, "file-{number:03d}.mp4")
        for camera, places in cameras.items()
    }
    index_videos(store, copied, views)


def index_videos(store: Path, cameras: Cameras, views: Mapping[str, Any] | None = None) -> None:
    """Write the index of videos that lie in the store already, and what cameras were filmed from."""
    folder = store / FOLDER
    places = {
        camera: [
            {
                "file": place.file.relative_to(folder).as_posix(),
                "start_s": place.start_s,
                "fps": place.fps,
                "frames": place.frames,
            }
            for place in seen
        ]
        for camera, seen in cameras.items()
    }
    about = {"format": FORMAT, "version": VERSION, "cameras": places, "views": dict(views or {})}
    write_json(folder / INDEX, about)


def copy_files(places: list[Footage], folder: Path, name: str) -> list[Footage]:
    """Copy each file once into a folder, numbered in order; return the same footage there."""
    files = {file: number for number, file in enumerate(dict.fromkeys(place.file for place in places))}
    targets = {file: folder / name.format(number=number) for file, number in files.items()}
    for file, target in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    return [
        Footage(place.camera, targets[place.file], place.frames, place.start_s, place.fps) for place in places
    ]


def check_videos(cameras: Cameras, keys: Mapping[str, str]) -> None:
    """Refuse videos that are missing, damaged, or shorter than the table of their episodes.

    Args:
        cameras: What they should show.
        keys: What the data set calls each camera.

    Raises:
        DataError: The message names the file, the episode and the key.
    """
    counted: dict[Path, int] = {}
    for camera, places in cameras.items():
        for episode, place in enumerate(places):
            where = f"{place.file}: episode {episode} of '{keys.get(camera, camera)}'"
            if place.file not in counted:
                counted[place.file] = _count(place.file, where)
            first = round(place.start_s * place.fps)
            if first + place.frames > counted[place.file]:
                raise DataError(
                    f"{where} has {place.frames} rows, for frames {first} to {first + place.frames - 1}, but "
                    f"the video is shorter than its table: it has {counted[place.file]} frames."
                )


def _count(file: Path, where: str) -> int:
    import imageio_ffmpeg

    if not file.is_file():
        raise DataError(f"{where} has no video: the file is missing.")
    try:
        return int(imageio_ffmpeg.count_frames_and_secs(file)[0] or 0)
    except (RuntimeError, OSError, ValueError) as error:
        raise DataError(f"{where}: the video cannot be read.") from error
