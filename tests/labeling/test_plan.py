"""Plans by what a model is unsure of: which pairs, in which order, and what stays random."""

import itertools

import numpy as np
import pytest
import torch

from robopref.data.preferences import Preferences
from robopref.data.queries import pair_features, random_pairs
from robopref.data.queries_informed import QUERIES, disagreement_scores
from robopref.errors import ConfigError, DataError
from robopref.labeling.items import make_items
from robopref.labeling.plan import columns, make_plan
from robopref.rewards.bradley_terry import BradleyTerryReward
from robopref.rewards.dataset import preference_tensors
from robopref.rewards.metrics import member_preferences, predicted_preferences
from robopref.rewards.saved import load_reward, save_reward
from tests.labeling.made import made_store


@pytest.fixture
def store(tmp_path):
    return made_store(tmp_path / "store", 16)


@pytest.fixture
def reward_dir(store, tmp_path):
    reward = BradleyTerryReward(2, 2, members=4, hidden=(16,), bound="none", seed=3)
    reward.fit_normaliser(torch.as_tensor(np.array(store.array("observations"))))
    save_reward(tmp_path / "reward", reward)
    return tmp_path / "reward"


def scores(store, reward_dir, pairs):
    a, b = columns(pairs)
    unknown = Preferences(a, b, np.full(len(a), 0.5), np.ones(len(a)))
    return disagreement_scores(
        member_preferences(load_reward(reward_dir), preference_tensors(store, unknown, allow_only_ties=True))
    )


def test_disagreement_asks_first_where_the_members_differ_most(store, reward_dir):
    plan = make_plan(
        store,
        pairs=30,
        segment_length=6,
        query="disagreement",
        reward_dir=reward_dir,
        random_share=0.0,
        pool=200,
    )
    spread = scores(store, reward_dir, plan.items)
    assert (np.diff(spread) <= 1e-7).all()
    pool = make_plan(store, pairs=200, segment_length=6).items
    assert spread[-1] >= np.sort(scores(store, reward_dir, pool))[-30] - 1e-7
    assert not plan.at_random


@pytest.mark.parametrize("query", QUERIES)
def test_a_longer_plan_of_any_query_begins_like_a_shorter_one(store, reward_dir, query):
    options = {"segment_length": 6, "query": query, "reward_dir": reward_dir, "pool": 100}
    short, long = (make_plan(store, pairs=n, **options) for n in (20, 60))
    assert long.items[:20] == short.items
    assert (long.name, {i for i in long.at_random if i < 20}) == (short.name, short.at_random)
    assert len(set(map(frozenset, long.items))) == 60


def test_the_random_share_is_that_of_every_beginning(store, reward_dir):
    plan = make_plan(
        store,
        pairs=400,
        segment_length=6,
        query="entropy",
        reward_dir=reward_dir,
        random_share=0.25,
        pool=400,
    )
    assert len(plan.at_random) == 100
    assert 10 <= sum(i < 80 for i in plan.at_random) <= 32  # 20 expected, 5 sigma


def test_random_pairs_of_a_plan_are_spread_evenly_over_the_pool(store, reward_dir):
    counts = np.zeros(16)
    for seed in range(40):
        plan = make_plan(
            store,
            pairs=40,
            query="disagreement",
            reward_dir=reward_dir,
            random_share=0.5,
            pool=100,
            seed=seed,
        )
        for i in plan.at_random:
            for segment in plan.items[i]:
                counts[segment.episode] += 1
    share = counts / counts.sum()
    assert np.abs(share - 1 / 16).max() < 0.03


def test_another_reward_makes_another_plan(store, reward_dir, tmp_path):
    other = BradleyTerryReward(2, 2, members=4, hidden=(16,), seed=4)
    save_reward(tmp_path / "other", other)
    options = {"pairs": 20, "query": "disagreement", "segment_length": 6, "pool": 100}
    first, second = (make_plan(store, reward_dir=d, **options) for d in (reward_dir, tmp_path / "other"))
    assert first.name != second.name


def test_k_center_needs_no_reward_and_covers_more_than_chance(store):
    def uncovered(pairs):
        pool = pair_features(store, *columns(make_plan(store, pairs=300, segment_length=4).items))
        chosen = pair_features(store, *columns(pairs))
        return np.linalg.norm(pool[:, None] - chosen[None], axis=2).min(axis=1).max()

    covering = make_plan(store, pairs=20, segment_length=4, query="k_center", pool=300, random_share=0.0)
    drawn = [make_plan(store, pairs=20, segment_length=4, seed=seed).items for seed in range(1, 6)]
    assert uncovered(covering.items) < min(uncovered(pairs) for pairs in drawn)


def test_a_pair_turned_round_lies_where_it_lay(store):
    a, b = random_pairs(store, 30, 5, np.random.default_rng(0))
    np.testing.assert_allclose(pair_features(store, a, b), pair_features(store, b, a), atol=1e-12)


