"""Success of a GRAPE run's policies when they draw their actions, as in rollouts, instead of taking the best.

    python scripts/bench/grape_drawn.py outputs/a --policies supervised filtered-bc grape-round1 [--axis dev]

They start in the states of the axis along which the run tried them greedily, with the same instructions.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from robopref.data.store import TrajectoryStore
from robopref.policies.vla.policy import TokenPolicy
from robopref.policies.vla.saved import load_vla
from robopref.training.rollouts import Assignment, collect_rollouts


def drawn(run: Path, name: str, axis: str, temperature: float | None) -> dict[str, float]:
    """Success of a policy in each task."""
    policy = load_vla(run / name)
    if not isinstance(policy, TokenPolicy):
        raise SystemExit(f"{name} is no policy of tokens, and has no temperature to draw at.")
    policy.temperature = temperature or policy.temperature
    assignments = []
    for folder in sorted((run / "trials" / name / axis).iterdir()):
        given = TrajectoryStore.open(folder).metadata["rollouts"]["assignment"]
        given |= {"seeds": tuple(given["seeds"]), "instructions": tuple(given["instructions"])}
        assignments.append(Assignment(**given | {"deterministic": False}))
    content = f"{name} at {policy.temperature}"
    folder = run / "drawn" / axis / content.replace(" ", "-")
    stores = collect_rollouts(folder, policy, assignments, policy_content=content, at_once=30)
    return {task: float(store.successes.mean()) for task, store in stores.items()}


def main() -> None:
    """Print a row for each policy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--policies", nargs="+", required=True)
    parser.add_argument("--axis", default="dev")
    parser.add_argument("--temperature", type=float, help="instead of the policy's own")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.policies:
        found = drawn(given.run, name, given.axis, given.temperature)
        tasks = ", ".join(f"{task} {rate:.0%}" for task, rate in found.items())
        print(f"| {name} | {np.mean(list(found.values())):.1%} | {tasks} |", flush=True)


if __name__ == "__main__":
    main()
