"""What policies are worth that learn from transferred labels, beside those of oracle labels and true rewards.

    python scripts/bench/pearl_policies.py --minutes 30     # as many cells as fit; run again to go on
    python scripts/bench/pearl_policies.py --minutes 0 --page docs/results/pearl.md

A cell is one target and one data seed: ``robopref run experiment=pearl_baselines``, whose policies learn from
the same 104 episodes and are tried on the same evaluation seeds. A run that the time breaks off goes on with
the next call; a whole one is a line of outputs/bench/pearl-policies.jsonl. A cell takes some ten minutes.
"""

import argparse
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from transfer import TARGETS, hardware

from robopref.files import write_text

HEADING = "Policies on Meta-World"
FOLDER = Path("outputs/bench/pearl-policies")
ROWS = {  # as the run calls it -> as the page does
    "PEARL": "transferred labels: cloning of the best quarter by the learned reward (default)",
    "best-tenth": "transferred labels: cloning of the best tenth",
    "iql": "transferred labels: implicit Q-learning, as in the paper",
    "rebrac": "transferred labels: ReBRAC",
    "cpl": "transferred labels, no reward: CPL",
    "ipl": "transferred labels, no reward: IPL",
    "iql-oracle-labels": "oracle labels: implicit Q-learning",
    "rebrac-oracle-labels": "oracle labels: ReBRAC",
    "iql-true-reward": "true reward: implicit Q-learning",
    "rebrac-true-reward": "true reward: ReBRAC",
    "behaviour-cloning": "no labels: cloning of all episodes",
    "collected-data": "the episodes that were collected",
}


def cell(target: str, seed: int, steps: int, seconds: float) -> dict[str, Any] | None:
    """Run one target and seed, or go on with it; None where the time was over before it was whole."""
    out = FOLDER / f"{target}-{seed}-{steps}"
    words = ["experiment=pearl_baselines", f"env.task={target}", f"seed={seed}", f"out={out}"]
    words += [f"training.policy.steps={steps}", "training.evaluation.record=0", "wandb.mode=disabled"]
    words += ["workers=0", "threads=1", "device=cpu", f"data_dir={FOLDER / 'data'}"]
    child = subprocess.Popen([sys.executable, "-m", "robopref.cli", "run", *words])
    try:
        code = child.wait(seconds)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGINT)
        child.wait()
        return None
    if code:
        raise SystemExit(f"{out} ended with code {code}")
    found = {path.stem: json.loads(path.read_text()) for path in (out / "evaluation").glob("*.json")}
    return {
        "target": target,
        "seed": seed,
        "steps": steps,
        "rates": {name: float(np.mean(found[name]["successes"])) for name in ROWS},
        "date": time.strftime("%Y-%m-%d"),
    }


def section(cells: list[dict[str, Any]], machine: str) -> str:
    """Write the table: the mean over targets for each seed, and a t interval over seeds."""
    targets = [t for t in TARGETS if any(c["target"] == t for c in cells)]
    seeds = sorted({c["seed"] for c in cells})
    lines = [
        f"## {HEADING}",
        "",
        "Labels of button-press, window-open and faucet-close by `alignment=auto`, no label of the target.",
        f"104 graded episodes, from which a policy learned for {cells[0]['steps']} steps (CPL: 3,000 of",
        "cloning, 500 of preferences); 50 new episodes each. Oracle labels are the teacher's, of all pairs",
        f"of the target. `scripts/bench/pearl_policies.py`, data seeds {', '.join(map(str, seeds))}, one of",
        f"{machine}, {max(c['date'] for c in cells)}. Per cent successful, and the 95 % t interval over",
        "seeds (none with one seed). ReBRAC's settings were chosen on other tasks with the true reward",
        "(`scripts/bench/rebrac_settings.py`), those of the rest before this table.",
        "",
        "| | mean | " + " | ".join(targets) + " |",
        "|---|---|" + "---|" * len(targets),
    ]
    for key, name in ROWS.items():
        rates = {(c["target"], c["seed"]): 100 * c["rates"][key] for c in cells}
        whole = [s for s in seeds if all((t, s) in rates for t in targets)]
        mean = interval([np.mean([rates[t, s] for t in targets]) for s in whole])
        columns = [interval([rates[t, s] for s in seeds if (t, s) in rates]) for t in targets]
        lines.append(f"| {name} | {mean} | " + " | ".join(columns) + " |")
    return "\n".join(lines)


def interval(values: list[Any]) -> str:
    """Mean, and half the width of its 95 % t interval."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.0f}"
    return f"{np.mean(values):.0f} ± {stats.sem(values) * stats.t.ppf(0.975, len(values) - 1):.0f}"


def page(old: str, new: str) -> str:
    """Put the section in the place of its predecessor, or at the end."""
    sections = re.split(r"(?m)^(?=## )", old)
    kept = [part.rstrip() for part in sections]
    places = [i for i, part in enumerate(kept) if part.startswith(f"## {HEADING}\n")]
    return "\n\n".join([*kept[: places[0]], new, *kept[places[0] + 1 :]] if places else [*kept, new]) + "\n"


def main() -> None:
    """Measure what is missing, then write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--targets", nargs="+", default=["drawer-open"], choices=TARGETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    file = FOLDER.with_suffix(".jsonl")
    file.parent.mkdir(parents=True, exist_ok=True)
    cells = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    known = {(c["target"], c["seed"], c["steps"]) for c in cells}
    end = time.monotonic() + 60 * options.minutes
    for target in options.targets:
        for seed in options.seeds:
            if (target, seed, options.steps) in known or time.monotonic() >= end:
                continue
            found = cell(target, seed, options.steps, end - time.monotonic())
            if found is None:
                break
            cells.append(found)
            with file.open("a") as lines:
                lines.write(json.dumps(found) + "\n")
            print(target, seed, found["rates"], flush=True)
    chosen = [
        c
        for c in cells
        if c["target"] in options.targets and c["seed"] in options.seeds and c["steps"] == options.steps
    ]
    if options.page and chosen:
        write_text(options.page, page(options.page.read_text(), section(chosen, hardware())))


if __name__ == "__main__":
    main()
