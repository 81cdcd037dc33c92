"""Reward models trained with other losses than Bradley-Terry."""

from typing import Any

import numpy as np
import pytest
import torch

from robopref.data.graded_lists import GradedLists, graded_lists
from robopref.data.preferences import Preferences, Segments
from robopref.errors import ConfigError, DataError
from robopref.objectives import pairs as pair_losses
from robopref.objectives.bradley_terry import preference_logits, preference_loss
from robopref.objectives.description import REWARD
from robopref.objectives.gaussian import reparametrised_samples
from robopref.objectives.lists import plackett_luce
from robopref.objectives.registry import REGISTRY
from robopref.rewards.bradley_terry import BradleyTerryReward
from robopref.rewards.dataset import list_tensors, preference_tensors
from robopref.rewards.gaussian import GaussianReward
from robopref.rewards.metrics import preference_metrics
from robopref.rewards.saved import load_reward, save_reward
from robopref.rewards.transformer import PreferenceTransformer

FITTING = [name for name, objective in REGISTRY.items() if not objective.refusal(REWARD)]
LISTED = [name for name in FITTING if REGISTRY[name].labels == "lists"]


def small(kind: type[BradleyTerryReward | GaussianReward] = BradleyTerryReward, **options):
    return kind(4, 2, members=2, hidden=(16,), bound="none", learning_rate=3e-3, **options)


@pytest.fixture
def batch(store, draw_pairs):
    tensors = preference_tensors(store, draw_pairs(8, np.random.default_rng(3)))
    batch = tensors.batch(torch.arange(8))
    return batch | {"labels": torch.linspace(0, 1, 8), "weights": torch.linspace(0.1, 1, 8)}


def returns(reward, batch):
    a, b = reward.estimate_pair(batch)
    return (
        reward.segment_return(a.mean, batch["mask_a"]),
        reward.segment_return(b.mean, batch["mask_b"]),
    )


def test_the_default_is_the_fused_cross_entropy_bit_for_bit(batch):
    reward = small(flip_prob=0.1)
    a, b = returns(reward, batch)
    expected = preference_loss(
        preference_logits(a, b), batch["labels"], weights=batch["weights"], flip_prob=0.1
    ).sum()
    assert reward.loss(batch)[0].item() == expected.item()
    assert "cross_entropy" in reward.loss(batch)[1]


def test_another_objective_is_summed_over_members_and_weighed_over_pairs(batch):
    reward = small(objective={"name": "ipo", "tau": 0.25})
    a, b = returns(reward, batch)
    expected = 0.0
    for member in range(2):
        for pair in range(8):
            h, y = (a - b)[member, pair].item(), batch["labels"][pair].item()
            loss = y * (h - 2) ** 2 + (1 - y) * (-h - 2) ** 2
            expected += loss * batch["weights"][pair].item() / batch["weights"].sum().item()
    total, logged = reward.loss(batch)
    assert total.item() == pytest.approx(expected, rel=1e-5)
    assert logged["ipo"].item() == pytest.approx(expected / 2, rel=1e-5)


def test_samples_of_a_gaussian_reward_are_scored_each_and_averaged(batch):
    reward = small(GaussianReward, objective="hinge", samples=3, entropy_weight=0.0)
    a, b = reward.estimate_pair(batch)
    generator = torch.Generator().manual_seed(5)
    draws = [reparametrised_samples(e.mean, e.deviation, 3, generator) for e in (a, b)]
    sums = [reward.segment_return(d, batch[f"mask_{s}"]) for d, s in zip(draws, "ab", strict=True)]
    losses = pair_losses.hinge(
        sums[0], sums[1], batch["labels"].expand_as(sums[0])
    )  # (3 samples, 2 members, 8 pairs)
    expected = (losses * batch["weights"] / batch["weights"].sum()).sum(-1).mean(0).sum()
    got = reward.loss(batch, torch.Generator().manual_seed(5))[0]
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", FITTING)
def test_every_objective_that_fits_orders_held_out_pairs(name, store, draw_pairs):
    rng = np.random.default_rng(0)
    learned = preference_tensors(store, draw_pairs(150, rng, length=5))
    held_out = preference_tensors(store, draw_pairs(200, rng, length=5))
    reward = small(objective=name)
    reward.fit_normaliser(learned.observations())
    optimiser = torch.optim.Adam(reward.parameter_groups())
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        optimiser.zero_grad()
        reward.loss(learned.sample(32, generator), generator)[0].backward()
        optimiser.step()
    assert preference_metrics(reward, held_out)["pair_accuracy"] > 0.8


