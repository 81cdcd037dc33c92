"""Policies learned from rewards of pixels: python scripts/bench/rapl_policies.py

On the episodes and splits of ``rapl.py``, with the same preferences: each reward of frames becomes a reward
of every step of all collected episodes, shifted so that sums over episodes order them as their scores do
(those of ``<reward>, own sums`` stay as they are). A policy on states learns from it offline, by cloning the
quarter of the episodes with the largest sum (``best quarter``) or by implicit Q-learning (``IQL``). Beside
them stand the true score of the criterion and the clone of all episodes. Every policy is tried from the same
initial states, which no episode began in. Each policy is a line of ``policies-*.jsonl``; a stopped run goes
on.

``success`` is that of the task, with Wilson's 95 % interval over all episodes of all seeds; ``score`` is the
mean of the criterion's sum over an episode, what the teacher wants, with 1.96 standard errors.
"""

import argparse
import itertools
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rapl_methods import adam, learned
from rapl_page import lines, show
from rapl_scenes import TASKS, Lab, truth_of
from scipy.stats import binomtest

from robopref.data.store import TrajectoryStore
from robopref.policies.bc import BehaviourCloning
from robopref.policies.iql import ImplicitQLearning
from robopref.policies.offline import OfflinePolicy
from robopref.rewards.sequences import ordered_by_scores, spread_over_steps
from robopref.training.evaluation import evaluation_seeds
from robopref.training.rollouts import Assignment, collect_rollouts

LEARNERS: dict[str, Any] = {
    "best quarter": lambda **sizes: BehaviourCloning(**sizes, top_fraction=0.25, hidden=(128, 128)),
    "IQL": lambda **sizes: ImplicitQLearning(**sizes, hidden=(128, 128), discount=0.97, temperature=1.0),
}
LEARNED = ("RAPL", "untrained OT", "Bradley-Terry")
OWN = ", own sums"
REWARDS = ("true score", *LEARNED, *(name + OWN for name in LEARNED))


