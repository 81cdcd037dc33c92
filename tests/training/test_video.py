import subprocess
from dataclasses import replace

import imageio_ffmpeg
import numpy as np
import pytest

from robopref.errors import DataError, RenderingError
from robopref.training.rollout import make_environment, run_episode, scripted_actor
from robopref.training.video import draw_keypoints, draw_video, record_video, replay_frames, write_video
from tests.training.toy_env import TOY

DRAWER = "robopref.envs:robopref/mw-drawer-open-v0"


def episode(env_id=TOY, **options):
    env = make_environment(env_id, options)
    actor = scripted_actor(env, {"kind": "expert"}, np.random.default_rng(0))
    return run_episode(env, actor, 5, env_id=env_id, env_options=options, behaviour="expert")


def read(path):
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    width, height = meta["size"]
    return meta, np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])


def test_a_video_keeps_its_pictures_its_rate_and_plays_in_browsers(tmp_path):
    colours = np.array([(200, 30, 30), (30, 200, 30), (30, 30, 200)], np.uint8)
    frames = np.broadcast_to(colours[:, None, None], (3, 64, 48, 3))
    write_video(tmp_path / "a.mp4", frames, fps=12.5)
    meta, got = read(tmp_path / "a.mp4")
    assert got.shape == frames.shape
    assert np.abs(got.astype(int) - frames).max() < 12
    assert meta["codec"] == "h264"
    assert meta["pix_fmt"].startswith("yuv420p")
    assert meta["fps"] == 12.5
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # a browser can start before it has all of it
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_odd_sizes_are_extended_to_even_ones(tmp_path):
    write_video(tmp_path / "a.mp4", np.full((2, 33, 17, 3), 128, np.uint8), fps=10.0)
    assert read(tmp_path / "a.mp4")[1].shape == (2, 34, 18, 3)


def test_what_is_no_video_is_refused(tmp_path):
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    with pytest.raises(RenderingError, match=r"written as \.mp4"):
        write_video(tmp_path / "a.gif", frames, fps=10.0)
    with pytest.raises(RenderingError, match="0 frames"):
        write_video(tmp_path / "a.mp4", frames[:0], fps=10.0)
    with pytest.raises(RenderingError, match=r"at 0\.0 per second"):
        write_video(tmp_path / "a.mp4", frames, fps=0.0)


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RenderingError, match="cannot be written"):
        write_video(tmp_path / "file" / "a.mp4", np.zeros((2, 8, 8, 3), np.uint8), fps=10.0)


def test_a_video_that_ffmpeg_cut_short_does_not_get_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(imageio_ffmpeg, "count_frames_and_secs", lambda path: (1, 0.1))
    with pytest.raises(RenderingError, match="Only 1 of 2 frames"):
        write_video(tmp_path / "a.mp4", np.zeros((2, 8, 8, 3), np.uint8), fps=10.0)
    assert not list(tmp_path.iterdir())


def test_a_replay_shows_the_state_after_each_action():
    frames = replay_frames(*_replay(episode(horizon=6)))
    assert (frames[:, 0, :, 0] == 255).sum(axis=1).tolist() == [1, 2, 3, 4, 5, 6, 7]  # the toy draws its step
    assert replay_frames(*_replay(episode(horizon=6)), every=3)[:, 0, 3, 0].tolist() == [0, 255, 255]


def _replay(trajectory):
    return trajectory.provenance, trajectory.actions


def test_a_replay_that_starts_elsewhere_is_refused():
    trajectory = episode()
    other = replace(trajectory.provenance, seed=6)
    with pytest.raises(DataError, match="with seed 6 starts in state"):
        replay_frames(other, trajectory.actions)
    with pytest.raises(DataError, match="Replay it with those versions"):
        replay_frames(replace(trajectory.provenance, options={"env.state": 1.0}), trajectory.actions)


@pytest.mark.parametrize(
    ("gl", "reason"),
    [("missing", "There is no libEGL.so"), ("broken", "RuntimeError: eglInitialize failed")],
)
def test_without_gl_the_keypoints_are_drawn_and_the_reason_is_told(tmp_path, gl, reason):
    trajectory = episode(gl=gl, horizon=6)
    recording = record_video(tmp_path / "a.mp4", trajectory, control_hz=20.0)
    assert recording.drawn_by == "keypoints"
    assert reason in recording.reason
    assert read(tmp_path / "a.mp4")[1].shape == (7, 240, 480, 3)


def test_a_video_that_cannot_be_written_is_told_too(tmp_path):
    (tmp_path / "file").write_text("")
    recording = draw_video(tmp_path / "file" / "a.mp4", episode(), control_hz=20.0, reason="no GL")
    assert recording.drawn_by is None
    assert recording.reason is not None
    assert "cannot be written" in recording.reason


@pytest.mark.parametrize(("control_hz", "every", "fps"), [(20.0, 1, 20), (80.0, 2, 40), (100.0, 3, 100 / 3)])
def test_videos_run_in_real_time_at_forty_frames_per_second_or_fewer(tmp_path, control_hz, every, fps):
    recording = record_video(tmp_path / "a.mp4", episode(horizon=12), control_hz=control_hz)
    assert (recording.drawn_by, recording.every, recording.fps) == ("renderer", every, fps)
    meta, frames = read(tmp_path / "a.mp4")
    assert len(frames) == 12 // every + 1
    assert meta["fps"] == pytest.approx(fps, abs=0.01)


def _blob(frame, colour):
    """Return the centre of the pixels of about one colour, as (x, y)."""
    near = np.abs(frame.astype(int) - colour).sum(axis=2) < 30
    rows, columns = np.nonzero(near)
    return np.array([columns.mean(), rows.mean()])


def test_the_drawing_moves_right_for_x_and_up_for_y_and_z():
    rest = np.zeros((4, 3))
    path = np.array([[0, 0, 0], [0.2, 0, 0], [0, 0.2, 0], [0, 0, 0.2]])
    frames = draw_keypoints({"object": path, "corner": rest + 0.2})
    start, right, up, high = (frame[30:-30] for frame in frames)  # without the letters
    orange = (217, 119, 6)
    above = [_blob(frame[:, :240], orange) for frame in (start, right, up)]
    assert above[1][0] - above[0][0] > 50
    assert above[0][1] - above[2][1] > 50
    side = [_blob(frame[:, 240:], orange) for frame in (start, up, high)]
    assert side[1][0] - side[0][0] > 50
    assert side[0][1] - side[2][1] > 50


def test_points_that_do_not_move_and_no_points_at_all():
    assert draw_keypoints({"hand": np.zeros((3, 3))}).shape == (3, 240, 480, 3)
    with pytest.raises(RenderingError, match="neither a renderer nor keypoints"):
        draw_keypoints({})


def test_a_metaworld_episode_is_filmed_whatever_the_machine_can_do(tmp_path):
    trajectory = episode(DRAWER, horizon=6)
    recording = record_video(tmp_path / "a.mp4", trajectory, control_hz=80.0)
    assert recording.drawn_by == "renderer" or (recording.drawn_by == "keypoints" and recording.reason)
    meta, frames = read(tmp_path / "a.mp4")
    assert len(frames) == 4
    assert meta["fps"] == 40
    assert frames.std() > 5  # there is something to see


def test_ffmpeg_decodes_the_video_without_complaint(tmp_path):
    record_video(tmp_path / "a.mp4", episode(), control_hz=20.0)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", tmp_path / "a.mp4", "-f", "null", "-"]
    assert subprocess.run(command, capture_output=True, check=True, stdin=subprocess.DEVNULL).stderr == b""
