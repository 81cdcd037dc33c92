"""From a stored episode to a video: rendered frames, or a drawing of the keypoints where nothing can render.

An episode keeps no frames, it keeps what replays it: environment, seed and actions. So frames are made
afterwards, of the episodes that somebody wants to see, and the hash of the initial state says whether the
replay starts where the recording did.

Letters used in shapes: T actions of an episode, F frames, H and W height and width in pixels, A action
entries.
"""

import itertools
import math
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from jaxtyping import Float, Int, UInt8

from robopref.data.trajectory import Provenance, Trajectory
from robopref.errors import ConfigError, DataError, RenderingError
from robopref.training.rollout import ENVIRONMENT_PREFIX, make_environment
from robopref.training.workers import WorkerDiedError, WorkerPool, default_workers

Frames: TypeAlias = UInt8[np.ndarray, "F H W 3"]

MAX_FPS = 40.0
# A missing OpenGL library shows as an AttributeError of a None inside PyOpenGL, a bad one in other ways.
RENDERING_FAILURES = (ConfigError, gymnasium.error.Error, RuntimeError, ImportError, OSError, AttributeError)

PANEL = 240  # pixels per side of each projection of the keypoint drawing
COLOURS = {"hand": (37, 99, 235), "object": (217, 119, 6), "goal": (22, 163, 74)}
OTHER_COLOUR = (120, 113, 108)
VIEWS = (("from above", 0, 1, "x", "y"), ("from the side", 1, 2, "y", "z"))


@dataclass(frozen=True)
class Recording:
    """How a video came about.

    Attributes:
        drawn_by: "renderer", "keypoints", or ``None`` where no video could be written.
        reason: Why the renderer did not draw; ``None`` where it did.
        fps: Frames per second; the video runs at the speed of the robot.
        every: Steps from one frame to the next; the first frame is the initial state.
    """

    drawn_by: str | None
    reason: str | None
    fps: float
    every: int


def record_video(path: Path | str, trajectory: Trajectory, *, control_hz: float) -> Recording:
    """Write an episode as mp4: replayed and rendered, or its keypoints drawn where rendering fails.

    Args:
        path: File to write, ending in ".mp4".
        trajectory: The episode; its provenance and actions are enough to replay it.
        control_hz: Actions per second.

    Raises:
        DataError: The replay starts in another state than the episode did.
    """
    every, fps = _pace(control_hz)
    try:
        frames = replay_frames(trajectory.provenance, trajectory.actions, every=every)
    except RenderingError as error:
        return draw_video(path, trajectory, control_hz=control_hz, reason=str(error))
    return _written(path, frames, Recording("renderer", None, fps, every))


@dataclass(frozen=True)
class Film:
    """What :func:`record_video` is to be called with."""

    path: Path
    trajectory: Trajectory
    control_hz: float

    def __str__(self) -> str:
        return f"the video of seed {self.trajectory.provenance.seed}"


def record_videos(films: Sequence[Film], *, workers: int | None = None) -> list[Recording]:
    """Call :func:`record_video` for each film, in workers: a broken OpenGL driver may end its process.

    Args:
        films: What to write.
        workers: Processes; 0 for this one; ``None`` for as many as there are films and CPUs.
    """
    if not films:
        return []
    limit = max(1, default_workers()) if workers is None else workers
    try:
        with WorkerPool(_record, min(limit, len(films))) as pool, closing(pool.map(films)) as recordings:
            return list(recordings)
    except WorkerDiedError as error:
        reason = str(error)
        return [draw_video(f.path, f.trajectory, control_hz=f.control_hz, reason=reason) for f in films]


def _record(film: Film) -> Recording:
    return record_video(film.path, film.trajectory, control_hz=film.control_hz)


def draw_video(path: Path | str, trajectory: Trajectory, *, control_hz: float, reason: str) -> Recording:
    """Write a drawing of an episode's keypoints as mp4; ``reason`` says why it is not rendered."""
    every, fps = _pace(control_hz)
    try:
        frames = draw_keypoints(trajectory.keypoints, every=every)
    except RenderingError as error:
        return Recording(None, f"{reason} {error}", fps, every)
    return _written(path, frames, Recording("keypoints", reason, fps, every))


def _pace(control_hz: float) -> tuple[int, float]:
    """Return steps per frame and frames per second: real time, at 40 frames per second or fewer."""
    every = max(1, math.ceil(control_hz / MAX_FPS))
    return every, control_hz / every


def _written(path: Path | str, frames: Frames, recording: Recording) -> Recording:
    try:
        write_video(path, frames, fps=recording.fps)
    except RenderingError as error:  # the episode is worth keeping without its video
        return replace(recording, drawn_by=None, reason=str(error))
    return recording


