"""Where the camera frames of an episode are that another tool recorded, or what they can be drawn from."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


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

    Raises:
        ValueError: They begin at no time.
    """

    camera: str
    file: Path
    frames: int
    start_s: float = 0.0
    fps: float = 0.0
    dataset: str | None = None
    episode: int = 0

    def __post_init__(self):
        if not 0 <= self.start_s < math.inf:
            raise ValueError(f"the frames of '{self.camera}' cannot begin at {self.start_s} s")


Cameras = Mapping[str, list[Footage]]
"""By camera, one for each episode, in the order in which they are read."""


@dataclass(frozen=True)
class Scene:
    """What an episode that another tool simulated can be drawn from again.

    Attributes:
        file: The HDF5 file.
        episode: Name of its group there.
        environment: What the file calls the environment; empty where it does not say.
        options: With which it was made.
        seed: Of its reset; None where it is not known.
        kind: What draws it: "model", the scene and the states that the file holds; "robosuite", states in
            robopref's scene of the same task; "environment", the environment that the file names.
        problem: Why the episode cannot be drawn, as far as the file tells; else empty.
    """

    file: Path
    episode: str
    environment: str
    options: Mapping[str, float | int | str]
    seed: int | None
    kind: Literal["model", "robosuite", "environment"]
    problem: str = ""
