"""Pictures of docs/results/pearl.md, from the cells that its measurements left.

    python scripts/bench/pearl_pictures.py --page docs/results/pearl.md
    python scripts/bench/pearl_pictures.py --only policies --page docs/results/pearl.md   # seconds

Accuracy against the number of labels and reliability are drawn from outputs/bench/transfer-metaworld.jsonl,
success from outputs/bench/pearl-policies.jsonl, as many cells as there are. The label matrices are those of
one transfer, which is computed again from the episodes of transfer.py. With --page, each picture and its
caption take the place between their markers.
"""

import argparse
import json
import re
import textwrap
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from pages import put_between
from pearl_policies import ROWS
from t_interval import half_width, percent
from transfer import ANCHORS, SOURCES, TARGETS, episodes

from robopref.alignment.auto import AutoAlignment
from robopref.alignment.record import pair_accuracy
from robopref.alignment.sets import LabelledSet
from robopref.alignment.transfer import labels_from_scores
from robopref.report.style import MUTED, RC, SERIES, VARIABLES, diverging, sequential

TARGET, SEED = "drawer-open", 0
"""Whose label matrices are drawn."""
CURVES = {  # key of a cell -> what the legend calls it, its colour and its marks
    "asked": ("transferred, and labels that it asked for", SERIES[0], "o-"),
    "auto": ("transferred, and random labels", SERIES[4], "o--"),
    "alone-asked": ("target alone, labels asked for", SERIES[1], "s-"),
    "alone": ("target alone, random labels", SERIES[5], "s--"),
}
KINDS = {  # how the name of a policy begins -> its colour
    "transferred labels": SERIES[0],
    "oracle labels": SERIES[2],
    "true reward": SERIES[3],
    "no labels": MUTED,
}
Cells = list[dict[str, Any]]


def colours() -> dict[str, str]:
    """The colour of the report's light page for each of its stand-ins, and of its paper."""
    css = files("robopref.report").joinpath("page.css").read_text(encoding="utf-8")
    found = dict(re.findall(r"(--[\w-]+): (#\w+)", css.partition("@media")[0]))
    return {stand_in: found[name] for stand_in, name in VARIABLES.items()} | {"paper": found["--paper"]}


COLOUR = colours()


def cells_of(file: Path) -> Cells:
    """The cells of a measurement; of one that was gone on with, the last."""
    cells = [json.loads(line) for line in file.read_text().splitlines()]
    return list({(c["target"], c["seed"]): c for c in cells if c["target"] in TARGETS}.values())


def by_seed(cells: Cells, value: Callable[[dict[str, Any]], Any]) -> np.ndarray:
    """Means over the transfers of each seed, in per cent (seeds, ...)."""
    seeds = sorted({c["seed"] for c in cells})
    return 100 * np.array([np.mean([value(c) for c in cells if c["seed"] == s], axis=0) for s in seeds])


def labels_needed(given: argparse.Namespace) -> tuple[Figure, str]:
    """Pairs ordered right against labels of the target."""
    cells = cells_of(given.cells / "transfer-metaworld.jsonl")
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axes = figure.subplots()
    places = {0: 0.0} | {number: 1 + np.log(number) / np.log(5) for number in ANCHORS}
    for name, (label, color, marks) in CURVES.items():
        keys = {} if name.startswith("alone") else {0: "auto"}
        keys |= {number: f"{name}+{number}" for number in ANCHORS}
        values = by_seed(cells, lambda c, keys=keys: [c["accuracy"][key] for key in keys.values()])
        x, mean, width = [places[n] for n in keys], values.mean(0), half_widths(values)
        axes.plot(x, mean, marks, ms=4.5, color=COLOUR[color], label=label, zorder=3)
        axes.fill_between(x, mean - width, mean + width, color=COLOUR[color], alpha=0.13, lw=0)
    for key, label in (("alone+all", "all labels"), ("hand_object", "hand nearer the object: no labels")):
        level = by_seed(cells, lambda c, key=key: c["accuracy"][key]).mean()
        axes.axhline(level, color=COLOUR[MUTED], lw=1.1, ls=":")
        axes.text(0.0, level + 0.2, label, color=COLOUR[MUTED], va="bottom")
    axes.set_xticks(list(places.values()), [str(number) for number in places])
    axes.set(xlabel="labels of the target", ylabel="pairs ordered right, %", ylim=(72, 95))
    axes.legend(loc="lower right")
    return figure, (
        f"Accuracy against the number of labels of the target: mean of {count(cells, 'target')} targets and "
        f"95 % t band over {count(cells, 'seed')} seeds."
    )


