"""What detail of meshes costs in a frame, and how many pixels it changes.

    python scripts/bench/frames.py [--tasks button-press drawer-open] [--size 84] [--details 0 0.01]

Every state is drawn at each detail, in turns, in CPU time of the process; the median over states is shown.
A pixel counts as changed if a channel of it differs by more than 20 of 255 from the frame at detail 0.
"""

import argparse
import time
from typing import Any

import numpy as np

from robopref.envs.metaworld.environment import MetaWorldEnv

STATES = 60


def measured(task: str, size: int, details: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Milliseconds of each state's frame at each detail, and the share of its pixels that changed."""
    envs = [
        MetaWorldEnv(task, horizon=10**9, render_mode="rgb_array", width=size, height=size, detail_m=detail)
        for detail in details
    ]
    rng = np.random.default_rng(0)
    for env in envs:
        env.reset(seed=0)
        env.render()  # uploads the meshes
    spent, changed = np.zeros((STATES, len(envs))), np.zeros((STATES, len(envs)))
    for state in range(STATES):
        action, frames = rng.uniform(-1, 1, 4), list[Any]()
        for number, env in enumerate(envs):
            for _ in range(5):
                env.step(action)
            began = time.process_time()
            frames.append(env.render().astype(int))
            spent[state, number] = time.process_time() - began
        changed[state] = [(abs(frame - frames[0]).max(-1) > 20).mean() for frame in frames]
    for env in envs:
        env.close()
    return 1e3 * spent, changed


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=["button-press", "drawer-open"])
    parser.add_argument("--size", type=int, default=84)
    parser.add_argument("--details", nargs="+", type=float, default=[0.0, 0.005, 0.01, 0.02])
    given = parser.parse_args()
    print("| task | detail, m | ms a frame | times as fast | pixels changed |\n|---|---|---|---|---|")
    for task in given.tasks:
        spent, changed = measured(task, given.size, given.details)
        medians = np.median(spent, 0)
        for number, detail in enumerate(given.details):
            ratio, share = medians[0] / medians[number], changed[:, number].mean()
            print(f"| {task} | {detail:g} | {medians[number]:.1f} | {ratio:.2f} | {share:.1%} |")


if __name__ == "__main__":
    main()
