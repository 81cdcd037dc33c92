"""How long a Meta-World step takes, beside the upstream simulator's own step and the physics alone.

The same noisy expert drives all four, step by step in turns, from one layout: upstream's `step`; ours, which
gives the same numbers to the last bit (tests/envs/test_quick.py); `MetaWorldEnv.step`, which also checks the
action and copies what it hands out; and what ours asks of MuJoCo, without what makes observation and reward
of it. Each step is timed several times from the same snapshot, in CPU time of one thread; the least is kept.

With `--episodes` it also collects the first task by two processes against one, in wall time (and with
`--repeats 0` nothing else).

    python scripts/bench/metaworld_step.py [--tasks drawer-open push] [--repeats 5] [--episodes 64]
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled names carry no type information)

import argparse
import os
import time
from collections.abc import Callable

import mujoco
import numpy as np
from collecting import two_processes

from robopref.envs.metaworld import simulation
from robopref.envs.metaworld.behaviours import Behaviour
from robopref.envs.metaworld.environment import MetaWorldEnv
from robopref.envs.metaworld.tasks import TASKS, task_id


def measured(task: str, steps: int, repeats: int) -> np.ndarray:
    """Mean microseconds of a step: upstream, ours, ours as an environment, physics."""
    env = MetaWorldEnv(task, horizon=10**9)
    env.reset(seed=0)
    start = env.snapshot()
    sides = {
        name: simulation.build(task, quick=name != "upstream") for name in ("upstream", "ours", "physics")
    }
    for simulator in sides.values():  # a simulator is restored once it has been reset
        pristine = simulation.capture(task, simulator, np.zeros(39), 0, over=True)
        simulation.begin_episode(simulator, pristine, np.random.default_rng(0))

    calls: list[Callable] = [sides["upstream"].step, sides["ours"].step, env.step, sides["physics"].move]
    spent = np.empty((repeats, steps, len(calls)))
    for repeat in range(repeats):
        observation = env.restore(start)
        for simulator in sides.values():
            simulation.restore(simulator, start)
        act = Behaviour(task, "expert", np.random.default_rng(0), noise=0.3)
        for step in range(steps):
            action = act(observation)
            for side, call in enumerate(calls):
                began = time.thread_time_ns()
                found = call(action)
                spent[repeat, step, side] = time.thread_time_ns() - began
                observation = observation if found is None else found[0]
    return spent.min(axis=0).mean(axis=0) / 1e3


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS, metavar="TASK")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--episodes", type=int, default=0, help="to collect; 0 leaves this part out")
    options = parser.parse_args()
    if options.repeats:
        compare(options.tasks, options.steps, options.repeats)
    if options.episodes:
        two_processes(task_id(options.tasks[0]), options.episodes, options.tasks[0])


def compare(tasks: list[str], steps: int, repeats: int) -> None:
    """Print one line per task, and the means."""
    print(f"MuJoCo {mujoco.__version__}, NumPy {np.__version__}, load {os.getloadavg()[0]:.1f}")
    print(f"{'us per step':24s} upstream   ours    env  physics  upstream / ours  / env  at most")
    rows = []
    for task in tasks:
        upstream, ours, env, physics = row = measured(task, steps, repeats)
        rows.append(row)
        print(
            f"{task:24s} {upstream:8.0f} {ours:6.0f} {env:6.0f} {physics:8.0f}  {upstream / ours:14.2f}x "
            f"{upstream / env:5.2f}x {upstream / physics:7.2f}x",
            flush=True,
        )
    table = np.array(rows)
    total, mean = table.sum(axis=0), (table[:, :1] / table[:, 1:]).mean(axis=0)
    python = 1 - (table[:, 1] - table[:, 3]) / (table[:, 0] - table[:, 3])
    print(
        f"all {len(rows)}: {total[0] / total[1]:.2f}x of the sum, {mean[0]:.2f}x in the mean "
        f"({mean[1]:.2f}x as an environment; physics alone {mean[2]:.2f}x); "
        f"of what is not physics, {python.mean():.0%} is gone"
    )


if __name__ == "__main__":
    main()