def reliability(given: argparse.Namespace) -> tuple[Figure, str]:
    """How sure the alignment was of its labels, against how often they were right."""
    cells = cells_of(given.cells / "transfer-metaworld.jsonl")
    figure = Figure(figsize=(4.8, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([50, 100], [50, 100], color=COLOUR[MUTED], lw=1.1, ls=":")
    said, right = 100 * np.array([c["calibration"] for c in cells]).reshape(-1, 2).T
    axes.plot(said, right, "o", ms=3.2, mew=0, alpha=0.5, color=COLOUR[SERIES[4]], label="one transfer")
    values = by_seed(cells, lambda c: c["calibration"])
    (x, y), width = values.mean(0).T, half_widths(values)[:, 1]
    label = "mean, 95 % interval"
    axes.errorbar(x, y, width, fmt="o-", ms=5, capsize=3, color=COLOUR[SERIES[0]], label=label)
    axes.set(xlabel="said to be right, %", ylabel="right, %")
    axes.legend(loc="lower right")
    return figure, (
        "Reliability of `alignment=auto` without labels of the target, by quarters of confidence: "
        f"{len(cells)} transfers, their mean and its 95 % t interval over {count(cells, 'seed')} seeds; on "
        "the dotted line, labels are right as often as is said."
    )


def policies(given: argparse.Namespace) -> tuple[Figure, str]:
    """Success of every policy, of as many cells as there are."""
    cells = cells_of(given.cells / "pearl-policies.jsonl")
    seeds = {c["seed"] for c in cells}
    figure = Figure(figsize=(8.0, 4.4), layout="constrained")
    axes = figure.subplots()
    names = []
    for place, (key, name) in enumerate(ROWS.items()):
        kind, _, how = name.rpartition(": ")
        color = COLOUR[next((KINDS[k] for k in KINDS if kind.startswith(k)), MUTED)]
        having = [c for c in cells if key in c["rates"]]
        whole, means = [], {}
        for target in sorted({c["target"] for c in having}):
            of_target = [c for c in having if c["target"] == target]
            means[target] = 100 * np.mean([c["rates"][key] for c in of_target])
            whole += of_target if {c["seed"] for c in of_target} == seeds else []
        if whole:
            values = by_seed(whole, lambda c, key=key: c["rates"][key])
            axes.barh(place, values.mean(), height=0.7, color=color, alpha=0.45, lw=0)
            if len(seeds) > 1:
                line = {"color": color, "capsize": 3.5, "lw": 1.6, "zorder": 3}
                axes.errorbar(values.mean(), place, xerr=half_width(values), **line)
            said = percent(values / 100)
            axes.text(1.02, place, said, va="center", transform=axes.get_yaxis_transform())
        for target, mean in means.items():
            filled = any(c["target"] == target for c in whole)
            face = color if filled else COLOUR["paper"]
            axes.plot(mean, place, "o", ms=4, mew=1, mec=color, mfc=face, zorder=4, clip_on=False)
        some = "" if len(having) == len(cells) else f" ({len(having)} of {len(cells)} cells)"
        names.append(re.sub(" by the learned reward|, as in the paper", "", how) + some)
    for kind, color in KINDS.items():
        axes.barh(0, 0, color=COLOUR[color], alpha=0.45, label=kind)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set(xlabel="successful, %", xlim=(0, 104))
    figure.legend(loc="outside upper center", ncols=len(KINDS))
    return figure, (
        f"Success of policies, {len(cells)} of {len(TARGETS) * len(seeds)} cells: a dot is the mean of a "
        f"target (hollow with fewer than {len(seeds)} seeds), bar and number are the mean of the filled ones "
        "and its 95 % t interval over seeds."
    )


def matrices(given: argparse.Namespace) -> tuple[Figure, str]:
    """True labels, transferred ones and confidence of one transfer."""
    stores = {task: episodes("metaworld", task, SEED, given.data) for task in (*SOURCES, TARGET)}
    sets = {task: (stores[task].whole_episodes(), stores[task].returns) for task in stores}
    sources = [LabelledSet(t, sets[t][0], labels_from_scores(sets[t][1])) for t in SOURCES]
    segments, returns = sets[TARGET]
    record = AutoAlignment().transfer(sources, segments, rng=np.random.default_rng(SEED))
    truth, order = labels_from_scores(returns), np.argsort(returns, kind="stable")
    confidence = record.confidence.copy()
    np.fill_diagonal(confidence, np.nan)
    figure = Figure(figsize=(9.0, 3.5), layout="constrained")
    green = (0.0, 0.5, 0.38)
    panels = (
        ("true labels", truth, diverging),
        ("transferred labels", record.labels, diverging),
        ("confidence", confidence, lambda values: sequential(values, green)),
    )
    for axes, (title, values, paint) in zip(figure.subplots(1, 3, sharey=True), panels, strict=True):
        n = len(order)
        extent = (0.5, n + 0.5, 0.5, n + 0.5)
        axes.imshow(paint(values[np.ix_(order, order)]), origin="lower", extent=extent, interpolation="none")
        axes.set(title=title, xlabel="rank of the other by true return")
        axes.grid(visible=False)
    figure.axes[0].set_ylabel("rank of the episode")
    share = pair_accuracy(record.labels, truth)
    return figure, (
        f"Labels of {', '.join(SOURCES[:-1])} and {SOURCES[-1]} carried to {TARGET}, data seed {SEED}: its "
        f"{len(order)} episodes from worst to best by true return, blue where the row's is preferred to the "
        f"column's, orange the other way round, green the surer; {100 * share:.0f} % of the pairs are "
        "ordered right."
    )


def half_widths(values: np.ndarray) -> np.ndarray:
    """Half the width of t intervals over the first axis."""
    return np.apply_along_axis(half_width, 0, values)


def count(cells: Cells, key: str) -> int:
    """How many targets or seeds there are."""
    return len({c[key] for c in cells})


PICTURES = {
    "labels-needed": labels_needed,
    "reliability": reliability,
    "matrices": matrices,
    "policies": policies,
}


def main() -> None:
    """Draw what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PICTURES, default=list(PICTURES))
    parser.add_argument("--cells", type=Path, default=Path("outputs/bench"))
    parser.add_argument("--data", type=Path, default=Path("outputs/bench/transfer-data"))
    parser.add_argument("--images", type=Path, default=Path("docs/images"))
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    look = {key: COLOUR.get(value, value) for key, value in RC.items()}
    look |= dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), COLOUR["paper"])
    given.images.mkdir(parents=True, exist_ok=True)
    for name in given.only:
        with mpl.rc_context(look):
            figure, caption = PICTURES[name](given)
            file = given.images / f"pearl-{name}.png"
            figure.savefig(file, dpi=110)
        print(f"{file}: {caption}")
        if given.page:
            alternative = (PICTURES[name].__doc__ or "").rstrip(".")
            text = f"![{alternative}](../images/{file.name})\n\n{textwrap.fill(caption, 110)}"
            put_between(given.page, f"picture {name}", text)


if __name__ == "__main__":
    main()
