import dataclasses
import logging
import math

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from robopref.alignment.auto import AutoAlignment
from robopref.alignment.features import compute_features
from robopref.alignment.ranker import fit_score, update_score
from robopref.alignment.record import pair_accuracy
from robopref.alignment.sets import LabelledSet
from robopref.alignment.speakers import orders_of_couplings
from robopref.alignment.transfer import labels_from_scores
from robopref.data.trajectory import SegmentBatch
from robopref.errors import ConfigError, DataError

STEPS = 20


def world(seed: int, count: int = 30) -> tuple[SegmentBatch, np.ndarray]:
    """Episodes in which a hand of some skill goes to an object and carries it to a goal, and the skills.

    Each world has its own positions, and observations that are a random linear map of them.
    """
    rng = np.random.default_rng(seed)
    skill = rng.uniform(0, 1, count)
    time = np.linspace(0, 1, STEPS + 1)[None, :, None]
    start, thing, goal = (
        rng.normal(size=(1, 1, 3)) + 0.05 * rng.normal(size=(count, 1, 3)) for _ in range(3)
    )
    reach = np.minimum(2 * time, 1) * np.minimum(2 * skill, 1)[:, None, None]
    carry = np.maximum(2 * time - 1, 0) * np.maximum(2 * skill - 1, 0)[:, None, None]
    wobble = 0.02 * rng.normal(size=(count, STEPS + 1, 3))
    thing_path = thing + carry * (goal - thing)
    hand_path = np.where(carry > 0, thing_path, start + reach * (thing - start)) + wobble
    goal_path = np.broadcast_to(goal, thing_path.shape)
    mixing = rng.normal(size=(9, 18))
    observations = np.concatenate([hand_path, thing_path, goal_path], axis=-1) @ mixing
    keypoints = {"hand": hand_path, "object": thing_path, "goal": goal_path}
    segments = SegmentBatch(
        observations=observations.astype(np.float32),
        actions=np.diff(hand_path, axis=1).astype(np.float32),
        rewards=np.zeros((count, STEPS), np.float32),
        successes=np.zeros((count, STEPS), bool),
        mask=np.ones((count, STEPS), bool),
        keypoints={name: path.astype(np.float32) for name, path in keypoints.items()},
    )
    return segments, skill


def source(seed: int, sign: float = 1.0) -> LabelledSet:
    segments, skill = world(seed)
    return LabelledSet(f"world-{seed}", segments, labels_from_scores(sign * skill))


def anchors_of(scores: np.ndarray, number: int) -> np.ndarray:
    labels = np.full((len(scores), len(scores)), np.nan)
    np.fill_diagonal(labels, 0.5)
    for k in range(number):
        labels[2 * k, 2 * k + 1] = float(scores[2 * k] > scores[2 * k + 1])
        labels[2 * k + 1, 2 * k] = 1 - labels[2 * k, 2 * k + 1]
    return labels


def transfer(alignment: AutoAlignment, sources: list[LabelledSet], target: SegmentBatch, **options):
    return alignment.transfer(sources, target, rng=np.random.default_rng(0), **options)


@pytest.fixture
def sources() -> list[LabelledSet]:
    return [source(seed) for seed in (1, 2, 3)]


def test_skill_in_three_worlds_orders_the_episodes_of_a_fourth(sources):
    target, skill = world(4)
    record = transfer(AutoAlignment(), sources, target)
    assert pair_accuracy(record.labels, labels_from_scores(skill)) > 0.9
    assert not record.settings["at_risk"]
    assert min(shares["score"] for shares in record.settings["validation"].values()) > 0.9


def test_a_target_that_asks_for_the_opposite_is_put_right_by_five_anchors(sources):
    target, skill = world(4)
    truth = labels_from_scores(-skill)
    blind = transfer(AutoAlignment(), sources, target)
    told = transfer(AutoAlignment(), sources, target, anchors=anchors_of(-skill, 5))
    assert pair_accuracy(blind.labels, truth) < 0.1  # nothing in the episodes says what is asked for
    assert told.settings["chance_inverted"] > 0.9
    assert pair_accuracy(told.labels, truth) > 0.9


