import itertools
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from robopref.errors import ConfigError, DataError
from robopref.objectives import lists, pairs

SCORES = torch.tensor([[0.3, 0.5, -0.2, -0.4]], dtype=torch.float64)
GRADES = torch.tensor([[3.0, 2.0, 1.0, 0.0]], dtype=torch.float64)
LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "ranknet": lists.ranknet,
    "hinge_list": lists.hinge_list,
    "plackett_luce": lists.plackett_luce,
    "listnet": lists.listnet,
    "lipo_lambda": lists.lipo_lambda,
    "one_versus_many": lists.one_versus_many,
    "levels": partial(lists.levels, top=3.0),
}


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (lists.ranknet, 3.0178806955),
        (partial(lists.ranknet, average=True), 0.5029801159),
        (lists.hinge_list, 3.2),
        (lists.plackett_luce, 2.4429768038),
        (lists.listnet, 1.2199615363),
        (partial(lists.lipo_lambda, normalise=False), 4.5346917258),
    ],
)
def test_list_losses_equal_the_published_numbers(loss: Callable[..., torch.Tensor], expected: float):
    assert loss(SCORES, GRADES).item() == pytest.approx(expected, abs=1e-9)


def test_the_ranking_loss_of_more_leaves_padding_out():
    mask = torch.tensor([[True, True, True, False]])
    padded = torch.tensor([[3.0, 2.0, 1.0, -1.0]], dtype=torch.float64)
    assert lists.ranknet(SCORES, padded, mask, average=True).item() == pytest.approx(0.5584673008, abs=1e-9)


def test_gradients_equal_the_published_ones():
    for loss, expected in (
        (lists.plackett_luce, [-0.69920458, -0.10716436, -0.00679694, 0.81316589]),
        (partial(lists.lipo_lambda, normalise=False), [-2.26996888, -0.01989826, 0.8615674, 1.42829975]),
    ):
        scores = SCORES.clone().requires_grad_()
        loss(scores, GRADES).sum().backward()
        assert scores.grad is not None
        assert scores.grad[0].tolist() == pytest.approx(expected, abs=1e-8)


def test_a_list_of_two_is_dpo_for_ranknet_plackett_luce_and_lipo():
    scores, grades = SCORES.new_tensor([[0.06, -0.06]]), SCORES.new_tensor([[1.0, 0.0]])
    dpo = pairs.bradley_terry(scores[:, 0], scores[:, 1], None)
    assert dpo.item() == pytest.approx(0.6349461016, abs=1e-9)
    for loss in (lists.ranknet, lists.plackett_luce, lists.lipo_lambda, lists.one_versus_many):
        torch.testing.assert_close(loss(scores, grades), dpo)
    raw = lists.lipo_lambda(scores, grades, normalise=False)
    assert raw.item() == pytest.approx(0.3380807435, abs=1e-9)
    torch.testing.assert_close(lists.lipo_lambda(scores, 5 * grades), dpo)


def test_plackett_luce_is_the_chance_of_the_order_drawn_one_by_one():
    def chance(order: tuple[int, ...]) -> float:
        left, product = list(order), 1.0
        while left:
            weights = [math.exp(SCORES[0, i].item()) for i in left]
            product *= weights[0] / sum(weights)
            left.pop(0)
        return product

    assert sum(chance(order) for order in itertools.permutations(range(4))) == pytest.approx(1)
    for order in itertools.permutations(range(4)):
        grades = torch.zeros_like(GRADES)
        for place, item in enumerate(order):
            grades[0, item] = -place
        assert lists.plackett_luce(SCORES, grades).item() == pytest.approx(-math.log(chance(order)))


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(-80, 80).map(lambda n: n / 4), st.integers(0, 4)), min_size=2, max_size=6
    ),
    seed=st.integers(0, 99),
    by=st.integers(-3, 3),
)
def test_order_of_the_items_and_level_of_the_scores_do_not_matter(
    name: str, rows: list[tuple[float, int]], seed: int, by: int
):
    scores = torch.tensor([[row[0] for row in rows]], dtype=torch.float64)
    grades = torch.tensor([[row[1] for row in rows]], dtype=torch.float64)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    loss = LOSSES[name]
    torch.testing.assert_close(loss(scores[:, order], grades[:, order]), loss(scores, grades))
    if len(set(grades[0].tolist())) > 1 or name != "levels":
        torch.testing.assert_close(loss(scores + by, grades), loss(scores, grades))


