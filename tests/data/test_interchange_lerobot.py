"""LeRobotDataset v3.0, held against a data set that LeRobot 0.4.4 wrote (``lerobot_sample``).

LeRobot itself needs other versions of numpy and torch than robopref. What robopref wrote is loaded with it in
an environment of its own, made by uv (or, in ROBOPREF_LEROBOT_PYTHON, the Python of one that is there):

    uv run pytest -n0 -m apart tests/data/test_interchange_lerobot.py
"""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robopref.data import TrajectoryStore
from robopref.data.footage import Footage
from robopref.data.interchange.convert import convert
from robopref.data.interchange.lerobot_videos import statistics
from robopref.data.interchange.videos import index_videos, read_videos
from robopref.errors import ConfigError, DataError
from tests.apart import python_apart, run_apart
from tests.data.lerobot_made import (
    DATA,
    EPISODES,
    SAMPLE,
    TASKS,
    brightness,
    edit_info,
    edit_table,
    features_of,
    numbered,
)

LEROBOT = ("lerobot==0.4.4", "numpy==2.2.6")


@pytest.fixture
def sample(tmp_path):
    shutil.copytree(SAMPLE, tmp_path / "sample")
    return tmp_path / "sample"


@pytest.fixture
def ours(new_store, trajectory, tmp_path):
    with new_store((4, 6)) as store:
        store.append(trajectory(2, 3, success_at=2))
    convert(tmp_path / "store", tmp_path / "ours", target_format="lerobot")
    return tmp_path / "ours"


def test_a_data_set_written_by_lerobot_becomes_a_store(sample, tmp_path):
    with pytest.raises(
        DataError, match=r"the feature 'temperature' \(float32\).*state after the last action"
    ):
        convert(sample, tmp_path / "made")
    convert(sample, tmp_path / "made", lossy=True)
    with TrajectoryStore.open(tmp_path / "made") as store:
        assert store.lengths.tolist() == [3, 4, 5]
        assert store.control_hz == 20
        second = store.episode(1)
        states = [[1, t, 1 + t / 10] for t in (0, 1, 2, 3, 3)]  # the last one repeated
        assert np.array_equal(second.observations, np.array(states, np.float32))
        assert second.actions.tolist() == [[-1, 0], [-1, -1], [-1, -2], [-1, -3]]
        assert second.rewards.tolist() == [0, 0.25, 0.5, 0.75]
        assert second.successes.tolist() == [False, False, False, True]
        assert second.keypoints["hand"][:, 0].tolist() == [0, 1, 2, 3, 3]
        assert second.terminated
        tasks = [store.provenance(i).task for i in range(3)]
        assert tasks == ["open the drawer", "close the drawer", "open the drawer"]


def test_a_feature_of_text_is_a_loss_and_no_obstacle(sample, tmp_path):
    table = pq.read_table(sample / DATA)
    said = pa.array(["open the drawer"] * len(table))
    pq.write_table(table.append_column("language_instruction", said), sample / DATA)
    text = {"dtype": "string", "shape": [1], "names": None}
    edit_info(sample, features=features_of(sample) | {"language_instruction": text})
    with pytest.raises(DataError, match=r"the feature 'language_instruction' \(string\)"):
        convert(sample, tmp_path / "made")
    convert(sample, tmp_path / "made", lossy=True)
    convert(SAMPLE, tmp_path / "without", lossy=True)
    with TrajectoryStore.open(tmp_path / "made") as one, TrajectoryStore.open(tmp_path / "without") as other:
        assert one.fingerprint() == other.fingerprint()


def schema_of(file):
    """Columns and types; ``list<element>`` however long, and text however long its offsets are."""
    kinds = {pa.large_string(): "string"}
    return {
        field.name: kinds.get(field.type, str(field.type).replace("fixed_size_", "").split("[")[0])
        for field in pq.read_schema(file)
    }


def test_our_tables_have_the_columns_and_types_of_lerobots(ours):
    for name in (
        "meta/episodes/chunk-000/file-000.parquet",
        "data/chunk-000/file-000.parquet",
        "meta/tasks.parquet",
    ):
        theirs, written = schema_of(SAMPLE / name), schema_of(ours / name)
        shared = {key for key in theirs if "temperature" not in key and "keypoint" not in key}
        assert shared <= written.keys()
        for key in sorted(shared):
            # Least and largest of integers are integers there, and doubles here like all statistics.
            if not key.startswith("stats/") or key.split("/")[-1] in ("mean", "std", "count", "q50"):
                assert written[key] == theirs[key], key