def replay_frames(
    provenance: Provenance, actions: Float[np.ndarray, "T A"], *, every: int = 1, start: int = 0
) -> Frames:
    """Replay a stored episode and render it: the state at ``start`` and each ``every``-th after it.

    Args:
        provenance: The episode's provenance.
        actions: Its actions as recorded.
        every: Steps from one frame to the next.
        start: Step of the first frame; what comes before is replayed, but not rendered.

    Raises:
        DataError: The environment starts in another state than the episode did (other package versions).
        RenderingError: The environment cannot be made or cannot render here; the message says why.
    """
    env = rendering_environment(provenance.env_id, environment_options(provenance))
    try:
        return replay_in(env, provenance, actions, range(start, len(actions) + 1, every))
    finally:
        env.close()


def replay_in(
    env: gymnasium.Env,
    provenance: Provenance,
    actions: Float[np.ndarray, "T A"],
    steps: Collection[int],
) -> Frames:
    """Do what :func:`replay_frames` does in an environment that is kept for the next episode.

    Rendered are the states of the given steps, 0 to T, in their order in time.
    """
    env.reset(seed=provenance.seed)
    _check_start(env, provenance)
    frames = [_render(env)] if 0 in steps else []
    for step, action in enumerate(actions, start=1):
        env.step(action)
        if step in steps:
            frames.append(_render(env))
    return np.stack(frames)


def environment_options(provenance: Provenance) -> dict[str, Any]:
    """Return what the episode's environment was made with."""
    return {
        name.removeprefix(ENVIRONMENT_PREFIX): value
        for name, value in provenance.options.items()
        if name.startswith(ENVIRONMENT_PREFIX)
    }


def rendering_environment(env_id: str, options: Mapping[str, Any]) -> gymnasium.Env:
    """Make an environment that draws.

    Raises:
        RenderingError: It cannot be made here; the message says why.
    """
    try:
        return make_environment(env_id, options, render_mode="rgb_array")
    except RENDERING_FAILURES as error:
        raise RenderingError(f"{type(error).__name__}: {error}") from error


def _check_start(env: gymnasium.Env, provenance: Provenance) -> None:
    simulator: Any = env.unwrapped
    got = simulator.state_hash()
    if got != provenance.initial_state_hash:
        raise DataError(
            f"{provenance.env_id} with seed {provenance.seed} starts in state {got[:12]}, but the episode "
            f"was recorded from {provenance.initial_state_hash[:12]}, with {provenance.versions}. "
            "Replay it with those versions."
        )


def _render(env: gymnasium.Env) -> UInt8[np.ndarray, "H W 3"]:
    try:
        frame: Any = env.render()
    except RENDERING_FAILURES as error:
        raise RenderingError(f"{type(error).__name__}: {error}") from error
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise RenderingError(f"render() must return a (H, W, 3) uint8 array, got {type(frame).__name__}.")
    return frame.copy()


def read_video(path: Path, steps: Int[np.ndarray, " F"], length: int) -> Frames:
    """Read the frames of some steps from a recording's video, whose frames are spread evenly over the states.

    Args:
        path: The video.
        steps: Ascending numbers of states.
        length: Actions of the episode, which has one state more.

    Raises:
        RenderingError: The video is missing or cannot be read.
    """
    import imageio_ffmpeg

    if not path.is_file():
        raise RenderingError(f"The recording's video {path} is missing.")
    found: dict[int, Frames] = {}
    try:
        count = imageio_ffmpeg.count_frames_and_secs(path)[0] or 0
        wanted = np.rint(steps / length * (count - 1)).astype(int).tolist()
        with closing(imageio_ffmpeg.read_frames(path, pix_fmt="rgb24")) as reader:
            width, height = next(reader)["size"]  # the first item tells about the video
            for index, raw in enumerate(itertools.islice(reader, wanted[-1] + 1)):
                if index in wanted:
                    found[index] = np.frombuffer(raw, np.uint8).reshape(1, height, width, 3)
        return np.concatenate([found[index] for index in wanted])
    except (OSError, RuntimeError, ValueError, KeyError, IndexError, StopIteration) as error:
        said = (str(error).strip().splitlines() or [""])[-1]
        raise RenderingError(f"The recording's video {path.name} cannot be read ({said}).") from error