@pytest.mark.parametrize("name", LOSSES)
def test_padding_changes_neither_loss_nor_gradient_even_if_it_holds_nan(name: str):
    nan = float("nan")
    short = SCORES.clone().requires_grad_()
    long = torch.cat([SCORES, SCORES.new_tensor([[nan, 7.0]])], -1).requires_grad_()
    grades = torch.cat([GRADES, GRADES.new_tensor([[9.0, nan]])], -1)
    mask = torch.tensor([[True] * 4 + [False] * 2])
    loss = LOSSES[name]
    expected, got = loss(short, GRADES), loss(long, grades, mask)
    torch.testing.assert_close(got, expected)
    expected.sum().backward()
    got.sum().backward()
    assert short.grad is not None
    assert long.grad is not None
    torch.testing.assert_close(long.grad, torch.cat([short.grad, torch.zeros(1, 2, dtype=torch.float64)], -1))


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_of_list_losses_agree_with_finite_differences(name: str):
    scores = torch.tensor([[0.3, 0.9, -0.2, -0.45], [1.3, -2.0, 0.1, 0.7]], dtype=torch.float64)
    grades = torch.tensor([[3.0, 2.0, 1.0, 0.0], [0.0, 3.0, 3.0, 1.0]], dtype=torch.float64)
    loss = LOSSES[name]
    assert torch.autograd.gradcheck(lambda s: loss(s, grades), (scores.requires_grad_(),))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
def test_lists_stay_finite_at_scores_of_ten_thousand(name: str, dtype: torch.dtype):
    grades = torch.tensor([[3.0, 2.0, 1.0, 0.0], [2.0, 2.0, 2.0, 2.0]], dtype=dtype)
    for sign in (1, -1):
        scores = (sign * torch.tensor([[1e4, 0.0, -1e4, 5.0]] * 2)).to(dtype).requires_grad_()
        losses = LOSSES[name](scores, grades)
        losses.sum().backward()
        assert scores.grad is not None
        assert losses.isfinite().all()
        assert scores.grad.isfinite().all()


@pytest.mark.parametrize("name", ["ranknet", "hinge_list", "lipo_lambda", "one_versus_many"])
def test_a_list_of_ties_loses_nothing_and_pulls_nowhere(name: str):
    scores = SCORES.clone().requires_grad_()
    loss = LOSSES[name](scores, torch.ones_like(SCORES)).sum()
    loss.backward()
    assert scores.grad is not None
    assert loss.item() == 0
    assert (scores.grad == 0).all()


def test_ranks_start_at_one_and_ties_share_their_mean():
    assert lists.ranks(torch.tensor([[0.5, 2.0, 0.5, -1.0]])).tolist() == [[2.5, 1.0, 2.5, 4.0]]


def test_levels_weigh_pairs_won_from_the_top_and_push_a_single_level():
    scores = SCORES.new_tensor([[1.0, 0.2, -0.3], [0.4, 0.1, 0.0], [0.4, 0.1, 0.0]])
    grades = SCORES.new_tensor([[2.0, 1.0, 0.0], [2.0, 2.0, 2.0], [1.0, 1.0, 1.0]])

    def log_loss(x: float) -> float:
        return math.log1p(math.exp(-x))

    got = lists.levels(scores, grades, top=2.0)
    assert got[0].item() == pytest.approx((2.5 * log_loss(0.8) + 2.5 * log_loss(1.3) + log_loss(0.5)) / 3)
    assert got[1].item() == pytest.approx(sum(log_loss(x) for x in (0.4, 0.1, 0.0)) / 3)
    assert got[2].item() == pytest.approx(sum(log_loss(-x) for x in (0.4, 0.1, 0.0)) / 3)


def test_bad_lists_are_refused_with_a_sentence():
    one = torch.zeros(2, 1)
    with pytest.raises(DataError, match="list of one"):
        lists.ranknet(one, one)
    with pytest.raises(DataError, match=r"Row \[1\] of the mask keeps fewer than 2 item"):
        lists.listnet(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([[True] * 3, [True, False, False]]))
    with pytest.raises(DataError, match="finite"):
        lists.plackett_luce(torch.zeros(1, 2), torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(DataError, match="30 at most"):
        lists.lipo_lambda(torch.zeros(1, 2), torch.tensor([[100.0, 0.0]]))
    with pytest.raises((DataError, TypeCheckError)):  # "Lists are rows, (B, K)"
        lists.ranknet(torch.zeros(3), torch.arange(3.0))
    with pytest.raises(ConfigError, match="margin must be a finite number"):
        lists.one_versus_many(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), margin=math.nan)
