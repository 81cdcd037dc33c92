"""What policies are worth that learn from transferred labels, beside those of oracle labels and true rewards.

    python scripts/bench/pearl_policies.py --minutes 30     # as many cells as fit; run again to go on
    python scripts/bench/pearl_policies.py --minutes 0 --page docs/results/pearl.md

A cell is one target and one data seed: ``robopref run experiment=pearl_baselines``, whose policies learn from
the same 104 episodes and are tried on the same evaluation seeds. A run that the time breaks off goes on with
the next call; a whole one is a line of outputs/bench/pearl-policies.jsonl. A cell takes some ten minutes. One
whose line lacks a policy of the table is gone on with, too: what its folder holds is not repeated.
"""

import argparse
import itertools
import json
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
from omegaconf import DictConfig, OmegaConf
from pages import put_section
from t_interval import percent
from transfer import TARGETS

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
    "best-quarter-oracle-labels": "oracle labels: cloning of the best quarter by the learned reward",
    "iql-oracle-labels": "oracle labels: implicit Q-learning",
    "rebrac-oracle-labels": "oracle labels: ReBRAC",
    "iql-true-reward": "true reward: implicit Q-learning",
    "rebrac-true-reward": "true reward: ReBRAC",
    "behaviour-cloning": "no labels: cloning of all episodes",
    "collected-data": "the episodes that were collected",
}

REWARDS = {"transferred": "train-reward", "oracle": "train-reward-oracle"}  # labels -> the phase


def run_of(target: str, seed: int, steps: int) -> Path:
    """Where a cell runs."""
    return FOLDER / f"{target}-{seed}-{steps}"


def cell(target: str, seed: int, steps: int, seconds: float) -> dict[str, Any] | None:
    """Run one target and seed, or go on with it; None where the time was over before it was whole."""
    out = run_of(target, seed, steps)
    words = ["experiment=pearl_baselines", f"env.task={target}", f"seed={seed}", f"out={out}"]
    words += [f"training.policy.steps={steps}", "training.evaluation.record=0", "wandb.mode=disabled"]
    words += ["film_coupling=false", "workers=0", "threads=1", "device=cpu"]
    words += [f"data_dir={FOLDER / 'data'}"]
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
        "run": facts(out),
        "rewards": rewards(out),
    }


def facts(out: Path) -> dict[str, Any]:
    """What a page says of a run, from what the run wrote of itself.

    Raises:
        SystemExit: Nothing of it is left; says which folder is missing.
    """
    try:
        config = cast(DictConfig, OmegaConf.load(out / "config.yaml"))
        record = json.loads((out / "run.json").read_text())
    except FileNotFoundError as error:
        raise SystemExit(f"{error.filename} is missing, which says how a measured cell was run") from error
    training = config.training
    return {
        "sources": list(config.alignment.sources),
        "alignment": config.alignment._target_.rpartition(".")[2],
        "episodes": config.episodes,
        "pairs": training.max_pairs,
        "cloning": training.clone.steps,
        "preferences": training.preferences.steps,
        "tried": training.evaluation.episodes,
        "threads": config.threads,
        "processor": record["machine"]["processor"],
    }


def rewards(out: Path) -> dict[str, float]:
    """Share of held-out pairs of the target that each learned reward of a run orders right."""
    return {
        key: json.loads((out / "phases" / f"{name}.json").read_text())["result"]["pair_accuracy"]
        for key, name in REWARDS.items()
    }


def section(cells: list[dict[str, Any]]) -> str:
    """Write the table: t intervals over seeds of each target and, if there are several, of their mean.

    Raises:
        SystemExit: The cells were not run alike; says in what they differ.
    """
    run = cells[0]["run"]
    for name in run.keys() - {"processor"}:
        if any(c["run"][name] != run[name] for c in cells):
            raise SystemExit(f"The cells were run with different {name}: {[c['run'][name] for c in cells]}")
    processors = " or ".join(sorted({c["run"]["processor"] for c in cells}))
    targets = [t for t in TARGETS if any(c["target"] == t for c in cells)]
    seeds = sorted({c["seed"] for c in cells})
    measured = {(c["target"], c["seed"]) for c in cells}
    averaged = len(targets) > 1 and len(measured) == len(targets) * len(seeds)
    shown = "; ".join(f"{t} {', '.join(str(s) for s in seeds if (t, s) in measured)}" for t in targets)
    about = (
        f"Labels of {', '.join(run['sources'])} by `{run['alignment']}`, no label of the target. "
        f"{run['episodes']} graded episodes, from which a policy learned for {cells[0]['steps']:,} steps "
        f"(CPL: {run['cloning']:,} of cloning, {run['preferences']:,} of preferences); {run['tried']} new "
        f"episodes each. Oracle labels are the teacher's, of {run['pairs'] or 'all'} pairs of the target. "
        f"`scripts/bench/pearl_policies.py`, {len(targets)} of {len(TARGETS)} targets, data seeds: {shown}; "
        f"{run['threads']} core(s) of {processors}, {max(c['date'] for c in cells)}. Per cent successful "
        "(in the last two rows, of pairs), and the 95 % t interval over seeds (none with one seed), which "
        "may pass 100. ReBRAC's settings were chosen on other tasks with the true reward "
        "(`scripts/bench/rebrac_settings.py`), the others' before this table."
    )
    lines = [
        f"## {HEADING}",
        "",
        textwrap.fill(about, 110, break_on_hyphens=False),
        "",
        "| | " + " | ".join(["mean", *targets] if averaged else targets) + " |",
        "|---|" + "---|" * (len(targets) + averaged),
    ]
    measures = [(name, "rates", key) for key, name in ROWS.items()]
    measures += [(f"held-out pairs ordered right by the reward of {k} labels", "rewards", k) for k in REWARDS]
    for name, kind, key in measures:
        rates = {(c["target"], c["seed"]): c[kind][key] for c in cells if key in c[kind]}
        if not rates:
            continue
        if len(rates) < len(cells):
            name += f" ({len(rates)} of {len(cells)} runs)"
        columns = [percent([rates[t, s] for s in seeds if (t, s) in rates]) for t in targets]
        if averaged:
            whole = [s for s in seeds if all((t, s) in rates for t in targets)]
            columns.insert(0, percent([float(np.mean([rates[t, s] for t in targets])) for s in whole]))
        lines.append(f"| {name} | " + " | ".join(columns) + " |")
    return "\n".join(lines)


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
    cells = {}
    for line in file.read_text().splitlines() if file.exists() else ():
        read = json.loads(line)
        cells[read["target"], read["seed"], read["steps"]] = read  # the last of a cell that was gone on with
    end = time.monotonic() + 60 * options.minutes
    for target, seed in itertools.product(options.targets, options.seeds):
        key = (target, seed, options.steps)
        if key in cells and cells[key]["rates"].keys() >= ROWS.keys():
            continue
        left = end - time.monotonic()
        found = cell(*key, left) if left > 0 else None
        if found is None:
            break
        cells[key] = found
        with file.open("a") as lines:
            lines.write(json.dumps(found) + "\n")
        print(target, seed, found["rates"], flush=True)
    chosen = [
        c
        for c in cells.values()
        if c["target"] in options.targets and c["seed"] in options.seeds and c["steps"] == options.steps
    ]
    if options.page and chosen:
        write_text(options.page, put_section(options.page.read_text(), HEADING, section(chosen)))


if __name__ == "__main__":
    main()