def write_video(path: Path | str, frames: Frames, *, fps: float) -> None:
    """Write H.264 in mp4 with 4:2:0 colour, which browsers play; odd sizes are extended by a row or column.

    The file appears under its name when it is whole.

    Raises:
        RenderingError: There are no frames, or ffmpeg cannot write the file.
    """
    import imageio_ffmpeg

    path = Path(path)
    if path.suffix != ".mp4":
        raise RenderingError(f"Videos are written as .mp4, got {path}.")
    if len(frames) == 0 or fps <= 0:
        raise RenderingError(
            f"A video needs frames and a positive rate, got {len(frames)} frames at {fps} per second."
        )
    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = imageio_ffmpeg.write_frames(
            temporary,
            (frames.shape[2], frames.shape[1]),
            fps=fps,  # pyright: ignore[reportArgumentType]  # its docstring allows floats
            macro_block_size=2,
            ffmpeg_log_level="fatal",
            output_params=["-movflags", "+faststart"],  # the index first, so that a browser starts at once
        )
        writer.send(None)
        with closing(writer):
            for frame in frames:
                writer.send(np.ascontiguousarray(frame))
        written, _ = imageio_ffmpeg.count_frames_and_secs(temporary)  # ffmpeg's own exit code is not reported
        if written != len(frames):
            raise RenderingError(
                f"Only {written} of {len(frames)} frames of {path} were written: is the disk full?"
            )
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        if isinstance(error, RenderingError):
            raise
        raise RenderingError(f"The video {path} cannot be written: {error}") from error
    finally:
        with suppress(OSError):  # it is not there, nor is perhaps its folder
            temporary.unlink()


def draw_keypoints(
    keypoints: Mapping[str, Float[np.ndarray, "R 3"]],
    *,
    every: int = 1,
    bounds: Float[np.ndarray, "2 3"] | None = None,
) -> Frames:
    """Draw the paths of the keypoints from above and from the side, one frame per ``every`` states.

    Args:
        keypoints: Name to positions in metres, world frame, R = T + 1 states; a hand, an object, a goal.
        every: Steps from one frame to the next.
        bounds: Lowest and highest corner of what is drawn, in metres, so that several drawings have one
            scale; None fits the drawing to these paths.

    Raises:
        RenderingError: There is no keypoint to draw.
    """
    if not keypoints:
        raise RenderingError("This episode has neither a renderer nor keypoints to draw.")
    paths = np.stack([np.asarray(points, dtype=np.float64) for points in keypoints.values()])  # (K, R, 3)
    low, high = (paths.min(axis=(0, 1)), paths.max(axis=(0, 1))) if bounds is None else bounds
    centre = (low + high) / 2
    extent = max(0.1, float((high - low).max())) * 1.3  # metres across a panel
    pixels = (paths - centre) / extent * PANEL
    names = list(keypoints)
    return np.stack([_draw(names, pixels, step, extent) for step in range(0, paths.shape[1], every)])


def _draw(names: Sequence[str], pixels: Float[np.ndarray, "K R 3"], step: int, extent: float) -> np.ndarray:
    """Draw one frame, at twice the size and then reduced, which smooths the lines."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (4 * PANEL, 2 * PANEL), (255, 255, 255))
    draw = ImageDraw.Draw(image)
    for panel, (_, across, up, _, _) in enumerate(VIEWS):
        origin = np.array([2 * PANEL * panel + PANEL, PANEL])
        for name, path in zip(names, pixels, strict=True):
            colour = COLOURS.get(name, OTHER_COLOUR)
            trail = origin + 2 * path[: step + 1, (across, up)] * (1, -1)
            x, y = trail[-1]
            if len(trail) > 1 and name != "goal":
                faint = tuple((value + 2 * 255) // 3 for value in colour)
                draw.line([tuple(point) for point in trail], fill=faint, width=3)
            if name == "goal":  # a ring, so that what stands on it stays visible
                draw.ellipse((x - 14, y - 14, x + 14, y + 14), outline=colour, width=5)
            else:
                draw.ellipse((x - 9, y - 9, x + 9, y + 9), fill=colour)
    draw.line((2 * PANEL, 0, 2 * PANEL, 2 * PANEL), fill=(214, 211, 209), width=2)
    image = image.resize((2 * PANEL, PANEL), Image.Resampling.BOX)
    _letter(ImageDraw.Draw(image), names, step, extent)
    return np.asarray(image)


def _letter(draw: Any, names: Sequence[str], step: int, extent: float) -> None:
    grey = (87, 83, 78)
    for panel, (view, _, _, right, up) in enumerate(VIEWS):
        draw.text((PANEL * panel + 6, 4), f"{view} ({right} right, {up} up)", fill=grey)
    left = 6
    for name in names:
        draw.text((left, PANEL - 16), name, fill=COLOURS.get(name, OTHER_COLOUR))
        left += round(draw.textlength(name)) + 8
    bar = 0.1 / extent * PANEL
    draw.line((2 * PANEL - 6 - bar, PANEL - 6, 2 * PANEL - 6, PANEL - 6), fill=grey, width=2)
    draw.text((2 * PANEL - 6 - bar, PANEL - 20), "10 cm", fill=grey)
    draw.text((2 * PANEL - 58, 4), f"step {step}", fill=grey)
