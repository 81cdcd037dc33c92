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
import functools
import itertools
import json
import platform
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from objectives_arm import RESETS, compare, record, success
from objectives_flow import Flow, learn
from scipy import stats
from torch import Tensor

from robopref.data.graded_lists import GradedLists, graded_lists, most_preferred
from robopref.data.preferences import Preferences
from robopref.files import write_text
from robopref.objectives.audits import collapse
from robopref.objectives.description import POLICY, REWARD, SURROGATE, TOKENS
from robopref.objectives.registry import REGISTRY
from robopref.policies.offline import OfflinePolicy
from robopref.policies.preference import PreferencePolicy
from robopref.rewards.bradley_terry import BradleyTerryReward
from robopref.rewards.dataset import PreferencePairs, list_tensors, preference_tensors
from robopref.rewards.metrics import preference_metrics

FlowBatches = Callable[[torch.Generator | None], tuple[Tensor, Tensor, dict[str, Tensor]]]
FLIPS = (0.0, 0.1, 0.2, 0.3, 0.4)
# beta; tau where the objective takes beta out again. A flow's error counts less than a likelihood.
STRENGTHS = {"reward": (0.0,), "policy": (0.1, 0.3, 1.0), "flow": (1.0, 3.0, 10.0), "token": (0.1, 0.3, 1.0)}
BY_TAU = ("ipo", "sppo")
LEARNERS = {"reward": REWARD, "policy": POLICY, "flow": SURROGATE, "token": TOKENS}
REWARD_STEPS, CLONE_STEPS, POLICY_STEPS = 150, 800, 200
REWARD_RATE, POLICY_RATE = 3e-3, 1e-3
TOKEN_CLONE_STEPS, TOKEN_STEPS, BINS = 3000, 100, 16
PAIRS, LISTS, LIST_SIZE = 16, 8, 4  # in a batch of a policy: 32 segments either way
TOKEN_ACTOR = {"kind": "token", "bins": BINS, "hidden": [64, 64]}
FLOW_CLONE_STEPS, FLOW_CLONE_BATCH, FLOW_STEPS, FLOW_RATE = 3000, 256, 100, 2e-3


# --- one cell ---


