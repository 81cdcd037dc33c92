"""Where the parts of a LeRobotDataset lie, how a test changes them, and videos whose frames are numbered."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robopref.labeling.footage import read_footage
from robopref.training.video import write_video

SAMPLE = Path(__file__).parent / "lerobot_sample"
DATA, EPISODES = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"
TASKS = "meta/tasks.parquet"


def features_of(path):
    return json.loads((path / "meta/info.json").read_text())["features"]


def edit_info(path, **changes):
    file = path / "meta/info.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_table(file, name, change):
    table = pq.read_table(file)
    values = change(table[name].to_pylist())
    place = table.schema.get_field_index(name)
    pq.write_table(
        table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type)),
        file,
    )


def numbered(count, fps, path, first=0):
    """Write a video whose frames grow brighter, four steps a frame."""
    grey = 4 * (first + np.arange(count, dtype=np.uint8))
    write_video(path, np.zeros((count, 48, 64, 3), np.uint8) + grey[:, None, None, None], fps=fps)


def brightness(cameras, camera, episode, steps):
    frames = read_footage([cameras[camera][episode]], range(steps))
    return np.rint(frames.mean((1, 2, 3)) / 4).astype(int).tolist()
