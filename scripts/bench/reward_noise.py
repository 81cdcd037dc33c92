"""How rewards stand wrong labels: accuracy on held-out pairs, by how many labels are reversed.

    python scripts/bench/reward_noise.py --minutes 30    # as many cells as fit; run again to go on
    python scripts/bench/reward_noise.py --seeds 5 6 7 8 9 --shares 0.2   # those added after the first look
    python scripts/bench/reward_noise.py --development --seeds 0          # on which steps are chosen
    python scripts/bench/reward_noise.py --minutes 0 --page docs/results/rewards.md

A cell is one task, one data seed (104 new episodes of graded quality), one share of reversed labels and one
reward. It learns from 300 pairs of segments of 20 steps, labelled by return and then reversed at random, and
is judged by the true order of 800 pairs of other episodes (or all, where there are a few less) after 100, 200
and 400 steps of 32 pairs. The pairs, the reversals and the batches are the same for all rewards. "mixed" are
three annotators, each with a third of the pairs, who err in 5, 15 and 40 per cent of them.

Each cell is one line of outputs/bench/reward-noise.jsonl, with its date and machine. How long each reward
trains was chosen on other tasks (--development), by the accuracy at 20 per cent; the page reads both files.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pages import put_between
from t_interval import half_width, percent
from transfer import episodes, run_on, when_and_where

from robopref.data.preferences import Preferences
from robopref.data.queries import random_pairs
from robopref.data.store import TrajectoryStore
from robopref.data.teachers import ScriptedTeacher
from robopref.methods.phases.judged import split_by_episode
from robopref.methods.phases.label import answers
from robopref.rewards.bradley_terry import BradleyTerryReward
from robopref.rewards.dataset import PreferencePairs, preference_tensors
from robopref.rewards.ensemble import EnsembleReward
from robopref.rewards.gaussian import GaussianReward
from robopref.rewards.metrics import predicted_preferences
from robopref.rewards.transformer import PreferenceTransformer

TASKS = ("drawer-open", "window-close", "door-close")
DEVELOPMENT = ("door-open", "faucet-open", "coffee-button")
SHARES = ("0.2", "0.0", "0.4", "mixed", "0.1", "0.3")  # the order in which they are measured
MIXED = (0.05, 0.15, 0.4)
PAIRS, TESTED, DRAWN, LENGTH, BATCH = 300, 800, 14_000, 20, 32
STEPS = (100, 200, 400)
FIRST = 5  # seeds of the first look; what was added after it is also printed alone
SIZES: dict[str, Any] = {"members": 3, "hidden": (32, 32)}
Make = Callable[[int, float], EnsembleReward]  # observation size, share of reversed labels


def _plain(objective: str | None = None) -> Make:
    def make(size: int, share: float) -> EnsembleReward:
        chosen: Any = "dpo" if objective is None else {"name": objective, "flip_prob": share}
        return BradleyTerryReward(size, 4, objective=chosen, **SIZES)

    return make


def _gaussian(**options: Any) -> Make:
    return lambda size, share: GaussianReward(size, 4, entropy_margin=-1.0, **SIZES, **options)


METHODS: dict[str, tuple[str, Make]] = {
    "bt": ("Bradley-Terry, `reward=bradley_terry`", _plain()),
    "learned": ("RRL that learns the share, `reward=robust`", _gaussian(flip_prob="learn")),
    "published": ("RRL as published, `reward=gaussian`", _gaussian()),
    "conservative": ("conservative, `objective=cdpo`, told the share", _plain("cdpo")),
    "robust": ("unbiased, `objective=robust`, told the share", _plain("robust")),
    "likelihood": ("likelihood, `objective=flip_likelihood`, told the share", _plain("flip_likelihood")),
    "transformer": (
        "preference transformer, `reward=transformer`",
        lambda size, share: PreferenceTransformer(size, 4, width=32),
    ),
    "told": ("RRL, told each annotator's share", _gaussian()),
    "weighed": ("... and `doubt_power=1`", _gaussian(doubt_power=1.0)),
    "widened": ("... and `doubt_margin=1`", _gaussian(doubt_margin=1.0)),
}
OF_MIXED = ("bt", "learned", "published", "told", "weighed", "widened")
FOR_MIXED_ONLY = ("told", "weighed", "widened")


def pairs_of(
    store: TrajectoryStore, share: str, seed: int, told: bool
) -> tuple[PreferencePairs, PreferencePairs]:
    """Pairs to learn from, some of them reversed, and pairs of other episodes in their true order."""
    rng = np.random.default_rng([seed, 11])
    a, b = random_pairs(store, DRAWN, LENGTH, rng)
    truth = Preferences(a, b, answers(store, a, b, ScriptedTeacher(), rng), np.ones(DRAWN))
    learned, judged = split_by_episode(truth, len(store), 0.25, rng)
    learned = learned.select(np.arange(PAIRS))
    chances = (
        np.array(MIXED)[rng.integers(3, size=PAIRS)] if share == "mixed" else np.full(PAIRS, float(share))
    )
    reversed_ = rng.random(PAIRS) < chances
    labels = np.where(reversed_, 1 - learned.label, learned.label)
    known = chances if told else np.zeros(PAIRS)
    given = Preferences(learned.a, learned.b, labels, np.ones(PAIRS), known.astype(np.float32))
    return preference_tensors(store, given), preference_tensors(
        store, judged.select(np.arange(min(TESTED, len(judged))))
    )


def cell(task: str, seed: int, share: str, method: str, folder: Path) -> dict[str, Any]:
    """Train one reward; return its accuracy after each number of steps."""
    store = episodes("metaworld", task, seed, folder)
    pairs, judged = pairs_of(store, share, seed, told=method in FOR_MIXED_ONLY)
    reward = METHODS[method][1](store.layout.observation_size, 0.2 if share == "mixed" else float(share))
    reward.fit_normaliser(pairs.observations())
    adam = torch.optim.Adam(reward.parameter_groups())
    batches, noise = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)
    accuracy, truth = [], judged.labels.numpy()
    for step in range(1, max(STEPS) + 1):
        adam.zero_grad()
        reward.loss(pairs.sample(BATCH, batches), noise)[0].backward()
        adam.step()
        if step in STEPS:
            right = (predicted_preferences(reward, judged) > 0.5) == (truth > 0.5)
            accuracy.append(float(right[truth != 0.5].mean()))
    found = {"task": task, "seed": seed, "share": share, "method": method, "accuracy": accuracy}
    found |= when_and_where()
    if getattr(reward, "flip_logits", None) is not None:
        found["learned_share"] = float(reward.flip_rates.detach().mean())  # pyright: ignore[reportCallIssue]
    return found


def wanted(
    tasks: tuple[str, ...], seeds: list[int], shares: tuple[str, ...]
) -> Iterator[tuple[str, int, str, str]]:
    """Cells in the order in which they are measured."""
    for share in shares:
        for seed in seeds:
            for task in tasks:
                for method in METHODS:
                    if method in (OF_MIXED if share == "mixed" else set(METHODS) - set(FOR_MIXED_ONLY)):
                        yield task, seed, share, method


def read(file: Path) -> list[dict[str, Any]]:
    """Return the cells that were measured."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


