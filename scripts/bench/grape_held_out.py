"""Whether an alignment of GRAPE learned what tells success from failure, or only its own rollouts.

    python scripts/bench/grape_held_out.py outputs/a outputs/a --policies tpo   # what it learned from
    python scripts/bench/grape_held_out.py outputs/a outputs/b --policies tpo   # other rollouts

The first folder is a run of ``experiment=grape`` whose policies are asked, the second one whose rollouts of
the first round they judge; both runs must share the supervised policy. From each initial state where some
rollouts succeeded and some failed, a policy that improved makes the actions of successes more likely than its
start did by more than those of failures: the gap, in nats per token. ``sorted`` is the share of pairs of a
success and a failure of one state that this puts in order. Intervals (95 %) are percentiles of 2,000
bootstrap samples of states.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robopref.data.queries import initial_states
from robopref.data.store import TrajectoryStore
from robopref.errors import DataError, RoboprefError
from robopref.files import read_json
from robopref.methods.phases.lab import file_content
from robopref.methods.phases.vla import WEIGHTS
from robopref.policies.vla.data import Decisions, FilmedEpisodes
from robopref.policies.vla.saved import load_vla
from robopref.training.filming import film_store


@dataclass(frozen=True)
class State:
    """Numbers of the trajectories that began in one state: which succeeded, and which failed."""

    good: list[int]
    bad: list[int]


def rollouts(run: Path, every: int) -> list[FilmedEpisodes]:
    """Rollouts of a run's first round, with the frames that were kept."""
    found = []
    for assignment in read_json(run / "phases" / "rollouts-round1.json")["settings"]["assignments"]:
        store = TrajectoryStore.open(run / "rollouts" / "round1" / assignment["name"])
        instructions = [str(store.provenance(e).options["instruction"]) for e in range(len(store))]
        frames = film_store(store, view=assignment["view"], every=every, workers=0, progress=False)
        found.append(FilmedEpisodes(store, frames, instructions))
    return found


def mixed(source: FilmedEpisodes, most: int) -> list[np.ndarray]:
    """The episodes of each of the first states from which some succeeded and some failed."""
    successes = source.store.successes
    groups = [group for group in initial_states(source.store).values() if 0 < successes[group].mean() < 1]
    return groups[:most]


def measured(policies: dict[str, Path], start: Path, other: Path, most: int) -> list[str]:
    """A table with a line for each policy, of the rollouts of another run."""
    before = load_vla(start)
    sources = rollouts(other, before.horizon)
    groups = [mixed(source, most) for source in sources]
    kept = [np.concatenate([np.empty(0, np.int64), *found]) for found in groups]
    decisions = Decisions(before, sources, kept=kept)
    states = []
    for number, (source, found) in enumerate(zip(sources, groups, strict=True)):
        for group in found:
            sides = group[source.store.successes[group]], group[~source.store.successes[group]]
            states.append(State(*([decisions.trajectory(number, int(e)) for e in side] for side in sides)))
    reference = decisions.mean_scores(before)
    lines = [
        f"{len(decisions.names)} rollouts from {len(states)} states with successes and failures",
        "",
        "| policy | sorted | gap, nats per token | change of successes |",
        "|---|---|---|---|",
    ]
    for name, folder in policies.items():
        change = (decisions.mean_scores(load_vla(folder)) - reference) / before.action_size
        gaps = [change[s.good].mean() - change[s.bad].mean() for s in states]
        sorts = [float((change[s.good][:, None] > change[s.bad]).mean()) for s in states]
        level = np.mean([change[s.good].mean() for s in states])
        lines.append(
            f"| `{name}` | {_with_interval(sorts, '.2f')} | {_with_interval(gaps, '+.4f')} | {level:+.4f} |"
        )
    return lines


def _with_interval(values: Sequence[float], form: str) -> str:
    each = np.array(values)
    drawn = np.random.default_rng(0).integers(len(each), size=(2000, len(each)))
    low, high = np.percentile(each[drawn].mean(1), [2.5, 97.5])
    return f"{each.mean():{form}} [{low:{form}}, {high:{form}}]"


def main() -> None:
    """Read, score and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="whose policies are asked")
    parser.add_argument("other", type=Path, help="whose rollouts they judge")
    parser.add_argument("--policies", default="grape-round1,filtered-bc")
    parser.add_argument("--states", type=int, default=3, help="of each task")
    given = parser.parse_args()
    try:
        start = given.run / "supervised"
        if file_content(start / WEIGHTS) != file_content(given.other / "supervised" / WEIGHTS):
            raise DataError(f"{given.run} and {given.other} began with different supervised policies.")
        named = {name: given.run / name for name in given.policies.split(",")}
        print("\n".join(measured(named, start, given.other, given.states)))
    except RoboprefError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