def test_right_anchors_keep_a_right_transfer(sources):
    target, skill = world(4)
    told = transfer(AutoAlignment(), sources, target, anchors=anchors_of(skill, 5))
    assert told.settings["chance_inverted"] < 0.01
    known = anchors_of(skill, 5)
    np.testing.assert_array_equal(told.labels[~np.isnan(known)], known[~np.isnan(known)])
    assert pair_accuracy(told.labels, labels_from_scores(skill)) > 0.9


def test_disagreement_is_a_warning_or_a_refusal_until_an_anchor_is_there(sources, caplog):
    target, skill = world(4)
    with caplog.at_level(logging.WARNING):
        record = transfer(AutoAlignment(least_agreement=1.0), sources, target)
    assert record.settings["at_risk"]
    assert "may be inverted" in caplog.text
    strict = AutoAlignment(least_agreement=1.0, on_risk="refuse")
    with pytest.raises(DataError, match="A few labels of the target settle it"):
        transfer(strict, sources, target)
    transfer(strict, sources, target, anchors=anchors_of(skill, 1))


def test_anchors_that_leave_an_inversion_open_do_not_disarm_the_guard(sources):
    target, skill = world(4)
    strict = AutoAlignment(least_agreement=1.0, on_risk="refuse")
    at_risk = strict.prepare(sources, target, rng=np.random.default_rng(0))
    both = anchors_of(skill, 2)
    tie = np.where(np.isnan(anchors_of(skill, 1)), np.nan, 0.5)
    both[2, 3], both[3, 2] = 1 - both[2, 3], 1 - both[3, 2]
    for anchors, known in ((tie, "1 label"), (both, "2 labels")):
        with pytest.raises(DataError, match=f"after {known} of .* of 50%. It takes 1 further label to"):
            at_risk.settle(anchors, rng=np.random.default_rng(0))


def test_a_label_against_a_transfer_at_no_risk_is_a_warning_and_one_for_it_is_none(sources, caplog):
    target, skill = world(4)
    ready = AutoAlignment().prepare(sources, target, rng=np.random.default_rng(0))
    tie = np.where(np.isnan(anchors_of(skill, 1)), np.nan, 0.5)
    for quiet in (anchors_of(skill, 1), tie, anchors_of(-skill, 3), None):
        ready.settle(quiet, rng=np.random.default_rng(0))
    assert caplog.text == ""
    against = ready.settle(anchors_of(-skill, 1), rng=np.random.default_rng(0))
    odds = 0.05 / 0.95 * 9  # it was sure of that pair, and a label counts nine to one
    assert against.settings["chance_inverted"] == pytest.approx(odds / (1 + odds))
    assert "after 1 label of the target, all others are wrong with a chance of 32%" in caplog.text
    assert "It takes 2 further labels" in caplog.text


def test_couplings_that_are_mirror_images_of_each_other_are_a_warning_that_names_the_number(caplog):
    # on a line of equal steps, Gromov-Wasserstein has two optima: the line as it is and turned round
    line = np.linspace(-1, 1, 12)
    first, second = (
        dataclasses.replace(world(seed, 12)[0], observations=np.tile(line[:, None, None], (1, STEPS + 1, 9)))
        for seed in (1, 2)
    )
    source = LabelledSet("line", first, labels_from_scores(line))
    doubtful = AutoAlignment({"restarts": 9}, least_agreement=-1.0)
    with caplog.at_level(logging.WARNING):
        record = transfer(doubtful, [source], second)
    turned = sum(order[0] > order[-1] for order in orders_of_couplings(record).values())
    assert 2 <= turned <= 8
    opposite = turned * (10 - turned)  # of 45 pairs of couplings these have rho -1, the others 1
    rho = record.settings["agreement"]["between couplings"]
    assert rho == pytest.approx(1 - 2 * opposite / 45, abs=0.01)  # one solve ends a little beside the optimum
    assert record.settings["at_risk"]
    assert f"between couplings {rho:+.2f} (0.2 or more)" in caplog.text
    assert "between sources" not in record.settings["agreement"]
    sure = transfer(AutoAlignment({}, least_agreement=-1.0), [source], second)
    assert "between couplings" not in sure.settings["agreement"]  # there is one
    assert not sure.settings["at_risk"]


