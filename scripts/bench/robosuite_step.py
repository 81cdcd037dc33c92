"""robosuite's steps and ours in turn, in CPU time; and collection by two processes against one, in wall time.

python scripts/bench/robosuite_step.py [--episodes 64]

With both parts, outputs/bench/robosuite-step.json holds what was found, for environments.py --page.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from collecting import two_processes

from robopref.envs.robosuite.simulation import build, import_robosuite
from robopref.envs.robosuite.tasks import TASKS
from robopref.files import write_json

ROUNDS, STEPS = 6, 30


def main() -> None:
    """Print control steps per CPU second of each task, then episodes per second of each number of workers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--episodes", type=int, default=16, help="to collect; 0 leaves this part out")
    options = parser.parse_args()
    import_robosuite()
    from robopref.envs.robosuite.control import FastStep  # after it was told to be quiet

    times_as_many: dict[str, float] = {}
    actions = np.random.default_rng(0).uniform(-1, 1, (STEPS, 7))
    for name, task in TASKS.items():
        upstream = build(task)
        ways = {"robosuite": upstream.step, "here": FastStep(upstream).step}
        spent = dict.fromkeys(ways, 0.0)
        for around in range(ROUNDS + 1):
            for way, step in ways.items():
                upstream.reset()
                begun = time.process_time()
                for action in actions:
                    step(action)
                if around:  # the first warms up
                    spent[way] += time.process_time() - begun
        rates = {way: ROUNDS * STEPS / seconds for way, seconds in spent.items()}
        text = ", ".join(f"{way} {rate:.0f}" for way, rate in rates.items())
        times_as_many[name] = rates["here"] / rates["robosuite"]
        print(f"{name}: {text} control steps per CPU second, {times_as_many[name]:.2f} times")
    if not options.episodes:
        return
    two = two_processes("robopref.envs:robopref/rs-can-v0", options.episodes, "can")
    found = {
        "date": time.strftime("%Y-%m-%d"),
        "times_as_many": times_as_many,
        "episodes": options.episodes,
        "two_processes": two,
    }
    write_json(Path("outputs/bench/robosuite-step.json"), found)


if __name__ == "__main__":
    main()