class Bench:
    """Data, clones and labels of one seed."""

    def __init__(self, seed: int, folder: Path):
        self.seed = seed
        self.store = record(folder / f"train{seed}", np.random.default_rng([seed, 0]))
        other = record(folder / f"test{seed}", np.random.default_rng([seed, 1]))
        self.held_out = preference_tensors(other, compare(other, 0.0, np.random.default_rng(0)))

    @functools.cached_property
    def clone(self) -> tuple[OfflinePolicy, float]:
        """The Gaussian clone of all episodes, and its success."""
        clone = PreferencePolicy(6, 2, hidden=(64, 64), seed=self.seed).cloner()
        train(clone, clone.prepare_data(self.store, None), CLONE_STEPS, 128, self.seed)
        return clone, success(lambda o: clone.act(o)[:, 0], self.seed)[0]

    @functools.cached_property
    def token_clone(self) -> tuple[OfflinePolicy, float]:
        """The token policy that imitates all episodes, and its success."""
        clone = PreferencePolicy(6, 2, actor=TOKEN_ACTOR, seed=self.seed).cloner()
        train(clone, clone.prepare_data(self.store, None), TOKEN_CLONE_STEPS, 128, self.seed)
        return clone, success(lambda o: clone.act(o)[:, 0], self.seed)[0]

    @functools.cached_property
    def flow_clone(self) -> tuple[Flow, float]:
        """The flow that matches all episodes, and its success."""
        clone = Flow(self.store, 1, self.seed)
        clone.imitate(FLOW_CLONE_STEPS, FLOW_CLONE_BATCH, 1e-3, self.seed)
        return clone, clone.success(self.seed)[0]

    def labels(self, flip: float) -> Preferences:
        """The same labels for every objective."""
        return compare(self.store, flip, np.random.default_rng([self.seed, 3]))

    def data(self, name: str, flip: float) -> PreferencePairs:
        """Pairs or lists, as the objective wants them; the tenth that is preferred most demonstrates."""
        preferences = self.labels(flip)
        if REGISTRY[name].labels == "lists":
            return list_tensors(self.store, self.lists(flip))
        shown = most_preferred(preferences, 0.1) if REGISTRY[name].extra == "demonstration" else None
        return preference_tensors(self.store, preferences, demonstrations=shown)

    def lists(self, flip: float) -> GradedLists:
        """As many lists of four as there are reset states; which, the labels decide."""
        rng = np.random.default_rng([self.seed, 4])
        return graded_lists(self.labels(flip), LIST_SIZE, 4 * RESETS, rng)

    def reward(self, name: str, flip: float, strengths: tuple[float, ...]) -> list[dict[str, Any]]:
        """Accuracy of a reward model on pairs of other reset states."""
        learner = BradleyTerryReward(
            6, 2, hidden=(64, 64), objective=name, learning_rate=REWARD_RATE, seed=self.seed
        )
        pairs = self.data(name, flip)
        learner.fit_normaliser(pairs.observations())
        train(learner, pairs, REWARD_STEPS, 32 if len(pairs.segment_of) == 2 else 2 * LISTS, self.seed)
        return [{"accuracy": preference_metrics(learner, self.held_out)["pair_accuracy"]}]

    def policy(self, name: str, flip: float, strengths: tuple[float, ...]) -> list[dict[str, Any]]:
        """Success of Gaussian policies, one for each strength, and the collapse gate."""
        return [self._policy(name, flip, strength, self.clone, POLICY_STEPS) for strength in strengths]

    def token(self, name: str, flip: float, strengths: tuple[float, ...]) -> list[dict[str, Any]]:
        """The same of token policies."""
        options = {"actor": TOKEN_ACTOR}
        return [self._policy(name, flip, x, self.token_clone, TOKEN_STEPS, **options) for x in strengths]

    def _policy(
        self,
        name: str,
        flip: float,
        strength: float,
        clone: tuple[OfflinePolicy, float],
        steps: int,
        **options: Any,
    ) -> dict[str, Any]:
        options |= scaled(name, strength) | {"learning_rate": POLICY_RATE, "seed": self.seed}
        learner = PreferencePolicy(6, 2, hidden=(64, 64), **options)
        learner.start_from(clone[0])
        pairs = self.data(name, flip)
        listed = REGISTRY[name].labels == "lists"
        train(learner, pairs, steps, LISTS if listed else PAIRS, self.seed)
        found = learner.diagnose(pairs.batches(240))
        gate = collapse(found["chosen_change"], found["kl"])
        reached = success(lambda o: learner.act(o)[:, 0], self.seed)[0]
        return {"success": reached, "clone": clone[1]} | gate

    def flow(self, name: str, flip: float, strengths: tuple[float, ...]) -> list[dict[str, Any]]:
        """The same of flow policies, all strengths at once."""
        options = [scaled(name, strength) for strength in strengths]
        policy, found = learn(
            self.flow_clone[0],
            [o["objective"] for o in options],
            [o.get("beta", 1.0) for o in options],
            self.flow_batches(name, flip),
            FLOW_RATE,
            FLOW_STEPS,
            self.seed,
        )
        gates = [collapse(f["chosen_change"], f["kl"]) for f in found]
        return [
            {"success": reached, "clone": self.flow_clone[1]} | gate
            for reached, gate in zip(policy.success(self.seed), gates, strict=True)
        ]

    def flow_batches(self, name: str, flip: float) -> FlowBatches:
        """Episodes in one row, which of them share draws, and labels, at random or all of them."""
        listed, labels = REGISTRY[name].labels == "lists", self.labels(flip)
        ranked = self.lists(flip) if listed else None
        shown = most_preferred(labels, 0.1).episode if REGISTRY[name].extra == "demonstration" else None

        def draw(generator: torch.Generator | None) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
            count, size = (len(labels), PAIRS) if ranked is None else (len(ranked), LISTS)
            index = torch.arange(count)
            if generator is not None:
                index = torch.randint(count, (size,), generator=generator)
            rows, group = index.numpy(), torch.arange(len(index))
            batch = {"weights": torch.ones(len(index))}
            if ranked is not None:
                episodes = ranked.segments.episode.reshape(-1, LIST_SIZE)[rows].ravel()
                batch["labels"] = torch.from_numpy(ranked.grades[rows])
                batch["items"] = torch.from_numpy(ranked.items[rows])
                return torch.from_numpy(episodes), group.repeat_interleave(LIST_SIZE), batch
            sides = [labels.a.episode[rows], labels.b.episode[rows]]
            if shown is not None:
                sides.append(shown[rows % len(shown)])
            batch["labels"] = torch.from_numpy(labels.label[rows])
            return torch.from_numpy(np.concatenate(sides)), group.repeat(len(sides)), batch

        return draw