def test_our_description_has_the_fields_of_lerobots(ours):
    theirs, written = (json.loads((p / "meta/info.json").read_text()) for p in (SAMPLE, ours))
    assert written.keys() == theirs.keys()
    for key in ("codebase_version", "data_path", "video_path", "chunks_size"):
        assert written[key] == theirs[key]
    shared = theirs["features"].keys() & written["features"].keys()
    assert len(shared) >= 11
    for key in shared - {"observation.state"}:
        assert written["features"][key].keys() == theirs["features"][key].keys()
        assert written["features"][key]["dtype"] == theirs["features"][key]["dtype"]
    assert written["features"]["observation.state"]["shape"] == [5]
    metadata = [
        pq.read_schema(p / "data/chunk-000/file-000.parquet").metadata[b"huggingface"] for p in (SAMPLE, ours)
    ]
    one, other = (json.loads(text)["info"]["features"] for text in metadata)
    same = one.keys() & other.keys() - {"observation.state"}  # whose length differs
    assert {key: one[key] for key in same} == {key: other[key] for key in same}
    assert one["observation.state"] | {"length": 5} == other["observation.state"]


def test_statistics_are_lerobots_but_for_its_histogram_quantiles():
    """Episode by episode: extremes, mean and deviation agree; quantiles here are exact."""
    data = pq.read_table(SAMPLE / "data/chunk-000/file-000.parquet")
    for row in pq.read_table(SAMPLE / "meta/episodes/chunk-000/file-000.parquet").to_pylist():
        rows = data.slice(row["dataset_from_index"], row["length"])
        values = np.array(rows["observation.state"].to_pylist(), np.float32)
        found = statistics(values)
        for key in ("min", "max", "mean", "std", "count"):
            assert found[key] == pytest.approx(row[f"stats/observation.state/{key}"], rel=1e-5, abs=1e-6)
        assert found["q50"] == pytest.approx(np.median(values, axis=0))


@pytest.mark.apart
@pytest.mark.timeout(1200)
def test_lerobot_itself_loads_and_edits_what_we_wrote_videos_included(new_store, trajectory, tmp_path):
    with new_store((4, 6)) as store:
        store.append(trajectory(2, 3, success_at=2))
        lengths, places = store.lengths.tolist(), []
        for episode, length in enumerate(lengths):
            file = store.path / f"frames/top/file-{episode:03d}.mp4"
            numbered(length, 80.0, file, first=10 * episode)
            places.append(Footage("top", file, length, 0.0, 80.0))
        index_videos(store.path, {"top": places})
    convert(tmp_path / "store", tmp_path / "ours", target_format="lerobot")
    code = """
import json, sys
from pathlib import Path
from lerobot.datasets.dataset_tools import delete_episodes
from lerobot.datasets.lerobot_dataset import LeRobotDataset
def rows(data):
    listed = [{k: v for k, v in data[i].items()} for i in range(len(data))]
    for row in listed:
        row["top"] = float(row.pop("observation.images.top").mean() * 255 / 4)
    return [{k: v.tolist() if hasattr(v, "tolist") else v for k, v in row.items()} for row in listed]
deltas = {"action": [0.0, 1 / 80]}
data = LeRobotDataset("robopref/test", root=sys.argv[1], delta_timestamps=deltas, video_backend="pyav")
left = delete_episodes(data, [0], output_dir=sys.argv[2], repo_id="robopref/left")
left = LeRobotDataset("robopref/left", root=sys.argv[2], video_backend="pyav")
print(json.dumps({"episodes": data.num_episodes, "rows": rows(data), "fps": data.fps, "left": rows(left)}))
"""
    given = os.environ.get("ROBOPREF_LEROBOT_PYTHON")
    python = Path(given) if given else python_apart(tmp_path, *LEROBOT)
    variables = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    said = run_apart(python, "-c", code, tmp_path / "ours", tmp_path / "left", **variables)
    read = json.loads(said.splitlines()[-1])
    assert (read["episodes"], read["fps"], len(read["rows"])) == (3, 80, 13)
    with TrajectoryStore.open(tmp_path / "store") as store:
        steps = [(i, e, t) for i, e in enumerate(map(store.episode, range(3))) for t in range(e.length)]
        for row, (index, episode, t) in zip(read["rows"], steps, strict=True):
            assert np.array_equal(np.float32(row["observation.state"]), episode.observations[t])
            assert np.array_equal(np.float32(row["action"][0]), episode.actions[t])
            assert np.float32(row["next.reward"]) == episode.rewards[t]
            assert row["task"] == "drawer-open"
            assert row["top"] == pytest.approx(10 * index + t, abs=0.4)  # every step has its own frame
    assert [row["top"] for row in read["left"]] == pytest.approx(
        [row["top"] for row in read["rows"][4:]], abs=0.6
    )
    (tmp_path / "left/meta/robopref.parquet").unlink(missing_ok=True)
    convert(tmp_path / "left", tmp_path / "edited", lossy=True)  # what LeRobot edited comes back
    assert brightness(read_videos(tmp_path / "edited", 2), "top", 1, 3) == [20, 21, 22]


