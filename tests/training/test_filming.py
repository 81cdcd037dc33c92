"""Episodes become frames by replay or from their own video, and a stopped filming goes on."""

from dataclasses import replace

import numpy as np
import pytest

from robopref.data.footage import Footage
from robopref.data.frames import FrameCache
from robopref.data.interchange.videos import index_videos, read_videos
from robopref.data.store import TrajectoryStore
from robopref.errors import DataError, RoboprefError
from robopref.labeling.footage import read_footage
from robopref.training import filming
from robopref.training.collect import collect
from robopref.training.filming import film_clips, film_store, film_videos
from robopref.training.video import replay_frames, write_video
from robopref.training.workers import WorkerDiedError
from tests.training.toy_env import TOY


def collected(path, episodes=3, **options):
    return collect(
        path,
        env_id=TOY,
        env_options={"horizon": 7, **options},
        behaviours=[{"kind": "expert"}],
        episodes=episodes,
        seed=0,
        workers=0,
        progress=False,
    )


def film(store, **arguments):
    return film_store(
        store, **{"view": {"size": 20}, "every": 3, "workers": 0, "progress": False, **arguments}
    )


def test_the_frames_are_those_of_a_replay(tmp_path):
    store = collected(tmp_path / "store")
    cache = film(store)
    assert cache.path.parent.parent == store.path
    assert len(cache) == 3
    for number in range(3):
        episode = store.episode(number)
        seen = replace(episode.provenance, options={**episode.provenance.options, "env.size": 20})
        assert (cache.episode(number) == replay_frames(seen, episode.actions)[::3]).all()


def test_filming_goes_on_where_it_stopped_and_with_new_episodes(tmp_path):
    store = collected(tmp_path / "store")
    whole = film(store, folder=tmp_path / "whole")
    with FrameCache.create(
        tmp_path / "part", store, height=20, width=20, every=3, view={"size": 20}, versions={}
    ) as part:
        part.append(whole.episode(0), "replay")
    assert film(store, folder=tmp_path / "part").content() == whole.content()
    more = collected(tmp_path / "store", episodes=5)
    assert len(film(more, folder=tmp_path / "part")) == 5


def test_workers_film_the_same(tmp_path):
    store = collected(tmp_path / "store")
    assert film(store, workers=2, folder=tmp_path / "b").content() == film(store).content()


def test_an_episode_with_a_video_of_its_own_is_read_from_it(tmp_path):
    episode = collected(tmp_path / "collected", episodes=1).episode(0)
    grey = np.full((8, 32, 48, 3), 20, np.uint8) + 20 * np.arange(8, dtype=np.uint8)[:, None, None, None]
    with TrajectoryStore.create(
        tmp_path / "store",
        observation_size=4,
        action_size=2,
        keypoints=sorted(episode.keypoints),
        control_hz=20.0,
    ) as store:
        store.append(replace(episode, frames="videos/0.mp4"))
        write_video(tmp_path / "store" / "videos" / "0.mp4", grey, fps=20.0)
        cache = film(store, view={"width": 24, "height": 16})
    assert cache.frames.shape == (3, 16, 24, 3)
    assert np.abs(cache.frames.mean((1, 2, 3)) - [20, 80, 140]).max() < 8


def test_what_cannot_be_filmed_is_a_sentence(tmp_path):
    store = collected(tmp_path / "store")
    with pytest.raises(RoboprefError, match="the frames of episode 0"):
        film(store, view={"gl": "missing"})
    film(store, folder=tmp_path / "there")
    with pytest.raises(DataError, match="holds frames of the view"):
        film(store, folder=tmp_path / "there", every=2)