# --- the page


def best_steps(development: list[dict[str, Any]]) -> dict[str, int]:
    """Which of STEPS each method does best after, on the development tasks."""
    return {
        method: int(np.mean([c["accuracy"] for c in development if c["method"] == method], axis=0).argmax())
        for method in {c["method"] for c in development}
    }


def by_seed(cells: list[dict[str, Any]], share: str, method: str, step: int) -> np.ndarray:
    """Mean accuracy over tasks, for each seed on which all rewards were measured on all tasks."""
    rows = [c for c in cells if c["share"] == share]
    tasks, methods = {c["task"] for c in cells}, {c["method"] for c in rows}
    complete = [
        seed
        for seed in sorted({c["seed"] for c in rows})
        if len([c for c in rows if c["seed"] == seed]) == len(tasks) * len(methods)
    ]
    return np.array(
        [
            np.mean([c["accuracy"][step] for c in rows if c["seed"] == seed and c["method"] == method])
            for seed in complete
            if method in methods
        ]
    )


def shown(values: np.ndarray) -> str:
    """Mean and 95 % t interval over seeds, in per cent."""
    if len(values) < 2:
        return "-"
    return percent(values, 1)


def page(cells: list[dict[str, Any]], development: list[dict[str, Any]]) -> str:
    """Write what the page says by itself: the tables, and the differences seed by seed."""
    steps, shares = best_steps(development), sorted({c["share"] for c in cells})
    tasks = sorted({c["task"] for c in cells})
    seeds = ", ".join(f"{len(by_seed(cells, s, 'bt', 0))} at {s}" for s in shares)
    chosen = ", ".join(f"{METHODS[m][0]} {STEPS[steps[m]]}" for m in METHODS if m in steps)
    lines = [
        " ".join((__doc__ or "").split("\n\n")[2].split()),
        "",
        f"{run_on(cells + development, 'reward_noise.py')}; tasks",
        f"{', '.join(tasks)}; data seeds at each share: {seeds}.",
        "Intervals are 95 % t intervals",
        "over seeds of the mean over tasks. Steps were chosen with `--development` on other tasks",
        f"({', '.join(sorted({c['task'] for c in development}))}, seeds",
        f"{', '.join(map(str, sorted({c['seed'] for c in development})))}, at 20 per cent): {chosen}.",
        "",
    ]
    for title, at in (("after the chosen steps", steps), (f"after {STEPS[-1]} steps, all alike", None)):
        head = [s if s == "mixed" else f"{float(s):.0%}" for s in shares]
        lines += [
            f"| right, per cent, {title} | " + " | ".join(head) + " |",
            "|---|" + "---|" * len(shares),
        ]
        for method, (name, _) in METHODS.items():
            step = len(STEPS) - 1 if at is None else at.get(method, at["learned"])
            row = [shown(by_seed(cells, share, method, step)) for share in shares]
            if set(row) != {"-"}:
                lines.append(f"| {name} | " + " | ".join(row) + " |")
        lines.append("")
    lines += ["Against Bradley-Terry seed by seed, both after their chosen steps:", ""]
    lines += [
        difference(cells, steps, method, "0.2") for method in METHODS if method not in ("bt", *FOR_MIXED_ONLY)
    ]
    lines += [
        difference(cells, steps, "learned", "0.2", part) for part in (slice(None, FIRST), slice(FIRST, None))
    ]
    lines += [difference(cells, steps, "learned", share) for share in shares if share != "0.2"]
    lines += [difference(cells, steps, "told", "mixed")]
    lines += ["", "Against RRL that learns the share, in the same way:", ""]
    lines += [difference(cells, steps, "likelihood", "0.2", than="learned")]
    alike = dict.fromkeys(METHODS, len(STEPS) - 1)
    lines += ["", f"Against Bradley-Terry, both after {STEPS[-1]} steps:", ""]
    lines += [difference(cells, alike, "learned", share) for share in shares]
    found = {
        s: [c["learned_share"] for c in cells if c["share"] == s and "learned_share" in c] for s in shares
    }
    told = ", ".join(f"{s}: {np.mean(v):.2f}" for s, v in found.items() if v)
    lines += ["", f"Shares that `reward=robust` learned after {STEPS[-1]} steps: {told}.", ""]
    return "\n".join(lines)


