"""How many labels a reward needs, by how the pairs were chosen.

    python scripts/bench/labels.py --minutes 60              # as many cells as fit; run again to go on
    python scripts/bench/labels.py --minutes 0 --page docs/results/labels.md

The task: Meta-World drawer-open, 200 episodes of graded quality, of which segments of 50 actions (0.6 s) are
compared; a reward is judged by the order of 2000 random pairs of segments from 80 other episodes. Three
scripted annotators answer, one drawn at random for each question: B-Pref's noisy teacher, who errs the more
often the closer two returns are, and who besides slips in 5, 10 or 20 per cent of the answers. Each run has
1000 candidate pairs of its own. The first 10 pairs are random; then a small ensemble is trained and the next
ones are chosen, of which a fifth is drawn at random whatever the strategy, at 10, 20, 30, 40, 60, 80, 120
labels. The pairs, the annotators' slips and the starting weights of a seed are the same for all strategies.

Each run is a line of outputs/bench/labels.jsonl, and a later call goes on from there.
"""

import argparse
import contextlib
import io
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from t_interval import half_width

from robopref.data.preferences import Preferences, Segments
from robopref.data.queries import random_pairs
from robopref.data.queries_informed import QUERIES
from robopref.data.store import TrajectoryStore
from robopref.data.teachers import ScriptedTeacher
from robopref.files import replacing, write_text
from robopref.labeling.learner import Learner
from robopref.methods.phases.label import answers
from robopref.rewards.dataset import PreferencePairs, preference_tensors
from robopref.rewards.knowledge import candidates
from robopref.rewards.metrics import predicted_preferences
from robopref.training.run import processor

STAGES = (10, 20, 30, 40, 60, 80, 120, 160)  # labels after which a reward is trained
SHOWN = (10, 20, 40, 80, 160)
POOL, LENGTH, TESTED, RANDOM_SHARE = 1000, 50, 2000, 0.2
BETA = 0.02  # per unit of return: of two segments 100 apart (the median distance is 80), 88 % are right
MISTAKES = (0.05, 0.1, 0.2)
COMPARED = [
    query for query in QUERIES if query != "hard_first"
]  # which is entropy, where nothing else is known
EPISODES = {"pool": (200, 100), "test": (80, 200)}  # how many, and the seed of their collection

TASK = """\
The task: Meta-World drawer-open. Pairs of segments of 50 actions (0.6 s) from 200 episodes of graded
quality are labelled; a reward is judged by the order of 2000 random pairs of segments from 80 other
episodes. Three scripted annotators answer, one drawn at random for each question: B-Pref's noisy teacher,
who errs the more often the closer two returns are, and who besides slips in 5, 10 or 20 per cent of the
answers; {wrong:.0%} of the labels of random pairs are wrong. Each run has 1000 candidate pairs of its
own, begins with 10 random ones, and chooses again after 10, 20, 30, 40, 60, 80 and 120 labels; a fifth of
what it asks is drawn at random whatever the query. The reward is the small ensemble that `robopref label
online=true` learns (5 networks of 2 x 32, 100 steps from new weights each time, on all labels); its size
and steps were set on random pairs of another draw, without looking at a query.
"""
AGAIN = """\
Measured again by

```bash
python scripts/bench/labels.py --minutes 60     # run again to go on
python scripts/bench/labels.py --minutes 0 --page docs/results/labels.md
```
"""


def collected(name: str, folder: Path) -> TrajectoryStore:
    """Collect the episodes once."""
    episodes, seed = EPISODES[name]
    data = folder / f"drawer-open-{name}"
    if not data.exists():
        words = ["env.task=drawer-open", f"episodes={episodes}", f"seed={seed}", f"data={data}"]
        command = [sys.executable, "-m", "robopref.cli", "collect", *words, f"out={folder}/collect-{name}"]
        subprocess.run(command, check=True)
    return TrajectoryStore.open(data)


def examination(store: TrajectoryStore) -> PreferencePairs:
    """Return the pairs that rewards are judged by, in their true order."""
    rng = np.random.default_rng(0)
    a, b = random_pairs(store, TESTED, LENGTH, rng)
    labels = answers(store, a, b, ScriptedTeacher(), rng)
    return preference_tensors(store, Preferences(a, b, labels, np.ones(TESTED)))


