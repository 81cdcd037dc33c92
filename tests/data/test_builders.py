"""Curriculum, selection, augmentation and perturbed negatives."""

import numpy as np
import pytest
import torch

from robopref.data.augmentation import InstructionPairs, hindsight_pairs, reward_conditioned
from robopref.data.curriculum import curriculum, perturbation_difficulty
from robopref.data.negatives import KINDS, hide_observations, perturb_actions, store_with_twins
from robopref.data.preferences import Preferences, Segments
from robopref.data.selection import score_first_diversity
from robopref.data.trajectory import SegmentBatch
from robopref.errors import ConfigError, DataError
from robopref.objectives.audits import difficulty
from tests.policies.store_of import numbered, store_of


def segments(count):
    return Segments(np.arange(count), np.zeros(count, np.int64), np.full(count, 4))


def preferences(labels):
    labels = np.asarray(labels, np.float32)
    return Preferences(segments(len(labels)), segments(len(labels)), labels, np.full(len(labels), 0.5))


def batch_of(lengths, seed=0):
    rng = np.random.default_rng(seed)
    size, steps = len(lengths), max(lengths)
    mask = np.arange(steps) < np.array(lengths)[:, None]
    actions = rng.uniform(-1, 1, (size, steps, 2)) * mask[..., None]
    observations = rng.normal(size=(size, steps + 1, 3))
    nothing = np.zeros((size, steps))
    return SegmentBatch(observations, actions, nothing, nothing.astype(bool), mask, {})


# --- curriculum ---


def test_stages_go_from_easy_to_hard_and_the_last_holds_everything():
    stages = curriculum(np.array([3.0, -1.0, 2.0, 0.0, -1.0, 9.0]), stages=3)
    assert [stage.tolist() for stage in stages] == [[1, 4], [1, 4, 3, 2], [1, 4, 3, 2, 0, 5]]
    parts = curriculum(np.array([3.0, -1.0, 2.0]), stages=3, cumulative=False)
    assert [part.tolist() for part in parts] == [[1], [2], [0]]


def test_the_ranking_theorems_difficulty_puts_pairs_that_the_reference_has_right_first():
    reference_a, reference_b = torch.tensor([-1.0, -5.0, -2.0]), torch.tensor([-4.0, -1.0, -2.5])
    c = difficulty(reference_a, reference_b, torch.tensor([1.0, 1.0, 0.0]))
    assert c.tolist() == pytest.approx([-3.0, 4.0, 0.5])  # log ref(l) - log ref(w), by hand
    assert curriculum(c.numpy(), stages=1)[0].tolist() == [0, 2, 1]


def test_what_was_changed_little_is_hard():
    assert perturbation_difficulty(np.array([1.0, 0.25])).tolist() == [0.0, 0.75]
    with pytest.raises(DataError, match=r"pair 1 has 1\.5"):
        perturbation_difficulty(np.array([0.5, 1.5]))


def test_a_curriculum_without_stages_or_with_unknown_difficulty_is_refused():
    with pytest.raises(ConfigError, match=r"stages must lie in 1 \.\.\. 2"):
        curriculum(np.zeros(2), stages=3)
    with pytest.raises(DataError, match="pair 1 is NaN"):
        curriculum(np.array([0.0, np.nan]), stages=1)


# --- selection ---


def test_the_best_is_kept_and_its_likeness_left_out():
    scores = np.array([1.0, 3.0, 2.0, 0.5])
    embeddings = np.array([[0.0, 2.0], [1.0, 0.0], [5.0, 0.1], [-1.0, 0.0]])
    assert score_first_diversity(scores, embeddings).tolist() == [1, 0, 3]
    assert score_first_diversity(scores, embeddings, budget=2).tolist() == [1, 0]
    assert score_first_diversity(scores, embeddings, threshold=-0.5).tolist() == [1, 3]


def test_no_two_kept_items_are_alike_and_every_other_is_like_a_better_one():
    rng = np.random.default_rng(0)
    scores, embeddings = rng.normal(size=60), rng.normal(size=(60, 3))
    kept = score_first_diversity(scores, embeddings, threshold=0.7)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    alike = unit @ unit.T
    assert (alike[np.ix_(kept, kept)] - np.eye(len(kept)) < 0.7).all()
    for item in set(range(60)) - set(kept.tolist()):
        better = [k for k in kept if scores[k] > scores[item]]
        assert alike[item, better].max() >= 0.7


def test_an_embedding_without_direction_is_refused():
    with pytest.raises(DataError, match="Item 1 has the score"):
        score_first_diversity(np.ones(2), np.array([[1.0], [0.0]]))
    with pytest.raises(ConfigError, match="cosine"):
        score_first_diversity(np.ones(1), np.ones((1, 1)), threshold=2.0)


# --- augmentation ---


def test_a_goal_for_each_score_doubles_the_pairs_and_turns_the_second_half_round():
    given = preferences([1.0, 0.0, 0.8])
    made = reward_conditioned(given, np.array([5.0, 1.0, 3.0]), np.array([2.0, 4.0, 0.0]))
    assert len(made.preferences) == 6
    assert made.goal.tolist() == [5, 4, 3, 2, 1, 0]
    np.testing.assert_allclose(made.preferences.label, [1, 0, 0.8, 0, 1, 0.2], rtol=1e-6)
    assert made.preferences.a.episode.tolist() == [0, 1, 2, 0, 1, 2]
    assert made.preferences.confidence.tolist() == [0.5] * 6


