"""Ranked candidates: the file, the batches, the scores, and the choice of the best one."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from robopref.data.candidates import Candidates
from robopref.errors import ConfigError, DataError
from robopref.policies.candidates import CandidateLists, CandidatePairs
from robopref.policies.diffusion import DiffusionPolicy
from robopref.policies.preference import PreferencePolicy
from robopref.rewards.candidates import (
    CandidateReward,
    ExplicitReward,
    ImplicitReward,
    ProductReward,
    RankedPolicy,
)
from robopref.rewards.saved import load_reward, save_reward
from robopref.scores import Scores

TINY = {"kind": "mlp", "hidden": [16], "time_size": 8}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def made(states=4, count=3, horizon=2, seed=0):
    """Candidates whose grade is the first action's first entry: the larger the better."""
    rng = np.random.default_rng(seed)
    chunks = rng.uniform(-1, 1, (states, count, horizon, 2)).astype(np.float32)
    return Candidates(
        rng.normal(size=(states, 3)).astype(np.float32),
        chunks,
        chunks[:, :, 0, 0].astype(np.float64),
        np.arange(states),
        np.zeros(states, np.int64),
        {"task": "toy", "source": "teacher"},
    )


def preferring(kind="diffusion", **options):
    actor = {"kind": kind, "horizon": 2, "backbone": TINY, "sample_steps": 3, "draws": 4}
    return PreferencePolicy(3, 2, actor=actor, **options)


def test_a_file_of_candidates_gives_back_every_bit_and_where_it_is_from(tmp_path):
    candidates = made()
    candidates.grades[1, 2] = np.nan
    candidates.save(tmp_path / "c.parquet")
    loaded = Candidates.load(tmp_path / "c.parquet")
    assert loaded.content() == candidates.content()
    assert loaded.about == candidates.about


def test_pairs_are_those_with_an_order_the_widest_gap_first():
    grades = np.array([[1.0, 3.0, 3.0, np.nan], [2.0, 2.0, 2.0, 2.0]])
    chunks = np.zeros((2, 4, 1, 1), np.float32)
    candidates = Candidates(np.zeros((2, 1), np.float32), chunks, grades, np.arange(2), np.arange(2))
    assert candidates.pairs().tolist() == [[0, 1, 0], [0, 2, 0]]
    assert candidates.pairs(1).tolist() == [[0, 1, 0]]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("grades", np.zeros((4, 2)), "do not fit"),
        ("observations", np.full((4, 3), np.nan, np.float32), "state 0 holds NaN"),
        ("chunks", np.full((4, 3, 2, 2), 2.0, np.float32), r"not within \[-1, 1\]"),
        ("grades", np.full((4, 3), np.inf), "infinite"),
        ("seeds", np.arange(3), "4 seeds"),
    ],
)
def test_candidates_that_make_no_sense_are_refused(field, value, message):
    with pytest.raises(DataError, match=message):
        dataclasses.replace(made(), **{field: value})


def test_missing_foreign_and_damaged_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="no file of candidates"):
        Candidates.load(tmp_path / "none.parquet")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="not a readable Parquet"):
        Candidates.load(tmp_path / "damaged.parquet")
    with pytest.raises(ConfigError, match="for 4 states"):
        made().first(5)


def test_batches_hold_the_better_candidate_first_and_lists_their_grades():
    candidates = made()
    pairs = CandidatePairs(candidates)
    batch = pairs.batch(torch.arange(len(pairs)))
    assert (batch["actions_a"][:, 0, 0] > batch["actions_b"][:, 0, 0]).all()
    assert batch["observations_a"].shape == (12, 2, 3)
    joined = CandidatePairs(candidates, joined=True).batch(torch.arange(12))
    assert torch.equal(joined["actions_a"][:, 0], batch["actions_a"].flatten(1))
    lists = CandidateLists(candidates).batch(torch.arange(4))
    assert torch.equal(lists["labels"], lists["actions"][:, 0, 0].reshape(4, 3))
    with pytest.raises(DataError, match="better than another"):
        CandidatePairs(dataclasses.replace(candidates, grades=np.zeros((4, 3))))