def test_sources_that_say_the_opposite_of_each_other_are_refused():
    with pytest.raises(DataError, match="No source is explained by the others"):
        transfer(AutoAlignment(), [source(1), source(2, sign=-1)], world(4)[0])


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_episodes_that_no_coupling_labels_are_refused_with_a_cure_that_helps():
    every, (target, _) = source(1), world(4)
    labels = np.full_like(every.labels, np.nan)
    labels[0, 1], labels[1, 0] = 1.0, 0.0
    sparse = dataclasses.replace(every, labels=labels)
    with pytest.raises(DataError, match=r"left 28 target episodes .* label more source pairs\.$"):
        transfer(AutoAlignment({"features": ["mean"]}), [sparse], target)
    few = AutoAlignment({"features": ["mean"], "max_episodes": 10})
    with pytest.raises(DataError, match=r"left 20 target .*, or draw more episodes: couplings\.subsets"):
        transfer(few, [every], target)


def test_one_source_is_enough_though_nothing_is_validated():
    target, skill = world(4)
    record = transfer(AutoAlignment(), [source(1)], target)
    assert record.settings["validation"] == {}
    assert pair_accuracy(record.labels, labels_from_scores(skill)) > 0.8


def test_a_set_without_the_object_is_refused_by_name(sources):
    target, _ = world(4)
    del target.keypoints["object"]
    with pytest.raises(DataError, match="needs the keypoint 'object'"):
        transfer(AutoAlignment(), sources, target)


LINES = {"features": ["mean"], "alpha": 0.9}  # of couplings that take little time


def log_loss_on_sources(alignment: AutoAlignment, sources: list[LabelledSet], target: SegmentBatch) -> float:
    """Let each of two sources label the other; what it says is worth what the alignment found."""
    worth = transfer(alignment, sources, target).settings["worth"]
    losses = []
    for other, held_out in (sources, sources[::-1]):
        ready = alignment.prepare([other], held_out.segments, rng=np.random.default_rng(0))
        scores = worth["score"] * ready.features[:, :-1] @ ready.weights[:-1]  # of one source, it counts 1
        scores += worth["couplings"] * ready.features[:, -1]
        i, j = np.triu_indices(len(scores), 1)
        sign = 2 * held_out.labels[i, j] - 1
        losses += list(np.log1p(np.exp(-sign * (scores[i] - scores[j]))))
    return float(np.mean(losses))


def test_settings_are_those_that_lose_least_on_held_out_sources_and_nothing_else_changes():
    sets = [world(seed, 12) for seed in (1, 2)]
    sources = [LabelledSet(str(i), x, labels_from_scores(skill)) for i, (x, skill) in enumerate(sets)]
    target, grid = world(4, 12)[0], {"l2": [3.0, 0.01], "semi_relaxed": [True, False]}
    record = transfer(AutoAlignment(LINES, choose=grid), sources, target)
    alone = {
        (l2, relaxed): AutoAlignment(LINES | {"semi_relaxed": relaxed}, l2=l2)
        for relaxed in grid["semi_relaxed"]
        for l2 in grid["l2"]
    }
    losses = {key: log_loss_on_sources(each, sources, target) for key, each in alone.items()}
    found = {(t["l2"], t["semi_relaxed"]): t["log_loss"] for t in record.settings["tried"]}
    assert list(found) == list(losses)
    assert list(found.values()) == pytest.approx(list(losses.values()), rel=1e-6)
    best = min(losses, key=lambda key: losses[key])
    assert (record.settings["l2"], record.settings["semi_relaxed"]) == best
    twin = transfer(alone[best], sources, target)
    np.testing.assert_array_equal(record.labels, twin.labels)
    assert record.settings | {"tried": []} == twin.settings


def test_one_combination_is_the_alignment_itself_with_all_that_it_draws(sources):
    target, _ = world(4)
    drawing = LINES | {"restarts": 2}
    one = transfer(AutoAlignment(drawing, choose={"l2": [0.1], "alpha": [0.8]}), sources[:2], target)
    same = transfer(AutoAlignment(drawing | {"alpha": 0.8}, l2=0.1), sources[:2], target)
    np.testing.assert_array_equal(one.labels, same.labels)
    np.testing.assert_array_equal(one.controls["shuffled"], same.controls["shuffled"])


