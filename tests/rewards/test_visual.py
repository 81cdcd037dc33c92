"""Visual rewards on made-up videos: a dot that moves along a line, and a nuisance that preferences ignore."""

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from robopref.data.preferences import Preferences, Segments
from robopref.errors import ConfigError, DataError
from robopref.nets.vision import PcaEncoder
from robopref.rewards.saved import load_frame_reward, save_reward
from robopref.rewards.sequences import (
    FeatureSequences,
    SequencePairs,
    ordered_by_scores,
    spread_over_steps,
    triplets,
)
from robopref.rewards.transport import TransportReward
from robopref.rewards.visual import EnsembleFrameReward
from robopref.training.aligning import AligningPlan, learn_ensemble, learn_transport

FRAMES, EPISODES = 10, 30


def video(end, shade):
    """A bright column moves from the left to ``end`` (0 to 1); the lower half has a shade that means "
    "nothing."""
    frames = np.zeros((FRAMES, 16, 16, 3), np.uint8)
    frames[:, 8:] = shade
    for t, x in enumerate(np.linspace(0, 12 * end, FRAMES)):
        frames[t, :8, int(x) : int(x) + 4] = 200
    return frames


@pytest.fixture(scope="module")
def scene():
    """Encoder, sequences, and how far each video went."""
    rng = np.random.default_rng(0)
    ends, shades = rng.uniform(0, 1, EPISODES), rng.integers(0, 255, EPISODES)
    ends[:3], shades[:3] = 1.0, 128
    frames = np.concatenate([video(*pair) for pair in zip(ends, shades, strict=True)])
    encoder = PcaEncoder(width=8, size=16)
    encoder.fit(torch.from_numpy(frames).permute(0, 3, 1, 2))
    features = encoder(torch.from_numpy(frames).permute(0, 3, 1, 2)).numpy()
    return encoder, FeatureSequences(features, np.arange(EPISODES + 1) * FRAMES, 5), ends


def prefer(ends, pairs):
    a, b = np.array(pairs).T
    label = (ends[a] > ends[b]).astype(np.float32)
    zero, length = np.zeros(len(a), np.int64), np.full(len(a), 5 * FRAMES - 5)
    return Preferences(Segments(a, zero, length), Segments(b, zero, length), label, np.ones_like(label))


def builder(scene, **options):
    encoder, sequences, _ = scene
    videos, lengths = sequences.gather([0, 1])

    def build(epsilon=0.05, temperature=0.05):
        reward = TransportReward(
            encoder, demonstrations=2, frames=FRAMES, epsilon=epsilon, temperature=temperature, **options
        )
        reward.set_demonstrations(videos, lengths, torch.from_numpy(sequences.features))
        return reward

    return build


def adam(learner, sampler, steps, batch_size, name):
    optimiser = torch.optim.Adam(learner.parameter_groups())
    draw = torch.Generator().manual_seed(0)
    for _ in range(steps):
        loss, _ = learner.loss(sampler.sample(batch_size, draw), None)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return {}


def ranks_agree(a, b):
    return float(np.corrcoef(np.argsort(np.argsort(a)), np.argsort(np.argsort(b)))[0, 1])


def learned(scene, **options):
    _, sequences, ends = scene
    rng = np.random.default_rng(1)
    pairs = [tuple(rng.choice(np.arange(3, EPISODES), 2, replace=False)) for _ in range(30)]
    plan = AligningPlan(
        steps=50, choosing_steps=5, epsilons=(0.02, 0.1), step_steps=50, step_pairs=300, **options
    )
    pool = np.arange(EPISODES)
    return learn_transport(builder(scene), sequences, prefer(ends, pairs), pool, plan, adam, rng)


@pytest.fixture(scope="module")
def aligned(scene):
    return learned(scene)


