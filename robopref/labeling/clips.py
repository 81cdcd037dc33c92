"""From a segment of an episode to a clip that a browser plays.

The recording's own video where there is one, else a replay in the simulator or its states drawn again, else a
drawing of the keypoints, else curves of the observations, with the reason. A clip is named by a hash of all
that it is made from, so it can be kept and found again.

Letters used in shapes: F frames, H and W height and width in pixels.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import gymnasium
import numpy as np
from jaxtyping import Float

from robopref import files
from robopref.data.footage import Footage, Scene
from robopref.data.store import TrajectoryStore
from robopref.data.trajectory import Trajectory
from robopref.errors import DataError, RenderingError
from robopref.labeling.plots import draw_plots
from robopref.training.video import (
    MAX_FPS,
    Frames,
    draw_keypoints,
    environment_options,
    read_video,
    rendering_environment,
    replay_in,
    write_video,
)

VERSION = 1  # of how clips are made: part of their names
RECORDING, RENDERER, KEYPOINTS, PLOTS = "recording", "renderer", "keypoints", "plots"

ALL_WAYS = (RECORDING, RENDERER, KEYPOINTS, PLOTS)  # the best first


@dataclass(frozen=True)
class Segment:
    """Which steps of which episode: ``length`` actions from ``start`` on."""

    episode: int
    start: int
    length: int

    def __str__(self) -> str:
        return f"steps {self.start} to {self.start + self.length} of episode {self.episode}"


@dataclass(frozen=True)
class Clip:
    """All that is needed to film one segment, in any process.

    Attributes:
        segment: What is shown.
        trajectory: The whole episode, which a replay needs.
        control_hz: Actions per second.
        view: Options of the environment that concern drawing, such as width, height and camera.
        bounds: What drawings of keypoints show, (low, high) in metres: the same for all clips of a store.
        ranges: The lowest and highest value of each number of an observation, likewise.
        video: The recording's own video, if it has one.
        footage: What the chosen cameras of a recording in another format saw, from left to right.
        scene: What an episode in another format can be drawn from again, if it was simulated.
        path: Where to write the clip.
    """

    segment: Segment
    trajectory: Trajectory
    control_hz: float
    view: dict[str, float | int | str]
    bounds: tuple[tuple[float, ...], tuple[float, ...]] | None
    ranges: tuple[tuple[float, ...], tuple[float, ...]]
    video: Path | None
    footage: tuple[Footage, ...]
    scene: Scene | None
    path: Path

    def __str__(self) -> str:
        return f"the clip of {self.segment}"


@dataclass(frozen=True)
class Filmed:
    """How a clip came about, kept beside it as JSON.

    Attributes:
        drawn_by: "recording", "renderer", "keypoints" or "plots".
        reason: Why nothing better drew it; empty where the best way worked.
        fps: Frames per second, at the robot's own speed.
        frames: How many there are.
    """

    drawn_by: str
    reason: str
    fps: float
    frames: int


@dataclass(frozen=True)
class Library:
    """The clips of one trajectory store: what they are called and where they are kept.

    Attributes:
        store: The episodes.
        folder: Where clips are kept.
        view: Options of the environment that concern drawing.
        cameras: What the cameras to show saw, where the data set that the store was made of has any.
        scenes: What its episodes can be drawn from again, where they were simulated.
    """

    store: TrajectoryStore
    folder: Path
    view: Mapping[str, float | int | str] = field(default_factory=dict)
    cameras: Sequence[Sequence[Footage]] = ()
    scenes: Sequence[Scene] = ()

    def clip(self, segment: Segment) -> Clip:
        """Describe the clip of a segment."""
        trajectory = self.store.episode(segment.episode)
        video = None if trajectory.frames is None else self.store.path / trajectory.frames
        bounds = self._bounds() if trajectory.keypoints else None
        footage = tuple(episodes[segment.episode] for episodes in self.cameras)
        scene = self.scenes[segment.episode] if self.scenes else None
        return Clip(
            segment,
            trajectory,
            self.store.control_hz,
            dict(self.view),
            bounds,
            self._ranges,
            video,
            footage,
            scene,
            self.folder / f"{self._key(segment, trajectory, footage, scene)}.mp4",
        )

    def _key(
        self, segment: Segment, trajectory: Trajectory, footage: Sequence[Footage], scene: Scene | None
    ) -> str:
        words = [VERSION, asdict(segment), dict(self.view), self.store.control_hz, trajectory.frames]
        words.append(trajectory.provenance.to_json())
        words += [[str(each.file), each.camera, each.dataset, each.start_s] for each in footage]
        if scene is not None:
            words.append([str(scene.file), scene.episode, scene.environment, dict(scene.options)])
        digest = hashlib.sha256(json.dumps(words, sort_keys=True).encode())
        digest.update(trajectory.actions.tobytes())
        if not trajectory.keypoints:
            digest.update(trajectory.observations.tobytes())
        for name in sorted(trajectory.keypoints):
            digest.update(trajectory.keypoints[name].tobytes())
        return digest.hexdigest()[:32]

    def _bounds(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the box around the keypoints, with the odd outlier cut off."""
        return _span(
            np.concatenate([self._first_rows(f"keypoints/{name}") for name in self.store.layout.keypoints])
        )

    @cached_property
    def _ranges(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the range of each number of an observation, with the odd outlier cut off."""
        return _span(self._first_rows("observations"))

    def _first_rows(self, name: str) -> np.ndarray:
        """Return an array of the first hundred episodes."""
        last = min(len(self.store), 100) - 1
        return self.store.array(name)[: self.store.row_of(last, int(self.store.lengths[last])) + 1]


def _span(values: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    low, high = np.percentile(values, (0.5, 99.5), axis=0)
    return tuple(low.tolist()), tuple(high.tolist())


def steps_per_frame(control_hz: float) -> int:
    """Return how many actions lie between two frames of a clip: as few as browsers play in real time."""
    return max(1, math.ceil(control_hz / MAX_FPS))


def film(clip: Clip, *, only: Sequence[str] = ALL_WAYS, reason: str = "") -> Filmed:
    """Make a clip in the best way that works, and write how it was made beside it.

    Args:
        clip: What to film, and where to write it.
        only: The ways that may be tried.
        reason: Why a better way was not tried.

    Raises:
        RenderingError: No way works, or the clip cannot be written; the message gives every reason.
    """
    every = steps_per_frame(clip.control_hz)
    reasons = [reason] if reason else []
    for way in only:
        if way == RECORDING and clip.video is None and not clip.footage:
            continue
        try:
            frames = WAYS[way](clip, every)
        except (RenderingError, DataError) as error:
            reasons.append(str(error))
            continue
        filmed = Filmed(way, " ".join(reasons), clip.control_hz / every, len(frames))
        write_video(clip.path, frames, fps=filmed.fps)
        files.write_json(clip.path.with_suffix(".json"), asdict(filmed))
        return filmed
    raise RenderingError(f"There is no way to show {clip.segment}. {' '.join(reasons)}")


def kept(path: Path) -> Filmed | None:
    """Return how a clip was made that is there already and as good as it can be, else None.

    A clip that had to be drawn is made anew, since what stopped the renderer may have been cured.
    """
    about = path.with_suffix(".json")
    if not (path.is_file() and about.is_file()):
        return None
    try:
        filmed = Filmed(**files.read_json(about))
    except (DataError, TypeError):  # of another version, or damaged: make it again
        return None
    return None if filmed.reason else filmed


def _recorded(clip: Clip, every: int) -> Frames:
    """Cut the segment out of the recording's videos."""
    segment = clip.segment
    if clip.footage:
        from robopref.labeling.footage import read_footage

        wanted = range(segment.start, segment.start + segment.length + 1, every)
        return read_footage(clip.footage, wanted, clip.trajectory.length)
    assert clip.video is not None
    steps = np.arange(segment.start, segment.start + segment.length + 1, every)
    return read_video(clip.video, steps, clip.trajectory.length)


def _rendered(clip: Clip, every: int) -> Frames:
    provenance, segment = clip.trajectory.provenance, clip.segment
    if clip.scene is not None:
        from robopref.labeling.rerendering import rerender

        wanted = range(segment.start, segment.start + segment.length + 1, every)
        return rerender(clip.scene, clip.trajectory, wanted, clip.view)
    options = tuple({**environment_options(provenance), **clip.view}.items())
    return replay_in(
        _environment(provenance.env_id, options),
        provenance,
        clip.trajectory.actions[: segment.start + segment.length],
        range(segment.start, segment.start + segment.length + 1, every),
    )


@lru_cache(maxsize=1)  # to make one takes as long as to draw half a clip
def _environment(env_id: str, options: tuple[tuple[str, float | int | str], ...]) -> gymnasium.Env:
    return rendering_environment(env_id, dict(options))


def _drawn(clip: Clip, every: int) -> Frames:
    states = slice(clip.segment.start, clip.segment.start + clip.segment.length + 1)
    points = {name: path[states] for name, path in clip.trajectory.keypoints.items()}
    bounds: Float[np.ndarray, "2 3"] | None = None if clip.bounds is None else np.array(clip.bounds)
    return draw_keypoints(points, every=every, bounds=bounds)


def _plotted(clip: Clip, every: int) -> Frames:
    states = slice(clip.segment.start, clip.segment.start + clip.segment.length + 1)
    return draw_plots(clip.trajectory.observations[states], np.array(clip.ranges), every=every)


WAYS = {RECORDING: _recorded, RENDERER: _rendered, KEYPOINTS: _drawn, PLOTS: _plotted}
