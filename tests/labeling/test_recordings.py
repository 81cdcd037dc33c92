"""Data of other formats is labelled as it is: read into a store, shown by its own cameras, not touched."""

import hashlib
import shutil

import h5py
import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robopref.cli import main
from robopref.data.interchange.footage import cameras_of, chosen_cameras
from robopref.data.interchange.imported import place_of, read_in
from robopref.data.label_store import LabelStore
from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, DataError
from robopref.labeling.clips import Library, Segment, film
from tests.labeling.recordings import (
    EPISODES,
    STEPS,
    VIDEO,
    lerobot,
    lerobot_images,
    minari,
    robomimic,
    shade,
)
from tests.labeling.server import serving
from tests.labeling.test_clips import frames_of

MADE = {"lerobot": lerobot, "lerobot images": lerobot_images, "robomimic": robomimic, "minari": minari}
NAMES = {"lerobot": "pick", "lerobot images": "seen", "robomimic": "lift.hdf5", "minari": "seen"}


def library(source, folder, cameras=("front",)):
    seen = cameras_of(source)
    made = read_in(source, folder / "imported")
    return Library(TrajectoryStore.open(made.path), folder / "clips", {}, [seen[name] for name in cameras])


def greys(frames):
    return frames.mean(axis=(1, 2, 3))


@pytest.mark.parametrize("kind", MADE)
def test_a_clip_shows_the_frames_of_its_segment_whatever_the_format(tmp_path, kind):
    shown = library(MADE[kind](tmp_path / NAMES[kind]), tmp_path)
    for episode, start, length in ((0, 0, 4), (1, 5, 3), (2, 8, 4)):
        clip = shown.clip(Segment(episode, start, length))
        filmed = film(clip)
        assert (filmed.drawn_by, filmed.reason) == ("recording", "")
        expected = [float(shade(episode, min(step, STEPS - 1))) for step in range(start, start + length + 1)]
        if kind == "minari" and start + length == STEPS:
            expected[-1] = 255  # Minari has a frame of the last state
        assert greys(frames_of(clip.path)) == pytest.approx(expected, abs=2.5)


def test_cameras_are_chosen_by_name_and_stand_side_by_side(tmp_path):
    source = robomimic(tmp_path / "lift.hdf5")
    cameras = cameras_of(source)
    assert list(cameras) == ["front", "wrist"]
    assert chosen_cameras(cameras, None) == ["front"]
    with pytest.raises(ConfigError, match="Did you mean 'wrist'"):
        chosen_cameras(cameras, ["wirst"])
    clip = library(source, tmp_path, ("wrist", "front")).clip(Segment(1, 2, 3))
    film(clip)
    frames = frames_of(clip.path)
    assert frames.shape[1:3] == (24, 24 + 36)  # at the height of the lower one
    assert frames[0, :, :20].mean() == pytest.approx(255 - shade(1, 2), abs=2.5)
    assert frames[0, :, 28:].mean() == pytest.approx(shade(1, 2), abs=2.5)


