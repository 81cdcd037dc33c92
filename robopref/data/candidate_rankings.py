"""Rankings by people become ranked candidates.

A label store ranks clips of segments that happened. Where the clips of a list begin in one and the same
state, they are candidates of that state: all of them were tried out from it, each in an episode of its own.

Letters used in shapes: S lists, K clips of a list, H actions of a clip.
"""

from collections.abc import Sequence
from itertools import combinations

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
