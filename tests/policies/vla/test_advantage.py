"""Decisions become likelier or less likely by their advantages: by hand, at the clip, and when it learns."""

import copy

import numpy as np
import pytest
import torch

from robopref.errors import ConfigError
from robopref.policies.vla.advantage import ClippedAdvantage
from tests.policies.vla.conftest import continuous, tiny


def batch_of(policy, signs, seed=0):
    """Some decisions, the first with one action that was never taken, and their scores as they are."""
    draw = torch.Generator().manual_seed(seed)
    count = len(signs)
    frames = torch.randint(0, 256, (count, 16, 16, 3), generator=draw, dtype=torch.uint8)
    words = torch.from_numpy(np.stack([policy.tokenizer.encode("open the drawer")] * count))
    batch = {
        "frames": frames,
        "words": words,
        "targets": policy.targets(torch.rand(count, 2, 2, generator=draw) * 2 - 1),
        "mask": torch.ones(count, 2, dtype=torch.bool),
        "sign": torch.tensor(signs),
    }
    batch["mask"][0, 1] = False
    return batch | {"reference": entries(policy, batch).detach() if policy.exact else torch.zeros(count, 1)}


def entries(policy, batch, draw=None):
    given = {name: batch[name] for name in ("frames", "words", "targets", "mask")}
    return policy.entry_scores(**given, draw=draw)


def gradient(learner, loss):
    learner.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in learner.policy.parameters() if p.grad is not None])


def test_at_the_start_the_gradient_is_that_of_the_signed_likelihoods(policy):
    """Of ten tokens: the first chunk has two that count, the others four."""
    batch = batch_of(policy, [1.0, -1.0, 0.0])
    learner = ClippedAdvantage(policy)
    loss, shown = learner.loss(batch)
    likelihood = -float(batch["reference"][2].sum())
    assert float(loss.detach()) == pytest.approx((-2 + 4 + likelihood) / 10, rel=1e-5)
    found = gradient(learner, loss)
    by_hand = -(torch.tensor([1.0, -1.0, 1.0]) * entries(policy, batch).sum(1)).sum() / 10
    assert torch.allclose(found, gradient(learner, by_hand), atol=1e-6)
    assert {name: float(value) for name, value in shown.items()} == pytest.approx(
        {"good_change": 0, "bad_change": 0, "clipped": 0}, abs=1e-6
    )


@pytest.mark.parametrize(
    ("sign", "change", "moves"),
    [(1.0, 0.3, False), (1.0, -0.3, True), (-1.0, -0.3, False), (-1.0, 0.3, True), (1.0, 0.1, True)],
)
def test_a_token_that_has_moved_beyond_the_clip_moves_back_but_no_further(policy, sign, change, moves):
    """The second of two moved as far the other way, so that the chunk as a whole did not."""
    batch = batch_of(policy, [sign])
    batch["reference"] = batch["reference"] + torch.tensor([[-change, change, 0.0, 0.0]])
    learner = ClippedAdvantage(policy, clip=0.2)
    loss, shown = learner.loss(batch)
    ratios = np.exp([change, -change])
    expected = -np.minimum(sign * ratios, sign * np.clip(ratios, 0.8, 1.2)).mean()
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    other = not moves or abs(change) < 0.2  # of the two, the one beyond its clip is held
    given = entries(policy, batch)[0]
    alone = sum(
        -sign * ratio * token / 2
        for ratio, token, free in zip(ratios, (given[0], given[1]), (moves, other), strict=True)
        if free
    )
    assert torch.allclose(gradient(learner, loss), gradient(learner, alone), atol=1e-6)
    assert float(shown["clipped"]) == float(abs(change) > 0.2)


def test_windows_of_two_decisions_have_the_gradient_of_all_at_once(policy):
    batch = batch_of(policy, [1.0, -1.0, 0.0, 1.0, -1.0])
    found = []
    for window in (2, 100):
        learner = ClippedAdvantage(policy, window=window)
        found.append(gradient(learner, learner.loss(batch)[0]))
    assert torch.allclose(*found, atol=1e-6)


def test_good_decisions_become_likelier_and_bad_ones_less_likely(policy):
    batch = batch_of(policy, [1.0, 1.0, -1.0, -1.0])
    learner = ClippedAdvantage(policy, clip=0.3, learning_rate=3e-3)
    adam = torch.optim.Adam(learner.parameter_groups())
    for _ in range(40):
        adam.zero_grad()
        learner.loss(batch)[0].backward()
        adam.step()
    change = entries(policy, batch).detach() - batch["reference"]
    assert (change.mean(1)[:2] > 0.1).all()
    assert (change.mean(1)[2:] < -0.1).all()
    assert change.abs().max() < 1.0  # the clip holds it: unclipped, the bad ones fall without end


@pytest.mark.parametrize("head", ["flow", "diffusion"])
def test_a_surrogate_is_compared_with_its_reference_under_the_same_draw(head):
    """At the start all ratios are 1 whatever is drawn; later, those by hand, of a copy that did not learn."""
    policy = continuous(head)
    batch = batch_of(policy, [1.0, -1.0, 0.0])
    learner = ClippedAdvantage(policy, window=2)
    loss, shown = learner.loss(batch, torch.Generator().manual_seed(3))
    assert float(shown["good_change"]) == float(shown["bad_change"]) == 0
    assert gradient(learner, loss).any()
    before = copy.deepcopy(policy)
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(5)))
    loss, shown = learner.loss(batch, torch.Generator().manual_seed(3))
    draw = policy.draw(3, generator=torch.Generator().manual_seed(3))
    now, then = (entries(one, batch, draw)[:, 0] for one in (policy, before))
    change = now - then
    assert float(shown["good_change"]) == pytest.approx(float(change[0].detach()), rel=1e-4)
    ratio = change[:2].exp()
    good = -torch.minimum(ratio[0], ratio[0].clamp(0.8, 1.2))
    bad = torch.maximum(ratio[1], ratio[1].clamp(0.8, 1.2))
    assert float(loss.detach()) == pytest.approx(float((good + bad - now[2]).detach()) / 3, rel=1e-4)


@pytest.mark.parametrize("options", [{"clip": 0.0}, {"clip": 1.0}, {"window": 0}, {"learning_rate": 0.0}])
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ConfigError, match="clip must lie between 0 and 1"):
        ClippedAdvantage(tiny(), **options)
