"""Advantages of decisions: by hand, and of a critic that knows which rollouts it may learn from."""

import numpy as np
import pytest

from robopref.errors import DataError
from robopref.rewards.credit import _places, decision_advantages, generalised_advantages


def test_advantages_are_those_by_hand():
    values = np.array([0.2, 0.5, 0.4, 0.9])
    found = generalised_advantages(values, np.array([3, 1]), np.array([1.0, 0.0]), 0.5)
    changes = [0.3, -0.1, 0.6]
    assert found[2] == pytest.approx(changes[2])
    assert found[1] == pytest.approx(changes[1] + 0.5 * changes[2])
    assert found[0] == pytest.approx(changes[0] + 0.5 * changes[1] + 0.25 * changes[2])
    assert found[3] == pytest.approx(-0.9)


def test_a_trace_of_one_trusts_the_judgement_alone():
    values = np.random.default_rng(0).random(9)
    counts, final = np.array([4, 2, 3]), np.array([1.0, -1.0, 0.5])
    found = generalised_advantages(values, counts, final, 1.0)
    assert found == pytest.approx(np.repeat(final, counts) - values)


def rollouts(*, states=40, repeats=4, decisions=6, seed=0):
    """At some decision each rollout falls, or does not: from then on its observation and its score tell."""
    rng = np.random.default_rng(seed)
    count = states * repeats
    falls = rng.integers(1, 2 * decisions, count)  # half of them never fall
    step = np.arange(decisions)
    fallen = (step >= falls[:, None]).astype(float)
    observations = np.stack([fallen.ravel(), rng.random(count * decisions)], 1)
    scores = (falls >= decisions).astype(float)
    return observations, np.full(count, decisions), scores, np.repeat(np.arange(states), repeats), falls


def test_the_decision_that_decided_gets_the_credit():
    observations, counts, scores, starts, falls = rollouts()
    found, about = decision_advantages(observations, counts, scores, starts, trace=0.0)
    found = found.reshape(len(counts), -1)
    fell = falls < 6
    worst = found[fell].argmin(1)
    assert (worst == falls[fell] - 1).mean() > 0.95  # the fall shows after the decision that led to it
    after = [row[when:] for row, when in zip(found[fell], falls[fell], strict=True)]
    assert np.abs(np.concatenate(after)).mean() < 0.1  # nothing that follows was at fault
    each, fallen = np.repeat(scores, counts), observations[:, 0].astype(int)
    kinds = fallen * 6 + np.tile(np.arange(6), len(counts))  # all that can be known
    means = np.array([each[kinds == kind].mean() for kind in kinds])
    assert about["explained"] == pytest.approx(1 - np.mean((each - means) ** 2) / each.var(), abs=0.05)


def by_state(scores):
    """Rollouts whose observations tell the initial state and no more, 4 from each of 40."""
    states, repeats, decisions = 40, 4, 5
    seen = np.repeat(np.random.default_rng(1).normal(size=(states, 3)), repeats * decisions, 0)
    counts = np.full(states * repeats, decisions)
    return decision_advantages(seen, counts, scores, np.repeat(np.arange(states), repeats))


def test_siblings_tell_what_was_to_be_expected():
    """All rollouts of a state are worth the same, by chance."""
    found, about = by_state(np.repeat(np.random.default_rng(2).random(40), 4))
    assert about["explained"] > 0.5
    assert abs(found).mean() < 0.5


def test_no_critic_values_a_rollout_that_taught_it():
    """Each is worth something by chance: whoever learned them by heart would know them all."""
    _, about = by_state(np.random.default_rng(2).random(160))
    assert about["explained"] < 0.1


def test_rollouts_of_a_state_have_different_critics_in_whatever_order_they_come():
    groups = np.array([2, 0, 2, 2, 0, 1])
    assert _places(groups).tolist() == [0, 0, 1, 2, 1, 0]


def test_advantages_do_not_depend_on_the_scale_of_scores():
    observations, counts, scores, starts, _ = rollouts(states=8)
    usual, _ = decision_advantages(observations, counts, scores, starts)
    scaled, _ = decision_advantages(observations, counts, 100 * scores - 7, starts)
    assert scaled == pytest.approx(usual, abs=1e-4)


def test_equal_scores_have_no_advantages():
    observations, counts, scores, starts, _ = rollouts(states=3)
    found, about = decision_advantages(observations, counts, np.ones_like(scores), starts)
    assert not found.any()
    assert about == {"explained": 0.0}


def test_what_does_not_fit_is_refused():
    observations, counts, scores, starts, _ = rollouts(states=3)
    with pytest.raises(DataError, match=r"12 rollouts of 72 decisions .* got 71, 12 and 12"):
        decision_advantages(observations[1:], counts, scores, starts)
    with pytest.raises(DataError, match="NaN or infinity"):
        decision_advantages(observations, counts, np.where(starts == 1, np.nan, scores), starts)
    with pytest.raises(DataError, match="began in one state"):
        decision_advantages(observations, counts, np.arange(12.0), np.zeros(12, int))
