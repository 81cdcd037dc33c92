"""Which objective to pick: one small robot task, the same labels, every objective, several betas.

    python scripts/bench/objectives_table.py --minutes 15   # as many cells as fit; run again to go on
    python scripts/bench/objectives_table.py --minutes 0 --page docs/results/objectives.md

The task: an arm of two joints in the plane brings its tip to a goal. From each of 60 reset states four
behaviours are recorded: an expert that trembles, a slow one, one that drifts, and a random one. A teacher who
prefers the higher return compares the four (360 pairs), and a share of its labels is reversed. A reward model
is judged by the order of 360 pairs from 60 other reset states; a policy by how often it ends within 0.2 of
the goal (links are of length 1) from 1000 others still. The policy starts from a clone of all episodes.

Each cell is one line of outputs/bench/objectives.jsonl, and a later call goes on from there. The median over
betas is reported, not the best.
"""

import argparse
import itertools
import json
import platform
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from robopref.data.preferences import Preferences, Segments
from robopref.data.store import TrajectoryStore
from robopref.data.trajectory import Provenance, Trajectory
from robopref.files import write_text
from robopref.objectives.audits import collapse
from robopref.objectives.description import POLICY, REWARD
from robopref.objectives.registry import REGISTRY
from robopref.policies.offline import OfflinePolicy
from robopref.policies.preference import PreferencePolicy
from robopref.rewards.bradley_terry import BradleyTerryReward
from robopref.rewards.dataset import PreferencePairs, preference_tensors
from robopref.rewards.metrics import preference_metrics

FLIPS = (0.0, 0.1, 0.2, 0.3, 0.4)
STRENGTHS = (0.1, 0.3, 1.0)  # beta; tau where the objective takes beta out again
BY_TAU = ("ipo", "sppo")
RESETS, HORIZON, TRIALS = 60, 30, 1000
BEHAVIOURS = (  # factor of the expert's action, constant drift, deviation of the noise
    (1.0, (0.0, 0.0), 0.2),
    (0.4, (0.0, 0.0), 0.2),
    (1.0, (0.5, -0.3), 0.2),
    (0.0, (0.0, 0.0), 0.7),
)
REWARD_STEPS, CLONE_STEPS, POLICY_STEPS = 150, 800, 200
REWARD_RATE, POLICY_RATE = 3e-3, 1e-3

# --- the arm, many at once; states are joint angles (N, 2) and goals (N, 2), links are of length 1


def tip(joints: np.ndarray) -> np.ndarray:
    """Position of the tip (N, 2)."""
    first, second = joints[:, 0], joints.sum(1)
    return np.stack([np.cos(first) + np.cos(second), np.sin(first) + np.sin(second)], 1)


def observe(joints: np.ndarray, goals: np.ndarray) -> np.ndarray:
    """Cosines and sines of the joints, and the way to the goal (N, 6)."""
    return np.concatenate([np.cos(joints), np.sin(joints), goals - tip(joints)], 1)


