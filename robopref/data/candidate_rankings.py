"""Rankings by people become ranked candidates: of filmed clips, and of decisions that a robot made.

A label store ranks clips of segments that happened. Where the clips of a list begin in one and the same
state, they are candidates of that state: all of them were tried out from it, each in an episode of its own.

Letters used in shapes: S lists or decisions, K clips or candidates of each, H actions of a clip.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from robopref.data.candidates import Candidates
from robopref.data.ranking import RankedList, Ranking
from robopref.data.store import TrajectoryStore
from robopref.errors import DataError


def grades_of(ranking: Ranking) -> Float[np.ndarray, " K"]:
    """One number for each clip, best highest, equal where two could not be told apart.

    An unfinished ranking orders only some of its clips, and "the rest is equal" need not be transitive. Clips
    are taken one by one, those that were ordered most often first, as long as numbers can say all that was
    decided of them; the others get NaN.
    """
    known = ranking.known()
    better = np.full((ranking.clips, ranking.clips), np.nan)  # 1 where the row is better than the column
    for (i, j), value in known.items():
        better[i, j], better[j, i] = value, 1 - value
    ordered = np.abs(better - 0.5) == 0.5
    kept: list[int] = []
    for clip in np.argsort(-ordered.sum(1), kind="stable").tolist():
        if _wins(better, [*kept, clip]) is not None:
            kept.append(clip)
    grades = np.full(ranking.clips, np.nan)
    if len(kept) > 1:
        grades[kept] = _wins(better, kept)
    return grades


def _wins(better: np.ndarray, clips: list[int]) -> np.ndarray | None:
    """How many of the others each clip beats, ties half; None if that contradicts what is known of a pair."""
    among = better[np.ix_(clips, clips)]
    wins = np.nansum(among, 1)
    for i, j in combinations(range(len(clips)), 2):
        if np.isnan(among[i, j]) or np.sign(wins[i] - wins[j]) != np.sign(among[i, j] - 0.5):
            return None
    return wins


def candidates_of(store: TrajectoryStore, lists: Sequence[RankedList]) -> Candidates:
    """Turn ranked lists into candidates, one state for each list; lists without an order are left out.

    Args:
        store: The episodes that the lists speak of.
        lists: As :meth:`robopref.data.label_store.LabelStore.rankings` returns them, all of K clips.

    Raises:
        DataError: Nothing was ranked, the clips of a list begin in different states, or lists and clips
            differ in size.
    """
    graded = [(one, grades_of(one.ranking)) for one in lists]
    graded = [(one, grades) for one, grades in graded if len(np.unique(grades[~np.isnan(grades)])) > 1]
    if not graded:
        raise DataError(f"Nobody has ranked clips of {store.path} such that one was better than another")
    sizes = {(len(one.members), *{length for _, _, length in one.members}) for one, _ in graded}
    if len(sizes) > 1 or len(next(iter(sizes))) != 2:
        raise DataError(
            f"Candidates need lists of equally many clips of equally many actions; {store.path} has lists of "
            f"(clips, actions) {sorted(sizes)}. Rank again with one k= and one segment_length="
        )
    observations, actions = store.array("observations"), store.array("actions")
    rows = np.array([[store.row_of(e, start) for e, start, _ in one.members] for one, _ in graded])
    seen = np.asarray(observations)[rows]  # (S, K, O)
    differ = np.flatnonzero((seen != seen[:, :1]).any((1, 2)))
    if len(differ):
        raise DataError(
            f"The clips of list {graded[differ[0]][0].uid} begin in different states: they are no candidates "
            "of one state. robopref label query=candidates makes lists that are"
        )
    length = next(iter(sizes))[1]
    chunks = np.asarray(actions)[rows[:, :, None] + np.arange(length)]
    first = [one.members[0] for one, _ in graded]
    return Candidates(
        seen[:, 0],
        chunks,
        np.stack([grades for _, grades in graded]),
        np.array([store.provenance(episode).seed for episode, _, _ in first]),
        np.array([start for _, start, _ in first]),
        {
            "task": store.provenance(0).task,
            "env_id": store.provenance(0).env_id,
            "source": "human",
            "annotators": sorted({one.annotator for one, _ in graded}),
        },
    )


def candidates_of_decisions(
    decisions: Sequence[Mapping[str, Any]], ranked: Mapping[int, Sequence[int | Sequence[int]]]
) -> Candidates:
    """Turn decisions that somebody ranked into candidates; the others are left out.

    Args:
        decisions: Lines of an audit log, as :func:`robopref.deploy.audit.read_audit` returns them.
        ranked: By the number of the line, 1 the first: the numbers of its candidates, 0 the first, best
            first; those in a list of their own cannot be told apart, and those left out were not judged.

    Raises:
        DataError: Nothing was ranked, a number names no line or no candidate, or decisions differ in size.
    """
    rows = []
    for number, order in sorted(ranked.items()):
        if not 1 <= number <= len(decisions):
            raise DataError(f"There is no decision {number}: the log has {len(decisions)} lines")
        decision = decisions[number - 1]
        chunks = np.array(decision["candidates"], np.float32)
        if chunks.ndim != 3:
            raise DataError(f"Decision {number} was made without candidates, so it cannot be ranked")
        rows.append((decision["observation"], chunks, _grades_in_order(order, len(chunks), number)))
    if not rows:
        raise DataError("No decision was ranked, so there is nothing to learn from")
    shapes = {(len(seen), chunks.shape) for seen, chunks, _ in rows}
    if len(shapes) > 1:
        raise DataError(
            f"Decisions of several sizes (observation, candidates) cannot be learned from together: {shapes}"
        )
    seen, chunks, grades = (np.array(column) for column in zip(*rows, strict=True))
    unknown = np.full(len(rows), -1)
    about = {"source": "human", "bundles": sorted({str(d.get("bundle")) for d in decisions})}
    return Candidates(seen.astype(np.float32), chunks, grades, unknown, unknown, about)


def _grades_in_order(order: Sequence[int | Sequence[int]], count: int, number: int) -> np.ndarray:
    groups = [[entry] if isinstance(entry, int) else list(entry) for entry in order]
    named = [candidate for group in groups for candidate in group]
    wrong = [c for c in named if isinstance(c, bool) or not isinstance(c, int) or not 0 <= c < count]
    if wrong or len(set(named)) < len(named):
        raise DataError(
            f"Decision {number} has candidates 0 to {count - 1}, each to be named once at most, got {order}"
        )
    grades = np.full(count, np.nan)
    for place, group in enumerate(groups):
        grades[group] = len(groups) - place
    return grades


def read_orders(path: Path) -> dict[int, list[int | list[int]]]:
    """Read who is best from JSON lines: ``{"decision": 12, "best_first": [3, [0, 1], 2]}``.

    Raises:
        DataError: The file cannot be read, or a line says something else.
    """
    found: dict[int, list[int | list[int]]] = {}
    try:
        lines: Iterable[str] = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            decision, order = int(record["decision"]), record["best_first"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}, line {number} must read like {EXAMPLE} ({error!r})") from error
        if not isinstance(order, list) or decision in found:
            raise DataError(f"{path}, line {number}: give each decision once, as in {EXAMPLE}")
        found[decision] = order
    return found


EXAMPLE = '{"decision": 12, "best_first": [3, [0, 1], 2]}'
