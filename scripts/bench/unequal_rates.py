"""What becomes of transferred labels where the sources succeed more or less often than the target.

    python scripts/bench/unequal_rates.py --minutes 60   # as many cells as fit; run again to go on
    python scripts/bench/unequal_rates.py --minutes 0 --page docs/results/pearl.md
    python scripts/bench/unequal_rates.py --development  # the tasks on which settings are chosen

The transfers and episodes of transfer.py. Of each source are kept all episodes; or the better half by return
and every third of the worst quarter; or the worse half and every third of the best quarter. The target stays
whole. Balanced couplings match all of both sets; semi-relaxed ones hold the target's weights alone. `choose`
takes `l2` from 0.001, 0.01 and 0.1, and either kind of couplings, by how well the sources label each other.

By three of these numbers `alignment=auto` warns; the last is of `restarts=4`, between couplings of one
problem that cost at most 5 % more than the best of them.

Each line of outputs/bench/unequal-rates.jsonl is one target and data seed, with all alignments or with those
that earlier lines lack.
"""

import argparse
import json
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pages import put_between
from t_interval import percent
from transfer import DEVELOPMENT, SOURCES, TARGETS, episodes, run_on, when_and_where

from robopref.alignment.auto import AutoAlignment
from robopref.alignment.cpa import CrossTaskAlignment
from robopref.alignment.record import TransferRecord, pair_accuracy
from robopref.alignment.sets import LabelledSet
from robopref.alignment.speakers import between, orders_of_couplings
from robopref.alignment.transfer import labels_from_scores

FUSED: dict[str, Any] = {"features": ("mean", "frame", "statistics"), "alpha": 0.9}
GRID = {"l2": [0.001, 0.01, 0.1], "semi_relaxed": [False, True]}
WAYS = {  # key of a cell -> what the page calls it, and the alignment
    "fused": ("`alignment=fused`", CrossTaskAlignment(**FUSED)),
    "fused, semi-relaxed": ("... `semi_relaxed`", CrossTaskAlignment(**FUSED, semi_relaxed=True)),
    "fused, restarts": ("... `restarts=4`", CrossTaskAlignment(**FUSED, restarts=4)),
    "auto": ("`alignment=auto`", AutoAlignment()),
    "auto, semi-relaxed": ("... `couplings.semi_relaxed`", AutoAlignment(FUSED | {"semi_relaxed": True})),
    "auto, choose": ("... `choose`", AutoAlignment(choose=GRID)),
}
WASSERSTEIN = "Wasserstein on shared statistics"  # a control of every record
KEPT = ("all", "the better", "the worse")
MEASURED = ("accuracy", "warned", "agreement", "chosen")
NEAR = 1.05
"""Cost of a near-optimal coupling, in units of the least that is known for its problem, is at most this."""


def kept(returns: np.ndarray, which: str) -> np.ndarray:
    """Return the episodes of a source that a case keeps."""
    order = np.argsort(returns, kind="stable")
    half, quarter = len(order) // 2, len(order) // 4
    rows = {
        "all": order,
        "the better": np.concatenate([order[:quarter:3], order[half:]]),
        "the worse": np.concatenate([order[:half], order[-quarter::3]]),
    }
    return np.sort(rows[which])


def between_near_optima(record: TransferRecord) -> dict[str, float]:
    """Return how far near-optimal couplings of one problem agree, a mean over problems; needs restarts."""
    orders, problems = orders_of_couplings(record), defaultdict(list)
    for name, cost in record.costs.items():
        problems[name.partition("/start-")[0]].append((cost, orders[name]))
    found: list[float] = []
    for ends in problems.values():
        least = min(cost for cost, _ in ends)
        found += between("", [order for cost, order in ends if cost <= NEAR * least]).values()
    return {"between couplings of one problem": float(np.mean(found))} if found else {}


