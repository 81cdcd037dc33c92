"""Frames of a recording: from its videos and arrays, cut to a segment, several cameras side by side.

Letters used in shapes: F frames, H and W height and width in pixels.
"""

import io
import itertools
from collections.abc import Sequence
from contextlib import closing

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robopref.data.footage import Footage
from robopref.data.interchange import hdf5
from robopref.errors import RenderingError
from robopref.training.video import Frames

HIGHEST = 480  # pixels: what is larger is reduced


def read_footage(cameras: Sequence[Footage], states: range, length: int | None = None) -> Frames:
    """Return the frames of some states of an episode, cameras side by side at equal height.

    Args:
        cameras: What to show, from left to right.
        states: Which states; where the episode's last has no frame of its own, the one before is shown.
        length: Actions of the episode, each of which needs a frame; None: as many as lead to the last state.

    Raises:
        RenderingError: A file is missing or damaged, or has fewer frames than actions; the message names it.
    """
    seen = [_read(footage, states, states[-1] if length is None else length) for footage in cameras]
    height = min(HIGHEST, *(frames.shape[1] for frames in seen))
    return np.concatenate([_scaled(frames, height) for frames in seen], axis=2)


def _read(footage: Footage, states: range, length: int) -> Frames:
    if not footage.file.is_file():
        raise RenderingError(f"The recording's file {footage.file} is missing.")
    if footage.frames < length:
        raise RenderingError(
            f"{footage.file} has {footage.frames} frames in {footage.dataset or footage.camera} for {length} "
            "actions; each needs one."
        )
    wanted = [min(state, footage.frames - 1) for state in states]
    if footage.dataset is None:
        return _of_video(footage, wanted)
    return _of_images(footage, wanted) if footage.file.suffix == ".parquet" else _of_array(footage, wanted)


def _of_video(footage: Footage, wanted: list[int]) -> Frames:
    """Decode from the first frame that is wanted, half a frame early so that no rounding skips it."""
    import imageio_ffmpeg

    start = footage.start_s + (wanted[0] - 0.5) / footage.fps
    before = ["-ss", f"{start:.6f}"] if start > 0 else []
    found: list[np.ndarray] = []
    take = {index - wanted[0] for index in wanted}
    try:
        with closing(
            imageio_ffmpeg.read_frames(
                footage.file,
                pix_fmt="rgb24",
                input_params=before,
                output_params=["-fps_mode", "passthrough", "-frames:v", str(max(take) + 1)],
            )
        ) as reader:
            width, height = next(reader)["size"]
            for index, raw in enumerate(itertools.islice(reader, max(take) + 1)):
                if index in take:
                    found.append(np.frombuffer(raw, np.uint8).reshape(height, width, 3))
    except (OSError, RuntimeError, ValueError, KeyError, IndexError, StopIteration) as error:
        said = (str(error).strip().splitlines() or [""])[-1]
        raise RenderingError(f"The recording's video {footage.file} cannot be read ({said}).") from error
    if len(found) < len(take):
        raise RenderingError(
            f"The recording's video {footage.file} is cut off or damaged: of the {len(take)} frames from "
            f"second {max(0.0, start):.1f} on, only {len(found)} can be read."
        )
    place = {index: number for number, index in enumerate(sorted(take))}
    return np.stack([found[place[index - wanted[0]]] for index in wanted])


def _of_array(footage: Footage, wanted: list[int]) -> Frames:
    assert footage.dataset is not None
    with hdf5.opened(footage.file) as file:
        entry = hdf5.entry(file, footage.dataset, str(footage.file))
        if not isinstance(entry, h5py.Dataset):
            raise RenderingError(f"{footage.file} has no {footage.dataset} any more.")
        frames = entry[wanted[0] : wanted[-1] + 1][np.array(wanted) - wanted[0]]
    return frames if frames.shape[3] == 3 else np.moveaxis(frames, 1, 3)


def _of_images(footage: Footage, wanted: list[int]) -> Frames:
    """Decode images that are encoded one by one, such as PNG; their paths are not followed."""
    from PIL import Image, UnidentifiedImageError

    where = f"The images '{footage.dataset}' of episode {footage.episode} in {footage.file}"
    try:
        own = [("episode_index", "==", footage.episode)]
        column = pq.read_table(footage.file, columns=[footage.dataset, "frame_index"], filters=own)
        if len(column) <= wanted[-1]:
            raise RenderingError(f"{where} are cut off: there are {len(column)} of {footage.frames}.")
        encoded = [column[footage.dataset][index]["bytes"].as_py() for index in wanted]
        if None in encoded:
            raise RenderingError(f"{where} lie in files of their own, which robopref does not read.")
        return np.stack([np.asarray(Image.open(io.BytesIO(each)).convert("RGB")) for each in encoded])
    except (pa.ArrowException, OSError, UnidentifiedImageError, KeyError, TypeError, ValueError) as error:
        raise RenderingError(f"{where} cannot be read ({error}).") from error


def _scaled(frames: Frames, height: int) -> np.ndarray:
    if frames.shape[1] == height:
        return frames
    from PIL import Image

    width = max(1, round(frames.shape[2] * height / frames.shape[1]))
    size = (width, height)
    return np.stack([np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BOX)) for f in frames])
