import dataclasses

import numpy as np
import pytest
import torch

from robopref.data.preferences import Preferences, Segments
from robopref.errors import ConfigError, DataError
from robopref.rewards.dataset import preference_tensors


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def check_against_the_store(batch, store, preferences):
    for name, side in (("a", preferences.a), ("b", preferences.b)):
        expected = store.segments(side.episode, side.start, side.length)
        mask = batch[f"mask_{name}"].numpy()
        steps = expected.mask.shape[1]
        assert np.array_equal(mask[:, :steps], expected.mask)
        assert not mask[:, steps:].any()
        inside = mask[:, :steps]
        got = batch[f"observations_{name}"].numpy()[:, :steps]
        assert np.array_equal(got[inside], expected.observations[:, :-1][inside])
        assert np.array_equal(batch[f"actions_{name}"].numpy()[:, :steps][inside], expected.actions[inside])
        assert torch.isfinite(batch[f"observations_{name}"]).all()
    assert np.array_equal(batch["labels"].numpy(), preferences.label)
    assert np.array_equal(batch["weights"].numpy(), preferences.confidence)


@pytest.mark.parametrize("resident_bytes", [1 << 30, 0])
def test_batches_hold_what_the_store_holds(store, preferences, resident_bytes):
    pairs = preference_tensors(store, preferences, resident_bytes=resident_bytes)
    assert pairs.resident == (resident_bytes > 0)
    (batch,) = pairs.batches(len(preferences))
    check_against_the_store(batch, store, preferences)


@pytest.mark.parametrize("resident_bytes", [1 << 30, 0])
def test_pieces_of_episodes_start_where_they_should(store, resident_bytes):
    rng = np.random.default_rng(3)
    episode = np.array([29, 4, 11])
    a = Segments(episode, np.array([3, 0, 5]), np.array([4, 2, 1]))
    b = Segments(episode[::-1].copy(), np.array([0, 1, 2]), np.array([5, 5, 5]))
    preferences = Preferences(a, b, np.array([1, 0, 0.5], np.float32), rng.random(3).astype(np.float32))
    (batch,) = preference_tensors(store, preferences, resident_bytes=resident_bytes).batches(3)
    check_against_the_store(batch, store, preferences)


def test_one_seed_gives_one_batch_and_draws_every_pair(store, preferences):
    pairs = preference_tensors(store, preferences)
    first, again = (pairs.sample(16, generator(4)) for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    weights = np.linspace(0.1, 1, len(preferences)).astype(np.float32)
    numbered = preference_tensors(store, dataclasses.replace(preferences, confidence=weights))
    drawn = numbered.sample(1000, generator())["weights"]
    assert set(drawn.tolist()) == set(weights.tolist())


def test_batches_cover_every_pair_once(store, preferences):
    pairs = preference_tensors(store, preferences)
    sizes = [len(batch["labels"]) for batch in pairs.batches(16)]
    assert sizes == [16, 16, 8]
    assert len(pairs) == 40


def test_memory_does_not_grow_with_the_number_of_pairs(store, preferences):
    many = Preferences.concatenate([preferences] * 50)
    once, often = preference_tensors(store, preferences), preference_tensors(store, many)
    assert often.segments == once.segments
    assert often._observations.shape == once._observations.shape


def test_observations_are_the_states_that_segments_cover(store):
    a = Segments(np.array([2, 2]), np.array([1, 2]), np.array([3, 3]))  # rows 1-3 and 2-4 overlap
    b = Segments(np.array([5, 5]), np.array([0, 0]), np.array([2, 2]))
    preferences = Preferences(a, b, np.array([1, 0], np.float32), np.ones(2, np.float32))
    states = preference_tensors(store, preferences).observations()
    expected = np.concatenate([store.episode(2).observations[1:5], store.episode(5).observations[:2]])
    assert np.array_equal(states.numpy(), expected)
    assert len(preference_tensors(store, preferences).observations(limit=3)) == 3


def test_zero_pairs_are_refused(store, preferences):
    with pytest.raises(DataError, match="There are no preferences"):
        preference_tensors(store, preferences.select(np.zeros(0, np.int64)))


def test_all_ties_are_refused_unless_allowed(store, preferences):
    ties = dataclasses.replace(preferences, label=np.full(40, 0.5, np.float32))
    with pytest.raises(DataError, match="All 40 preferences are ties, so nothing can be learned"):
        preference_tensors(store, ties)
    assert len(preference_tensors(store, ties, allow_only_ties=True)) == 40


def test_pairs_without_confidence_are_refused(store, preferences):
    unsure = dataclasses.replace(preferences, confidence=np.zeros(40, np.float32))
    with pytest.raises(DataError, match="confidence 0, so nothing can be learned"):
        preference_tensors(store, unsure)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"episode": 99}, "Segment a of pair 3 is in episode 99; the store has 30"),
        ({"length": 15}, "Segment a of pair 3 covers steps 0 to 15"),
        ({"start": 1}, "Segment a of pair 3 covers steps 1 to"),
    ],
)
def test_segments_outside_the_store_are_named(store, preferences, changed, sentence):
    columns = {name: getattr(preferences.a, name).copy() for name in ("episode", "start", "length")}
    for name, value in changed.items():
        columns[name][3] = value
    wrong = dataclasses.replace(preferences, a=Segments(**columns))
    with pytest.raises(DataError, match=sentence):
        preference_tensors(store, wrong)


def test_nan_in_the_store_is_named_by_episode(store, preferences, monkeypatch):
    observations = np.array(store.array("observations"))
    observations[store.first_rows[7] + 2, 1] = np.nan
    arrays = {"observations": observations, "actions": store.array("actions")}
    monkeypatch.setattr(type(store), "array", lambda self, name: arrays[name])
    episode = np.array([3, 7])
    a = Segments(episode, np.zeros(2, np.int64), np.full(2, 4))
    b = Segments(np.array([1, 1]), np.zeros(2, np.int64), np.full(2, 4))
    preferences = Preferences(a, b, np.ones(2, np.float32), np.ones(2, np.float32))
    with pytest.raises(DataError, match="Episode 7 holds NaN"):
        preference_tensors(store, preferences)


def test_batch_size_zero_is_refused(store, preferences):
    with pytest.raises(ConfigError, match="batch_size"):
        preference_tensors(store, preferences).sample(0, generator())