def test_the_head_begins_as_the_identity(scene):
    reward = builder(scene)()
    _, sequences, _ = scene
    raw = (torch.from_numpy(sequences.features) - reward.mean) / reward.scale
    assert torch.equal(reward.aligned(torch.from_numpy(sequences.features)), raw)


def test_a_demonstration_scores_best(scene):
    scores = builder(scene)(epsilon=0.005).score_all(scene[1])
    assert scores[:3].min() > scores[3:].max() - 1e-6


def test_another_objective_compares_transport_distances_in_units_of_the_temperature(scene):
    _, sequences, _ = scene
    reward = builder(scene, objective={"name": "hinge", "margin": 2})(temperature=0.1)
    numbers = [4, 5, 6, 7]
    features, lengths = sequences.gather(numbers)
    batch = {"features_a": features[:2], "lengths_a": lengths[:2], "labels": torch.tensor([1.0, 0.0])}
    batch |= {"features_b": features[2:], "lengths_b": lengths[2:], "weights": torch.tensor([3.0, 1.0])}
    loss, logged = reward.loss(batch)
    a, b, c, d = reward.score(features, lengths).tolist()
    expected = (3 * max(0, 2 - (a - c) / 0.1) + max(0, 2 - (d - b) / 0.1)) / 4
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert set(logged) == {"hinge", "accuracy"}
    with pytest.raises(ConfigError, match="ranknet learns from lists, and videos are compared in pairs"):
        builder(scene, objective="ranknet")()


def test_alignment_learns_what_the_preferences_look_at(scene, aligned):
    _, sequences, ends = scene
    untrained = ranks_agree(builder(scene)().score_all(sequences), ends)
    reward, report = aligned
    assert ranks_agree(reward.score_all(sequences), ends) > max(untrained + 0.05, 0.9)
    assert not report["alarm"]["collapsed"]
    best = min(report["candidates"], key=lambda one: one["validation_loss"])
    assert (report["epsilon"], report["temperature"]) == (best["epsilon"], best["temperature"])
    assert len(report["candidates"]) == 4  # two of each


@pytest.mark.parametrize("way", ["blended", "learned", "progress"])
def test_the_reward_of_frames_follows_progress(scene, aligned, way):
    _, sequences, ends = scene
    reward, _ = aligned
    reward.step_reward = way
    steps = reward.steps_all(sequences)
    reward.step_reward = "blended"
    moving = [i for i in range(EPISODES) if ends[i] > 0.5]
    assert np.mean([ranks_agree(steps[i], np.arange(FRAMES)) for i in moving]) > 0.8


def test_what_a_frame_pays_sums_to_the_distance(scene):
    reward = builder(scene)()
    _, sequences, _ = scene
    reward.step_reward = "transport"
    features, lengths = sequences.gather([5, 6])
    assert reward.steps(features, lengths).sum(1).tolist() == pytest.approx(
        reward.score(features, lengths).tolist(), rel=1e-5
    )


def test_a_frame_has_its_reward_whatever_comes_after(scene, aligned):
    _, sequences, _ = scene
    reward, _ = aligned
    features, lengths = sequences.gather([7])
    whole = reward.steps(features, lengths)
    assert torch.allclose(reward.steps(features[:, :5], torch.tensor([5])), whole[:, :5], atol=1e-5)


def test_padding_changes_nothing(scene, aligned):
    _, sequences, _ = scene
    reward, _ = aligned
    short, long = sequences.features[:30], sequences.features[30:70]
    mixed = FeatureSequences(np.concatenate([short, long]), np.array([0, 30, 70]), 5)
    together = reward.score_all(mixed)
    alone = FeatureSequences(short, np.array([0, 30]), 5)
    assert reward.score_all(alone)[0] == pytest.approx(together[0], abs=1e-5)


