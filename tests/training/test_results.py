import json
from dataclasses import replace
from math import sqrt

import numpy as np
import pytest

from robopref.errors import ConfigError, DataError
from robopref.training.evaluation import evaluation_seeds
from robopref.training.results import Evaluation, compare


def outcome(successes, returns=None, policy="iql", seeds=None, **changes):
    count = len(successes)
    values = {
        "policy": policy,
        "task": "toy",
        "env_id": "toy-v0",
        "env_options": {"horizon": 8},
        "seeds": np.array(evaluation_seeds(count) if seeds is None else seeds),
        "successes": np.array(successes, dtype=bool),
        "returns": np.array(successes if returns is None else returns, dtype=np.float64),
        "lengths": np.full(count, 8),
    }
    return Evaluation(**{**values, **changes})


@pytest.mark.parametrize(("successes", "count"), [(0, 10), (7, 10), (10, 10), (81, 263)])
def test_the_interval_is_wilsons_formula(successes, count):
    z, p = 1.959963984540054, successes / count  # Wilson 1927: centre and half width
    centre = (p + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * sqrt(p * (1 - p) / count + z**2 / (4 * count**2))
    summary = outcome([True] * successes + [False] * (count - successes)).summary()
    assert (summary["successes"], summary["n"], summary["rate"]) == (successes, count, p)
    assert summary["low"] == pytest.approx(max(0, centre - half), abs=1e-9)
    assert summary["high"] == pytest.approx(min(1, centre + half), abs=1e-9)


def test_the_interval_of_a_published_example():
    # Newcombe 1998, table I: 81 of 263 has the Wilson score interval 0.2553 to 0.3662
    summary = outcome([True] * 81 + [False] * 182).summary()
    assert (round(summary["low"], 4), round(summary["high"], 4)) == (0.2553, 0.3662)


def test_the_mean_return_and_whether_all_seeds_were_held_out():
    assert outcome([1, 0], returns=[2.0, 4.0]).summary()["mean_return"] == 3
    assert outcome([1, 0]).summary()["held_out"]
    assert not outcome([1, 0], seeds=[7, 2**30]).summary()["held_out"]


def test_evaluation_seeds_are_above_every_collection_seed_and_can_be_skipped():
    assert evaluation_seeds(3) == [2**30, 2**30 + 1, 2**30 + 2]
    assert evaluation_seeds(2, first=3) == [2**30 + 3, 2**30 + 4]
    with pytest.raises(ConfigError, match="got 0 from 0"):
        evaluation_seeds(0)


def test_an_evaluation_survives_its_file(tmp_path):
    before = outcome([1, 0, 1], returns=[1.5, -2.25, 1 / 3])
    before.save(tmp_path / "iql.json")
    after = Evaluation.load(tmp_path / "iql.json")
    for name in ("seeds", "successes", "returns", "lengths"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    assert (after.policy, after.task, after.env_id, after.env_options) == (
        "iql",
        "toy",
        "toy-v0",
        {"horizon": 8},
    )
    contents = json.loads((tmp_path / "iql.json").read_text())
    assert contents["summary"]["rate"] == pytest.approx(2 / 3)
    assert contents["successes"] == [True, False, True]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"policy": "iql", "see', "JSON"),
        ("[1, 2]", "not an evaluation: it lacks policy"),
        ('{"policy": "iql"}', "lacks task, env_id"),
    ],
)
def test_a_broken_file_is_a_sentence(tmp_path, text, sentence):
    (tmp_path / "iql.json").write_text(text)
    with pytest.raises(DataError, match=sentence):
        Evaluation.load(tmp_path / "iql.json")


def test_a_file_with_columns_of_words_or_nan_is_refused(tmp_path):
    outcome([1, 0]).save(tmp_path / "iql.json")
    whole = json.loads((tmp_path / "iql.json").read_text())
    for returns, sentence in (
        (["a", "b"], "damaged"),
        ([float("nan"), 1], "not finite"),
        ([1.0], "one entry per seed"),
    ):
        (tmp_path / "iql.json").write_text(json.dumps({**whole, "returns": returns}))
        with pytest.raises(DataError, match=sentence):
            Evaluation.load(tmp_path / "iql.json")
    with pytest.raises(DataError, match="no evaluation at"):
        Evaluation.load(tmp_path / "bc.json")


def test_an_evaluation_of_nothing_or_with_a_seed_twice_cannot_exist():
    with pytest.raises(DataError, match="at least one"):
        outcome([], seeds=np.zeros(0, dtype=np.int64))
    with pytest.raises(DataError, match="Seed 7 appears 2 times"):
        outcome([1, 0], seeds=[7, 7])


def test_a_comparison_worked_by_hand():
    a = outcome([1, 1, 1, 1, 1, 1, 0, 0], returns=[3, 3, 3, 3, 3, 3, 0, 1])
    b = outcome([1, 0, 0, 0, 0, 0, 1, 0], returns=[3, 0, 0, 0, 0, 0, 2, 0], policy="bc")
    result = compare(a, b)
    assert (result.n, result.only_a, result.only_b) == (8, 5, 1)
    assert result.rate_difference == 0.5
    assert result.p_value == pytest.approx(2 * (1 + 6) / 2**6)  # of six coins at most one is odd
    assert result.return_difference == pytest.approx(14 / 8)
    assert result.return_p_value == pytest.approx(2 * (1 + 7) / 2**7)  # 6 ups, 1 down, 1 equal


def test_swapping_the_policies_mirrors_the_comparison():
    rng = np.random.default_rng(0)
    a, b = (outcome(rng.random(40) < p, returns=rng.normal(size=40), policy=str(p)) for p in (0.8, 0.5))
    ab, ba = compare(a, b), compare(b, a)
    assert (ab.only_a, ab.p_value) == (ba.only_b, ba.p_value)
    assert ab.rate_difference == -ba.rate_difference
    assert ab.rate_low == pytest.approx(-ba.rate_high, abs=0.03)


def test_the_order_of_the_seeds_does_not_matter():
    a = outcome([1, 0, 1, 1], returns=[1, 2, 3, 4])
    b = outcome([0, 0, 1, 0], returns=[4, 3, 2, 1], policy="bc")
    turned = [2, 0, 3, 1]
    columns = {name: getattr(b, name)[turned] for name in ("seeds", "successes", "returns", "lengths")}
    assert compare(a, replace(b, **columns)) == compare(a, b)


def test_the_bootstrap_interval_agrees_with_scipys():
    from scipy.stats import bootstrap

    rng = np.random.default_rng(1)
    a, b = (outcome([1] * 60, returns=rng.gamma(2.0, size=60), policy=name) for name in "ab")
    result = compare(a, b)
    theirs = bootstrap((a.returns - b.returns,), np.mean, method="percentile", rng=np.random.default_rng(2))
    assert result.return_low == pytest.approx(theirs.confidence_interval.low, abs=0.02)
    assert result.return_high == pytest.approx(theirs.confidence_interval.high, abs=0.02)


def test_equal_policies_differ_by_nothing():
    result = compare(outcome([1, 0, 1]), outcome([1, 0, 1], policy="bc"))
    assert (result.p_value, result.return_p_value) == (1, 1)
    assert result.rate_low == result.rate_high == 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seeds": [1, 2, 4]}, "different seeds; not shared"),
        ({"env_id": "other-v0"}, "env_id is toy-v0 and other-v0"),
        ({"env_options": {"horizon": 9}}, "env_options is"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes, sentence):
    with pytest.raises(DataError, match=sentence):
        compare(outcome([1, 0, 1]), outcome([1, 0, 1], policy="bc", **changes))
