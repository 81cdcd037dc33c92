"""Selection: feasibility first, then the ranking, then the fallback; and never a late answer."""

# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalOperand=false

import json
import time
from typing import Any

import numpy as np
import pytest

from robopref.deploy.audit import AuditLog, read_audit
from robopref.deploy.bundle import load
from robopref.deploy.pace import Pace
from robopref.deploy.punctual import Punctual
from robopref.deploy.runtime import TimeUp
from robopref.deploy.selection import NoActionError, Selector
from robopref.errors import ConfigError, DataError
from tests.deploy.made import edited, make_bundle

ZERO = np.zeros(3, np.float32)


class Clock:
    """Time that passes only when told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Slow:
    """A sampler or scorer that takes a time for each candidate on a clock of ours."""

    def __init__(self, real, clock, seconds):
        self.real, self.clock, self.seconds, self.counts = real, clock, seconds, []

    def noise(self, rng, count):
        return self.real.noise(rng, count)

    def sample(self, observation, noise, pause):
        pause()
        self.counts.append(len(noise))
        self.clock.now += self.seconds * len(noise)
        return self.real.sample(observation, noise, lambda: None)

    def score(self, observation, chunks, rng, pause):
        pause()
        self.counts.append(len(chunks))
        self.clock.now += self.seconds * len(chunks)
        return self.real.score(observation, chunks, rng, lambda: None)


@pytest.fixture
def bundle(tmp_path):
    return load(make_bundle(tmp_path / "b"))


def test_the_candidate_of_the_highest_reward_is_sent(bundle):
    decision = Selector(bundle, candidates=64).decide(ZERO, index=0)
    assert decision.chosen == decision.candidates[:, 0, 0].argmax()  # the reward is the first entry
    assert decision.actions.tolist() == decision.candidates[decision.chosen].tolist()
    assert decision.fallback is None
    assert decision.value == pytest.approx(decision.candidates[:, 0, 0])


def test_one_candidate_is_the_policy_s_mean(bundle):
    decision = Selector(bundle, candidates=1).decide(np.array([0.25, -0.5, 3], np.float32), index=0)
    assert decision.actions.tolist() == [[0.25, -0.5]]
    assert decision.scores is None


def test_pessimism_avoids_what_the_members_disagree_about(tmp_path):
    bundle = load(make_bundle(tmp_path / "b", gap=4.0))  # members say a0 and a0 + 4 a1
    bold, careful = (Selector(bundle, candidates=64, pessimism=k).decide(ZERO, index=0) for k in (0.0, 10.0))
    a = careful.candidates[:, 0]
    assert careful.scores.mean == pytest.approx(a[:, 0] + 2 * a[:, 1], abs=1e-6)
    assert careful.scores.epistemic == pytest.approx(2 * np.abs(a[:, 1]), abs=1e-6)
    assert bold.chosen == (a[:, 0] + 2 * a[:, 1]).argmax()
    assert careful.chosen == (a[:, 0] + 2 * a[:, 1] - 20 * np.abs(a[:, 1])).argmax()


def test_the_same_seed_and_index_decide_the_same_and_others_do_not(bundle):
    first = Selector(bundle, seed=3).decide(ZERO, index=5)
    again = Selector(bundle, seed=3).decide(ZERO, index=5)
    assert np.array_equal(first.candidates, again.candidates)
    for other in (
        Selector(bundle, seed=4).decide(ZERO, index=5),
        Selector(bundle, seed=3).decide(ZERO, index=6),
    ):
        assert not np.array_equal(first.candidates, other.candidates)


def test_a_candidate_is_the_same_whatever_their_number(bundle):
    clock = Clock()
    few = Selector(bundle, candidates=8, clock=clock)
    few.pace._note(few.pace._whole, 8, 100.0)
    assert np.array_equal(
        few.decide(ZERO, index=0, deadline_s=1.0).candidates,
        Selector(bundle, candidates=8).decide(ZERO, index=0).candidates[:4],
    )


def test_what_leaves_the_workspace_is_dropped_before_it_is_scored(tmp_path):
    left = {"name": "left", "entries": [0], "low": [-1.0], "high": [0.0]}
    bundle = load(make_bundle(tmp_path / "b", boxes=[left]))
    decision = Selector(bundle, candidates=64).decide(ZERO, index=0)
    first = decision.candidates[:, 0, 0]
    assert [reason is None for reason in decision.refused] == (first <= 0).tolist()
    assert decision.chosen == np.where(first <= 0, first, -np.inf).argmax()
    assert np.isnan(decision.value[first > 0]).all()


def test_the_ranking_is_walked_until_a_candidate_passes_the_users_check(bundle):
    asked = []

    def reachable(observation, chunk):
        asked.append(float(chunk[0, 0]))
        return True if chunk[0, 0] < 0.3 else "is out of reach"

    decision = Selector(bundle, candidates=64, feasible=reachable).decide(ZERO, index=0)
    values = np.sort(decision.candidates[:, 0, 0])[::-1]
    assert asked == pytest.approx(
        values[: (values >= 0.3).sum() + 1]
    )  # best first, and none more than needed
    assert asked[-1] < 0.3
    assert decision.refused.count("is out of reach") == len(asked) - 1


@pytest.mark.parametrize(("hold", "sent"), [((0.1, 0.2), [[0.1, 0.2]] * 2), ("last", [[0.7, 0.7]] * 2)])
def test_where_nothing_is_feasible_the_robot_holds(tmp_path, hold, sent):
    bundle = load(make_bundle(tmp_path / "b", hold=hold, horizon=2))
    selector = Selector(bundle, feasible=lambda observation, chunk: False)
    decision = selector.decide(ZERO, index=0, previous=np.array([0.7, 0.7], np.float32))
    assert decision.chosen is None
    assert decision.fallback == "hold: no candidate of 16 is feasible: most often it is not feasible"
    assert decision.actions == pytest.approx(np.array(sent))


def test_home_is_where_the_manifest_says(tmp_path):
    folder = edited(make_bundle(tmp_path / "b"), lambda r: r["action"].update(home=[-0.5, 0.5]))
    selector = Selector(load(folder), fallback="home", feasible=lambda observation, chunk: False)
    assert selector.decide(ZERO, index=0).actions.tolist() == [[-0.5, 0.5]]


def test_nothing_to_hold_is_an_error(tmp_path):
    selector = Selector(load(make_bundle(tmp_path / "b", hold="last")), feasible=lambda o, c: False)
    with pytest.raises(NoActionError, match="no earlier action to hold"):
        selector.decide(ZERO, index=0)


def test_options_that_make_no_sense_are_refused_at_once(bundle):
    bad: list[tuple[dict[str, Any], str]] = [
        ({"candidates": 0}, "candidates must be 1 or more"),
        ({"pessimism": -1.0}, "pessimism"),
        ({"deadline_s": 0.0}, "deadline must be positive"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"fallback": "hom"}, "Did you mean 'home'"),
        ({"fallback": "home"}, "has no home"),
    ]
    for options, sentence in bad:
        with pytest.raises(ConfigError, match=sentence):
            Selector(bundle, **options)


# --- the deadline -------------------------------------------------------------------------------------------


class OnTheSpot(Punctual):
    """Work is done where it is asked for: a clock that is moved by hand says nothing of real waiting."""

    def attempt(self, work, end):
        work()
        return True

    def overdue_s(self):
        return 0.0


def slow_selector(bundle, per_candidate, **options):
    clock = Clock()
    bundle.sampler = Slow(bundle.sampler, clock, per_candidate)
    selector = Selector(bundle, candidates=16, clock=clock, **options)
    selector._punctual = OnTheSpot(clock)
    selector.warm_up(1)
    return selector, clock


def test_with_less_time_fewer_candidates_are_used(bundle):
    selector, clock = slow_selector(bundle, 0.01)
    for deadline, count in ((10.0, 16), (0.21, 16), (0.19, 8), (0.11, 8), (0.06, 4), (0.013, 1)):
        before = clock.now
        assert len(selector.decide(ZERO, index=0, deadline_s=deadline).candidates) == count
        assert clock.now - before <= deadline


def test_with_no_time_at_all_the_robot_holds_and_no_network_runs(bundle):
    selector, clock = slow_selector(bundle, 0.01)
    before = clock.now
    decision = selector.decide(ZERO, index=0, deadline_s=0.005)
    assert decision.fallback == "hold: no time"
    assert clock.now == before


def test_a_machine_that_became_slow_answers_in_time_again_after_a_few_decisions(bundle):
    selector, clock = slow_selector(bundle, 0.001)
    selector.decide(ZERO, index=0, deadline_s=0.05)
    bundle.sampler.seconds = 0.01
    durations = []
    for index in range(50):
        before = clock.now
        selector.decide(ZERO, index=index, deadline_s=0.05)
        durations.append(clock.now - before)
    late = [duration > 0.05 for duration in durations]  # one run of a network cannot be broken off
    assert late == [True, True] + [False] * 48  # with 16, with 8, then 4 candidates


def test_when_time_is_up_before_scoring_the_first_feasible_candidate_is_sent(bundle):
    clock = Clock()
    bundle.sampler, bundle.scorer = Slow(bundle.sampler, clock, 0.01), Slow(bundle.scorer, clock, 0.0)
    selector = Selector(bundle, candidates=4, clock=clock)
    selector._punctual = OnTheSpot(clock)
    decision = selector.decide(ZERO, index=0, deadline_s=0.03)  # sampling alone takes 0.04
    assert decision.chosen == 0
    assert decision.scores is None
    assert bundle.scorer.counts == []


class Stuck:
    """A sampler or scorer whose first run takes so many real seconds, whatever time there is."""

    def __init__(self, real, seconds):
        self.real, self.seconds = real, seconds

    def _wait(self):
        seconds, self.seconds = self.seconds, 0.0
        time.sleep(seconds)

    def noise(self, rng, count):
        return self.real.noise(rng, count)

    def sample(self, observation, noise, pause):
        self._wait()
        return self.real.sample(observation, noise, pause)

    def score(self, observation, chunks, rng, pause):
        self._wait()
        return self.real.score(observation, chunks, rng, pause)


def timed(selector, **options):
    started = time.perf_counter()
    decision = selector.decide(ZERO, index=0, **options)
    return decision, time.perf_counter() - started


def settled(selector):
    """Wait until what was given up has ended."""
    while selector.overdue_s() > 0:
        time.sleep(0.01)


def test_a_network_that_takes_too_long_for_the_first_time_is_left_behind_and_the_robot_holds(bundle):
    bundle.sampler = Stuck(bundle.sampler, 1.0)
    selector = Selector(bundle, deadline_s=0.2)  # never warmed up: nothing is known of what runs take
    decision, seconds = timed(selector)
    assert (decision.chosen, decision.fallback) == (None, "hold: no time")
    assert seconds < 0.4
    assert selector.overdue_s() > 0
    busy, seconds = timed(selector)  # the lost run still goes on
    assert (busy.fallback, seconds < 0.2) == ("hold: no time", True)
    settled(selector)
    assert selector.overdue_s() == 0
    assert selector.pace.affordable(0.2) < 16  # what it took is remembered
    assert timed(selector)[0].chosen is not None


def test_a_ranking_that_takes_too_long_leaves_the_first_feasible_candidate(tmp_path):
    left = {"name": "left", "entries": [0], "low": [-1.0], "high": [-0.2]}
    bundle = load(make_bundle(tmp_path / "b", boxes=[left], hold="last"))
    bundle.scorer = Stuck(bundle.scorer, 1.0)
    selector = Selector(bundle, candidates=64, deadline_s=0.2)
    decision, seconds = timed(selector)
    assert seconds < 0.4
    assert decision.scores is None
    assert decision.chosen == decision.refused.index(None) > 0
    before = list(decision.refused)
    settled(selector)
    assert decision.refused == before  # what comes too late changes nothing


def test_a_users_check_that_takes_too_long_sends_nothing_unchecked(bundle):
    def slow(observation, chunk):
        time.sleep(1.0)
        return True

    selector = Selector(bundle, deadline_s=0.2, feasible=slow)
    decision, seconds = timed(selector)
    assert (decision.chosen, decision.fallback, seconds < 0.4) == (None, "hold: no time", True)
    settled(selector)


def test_what_fails_in_time_is_raised_with_a_deadline_too(bundle):
    def broken(observation, chunk):
        raise ZeroDivisionError("no inverse")

    with pytest.raises(ZeroDivisionError, match="no inverse"):
        Selector(bundle, deadline_s=10.0, feasible=broken).decide(ZERO, index=0)


def test_the_pace_forgets_a_slow_moment(bundle):
    pace = Pace(2, Clock())
    pace._note(pace._whole, 2, 0.01)
    pace.keep_as_floor()
    pace._note(pace._whole, 2, 0.1)
    decisions = 0
    while pace.affordable(0.05) < 2:
        with pace.timed(1, None):
            pass
        decisions += 1
    assert 100 < decisions < 1000


def test_a_run_of_a_network_that_would_end_late_is_not_begun():
    clock = Clock()
    pace = Pace(1, clock)
    with pace.timed(1, None) as pause:
        pause()
        clock.now += 0.02
    with pace.timed(1, clock.now + 0.03) as pause:
        pause()
        clock.now += 0.02
        with pytest.raises(TimeUp):
            pause()


# --- the audit log ------------------------------------------------------------------------------------------


def test_the_log_holds_what_is_needed_to_label_the_candidates(bundle, tmp_path):
    selector = Selector(bundle, candidates=4, seed=9)
    with AuditLog(tmp_path / "log" / "a.jsonl", bundle=bundle.fingerprint, seed=9) as log:
        decisions = [selector.decide(np.full(3, i, np.float32), index=i) for i in range(3)]
        for decision in decisions:
            log.write(decision, robot="toy")
    records = read_audit(tmp_path / "log" / "a.jsonl")
    assert [r["index"] for r in records] == [0, 1, 2]
    for record, decision in zip(records, decisions, strict=True):
        assert np.array(record["candidates"]) == pytest.approx(decision.candidates, abs=1e-5)
        assert np.array(record["observation"]) == pytest.approx(decision.observation)
        assert np.array(record["scores"]["mean"]) == pytest.approx(decision.scores.mean, abs=1e-5)
        assert record["chosen"] == decision.chosen
        assert (record["bundle"], record["seed"], record["robot"]) == (bundle.fingerprint, 9, "toy")


def test_a_last_line_cut_by_a_power_failure_is_left_out_and_other_damage_is_refused(bundle, tmp_path):
    path = tmp_path / "a.jsonl"
    with AuditLog(path, bundle="", seed=0) as log:
        log.write(Selector(bundle).decide(ZERO, index=0))
    whole = path.read_text()
    path.write_text(whole + whole[: len(whole) // 2])
    assert len(read_audit(path)) == 1
    path.write_text(whole[: len(whole) // 2] + "\n" + whole)
    with pytest.raises(DataError, match="line 1 is not JSON"):
        read_audit(path)
    path.write_text(json.dumps({"schema": 2}) + "\n")
    with pytest.raises(DataError, match="no decision of schema 1"):
        read_audit(path)
