"""Choosing among candidate pairs: scores worked by hand, shares counted, coverage by brute force."""

import itertools
import math

import numpy as np
import pytest

from robopref.data.queries_informed import (
    QUERIES,
    Candidates,
    disagreement_scores,
    entropy_scores,
    information_gain_scores,
    query_named,
)
from robopref.errors import ConfigError, DataError

TWO = np.array([[0.0, 0.5, 0.5, 1.0, 0.9], [1.0, 0.5, 0.9, 1.0, 0.9]])


def rng(seed=0):
    return np.random.default_rng(seed)


def everything(pairs=40, seed=3):
    draw = rng(seed)
    return Candidates(
        pairs,
        probabilities=draw.random((3, pairs)),
        features=draw.normal(size=(pairs, 4)),
        difficulty=draw.random(pairs),
    )


def test_scores_are_those_worked_by_hand():
    assert disagreement_scores(TWO) == pytest.approx([0.5, 0, 0.2, 0, 0])
    h = lambda p: -p * math.log(p) - (1 - p) * math.log(1 - p)  # noqa: E731
    assert entropy_scores(TWO) == pytest.approx([math.log(2), math.log(2), h(0.7), 0, h(0.9)])
    # Members that are sure and contradict each other tell one whole bit; two that toss a coin, nothing.
    gain = [math.log(2), 0, h(0.7) - (math.log(2) + h(0.9)) / 2, 0, 0]
    assert information_gain_scores(TWO) == pytest.approx(gain, abs=1e-12)


def test_information_gain_is_the_mutual_information_of_answer_and_member():
    members = rng(1).random((4, 6))
    joint = np.stack([members, 1 - members]) / 4  # (answer, member, pair)
    independent = joint.sum(0, keepdims=True) * joint.sum(1, keepdims=True)
    expected = (joint * np.log(joint / independent)).sum((0, 1))
    assert information_gain_scores(members) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "best"),
    [("disagreement", [0, 2]), ("information_gain", [0, 2]), ("hard_first", [0, 1]), ("easy_first", [3, 4])],
)
def test_each_strategy_asks_for_its_own_pairs_first(name, best):
    chosen = QUERIES[name](Candidates(5, TWO), 2, rng(), random_share=0.0)
    assert sorted(chosen.index.tolist()) == best
    assert not chosen.at_random.any()


def test_difficulty_that_is_given_goes_before_what_the_model_thinks():
    candidates = Candidates(5, TWO, difficulty=np.array([3, 1, 5, 2, 4]))
    assert QUERIES["easy_first"](candidates, 5, rng()).index.tolist() == [1, 3, 0, 4, 2]
    assert QUERIES["hard_first"](candidates, 5, rng()).index.tolist() == [2, 4, 0, 3, 1]


@pytest.mark.parametrize("name", QUERIES)
def test_every_strategy_chooses_n_different_pairs_and_the_same_for_the_same_seed(name):
    candidates = everything()
    first, again = (QUERIES[name](candidates, 15, rng(7), random_share=0.3) for _ in range(2))
    assert len(set(first.index.tolist())) == len(first) == 15
    assert first.index.tolist() == again.index.tolist()
    assert first.at_random.tolist() == again.at_random.tolist()
    assert sorted(QUERIES[name](candidates, 40, rng(7)).index.tolist()) == list(range(40))


@pytest.mark.parametrize("name", [name for name in QUERIES if name != "random"])
def test_the_random_share_is_kept_and_drawn_evenly_from_all_candidates(name):
    candidates, generator, rounds, drawn = everything(10), rng(0), 1000, np.zeros(10)
    for _ in range(rounds):
        chosen = QUERIES[name](candidates, 3, generator, random_share=0.5)
        drawn[chosen.index[chosen.at_random]] += 1
    assert drawn.sum() / rounds == pytest.approx(1.5, abs=0.06)  # 1 or 2 of 3; standard error 0.016
    assert drawn / drawn.sum() == pytest.approx(np.full(10, 0.1), abs=0.03)  # standard error 0.008


