import pytest

from robopref.errors import DataError
from robopref.report.groups import Spread, gather, sign_test, wilson_interval


def test_wilson_interval_of_eight_in_ten_by_hand():
    # centre (0.8 + 1.9208/10) / 1.38416 = 0.71674, half 1.96/1.38416 * sqrt(0.016 + 0.0096036) = 0.22658
    assert wilson_interval(8, 10) == pytest.approx((0.49016, 0.94332), abs=1e-4)


def test_wilson_interval_agrees_with_scipy():
    from scipy.stats import binomtest

    for wins, n in ((0, 10), (3, 7), (50, 50), (93, 150)):
        theirs = binomtest(wins, n).proportion_ci(0.95, method="wilson")
        assert wilson_interval(wins, n) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@pytest.mark.parametrize(("wins", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_impossible_counts_are_refused(wins, n):
    with pytest.raises(ValueError, match="needed"):
        wilson_interval(wins, n)


def test_sign_test_by_hand():
    assert sign_test(5, 1) == pytest.approx(2 * (1 + 6) / 64)
    assert sign_test(3, 3) == 1.0
    assert sign_test(0, 0) == 1.0


def test_runs_that_differ_only_in_seed_form_one_group(make_run, tmp_path):
    for seed, wins in ((2, 30), (0, 42), (1, 36)):
        make_run(tmp_path / str(seed), seed=seed, successes={"PEARL": wins, "bc": 10})
    (group,) = gather([tmp_path]).groups
    assert group.seeds == (0, 1, 2)
    success = group.successes[0]
    assert (success.policy, success.wins, success.n) == ("PEARL", 108, 150)
    assert (success.low, success.high) == pytest.approx(wilson_interval(108, 150))
    assert success.per_seed == pytest.approx((0.84, 0.72, 0.60))
    reward = group.reward_accuracy
    assert reward is not None
    assert (reward.mean, reward.low, reward.high, reward.n) == pytest.approx((0.816, 0.806, 0.826, 3))


def test_another_setting_makes_another_group_and_is_named(make_run, tmp_path):
    make_run(tmp_path / "a", seed=0, options={"held_out": 0.2})
    make_run(tmp_path / "b", seed=1, options={"held_out": 0.2})
    make_run(tmp_path / "c", seed=0, options={"held_out": 0.3})
    groups = gather([tmp_path]).groups
    assert [group.seeds for group in groups] == [(0, 1), (0,)]
    assert [group.differs for group in groups] == ["held_out=0.2", "held_out=0.3"]


def test_tasks_are_never_pooled(make_run, tmp_path):
    make_run(tmp_path / "a", task="door-close")
    make_run(tmp_path / "b", task="drawer-open", seed=1)
    groups = gather([tmp_path]).groups
    assert [group.first.task for group in groups] == ["door-close", "drawer-open"]


def test_the_same_seed_twice_is_not_counted_twice(make_run, tmp_path):
    make_run(tmp_path / "a", successes={"PEARL": 10})
    make_run(tmp_path / "b", successes={"PEARL": 20})
    report = gather([tmp_path])
    assert report.groups[0].successes[0].n == 50
    assert any("same settings and seed" in note for note in report.skipped)


def test_policies_are_compared_start_by_start(make_run, tmp_path):
    make_run(tmp_path / "a", successes={"PEARL": 50, "bc": 0})
    (paired,) = gather([tmp_path]).groups[0].paired
    assert (paired.only_policy, paired.only_other, paired.n) == (50, 0, 50)
    assert paired.p_value == pytest.approx(2 / 2**50)


def test_spread_of_unknown_numbers_is_unknown():
    assert Spread.of([None, None]) is None
    assert Spread.of([1.0, None, 3.0]) == Spread(2.0, 1.0, 3.0, 2)


def test_one_damaged_run_stops_the_report(make_run, tmp_path):
    make_run(tmp_path / "a")
    (make_run(tmp_path / "b", seed=1) / "run.json").write_text('{"name": "b"')
    with pytest.raises(DataError, match=r"b/run\.json is truncated"):
        gather([tmp_path])