def test_the_gradient_through_all_sweeps_is_that_of_finite_differences(scene):
    _, sequences, ends = scene
    batch = SequencePairs(sequences, prefer(ends, [(4, 5), (6, 7), (8, 9)])).all()
    batch = {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}
    reward = copy.deepcopy(builder(scene, plan="unrolled")(epsilon=0.1)).double()
    reward.loss(batch)[0].backward()
    bias: Any = reward.get_parameter("head.outer.bias")
    slope = bias.grad[2].item()
    values = []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            bias[2] += step
        values.append(reward.loss(batch)[0].item())
    assert slope == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4)


def test_triplets_are_the_rankings_that_pairs_imply(scene):
    _, sequences, ends = scene
    order = np.argsort(-ends[3:8]) + 3
    ranked, anchors = triplets(
        prefer(ends, [(order[0], order[1]), (order[2], order[1]), (order[0], order[2])])
    )
    found = {
        (int(i), int(a), int(b)) for i, a, b in zip(anchors, ranked.a.episode, ranked.b.episode, strict=True)
    }
    assert found == {(order[0], order[2], order[1])}
    assert ranked.label.tolist() == [0.0]  # the second was preferred
    batch = SequencePairs(sequences, ranked, anchors=anchors).all()
    loss, _ = builder(scene)().loss(batch)
    assert torch.isfinite(loss)
    with pytest.raises(DataError, match="No three episodes are ranked"):
        triplets(prefer(ends, [(3, 4)]))


@pytest.mark.slow
def test_triplets_align_too(scene):
    _, sequences, ends = scene
    reward, _ = learned(scene, anchored_to="triplets")
    assert ranks_agree(reward.score_all(sequences), ends) > 0.8


def test_a_collapsed_space_raises_the_alarm(scene):
    _, sequences, ends = scene
    reward = builder(scene)()
    pairs = SequencePairs(sequences, prefer(ends, list(itertools.combinations(range(4, 12), 2)))).all()
    with torch.no_grad():
        reward.get_parameter("head.outer.bias").fill_(1e3)
    assert "of the spread of the raw ones" in reward.alarm(pairs)["reason"]
    wrong = {**pairs, "labels": 1 - pairs["labels"]}
    assert "are ordered right" in builder(scene)().alarm(wrong)["reason"]


@pytest.mark.parametrize("model", ["bradley_terry", "gaussian"])
def test_ensembles_over_frames_learn_too(scene, model):
    encoder, sequences, ends = scene
    rng = np.random.default_rng(1)
    pairs = [tuple(rng.choice(np.arange(3, EPISODES), 2, replace=False)) for _ in range(60)]
    reward = EnsembleFrameReward(encoder, model=model, options={"hidden": [32], "learning_rate": 1e-2})
    learn_ensemble(reward, sequences, prefer(ends, pairs), np.arange(EPISODES), adam, steps=60)
    assert ranks_agree(reward.score_all(sequences), ends) > 0.7


def test_a_saved_reward_judges_as_before(scene, aligned, tmp_path):
    _, sequences, _ = scene
    reward, _ = aligned
    save_reward(tmp_path / "r", reward)
    copy = load_frame_reward(tmp_path / "r")
    assert isinstance(copy, TransportReward)
    assert np.array_equal(copy.score_all(sequences), reward.score_all(sequences))
    frames = video(0.7, 90)
    assert np.array_equal(copy.judge(frames), reward.judge(frames))
    (tmp_path / "r" / "model.safetensors").write_bytes(b"short")
    with pytest.raises(DataError, match="not a readable safetensors"):
        load_frame_reward(tmp_path / "r")


def test_values_of_frames_are_spread_over_the_steps_that_lead_to_them():
    found = spread_over_steps(np.array([0.0, 10.0, 20.0]), every=5, actions=12)
    assert found.tolist() == [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 20, 20]


