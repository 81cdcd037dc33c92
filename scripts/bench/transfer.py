"""How often labels that were carried to another task are right: every alignment and control, over seeds.

    python scripts/bench/transfer.py --minutes 60   # as many cells as fit; run again to go on
    python scripts/bench/transfer.py --minutes 0 --page docs/results/pearl.md
    python scripts/bench/transfer.py --env robosuite --transfers "lift to can" "can to lift" --seeds 0 1 2 \\
        --page docs/results/pearl.md

scripts/bench/pearl.py calls it for all of its sections, one after the other.

All pairs of the sources are labelled by return. Each target has 104 episodes of graded quality without
labels. A cell is one transfer and one data seed: new episodes of every task. With n labels of the target, n
of its pairs are labelled by return, too: random ones, of different return, or those that the alignment asks
for, one after the other (ties count). "Target alone" learns from such labels only, in the same features.
Accuracy is over all pairs of different return.

Each cell is one line of outputs/bench/transfer-<env>.jsonl, with its date, machine and settings of
alignment=auto; a later call goes on from there, unless the settings differ. A page keeps its beginning and
the sections that this call does not measure; without a page, the section is printed. The settings of
alignment=auto were chosen on nine tasks of Meta-World (DEVELOPMENT) at seeds 0 and 1.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from pages import put_section
from t_interval import half_width

from robopref.alignment.anchors import PreparedTransfer
from robopref.alignment.auto import AutoAlignment
from robopref.alignment.cpa import CrossTaskAlignment
from robopref.alignment.features import compute_features
from robopref.alignment.ranker import fit_score
from robopref.alignment.record import pair_accuracy
from robopref.alignment.sets import LabelledSet
from robopref.alignment.transfer import labels_from_scores
from robopref.data.store import TrajectoryStore
from robopref.files import write_text
from robopref.training.run import processor

SOURCES = ("button-press", "window-open", "faucet-close")
TARGETS = ("drawer-open", "window-close", "door-close", "sweep-into", "push", "plate-slide", "handle-press")
ROBOMIMIC = ("lift", "can", "square")
DEVELOPMENT = (
    *("drawer-close", "door-open", "faucet-open", "push-back", "reach", "handle-pull"),
    *("plate-slide-back", "coffee-button", "sweep"),
)
TRANSFERS = {  # of each simulator: name -> the sources and the target
    "metaworld": {target: (SOURCES, target) for target in (*TARGETS, *DEVELOPMENT)},
    "robosuite": {
        f"{source} to {target}": ((source,), target)
        for target in ROBOMIMIC
        for source in ROBOMIMIC
        if source != target
    },
}
HEADINGS = {  # of a simulator, or of transfers that all have to do with Square
    "metaworld": "Meta-World",
    "robosuite": "Robomimic's tasks, in robosuite",
    "square": "Robomimic's Square, one data seed",
}
ABOUT = {
    "metaworld": "Sources are button-press, window-open and faucet-close. The settings of `alignment=auto` "
    "(the penalty, the firmness against anchors, the agreement below which it warns) were chosen on other "
    f"tasks ({', '.join(DEVELOPMENT)}) at seeds 0 and 1. Questions were not asked for before 2026-11-22; the "
    "rows without them were first measured the day before, with a firmness of 10 instead of 3.",
    "robosuite": "One task is the only source of another, so that `alignment=auto` has none to validate on "
    "and takes its defaults. Nothing was chosen on these tasks.",
    "square": "Square as source and as target, with one data seed only: differences of a few points mean "
    "nothing. Nothing was chosen on these tasks.",
}
ANCHORS = (1, 5, 20)
ROWS = {  # key of a cell -> what the page calls it
    "auto": "`alignment=auto`",
    "auto+1": "`alignment=auto`, 1 label of the target, at random",
    "auto+5": "`alignment=auto`, 5 labels, at random",
    "auto+20": "`alignment=auto`, 20 labels, at random",
    "asked+1": "`alignment=auto`, 1 label that it asked for",
    "asked+5": "`alignment=auto`, 5 labels that it asked for",
    "asked+20": "`alignment=auto`, 20 labels that it asked for",
    **{f"from {source}": f"`alignment=auto`, from {source} alone" for source in SOURCES},
    "fused": "`alignment=fused`",
    "cpa": "`alignment=cpa` (as published, on whole sets)",
    "wasserstein": "Wasserstein on shared statistics",
    "hand_object": "no source: hand nearer the object",
    "medoid": "no source: nearer the medoid",
    "shuffled": "shuffled source labels",
    "alone+1": "target alone, 1 label",
    "alone+5": "target alone, 5 labels",
    "alone+20": "target alone, 20 labels",
    "alone-asked+1": "target alone, 1 label asked for in the same way",
    "alone-asked+5": "target alone, 5 labels asked for in the same way",
    "alone-asked+20": "target alone, 20 labels asked for in the same way",
    "alone+all": "target alone, all labels",
}


SETTINGS = ("l2", "anchor_precision", "least_agreement", "least_agreement_of_couplings")
COMPARED = (  # rows whose difference the page says
    ("auto", "hand_object"),
    ("asked+5", "auto"),
    ("asked+5", "auto+5"),
    ("asked+20", "auto+20"),
    ("asked+5", "alone+20"),
    ("asked+5", "alone-asked+20"),
    ("asked+20", "alone-asked+20"),
)


def episodes(env: str, task: str, seed: int, folder: Path) -> TrajectoryStore:
    """Open the episodes of a task, collecting them first where they are missing."""
    path = folder / f"{task}-{seed}"
    if not (path / "done").exists():
        words = [f"env={env}", f"env.task={task}", f"data={path}", f"seed={seed}"]
        words += [f"out={folder}/runs/{task}-{seed}"]
        subprocess.run([sys.executable, "-m", "robopref.cli", "collect", *words], check=True)
        (path / "done").touch()
    return TrajectoryStore.open(path)


def anchors_of(returns: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """Return labels of so many random pairs of different return, NaN elsewhere."""
    labels = np.full((len(returns), len(returns)), np.nan)
    np.fill_diagonal(labels, 0.5)
    rows, columns = np.nonzero(np.triu(returns[:, None] != returns[None], 1))
    chosen = rng.choice(len(rows), number, replace=False)
    i, j = rows[chosen], columns[chosen]
    labels[i, j] = returns[i] > returns[j]
    labels[j, i] = 1 - labels[i, j]
    return labels


def difference(cells: list[dict[str, Any]], a: str, b: str) -> str:
    """Say by how much one row is above another, with a t interval over seeds."""
    seeds = sorted({c["seed"] for c in cells})
    apart = [
        100 * np.mean([c["accuracy"][a] - c["accuracy"][b] for c in cells if c["seed"] == s]) for s in seeds
    ]
    return f"{a} above {b} {np.mean(apart):+.1f} ± {half_width(apart):.1f}"


def asked_for(
    ready: PreparedTransfer, truth: np.ndarray, number: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Return the anchors after each of so many questions, the first of them without any."""
    anchors = [np.where(np.eye(len(truth), dtype=bool), 0.5, np.nan)]
    for _ in range(number):
        i, j = ready.ask(anchors[-1], rng=rng)
        known = anchors[-1].copy()
        known[i, j], known[j, i] = truth[i, j], truth[j, i]
        anchors.append(known)
    return anchors