def ask(store: TrajectoryStore, a: Segments, b: Segments, rng: np.random.Generator) -> np.ndarray:
    """Return what an annotator, drawn for each pair, would answer."""
    given = [answers(store, a, b, ScriptedTeacher(beta=BETA, mistake=m), rng) for m in MISTAKES]
    return np.choose(rng.integers(len(MISTAKES), size=len(a)), given)


def run(query: str, seed: int, pool: TrajectoryStore, test: PreferencePairs, work: Path) -> dict[str, Any]:
    """Label, learn and choose in turn; return the accuracy after each stage."""
    rng = np.random.default_rng([seed, 4])
    a, b = random_pairs(pool, POOL, LENGTH, rng)
    labels = ask(pool, a, b, rng)
    at_random = rng.permutation(POOL).tolist()  # the order in which pairs are drawn at random
    asked, accuracy = at_random[: STAGES[0]], []
    for stage, following in zip(STAGES, (*STAGES[1:], None), strict=True):
        chosen = np.array(asked)
        given = Preferences(a, b, labels, np.ones(POOL)).select(chosen)
        reward = Learner().learn(pool, given, seed=seed, folder=work)
        chance, truth = predicted_preferences(reward, test), test.labels.numpy()
        untied = truth != 0.5
        accuracy.append(float(((chance > 0.5) == (truth > 0.5))[untied].mean()))
        if following is None:
            break
        before = a.select(chosen), b.select(chosen)
        wanted = following - stage
        drawn = [i for i in at_random if i not in asked][: round(RANDOM_SHARE * wanted)]
        rest = np.array([i for i in range(POOL) if i not in {*asked, *drawn}])
        known = candidates(pool, (a.select(rest), b.select(rest)), query, reward=reward, asked=before)
        found = QUERIES[query](
            known, wanted - len(drawn), np.random.default_rng([seed, stage]), random_share=0
        )
        asked += drawn + rest[found.index].tolist()
    truth = answers(pool, a, b, ScriptedTeacher(), rng)
    return {
        "query": query,
        "seed": seed,
        "date": time.strftime("%Y-%m-%d"),
        "accuracy": accuracy,
        "right_labels": float((labels == truth)[asked].mean()),
    }


def grid(file: Path, seeds: list[int], minutes: float) -> list[dict[str, Any]]:
    """Do as many runs as fit, all strategies of a seed before the next seed; return all that are there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(row["query"], row["seed"]) for row in rows}
    wanted = [(q, s) for s in seeds for q in COMPARED if (q, s) not in done]
    deadline = time.monotonic() + 60 * minutes
    if not wanted or minutes <= 0:
        return rows
    pool, test = collected("pool", file.parent), examination(collected("test", file.parent))
    for query, seed in wanted:
        if time.monotonic() > deadline:
            break
        with contextlib.redirect_stderr(io.StringIO()):  # of the trainings' progress
            rows.append(run(query, seed, pool, test, file.with_name("labels-work")))
        with file.open("a") as opened:
            opened.write(json.dumps(rows[-1]) + "\n")
        print(query, seed, " ".join(f"{x:.3f}" for x in rows[-1]["accuracy"]), flush=True)
    return rows


# --- the page


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the mean and half the width of its 95 % t interval."""
    return float(values.mean()), half_width(values)