def test_bad_videos_and_preferences_are_sentences(scene):
    encoder, sequences, ends = scene
    reward = builder(scene)()
    one: Any = sequences.gather([0])
    two: Any = sequences.gather([0, 1])
    with pytest.raises(DataError, match="Episode 0 has a single frame"):
        FeatureSequences(sequences.features[:13], np.array([0, 1, 13]), 200)
    with pytest.raises(DataError, match="Episode 99 is spoken of, but only 30 are filmed"):
        SequencePairs(sequences, prefer(np.zeros(100), [(4, 99)]))
    broken = FeatureSequences(
        np.where(np.arange(EPISODES * FRAMES)[:, None] == 2 * FRAMES, np.nan, sequences.features),
        sequences.first,
        5,
    )
    with pytest.raises(DataError, match="features of episode 2 hold NaN"):
        broken.gather([2])
    with pytest.raises(DataError, match="the encoder's width changed"):
        reward.score(torch.zeros(1, 4, 5), torch.tensor([4]))
    with pytest.raises(DataError, match="brightest pixel 0"):
        reward.judge(np.zeros((4, 16, 16, 3), np.uint8))
    with pytest.raises(DataError, match="A video of 0 frames"):
        reward.judge(np.zeros((0, 16, 16, 3), np.uint8))
    with pytest.raises(DataError, match="same features"):
        reward.set_demonstrations(two[0], two[1], torch.ones(5, 8))
    with pytest.raises(DataError, match="built for demonstrations of shape"):
        reward.set_demonstrations(one[0], one[1], torch.randn(5, 8))
    with pytest.raises(ConfigError, match="No step_reward is called 'sum'"):
        TransportReward(encoder, step_reward="sum")
    plan = AligningPlan(steps=5)
    with pytest.raises(DataError, match="too few"):
        learn_transport(
            builder(scene),
            sequences,
            prefer(ends, [(4, 5)]),
            np.arange(9),
            plan,
            adam,
            np.random.default_rng(0),
        )


def test_sums_of_shifted_rewards_order_episodes_as_scores_do_and_steps_keep_their_shape():
    steps = [np.array([1.0, 2.0]), np.array([5.0, 5.0, 5.0]), np.array([0.0])]
    shifted = ordered_by_scores(steps, np.array([3.0, 1.0, 2.0]))
    sums = [values.sum() for values in shifted]
    assert np.argsort(sums).tolist() == [1, 2, 0]
    assert np.mean(sums) == pytest.approx(6.0)  # of 3, 15 and 0
    assert np.std(sums) == pytest.approx(np.std([3.0, 15.0, 0.0]))
    for before, after in zip(steps, shifted, strict=True):
        np.testing.assert_allclose(np.diff(after), np.diff(before), atol=1e-12)
    same = ordered_by_scores(steps, np.ones(3))  # scores that tell nothing apart
    np.testing.assert_allclose([values.sum() for values in same], 6.0)


def test_scores_that_differ_by_rounding_alone_order_nothing():
    steps = [np.array([1.0, 2.0]), np.array([5.0, 5.0, 5.0]), np.array([0.0])]
    scores = -3 + np.array([0, 1, 2]) * 1e-7
    shifted = ordered_by_scores(steps, scores)
    np.testing.assert_allclose([values.sum() for values in shifted], 6.0)
    assert np.argsort([v.sum() for v in ordered_by_scores(steps, scores * [1, 2, 3])]).tolist() == [2, 1, 0]


def test_equal_sums_are_spread_by_what_steps_differ_by():
    steps = [np.array([0.0, 2.0]), np.array([2.0, 0.0]), np.array([1.0, 1.0])]
    sums = [values.sum() for values in ordered_by_scores(steps, np.array([3.0, 1.0, 2.0]))]
    assert np.argsort(sums).tolist() == [1, 2, 0]
    assert np.mean(sums) == pytest.approx(2.0)
    assert np.std(sums) == pytest.approx(2 * np.sqrt(2 / 3))  # two steps, four of six 1 from their mean
    same = [values.sum() for values in ordered_by_scores([np.ones(2)] * 2, np.array([0.0, 1.0]))]
    assert same == pytest.approx([1.0, 3.0])  # where steps do not differ either, by 1
