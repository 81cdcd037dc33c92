import numpy as np
import pytest

from robopref.alignment.cpa import CrossTaskAlignment
from robopref.alignment.sets import LabelledSet, choose_by_clusters
from robopref.alignment.transfer import labels_from_scores
from robopref.errors import ConfigError, DataError


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def scores(count: int, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=count)


@pytest.fixture
def source(make_segments) -> LabelledSet:
    return LabelledSet("press", make_segments(count=12), labels_from_scores(scores(12)))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"alpha": 0.5},
        {"alpha": 0.0},
        {"alpha": 0.9, "semi_relaxed": True},
        {"features": ["frame"], "metric": "cityblock"},
    ],
)
def test_a_target_identical_to_the_source_gets_exactly_the_source_s_labels(source, options):
    record = CrossTaskAlignment(**options).transfer([source], source.segments, rng=rng())
    np.testing.assert_array_equal(record.labels, source.labels)
    assert record.costs["press"] == pytest.approx(0, abs=1e-12)
    assert record.accuracy(scores(12))["transfer"] == 1


def test_permuting_the_target_permutes_its_labels(source, make_segments, take):
    target, order = make_segments(count=9, seed=3), rng(5).permutation(9)
    plain = CrossTaskAlignment().transfer([source], target, rng=rng())
    turned = CrossTaskAlignment().transfer([source], take(target, order), rng=rng())
    np.testing.assert_allclose(turned.labels, plain.labels[np.ix_(order, order)], atol=1e-6)


def test_permuting_the_source_changes_nothing(source, make_segments, take):
    target, order = make_segments(count=9, seed=3), rng(5).permutation(12)
    other = LabelledSet("press", take(source.segments, order), source.labels[np.ix_(order, order)])
    plain = CrossTaskAlignment().transfer([source], target, rng=rng())
    turned = CrossTaskAlignment().transfer([other], target, rng=rng())
    np.testing.assert_allclose(turned.labels, plain.labels, atol=1e-6)


def test_several_sources_features_and_starts_each_have_one_vote(source, make_segments):
    target = make_segments(count=8, seed=3)
    second = LabelledSet("open", make_segments(count=10, seed=4), labels_from_scores(scores(10)))
    alignment = CrossTaskAlignment(features=["mean", "frame"], restarts=2)
    record = alignment.transfer([source, second], target, rng=rng())
    assert len(record.couplings) == len(record.costs) == 2 * 2 * 3
    assert record.couplings["press/frame/start-2"].shape == (12, 8)
    assert record.couplings["open/mean/start-0"].shape == (10, 8)
    assert (record.labels + record.labels.T == 1).all()
    assert record.labels.min() >= 0
    np.testing.assert_allclose(record.confidence, np.abs(2 * record.labels - 1))
    assert len(np.unique(record.labels)) > 5  # a vote is soft


def test_sources_that_contradict_each_other_leave_ties_without_confidence(source):
    opposite = LabelledSet("mirror", source.segments, 1 - source.labels)
    record = CrossTaskAlignment().transfer([source, opposite], source.segments, rng=rng())
    np.testing.assert_array_equal(record.labels, np.full((12, 12), 0.5))
    assert (record.confidence == 0).all()


def test_the_lowest_cost_of_several_starts_is_the_only_vote_when_asked_for(source, make_segments):
    target = make_segments(count=8, seed=3)
    all_starts = CrossTaskAlignment(restarts=5).transfer([source], target, rng=rng())
    best = CrossTaskAlignment(restarts=5, select="lowest_cost").transfer([source], target, rng=rng())
    assert list(best.costs) == ["press"]
    assert best.costs["press"] == min(all_starts.costs.values())


def test_weights_become_the_marginals(source, make_segments):
    target = make_segments(count=6, seed=3)
    weighted = LabelledSet("press", source.segments, source.labels, weights=np.arange(12.0))
    record = CrossTaskAlignment().transfer([weighted], target, rng=rng(), target_weights=np.arange(1.0, 7.0))
    np.testing.assert_allclose(record.couplings["press"].sum(axis=1), np.arange(12) / 66, atol=1e-12)
    np.testing.assert_allclose(record.couplings["press"].sum(axis=0), np.arange(1, 7) / 21, atol=1e-12)