def cell(target: str, seed: int, folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Measure these ways in every case on one target and data seed."""
    stores = {task: episodes("metaworld", task, seed, folder) for task in (*SOURCES, target)}
    segments, truth = stores[target].whole_episodes(), labels_from_scores(stores[target].returns)
    found: dict[str, dict[str, Any]] = {key: {which: {} for which in KEPT} for key in MEASURED}
    for which in KEPT:
        sources = []
        for task in SOURCES:
            rows = kept(stores[task].returns, which)
            known = labels_from_scores(stores[task].returns[rows])
            sources.append(LabelledSet(task, stores[task].whole_episodes(rows), known))
        for name in names:
            record = WAYS[name][1].transfer(sources, segments, rng=np.random.default_rng(seed))
            found["accuracy"][which][name] = pair_accuracy(record.labels, truth)
            found["accuracy"][which]["wasserstein"] = pair_accuracy(record.controls["wasserstein"], truth)
            found["warned"][which][name] = record.settings.get("at_risk", False)
            agreement = record.settings.get("agreement", {}) | between_near_optima(record)
            found["agreement"][which][name] = agreement
            found["chosen"][which][name] = {option: record.settings.get(option) for option in GRID}
    return {"target": target, "seed": seed, **found, **when_and_where()}


def read(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Return what is measured of each target and seed, of all lines together."""
    cells: dict[tuple[str, int], dict[str, Any]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        add(cells, json.loads(line))
    return cells


def add(cells: dict[tuple[str, int], dict[str, Any]], new: dict[str, Any]) -> None:
    """Put a line to those of its target and seed; one without agreement, as once written, does not count."""
    if not set(MEASURED) <= set(new):
        return
    old = cells.setdefault((new["target"], new["seed"]), new)
    for key in MEASURED:
        old[key] = {which: old[key][which] | new[key][which] for which in KEPT}
    old["date"], old["machine"] = new["date"], new["machine"]


def page(cells: list[dict[str, Any]]) -> str:
    """Write the table: the mean over targets, its t interval over seeds, and the worst transfer.

    Of seeds that are measured on all targets.
    """
    targets = sorted({c["target"] for c in cells})
    counts = Counter(c["seed"] for c in cells)
    seeds = sorted(seed for seed in counts if counts[seed] == len(targets))
    cells = [c for c in cells if c["seed"] in seeds]
    if not cells:
        return "No seed is measured on all targets yet."

    def by_seed(which: str, name: str) -> np.ndarray:
        return np.array(
            [np.mean([c["accuracy"][which][name] for c in cells if c["seed"] == s]) for s in seeds]
        )

    about = (__doc__ or "").split("\n\n")
    lines = [
        about[2],
        "",
        f"{run_on(cells, 'unequal_rates.py')},",
        f"targets {', '.join(targets)},",
        f"data seeds {', '.join(map(str, seeds))}. 95 % t intervals over seeds of the mean over targets; in",
        "brackets the worst single transfer.",
        "",
        "| pairs ordered right, per cent; of the sources are kept | " + " | ".join(KEPT) + " |",
        "|---|" + "---|" * len(KEPT),
    ]
    titles = {name: title for name, (title, _) in WAYS.items()} | {"wasserstein": WASSERSTEIN}
    for name, title in titles.items():
        row = []
        for which in KEPT:
            worst = min(c["accuracy"][which][name] for c in cells)
            row.append(f"{percent(by_seed(which, name), 1)} ({100 * worst:.0f})")
        lines.append(f"| {title} | " + " | ".join(row) + " |")
    for name in ("auto", "auto, semi-relaxed", "auto, choose"):
        found = [(c["accuracy"][w][name] < 0.5, c["warned"][w][name]) for c in cells for w in KEPT]
        inverted, flagged = sum(a for a, _ in found), sum(b for _, b in found)
        title = WAYS[name][0].replace("... ", "")
        lines += [
            "",
            f"Of {len(found)} transfers by {title}, {inverted} were inverted and {flagged} warned of, "
            f"{sum(a and b for a, b in found)} both.",
        ]
    gains = []
    for name, other in (("fused", "semi-relaxed"), ("auto", "semi-relaxed"), ("auto", "choose")):
        gained = [percent(by_seed(w, f"{name}, {other}") - by_seed(w, name), 1) for w in KEPT]
        gains.append(f"{other} of `{name}` {' / '.join(gained)}")
    lines += [
        "",
        about[3],
        "",
        *agreement(cells),
        "",
        "Gained, seed by seed, in points:",
        f"{'; '.join(gains)}.",
        "",
    ]
    for option, values in GRID.items():
        taken = Counter(c["chosen"][w]["auto, choose"][option] for c in cells for w in KEPT)
        lines.append(f"`choose` took {option} " + ", ".join(f"{v} {taken[v]} times" for v in values) + ".")
    return "\n".join(lines)


def agreement(cells: list[dict[str, Any]]) -> list[str]:
    """Write a table of what agrees with what, where `alignment=auto` is right and where it is inverted."""
    found: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for c, which in ((c, which) for c in cells for which in KEPT):
        inverted = c["accuracy"][which]["auto"] < 0.5
        for way in ("auto", "fused, restarts"):
            for name, rho in c["agreement"][which][way].items():
                found[name][inverted].append(rho)
    right = len(found["score and couplings"][0])
    lines = [
        f"| Spearman's rho | lowest of the {right} not inverted | median | inverted |",
        "|---|---|---|---|",
    ]
    for name, (of_right, of_inverted) in found.items():
        values = ", ".join(f"{rho:.2f}" for rho in sorted(of_inverted)) or "none"
        lines.append(f"| {name} | {min(of_right):.2f} | {np.median(of_right):.2f} | {values} |")
    return lines


def main() -> None:
    """Measure what is missing, then print or write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--development", action="store_true")
    parser.add_argument("--data", type=Path, default=Path("outputs/bench/transfer-data"))
    parser.add_argument("--cells", type=Path, default=Path("outputs/bench/unequal-rates.jsonl"))
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    if options.page and options.development:
        parser.error("the tasks of development have no place on the page; their table is printed")
    options.cells.parent.mkdir(parents=True, exist_ok=True)
    cells = read(options.cells)
    targets = DEVELOPMENT if options.development else TARGETS
    seeds = options.seeds or ([0, 1] if options.development else [0, 1, 2, 3, 4])
    end = time.monotonic() + 60 * options.minutes
    chosen = [(target, seed) for seed in seeds for target in targets]

    def missing(key: tuple[str, int]) -> list[str]:
        return [name for name in WAYS if key not in cells or name not in cells[key]["agreement"]["all"]]

    for key in chosen:
        if not (names := missing(key)) or time.monotonic() > end:
            continue
        new = cell(*key, options.data, names)
        with options.cells.open("a") as opened:
            opened.write(json.dumps(new) + "\n")
        print(*key, new["accuracy"], flush=True)
        add(cells, new)
    text = page([cells[key] for key in chosen if not missing(key)])
    if options.page:
        put_between(options.page, "unequal rates", text)
    else:
        print(text)


if __name__ == "__main__":
    main()
