"""Videos of a LeRobotDataset: copied there and back, and refused where they cannot be what its tables say."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robopref.data import TrajectoryStore
from robopref.data.interchange.convert import convert
from robopref.data.interchange.footage import cameras_of
from robopref.data.interchange.videos import index_videos, read_videos, read_views
from robopref.errors import DataError
from tests.data.lerobot_made import (
    EPISODES,
    SAMPLE,
    brightness,
    edit_info,
    edit_table,
    features_of,
    numbered,
)

CAMERA = {"dtype": "video", "shape": [48, 64, 3], "names": ["height", "width", "channels"]}
TOP = "observation.images.top"
VIDEO = f"videos/{TOP}/chunk-000/file-000.mp4"


@pytest.fixture
def sample(tmp_path):
    shutil.copytree(SAMPLE, tmp_path / "sample")
    return tmp_path / "sample"


def test_videos_that_are_left_are_a_loss_that_is_named(sample, tmp_path):
    edit_info(sample, features=features_of(sample) | {TOP: CAMERA})
    with pytest.raises(DataError, match=r"the feature 'observation.images.top' \(video\)"):
        convert(sample, tmp_path / "made", videos=False)
    convert(sample, tmp_path / "made", lossy=True, videos=False)


@pytest.fixture
def filmed(sample):
    """The sample with a camera whose three episodes, of 3, 4 and 5 steps, lie in one video of 12 frames."""
    numbered(12, 20.0, sample / VIDEO)
    template = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    edit_info(sample, features=features_of(sample) | {TOP: CAMERA}, video_path=template)
    table = pq.read_table(sample / EPISODES)
    starts = {"chunk_index": [0] * 3, "file_index": [0] * 3, "from_timestamp": [0.0, 0.15, 0.35]}
    for name, values in starts.items():
        table = table.append_column(f"videos/{TOP}/{name}", pa.array(values))
    pq.write_table(table, sample / EPISODES)
    return sample


def test_videos_go_there_and_back_and_each_frame_stays_with_its_step(filmed, tmp_path):
    convert(filmed, tmp_path / "store", lossy=True)
    video = (tmp_path / "store/frames/top/file-000.mp4").read_bytes()
    assert video == (filmed / VIDEO).read_bytes()
    held = read_videos(tmp_path / "store", 3)
    index_videos(tmp_path / "store", held, {"top": {"camera": "corner2", "width": 64}})
    assert brightness(held, "top", 1, 4) == [3, 4, 5, 6]
    (tmp_path / "store/frames/top/notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"would lose: the file 'notes.txt'"):
        convert(tmp_path / "store", tmp_path / "again", target_format="lerobot")
    (tmp_path / "store/frames/top/notes.txt").unlink()
    convert(tmp_path / "store", tmp_path / "again", target_format="lerobot")
    assert (tmp_path / "again" / VIDEO).read_bytes() == video
    seen = cameras_of(tmp_path / "again")
    assert brightness(seen, "top", 0, 3) == [0, 1, 2]
    assert brightness(seen, "top", 2, 5) == [7, 8, 9, 10, 11]
    row = pq.read_table(tmp_path / "again" / EPISODES).to_pylist()[1]
    assert row[f"videos/{TOP}/from_timestamp"] == pytest.approx(0.15)
    assert row[f"videos/{TOP}/to_timestamp"] == pytest.approx(0.35)
    feature = features_of(tmp_path / "again")[TOP]
    assert feature["shape"] == [48, 64, 3]
    assert feature["info"]["video.fps"] == 20
    stats = json.loads((tmp_path / "again/meta/stats.json").read_text())[TOP]
    assert np.array(stats["mean"]).shape == (3, 1, 1)
    assert np.ravel(stats["mean"]) == pytest.approx([22 / 255] * 3, abs=0.01)
    convert(tmp_path / "again", tmp_path / "back")
    with TrajectoryStore.open(tmp_path / "store") as one, TrajectoryStore.open(tmp_path / "back") as other:
        assert one.fingerprint() == other.fingerprint()
    assert read_videos(tmp_path / "back", 3).keys() == {"top"}
    assert read_views(tmp_path / "back") == {"top": {"camera": "corner2", "width": 64}}


def test_a_video_that_is_shorter_than_its_table_is_named_with_episode_and_key(filmed, tmp_path):
    numbered(9, 20.0, filmed / VIDEO)
    sentence = (
        r"file-000.mp4: episode 2 of 'observation.images.top' has 5 rows.*frames 7 to 11.*it has 9 frames"
    )
    with pytest.raises(DataError, match=sentence):
        convert(filmed, tmp_path / "made", lossy=True)
    (filmed / VIDEO).write_bytes((filmed / VIDEO).read_bytes()[:100])
    with pytest.raises(DataError, match=r"file-000.mp4: episode 0 of 'observation.images.top'"):
        convert(filmed, tmp_path / "made", lossy=True)
    (filmed / VIDEO).unlink()
    with pytest.raises(DataError, match=r"episode 0 of 'observation.images.top' has no video"):
        convert(filmed, tmp_path / "made", lossy=True)
    assert not (tmp_path / "made").exists()


def test_a_video_that_begins_at_no_time_is_named(filmed, tmp_path):
    for start in (float("nan"), float("inf"), -1.0):
        edit_table(
            filmed / EPISODES, f"videos/{TOP}/from_timestamp", lambda v, start=start: [0.0, start, 0.35]
        )
        with pytest.raises(DataError, match=rf"meta/episodes .*'{TOP}'.*'top' cannot begin at {start} s"):
            convert(filmed, tmp_path / "made", lossy=True)


def test_damage_where_the_places_of_videos_are_is_a_sentence(filmed):
    table = filmed / EPISODES
    columns = pq.ParquetFile(table).metadata.row_group(0)
    chunks = {columns.column(i).path_in_schema: columns.column(i) for i in range(columns.num_columns)}
    chunk = chunks[f"videos/{TOP}/from_timestamp"]
    content = bytearray(table.read_bytes())
    first = chunk.dictionary_page_offset or chunk.data_page_offset
    content[first : first + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    table.write_bytes(content)
    with pytest.raises(DataError, match="is missing, truncated, or no Parquet file"):
        cameras_of(filmed)


def test_a_video_at_another_rate_than_the_actions_is_refused(filmed, tmp_path):
    convert(filmed, tmp_path / "store", lossy=True)
    index = tmp_path / "store/frames/cameras.json"
    index.write_text(index.read_text().replace("20.0", "10.0"))
    with pytest.raises(DataError, match="episode 0 of 'top' has 10 frames a second and 20 actions"):
        convert(tmp_path / "store", tmp_path / "made", target_format="lerobot")
    index.write_text(index.read_text().replace('"top"', '"../top"').replace("top/file", "../../top/file"))
    with pytest.raises(DataError, match="leaves the folder"):
        convert(tmp_path / "store", tmp_path / "made", target_format="lerobot")