@pytest.mark.parametrize("name", LISTED)
def test_every_objective_of_lists_learns_an_order_from_lists(name, store, draw_pairs):
    episodes = np.arange(len(store))
    whole = Segments(episodes, np.zeros_like(episodes), np.asarray(store.lengths))
    a, b = np.triu_indices(len(store), 1)
    label = (store.returns[a] > store.returns[b]).astype(np.float32)
    preferences = Preferences(whole.select(a), whole.select(b), label, np.ones_like(label))
    lists = list_tensors(store, graded_lists(preferences, 4, 100, np.random.default_rng(0)))
    reward = small(objective=name)
    reward.fit_normaliser(lists.observations())
    optimiser = torch.optim.Adam(reward.parameter_groups())
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        optimiser.zero_grad()
        reward.loss(lists.sample(8, generator), generator)[0].backward()
        optimiser.step()
    assert preference_metrics(reward, preference_tensors(store, preferences))["pair_accuracy"] > 0.85


def test_a_batch_of_lists_loses_what_each_members_returns_lose(store):
    whole = Segments(
        np.array([3, 1, 2, 0, 4, 4]), np.zeros(6, int), np.asarray(store.lengths)[[3, 1, 2, 0, 4, 4]]
    )
    grades, items = np.array([[2, 1, 0], [1, 0, 9]]), np.array([[True] * 3, [True, True, False]])
    lists = GradedLists(whole, grades, items, np.array([0.5, 1.0]))
    batch = list_tensors(store, lists).batch(torch.arange(2))
    for kind, options in ((BradleyTerryReward, {}), (GaussianReward, {"samples": 2, "entropy_weight": 0.0})):
        reward = small(kind, objective="plackett_luce", **options)
        if kind is GaussianReward:
            with torch.no_grad():  # no deviation to speak of: every sample is the mean
                reward.network.biases[-1][:, 0, 1] = -50.0
        estimate, mask = reward.estimate_batch(batch)
        expected = 0.0
        for member in reward.segment_return(estimate.mean, mask).reshape(2, 2, 3):
            full = plackett_luce(member[:1], torch.tensor([[2.0, 1.0, 0.0]]))
            short = plackett_luce(member[1:, :2], torch.tensor([[1.0, 0.0]]))
            expected += (0.5 * full + 1.0 * short).item() / 1.5
        assert reward.loss(batch)[0].item() == pytest.approx(expected, rel=1e-2)
    with pytest.raises(DataError, match="dpo learns from soft pairs, and got lists"):
        small().loss(batch)


def test_sorted_returns_want_equal_confidence(batch):
    hard = batch | {"labels": torch.ones(8)}
    with pytest.raises(DataError, match="all confidences must be equal"):
        small(objective="aot_unpaired").loss(hard)


def test_the_objective_is_saved_with_the_reward(tmp_path):
    save_reward(tmp_path, small(objective={"name": "hinge", "margin": 2}))
    assert load_reward(tmp_path).config["objective"] == {"name": "hinge", "margin": 2.0}


def test_an_objective_that_does_not_fit_a_reward_is_refused():
    with pytest.raises(ConfigError, match="orpo does not train a reward model: it needs probabilities"):
        small(objective="orpo")


@pytest.mark.parametrize("kind", [BradleyTerryReward, GaussianReward, PreferenceTransformer])
def test_what_padding_holds_reaches_no_gradient_and_an_empty_segment_is_refused(kind, store, draw_pairs):
    options: dict[str, Any] = (
        {"width": 8, "attention_heads": 2} if kind is PreferenceTransformer else {"hidden": (8,)}
    )
    reward = kind(4, 2, members=2, **options)
    batch = preference_tensors(store, draw_pairs(8, np.random.default_rng(3))).batch(torch.arange(8))
    spoiled = {key: value.clone() for key, value in batch.items()}
    assert not batch["mask_a"].all()
    for side in "ab":
        for name in ("observations", "actions"):
            spoiled[f"{name}_{side}"][~batch[f"mask_{side}"]] = np.nan
    found = []
    for given in (batch, spoiled):
        reward.zero_grad()
        reward.loss(given, torch.Generator().manual_seed(0))[0].backward()
        found.append([p.grad.clone() for p in reward.parameters() if p.grad is not None])
    for mine, other in zip(*found, strict=True):
        assert mine.isfinite().all()
        torch.testing.assert_close(other, mine)
    torch.testing.assert_close(reward.preference_probability(spoiled), reward.preference_probability(batch))
    spoiled["mask_a"][2] = False
    with pytest.raises(DataError, match=r"Row \[2\] of the mask keeps fewer than 1 step"):
        reward.loss(spoiled)
