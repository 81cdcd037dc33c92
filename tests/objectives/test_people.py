import math

import pytest
import torch

from robopref.errors import DataError
from robopref.objectives import inference, pairs, people


def test_pal_gives_the_worked_example():
    prototypes = torch.tensor([[0.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    logits = torch.tensor([[0.0, math.log(3)]], dtype=torch.float64)
    points = people.ideal_points(prototypes, logits, torch.tensor([0]))
    assert points.tolist() == [pytest.approx([1.5, 0.0])]
    w = people.pal_scores(torch.tensor([[1.0, 0.0]], dtype=torch.float64), points)
    other = people.pal_scores(torch.tensor([[0.0, 1.0]], dtype=torch.float64), points)
    assert (w - other).item() == pytest.approx(1.3027756377, abs=1e-9)
    assert pairs.bradley_terry(w, other, None).item() == pytest.approx(0.2404146573, abs=1e-9)


def test_with_one_prototype_every_annotator_wants_the_same():
    points = people.ideal_points(torch.randn(1, 3), torch.randn(4, 1), torch.arange(4))
    torch.testing.assert_close(points, points[:1].expand(4, 3))


def test_the_smooth_hinge_equals_the_measured_numbers():
    h = torch.tensor([-6.0, -4.0, 0.0, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(5, dtype=torch.float64)
    assert people.smooth_hinge(h, zero, None).tolist() == pytest.approx([4.5, 2.5, 0.1, 0, 0])
    y = torch.tensor([0.0, 0.2, 0.5, 0.7, 1.0], dtype=torch.float64)
    swapped = people.smooth_hinge(zero, h, 1 - y)
    torch.testing.assert_close(people.smooth_hinge(h, zero, y), swapped)
    inner = torch.tensor([-6.0, -3.0, 0.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: people.smooth_hinge(x, x * 0, None), (inner,))


def test_a_new_annotator_is_found_from_a_few_judgements():
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    a, b = torch.rand(2, 30, 2, generator=generator) * 5
    wanted = torch.tensor([[4.0, 0.0]]).expand(30, 2)
    labels = (people.pal_scores(a, wanted) > people.pal_scores(b, wanted)).float()
    before = prototypes.clone()
    weights = torch.softmax(people.adapt_annotator(prototypes, a, b, labels), -1)
    assert weights.argmax() == 1
    assert weights[1] > 0.7
    assert torch.equal(prototypes, before)


def test_min_norm_weights_of_two_sources_are_the_closed_form():
    gradients = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    weights = people.min_norm_weights(gradients)
    assert weights.tolist() == pytest.approx([0.8, 0.2])
    shortest = weights @ gradients
    assert shortest.tolist() == pytest.approx([0.8, 0.4])
    assert (gradients @ shortest).tolist() == pytest.approx([0.8, 0.8])


def test_min_norm_weights_of_three_sources_agree_with_a_search():
    gradients = torch.tensor([[1.0, 0.2, 0.0], [0.0, 2.0, 0.5], [-0.3, 0.1, 1.5]], dtype=torch.float64)
    weights = people.min_norm_weights(gradients, iterations=2000)
    assert weights.sum().item() == pytest.approx(1)
    assert (weights >= 0).all()
    best = min(
        torch.linalg.vector_norm(
            torch.tensor([i, j, 60 - i - j], dtype=torch.float64) / 60 @ gradients
        ).item()
        for i in range(61)
        for j in range(61 - i)
    )
    assert torch.linalg.vector_norm(weights @ gradients).item() <= best + 1e-6


def test_opposite_or_equal_gradients_give_weights_too():
    same = torch.ones(2, 3)
    assert people.min_norm_weights(same).sum().item() == pytest.approx(1)
    assert people.min_norm_weights(torch.stack([same[0], -same[0]])).tolist() == pytest.approx([0.5, 0.5])
    assert people.min_norm_weights(same[:1]).tolist() == [1.0]
    with pytest.raises(DataError, match="finite"):
        people.min_norm_weights(torch.full((2, 2), float("nan")))


def test_flip_rates_belong_to_annotators_and_stay_below_one_half():
    rates = people.flip_rates(torch.tensor([0.0, 1e4]), torch.tensor([1, 0, 1]))
    assert rates.tolist() == pytest.approx([0.499, 0.2495, 0.499])
    losses = pairs.robust(torch.zeros(3), torch.ones(3), None, flip_prob=rates)
    assert losses.isfinite().all()
    with pytest.raises(DataError, match=r"indices 0 \.\.\. 1"):
        people.flip_rates(torch.zeros(2), torch.tensor([2]))


def test_a_careless_annotators_rate_is_learned_by_the_likelihood_of_flips():
    generator = torch.Generator().manual_seed(2)
    margin = 3 * torch.randn(4000, generator=generator)
    annotators = torch.arange(4000) % 2
    truth = torch.rand(4000, generator=generator) < torch.sigmoid(margin)
    flipped = torch.rand(4000, generator=generator) < torch.where(annotators == 0, 0.05, 0.35)
    labels = (truth ^ flipped).float()
    logits = torch.zeros(2, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.1)
    for _ in range(150):
        rates = people.flip_rates(logits, annotators)
        loss = people.flip_likelihood(margin, torch.zeros_like(margin), labels, flip_prob=rates).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    rates = people.flip_rates(logits.detach(), torch.arange(2))
    assert rates.tolist() == pytest.approx([0.05, 0.35], abs=0.04)


def test_likelihood_of_flips_is_bradley_terry_without_flips_and_finite_far_out():
    h = torch.tensor([1e4, -1e4, 0.3, -2.0], requires_grad=True)
    zero, y = torch.zeros(4), torch.tensor([1.0, 1.0, 0.5, 0.2])
    plain = people.flip_likelihood(h[2:], zero[2:], y[2:], flip_prob=0.0)
    torch.testing.assert_close(plain, pairs.bradley_terry(h[2:], zero[2:], y[2:]))
    losses = people.flip_likelihood(h, zero, y, flip_prob=0.1)
    assert losses.tolist()[:2] == pytest.approx([-math.log(0.9), -math.log(0.1)])
    losses.sum().backward()
    assert h.grad is not None
    assert h.grad.isfinite().all()
    inner = torch.tensor([0.4, -1.0], dtype=torch.float64, requires_grad=True)
    half = torch.tensor([0.5, 0.9], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: people.flip_likelihood(x, -x, half, flip_prob=0.2), (inner,))


def test_objective_weights_follow_the_preferred_rewards_and_vanish_when_met():
    chosen = torch.tensor([[2.0, 1.0]], dtype=torch.float64)
    one = torch.ones(2, dtype=torch.float64)
    target = people.preferred_objective_weights(chosen, one, one)
    assert target.tolist() == [pytest.approx([math.e / (1 + math.e), 1 / (1 + math.e)])]
    assert people.objective_weights_loss(target.log(), target).item() == pytest.approx(0, abs=1e-12)
    assert people.objective_weights_loss(torch.zeros(1, 2, dtype=torch.float64), target).item() > 0
    with pytest.raises(DataError, match="constant"):
        people.preferred_objective_weights(chosen, one, torch.zeros(2, dtype=torch.float64))


def test_source_weights_move_slowly():
    old, new = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert people.smoothed_weights(new, old, momentum=0.75).tolist() == pytest.approx([0.75, 0.25])
    assert people.smoothed_weights(new, None).tolist() == [0.0, 1.0]


def test_guidance_runs_from_the_reference_through_the_aligned_policy():
    reference, aligned = torch.tensor([0.0, 1.0]), torch.tensor([0.5, 1.0])
    assert inference.guided(reference, aligned, 0.0).tolist() == [0.0, 1.0]
    assert inference.guided(reference, aligned, 1.0).tolist() == [0.5, 1.0]
    assert inference.guided(reference, aligned, 4.0, low=-1.0, high=1.0).tolist() == [1.0, 1.0]


def test_guided_scores_of_two_gaussians_are_those_of_a_gaussian_between():
    x, deviation, mean0, mean1, weight = torch.linspace(-3, 3, 13, dtype=torch.float64), 0.7, -0.4, 1.1, 1.6
    scores = [(mean - x) / deviation**2 for mean in (mean0, mean1)]
    expected = ((1 - weight) * mean0 + weight * mean1 - x) / deviation**2
    torch.testing.assert_close(inference.guided(scores[0], scores[1], weight), expected)


def test_the_best_candidate_may_be_the_surer_one():
    means, deviations = torch.tensor([[1.0, 1.2, 0.0]]), torch.tensor([[0.1, 0.9, 0.0]])
    assert inference.best_of(means).tolist() == [1]
    assert inference.best_of(means, deviations, caution=1.0).tolist() == [0]
    with pytest.raises(DataError, match="not finite"):
        inference.best_of(torch.tensor([[1.0, float("nan")]]))


def test_nearby_directions_are_unit_vectors_within_the_angle_and_begin_with_the_preference():
    preference = torch.tensor([3.0, 4.0, 0.0], dtype=torch.float64)
    directions = inference.nearby_directions(
        preference, 64, angle_rad=0.2, generator=torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(64, dtype=torch.float64))
    torch.testing.assert_close(directions[0], preference / 5)
    cosines = directions @ preference / 5
    assert (cosines >= math.cos(0.2) - 1e-12).all()
    rewards = torch.stack([directions, directions.flip(0)])
    assert inference.best_for_preference(rewards, preference).tolist() == [0, 63]
    with pytest.raises(DataError, match="at least 2 objectives"):
        inference.nearby_directions(torch.zeros(3), 4, generator=torch.Generator())
