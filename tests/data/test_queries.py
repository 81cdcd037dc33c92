"""Random pairs of segments."""

import numpy as np
import pytest

from robopref.data.queries import random_pairs
from robopref.errors import ConfigError, DataError


def test_every_segment_of_every_long_enough_episode_can_be_drawn(new_store):
    store = new_store((3, 2, 5, 4))
    a, b = random_pairs(store, 2000, 3, np.random.default_rng(0))
    possible = {(0, 0), (2, 0), (2, 1), (2, 2), (3, 0), (3, 1)}
    for side in (a, b):
        assert {*zip(side.episode.tolist(), side.start.tolist(), strict=True)} == possible
        assert (side.length == 3).all()
    assert (a.episode != b.episode).all()
    store.segments(a.episode, a.start, a.length)


def test_both_sides_draw_each_episode_equally_often(new_store):
    a, b = random_pairs(new_store((3, 3, 9)), 6000, 2, np.random.default_rng(1))
    for side in (a, b):  # 2000 each, standard deviation 37
        assert np.abs(np.bincount(side.episode) - 2000).max() < 150


def test_whole_episodes_have_their_own_lengths(new_store):
    store = new_store((3, 2, 5))
    a, b = random_pairs(store, 50, None, np.random.default_rng(0))
    for side in (a, b):
        assert (side.start == 0).all()
        assert (side.length == store.lengths[side.episode]).all()


def test_in_a_single_episode_the_two_segments_start_apart(new_store):
    a, b = random_pairs(new_store((2, 5)), 200, 4, np.random.default_rng(0))
    assert (a.start != b.start).all()
    assert set(a.start) == set(b.start) == {0, 1}


def test_the_same_seed_draws_the_same_pairs(new_store):
    store = new_store((3, 2, 5))
    draws = [random_pairs(store, 20, 2, np.random.default_rng(5)) for _ in range(2)]
    assert draws[0][0].start.tolist() == draws[1][0].start.tolist()
    assert draws[0][1].episode.tolist() == draws[1][1].episode.tolist()


def test_too_long_segments_or_no_pairs_are_refused(new_store):
    store = new_store((3, 2))
    with pytest.raises(DataError, match=r"two different segments of 6 actions.*the longest of 3"):
        random_pairs(store, 5, 6, np.random.default_rng(0))
    with pytest.raises(DataError, match=r"two different segments of 3 actions"):
        random_pairs(store, 5, 3, np.random.default_rng(0))
    with pytest.raises(DataError, match=r"two different whole episodes; .* has 0 episodes"):
        random_pairs(new_store(name="empty"), 5, None, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="must be positive"):
        random_pairs(store, 0, 2, np.random.default_rng(0))
