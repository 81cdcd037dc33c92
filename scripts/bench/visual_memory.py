"""Memory and time of features and rewards of many films: python scripts/bench/visual_memory.py

Films of a bright square that moves over noise are written to disk, so many that they should not be held in
memory; then their features are computed and cached, read from the cache, and turned into scores and rewards
of frames. Anonymous memory is what the process holds beside files that it maps, which the system may drop.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robopref.nets.features import cached_features
from robopref.nets.vision import FITTING_FRAMES, PcaEncoder
from robopref.rewards.sequences import FeatureSequences
from robopref.rewards.transport import TransportReward


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--frames", type=int, default=13, help="of each episode")
    parser.add_argument("--size", type=int, default=48, help="side of a frame in pixels")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), given.episodes, given.frames, given.size)


def measure(folder: Path, episodes: int, length: int, size: int) -> None:
    """Write the films, then go through them twice."""
    path, shape = folder / "frames.u8", (episodes * length, size, size, 3)
    write_films(path, episodes, length, size)
    frames = np.memmap(path, np.uint8, mode="r", shape=shape)
    mib = path.stat().st_size / 2**20
    print(f"{episodes} films of {length} frames of {size} x {size} pixels: {mib:.0f} MiB")
    encoder = PcaEncoder(width=16)
    chosen = np.unique(np.linspace(0, len(frames) - 1, FITTING_FRAMES).astype(int))
    encoder.fit(torch.from_numpy(frames[chosen]).permute(0, 3, 1, 2))
    print(f"with the encoder: {anonymous_mib():.0f} MiB anonymous memory")

    def encoded() -> np.ndarray:
        return cached_features(encoder, frames, content="films", folder=folder)

    def read() -> np.ndarray:
        features = encoded()
        features.sum()  # so that every page of the map is read
        return features

    first, _ = timed("features, first time", encoded)
    again, features = timed("features, from the cache", read)
    print(f"the second time takes {again / first:.2%} of the first")
    sequences = FeatureSequences(features, np.arange(episodes + 1) * length, 5)
    reward = TransportReward(encoder, demonstrations=2, frames=length)
    reward.set_demonstrations(*sequences.gather([0, 1]), torch.from_numpy(np.array(features[:1000])))
    timed("scores of all films", lambda: reward.score_all(sequences))
    timed("rewards of all frames", lambda: reward.steps_all(sequences))


def write_films(path: Path, episodes: int, length: int, size: int) -> None:
    """Write one film after the other."""
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        for _ in range(episodes):
            film = rng.integers(0, 60, (length, size, size, 3), dtype=np.uint8)
            y, start, end = rng.integers(size - 8, size=3).tolist()
            for frame, x in zip(film, np.linspace(start, end, length).astype(int), strict=True):
                frame[y : y + 8, x : x + 8] = 220
            file.write(film.tobytes())


def timed(what: str, function: Callable[[], Any]) -> tuple[float, Any]:
    """Print CPU seconds and anonymous memory; return the seconds and the result."""
    begun = time.process_time()
    result = function()
    seconds = time.process_time() - begun
    print(f"{what}: {seconds:.3f} s of CPU, {anonymous_mib():.0f} MiB anonymous memory", flush=True)
    return seconds, result


def anonymous_mib() -> float:
    """Resident memory of this process that no file backs (Linux)."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) / 1024


if __name__ == "__main__":
    main()