@pytest.mark.parametrize(
    ("choose", "sentence"),
    [
        ({}, "choose must name an option"),
        ({"l2": []}, r"choose\.l2 must be a list"),
        ({"metric": "euclidean"}, r"choose\.metric must be a list"),
        ({"l2": [0.1, 0.0]}, r"l2 .* must be positive, got 0\.1 or 0\.0"),
        ({"semi_relax": [True]}, "Did you mean 'semi_relaxed'?"),
        ({"semi_relaxed": [True], "epsilon": [0.1]}, "epsilon must be 0"),
    ],
)
def test_what_cannot_be_chosen_from_is_refused(choose, sentence):
    with pytest.raises(ConfigError, match=sentence):
        AutoAlignment(choose=choose)


def test_nothing_is_chosen_on_a_single_source(sources):
    with pytest.raises(DataError, match="give two or more, got 1"):
        transfer(AutoAlignment(choose={"l2": [0.1, 1.0]}), sources[:1], world(4)[0])


def test_options_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="l2"):
        AutoAlignment(l2=0.0)
    for wrong in (math.inf, True):
        with pytest.raises(ConfigError, match=r"must be positive.*, got .*" + str(wrong)):
            AutoAlignment(choose={"l2": [0.1, wrong]})
    with pytest.raises(ConfigError, match="Did you mean 'restarts'"):
        AutoAlignment({"restart": 1})
    with pytest.raises((ConfigError, TypeCheckError), match=r"restarts must be a whole number|'restarts'"):
        AutoAlignment({"restarts": 1.5})
    with pytest.raises(ConfigError, match="least_agreement_of_couplings must lie in"):
        AutoAlignment(least_agreement_of_couplings=2.0)
    with pytest.raises(ConfigError, match="refuse"):
        AutoAlignment(on_risk="refuze")


def test_a_score_balances_the_label_s_pull_with_the_penalty():
    # one number, one pair two apart: l2 w = 2 sigma(-2 w)
    features, labels = np.array([[1.0], [-1.0]]), np.array([[0.5, 1.0], [0.0, 0.5]])
    (w,) = fit_score([features], [labels], l2=0.1, rng=np.random.default_rng(0))
    assert 0.1 * w == pytest.approx(2 / (1 + math.exp(2 * w)), rel=1e-4)


def test_an_update_without_labels_leaves_the_score_and_many_labels_win():
    features = np.array([[1.0, 0.0], [-1.0, 0.0]])
    score = np.array([1.0, -2.0])
    none = np.array([[0.5, np.nan], [np.nan, 0.5]])
    opposite = np.array([[0.5, 0.0], [1.0, 0.5]])
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(update_score(score, features, none, precision=1.0, rng=rng), score)
    moved = update_score(score, features, opposite, precision=1e-3, rng=rng)
    assert moved[0] < 0
    assert moved[1] == pytest.approx(-2.0)  # nothing was said of it


def test_progress_follows_the_share_of_the_way_that_is_left():
    still = np.zeros((2, 13, 3))
    moving = np.zeros((2, 13, 3))
    moving[0, :, 0] = np.linspace(0, 1, 13)  # the first carries its object to the goal, the second does not
    goal = np.broadcast_to([1.0, 0.0, 0.0], (2, 13, 3))
    paths = {"hand": still, "object": moving, "goal": goal}
    segments = SegmentBatch(
        observations=np.zeros((2, 13, 4), np.float32),
        actions=np.random.default_rng(0).normal(size=(2, 12, 2)).astype(np.float32),
        rewards=np.zeros((2, 12), np.float32),
        successes=np.zeros((2, 12), bool),
        mask=np.ones((2, 12), bool),
        keypoints={name: np.asarray(path, np.float32) for name, path in paths.items()},
    )
    last_phases = compute_features("progress", segments)[:, -6:]
    assert (last_phases[0] < last_phases[1]).all()
    assert compute_features("approach", segments).shape[1] == 8 + 3 * 6