def test_episodes_of_different_lengths_are_aligned(make_segments):
    ragged = make_segments(count=8, steps=20, lengths=[20, 18, 9, 20, 5, 13, 20, 2])
    labelled = LabelledSet("ragged", ragged, labels_from_scores(scores(8)))
    for feature in ("mean", "state_action", "statistics"):
        record = CrossTaskAlignment(features=[feature]).transfer([labelled], ragged, rng=rng())
        np.testing.assert_array_equal(record.labels, labelled.labels)


def test_tasks_of_different_observations_are_aligned(source, make_segments):
    target = make_segments(count=7, steps=30, observation_size=11)
    record = CrossTaskAlignment(features=["state"]).transfer([source], target, rng=rng())
    assert record.labels.shape == (7, 7)
    assert not np.isnan(record.labels).any()


def test_subsets_bound_the_coupling_and_leave_pairs_never_drawn_together_unknown(source, make_segments):
    target = make_segments(count=20, seed=3)
    record = CrossTaskAlignment(max_episodes=5).transfer([source], target, rng=rng())
    plan = record.couplings["press"]
    assert (plan.sum(axis=1) > 0).sum() == (plan.sum(axis=0) > 0).sum() == 5
    assert record.coverage == pytest.approx(10 / 190)
    assert record.confidence[np.isnan(record.labels)].max() == 0
    more = CrossTaskAlignment(max_episodes=5, subsets=30).transfer([source], target, rng=rng())
    assert more.coverage > 0.7
    assert "press/subset-29" in more.couplings


def test_the_paper_s_mode_labels_the_pairs_of_two_clusters_of_two_on_each_side(source, make_segments):
    target = make_segments(count=15, seed=3)
    alignment = CrossTaskAlignment(features=["state_action"], clusters=2, episodes_per_cluster=2)
    record = alignment.transfer([source], target, rng=rng())
    plan = record.couplings["press"]
    chosen = np.flatnonzero(plan.sum(axis=0))
    assert (plan > 0).sum() >= 4
    assert len(chosen) == len(np.flatnonzero(plan.sum(axis=1))) == 4
    assert record.coverage == pytest.approx(6 / 105)
    assert not np.isnan(record.labels[np.ix_(chosen, chosen)]).any()


def test_two_clusters_of_two_come_from_both_of_two_far_groups():
    points = np.concatenate([rng().normal(size=(10, 2)), 100 + rng().normal(size=(3, 2))])
    for seed in range(10):
        chosen = choose_by_clusters(points, clusters=2, each=2, rng=rng(seed))
        assert (chosen >= 10).sum() == 2
        assert len(set(chosen.tolist())) == 4


