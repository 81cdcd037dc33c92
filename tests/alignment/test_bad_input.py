"""What an alignment does with sets that are small, uneven, broken or unlike each other."""

import dataclasses

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from robopref.alignment.auto import AutoAlignment
from robopref.alignment.cpa import CrossTaskAlignment
from robopref.alignment.sets import LabelledSet
from robopref.alignment.transfer import labels_from_scores
from robopref.errors import DataError

WAYS = {
    "auto": AutoAlignment(),
    "cpa": CrossTaskAlignment(),
    "quantised": CrossTaskAlignment(solver="quantised", landmarks=3),
    "semi-relaxed": CrossTaskAlignment(alpha=0.9, semi_relaxed=True),
    "torch": CrossTaskAlignment(alpha=0.9, solver="torch"),
    "wasserstein": CrossTaskAlignment(alpha=0.0),
}


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


def ranked(name, segments) -> LabelledSet:
    return LabelledSet(name, segments, labels_from_scores(np.arange(float(len(segments)))))


def transfer(way, sources, target):
    return way.transfer(sources, target, rng=np.random.default_rng(0))


@pytest.mark.parametrize("sizes", [(2, 2), (2, 7), (8, 2), (9, 5)])
def test_sets_of_two_and_of_uneven_size_are_aligned(way, make_segments, sizes):
    target = make_segments(count=sizes[1], seed=1)
    record = transfer(way, [ranked("press", make_segments(count=sizes[0]))], target)
    assert record.labels.shape == (sizes[1], sizes[1])
    np.testing.assert_allclose(record.labels + record.labels.T, 1, rtol=1e-12)


def test_a_set_of_one_episode_is_refused(way, make_segments):
    with pytest.raises(DataError, match=r"1 episode\(s\); a comparison needs at least 2"):
        transfer(way, [ranked("press", make_segments(count=5))], make_segments(count=1))
    with pytest.raises(DataError, match=r"'press' holds 1 episode\(s\)"):
        ranked("press", make_segments(count=1))


def test_duplicated_episodes_are_aligned(way, make_segments, take):
    twice = take(make_segments(count=4), np.repeat(np.arange(4), 2))
    record = transfer(way, [ranked("press", make_segments(count=8, seed=1))], twice)
    assert np.isfinite(record.labels).all()


def test_a_set_of_copies_of_one_episode_is_refused(way, make_segments, take):
    copies = take(make_segments(count=4), np.zeros(5, int))
    with pytest.raises(DataError, match="the same in all 5 episodes"):
        transfer(way, [ranked("press", make_segments(count=5))], copies)


def test_constant_entries_of_observations_and_actions_do_not_count(make_segments):
    source, target = make_segments(count=6), make_segments(count=6, seed=1)
    record = transfer(WAYS["cpa"], [ranked("press", source)], target)
    padded = [
        dataclasses.replace(
            own, observations=np.concatenate([own.observations, np.full_like(own.observations, 7)], axis=-1)
        )
        for own in (source, target)
    ]
    again = transfer(WAYS["cpa"], [ranked("press", padded[0])], padded[1])
    np.testing.assert_array_equal(again.labels, record.labels)


def test_sets_whose_features_are_all_constant_are_refused(way, make_segments):
    still = make_segments(count=6)
    for array in (still.observations, still.actions, *still.keypoints.values()):
        array[:] = 7
    with pytest.raises(DataError, match="the same in all 6 episodes"):
        transfer(way, [ranked("press", make_segments(count=5))], still)


@pytest.mark.parametrize("broken", ["In the source 'press'", "In the target"])
def test_nan_is_refused_and_its_set_and_episode_named(way, make_segments, broken):
    first, second = make_segments(count=5), make_segments(count=5, seed=1)
    segments = second if broken == "In the target" else first
    segments.observations[3, 2, 0] = segments.keypoints["hand"][3, 2, 0] = np.nan
    with pytest.raises(DataError, match=rf"{broken}.*NaN or infinite in 1 of 5 episodes \(first: \[3\]\)"):
        transfer(way, [ranked("press", first)], second)