def main() -> None:
    """Learn and try the policies that are missing, or print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/rapl"))
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--preferences", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="*", help="0 1 2; for --table, all there are")
    parser.add_argument("--learners", nargs="*", default=list(LEARNERS), choices=list(LEARNERS))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument(
        "--table", nargs="?", const="", metavar="PAGE", help="print the results, or write them"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.table is not None:
        show({"policies": table(given.out, given.seeds)}, given.table)
        return
    labs = [Lab(given.out, name, given.workers) for name in given.tasks]
    for seed in given.seeds or (0, 1, 2):
        for lab in labs:
            for criterion in lab.task.criteria:
                cells(given, lab, criterion, seed)


def cells(given: argparse.Namespace, lab: Lab, criterion: str, seed: int) -> None:
    """Learn and try every policy of one task, criterion and seed, unless that was done."""
    path = given.out / f"policies-{lab.name}.jsonl"
    key = {"task": lab.name, "criterion": criterion, "seed": seed, "preferences": given.preferences}
    key |= {"steps": given.steps, "episodes": given.episodes}
    names = [("none", "clone"), *((reward, learner) for learner in given.learners for reward in REWARDS)]
    done = {(x["reward"], x["learner"]) for x in lines(path) if {k: x[k] for k in key} == key}
    missing = [name for name in names if name not in done]
    rewards = _rewards(lab, criterion, seed, given.preferences) if missing else {}
    for reward, learner in missing:
        started = time.process_time()
        make = BehaviourCloning if learner == "clone" else LEARNERS[learner]
        layout = lab.store.layout
        policy = make(observation_size=layout.observation_size, action_size=layout.action_size, seed=seed)
        sampler = policy.prepare_data(lab.store, rewards.get(reward), device=torch.device("cpu"))
        adam(policy, sampler, given.steps, 128, learner)
        found = tried(given.out / "tried", lab, policy.eval(), criterion, given.episodes, seed)
        line = {**key, "reward": reward, "learner": learner, **found}
        line["cpu_s"] = round(time.process_time() - started, 1)
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        rate, score = np.mean(found["successes"]), np.mean(found["scores"])
        print(f"{lab.name} {criterion} seed {seed}, {reward}, {learner}: {rate:.2f}, {score:.2f}", flush=True)


def _rewards(lab: Lab, criterion: str, seed: int, count: int) -> dict[str, np.ndarray]:
    """Rewards of all rows of the store."""
    truth, (train, _) = lab.truth(criterion), lab.split(seed)
    encoder, sequences = lab.features(seed)
    found = {"true score": list(truth)}
    for name, reward, _ in learned(encoder, sequences, train, truth, seed, count):
        steps = [spread_over_steps(x, lab.task.every, lab.task.horizon) for x in reward.steps_all(sequences)]
        found[name + OWN] = steps
        found[name] = ordered_by_scores(steps, reward.score_all(sequences))
    rows = {name: np.zeros(len(lab.store.array("rewards")), np.float32) for name in found}
    for name, episodes in found.items():
        for first, values in zip(lab.store.first_rows, episodes, strict=True):
            rows[name][first : first + len(values)] = values
    return rows


def tried(
    folder: Path, lab: Lab, policy: OfflinePolicy, criterion: str, episodes: int, seed: int
) -> dict[str, list[Any]]:
    """Successes and scores of a policy from initial states that no episode began in."""
    seeds = tuple(evaluation_seeds(episodes, seed * episodes))
    asked = Assignment(lab.name, lab.task.env_id, dict(lab.options), ("",), seeds, 1, deterministic=True)
    shutil.rmtree(folder, ignore_errors=True)
    stores = collect_rollouts(
        folder, policy, [asked], policy_content="tried", at_once=episodes, progress=False
    )
    store: TrajectoryStore = stores[lab.name]
    scores = truth_of(store, lab.task, criterion).sum(1)
    return {"successes": store.successes.astype(int).tolist(), "scores": scores.round(4).tolist()}


def table(out: Path, seeds: list[int] | None = None) -> str:
    """A block for each task and criterion, a row for each policy, over these or all seeds."""
    found = [line for path in sorted(out.glob("policies-*.jsonl")) for line in lines(path)]
    found = [line for line in found if not seeds or line["seed"] in seeds]
    if len(settings := {(x["preferences"], x["steps"], x["episodes"]) for x in found}) > 1:
        raise SystemExit(
            f"{out} holds policies of several (--preferences, --steps, --episodes), {sorted(settings)}; "
            "a table is of one. Move the others away."
        )
    text: list[str] = []
    within: list[str] = []
    for task, criterion in sorted({(x["task"], x["criterion"]) for x in found}):
        part = [x for x in found if (x["task"], x["criterion"]) == (task, criterion)]
        text += ["", f"### {criterion}, {task}", ""]
        text += ["| learner | reward | seeds | success | within the true score's | score |", "|---" * 6 + "|"]
        for learner, reward in [("clone", "none"), *itertools.product(LEARNERS, REWARDS)]:
            rows = [x for x in part if (x["reward"], x["learner"]) == (reward, learner)]
            if not rows:
                continue
            rate, low, high = _success(rows)
            best = [x for x in part if (x["reward"], x["learner"]) == ("true score", learner)]
            inside = ""
            if best and reward != "true score":
                inside = "yes" if _success(best)[1] <= rate <= _success(best)[2] else "no"
            if reward == "RAPL" and inside == "yes":
                within.append(f"{criterion} of {task} by {learner}")
            scores = np.concatenate([x["scores"] for x in rows])
            error = 1.96 * scores.std(ddof=1) / len(scores) ** 0.5
            count = len({x["seed"] for x in rows})
            text.append(
                f"| {learner} | {reward} | {count} | {rate:.2f} [{low:.2f}, {high:.2f}] | {inside} "
                f"| {scores.mean():.2f} ± {error:.2f} |"
            )
    said = "; ".join(within) or "nowhere"
    return "\n".join([f"RAPL's success lies in the interval of the true score's: {said}.", *text])


def _success(rows: list[dict[str, Any]]) -> tuple[float, float, float]:
    """Share, and the ends of Wilson's 95 % interval."""
    successes = np.concatenate([x["successes"] for x in rows])
    interval = binomtest(int(successes.sum()), len(successes)).proportion_ci(method="wilson")
    return float(successes.mean()), float(interval.low), float(interval.high)


if __name__ == "__main__":
    main()