def test_many_episodes_go_to_several_files_and_come_back_in_order(new_store, tmp_path, monkeypatch):
    monkeypatch.setattr("robopref.data.interchange.lerobot_writer.FILE_MB", 0.0005)
    monkeypatch.setattr("robopref.data.interchange.lerobot_writer.FILES_PER_CHUNK", 2)
    new_store((4, 6, 3, 5, 2, 7)).close()
    convert(tmp_path / "store", tmp_path / "ours", target_format="lerobot")
    assert len(list((tmp_path / "ours/data").glob("chunk-*/file-*.parquet"))) > 2
    assert len(list((tmp_path / "ours/data").glob("chunk-*"))) > 1
    convert(tmp_path / "ours", tmp_path / "back")
    with TrajectoryStore.open(tmp_path / "back") as back, TrajectoryStore.open(tmp_path / "store") as store:
        assert back.fingerprint() == store.fingerprint()


@pytest.mark.parametrize(
    ("file", "column", "change", "sentence"),
    [
        (
            DATA,
            "timestamp",
            lambda v: [v[0], v[2], v[1], *v[3:]],
            r"episode 0: time runs from 0.1 s to 0.05 s at frame 2",
        ),
        (
            DATA,
            "frame_index",
            lambda v: [*v[:4], 7, *v[5:]],
            r"episode 1: frame_index must count from 0 without a gap",
        ),
        (
            DATA,
            "episode_index",
            lambda v: [0, 1, 0, *v[3:]],
            r"episode 0 should have 3 rows in one piece, but has 2",
        ),
        (
            DATA,
            "next.reward",
            lambda v: [*v[:-1], None],
            r"episode 2: 'next.reward' must be numbers without gaps",
        ),
        (DATA, "next.reward", lambda v: [*v[:-1], float("inf")], r"rewards holds inf"),
        (
            EPISODES,
            "episode_index",
            lambda v: [0, 2, 3],
            r"episodes must be numbered from 0, got \[0, 2, 3\]",
        ),
        (EPISODES, "length", lambda v: [3, None, 5], r"meta/episodes, episode 1: length must not be null"),
        (EPISODES, "length", lambda v: [3, 4, 6], r"episode 2 should have 6 rows in one piece, but has 5"),
        (EPISODES, "data/file_index", lambda v: [0, 0, 1], r"file-001.parquet is missing"),
        (DATA, "timestamp", lambda v: [None, *v[1:]], r"episode 0: 'timestamp' must be numbers without gaps"),
    ],
)
def test_tables_that_contradict_themselves_are_named(sample, tmp_path, file, column, change, sentence):
    edit_table(sample / file, column, change)
    with pytest.raises(DataError, match=sentence):
        convert(sample, tmp_path / "made", lossy=True)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"codebase_version": "v2.1"},
            "is a LeRobotDataset v2.1; robopref reads v3.0. LeRobot converts older ones",
        ),
        ({"data_path": "../../{chunk_index}/{file_index}"}, "leaves the data set's folder"),
        ({"data_path": "{nothing}"}, "is no template"),
        ({"features": {}}, "has no feature action, episode_index, frame_index"),
        ({"features": None}, "describes no LeRobotDataset"),
        ({"fps": "fast"}, "describes no LeRobotDataset"),
        ({"fps": 0}, "fps must be a positive number, got 0"),
        ({"codebase_version": "v4.0"}, "is a LeRobotDataset v4.0; robopref reads v3.0."),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(sample, tmp_path, changes, sentence):
    edit_info(sample, **changes)
    with pytest.raises(DataError, match=sentence.replace(".", r"\.")):
        convert(sample, tmp_path / "made", lossy=True)


@pytest.mark.parametrize(
    ("file", "column", "values", "loss"),
    [
        (
            DATA,
            "timestamp",
            lambda v: [t + 0.005 * (t > 0) for t in v],
            "timestamps, which are not frame_index",
        ),
        (DATA, "next.done", lambda v: [True, *v[1:]], "next.done before the last step"),
        (DATA, "task_index", lambda v: [1, *v[1:]], "which of the episode's tasks each step belongs to"),
        (DATA, "task_index", lambda v: [42] * 12, "task_index 42, which is none of the episode's tasks"),
        (DATA, "index", lambda v: [50] * 12, "index, which does not number the rows"),
        (TASKS, "colour", lambda v: ["red"] * 2, "the column 'colour'"),
        (DATA, "torque", lambda v: [0.5] * 12, "the column 'torque'"),
        (EPISODES, "operator", lambda v: ["ann"] * 3, "the column 'operator'"),
    ],
)
def test_what_steps_and_episodes_say_beside_is_a_loss(sample, tmp_path, file, column, values, loss):
    table = pq.read_table(sample / file)
    if column in table.column_names:
        edit_table(sample / file, column, values)
    else:
        pq.write_table(table.append_column(column, pa.array(values(None))), sample / file)
    with pytest.raises(
        DataError, match=rf"would lose: .*{re.escape(loss)}[^;]*{re.escape(str(sample / file))}"
    ):
        convert(sample, tmp_path / "made")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("column", "values", "sentence"),
    [
        ("length", ["3", "4", "5"], "episode 0: length must be whole numbers, got '3'"),
        ("tasks", [1, 2, 3], "episode 0: tasks must be a list of texts, got 1"),
    ],
)
def test_a_column_of_another_type_is_named(sample, tmp_path, column, values, sentence):
    table = pq.read_table(sample / EPISODES)
    place = table.schema.get_field_index(column)
    pq.write_table(table.set_column(place, column, pa.array(values)), sample / EPISODES)
    with pytest.raises(DataError, match=f"meta/episodes, {sentence}"):
        convert(sample, tmp_path / "made", lossy=True)