def cell(env: str, transfer_name: str, seed: int, folder: Path) -> dict[str, Any]:
    """Measure every row on one transfer and data seed."""
    tasks, target = TRANSFERS[env][transfer_name]
    stores = {task: episodes(env, task, seed, folder) for task in (*tasks, target)}
    sources = [
        LabelledSet(task, stores[task].whole_episodes(), labels_from_scores(stores[task].returns))
        for task in tasks
    ]
    segments, returns = stores[target].whole_episodes(), stores[target].returns
    truth = labels_from_scores(returns)
    auto = AutoAlignment()

    def transfer(alignment: Any) -> Any:
        return alignment.transfer(sources, segments, rng=np.random.default_rng(seed))

    ready = auto.prepare(sources, segments, rng=np.random.default_rng(seed))

    def settled(anchors: np.ndarray | None) -> Any:
        return ready.settle(anchors, rng=np.random.default_rng(seed))

    record = settled(None)
    shares = {
        "auto": pair_accuracy(record.labels, truth),
        "fused": pair_accuracy(transfer(auto.couplings).labels, truth),
    }
    shares |= {"cpa": pair_accuracy(transfer(CrossTaskAlignment()).labels, truth)}
    for source in sources if len(sources) > 1 else ():
        alone = auto.transfer([source], segments, rng=np.random.default_rng(seed))
        shares[f"from {source.name}"] = pair_accuracy(alone.labels, truth)
    for name in ("wasserstein", "hand_object", "medoid", "shuffled"):
        shares[name] = pair_accuracy(record.controls[name], truth)
    features = compute_features(record.settings["shared_feature"], segments)
    asked = asked_for(ready, truth, max(ANCHORS), np.random.default_rng([seed, 0]))
    # Without a source there is no score for anchors to move: a firmness of 1 did best of three on the tasks
    # on which settings were chosen.
    nothing = np.zeros(features.shape[1])
    blank = PreparedTransfer(ready.record, features, nothing, anchor_precision=1.0, guard=ready.guard)
    asked_blank = asked_for(blank, truth, max(ANCHORS), np.random.default_rng([seed, 0]))
    for number in ANCHORS:
        anchors = anchors_of(returns, number, np.random.default_rng([seed, number]))
        shares[f"auto+{number}"] = pair_accuracy(settled(anchors).labels, truth)
        shares[f"asked+{number}"] = pair_accuracy(settled(asked[number]).labels, truth)
        shares[f"alone+{number}"] = _alone(features, anchors, truth)
        told = blank.settle(asked_blank[number], rng=np.random.default_rng(seed))
        shares[f"alone-asked+{number}"] = pair_accuracy(told.labels, truth)
    shares["alone+all"] = _alone(features, truth, truth)
    at, sure = np.triu_indices(len(truth), 1), record.confidence / 2 + 0.5
    right = (record.labels[at] > 0.5) == (truth[at] > 0.5)
    untied = truth[at] != 0.5
    order = np.argsort(sure[at][untied])
    return {
        "target": transfer_name,
        "seed": seed,
        "accuracy": shares,
        "calibration": [
            [float(sure[at][untied][part].mean()), float(right[untied][part].mean())]
            for part in np.array_split(order, 4)
        ],
        "at_risk": record.settings["at_risk"],
        "agreement": record.settings["agreement"],
        "settings": settings_of(auto),
        **when_and_where(),
    }


