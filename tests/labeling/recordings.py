"""Small data sets as other tools record them, with real videos and images; each frame tells which it is.

The camera "front" sees a grey that is ``shade(episode, step)``, the camera "wrist" its opposite.
"""

import io
import json

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from robopref.data.interchange.convert import convert
from robopref.training.video import write_video
from tests.labeling.made import made_store

EPISODES, STEPS, HZ = 3, 12, 20.0
VIDEO = "videos/observation.images.{}/chunk-000/file-000.mp4"


def shade(episode, step):
    return 20 + 5 * (episode * STEPS + step) % 230


def pictures(episode, *, opposite=False, size=(32, 48)):
    grey = np.array([shade(episode, step) for step in range(STEPS)], np.uint8)
    grey = 255 - grey if opposite else grey
    return np.broadcast_to(grey[:, None, None, None], (STEPS, *size, 3))


def lerobot(path, episodes=EPISODES):
    """All episodes lie in one mp4 for each camera, as LeRobot writes them."""
    convert(made_store(path.with_name("made"), episodes, STEPS).path, path, target_format="lerobot")
    (path / "meta" / "robopref.parquet").unlink()
    info = json.loads((path / "meta/info.json").read_text())
    info["video_path"] = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    (table,) = (path / "meta/episodes").glob("*/*.parquet")
    rows = pq.read_table(table).to_pylist()
    for name in ("front", "wrist"):
        key = f"observation.images.{name}"
        info["features"][key] = {"dtype": "video", "shape": [32, 48, 3], "names": None}
        for episode, row in enumerate(rows):
            row |= {f"videos/{key}/chunk_index": 0, f"videos/{key}/file_index": 0}
            row[f"videos/{key}/from_timestamp"] = episode * STEPS / HZ
            row[f"videos/{key}/to_timestamp"] = (episode + 1) * STEPS / HZ
        frames = [pictures(episode, opposite=name == "wrist") for episode in range(episodes)]
        write_video(path / VIDEO.format(name), np.concatenate(frames), fps=HZ)
    (path / "meta/info.json").write_text(json.dumps(info))
    pq.write_table(pa.Table.from_pylist(rows), table)
    return path


def lerobot_images(path):
    """Images are encoded one by one in the tables of the steps, as LeRobot does with ``use_videos=False``."""
    convert(made_store(path.with_name("made"), EPISODES, STEPS).path, path, target_format="lerobot")
    (path / "meta" / "robopref.parquet").unlink()
    info = json.loads((path / "meta/info.json").read_text())
    (table,) = (path / "data").glob("*/*.parquet")
    steps = pq.read_table(table)
    for name in ("front", "wrist"):
        key = f"observation.images.{name}"
        info["features"][key] = {"dtype": "image", "shape": [32, 48, 3], "names": None}
        frames = np.concatenate([pictures(episode, opposite=name == "wrist") for episode in range(EPISODES)])
        steps = steps.append_column(key, pa.array([{"bytes": png(frame), "path": None} for frame in frames]))
    (path / "meta/info.json").write_text(json.dumps(info))
    pq.write_table(steps, table)
    return path


def png(frame):
    Image.fromarray(frame).save(encoded := io.BytesIO(), "PNG")
    return encoded.getvalue()


def robomimic(path):
    """Images are observations of every step."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "env_kwargs": {"control_freq": HZ}})
        for episode in range(EPISODES):
            demo = data.create_group(f"demo_{episode}")
            demo["actions"] = rng.uniform(-1, 1, (STEPS, 7)).astype(np.float32)
            demo["rewards"] = np.zeros(STEPS, np.float32)
            demo["dones"] = np.zeros(STEPS, np.int64)
            demo["obs/robot0_eef_pos"] = rng.normal(size=(STEPS, 3)).astype(np.float32)
            demo["obs/front_image"] = pictures(episode)
            demo["obs/wrist_image"] = pictures(episode, opposite=True, size=(24, 24))
    return path


def minari(path):
    """Dictionary observations, with one more than there are actions."""
    (path / "data").mkdir(parents=True)
    about = {"data_format": "hdf5", "total_episodes": EPISODES, "dataset_id": "toy/seen-v0"}
    (path / "data/metadata.json").write_text(json.dumps(about))
    with h5py.File(path / "data/main_data.hdf5", "w") as file:
        for episode in range(EPISODES):
            group = file.create_group(f"episode_{episode}")
            group["observations/state"] = np.full((STEPS + 1, 2), float(episode), np.float32)
            seen = pictures(episode)
            group["observations/front"] = np.concatenate([seen, np.full_like(seen[:1], 255)])
            group["actions"] = np.zeros((STEPS, 2), np.float32)
            group["rewards"] = np.zeros(STEPS, np.float32)
            group["terminations"] = np.zeros(STEPS, bool)
            group["truncations"] = np.arange(STEPS) == STEPS - 1
    return path
