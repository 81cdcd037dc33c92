"""Where the camera frames of an episode are that another tool recorded."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Footage:
    """What one camera saw of one episode.

    Attributes:
        camera: Its name.
        file: The mp4, the HDF5 file, or the Parquet file with encoded images.
        frames: How many frames there are: frame t belongs to state t.
        start_s: Where they begin in the mp4.
        fps: Frames per second of the mp4.
        dataset: Name of the array in the HDF5 file, or of the column in the Parquet file; None for an mp4.
        episode: In a Parquet file, whose ``episode_index`` has the frames.
    """

    camera: str
    file: Path
    frames: int
    start_s: float = 0.0
    fps: float = 0.0
    dataset: str | None = None
    episode: int = 0


Cameras = Mapping[str, list[Footage]]
"""By camera, one for each episode, in the order in which they are read."""
