"""The tables of rewards from pixels as Markdown, and their places in a page.

A place is the text between ``<!-- NAME: ... -->`` and the next ``<!-- end -->``.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pages import put_between
from rapl_methods import WAYS

COLUMNS = ("all", "non-expert", "strict", "step", "progress", "other arm")
FEWER = 5  # times the labels that Bradley-Terry is given
AIM = 0.5  # of the reward of frames
COUNT = 100  # preferences, where a table is of one number of them
MAIN = ("untrained OT", "RAPL", "Bradley-Terry")
WAY_COLUMNS = {way: f"step_{way}" for way in WAYS}
Cells = list[dict[str, Any]]


def lines(path: Path) -> Cells:
    """Finished cells."""
    return [json.loads(line) for line in path.open()] if path.exists() else []


def tables(out: Path) -> dict[str, str]:
    """Every table by its name; ``cells`` are the long ones."""
    blocks: dict[str, Cells] = {}
    for line in (line for path in sorted(out.glob("results-*.jsonl")) for line in lines(path)):
        where = f"{line['criterion']}, {line['task']}" + ", with distractors" * line["distractors"]
        blocks.setdefault(where, []).append(line)
    blocks = dict(sorted(blocks.items()))
    return {
        "aims": "\n".join([*labels_needed(blocks), "", *rewards_of_frames(blocks)]),
        "designs": "\n".join(mean_columns(blocks, {"blended": "step"} | WAY_COLUMNS, MAIN[:2])),
        "curves": "\n".join([*overall(blocks), "", *curves(blocks)]),
        "columns": "\n".join(mean_columns(blocks, {key: key for key in COLUMNS[:-1]})),
        "arms": "\n".join(other_arm(blocks)),
        "cells": "\n".join([*itertools.chain(*map(whole, blocks, blocks.values())), *ways(blocks)]),
    }


def labels_needed(blocks: Mapping[str, Cells]) -> list[str]:
    """RAPL beside Bradley-Terry with five times as many labels, on the seeds that have both.

    Untrained transport with N is beside them: where it is as good, that is not the preferences' merit.
    """
    head = [
        "N",
        "seeds",
        "untrained OT, N",
        "RAPL, N",
        f"Bradley-Terry, {FEWER} N",
        f"with demonstrations, {FEWER} N",
    ]
    text = _head("criterion, task", *head, "as good with a fifth")
    reached, untaught = [], []
    for where, part in blocks.items():
        found = {(x["preferences"], x["seed"]): x["methods"] for x in part}
        for count in sorted({n for n, _ in found}):
            seeds = sorted(s for n, s in found if n == count and (FEWER * count, s) in found)
            if not seeds:
                continue
            none, fewer = ([found[count, s][name]["all"] for s in seeds] for name in ("untrained OT", "RAPL"))
            more, told = (
                [found[FEWER * count, s][name]["all"] for s in seeds]
                for name in ("Bradley-Terry", "Bradley-Terry + demonstrations")
            )
            reached.append(np.mean(fewer) >= np.mean(more))
            untaught.append(reached[-1] and np.mean(none) >= np.mean(fewer))
            shown = (*map(spread, (none, fewer, more, told)), "yes" if reached[-1] else "no")
            text.append(_row(where, count, len(seeds), *shown))
    count = f"{sum(reached)} of {len(reached)} lines; in {sum(untaught)} of these untrained OT's is as good"
    return [
        *text,
        "",
        f"With a fifth of the labels, RAPL's mean reaches Bradley-Terry's in {count} as RAPL's.",
    ]


def rewards_of_frames(blocks: Mapping[str, Cells]) -> list[str]:
    """``step`` of the main methods."""
    text = _head(f"criterion, task: `step`, N = {COUNT}", "seeds", *MAIN, f"RAPL at least {AIM}")
    reached = []
    for where, part in blocks.items():
        rows = [x["methods"] for x in part if x["preferences"] == COUNT]
        if rows:
            values = [[row[name]["step"] for row in rows] for name in MAIN]
            reached.append(np.mean(values[1]) >= AIM)
            text.append(_row(where, len(rows), *map(spread, values), "yes" if reached[-1] else "no"))
    says = f"The reward of frames reaches {AIM} within an episode in {sum(reached)} of {len(reached)} lines."
    return [*text, "", says]


def other_arm(blocks: Mapping[str, Cells]) -> list[str]:
    """``other arm`` of the main methods, where there is a second arm."""
    text = _head(f"criterion, task: `other arm`, N = {COUNT}", "seeds", *MAIN)
    for where, part in blocks.items():
        rows = [
            x["methods"] for x in part if x["preferences"] == COUNT and "other arm" in x["methods"]["RAPL"]
        ]
        if rows:
            text.append(
                _row(where, len(rows), *(spread([row[name]["other arm"] for row in rows]) for name in MAIN))
            )
    return text


def mean_columns(
    blocks: Mapping[str, Cells], columns: Mapping[str, str], names: Sequence[str] = ()
) -> list[str]:
    """Mean of several columns (by their titles) over criteria and tasks."""
    text: list[str] = []
    for looks, parts in by_looks(blocks).items():
        text += ["", *_head(f"mean over {len(parts)} lines, {looks}, N = {COUNT}", *columns)]
        for name in names or parts[0][0]["methods"]:
            text.append(_row(name, *(_mean(_means(parts, name, key, COUNT)) for key in columns.values())))
    return text[1:]


def overall(blocks: Mapping[str, Cells]) -> list[str]:
    """Mean of ``all`` over criteria and tasks, and in how many of them RAPL is ahead of Bradley-Terry."""
    text: list[str] = []
    for looks, parts in by_looks(blocks).items():
        counts = sorted({x["preferences"] for part in parts for x in part})
        text += ["", *_head(f"mean over {len(parts)} lines, {looks}", *(f"N = {count}" for count in counts))]
        for name in parts[0][0]["methods"]:
            text.append(_row(name, *(_mean(_means(parts, name, "all", count)) for count in counts)))
        gains = [_means(parts, "RAPL", "all", n) - _means(parts, "Bradley-Terry", "all", n) for n in counts]
        ahead = ("" if np.isnan(x).any() else f"{(x > 0).sum()} of {len(x)}" for x in gains)
        text.append(_row("lines in which RAPL is ahead of Bradley-Terry", *ahead))
    return text[1:]


def by_looks(blocks: Mapping[str, Cells]) -> dict[str, list[Cells]]:
    """Lines as trained and those with distractors, as far as there are any."""
    found: dict[str, list[Cells]] = {}
    for looks, wanted in (("as trained", False), ("with distractors", True)):
        found[looks] = [part for part in blocks.values() if bool(part[0]["distractors"]) == wanted]
    return {looks: parts for looks, parts in found.items() if parts}


def _means(parts: Sequence[Cells], name: str, key: str, count: int) -> np.ndarray:
    """Mean over seeds of each line; NaN for a line that has no such cell."""
    of = ([x["methods"][name][key] for x in part if x["preferences"] == count] for part in parts)
    return np.array([np.mean(values) if values else np.nan for values in of])


def _mean(means: np.ndarray) -> str:
    """Mean over lines; nothing where a line is missing."""
    return "" if np.isnan(means).any() else f"{means.mean():.2f}"


def curves(blocks: Mapping[str, Cells]) -> list[str]:
    """Mean of ``all`` over seeds against the number of preferences."""
    counts = sorted({x["preferences"] for part in blocks.values() for x in part})
    text = _head("criterion, task: mean of `all`", "method", *(f"N = {count}" for count in counts))
    for where, part in blocks.items():
        for name in part[0]["methods"]:
            of = [[x["methods"][name]["all"] for x in part if x["preferences"] == n] for n in counts]
            text.append(_row(where, name, *(f"{np.mean(values):.2f}" if values else "" for values in of)))
    return text


def whole(where: str, part: Cells) -> list[str]:
    """Mean [least, most] over seeds of every method and number of preferences."""
    there = [key for key in COLUMNS if key in part[0]["methods"]["RAPL"]]
    text = ["", f"### {where}", "", *_head("method", "N", "seeds", *there)]
    text.append(_row("true score", "any", "", *("" if key == "progress" else "1" for key in there)))
    for name, count in itertools.product(part[0]["methods"], sorted({x["preferences"] for x in part})):
        rows = [x["methods"][name] for x in part if x["preferences"] == count]
        text.append(_row(name, count, len(rows), *(spread([row[key] for row in rows]) for key in there)))
    return text


def ways(blocks: Mapping[str, Cells]) -> list[str]:
    """``step`` by the way in which the reward of frames is made."""
    text = ["", "### Rewards of frames: `step` by the way it is made", ""]
    text += _head("criterion, task", "N", "method", "blended", *WAYS)
    for where, part in blocks.items():
        counts = sorted({x["preferences"] for x in part})
        for count, name in itertools.product(counts, ("untrained OT", "RAPL")):
            rows = [x["methods"][name] for x in part if x["preferences"] == count]
            keys = ("step", *(f"step_{way}" for way in WAYS))
            text.append(_row(where, count, name, *(spread([row[key] for row in rows]) for key in keys)))
    return text


def spread(values: Sequence[float]) -> str:
    """Mean and, of several, range."""
    mean = f"{np.mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} [{min(values):.2f}, {max(values):.2f}]"


def show(found: Mapping[str, str], page: str) -> None:
    """Write each table to its place in a page; print them where no page is named.

    Raises:
        DataError: The page has no such place.
    """
    if not page:
        print("\n\n".join(found.values()))
        return
    for name, table in found.items():
        put_between(Path(page), name, table.strip() or "Nothing yet.")


def _head(*cells: str) -> list[str]:
    return [_row(*cells), "|---" * len(cells) + "|"]


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"
