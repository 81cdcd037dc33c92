import dataclasses

import numpy as np
import pytest

from robopref.alignment.features import (
    FEATURES,
    MOMENTS,
    STATISTICS,
    compute_features,
    hand_object_distance,
    standardise,
)
from robopref.data.trajectory import SegmentBatch
from robopref.errors import ConfigError, DataError


def straight_line(velocity: float) -> SegmentBatch:
    """Two episodes: the hand moves along x at ``velocity`` metres a step for 4 steps, the object rests."""
    hand = np.zeros((2, 5, 3), np.float32)
    hand[:, :, 0] = velocity * np.arange(5)
    thing = np.zeros((2, 5, 3), np.float32)
    thing[..., 0] = 2.0
    actions = np.zeros((2, 4, 2), np.float32)
    actions[:, :, 0] = [1, -1, 1, -1]
    flags = np.ones((2, 4), bool)
    return SegmentBatch(
        observations=hand,
        actions=actions,
        rewards=np.zeros((2, 4), np.float32),
        successes=~flags,
        mask=flags,
        keypoints={"hand": hand, "object": thing},
    )


def test_statistics_of_a_straight_line_are_those_worked_by_hand():
    found = dict(zip(STATISTICS, FEATURES["statistics"](straight_line(0.5))[0, 0], strict=True))
    assert found["mean hand-object distance"] == pytest.approx(1.0)  # 2, 1.5, 1, .5, 0
    assert found["least hand-object distance"] == pytest.approx(0.0)
    assert found["last hand-object distance"] == pytest.approx(0.0)
    assert found["hand path length"] == pytest.approx(2.0)
    assert found["hand displacement"] == pytest.approx(2.0)
    assert found["object displacement"] == pytest.approx(0.0)
    assert found["action energy"] == pytest.approx(0.5)  # (1 + 0) / 2 entries
    assert found["action roughness"] == pytest.approx(2.0)  # (2^2 + 0) / 2 entries


@pytest.mark.parametrize("name", sorted(FEATURES))
def test_padding_is_never_read(name, make_segments):
    clean = make_segments(count=6, steps=9, lengths=[9, 7, 4, 9, 2, 1])
    dirty = dataclasses.replace(
        clean,
        observations=clean.observations.copy(),
        actions=clean.actions.copy(),
        keypoints={key: points.copy() for key, points in clean.keypoints.items()},
    )
    for episode, length in enumerate(clean.mask.sum(axis=1)):
        dirty.observations[episode, length + 1 :] = 1e6
        dirty.actions[episode, length:] = np.nan
        for points in dirty.keypoints.values():
            points[episode, length + 1 :] = -1e6
    np.testing.assert_array_equal(compute_features(name, clean), compute_features(name, dirty))


@pytest.mark.parametrize("name", sorted(FEATURES))
def test_features_of_permuted_episodes_are_permuted_features(name, make_segments, take):
    segments = make_segments(count=6)
    order = np.array([3, 1, 5, 0, 4, 2])
    np.testing.assert_allclose(
        compute_features(name, take(segments, order)), compute_features(name, segments)[order], atol=1e-12
    )


def test_long_episodes_are_seen_at_equally_spaced_moments_from_first_to_last(make_segments):
    segments = make_segments(count=3, steps=200)
    segments.observations[..., 0] = np.arange(201)
    seen = FEATURES["state"](segments)[0, :, 0]
    assert len(seen) == MOMENTS
    np.testing.assert_array_equal(seen, np.rint(np.linspace(0, 200, MOMENTS)))


def test_state_action_pairs_each_action_with_the_state_it_was_taken_in(make_segments):
    segments = make_segments(count=3, steps=7, lengths=[7, 5, 2])
    segments.observations[..., 0] = np.arange(8)
    segments.actions[..., 0] = np.arange(7)
    channels = FEATURES["state_action"](segments)
    np.testing.assert_array_equal(channels[..., 0], channels[..., 39])


def test_frame_is_the_first_18_entries_of_each_state(make_segments):
    segments = make_segments(count=4, steps=6)
    np.testing.assert_array_equal(FEATURES["frame"](segments), segments.observations[..., :18])


def test_mean_is_the_mean_over_valid_steps_of_state_and_action(make_segments):
    segments = make_segments(count=2, steps=5, lengths=[5, 2])
    expected = np.concatenate([segments.observations[1, :2].mean(0), segments.actions[1, :2].mean(0)])
    np.testing.assert_allclose(FEATURES["mean"](segments)[1, 0], expected, rtol=1e-6)


def test_hand_object_distance_of_a_straight_line_is_one_metre():
    np.testing.assert_allclose(hand_object_distance(straight_line(0.5)), [1.0, 1.0])


def test_standardised_channels_have_mean_zero_and_deviation_one():
    values = np.random.default_rng(0).normal(5.0, 3.0, size=(50, 1, 4))
    scaled = standardise(values)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(scaled.std(axis=0), 1)


def test_constant_channels_become_zeros_and_not_noise():
    values = np.random.default_rng(0).normal(size=(20, 3, 3))
    values[..., 1] = 0.3 + 1e-9 * values[..., 1]
    scaled = standardise(values).reshape(20, 3, 3)
    assert (scaled[..., 1] == 0).all()
    assert (scaled[..., [0, 2]] != 0).all()


def test_a_channel_that_changes_in_time_alike_in_all_episodes_becomes_zeros():
    values = np.random.default_rng(0).normal(size=(20, 3, 2))
    values[..., 1] = [1.0, 2.0, 3.0]
    assert (standardise(values).reshape(20, 3, 2)[..., 1] == 0).all()


def test_standardised_features_do_not_depend_on_units():
    values = np.random.default_rng(0).normal(size=(20, 3, 2))
    np.testing.assert_allclose(
        standardise(values), standardise(values * [1000.0, 0.01] + [5.0, -2.0]), atol=1e-9
    )


def test_constant_features_are_refused(make_segments):
    segments = make_segments(count=4)
    segments.keypoints["object"][:] = 0.25
    with pytest.raises(DataError, match=r"'object' is the same in all 4 episodes"):
        compute_features("object", segments)


def test_nan_features_are_refused_and_the_episodes_named(make_segments):
    segments = make_segments(count=5)
    segments.observations[3, 0, 2] = np.nan
    with pytest.raises(DataError, match=r"'mean' is NaN or infinite in 1 of 5 episodes \(first: \[3\]\)"):
        compute_features("mean", segments)


def test_one_episode_is_refused(make_segments):
    with pytest.raises(DataError, match="holds 1 episode"):
        compute_features("mean", make_segments(count=1))


def test_an_episode_without_valid_steps_is_refused(make_segments):
    with pytest.raises(DataError, match=r"Episodes \[1\] hold no valid step"):
        compute_features("state", make_segments(count=3, lengths=[4, 0, 5]))


def test_unknown_feature_is_refused_with_the_nearest_name(make_segments):
    with pytest.raises(ConfigError, match=r"Did you mean 'frame'\?"):
        compute_features("frames", make_segments())


def test_missing_keypoint_is_refused_by_name(make_segments):
    segments = make_segments()
    del segments.keypoints["object"]
    with pytest.raises(DataError, match="No keypoint is called 'object'"):
        compute_features("statistics", segments)


def test_frame_of_a_short_observation_is_refused(make_segments):
    with pytest.raises(DataError, match="these observations have 10"):
        compute_features("frame", make_segments(observation_size=10))