def test_a_share_of_one_leaves_nothing_to_the_model():
    assert QUERIES["entropy"](Candidates(5, TWO), 4, rng(), random_share=1.0).at_random.all()


def test_pairs_that_score_alike_are_equally_likely():
    same = Candidates(6, np.full((2, 6), 0.3))
    first = [QUERIES["disagreement"](same, 1, rng(i), random_share=0.0).index[0] for i in range(600)]
    assert np.bincount(first, minlength=6) == pytest.approx(np.full(6, 100), abs=45)  # deviation 9


def radius(points, centres):
    return np.linalg.norm(points[:, None] - points[list(centres)][None], axis=-1).min(1).max()


@pytest.mark.parametrize("seed", range(5))
def test_k_centers_cover_within_twice_the_best_radius(seed):
    points = rng(seed).normal(size=(12, 2))
    best = min(radius(points, centres) for centres in itertools.combinations(range(12), 3))
    chosen = QUERIES["k_center"](Candidates(12, features=points), 3, rng(seed), random_share=0.0)
    assert radius(points, chosen.index) <= 2 * best + 1e-12


def test_k_center_keeps_away_from_what_was_asked_before():
    line = np.arange(11.0)[:, None]
    candidates = Candidates(11, features=line, asked=np.array([[0.0]]))
    assert QUERIES["k_center"](candidates, 3, rng(), random_share=0.0).index.tolist()[:2] == [10, 5]


def test_k_center_of_pairs_that_are_all_alike_still_chooses_different_ones():
    chosen = QUERIES["k_center"](Candidates(6, features=np.ones((6, 2))), 6, rng(), random_share=0.0)
    assert sorted(chosen.index.tolist()) == list(range(6))


def test_a_misspelt_strategy_names_the_nearest():
    assert query_named("k_center") is QUERIES["k_center"]
    with pytest.raises(ConfigError, match="Did you mean 'disagreement'"):
        query_named("disagrement")


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({"pairs": 0}, "at least one pair, got 0"),
        ({"probabilities": np.full((2, 5), np.nan)}, r"probabilities holds nan at \(0, 0\) \(10 not finite"),
        ({"probabilities": TWO * 2}, r"must lie in \[0, 1\], got 0 to 2"),
        ({"probabilities": TWO[:, :4]}, r"must speak of 5 pairs along axis 1, got shape \(2, 4\)"),
        ({"probabilities": TWO[0]}, "numbers with 2 axes"),
        ({"features": np.ones((4, 2))}, "features must speak of 5 pairs"),
        ({"features": np.ones((5, 2)), "asked": np.ones((1, 3))}, "asked must have the columns of features"),
        ({"asked": np.ones((1, 3))}, "and no features"),
        ({"difficulty": np.array(list("abcde"))}, "difficulty must be numbers"),
    ],
)
def test_candidates_that_make_no_sense_are_refused(bad, sentence):
    with pytest.raises(DataError, match=sentence):
        Candidates(**({"pairs": 5} | bad))


def test_what_a_strategy_needs_is_said():
    with pytest.raises(ConfigError, match="probabilities of 2 members or more, got 1"):
        QUERIES["disagreement"](Candidates(5, TWO[:1]), 2, rng())
    with pytest.raises(ConfigError, match="got no probabilities"):
        QUERIES["entropy"](Candidates(5), 2, rng())
    with pytest.raises(ConfigError, match="k_center needs features"):
        QUERIES["k_center"](Candidates(5, TWO), 2, rng())
    with pytest.raises(ConfigError, match=r"between 1 and 5 .* got n=6"):
        QUERIES["entropy"](Candidates(5, TWO), 6, rng())
    with pytest.raises(ConfigError, match="random_share must lie"):
        QUERIES["entropy"](Candidates(5, TWO), 2, rng(), random_share=1.1)
