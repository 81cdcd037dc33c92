"""People's rankings of clips that begin in one state are ranked candidates of that state."""

import numpy as np
import pytest

from robopref.data.candidate_rankings import candidates_of, candidates_of_decisions, grades_of, read_orders
from robopref.data.ranking import RankedList, Ranking
from robopref.data.store import TrajectoryStore
from robopref.data.trajectory import Provenance, Trajectory
from robopref.errors import DataError

QUALITY = (2.0, 0.0, 3.0, 1.0)


def ranked(quality, answers=None, rest_equal=False):
    """A ranking by true qualities, of so many answers."""
    ranking = Ranking(len(quality))
    while ranking.question and (answers is None or len(ranking.answers) < answers):
        a, b = ranking.question
        answer = "equal" if quality[a] == quality[b] else "a" if quality[a] > quality[b] else "b"
        ranking = ranking.answer(a, b, answer)
    return ranking.give_up_the_rest() if rest_equal else ranking


def test_a_finished_ranking_gives_grades_in_its_order_and_equal_ones_where_clips_are_equal():
    assert np.argsort(grades_of(ranked(QUALITY))).tolist() == [1, 3, 0, 2]
    tied = grades_of(ranked((1.0, 0.0, 1.0)))
    assert tied[0] == tied[2] > tied[1]


def test_what_an_unfinished_ranking_leaves_open_is_not_judged():
    grades = grades_of(ranked(QUALITY, answers=1))
    assert (~np.isnan(grades)).sum() == 2
    assert grades[0] > grades[1]
    assert np.isnan(grades_of(Ranking(3))).sum() >= 2


@pytest.mark.parametrize("answers", range(6))
@pytest.mark.parametrize("rest_equal", [False, True])
def test_grades_never_contradict_an_answer(answers, rest_equal):
    rng = np.random.default_rng(answers)
    for _ in range(20):
        ranking = ranked(rng.integers(0, 4, 5).tolist(), answers, rest_equal)
        grades = grades_of(ranking)
        for (i, j), value in ranking.known().items():
            if not np.isnan(grades[[i, j]]).any():
                assert np.sign(grades[i] - grades[j]) == np.sign(value - 0.5)


@pytest.fixture
def store(tmp_path):
    """Four candidates, each tried out after the same first action, in episodes of their own."""
    with TrajectoryStore.create(
        tmp_path / "s", observation_size=1, action_size=1, keypoints=(), control_hz=1.0
    ) as store:
        for k in range(4):
            store.append(
                Trajectory(
                    observations=np.array([[0.0], [1.0], [k]], np.float32),
                    actions=np.array([[0.5], [k / 4]], np.float32),
                    rewards=np.zeros(2, np.float32),
                    successes=np.zeros(2, bool),
                    keypoints={},
                    terminated=False,
                    provenance=Provenance("toy", "toy-v0", 7, "tryout", {}, "hash", {}),
                )
            )
    return TrajectoryStore.open(tmp_path / "s")


def ranked_list(ranking, start=1, length=1, annotator="ann"):
    members = tuple((k, start, length) for k in range(ranking.clips))
    return RankedList("list-1", annotator, "human", members, ranking)


def test_a_list_becomes_one_state_with_its_actions_and_grades(store):
    found = candidates_of(store, [ranked_list(ranked(QUALITY)), ranked_list(Ranking(4), annotator="b")])
    assert found.observations.tolist() == [[1.0]]
    assert found.chunks[0, :, 0, 0].tolist() == [0, 0.25, 0.5, 0.75]
    assert np.argsort(found.grades[0]).tolist() == [1, 3, 0, 2]
    assert (found.seeds[0], found.steps[0]) == (7, 1)
    assert found.about["source"] == "human"
    assert found.about["annotators"] == ["ann"]


def test_lists_that_are_no_candidates_are_refused(store):
    with pytest.raises(DataError, match="Nobody has ranked"):
        candidates_of(store, [ranked_list(Ranking(4))])
    with pytest.raises(DataError, match="different states"):
        candidates_of(store, [RankedList("x", "a", "human", ((0, 0, 1), (1, 1, 1)), ranked((1, 0)))])
    with pytest.raises(DataError, match=r"\(2, 1\), \(4, 1\)"):
        candidates_of(store, [ranked_list(ranked(QUALITY)), ranked_list(ranked((1, 0)))])


def decision(candidates):
    return {"observation": [0.5, 1.0], "candidates": candidates, "bundle": "b1"}


def test_decisions_that_somebody_ranked_become_candidates(tmp_path):
    log = [decision([[[k / 8]] for k in range(4)]) for _ in range(3)]
    path = tmp_path / "r.jsonl"
    path.write_text('{"decision": 2, "best_first": [3, [0, 1]]}\n')
    found = candidates_of_decisions(log, read_orders(path))
    assert found.observations.tolist() == [[0.5, 1.0]]
    assert found.chunks[0, :, 0, 0].tolist() == [0, 0.125, 0.25, 0.375]
    assert found.grades[0, :2].tolist() == [1, 1]
    assert found.grades[0, 3] == 2
    assert np.isnan(found.grades[0, 2])
    assert {tuple(pair) for pair in found.pairs()} == {(0, 3, 0), (0, 3, 1)}


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"decision": 4, "best_first": [0, 1]}', "no decision 4: the log has 1 lines"),
        ('{"decision": 1, "best_first": [0, 4]}', "candidates 0 to 3"),
        ('{"decision": 1, "best_first": [0, 0]}', "named once"),
        ('{"decision": 1}', "line 1 must read like"),
        ('{"decision": 1, "best_first": 3}', "give each decision once"),
        ("", "No decision was ranked"),
    ],
)
def test_rankings_that_do_not_fit_the_log_are_refused(tmp_path, line, sentence):
    (tmp_path / "r.jsonl").write_text(line)
    with pytest.raises(DataError, match=sentence):
        candidates_of_decisions([decision([[[0.0]]] * 4)], read_orders(tmp_path / "r.jsonl"))
