"""Filling a frame cache: episodes are replayed and drawn by workers, or read from their own videos.

Letters used in shapes: F frames, H and W height and width in pixels.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from robopref.data.footage import Footage
from robopref.data.frames import HEADER, FrameCache, View, cache_folder
from robopref.data.interchange.videos import FOLDER, index_videos, read_videos, read_views
from robopref.data.store import TrajectoryStore
from robopref.data.trajectory import Provenance, Trajectory
from robopref.errors import ConfigError, DataError, RenderingError
from robopref.training.progress import Progress
from robopref.training.rollout import ENVIRONMENT_PREFIX, versions
from robopref.training.video import (
    Frames,
    environment_options,
    read_video,
    rendering_environment,
    replay_in,
    write_video,
)
from robopref.training.workers import WorkerDiedError, WorkerPool, default_workers


def film_store(
    store: TrajectoryStore,
    *,
    view: View,
    every: int = 1,
    folder: Path | str | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> FrameCache:
    """Film all episodes of a store, or those that are not filmed yet.

    An episode that names a video of its own is read from it (and scaled to the view's width and height);
    any other is replayed in its simulator. Every filmed episode is on disk before the next one is waited for.

    Args:
        store: The episodes.
        view: Options of the environment for drawing: width, height, camera, ...
        every: Steps from one frame to the next.
        folder: Where; by default beside the store, see :func:`~robopref.data.frames.cache_folder`.
        workers: Processes, 0 for this one; ``None`` for one per CPU up to 16, once that saves time.
        progress: Show a progress bar.

    Returns:
        The cache, open for reading.

    Raises:
        DataError: The store is empty, or the folder holds frames of another store or view.
        RenderingError: Nothing can be drawn here.
    """
    if every < 1:
        raise ConfigError(f"every must be at least 1, got {every}")
    if not len(store):
        raise DataError(f"{store.path} holds no episodes, so there is nothing to film.")
    path = Path(folder) if folder is not None else cache_folder(store, view, every, versions())
    if (path / HEADER).exists():
        with FrameCache.open(path, store) as there:
            if (there.view, there.every) != (dict(view), every):
                raise DataError(
                    f"{path} holds frames of the view {there.view}, one in {there.every} steps, not "
                    f"{dict(view)}, one in {every}."
                )
            if len(there) == len(store):
                return there
    _fill(store, path, view, every, workers, progress)
    return FrameCache.open(path, store)


def _fill(
    store: TrajectoryStore, path: Path, view: View, every: int, workers: int | None, progress: bool
) -> None:
    cache = FrameCache.open(path, store, writable=True) if (path / HEADER).exists() else None
    done = 0 if cache is None else len(cache)
    tasks = [_task(store, episode, view, every) for episode in range(done, len(store))]
    bar = Progress(f"film {store.path.name}", len(store), done, unit="episodes") if progress else None
    try:
        with WorkerPool(Filmer(), workers) as pool, bar or nullcontext(), closing(pool.map(tasks)) as films:
            for task, frames in zip(tasks, films, strict=True):
                if cache is None:
                    height, width = frames.shape[1:3]
                    cache = FrameCache.create(
                        path, store, height=height, width=width, every=every, view=view, versions=versions()
                    )
                cache.append(frames, "replay" if task.video is None else "video")
                if bar is not None:
                    bar.advance(1)
    finally:
        if cache is not None:
            cache.close()


def film_videos(
    store: TrajectoryStore, *, view: View, camera: str, workers: int | None = None, progress: bool = True
) -> Path:
    """Film every action of every episode into an mp4 of its own, as a camera of the store.

    Conversions to LeRobot take them along. A call that was interrupted goes on where it stopped.

    Args:
        store: The episodes; those with a video of their own are read from it.
        view: Options of the environment for drawing: width, height, camera, ...
        camera: What the camera is called.
        workers: As of :func:`film_store`.
        progress: Show a progress bar.

    Returns:
        The folder of the videos.

    Raises:
        DataError: The store is empty, or the camera's videos show another view, or were not filmed here.
        RenderingError: Nothing can be drawn here.
    """
    if not len(store):
        raise DataError(f"{store.path} holds no episodes, so there is nothing to film.")
    folder, views = store.path / FOLDER / camera, read_views(store.path)
    if folder.exists() and views.get(camera) != dict(view):
        raise DataError(
            f"{folder} holds videos of the view {views.get(camera, 'of another recording')}, not "
            f"{dict(view)}; give the camera another name, or remove that folder first."
        )
    views[camera] = dict(view)
    others = {name: seen for name, seen in read_videos(store.path, len(store)).items() if name != camera}
    index_videos(store.path, others, views)  # first, so that a call that goes on knows the view
    places = [
        Footage(camera, folder / f"file-{episode:03d}.mp4", int(length), 0.0, store.control_hz)
        for episode, length in enumerate(store.lengths)
    ]
    left = [episode for episode, place in enumerate(places) if not place.file.exists()]
    tasks = [_task(store, episode, view, 1) for episode in left]
    done = len(places) - len(left)
    bar = Progress(f"film {store.path.name}", len(places), done, unit="episodes") if progress else None
    with WorkerPool(Filmer(), workers) as pool, bar or nullcontext(), closing(pool.map(tasks)) as films:
        for episode, frames in zip(left, films, strict=True):
            write_video(places[episode].file, frames[:-1], fps=store.control_hz)
            if bar is not None:
                bar.advance(1)
    index_videos(store.path, {**others, camera: places}, views)
    return folder


@dataclass(frozen=True)
class FilmTask:
    """One episode to film, complete enough for another process."""

    episode: int
    provenance: Provenance
    actions: np.ndarray
    steps: Sequence[int]  # the states to show, in their order in time
    video: Path | None
    size: tuple[int, int] | None  # width and height to scale a video to

    def __str__(self) -> str:
        return f"the frames of episode {self.episode}"


def _task(store: TrajectoryStore, episode: int, view: View, every: int) -> FilmTask:
    return _showing(store, episode, view, range(0, int(store.lengths[episode]) + 1, every))


def _showing(store: TrajectoryStore, episode: int, view: View, steps: Sequence[int]) -> FilmTask:
    trajectory = store.episode(episode)
    video = None if trajectory.frames is None else store.path / trajectory.frames
    return _as_seen(trajectory, episode, view, steps, video)


def _as_seen(
    trajectory: Trajectory, episode: int, view: View, steps: Sequence[int], video: Path | None
) -> FilmTask:
    seen = {ENVIRONMENT_PREFIX + name: value for name, value in view.items()}
    size = (int(view["width"]), int(view["height"])) if {"width", "height"} <= view.keys() else None
    origin = trajectory.provenance
    return FilmTask(
        episode,
        replace(origin, options={**origin.options, **seen}),
        trajectory.actions,
        steps,
        video,
        size,
    )


def film_episode(trajectory: Trajectory, *, view: View, every: int = 1) -> Frames:
    """Return the frames of states 0, every, 2 every, ... of one episode, which need not be in a store.

    Raises:
        RenderingError: Nothing can be drawn here.
    """
    filmer = Filmer()
    try:
        return filmer(_as_seen(trajectory, 0, view, range(0, len(trajectory.actions) + 1, every), None))
    finally:
        filmer.close()


@dataclass(frozen=True)
class Clips:
    """A few small frames of some episodes, by the episode's number, or why there are none."""

    frames: dict[int, Frames]
    missing: str | None = None


def film_clips(
    chosen: Sequence[tuple[TrajectoryStore, Sequence[int]]],
    *,
    view: View,
    moments: int,
    pixels: int,
    workers: int | None = None,
) -> list[Clips]:
    """Film the ends of equal parts of some episodes of each store; nothing is written.

    Args:
        chosen: Stores, and which of their episodes.
        view: Options of the environment for drawing.
        moments: Parts of an episode, the last of which ends with it; of two, the frames are from its middle
            and its end. A part ends at the nearest step; an episode with fewer actions has fewer parts.
        pixels: The longer side of a frame.
        workers: Processes, one a store at most, as a broken OpenGL driver may end its process; 0 for this
            one; None for as many as there are stores and CPUs.

    Returns:
        Clips of each store; where nothing can be drawn, the reason.
    """
    tasks = [
        _ClipTask(
            tuple(_showing(store, one, view, _ends(int(store.lengths[one]), moments)) for one in episodes),
            pixels,
        )
        for store, episodes in chosen
    ]
    limit = max(1, default_workers()) if workers is None else workers
    try:
        with WorkerPool(_clips, min(limit, len(tasks))) as pool, closing(pool.map(tasks)) as clips:
            return list(clips)
    except WorkerDiedError as error:
        return [Clips({}, str(error)) for _ in tasks]


def _ends(length: int, moments: int) -> list[int]:
    """Return the steps at which equal parts of an episode end, those before its first action left out."""
    return sorted({round(part * length / moments) for part in range(1, moments + 1)} - {0})


@dataclass(frozen=True)
class _ClipTask:
    """What to film of one store."""

    films: tuple[FilmTask, ...]
    pixels: int

    def __str__(self) -> str:
        return f"the clips of {self.films[0].provenance.task}"


def _clips(task: _ClipTask) -> Clips:
    filmer, found = Filmer(), {}
    try:
        for film in task.films:
            frames = filmer(film)
            height, width = frames.shape[1:3]
            share = task.pixels / max(height, width)
            found[film.episode] = _scaled(frames, (round(width * share), round(height * share)))
    except (RenderingError, DataError) as error:  # a film of the wrong versions, too, is none
        return Clips({}, str(error))
    finally:
        filmer.close()
    return Clips(found)


@dataclass
class Filmer:
    """Films one episode after another and keeps the environment while it stays the same."""

    _made_with: tuple[str, dict[str, Any]] | None = field(default=None, init=False)
    _env: gymnasium.Env | None = field(default=None, init=False)

    def __call__(self, task: FilmTask) -> Frames:
        """Return the frames of the task's steps."""
        if task.video is not None:
            return _scaled(read_video(task.video, np.array(task.steps), len(task.actions)), task.size)
        env = self._environment(task.provenance.env_id, environment_options(task.provenance))
        return replay_in(env, task.provenance, task.actions, task.steps)

    def _environment(self, env_id: str, options: Mapping[str, Any]) -> gymnasium.Env:
        if self._env is None or self._made_with != (env_id, options):
            self.close()
            self._env = rendering_environment(env_id, options)
            self._made_with = (env_id, dict(options))
        return self._env

    def close(self) -> None:
        """Close the environment, if one was made."""
        if self._env is not None:
            self._env.close()
            self._env = None


def _scaled(frames: Frames, size: tuple[int, int] | None) -> np.ndarray:
    if size is None or frames.shape[2:0:-1] == size:
        return frames
    from PIL import Image

    return np.stack([np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BOX)) for f in frames])