def scaled(name: str, strength: float) -> dict[str, Any]:
    """An objective at a strength."""
    if name in BY_TAU:
        return {"objective": {"name": name, "tau": strength}}
    return {"objective": name, "beta": strength}


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


def cells(learner: str, flips: Sequence[float]) -> Iterator[tuple[str, float]]:
    """(objective, flip) of all that train the learner."""
    for flip in flips:
        for name in REGISTRY:
            if trains(name, learner):
                yield name, flip


def trains(name: str, learner: str) -> bool:
    """Whether an objective trains a learner here, where nobody is told how good its actions shall be."""
    objective = REGISTRY[name]
    unfed = ("goal", "errors", "inverted noise", "roles")  # what the grid's own learners do not provide
    return objective.extra not in unfed and not objective.refusal(LEARNERS[learner])


def read(files: Iterable[Path]) -> list[dict[str, Any]]:
    """All cells in some files, each once."""
    rows = [json.loads(line) for file in sorted(files) for line in file.read_text().splitlines()]
    return list({identity(row): row for row in rows}.values())


def identity(row: dict[str, Any]) -> tuple[Any, ...]:
    """What no two cells share."""
    return tuple(row[key] for key in ("seed", "learner", "objective", "flip", "strength"))


def run(file: Path, learners: list[str], seeds: list[int], flips: list[float], minutes: float) -> None:
    """Fill the file with cells until the time is up; those in files beside it are known."""
    file.parent.mkdir(parents=True, exist_ok=True)
    known = {identity(row) for row in read(file.parent.glob("objectives*.jsonl"))}
    end = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as folder, file.open("a") as out:
        for seed, learner in itertools.product(seeds, learners):
            bench = None
            for name, flip in cells(learner, flips):
                missing = tuple(x for x in STRENGTHS[learner] if (seed, learner, name, flip, x) not in known)
                if not missing:
                    continue
                if time.monotonic() > end:
                    return
                bench = bench or Bench(seed, Path(folder) / learner)
                for strength, found in zip(
                    missing, getattr(bench, learner)(name, flip, missing), strict=True
                ):
                    cell = {"seed": seed, "learner": learner, "objective": name, "flip": flip}
                    out.write(json.dumps(cell | {"strength": strength} | found) + "\n")
                out.flush()


# --- the page ---


def interval(values: list[float]) -> str:
    """Mean and half the width of its 95 % t interval, in per cent."""
    mean = 100 * float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.0f}"
    half = 100 * float(stats.sem(values)) * float(stats.t.ppf(0.975, len(values) - 1))
    return f"{mean:.0f} ± {half:.0f}"