def complete(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the runs of the seeds that every strategy has done."""
    seeds = set.intersection(*({r["seed"] for r in rows if r["query"] == q} for q in COMPARED))
    return sorted((r for r in rows if r["seed"] in seeds), key=lambda row: row["seed"])


def curves(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Return accuracies (seeds, stages) of each strategy."""
    return {q: np.array([r["accuracy"] for r in rows if r["query"] == q]) for q in COMPARED}


def draw(found: dict[str, np.ndarray], path: Path) -> None:
    """Draw accuracy against labels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for query, accuracy in found.items():
        centre, half = np.array([interval(column) for column in accuracy.T]).T
        (line,) = axes.plot(STAGES, centre, label=query, linewidth=2.5 if query == "random" else 1.3)
        axes.fill_between(STAGES, centre - half, centre + half, color=line.get_color(), alpha=0.12)
    axes.set(xscale="log", xlabel="labels", ylabel="pairs of other episodes ordered right")
    axes.set_xticks(SHOWN, [str(n) for n in SHOWN])
    axes.minorticks_off()
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100)


def less_random(found: dict[str, np.ndarray], query: str, own: int, others: int) -> tuple[float, float]:
    """Compare a strategy's ``own`` labels with so many random ones, seed by seed, in points."""
    return interval(100 * (found[query][:, STAGES.index(own)] - found["random"][:, STAGES.index(others)]))


def answer(found: dict[str, np.ndarray]) -> str:
    """Say whether half the labels are enough, where one chooses by an ensemble's disagreement."""
    sentences = []
    for query in ("disagreement", "information_gain"):
        pairs = [(n, less_random(found, query, n // 2, n)) for n in (40, 80, 160)]
        enough = [n for n, (mean, half) in pairs if mean - half > 0]
        missed = [n for n, (mean, half) in pairs if mean + half < 0]
        if enough:
            sentences.append(f"`{query}`: yes, for what {', '.join(map(str, enough))} random labels reach.")
        elif missed:
            sentences.append(
                f"`{query}`: no, not for what {', '.join(map(str, missed))} random labels reach."
            )
        else:
            worth = labels_of_random(found, query, 80)
            sentences.append(
                f"`{query}`: not shown, since every interval holds 0; 80 of its labels are worth {worth} "
                "random ones, not 160."
            )
    return " ".join(sentences)


def labels_of_random(found: dict[str, np.ndarray], query: str, labels: int) -> str:
    """How many random labels it takes, on average, to be as accurate as a strategy is with ``labels``."""
    reached = found[query][:, STAGES.index(labels)].mean()
    curve = np.maximum.accumulate(found["random"].mean(axis=0))
    if reached > curve[-1]:
        return f"more than {STAGES[-1]}"
    return f"{np.exp(np.interp(reached, curve, np.log(STAGES))):.0f}"


def page(rows: list[dict[str, Any]], figure: str) -> str:
    """Return the page, in Markdown."""
    found = curves(rows)
    seeds = len(found["random"])
    informed = [query for query in found if query != "random"]
    dates = sorted({row["date"] for row in rows if "date" in row})  # lines of older files have none
    when = f"Run on {' to '.join(dict.fromkeys((dates[0], dates[-1])))}" if dates else "Run"
    noise = np.mean([r["right_labels"] for r in rows if r["query"] == "random"])
    lines = [
        "# How many labels a reward needs",
        "",
        TASK.format(wrong=1 - noise),
        f"{seeds} seeds, 95 % t intervals over them. {when} with `scripts/bench/labels.py` on one",
        f"core of {processor()}, torch {torch.__version__}. `hard_first` is `entropy` where nothing else",
        "says how hard a pair is, and is left out.",
        "",
        f"![]({figure})",
        "",
        "## Pairs of other episodes ordered right, per cent",
        "",
        "| query | " + " | ".join(f"{n} labels" for n in SHOWN) + " | right labels |",
        "|---|" + "---|" * (len(SHOWN) + 1),
    ]
    for query, accuracy in found.items():
        cells = [interval(accuracy[:, STAGES.index(n)]) for n in SHOWN]
        right = np.mean([r["right_labels"] for r in rows if r["query"] == query])
        shown = " | ".join(f"{100 * m:.1f} ± {100 * h:.1f}" for m, h in cells)
        lines.append(f"| `{query}` | {shown} | {right:.0%} |")
    lines += [
        "",
        "## Is half enough?",
        "",
        answer(found),
        "",
        "Accuracy with half the labels, less that of random pairs with all of them, in points, seed by seed:",
        "where the interval lies above 0, half the labels are enough. The column before the last compares",
        "equally many. The last is the number of random labels that are as good as 80 of the strategy's own,",
        "read off the mean curve.",
        "",
        "| query | 20 for 40 | 40 for 80 | 80 for 160 | 160 for 160 | 80 are worth |",
        "|---|---|---|---|---|---|",
    ]
    for query in informed:
        compared = [less_random(found, query, *n) for n in ((20, 40), (40, 80), (80, 160), (160, 160))]
        shown = " | ".join(f"{mean:+.1f} ± {half:.1f}" for mean, half in compared)
        lines.append(f"| `{query}` | {shown} | {labels_of_random(found, query, 80)} |")
    return "\n".join(lines) + "\n\n" + AGAIN


def main() -> None:
    """Run the grid, then write the page if it was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--file", type=Path, default=Path("outputs/bench/labels.jsonl"))
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = grid(options.file, options.seeds, options.minutes)
    if options.page is not None:
        rows = complete(rows)
        figure = options.page.parent.parent / "images" / "labels-needed.png"
        draw(curves(rows), figure)
        write_text(options.page, page(rows, f"../images/{figure.name}"))


if __name__ == "__main__":
    main()
