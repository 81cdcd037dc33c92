"""The videos and the statistics of a LeRobotDataset v3.0 that is being written.

LeRobot finds frame t of an episode at ``from_timestamp`` + t / fps of its camera's mp4, so a video must have
a frame for each action, at the rate of the actions.

Source: ``lerobot/datasets`` of lerobot 0.4.4.

Letters used in shapes: T steps, D numbers a step.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from robopref.data.footage import Cameras, Footage
from robopref.data.interchange.videos import copy_files
from robopref.errors import DataError

VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
_LOOKED_AT, _EVERY_PIXEL = 10, 4  # statistics are of so many frames of an episode, and of pixels so far apart


def statistics(values: np.ndarray) -> dict[str, list[Any]]:
    """Return what LeRobot keeps of a feature, number by number: extremes, mean, deviation, quantiles."""
    numbers = values.reshape(len(values), -1).astype(np.float64)
    found = {
        "min": numbers.min(axis=0).tolist(),
        "max": numbers.max(axis=0).tolist(),
        "mean": numbers.mean(axis=0).tolist(),
        "std": numbers.std(axis=0).tolist(),
        "count": [len(numbers)],
    }
    levels = np.quantile(numbers, list(QUANTILES.values()), axis=0)
    return found | {name: level.tolist() for name, level in zip(QUANTILES, levels, strict=True)}


class LeRobotVideos:
    """Videos in the places that LeRobot looks for them, and what it wants to know of them.

    Args:
        cameras: The videos; they are copied as they are.
        control_hz: Actions per second.
        folder: The data set.

    Raises:
        DataError: A video has another rate.
    """

    def __init__(self, cameras: Cameras, control_hz: float, folder: Path):
        self._places: dict[str, list[Footage]] = {}
        self._pixels: dict[str, list[np.ndarray]] = {}
        self._about: dict[str, dict[str, Any]] = {}
        for camera, places in cameras.items():
            key = f"observation.images.{camera}"
            for episode, place in enumerate(places):
                if not math.isclose(place.fps, control_hz, rel_tol=1e-3):
                    raise DataError(
                        f"{place.file}: episode {episode} of '{camera}' has {place.fps:g} frames a second "
                        f"and {control_hz:g} actions; LeRobot wants as many."
                    )
            name = VIDEO_PATH.rpartition("/")[2].replace("file_index", "number")
            chunk = folder / "videos" / key / "chunk-000"
            self._places[key] = copy_files(places, chunk, name)
            self._pixels[key] = [_pixels(place) for place in self._places[key]]
            self._about[key] = _about(self._places[key][0])

    def features(self) -> dict[str, dict[str, Any]]:
        """Return the features of ``meta/info.json``."""
        return self._about

    def record(self, episode: int) -> dict[str, Any]:
        """Return what the table of episodes says of an episode's videos."""
        found: dict[str, Any] = {}
        for key, places in self._places.items():
            place = places[episode]
            found |= {
                f"videos/{key}/chunk_index": 0,
                f"videos/{key}/file_index": int(place.file.stem.removeprefix("file-")),
                f"videos/{key}/from_timestamp": place.start_s,
                f"videos/{key}/to_timestamp": place.start_s + place.frames / place.fps,
            }
            of = _of_pixels(self._pixels[key][episode], place.frames)
            found |= {f"stats/{key}/{name}": value for name, value in of.items()}
        return found

    def statistics(self) -> dict[str, dict[str, Any]]:
        """Return those of all episodes, for ``meta/stats.json``."""
        return {
            key: _of_pixels(np.concatenate(seen), sum(place.frames for place in self._places[key]))
            for key, seen in self._pixels.items()
        }


def _of_pixels(pixels: np.ndarray, frames: int) -> dict[str, Any]:
    """Return statistics of pixels (N, 3) in the shape that LeRobot gives them: channel, 1, 1."""
    found = statistics(pixels)
    return {
        name: [frames] if name == "count" else [[[number]] for number in numbers]
        for name, numbers in found.items()
    }


def _pixels(place: Footage) -> np.ndarray:
    """Return some pixels (N, 3), in [0, 1], of some of an episode's frames."""
    import imageio_ffmpeg

    every = max(1, place.frames // _LOOKED_AT)
    reader = imageio_ffmpeg.read_frames(
        place.file,
        pix_fmt="rgb24",
        input_params=["-ss", f"{place.start_s:.6f}"] if place.start_s else [],
        output_params=["-frames:v", str(place.frames)],
    )
    width, height = next(reader)["size"]
    seen = [
        np.frombuffer(raw, np.uint8).reshape(height, width, 3)[::_EVERY_PIXEL, ::_EVERY_PIXEL]
        for number, raw in enumerate(reader)
        if number % every == 0
    ]
    return np.concatenate([part.reshape(-1, 3) for part in seen]) / 255


def _about(place: Footage) -> dict[str, Any]:
    """Return a camera's feature: its size, and how its video is encoded."""
    import imageio_ffmpeg

    reader = imageio_ffmpeg.read_frames(place.file)
    about = next(reader)
    reader.close()
    width, height = about["size"]
    return {
        "dtype": "video",
        "shape": [height, width, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": height,
            "video.width": width,
            "video.codec": about["codec"],
            "video.pix_fmt": about["pix_fmt"].partition("(")[0],
            "video.is_depth_map": False,
            "video.fps": int(place.fps) if float(place.fps).is_integer() else place.fps,
            "video.channels": 3,
            "has_audio": False,
        },
    }