def test_a_place_that_is_not_where_the_rows_are_is_a_loss(sample, tmp_path):
    edit_table(sample / EPISODES, "dataset_from_index", lambda v: [0, 77, 7])
    with pytest.raises(DataError, match=r"the change of dataset_from_index from 3 to 77 \([^;]*episode 1"):
        convert(sample, tmp_path / "made")


def test_a_missing_table_of_tasks_is_said(sample, tmp_path):
    (sample / TASKS).unlink()
    notes = convert(sample, tmp_path / "made", lossy=True).notes
    assert any("tasks.parquet is missing" in note for note in notes)


def test_what_was_changed_beside_our_table_is_a_loss(ours, tmp_path):
    edit_info(ours, fps=30, author="ann")
    edit_table(ours / EPISODES, "tasks", lambda v: [v[0], ["close it"], v[2]])
    (ours / "meta/notes.json").write_text("{}")
    with pytest.raises(DataError) as refusal:
        convert(ours, tmp_path / "made")
    for loss in ("change of fps from 80", "field 'author'", "change of tasks from", "file 'notes.json'"):
        assert f"the {loss}" in str(refusal.value)


@pytest.mark.parametrize(("name", "again"), [("next.reward", "reward"), ("next.success", "success")])
def test_a_second_column_of_rewards_or_successes_is_a_loss(sample, tmp_path, name, again):
    table = pq.read_table(sample / DATA)
    pq.write_table(table.append_column(again, table[name]), sample / DATA)
    edit_info(sample, features=features_of(sample) | {again: features_of(sample)[name]})
    with pytest.raises(DataError, match=rf"would lose: .*the feature '{again}' \("):
        convert(sample, tmp_path / "made")


def test_fewer_episodes_than_were_announced_are_a_loss(sample, tmp_path):
    edit_info(sample, total_episodes=4, total_frames=20)
    with pytest.raises(DataError) as refusal:
        convert(sample, tmp_path / "made")
    for loss in ("missing of 4 (total_episodes): there are 3", "missing of 20 (total_frames): there are 12"):
        assert f"{loss} ({sample / 'meta/info.json'})" in str(refusal.value)


def test_what_a_data_set_says_of_itself_is_kept(sample, tmp_path):
    convert(sample, tmp_path / "made", lossy=True)
    with TrajectoryStore.open(tmp_path / "made") as store:
        assert store.metadata["info"] == json.loads((sample / "meta/info.json").read_text())


def test_observations_can_be_joined_from_several_features(sample, tmp_path):
    edit_info(
        sample, features={**features_of(sample), "observation.heat": features_of(sample)["temperature"]}
    )
    table = pq.read_table(sample / DATA)
    pq.write_table(table.append_column("observation.heat", table["temperature"]), sample / DATA)
    convert(sample, tmp_path / "made", lossy=True, observation=["observation.heat", "observation.state"])
    with TrajectoryStore.open(tmp_path / "made") as store:
        assert store.episode(1).observations[1] == pytest.approx([20, 1, 1, 1.1])
    hint = r"'observation.hot'\. Did you mean 'observation.heat'\? There are: observation.heat"
    with pytest.raises(ConfigError, match=hint):
        convert(sample, tmp_path / "other", lossy=True, observation=["observation.hot"])


def test_a_data_set_that_another_tool_shortened_says_what_to_do(ours, tmp_path):
    table = pq.read_table(ours / EPISODES)
    pq.write_table(table.slice(0, 2), ours / EPISODES)
    with pytest.raises(DataError, match=r"speaks of 3 episodes, but the data set has 2.*delete that file"):
        convert(ours, tmp_path / "made", lossy=True)
    (ours / "meta/robopref.parquet").unlink()
    assert convert(ours, tmp_path / "made", lossy=True).episodes == 2