def settings_of(auto: AutoAlignment) -> dict[str, Any]:
    """Return the settings that cells of one table share."""
    couplings = {"features": list(auto.couplings.features), "alpha": auto.couplings.alpha}
    return {name: getattr(auto, name) for name in SETTINGS} | couplings


def check_settings(cells: list[dict[str, Any]]) -> None:
    """Refuse cells that were measured with other settings than would be now.

    Raises:
        SystemExit: There are some; says with which settings.
    """
    now = settings_of(AutoAlignment())
    for c in cells:
        if c["settings"] != now:
            raise SystemExit(
                f"{c['target']} (seed {c['seed']}) was measured with {c['settings']}, where now {now} holds. "
                "Move the file of the cells away to measure all of them anew."
            )


def _alone(features: np.ndarray, labels: np.ndarray, truth: np.ndarray) -> float:
    weights = fit_score([features], [labels], l2=0.1, rng=np.random.default_rng(0))
    return pair_accuracy(labels_from_scores(features @ weights), truth)


def page(old: str, part: str, cells: list[dict[str, Any]]) -> str:
    """Write the results of one of ``HEADINGS`` into a page, the rest of which stays."""
    about = (__doc__ or "").split("\n\n")[3].replace("\n", " ")
    start = f"# Labels carried to another task\n\n{about}\n"
    return put_section(old or start, HEADINGS[part], section(part, cells))