def test_the_goal_of_the_kept_half_is_the_score_of_the_preferred():
    rng = np.random.default_rng(1)
    score_a, score_b = rng.normal(size=(2, 50))
    made = reward_conditioned(preferences(score_a > score_b), score_a, score_b)
    assert (made.goal[:50] >= made.goal[50:]).all()
    np.testing.assert_array_equal(made.preferences.label[:50], 1 - made.preferences.label[50:])


def test_scores_that_are_missing_or_not_finite_are_refused():
    with pytest.raises(DataError, match="needs two scores"):
        reward_conditioned(preferences([1.0]), np.ones(2), np.ones(2))
    with pytest.raises(DataError, match="finite goal"):
        reward_conditioned(preferences([1.0]), np.array([np.nan]), np.ones(1))


def test_hindsight_asks_of_each_behaviour_what_it_achieved_beside_every_other_instruction():
    achieved = np.arange(600) % 3
    made = hindsight_pairs(segments(600), achieved, 3, np.random.default_rng(0))
    assert (made.fitting == achieved).all()
    assert (made.other != made.fitting).all()
    for a in range(3):
        others = np.bincount(made.other[achieved == a], minlength=3)
        assert others[a] == 0
        assert (np.delete(others, a) > 70).all()  # 100 expected


def test_an_instruction_against_itself_or_alone_is_refused():
    with pytest.raises(DataError, match="instruction 1 twice"):
        InstructionPairs(segments(2), np.array([0, 1]), np.array([1, 1]))
    with pytest.raises(DataError, match="two or more"):
        hindsight_pairs(segments(1), np.array([0]), 1, np.random.default_rng(0))


# --- perturbed negatives ---


@pytest.mark.parametrize("kind", KINDS)
def test_a_perturbation_of_nothing_changes_nothing_and_padding_never_changes(kind):
    batch = batch_of([8, 5])
    rng = np.random.default_rng(7)
    np.testing.assert_array_equal(perturb_actions(batch, kind, share=0.0, rng=rng).actions, batch.actions)
    spoiled = perturb_actions(batch, kind, share=1.0, rng=rng)
    assert (spoiled.actions[1, 5:] == 0).all()
    assert not np.array_equal(spoiled.actions[0], batch.actions[0])
    np.testing.assert_array_equal(spoiled.observations, batch.observations)


@pytest.mark.parametrize("kind", ["shuffle", "reverse"])
def test_shuffled_and_reversed_actions_are_the_same_actions(kind):
    batch = batch_of([9])
    spoiled = perturb_actions(batch, kind, share=1.0, rng=np.random.default_rng(0)).actions[0]
    assert sorted(map(tuple, spoiled)) == sorted(map(tuple, batch.actions[0]))


def test_reversing_twice_restores_and_holding_repeats_the_first():
    batch, rng = batch_of([6]), np.random.default_rng(0)
    twice = perturb_actions(
        perturb_actions(batch, "reverse", share=1.0, rng=rng), "reverse", share=1.0, rng=rng
    )
    np.testing.assert_array_equal(twice.actions, batch.actions)
    held = perturb_actions(batch, "hold", share=1.0, rng=rng).actions[0]
    assert (held == batch.actions[0, 0]).all()


def test_no_more_steps_change_than_the_share():
    batch = batch_of([20] * 30)
    for share in (0.1, 0.5):
        spoiled = perturb_actions(batch, "redraw", share=share, rng=np.random.default_rng(0))
        changed = (spoiled.actions != batch.actions).any(-1).sum(1)
        assert (changed == round(20 * share)).all()


def test_hidden_dimensions_are_their_mean_and_others_stay():
    batch = batch_of([4, 2])
    hidden = hide_observations(batch, [1]).observations
    seen = np.concatenate([batch.observations[0, :4, 1], batch.observations[1, :2, 1]])
    np.testing.assert_allclose(hidden[..., 1], seen.mean(), rtol=1e-5)
    np.testing.assert_array_equal(hidden[..., [0, 2]], batch.observations[..., [0, 2]])
    with pytest.raises(DataError, match=r"dimensions 0 \.\.\. 2"):
        hide_observations(batch, [3])


def test_twins_become_a_store_whose_originals_are_preferred(tmp_path):
    with store_of(tmp_path / "store", numbered([3, 5, 4])) as store:
        chosen = np.array([2, 1])
        batch = store.whole_episodes(chosen)
        twins = perturb_actions(batch, "reverse", share=1.0, rng=np.random.default_rng(0))
        written, made = store_with_twins(tmp_path / "twins", store, chosen, twins)
        with written:
            assert written.lengths.tolist() == [4, 4, 5, 5]
            assert made.a.episode.tolist() == [0, 2]
            assert made.b.episode.tolist() == [1, 3]
            assert made.label.tolist() == [1, 1]
            original, twin = written.episode(0), written.episode(1)
            np.testing.assert_array_equal(original.actions, store.episode(2).actions)
            np.testing.assert_array_equal(twin.actions, original.actions[::-1])
            assert twin.provenance.behaviour == "perturbed any"
        with pytest.raises(DataError, match="twin of equal length"):
            store_with_twins(tmp_path / "no", store, np.array([0, 1]), twins)


def test_an_unknown_perturbation_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'shuffle'"):
        perturb_actions(batch_of([3]), "shufle", share=0.5, rng=np.random.default_rng(0))
    with pytest.raises(ConfigError, match="share must lie"):
        perturb_actions(batch_of([3]), "hold", share=2.0, rng=np.random.default_rng(0))