def test_features_are_means_over_the_segment(store):
    a, b = random_pairs(store, 5, 4, np.random.default_rng(0))
    values = np.array(store.array("actions")[store.transition_rows()], np.float64)
    scaled = (values - values.mean(0)) / values.std(0)
    rows = np.cumsum(store.lengths) - store.lengths
    first, second = (
        np.stack(
            [scaled[rows[e] + s : rows[e] + s + 4].mean(0) for e, s in zip(x.episode, x.start, strict=True)]
        )
        for x in (a, b)
    )
    found = pair_features(store, a, b)
    np.testing.assert_allclose(found[:, 2:4], (first + second), atol=1e-6)
    np.testing.assert_allclose(found[:, 6:8], np.abs(first - second), atol=1e-6)


def test_members_average_to_the_prediction(store, reward_dir):
    a, b = random_pairs(store, 50, 5, np.random.default_rng(0))
    pairs = preference_tensors(store, Preferences(a, b, np.ones(50), np.ones(50)))
    reward = load_reward(reward_dir)
    members = member_preferences(reward, pairs)
    assert members.shape == (4, 50)
    whole = reward.preference_probability(pairs.batch(torch.arange(50))).numpy()
    np.testing.assert_allclose(members.mean(axis=0), whole, atol=1e-5)
    np.testing.assert_allclose(predicted_preferences(reward, pairs), whole, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"query": "disagreement"}, "name one with reward_dir=.*or learn it while people label"),
        ({"query": "k_center", "pairs": 2000}, "the pool must|must be larger"),
        ({"query": "k_center", "random_share": 2.0}, "random_share must lie in"),
        ({"query": "disagrement"}, "Did you mean 'disagreement'"),
    ],
)
def test_options_that_make_no_sense_are_refused(store, options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make_plan(store, **{"pairs": 10, **options})


def test_one_episode_alone_cannot_be_compared(tmp_path):
    alone = made_store(tmp_path / "alone", 1)
    with pytest.raises(DataError, match=r"two different whole episodes.*has 1 episodes"):
        make_plan(alone, pairs=3)
    assert len(make_plan(alone, pairs=3, segment_length=5).items) == 3  # but its parts can


def test_a_folder_without_a_reward_is_named(store, tmp_path):
    with pytest.raises(DataError, match="nothing"):
        make_plan(store, pairs=10, query="entropy", reward_dir=tmp_path / "nothing")


def test_an_online_plan_holds_the_whole_pool_and_asks_about_a_part(store):
    plan = make_plan(store, pairs=30, segment_length=6, query="disagreement", online=True, pool=200)
    assert (len(plan.items), plan.limit) == (200, 30)
    assert 20 <= len(plan.at_random) <= 60


def test_lists_are_ordered_by_how_much_the_members_differ_on_their_pairs(store, reward_dir):
    options = {"clips": 3, "segment_length": 6, "reward_dir": reward_dir, "pool": 60}
    plan = make_items(store, "ranking", items=60, query="disagreement", random_share=0.0, **options)
    drawn = make_items(store, "ranking", items=60, clips=3, segment_length=6)
    assert set(plan.items) == set(drawn.items)
    assert plan.items != drawn.items
    pairs = [pair for item in plan.items for pair in itertools.combinations(item, 2)]
    spread = scores(store, reward_dir, pairs)
    place = np.argsort(np.argsort(-spread, kind="stable")).reshape(60, 3).mean(axis=1)
    assert (np.diff(place) >= -1.5).all()  # ties of the scores aside, the mean place of their pairs rises
    assert not plan.at_random


@pytest.mark.parametrize(
    ("feedback", "clips", "query"), [("ranking", 3, "k_center"), ("updown", 1, "k_center")]
)
def test_a_longer_plan_of_lists_or_clips_begins_like_a_shorter_one(store, feedback, clips, query):
    options = {"clips": clips, "segment_length": 6, "query": query, "pool": 50, "random_share": 0.3}
    short, long = (make_items(store, feedback, items=n, **options) for n in (10, 40))
    assert long.items[:10] == short.items
    assert short.at_random == {i for i in long.at_random if i < 10}
    assert 3 < len(long.at_random) < 25  # 0.3 of 40, deviation 3
    assert len(set(long.items)) == 40


def test_clips_alone_come_from_both_ends_of_the_data_first(store):
    options = {"segment_length": 2, "query": "k_center", "random_share": 0.0, "pool": 150}
    first = make_items(store, "updown", items=8, **options)
    episodes = [item[0].episode for item in first.items]
    assert max(episodes) - min(episodes) == 15


@pytest.mark.parametrize(
    ("feedback", "options", "sentence"),
    [
        ("updown", {"query": "entropy"}, "shows one at a time: there it can be random or k_center"),
        ("ranking", {"query": "entropy", "clips": 3}, "needs one"),
        ("ranking", {"query": "k_centre", "clips": 3}, "Did you mean 'k_center'"),
        ("updown", {"query": "k_center", "pool": 3}, "it must be larger"),
    ],
)
def test_a_query_that_makes_no_sense_for_a_feedback_is_refused(store, feedback, options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make_items(store, feedback, items=5, segment_length=6, **options)
