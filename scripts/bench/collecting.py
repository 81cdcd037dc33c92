"""How much faster two processes collect than one, start-up included."""

import tempfile
import time
from pathlib import Path

from robopref.training.collect import collect

BEHAVIOURS = ({"kind": "expert", "noise": 0.05}, {"kind": "random"})


def two_processes(env_id: str, episodes: int, name: str) -> float:
    """Collect as often, once by one process and once by two; print both times, and return their ratio."""
    seconds = {}
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            collect(
                Path(folder) / "episodes",
                env_id=env_id,
                behaviours=list(BEHAVIOURS),
                episodes=episodes,
                seed=0,
                workers=workers,
                progress=False,
            )
            seconds[workers] = time.perf_counter() - begun
    times = seconds[1] / seconds[2]
    print(
        f"{episodes} episodes of {name}: {seconds[1]:.1f} s by one process, {seconds[2]:.1f} s by two "
        f"({times:.2f} times, start-up included)"
    )
    return times