@pytest.mark.parametrize("sampler", [CandidatePairs, CandidateLists])
def test_a_preference_policy_learns_the_order_of_candidates(sampler):
    objective = "rpro" if sampler is CandidatePairs else "plackett_luce"
    policy = preferring("flow", objective=objective, beta=20.0, learning_rate=3e-3)
    data, generator = sampler(made(states=20)), seeded()
    optimiser = torch.optim.Adam(policy.parameter_groups())
    for _ in range(60):
        loss, _ = policy.loss(data.sample(16, generator), generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    _, logged = policy.loss(data.batch(torch.arange(len(data))), generator)
    assert logged["accuracy"] > 0.8


def test_the_implicit_reward_of_an_untrained_policy_is_exactly_zero_for_every_candidate():
    candidates = torch.rand(2, 5, 2, 2, generator=seeded())
    scores = ImplicitReward(preferring()).score(torch.zeros(2, 3), candidates, generator=seeded())
    for column in scores:
        assert torch.equal(column, torch.zeros(2, 5))


def test_the_implicit_reward_is_beta_times_half_the_drop_in_error_under_draws_shared_by_all_candidates():
    policy = preferring("flow", beta=4.0)
    with torch.no_grad():
        policy.actor.network.layers[-1].bias += 0.1
    candidates = torch.rand(1, 2, 2, 2, generator=seeded()).expand(1, 2, 2, 2).clone()
    candidates[:, 1] = candidates[:, 0]
    mean, *doubts, error = ImplicitReward(policy, draws=8).score(
        torch.zeros(1, 3), candidates, generator=seeded(3)
    )
    draw = policy.actor.draw(1, generator=seeded(3), draws=8, window=(0.0, 1.0))
    with torch.no_grad():
        drop = policy.reference.errors(torch.zeros(1, 3), candidates[:, 0], draw) - policy.actor.errors(
            torch.zeros(1, 3), candidates[:, 0], draw
        )
    assert mean[0, 0].item() == pytest.approx(2.0 * drop.mean().item(), abs=1e-5)
    assert error[0, 0].item() == pytest.approx(2.0 * drop.std().item() / math.sqrt(8), abs=1e-5)
    assert mean[0, 1] == mean[0, 0]  # the same chunk, the same draw
    assert not any(doubt.any() for doubt in doubts)  # the error of an estimate is neither


def test_the_error_of_a_single_draw_is_not_known_and_costs_no_candidate_its_rank():
    candidates = torch.rand(1, 3, 2, 2, generator=seeded())
    policy = preferring("flow", beta=4.0)
    with torch.no_grad():
        policy.actor.network.layers[-1].bias += 0.1
    scores = ImplicitReward(policy, draws=1).score(torch.zeros(1, 3), candidates, generator=seeded())
    assert scores.error.isnan().all()
    assert torch.equal(scores.value(2.0), scores.mean)
    assert scores.mean.isfinite().all()


def test_the_implicit_reward_of_a_gaussian_is_exact():
    policy = PreferencePolicy(3, 2, hidden=(8,), beta=0.5)
    with torch.no_grad():
        policy.actor.network.biases[-1] += 0.2
    observations, candidates = torch.randn(2, 3), torch.rand(2, 4, 1, 2)
    mean, *doubts = ImplicitReward(policy).score(observations, candidates, generator=seeded())
    ratio = policy.actor.score(observations, candidates[:, 3]) - policy.reference.score(
        observations, candidates[:, 3]
    )
    assert torch.allclose(mean[:, 3], 0.5 * ratio, atol=1e-6)
    assert not any(doubt.any() for doubt in doubts)


def test_doubt_is_split_into_what_members_and_what_labels_differ_in():
    reward = CandidateReward(3, 2, horizon=2, members=4, hidden=(8,))
    observations, candidates = torch.randn(2, 3), torch.rand(2, 5, 2, 2)
    mean, epistemic, aleatoric = reward.doubt(observations, candidates)
    _, total = reward.predict(observations[:, None].expand(-1, 5, -1), candidates.flatten(2))
    assert torch.allclose((epistemic**2 + aleatoric**2).sqrt(), total, atol=1e-5)
    scores = ExplicitReward(reward).score(observations, candidates, generator=seeded())
    for column, expected in zip(scores, (mean, epistemic, aleatoric, 0 * mean), strict=True):
        assert torch.equal(column, expected)
    assert torch.equal(scores.value(2.0), mean - 2 * epistemic)  # what labels differ in costs nothing
    with torch.no_grad():  # members that are one and the same doubt nothing
        for parameter in reward.network.parameters():
            parameter.copy_(parameter[:1].expand_as(parameter))
    assert reward.doubt(observations, candidates)[1].max() < 1e-6


def test_a_saved_reward_of_candidates_scores_as_before(tmp_path):
    encoder = {"kind": "points", "count": 2, "channels": 3, "features": 4}
    reward = CandidateReward(6, 2, horizon=2, encoder=encoder, hidden=(8,))
    reward.fit_normaliser(torch.randn(10, 6))
    save_reward(tmp_path, reward)
    loaded = load_reward(tmp_path)
    assert isinstance(loaded, CandidateReward)
    observations, candidates = torch.randn(2, 6), torch.rand(2, 5, 2, 2)
    for before, after in zip(
        reward.doubt(observations, candidates), loaded.doubt(observations, candidates), strict=True
    ):
        assert torch.equal(before, after)


def test_the_explicit_reward_learns_the_order_of_candidates():
    data = CandidatePairs(made(states=20), joined=True)
    reward = CandidateReward(3, 2, horizon=2, hidden=(32,), learning_rate=1e-2)
    reward.fit_normaliser(data.observations())
    optimiser, generator = torch.optim.Adam(reward.parameter_groups()), seeded()
    for _ in range(80):
        loss, _ = reward.loss(data.sample(32, generator), generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    _, logged = reward.loss(data.batch(torch.arange(len(data))), generator)
    assert logged["accuracy"] > 0.9


class FirstEntry(nn.Module):
    """A scorer that knows what is best: the largest first entry of the first action; large ones doubted."""

    def __init__(self, doubt=0.0):
        super().__init__()
        self.doubt = doubt

    def score(self, observations, candidates, *, generator):
        none = torch.zeros(candidates.shape[:2])
        return Scores(candidates[:, :, 0, 0], self.doubt * candidates[:, :, 0, 0].abs(), none, none)


def test_the_best_candidate_is_chosen_and_only_its_first_actions_are_handed_out():
    policy = DiffusionPolicy(3, 2, horizon=3, backbone=TINY, sample_steps=3)
    observations = torch.randn(4, 3, generator=seeded())
    candidates = policy.sample(observations, 6, generator=seeded(1))
    chosen = RankedPolicy(policy, FirstEntry(), count=6, execute=2).act(observations, generator=seeded(1))
    assert chosen.shape == (4, 2, 2)
    assert torch.equal(chosen[:, 0, 0], candidates[:, :, 0, 0].amax(1))
    first = RankedPolicy(policy, None, count=6).act(observations, generator=seeded(1))
    assert torch.equal(first, candidates[:, 0])
    careful = RankedPolicy(policy, FirstEntry(doubt=1.0), count=6, caution=9.0)
    entries = candidates[:, :, 0, 0]
    best = (entries - 9 * entries.abs()).argmax(1)
    assert torch.equal(careful.act(observations, generator=seeded(1)), candidates[torch.arange(4), best])
    with pytest.raises(ConfigError, match="at least 1"):
        RankedPolicy(policy, None, count=0)
    with pytest.raises(ConfigError, match="must not be negative"):
        RankedPolicy(policy, None, count=2, caution=-1.0)


def test_the_product_of_strengths_adds_scores_and_each_kind_of_squared_doubt():
    class Constant(nn.Module):
        def __init__(self, *values):
            super().__init__()
            self.values = values

        def score(self, observations, candidates, *, generator):
            return Scores(*(torch.full(candidates.shape[:2], value) for value in self.values))

    product = ProductReward(Constant(1.0, 3.0, 0.0, math.nan), Constant(2.0, 4.0, 7.0, 1.0))
    scores = product.score(torch.zeros(1, 3), torch.zeros(1, 2, 1, 1), generator=seeded())
    assert [column.tolist() for column in scores[:3]] == [[[3.0, 3.0]], [[5.0, 5.0]], [[7.0, 7.0]]]
    assert scores.error.isnan().all()  # of what is not known nothing is known with something added


class Scored(nn.Module):
    def __init__(self, *means):
        super().__init__()
        self.mean = torch.tensor([means])

    def score(self, observations, candidates, *, generator):
        zeros = torch.zeros_like(self.mean)
        return Scores(self.mean, zeros, zeros, zeros)


def test_a_candidate_without_a_finite_score_is_never_the_best():
    policy = DiffusionPolicy(3, 2, horizon=2, backbone=TINY, sample_steps=3)
    observations = torch.zeros(1, 3)
    candidates = policy.sample(observations, 4, generator=seeded())[0]
    ranked = RankedPolicy(policy, Scored(-3.0, math.nan, -2.0, math.inf), count=4)
    assert torch.equal(ranked.act(observations, generator=seeded())[0], candidates[2])
    broken = RankedPolicy(policy, Scored(math.nan, -math.inf), count=2)
    with pytest.raises(DataError, match="has a finite score"):
        broken.act(observations)