@pytest.mark.parametrize("entry", ["observations", "goal"])
@pytest.mark.parametrize("broken", ["first", "third"])
def test_nan_of_one_of_several_sources_is_not_said_of_the_target(make_segments, entry, broken):
    sets = {name: make_segments(count=5, seed=i) for i, name in enumerate(("first", "second", "third", "to"))}
    for segments in sets.values():
        segments.keypoints["goal"] = segments.keypoints["object"] + 1
    bad = sets[broken]
    (bad.observations if entry == "observations" else bad.keypoints["goal"])[3, 2, 0] = np.nan
    target = sets.pop("to")
    sentence = rf"^In the source '{broken}': .* NaN or infinite in 1 of 5 episodes \(first: \[3\]\)"
    with pytest.raises(DataError, match=sentence):
        transfer(AutoAlignment(), [ranked(name, segments) for name, segments in sets.items()], target)


def test_too_few_labels_of_two_sources_are_not_said_of_the_target(make_segments):
    labels = np.full((6, 6), np.nan)
    labels[0, 1], labels[1, 0] = 1.0, 0.0
    sources = [LabelledSet(name, make_segments(count=6, seed=i), labels) for i, name in enumerate("ab")]
    with pytest.raises(DataError, match="With the source 'a' as target of the others: The couplings left"):
        transfer(AutoAlignment({"features": ["mean"]}), sources, make_segments(count=6, seed=3))


def test_the_same_source_twice_is_refused_by_its_name(way, make_segments):
    source = ranked("press", make_segments())
    with pytest.raises(DataError, match=r"each with its own name, got \['press', 'press'\]"):
        transfer(way, [source, source], make_segments(seed=1))


def test_a_target_without_episodes_is_refused(way, make_segments, take):
    none = take(make_segments(), np.zeros(0, int))
    with pytest.raises(DataError, match="holds 0 episodes; a comparison needs at least 2"):
        transfer(way, [ranked("press", make_segments())], none)


def test_more_than_the_memory_that_is_allowed_is_refused_by_auto_too(make_segments):
    with pytest.raises(DataError, match="memory_gib allows 1e-06"):
        transfer(AutoAlignment({"memory_gib": 1e-6}), [ranked("press", make_segments())], make_segments())


@pytest.mark.parametrize(
    ("anchors", "sentence"),
    [
        (np.full((7, 7), np.nan), "a row for each of the 6 target episodes, got 7"),
        (np.full((5, 5), 0.5), "a row for each of the 6 target episodes, got 5"),
        (np.full((6, 6), 2.0), r"must lie in \[0, 1\]"),
    ],
)
def test_anchors_that_are_no_labels_of_the_target_are_refused(make_segments, anchors, sentence):
    source, target = ranked("press", make_segments(count=6)), make_segments(count=6, seed=1)
    with pytest.raises(DataError, match=sentence):
        AutoAlignment().transfer([source], target, rng=np.random.default_rng(0), anchors=anchors)


def test_anchors_that_are_not_square_are_refused(make_segments):
    source, target = ranked("press", make_segments(count=6)), make_segments(count=6, seed=1)
    anchors = np.full((6, 5), np.nan)
    with pytest.raises((DataError, TypeCheckError), match=r"square matrix|parameter 'anchors'"):
        AutoAlignment().transfer([source], target, rng=np.random.default_rng(0), anchors=anchors)


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_a_source_of_nothing_but_failures_or_successes_orders_nothing_and_is_refused(make_segments, outcome):
    labels = labels_from_scores(np.full(6, outcome))
    with pytest.raises(DataError, match="are ties, so no episode is better than another"):
        LabelledSet("press", make_segments(count=6), labels)


def test_a_target_of_nothing_but_failures_is_ordered_and_cannot_be_judged(way, make_segments):
    record = transfer(way, [ranked("press", make_segments(count=6))], make_segments(count=6, seed=1))
    with pytest.raises(DataError, match="no pair has a right order"):
        record.accuracy(np.zeros(6))


def test_tasks_of_other_horizons_observations_and_actions_are_aligned(way, make_segments):
    target = make_segments(count=6, steps=30, observation_size=45, seed=1)
    target = dataclasses.replace(target, actions=np.concatenate([target.actions] * 2, axis=-1))
    if isinstance(way, AutoAlignment):  # 'frame' reads Meta-World's observations, which both have in front
        assert target.observations.shape[-1] > 18
    record = transfer(way, [ranked("press", make_segments(count=8))], target)
    assert np.isfinite(record.labels).all()