@pytest.mark.parametrize("damage", ["missing", "cut off", "text"])
def test_a_damaged_video_costs_a_drawing_that_names_it_and_nothing_more(tmp_path, damage):
    source = lerobot(tmp_path / "pick")
    video = source / VIDEO.format("front")
    content = video.read_bytes()
    if damage == "missing":
        video.unlink()
    else:
        video.write_bytes(content[: len(content) // 2] if damage == "cut off" else b"no video")
    filmed = film(library(source, tmp_path).clip(Segment(2, 0, 6)))
    assert filmed.drawn_by in ("keypoints", "plots")
    assert str(video) in filmed.reason


def test_a_damaged_image_costs_a_drawing_that_names_it(tmp_path):
    source = lerobot_images(tmp_path / "pick")
    seen = library(source, tmp_path)
    (table,) = (source / "data").glob("*/*.parquet")
    steps, key = pq.read_table(table), "observation.images.front"
    broken = pa.array([{"bytes": b"no image", "path": None}] * len(steps))
    pq.write_table(steps.set_column(steps.column_names.index(key), key, broken), table)
    filmed = film(seen.clip(Segment(2, 0, 6)))
    assert filmed.drawn_by in ("keypoints", "plots")
    assert "observation.images.front" in filmed.reason
    assert str(table) in filmed.reason


def test_images_fewer_than_the_actions_are_not_shown_as_a_clip_that_stands_still(tmp_path):
    source = robomimic(tmp_path / "lift.hdf5")
    with h5py.File(source, "r+") as file:
        kept = np.asarray(file["data/demo_1/obs/front_image"])[:7]
        del file["data/demo_1/obs/front_image"]
        file["data/demo_1/obs/front_image"] = kept
    shown = library(source, tmp_path)
    assert film(shown.clip(Segment(0, 0, STEPS))).drawn_by == "recording"
    for start in (0, 5):  # also where the frames there are would do
        filmed = film(shown.clip(Segment(1, start, 6)))
        assert filmed.drawn_by == "plots"
        sentence = f"{source} has 7 frames in /data/demo_1/obs/front_image for 12 actions"
        assert sentence in filmed.reason


def test_raw_demonstrations_are_named_with_what_turns_them_into_data(tmp_path, monkeypatch, capfd):
    source = robomimic(tmp_path / "raw.hdf5")
    with h5py.File(source, "r+") as file:
        for demo in file["data"].values():  # pyright: ignore[reportAttributeAccessIssue]
            del demo["obs"]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["label", f"data={source}"])
    said = " ".join("".join(capfd.readouterr()).split())
    assert "demo_0 has no group 'obs'" in said
    assert "scripts/dataset_states_to_obs.py" in said
    assert "Traceback" not in said


def test_what_was_read_is_kept_and_new_episodes_are_added_beside_their_labels(tmp_path):
    source = lerobot(tmp_path / "pick")
    first = read_in(source, tmp_path / "imported")
    assert (first.new, first.path) == (EPISODES, place_of(source, tmp_path / "imported"))
    assert read_in(source, tmp_path / "imported") == type(first)(first.path, 0, [])
    shutil.rmtree(source)
    shutil.rmtree(tmp_path / "made")
    lerobot(source, EPISODES + 2)
    assert read_in(source, tmp_path / "imported").new == 2
    with TrajectoryStore.open(first.path) as store:
        assert len(store) == EPISODES + 2


def test_other_episodes_in_the_place_of_those_that_were_labelled_are_refused(tmp_path):
    source = robomimic(tmp_path / "lift.hdf5")
    made = read_in(source, tmp_path / "imported")
    with h5py.File(source, "r+") as file:
        file["data/demo_0/actions"][0] = 0.5  # type: ignore[index]
    with pytest.raises(DataError, match="other ones now"):
        read_in(source, tmp_path / "imported")
    assert made.path.is_dir()


def digest(path):
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return hashlib.sha256(b"".join(str(p).encode() + p.read_bytes() for p in files)).hexdigest()


def test_a_robots_recordings_are_labelled_by_one_command_and_not_touched(tmp_path, monkeypatch, capfd):
    source = lerobot(tmp_path / "pick")
    before = digest(source)
    with serving(source, "shared=0", "segment_length=6", "camera=[front,wrist]") as server:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            turn = client.get("/api/question", params={"annotator": "anna"}).json()
            about = client.get(f"/api/clips/{turn['question']['clips'][0]}").json()
            assert (about["state"], about["drawn_by"], about["reason"]) == ("ready", "recording", "")
            body = {"annotator": "anna", "question": turn["question"]["id"], "choice": "left"}
            client.post("/api/answer", json=body).raise_for_status()
        assert f"nothing is written to {source}" in " ".join(server.said.split())
    assert digest(source) == before
    monkeypatch.chdir(tmp_path)
    store = TrajectoryStore.open(place_of(source, tmp_path / "outputs/imported"))
    with LabelStore.beside(store) as labels:
        assert labels.count(source="human") == 1
    assert main(["labels", "export", f"data={source}", "to=card"]) == 0
    assert "1 label ->" in "".join(capfd.readouterr())


def test_a_camera_of_a_store_is_refused_with_where_to_say_it(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    made = read_in(robomimic(tmp_path / "lift.hdf5"), tmp_path / "imported")
    with pytest.raises(SystemExit):
        main(["label", f"data={made.path}", "camera=front"])
    assert "view.camera" in "".join(capfd.readouterr())


def test_frames_of_a_video_are_found_by_their_time_also_when_some_are_left_out(tmp_path):
    from robopref.labeling.footage import read_footage

    seen = cameras_of(lerobot(tmp_path / "pick"))["front"]
    for states in (range(0, 12, 3), range(7, 13, 2), range(11, 13)):
        expected = [shade(1, min(state, STEPS - 1)) for state in states]
        assert greys(read_footage([seen[1]], states)) == pytest.approx(np.array(expected), abs=2.5)