def section(part: str, cells: list[dict[str, Any]]) -> str:
    """Write the results of one of ``HEADINGS``."""
    seeds = sorted({c["seed"] for c in cells})
    names = [name for transfers in TRANSFERS.values() for name in transfers]
    targets = [t for t in names if any(c["target"] == t for c in cells)]
    lines = [
        f"## {HEADINGS[part]}",
        "",
        ABOUT[part],
        "",
        f"{run_on(cells, 'transfer.py')}, data seeds",
        f"{', '.join(map(str, seeds))}. "
        + ("Intervals are 95 % t intervals over seeds of the mean over all." if len(seeds) > 1 else ""),
        "*Worst* is the worst single transfer, *inverted* how many ordered fewer than half of the pairs "
        "right.",
        "",
        "| pairs ordered right, per cent | mean | worst | inverted | " + " | ".join(targets) + " |",
        "|---|---|---|---|" + "---|" * len(targets),
    ]
    for key, name in ROWS.items():
        if key not in cells[0]["accuracy"]:  # a single source is all there is
            continue
        by_seed = [np.mean([c["accuracy"][key] for c in cells if c["seed"] == s]) for s in seeds]
        values = [c["accuracy"][key] for c in cells]
        spread = ""
        if len(seeds) > 1:
            spread = f" ± {100 * half_width(by_seed):.1f}"
        columns = [
            f"{100 * np.mean([c['accuracy'][key] for c in cells if c['target'] == t]):.0f}" for t in targets
        ]
        lines.append(
            f"| {name} | {100 * np.mean(values):.1f}{spread} | {100 * min(values):.0f} "
            f"| {sum(v < 0.5 for v in values)} of {len(values)} | " + " | ".join(columns) + " |"
        )
    flagged = [f"{c['target']} (seed {c['seed']})" for c in cells if c["at_risk"]]
    inverted = [f"{c['target']} (seed {c['seed']})" for c in cells if c["accuracy"]["auto"] < 0.5]
    calibration = np.mean([c["calibration"] for c in cells], axis=0)
    if len(seeds) > 1:
        lines += [
            "",
            "Differences, seed by seed: " + "; ".join(difference(cells, *x) for x in COMPARED) + ".",
        ]
    lines += [
        "",
        f"`alignment=auto` without anchors warned on {len(flagged)} of {len(cells)} transfers "
        f"({', '.join(flagged) or 'none'}); inverted were {', '.join(inverted) or 'none'}.",
        "",
        "Calibration of `alignment=auto`, by quarters of confidence: "
        + ", ".join(f"said {100 * said:.0f} %, right {100 * was:.0f} %" for said, was in calibration)
        + ".",
        "",
        "Agreement between the score and the couplings (Spearman's rho), by which it warns: "
        + ", ".join(
            f"{t} {np.mean([c['agreement']['score and couplings'] for c in cells if c['target'] == t]):.2f}"
            for t in targets
        )
        + ".",
    ]
    return "\n".join(lines)


def hardware() -> str:
    """Return how many cores of which processor this machine has."""
    return f"{os.cpu_count()} cores of {processor()}"


def when_and_where() -> dict[str, str]:
    """Return what a cell says of its measurement."""
    return {"date": time.strftime("%Y-%m-%d"), "machine": hardware()}


def run_on(cells: list[dict[str, Any]], script: str) -> str:
    """Say between which dates and on which machines cells were measured."""
    dates, machines = ({c[key] for c in cells} for key in ("date", "machine"))
    days = " to ".join(sorted({min(dates), max(dates)}))
    return f"Run on {days} with `scripts/bench/{script}` on {' or '.join(sorted(machines))}"


def main() -> None:
    """Measure what is missing, then write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--env", default="metaworld", choices=TRANSFERS)
    parser.add_argument("--transfers", nargs="+", help="their names; DEVELOPMENT is left out by default")
    parser.add_argument("--development", action="store_true", help="the transfers to DEVELOPMENT instead")
    parser.add_argument("--data", type=Path, default=Path("outputs/bench/transfer-data"))
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    transfers = options.transfers or [
        t for t in TRANSFERS[options.env] if (t in DEVELOPMENT) == options.development
    ]
    if options.page and set(transfers) & set(DEVELOPMENT):
        parser.error("transfers to the tasks of development have no place on the page; they are printed")
    if unknown := set(transfers) - set(TRANSFERS[options.env]):
        parser.error(f"unknown transfers {sorted(unknown)}; there are {', '.join(TRANSFERS[options.env])}")
    file = Path(f"outputs/bench/transfer-{options.env}.jsonl")
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = file.read_text().splitlines() if file.exists() else []
    cells = [json.loads(line) for line in lines]
    check_settings(cells)
    known = {(c["target"], c["seed"]) for c in cells}
    end = time.monotonic() + 60 * options.minutes
    for seed in options.seeds:
        for name in transfers:
            if (name, seed) in known or time.monotonic() > end:
                continue
            cells.append(cell(options.env, name, seed, options.data))
            with file.open("a") as lines_file:
                lines_file.write(json.dumps(cells[-1]) + "\n")
            print(name, seed, {k: round(v, 3) for k, v in cells[-1]["accuracy"].items()}, flush=True)
    chosen = [c for c in cells if c["target"] in transfers and c["seed"] in options.seeds]
    part = "square" if all("square" in name for name in transfers) else options.env
    if options.page and chosen:
        old = options.page.read_text() if options.page.exists() else ""
        write_text(options.page, page(old, part, chosen))
    elif chosen:
        print(section(part, chosen))


if __name__ == "__main__":
    main()