def reset(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Random joints, and goals within reach."""
    draw = rng.uniform([-np.pi, 0.3], [np.pi, 2.5], (2, count, 2))
    return draw[0], tip(draw[1])


def expert(joints: np.ndarray, goals: np.ndarray) -> np.ndarray:
    """Damped least squares towards the goal."""
    first, second = joints[:, 0], joints.sum(1)
    away = np.stack([-np.sin(second), np.cos(second)], 1)
    jacobian = np.stack([np.stack([-np.sin(first), np.cos(first)], 1) + away, away], 2)
    square = jacobian @ jacobian.transpose(0, 2, 1) + 0.05 * np.eye(2)
    step = jacobian.transpose(0, 2, 1) @ np.linalg.solve(square, (goals - tip(joints))[..., None])
    return np.clip(step[..., 0] / 0.3, -1, 1)


def behaviour(factor: float, drift: tuple[float, float], noise: float, rng: np.random.Generator) -> Any:
    """An expert that is slow, drifts, trembles, or all three."""
    return lambda q, g: factor * expert(q, g) + drift + noise * rng.normal(size=q.shape)


def roll(joints: np.ndarray, goals: np.ndarray, act: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observations (T+1, N, 6), actions (T, N, 2) and rewards (T, N): minus the distance to the goal."""
    seen, done, earned = [observe(joints, goals)], [], []
    for _ in range(HORIZON):
        action = np.clip(act(joints, goals), -1, 1)
        joints = joints + 0.15 * action
        seen.append(observe(joints, goals))
        done.append(action)
        earned.append(-np.linalg.norm(goals - tip(joints), axis=1))
    return np.stack(seen), np.stack(done), np.stack(earned)


def record(path: Path, rng: np.random.Generator) -> TrajectoryStore:
    """Four behaviours from each of the reset states; episodes 4 k to 4 k + 3 begin alike."""
    joints, goals = reset(RESETS, rng)
    names = [Provenance("arm", "arm-v0", k, "expert", {}, "0", {}) for k in range(RESETS)]
    rolls = [roll(joints, goals, behaviour(f, d, n, rng)) for f, d, n in BEHAVIOURS]
    with TrajectoryStore.create(
        path, observation_size=6, action_size=2, keypoints=(), control_hz=10.0
    ) as store:
        for k, (seen, done, earned) in itertools.product(range(RESETS), rolls):
            o, a, r = (x[:, k].astype(np.float32) for x in (seen, done, earned))
            store.append(Trajectory(o, a, r, np.zeros(HORIZON, bool), {}, False, names[k]))
    return TrajectoryStore.open(path)


def compare(store: TrajectoryStore, flip: float, rng: np.random.Generator) -> Preferences:
    """All pairs within each reset state, by return, ``flip`` of the labels reversed."""
    within = [(4 * k + i, 4 * k + j) for k in range(RESETS) for i, j in itertools.combinations(range(4), 2)]
    a, b = np.array(within).T
    label = (store.returns[a] > store.returns[b]).astype(np.float32)
    wrong = rng.choice(len(label), round(flip * len(label)), replace=False)
    label[wrong] = 1 - label[wrong]
    side_a, side_b = (Segments(x, np.zeros(len(x), np.int64), np.full(len(x), HORIZON)) for x in (a, b))
    return Preferences(side_a, side_b, label, np.ones_like(label))


def success(policy: OfflinePolicy, seed: int) -> float:
    """Share of fresh reset states from which the tip ends within 0.2 of the goal."""

    def act(joints: np.ndarray, goals: np.ndarray) -> np.ndarray:
        return policy.act(torch.from_numpy(observe(joints, goals)).float())[:, 0].numpy()

    earned = roll(*reset(TRIALS, np.random.default_rng([seed, 2])), act)[2]
    return float((earned[-1] > -0.2).mean())


# --- one cell ---


class Bench:
    """Data, clone and labels of one seed."""

    def __init__(self, seed: int, folder: Path):
        self.seed = seed
        self.store = record(folder / f"train{seed}", np.random.default_rng([seed, 0]))
        other = record(folder / f"test{seed}", np.random.default_rng([seed, 1]))
        self.held_out = preference_tensors(other, compare(other, 0.0, np.random.default_rng(0)))
        self.clone = PreferencePolicy(6, 2, hidden=(64, 64), seed=seed).cloner()
        train(self.clone, self.clone.prepare_data(self.store, None), CLONE_STEPS, 128, seed)
        self.clone_success = success(self.clone, seed)

    def labels(self, flip: float) -> PreferencePairs:
        """The same labels for every objective."""
        return preference_tensors(
            self.store, compare(self.store, flip, np.random.default_rng([self.seed, 3]))
        )

    def reward(self, name: str, flip: float) -> dict[str, Any]:
        """Accuracy of a reward model on pairs of other reset states."""
        learner = BradleyTerryReward(
            6, 2, hidden=(64, 64), objective=name, learning_rate=REWARD_RATE, seed=self.seed
        )
        pairs = self.labels(flip)
        learner.fit_normaliser(pairs.observations())
        train(learner, pairs, REWARD_STEPS, 32, self.seed)
        return {"accuracy": preference_metrics(learner, self.held_out)["pair_accuracy"]}

    def policy(self, name: str, flip: float, strength: float) -> dict[str, Any]:
        """Success of a policy, and the collapse gate."""
        scale = {"beta": strength}
        if name in BY_TAU:
            scale = {"objective": {"name": name, "tau": strength}}
        learner = PreferencePolicy(
            6, 2, hidden=(64, 64), **{"objective": name, **scale}, learning_rate=POLICY_RATE, seed=self.seed
        )
        learner.start_from(self.clone)
        pairs = self.labels(flip)
        train(learner, pairs, POLICY_STEPS, 16, self.seed)
        learner.eval()
        found = learner.diagnose(pairs.batches(240))
        gate = collapse(found["chosen_change"], found["kl"])
        return {"success": success(learner, self.seed), "clone": self.clone_success} | gate


def train(learner: Any, sampler: Any, steps: int, batch_size: int, seed: int) -> None:
    """Adam on batches that depend on the seed alone."""
    optimiser = torch.optim.Adam(learner.parameter_groups())
    generator = torch.Generator().manual_seed(seed)
    learner.train()
    for _ in range(steps):
        optimiser.zero_grad()
        learner.loss(sampler.sample(batch_size, generator), generator)[0].backward()
        optimiser.step()
        learner.after_step()
    learner.eval()


# --- all cells ---


def cells(seed: int, flips: tuple[float, ...]) -> Iterator[tuple[str, str, float, float]]:
    """(learner, objective, flip, strength), rewards first."""
    for flip in flips:
        for name, objective in REGISTRY.items():
            if not objective.refusal(REWARD):
                yield "reward", name, flip, 0.0
        for name, objective in REGISTRY.items():
            if not objective.refusal(POLICY):
                for strength in STRENGTHS:
                    yield "policy", name, flip, strength


def run(file: Path, seeds: list[int], flips: tuple[float, ...], minutes: float) -> list[dict[str, Any]]:
    """Fill the file with cells until the time is up; returns all of them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = file.read_text().splitlines() if file.exists() else []
    rows = [json.loads(line) for line in lines]
    known = {(r["seed"], r["learner"], r["objective"], r["flip"], r["strength"]) for r in rows}
    end = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as folder, file.open("a") as out:
        for seed in seeds:
            bench = None
            for cell in cells(seed, flips):
                if (seed, *cell) in known:
                    continue
                if time.monotonic() > end:
                    return rows
                bench = bench or Bench(seed, Path(folder))
                learner, name, flip, strength = cell
                found = (
                    bench.reward(name, flip) if learner == "reward" else bench.policy(name, flip, strength)
                )
                row = {
                    "seed": seed,
                    "learner": learner,
                    "objective": name,
                    "flip": flip,
                    "strength": strength,
                }
                rows.append(row | found)
                out.write(json.dumps(rows[-1]) + "\n")
                out.flush()
    return rows


# --- the page ---


def interval(values: list[float]) -> str:
    """Mean and half the width of its 95 % t interval, in per cent."""
    mean = 100 * float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.0f}"
    half = 100 * float(stats.sem(values)) * float(stats.t.ppf(0.975, len(values) - 1))
    return f"{mean:.0f} ± {half:.0f}"


def table(rows: list[dict[str, Any]], learner: str, seeds: list[int], flips: list[float]) -> list[str]:
    """One line per objective: mean over seeds of the median over strengths; best without flips first."""
    key = "accuracy" if learner == "reward" else "success"
    found: dict[tuple[str, float, int], list[float]] = defaultdict(list)
    gate: dict[str, list[bool]] = defaultdict(list)
    for r in rows:
        if r["learner"] == learner and r["seed"] in seeds:
            found[r["objective"], r["flip"], r["seed"]].append(r[key])
            gate[r["objective"]].append(bool(r.get("collapsed")))
    medians = {
        name: [[float(np.median(found[name, flip, seed])) for seed in seeds] for flip in flips]
        for name in gate
        if all((name, flip, seed) in found for flip in flips for seed in seeds)
    }
    last = ["collapsed"] if learner == "policy" else []
    heads = ["objective", *(f"{flip:.0%} flipped" for flip in flips), *last]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name in sorted(medians, key=lambda n: -np.mean(medians[n])):
        cells = [interval(values) for values in medians[name]]
        share = [f"{sum(gate[name])} of {len(gate[name])}"] if last else []
        lines.append("| " + " | ".join([f"`{name}`", *cells, *share]) + " |")
    return lines


PAGE = """# Which objective to pick

{task}

Run on {date} with `{command}`
on one core of {processor}, torch {torch}:
{count} seeds ({seeds}), strengths {strengths} (beta; tau of {by_tau}). Intervals are 95 % t intervals
over seeds, so few seeds make them wide. Learning rates and steps are the same for all objectives; they and
the behaviours were set on seed 100, where `dpo`, `ipo` and `cpl` were looked at. States in, Gaussian actions
out; a flow policy is not measured yet.

## Reward model: pairs of unseen reset states ordered right, per cent

{rewards}

## Policy: success, per cent, median over strengths

The reference, a clone of all episodes, succeeds in {clone} per cent. *Collapsed* counts the trainings (all
strengths, flips and seeds) after which preferred actions had lost more than 1 nat of likelihood per step, or
the policy had drifted more than 10 nats per step from its reference.

{policies}

"""
READING = "## What it says"


def page(rows: list[dict[str, Any]], flips: list[float], command: str) -> str:
    """The whole page, of the seeds whose cells are all there."""
    rows = [r for r in rows if r["flip"] in flips]
    count = Counter(r["seed"] for r in rows)
    seeds = sorted(seed for seed, n in count.items() if n == sum(1 for _ in cells(seed, tuple(flips))))
    if not seeds:
        raise SystemExit("No seed has all of its cells yet: run again with more --minutes.")
    clones = {r["seed"]: r["clone"] for r in rows if r["learner"] == "policy" and r["seed"] in seeds}
    return PAGE.format(
        task=(__doc__ or "").split("\n\n")[2],
        date=time.strftime("%Y-%m-%d"),
        command=command,
        processor=processor(),
        torch=torch.__version__,
        count=len(seeds),
        seeds=", ".join(map(str, seeds)),
        strengths=", ".join(map(str, STRENGTHS)),
        by_tau=" and ".join(BY_TAU),
        clone=interval(list(clones.values())),
        rewards="\n".join(table(rows, "reward", seeds, flips)),
        policies="\n".join(table(rows, "policy", seeds, flips)),
    )


def processor() -> str:
    """The processor's name, as the kernel has it."""
    info = Path("/proc/cpuinfo")
    names = [x for x in info.read_text().splitlines() if x.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.machine()


def main() -> None:
    """Run what is missing, and write the page if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--flips", type=float, nargs="+", default=list(FLIPS))
    parser.add_argument("--file", type=Path, default=Path("outputs/bench/objectives.jsonl"))
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = run(options.file, options.seeds, tuple(options.flips), options.minutes)
    print(f"{len(rows)} cells in {options.file}")
    if options.page:
        flips, seeds = (" ".join(f"{x:g}" for x in values) for values in (options.flips, options.seeds))
        command = f"scripts/bench/objectives_table.py --minutes 60 --seeds {seeds} --flips {flips}"
        old = options.page.read_text() if options.page.exists() else ""
        reading = old[old.index(READING) :] if READING in old else f"{READING}\n"
        write_text(options.page, page(rows, options.flips, command) + reading)


if __name__ == "__main__":
    main()
