"""Rewards from pixels against the number of preferences: python scripts/bench/rapl.py

Episodes of graded quality are collected and filmed once. For each task, criterion and seed, episodes are
split by initial pose; a scripted teacher who sees positions answers pairs of the training episodes; every
method sees frames alone and is judged on the test episodes. Nothing is chosen on the test episodes. Each cell
is a line of ``results-*.jsonl``, and a stopped run goes on; ``--table`` prints what is there, and ``--table
docs/results/rapl.md`` writes it to its places in that page and, the long tables, in ``rapl-cells.md`` beside.

``all`` is the rank correlation (Spearman) with the criterion's score over all test episodes, ``non-expert``
without the experts', ``strict`` also without the stalled ones' of Meta-World (which begin as an expert does)
or the random ones' of the table (which are easily told apart). ``step`` is the mean over test episodes of the
rank correlation of the reward of frames with the score of the steps between them, and ``progress`` the same
with the sum of all scores so far (at the table, a step's score is what it gains). ``other arm`` is ``all`` on
the test episodes of a second arm, which no method saw before.
"""

import argparse
import itertools
import json
import time
from pathlib import Path

import torch
from rapl_methods import MOST, Judge, learned
from rapl_page import lines, show, tables
from rapl_scenes import TASKS, Lab

COUNTS = (100, 20, 50, 10, MOST)  # in this order, so that a short run has the ends of the curve


def main() -> None:
    """Run the cells that are missing, or print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/rapl"))
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--counts", nargs="*", type=int, default=COUNTS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--distractors", action="store_true")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument(
        "--table", nargs="?", const="", metavar="PAGE", help="print the results, or write them"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.table is not None:
        found = tables(given.out)
        beside = given.table and str(Path(given.table).with_name("rapl-cells.md"))
        show({"cells": found.pop("cells")}, beside)
        show(found, given.table)
        return
    labs = {name: Lab(given.out, name, given.workers, distractors=given.distractors) for name in given.tasks}
    for seed, count in itertools.product(range(given.seeds), given.counts):
        for lab in labs.values():
            for criterion in lab.task.criteria:
                cell(given.out, lab, criterion, seed, count)


def cell(out: Path, lab: Lab, criterion: str, seed: int, count: int) -> None:
    """Learn and judge every method, unless that was done."""
    path = out / f"results-{lab.name}-{'distractors' if lab.distractors else 'plain'}.jsonl"
    key = {"task": lab.name, "criterion": criterion, "distractors": lab.distractors}
    key |= {"seed": seed, "preferences": count}
    if any({k: line[k] for k in key} == key for line in lines(path)):
        return
    truth = lab.truth(criterion)
    train, test = lab.split(seed)
    encoder, sequences = lab.features(seed)
    judges = {"": (Judge(truth, test, lab.kinds, lab.task.easy, lab.task.every), sequences)}
    if lab.task.scene_distracts:
        other = lab.other_arm
        judge = Judge(other.truth(criterion), test, other.kinds, lab.task.easy, lab.task.every)
        judges["other arm "] = (judge, other.seen_by(encoder))
    started = time.process_time()
    found = {}
    for name, reward, report in learned(encoder, sequences, train, truth, seed, count):
        found[name] = dict(report)
        for prefix, (judge, seen) in judges.items():
            found[name] |= {prefix + key: value for key, value in judge.of(reward, seen).items()}
        if "other arm " in judges:
            found[name]["other arm"] = found[name]["other arm all"]
    line = {**key, "methods": found, "cpu_s": round(time.process_time() - started, 1)}
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    means = ", ".join(f"{name} {values['all']:.2f}" for name, values in found.items())
    print(f"{lab.name} {criterion} seed {seed} N {count}: {means} ({line['cpu_s']} s)", flush=True)


if __name__ == "__main__":
    main()