def difference(
    cells: list[dict[str, Any]],
    steps: dict[str, int],
    method: str,
    share: str,
    part: slice = slice(None),
    *,
    than: str = "bt",
) -> str:
    """Say how far a method is from another, seed by seed, over all seeds or a part of them."""
    ours, theirs = (by_seed(cells, share, m, steps.get(m, steps["learned"])) for m in (method, than))
    count, which = len(theirs[part]), "first" if part.stop else "other"
    seeds = "" if count == len(theirs) else f" over the {which} {count} seeds alone"
    where = f"{share if share == 'mixed' else format(float(share), '.0%')}{seeds}"
    if len(ours) != len(theirs) or len(ours[part]) < 2:
        return f"- {METHODS[method][0]}: not measured on all seeds at {where}."
    gained = (ours - theirs)[part]
    if abs(gained.mean()) <= half_width(gained):
        verdict = "the interval holds zero"
    else:
        verdict = "above it" if gained.mean() > 0 else "below it"
    return f"- {METHODS[method][0]}: {shown(gained)} points at {where}, {verdict}."


def main() -> None:
    """Measure what is missing, then write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--shares", nargs="+", default=SHARES, choices=SHARES)
    parser.add_argument("--development", action="store_true", help="the development tasks, at 20 per cent")
    parser.add_argument("--data", type=Path, default=Path("outputs/bench/transfer-data"))
    parser.add_argument("--cells", type=Path, default=Path("outputs/bench/reward-noise.jsonl"))
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    options.cells.parent.mkdir(parents=True, exist_ok=True)
    developed = options.cells.with_name(options.cells.stem + "-development.jsonl")
    file = developed if options.development else options.cells
    tasks, shares = (DEVELOPMENT, ("0.2",)) if options.development else (TASKS, tuple(options.shares))
    torch.set_num_threads(1)
    known = {(c["task"], c["seed"], c["share"], c["method"]) for c in read(file)}
    end = time.monotonic() + 60 * options.minutes
    for key in wanted(tasks, options.seeds, shares):
        if key in known or time.monotonic() > end:
            continue
        found = cell(*key, options.data)
        with file.open("a") as opened:
            opened.write(json.dumps(found) + "\n")
        print(*key, [round(x, 3) for x in found["accuracy"]], flush=True)
    if options.page:
        put_between(options.page, "tables", page(read(options.cells), read(developed)))


if __name__ == "__main__":
    main()