def test_videos_of_a_store_have_a_frame_for_each_action_and_are_filmed_once(tmp_path):
    store = collected(tmp_path / "store", episodes=2)
    for camera, size in (("near", 20), ("far", 12)):
        film_videos(store, view={"size": size}, camera=camera, workers=0, progress=False)
    seen = read_videos(store.path, 2)
    assert {name: [place.frames for place in places] for name, places in seen.items()} == {
        "near": [7, 7],
        "far": [7, 7],
    }
    episode = store.episode(1)
    filmed = replace(episode.provenance, options={**episode.provenance.options, "env.size": 20})
    frames = read_footage([seen["near"][1]], range(7)).astype(int)
    expected = replay_frames(filmed, episode.actions)[:7].astype(int)
    assert np.abs(frames.mean((1, 2)) - expected.mean((1, 2))).max() < 6  # compressed
    before = seen["near"][0].file.stat().st_mtime_ns
    seen["near"][1].file.unlink()
    film_videos(store, view={"size": 20}, camera="near", workers=0, progress=False)
    assert seen["near"][1].file.exists()
    assert seen["near"][0].file.stat().st_mtime_ns == before


def test_videos_of_another_view_or_of_another_recording_are_kept_and_refused(tmp_path, monkeypatch):
    store = collected(tmp_path / "store", episodes=2)

    def films(size, camera="near"):
        film_videos(store, view={"size": size}, camera=camera, workers=0, progress=False)

    write = filming.write_video

    def stopped_at_the_second(path, frames, *, fps):
        if path.name == "file-001.mp4":
            raise KeyboardInterrupt
        write(path, frames, fps=fps)

    monkeypatch.setattr(filming, "write_video", stopped_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        films(20)
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"near holds videos of the view \{'size': 20\}, not \{'size': 12\}"):
        films(12)
    films(20)
    for place in read_videos(store.path, 2)["near"]:
        assert read_footage([place], range(7)).shape == (7, 20, 20, 3)
    with pytest.raises(DataError, match="give the camera another name"):
        films(12)
    both = store.path / "frames/given/file-000.mp4"
    both.parent.mkdir()
    both.write_bytes(b"two episodes in one file")
    held = {"given": [Footage("given", both, 7, start, 20.0) for start in (0.0, 0.35)]}
    index_videos(store.path, held)
    with pytest.raises(DataError, match="of another recording"):
        films(20, "given")
    assert read_videos(store.path, 2) == held


def test_clips_are_frames_at_the_ends_of_equal_parts_made_small(tmp_path):
    store = collected(tmp_path / "store")
    whole = film(store, every=1)
    (clips,) = film_clips([(store, [2, 0])], view={"size": 20}, moments=2, pixels=20, workers=0)
    assert list(clips.frames) == [2, 0]
    assert clips.missing is None
    length = int(store.lengths[2])
    assert (clips.frames[2] == whole.episode(2)[[4, 7]]).all()
    (small,) = film_clips([(store, [2])], view={"size": 20}, moments=3, pixels=8, workers=0)
    assert small.frames[2].shape == (3, 8, 8, 3)
    (odd,) = film_clips([(store, [2])], view={"size": 20}, moments=3, pixels=20, workers=0)
    assert length == 7
    assert (odd.frames[2] == whole.episode(2)[[2, 5, 7]]).all()  # 7/3 and 14/3 to the nearest step


def test_where_nothing_can_be_filmed_clips_are_missing_with_the_reason(tmp_path, monkeypatch):
    store = collected(tmp_path / "store")
    other = collected(tmp_path / "other", gl="missing")
    sides = [(store, [0]), (other, [0])]
    first, second = film_clips(sides, view={}, moments=2, pixels=8, workers=0)
    assert len(first.frames) == 1
    assert second.frames == {}
    assert "There is no libEGL.so" in str(second.missing)

    def end(task):
        raise WorkerDiedError("The process ended.")

    monkeypatch.setattr(filming, "_clips", end)
    both = film_clips(sides, view={}, moments=2, pixels=8, workers=0)
    assert [clips.missing for clips in both] == ["In the clips of toy: The process ended."] * 2
