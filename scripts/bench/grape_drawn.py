"""Success of a GRAPE run's policies when they choose their actions in another way than the run evaluated.

    python scripts/bench/grape_drawn.py outputs/a --policies supervised filtered-bc grape-round1 [--axis dev]
    python scripts/bench/grape_drawn.py outputs/a --policies supervised --temperature 0.5 --central 1
    python scripts/bench/grape_drawn.py outputs/a --policies supervised --greedy mode

Without further words they draw as in rollouts. They start in the states of the axis along which the run
tried them greedily, with the same instructions. Differences are to the first policy, state by state;
intervals (95 %) are percentiles of 10,000 bootstrap samples of states.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from robopref.data.store import TrajectoryStore
from robopref.policies.vla.policy import DECODINGS, TokenPolicy
from robopref.policies.vla.saved import load_vla
from robopref.training.rollouts import Assignment, collect_rollouts


def successes(run: Path, name: str, given: argparse.Namespace) -> np.ndarray:
    """Whether a policy succeeded in each state of each task."""
    policy = load_vla(run / name)
    if not isinstance(policy, TokenPolicy):
        raise SystemExit(f"{name} is no policy of tokens: it draws in one way only.")
    policy.temperature = given.temperature or policy.temperature
    policy.central = given.central or policy.central
    policy.decoding = given.greedy or policy.decoding
    assignments = []
    for folder in sorted((run / "trials" / name / given.axis).iterdir()):
        was = TrajectoryStore.open(folder).metadata["rollouts"]["assignment"]
        was |= {"seeds": tuple(was["seeds"]), "instructions": tuple(was["instructions"])}
        assignments.append(Assignment(**was | {"deterministic": given.greedy is not None}))
    content = f"{name}-{given.greedy or f'at-{policy.temperature}-of-{policy.central}'}"
    stores = collect_rollouts(
        run / "drawn" / given.axis / content, policy, assignments, policy_content=content, at_once=30
    )
    return np.concatenate([store.successes for store in stores.values()]).astype(float)


def interval(values: np.ndarray) -> str:
    """The mean in per cent and its interval."""
    means = np.random.default_rng(0).choice(values, (10_000, len(values))).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{100 * values.mean():+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def main() -> None:
    """Print a row for each policy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--policies", nargs="+", required=True)
    parser.add_argument("--axis", default="dev")
    parser.add_argument("--temperature", type=float, help="instead of the policy's own")
    parser.add_argument("--central", type=float, help="likewise")
    parser.add_argument("--greedy", choices=DECODINGS, help="draw nothing, and decode each token so")
    given = parser.parse_args()
    torch.set_num_threads(1)
    first = None
    for name in given.policies:
        found = successes(given.run, name, given)
        first = found if first is None else first
        print(f"| {name} | {found.mean():.1%} | {interval(found - first)} |", flush=True)


if __name__ == "__main__":
    main()
