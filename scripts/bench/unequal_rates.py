"""What becomes of transferred labels where the sources succeed more or less often than the target.

    python scripts/bench/unequal_rates.py --minutes 60   # as many cells as fit; run again to go on
    python scripts/bench/unequal_rates.py --minutes 0 --page docs/results/pearl.md
    python scripts/bench/unequal_rates.py --development  # the tasks on which settings are chosen

The transfers and episodes of transfer.py. Of each source are kept all episodes; or the better half by return
and every third of the worst quarter; or the worse half and every third of the best quarter. The target stays
whole. Balanced couplings match all of both sets; semi-relaxed ones hold the target's weights alone.

Each cell, one target and data seed, is one line of outputs/bench/unequal-rates.jsonl.
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from pages import put_between
from t_interval import percent
from transfer import DEVELOPMENT, SOURCES, TARGETS, episodes, hardware

from robopref.alignment.auto import AutoAlignment
from robopref.alignment.cpa import CrossTaskAlignment
from robopref.alignment.record import pair_accuracy
from robopref.alignment.sets import LabelledSet
from robopref.alignment.transfer import labels_from_scores

FUSED: dict[str, Any] = {"features": ("mean", "frame", "statistics"), "alpha": 0.9}
WAYS = {  # key of a cell -> what the page calls it, and the alignment
    "fused": ("`alignment=fused`", CrossTaskAlignment(**FUSED)),
    "fused, semi-relaxed": ("... `semi_relaxed`", CrossTaskAlignment(**FUSED, semi_relaxed=True)),
    "auto": ("`alignment=auto`", AutoAlignment()),
    "auto, semi-relaxed": ("... `couplings.semi_relaxed`", AutoAlignment(FUSED | {"semi_relaxed": True})),
    "wasserstein": ("Wasserstein on shared statistics", None),
}
KEPT = ("all", "the better", "the worse")


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


def cell(target: str, seed: int, folder: Path) -> dict[str, Any]:
    """Measure every way in every case on one target and data seed."""
    stores = {task: episodes("metaworld", task, seed, folder) for task in (*SOURCES, target)}
    segments, truth = stores[target].whole_episodes(), labels_from_scores(stores[target].returns)
    found: dict[str, dict[str, float]] = {}
    warned: dict[str, dict[str, bool]] = {which: {} for which in KEPT}
    for which in KEPT:
        sources = []
        for task in SOURCES:
            rows = kept(stores[task].returns, which)
            known = labels_from_scores(stores[task].returns[rows])
            sources.append(LabelledSet(task, stores[task].whole_episodes(rows), known))
        found[which] = {}
        for name, (_, alignment) in WAYS.items():
            if alignment is not None:
                record = alignment.transfer(sources, segments, rng=np.random.default_rng(seed))
                found[which][name] = pair_accuracy(record.labels, truth)
                warned[which][name] = record.settings.get("at_risk", False)
                found[which]["wasserstein"] = pair_accuracy(record.controls["wasserstein"], truth)
    run = {"date": time.strftime("%Y-%m-%d"), "machine": hardware()}
    return {"target": target, "seed": seed, "accuracy": found, "warned": warned, **run}


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

    lines = [
        (__doc__ or "").split("\n\n")[2],
        "",
        f"Run on {cells[-1]['date']} with `scripts/bench/unequal_rates.py` on {cells[-1]['machine']},",
        f"targets {', '.join(targets)},",
        f"data seeds {', '.join(map(str, seeds))}. 95 % t intervals over seeds of the mean over targets; in",
        "brackets the worst single transfer.",
        "",
        "| pairs ordered right, per cent; of the sources are kept | " + " | ".join(KEPT) + " |",
        "|---|" + "---|" * len(KEPT),
    ]
    for name, (title, _) in WAYS.items():
        row = []
        for which in KEPT:
            worst = min(c["accuracy"][which][name] for c in cells)
            row.append(f"{percent(by_seed(which, name), 1)} ({100 * worst:.0f})")
        lines.append(f"| {title} | " + " | ".join(row) + " |")
    gains = []
    for name in ("fused", "auto"):
        gained = [percent(by_seed(w, f"{name}, semi-relaxed") - by_seed(w, name), 1) for w in KEPT]
        gains.append(f"`{name}` {' / '.join(gained)}")
    for name in ("auto", "auto, semi-relaxed"):
        found = [(c["accuracy"][w][name] < 0.5, c["warned"][w][name]) for c in cells for w in KEPT]
        inverted, flagged = sum(a for a, _ in found), sum(b for _, b in found)
        title = WAYS[name][0].replace("... ", "")
        lines += [
            "",
            f"Of {len(found)} transfers by {title}, {inverted} were inverted and {flagged} warned of, "
            f"{sum(a and b for a, b in found)} both.",
        ]
    lines += [
        "",
        "Gained by the semi-relaxed couplings, seed by seed, in points:",
        f"{'; '.join(gains)}.",
        "",
    ]
    return "\n".join(lines)


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
    options.cells.parent.mkdir(parents=True, exist_ok=True)
    lines = options.cells.read_text().splitlines() if options.cells.exists() else []
    cells = [json.loads(line) for line in lines]
    targets = DEVELOPMENT if options.development else TARGETS
    seeds = options.seeds or ([0, 1] if options.development else [0, 1, 2, 3, 4])
    known = {(c["target"], c["seed"]) for c in cells}
    end = time.monotonic() + 60 * options.minutes
    for target, seed in ((target, seed) for seed in seeds for target in targets):
        if (target, seed) in known or time.monotonic() > end:
            continue
        cells.append(cell(target, seed, options.data))
        with options.cells.open("a") as opened:
            opened.write(json.dumps(cells[-1]) + "\n")
        print(target, seed, cells[-1]["accuracy"], flush=True)
    text = page([c for c in cells if c["target"] in targets and c["seed"] in seeds])
    if options.page:
        put_between(options.page, "unequal rates", text)
    else:
        print(text)


if __name__ == "__main__":
    main()