def medians(rows: list[dict[str, Any]], learner: str) -> dict[tuple[str, float], dict[int, float]]:
    """Of each (objective, flip) and seed the median over strengths, where all of them are there."""
    key = "accuracy" if learner == "reward" else "success"
    found: dict[tuple[str, float], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for r in rows:
        if r["learner"] == learner and trains(r["objective"], learner):
            found[r["objective"], r["flip"]][r["seed"]].append(r[key])
    full = len(STRENGTHS[learner])
    return {
        cell: {seed: float(np.median(x)) for seed, x in seeds.items() if len(x) == full}
        for cell, seeds in found.items()
    }


def table(rows: list[dict[str, Any]], learner: str) -> str:
    """One line for each objective, best first: mean over the seeds whose every strength is there."""
    found = medians(rows, learner)
    gate: dict[str, list[bool]] = defaultdict(list)
    for r in rows:
        if r["learner"] == learner and trains(r["objective"], learner):
            gate[r["objective"]].append(bool(r.get("collapsed")))
    cells = {cell: list(seeds.values()) for cell, seeds in found.items()}
    flips = sorted({flip for (_, flip), values in cells.items() if values})
    most = max(map(len, cells.values()))
    usual = {f: np.mean([np.mean(v) for (_, flip), v in cells.items() if flip == f and v]) for f in flips}

    def lead(name: str) -> float:
        there = [f for f in flips if cells.get((name, f))]
        return float(np.mean([np.mean(cells[name, f]) - usual[f] for f in there])) if there else -np.inf

    def text(values: list[float]) -> str:
        return interval(values) + ("" if len(values) == most else f" [{len(values)}]") if values else "-"

    last = [] if learner == "reward" else ["collapsed"]
    heads = ["objective", *(f"{flip:.0%} flipped" for flip in flips), *last]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name in sorted(gate, key=lead, reverse=True):
        shown = [text(cells.get((name, flip), [])) for flip in flips]
        share = [f"{sum(gate[name])} of {len(gate[name])}"] if last else []
        lines.append("| " + " | ".join([f"`{name}`", *shown, *share]) + " |")
    return "\n".join(lines)


PAGE = """# Which objective to pick

{task}

Run on {date} with `{command}`
on one core of {processor}, torch {torch}:

{cells}

Strengths are beta, or tau of {by_tau}: {policy_strengths} for the Gaussian policy,
{flow_strengths} for the flow policy, {token_strengths} for the token policy.
Entries are means over seeds with 95 % t intervals; where a number in brackets follows, over so many seeds,
and a dash means that it did not run. Learning rates and steps are the same for all objectives of a learner;
they, the strengths and the behaviours were set on seed 100, where `dpo`, `ipo`, `cpl`, `kto` and a few
others were looked at. Lists are four episodes of one reset state; the tenth of all episodes that is
preferred most is the demonstration of `triple`.

## Reward model: pairs of unseen reset states ordered right, per cent

{rewards}

## Gaussian policy: success, per cent, median over strengths

The reference, a clone of all episodes, succeeds in {policy_clone} per cent. *Collapsed* counts the trainings
(all strengths, flips and seeds) after which preferred actions had lost more than 1 nat of likelihood per
step, or the policy had drifted more than 10 nats per step from its reference.

{policies}

## Flow policy: success, per cent, median over strengths

The reference, which matches the flow of all episodes in chunks of five actions, succeeds in {flow_clone} per
cent. Here *collapsed* speaks of half the squared error of velocity of a chunk, which is no likelihood; the
limits are the same.

{flows}

## Token policy: success, per cent, median over strengths

The reference, which imitates all episodes in {bins} bins for each joint, one token after the other, succeeds
in {token_clone} per cent; it acts by its likeliest tokens. *Collapsed* counts nats per token.

{tokens}

## In short

The best of each learner by the means above, and what cannot be told from it: 95 % t intervals of differences,
paired by seed, without correction for how many are made. Equal rows are no chance, see below.

{leaders}

"""
READING = "## What it says"


def page(rows: list[dict[str, Any]], command: str) -> str:
    """The whole page, of all cells that are there."""
    count = {x: [r for r in rows if r["learner"] == x] for x in LEARNERS}
    clones = {
        x: interval(list({r["seed"]: r["clone"] for r in count[x]}.values()))
        for x in LEARNERS
        if x != "reward"
    }
    seeds = {x: ", ".join(map(str, sorted({r["seed"] for r in count[x]}))) for x in LEARNERS}
    return PAGE.format(
        task=(__doc__ or "").split("\n\n")[2],
        date=time.strftime("%Y-%m-%d"),
        command=command,
        processor=processor(),
        torch=torch.__version__,
        cells="\n".join(f"- {x}: {len(count[x])} trainings, seeds {seeds[x]}" for x in LEARNERS),
        policy_strengths=", ".join(map(str, STRENGTHS["policy"])),
        flow_strengths=", ".join(map(str, STRENGTHS["flow"])),
        token_strengths=", ".join(map(str, STRENGTHS["token"])),
        token_clone=clones["token"],
        tokens=table(rows, "token"),
        bins=BINS,
        leaders=leaders(rows),
        by_tau=" and ".join(BY_TAU),
        policy_clone=clones["policy"],
        flow_clone=clones["flow"],
        rewards=table(rows, "reward"),
        policies=table(rows, "policy"),
        flows=table(rows, "flow"),
    )


def leaders(rows: list[dict[str, Any]]) -> str:
    """Per learner and share of reversed labels: the best, its equals, and how many beat the clone."""
    lines = []
    for learner, flip in itertools.product(LEARNERS, FLIPS):
        scores = {name: found for (name, at), found in medians(rows, learner).items() if at == flip and found}
        most = max(map(len, scores.values()), default=0)
        if most < 2:
            continue
        scores = {name: found for name, found in scores.items() if len(found) == most}
        order = sorted(scores, key=lambda name: np.mean(list(scores[name].values())), reverse=True)
        best = order[0]
        text = (
            f"{learner}, {flip:.0%} flipped, {most} seeds: `{best}` ({interval(list(scores[best].values()))})"
        )
        near = [name for name in order[1:] if not below(scores[name], scores[best])]
        if near:
            text += "; not below it beyond the interval of the difference: "
            text += ", ".join(f"`{name}`" for name in near)
        if learner != "reward":
            clone = {r["seed"]: r["clone"] for r in rows if r["learner"] == learner}
            above = sum(below(clone, found) for found in scores.values())
            under = sum(below(found, clone) for found in scores.values())
            text += f". Of {len(scores)}, {above} end above the clone and {under} below"
        lines.append(f"- {text}.")
    return "\n".join(lines)


def below(low: Mapping[int, float], high: Mapping[int, float]) -> bool:
    """Whether ``low`` lies below ``high``, by a 95 % t interval of the difference paired by seed."""
    shared = sorted(low.keys() & high.keys())
    gaps = np.array([high[seed] - low[seed] for seed in shared])
    half = stats.sem(gaps) * stats.t.ppf(0.975, len(gaps) - 1) if len(gaps) > 1 else np.inf
    return bool(gaps.mean() > half)


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
    parser.add_argument("--learners", nargs="+", default=list(LEARNERS), choices=LEARNERS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--flips", type=float, nargs="+", default=list(FLIPS))
    parser.add_argument("--file", type=Path, default=Path("outputs/bench/objectives.jsonl"))
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    run(options.file, options.learners, options.seeds, options.flips, options.minutes)
    rows = read(options.file.parent.glob("objectives*.jsonl"))
    rows = [r for r in rows if r["seed"] in options.seeds and r["flip"] in options.flips]
    print(f"{len(rows)} cells in {options.file.parent}")
    if options.page:
        seeds = " ".join(map(str, options.seeds))
        command = f"scripts/bench/objectives_table.py --minutes 60 --seeds {seeds}"
        old = options.page.read_text() if options.page.exists() else ""
        reading = old[old.index(READING) :] if READING in old else f"{READING}\n"
        write_text(options.page, page(rows, command) + reading)


if __name__ == "__main__":
    main()