def test_the_same_seed_gives_the_same_record(source, make_segments):
    target = make_segments(count=9, seed=3)
    alignment = CrossTaskAlignment(max_episodes=6, subsets=2, restarts=1)
    first, second = (alignment.transfer([source], target, rng=rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first.labels, second.labels)
    np.testing.assert_array_equal(first.controls["shuffled"], second.controls["shuffled"])


def test_sparse_source_labels_leave_unreached_target_pairs_unknown(source):
    sparse = source.labels.copy()
    known = np.zeros((12, 12), bool)
    known[0, 1] = known[1, 0] = known[3, 4] = known[4, 3] = True
    sparse[~known & ~np.eye(12, dtype=bool)] = np.nan
    labelled = LabelledSet("press", source.segments, sparse)
    record = CrossTaskAlignment().transfer([labelled], source.segments, rng=rng())
    np.testing.assert_array_equal(record.labels, sparse)
    assert record.coverage == pytest.approx(2 / 66)


def test_every_record_holds_the_four_controls(source, make_segments):
    record = CrossTaskAlignment().transfer([source], make_segments(count=8, seed=3), rng=rng())
    assert set(record.controls) == {"shuffled", "wasserstein", "medoid", "hand_object"}
    assert record.settings["controls_left_out"] == {}


def test_a_control_that_the_data_do_not_allow_is_named_with_its_reason(source, make_segments, caplog):
    target = make_segments(count=8, seed=3)
    target.keypoints.clear()
    record = CrossTaskAlignment().transfer([source], target, rng=rng())
    assert set(record.controls) == {"shuffled", "medoid"}
    assert set(record.settings["controls_left_out"]) == {"wasserstein", "hand_object"}
    assert "hand" in record.settings["controls_left_out"]["hand_object"]
    assert "hand_object" in caplog.text


def test_plain_wasserstein_as_an_alignment_equals_its_control(source, make_segments):
    record = CrossTaskAlignment(alpha=0.0).transfer([source], make_segments(count=8, seed=3), rng=rng())
    np.testing.assert_array_equal(record.labels, record.controls["wasserstein"])


def test_no_source_and_two_sources_of_one_name_are_refused(source, make_segments):
    for sources in ([], [source, source]):
        with pytest.raises(DataError, match="each with its own name"):
            CrossTaskAlignment().transfer(sources, make_segments(), rng=rng())


def test_a_target_of_one_episode_is_refused_by_name(source, make_segments):
    with pytest.raises(DataError, match="In the target: The set holds 1 episode"):
        CrossTaskAlignment().transfer([source], make_segments(count=1), rng=rng())


def test_nan_in_a_source_is_refused_by_name(source, make_segments):
    source.segments.observations[2, 3, 4] = np.nan
    with pytest.raises(DataError, match=r"In the source 'press': .*'mean' is NaN"):
        CrossTaskAlignment().transfer([source], make_segments(), rng=rng())


def test_constant_features_of_the_target_are_refused_by_name(source, make_segments):
    target = make_segments(count=5)
    target.keypoints["object"][:] = 1.0
    with pytest.raises(DataError, match=r"In the target: .*'object' is the same in all 5"):
        CrossTaskAlignment(features=["object"]).transfer([source], target, rng=rng())


def test_labels_that_reach_no_target_pair_are_refused(source, make_segments):
    sparse = np.where(np.eye(12) == 1, 0.5, np.nan)
    sparse[0, 1], sparse[1, 0] = 1, 0
    labelled = LabelledSet("press", source.segments, sparse, weights=np.r_[0, 0, np.ones(10)])
    with pytest.raises(DataError, match="label more source pairs"):
        CrossTaskAlignment().transfer([labelled], make_segments(), rng=rng())


@pytest.mark.parametrize(
    ("name", "count", "labels", "sentence"),
    [
        ("", 3, np.full((3, 3), 0.5), "needs a name"),
        ("a/b", 3, np.full((3, 3), 0.5), "without '/'"),
        ("one", 1, np.full((1, 1), 0.5), "holds 1 episode"),
        ("shape", 4, np.full((3, 3), 0.5), r"must have shape \(4, 4\)"),
        ("ties", 3, np.full((3, 3), 0.5), "ties"),
        ("zero", 3, np.where(np.eye(3) == 1, 0.5, np.nan), "no labelled pair"),
    ],
)
def test_impossible_sources_are_refused(name, count, labels, sentence, make_segments):
    with pytest.raises(DataError, match=sentence):
        LabelledSet(name, make_segments(count=count), labels)


def test_too_few_episodes_for_the_clusters_are_refused(source, make_segments):
    with pytest.raises(DataError, match="2 clusters of 2 need 4"):
        CrossTaskAlignment(clusters=2).transfer([source], make_segments(count=3), rng=rng())


def test_clusters_that_are_never_large_enough_are_refused():
    points = np.array([[0.0], [0.0], [0.0], [0.0], [100.0]])
    with pytest.raises(DataError, match="never split"):
        choose_by_clusters(points, clusters=2, each=2, rng=rng())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"features": ["means"]}, "Did you mean 'mean'"),
        ({"features": []}, "at least one name"),
        ({"features": "mean"}, "must be a list"),
        ({"metric": "l2"}, "No metric"),
        ({"scale": "maximum"}, "No scale"),
        ({"select": "votes"}, "Did you mean 'vote'"),
        ({"alpha": 2.0}, "alpha must lie"),
        ({"restarts": -1}, "restarts must be 0 or more"),
        ({"max_episodes": 1}, "max_episodes must be 2 or more"),
        ({"clusters": 2, "max_episodes": 4}, "give one of them"),
        ({"alpha": 0.0, "restarts": 3}, "convex"),
    ],
)
def test_impossible_options_are_refused(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        CrossTaskAlignment(**options)
