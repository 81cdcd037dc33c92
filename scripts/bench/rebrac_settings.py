"""Which settings ReBRAC learns with, on tasks that no result is reported of.

    python scripts/bench/rebrac_settings.py [--tasks drawer-close door-open] [--steps 3000] [--episodes 30]

The tasks are of the nine on which PEARL's settings were chosen (``transfer.py``, DEVELOPMENT); rewards are
the environment's own, and IQL stands beside. Each trial is one line of outputs/bench/rebrac-settings.jsonl,
and a later call goes on from there.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from transfer import DEVELOPMENT, episodes

from robopref.policies.iql import ImplicitQLearning
from robopref.policies.offline import OfflinePolicy
from robopref.policies.rebrac import ReBRAC
from robopref.training.devices import make_fabric
from robopref.training.evaluation import evaluate, evaluation_seeds
from robopref.training.loop import fit
from robopref.training.metrics import RunLog

SETTINGS: list[dict[str, Any]] = [
    {"actor_penalty": actor, "critic_penalty": critic, "polyak": 0.02}
    for actor, critic in ((1.0, 0.1), (1.0, 1.0), (4.0, 0.1), (0.25, 0.1), (1.0, 0.01))
]


def trial(task: str, settings: dict[str, Any] | None, options: argparse.Namespace) -> dict[str, Any]:
    """Train and try one policy; ``settings`` None is IQL."""
    store = episodes("metaworld", task, 0, options.data)
    sizes = (store.layout.observation_size, store.layout.action_size)
    iql = ImplicitQLearning(*sizes, temperature=1.0)
    learner: OfflinePolicy = iql if settings is None else ReBRAC(*sizes, **settings)
    folder = options.data / "rebrac" / f"{task}-{json.dumps(settings)}-{options.steps}".replace('"', "")
    start = time.process_time()
    with RunLog(folder, wandb_mode="disabled") as log:
        seen = fit(
            learner,
            learner.prepare_data(store),
            steps=options.steps,
            batch_size=256,
            seed=0,
            fabric=make_fabric("cpu"),
            log=log,
            phase="policy",
            directory=folder,
        )
    result = evaluate(
        learner,
        name="trial",
        env_id=f"robopref.envs:robopref/mw-{task}-v0",
        env_options={"horizon": 150, "terminate_on_success": False},
        seeds=evaluation_seeds(options.episodes, 10_000),
        workers=0,
    ).summary()
    return {
        "task": task,
        "settings": settings,
        "steps": options.steps,
        "episodes": options.episodes,
        "rate": result["rate"],
        "mean_return": result["mean_return"],
        "cpu_s": time.process_time() - start,
        "seen": seen,
    }


def main() -> None:
    """Try what is missing, then print all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=["drawer-close", "door-open"], choices=DEVELOPMENT)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--episodes", type=int, default=30)
    parser.add_argument("--data", type=Path, default=Path("outputs/bench/transfer-data"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    file = Path("outputs/bench/rebrac-settings.jsonl")
    file.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for settings in (SETTINGS[0], None, *SETTINGS[1:]):
        for task in options.tasks:
            wanted = {
                "task": task,
                "settings": settings,
                "steps": options.steps,
                "episodes": options.episodes,
            }
            if any(wanted.items() <= known.items() for known in done):
                continue
            done.append(trial(task, settings, options))
            with file.open("a") as lines:
                lines.write(json.dumps(done[-1]) + "\n")
    print(f"load {os.getloadavg()[0]:.1f}")
    for found in done:
        print(
            f"{found['task']:14s} {found['steps']:6d} steps  {found['rate']:4.0%} of "
            f"{found.get('episodes', 'unknown')} episodes  return "
            f"{found['mean_return']:7.1f}  {found['cpu_s']:5.0f} CPU s  {found['settings'] or 'IQL'}"
        )


if __name__ == "__main__":
    main()
