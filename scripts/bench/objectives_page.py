"""The page of the table of objectives, from cells that have run: tables, and what cannot be told apart."""

import itertools
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from objectives_learners import (
    BINS,
    BY_TAU,
    BY_TEMPERATURE,
    FLIPS,
    LEARNERS,
    STRENGTHS,
    TEMPERATURES,
    strengths,
)
from t_interval import half_width, percent

from robopref.training.run import machine


def medians(rows: list[dict[str, Any]], learner: str) -> dict[tuple[str, float], dict[int, float]]:
    """Of each (objective, flip) and seed the median over strengths, where all of them are there."""
    key = "accuracy" if learner == "reward" else "success"
    found: dict[tuple[str, float], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for r in rows:
        if r["learner"] == learner:
            found[r["objective"], r["flip"]][r["seed"]].append(r[key])
    return {
        cell: {s: float(np.median(x)) for s, x in seeds.items() if len(x) == len(strengths(cell[0], learner))}
        for cell, seeds in found.items()
    }


def table(rows: list[dict[str, Any]], learner: str) -> str:
    """One line for each objective, best first: mean over the seeds whose every strength is there."""
    found = medians(rows, learner)
    gate: dict[str, list[bool]] = defaultdict(list)
    for r in rows:
        if r["learner"] == learner:
            gate[r["objective"]].append(bool(r.get("collapsed")))
    cells = {cell: list(seeds.values()) for cell, seeds in found.items()}
    flips = sorted({flip for (_, flip), values in cells.items() if values})
    most = max(map(len, cells.values()))
    usual = {f: np.mean([np.mean(v) for (_, flip), v in cells.items() if flip == f and v]) for f in flips}

    def lead(name: str) -> float:
        there = [f for f in flips if cells.get((name, f))]
        return float(np.mean([np.mean(cells[name, f]) - usual[f] for f in there])) if there else -np.inf

    def text(values: list[float]) -> str:
        return percent(values) + ("" if len(values) == most else f" [{len(values)}]") if values else "-"

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

Strengths are beta, or tau of {by_tau}: {policy_strengths} for the Gaussian policy, {flow_strengths} for
the flow policy, {token_strengths} for the token policy. Weighted imitation ({by_temperature}) has no
beta; its temperatures are {temperatures}. A reward model's are {reward_strengths}, the factor of its
returns in the loss (`ipo` and `sppo` keep their default tau there). Entries are means over seeds with 95
% t intervals; where a number in brackets follows, over so many seeds, and a dash means that it did not
run. Learning rates and steps are the same for all objectives of a learner; they, the strengths and the
behaviours were set on seed 100, where `dpo`, `ipo`, `cpl`, `kto` and a few others were looked at. Lists
are four episodes of one reset state; the tenth of all episodes that is preferred most is the
demonstration of `triple`. `conditional_bc` has no strength and starts from a clone of its own, with an
input for how good it shall be, which is told the best.

## Reward model: pairs of unseen reset states ordered right, per cent, median over strengths

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
TOLD = "conditional_bc"  # starts from a clone of its own


def page(rows: list[dict[str, Any]], command: str, task: str) -> str:
    """The whole page, of all cells that are there."""
    count = {x: [r for r in rows if r["learner"] == x] for x in LEARNERS}
    clones = {
        x: percent(list({r["seed"]: r["clone"] for r in count[x] if r["objective"] != TOLD}.values()))
        for x in LEARNERS
        if x != "reward"
    }
    seeds = {x: ", ".join(map(str, sorted({r["seed"] for r in count[x]}))) for x in LEARNERS}
    return PAGE.format(
        task=task,
        date=time.strftime("%Y-%m-%d"),
        command=command,
        processor=machine()["processor"],
        torch=torch.__version__,
        cells="\n".join(f"- {x}: {len(count[x])} trainings, seeds {seeds[x]}" for x in LEARNERS),
        policy_strengths=", ".join(map(str, STRENGTHS["policy"])),
        flow_strengths=", ".join(map(str, STRENGTHS["flow"])),
        token_strengths=", ".join(map(str, STRENGTHS["token"])),
        token_clone=clones["token"],
        tokens=table(rows, "token"),
        bins=BINS,
        leaders=leaders(rows),
        by_tau=" and ".join(f"`{name}`" for name in BY_TAU),
        by_temperature=", ".join(f"`{name}`" for name in BY_TEMPERATURE),
        temperatures=", ".join(map(str, TEMPERATURES)),
        reward_strengths=", ".join(map(str, STRENGTHS["reward"])),
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
            f"{learner}, {flip:.0%} flipped, {most} seeds: `{best}` ({percent(list(scores[best].values()))})"
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
    half = half_width(gaps) if len(gaps) > 1 else np.inf
    return bool(gaps.mean() > half)
