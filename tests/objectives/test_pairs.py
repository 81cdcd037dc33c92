import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from robopref.errors import ConfigError, DataError
from robopref.objectives import pairs, sorted_pairs
from robopref.objectives.divergences import divergence_scores, f_dpo
from robopref.objectives.scores import log_ratio, timed

GOLDEN = json.loads((Path(__file__).parent / "golden_trl_1.16.0.json").read_text())
VALUES = {name: torch.tensor(numbers, dtype=torch.float64) for name, numbers in GOLDEN["inputs"].items()}
ELL_W = VALUES["chosen"] - VALUES["ref_chosen"]
ELL_L = VALUES["rejected"] - VALUES["ref_rejected"]
MEAN_W, MEAN_L = ELL_W / VALUES["len_chosen"], ELL_L / VALUES["len_rejected"]

# Objective as TRL names it: the loss here, of the winner's and the loser's log-ratio and beta.
OURS: dict[str, Callable[[float], torch.Tensor]] = {
    "sigmoid": lambda beta: pairs.bradley_terry(beta * ELL_W, beta * ELL_L, None),
    "hinge": lambda beta: pairs.hinge(beta * ELL_W, beta * ELL_L, None),
    "ipo": lambda beta: pairs.ipo(beta * MEAN_W, beta * MEAN_L, None, tau=beta, beta=beta),
    "exo_pair": lambda beta: pairs.exo(beta * ELL_W, beta * ELL_L, None, flip_prob=1e-3),
    "nca_pair": lambda beta: pairs.nca(beta * ELL_W, beta * ELL_L, None),
    "bco_pair": lambda beta: pairs.bco_pair(beta * ELL_W, beta * ELL_L, None),
    "sppo_hard": lambda beta: pairs.sppo(ELL_W, ELL_L, None, tau=beta),
    "apo_zero": lambda beta: pairs.apo_zero(beta * ELL_W, beta * ELL_L, None),
    "apo_down": lambda beta: pairs.apo_down(beta * ELL_W, beta * ELL_L, None),
    "discopop": lambda beta: pairs.discopop(beta * ELL_W, beta * ELL_L, None),
    "sigmoid_norm": lambda beta: pairs.bradley_terry(beta * MEAN_W, beta * MEAN_L, None),
}
PAIR_LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "bradley_terry": pairs.bradley_terry,
    "conservative": pairs.conservative,
    "robust": pairs.robust,
    "hinge": pairs.hinge,
    "ipo": pairs.ipo,
    "exo": pairs.exo,
    "nca": pairs.nca,
    "bco_pair": pairs.bco_pair,
    "sppo": pairs.sppo,
    "apo_zero": pairs.apo_zero,
    "apo_down": pairs.apo_down,
    "discopop": pairs.discopop,
    "sigmoid_link": pairs.sigmoid_link,
    "margin": lambda a, b, y: pairs.margin(a, b, y, margins=0.3, centre=0.01),
    "contrastive": pairs.contrastive,
    "directed": pairs.directed,
    "proximal": lambda a, b, y: pairs.proximal(a, b, y, a.square(), b.square(), imitation_weight=0.5),
}
UNMOVED_BY_A_SHIFT = [
    "bradley_terry",
    "conservative",
    "robust",
    "hinge",
    "ipo",
    "exo",
    "discopop",
    "sigmoid_link",
]


@pytest.mark.parametrize("beta", [0.1, 0.5])
@pytest.mark.parametrize("name", OURS)
def test_every_pair_loss_equals_the_golden_numbers_of_trl(name: str, beta: float):
    smoothing = 1e-3 if name == "exo_pair" else 0.0
    golden = GOLDEN["dpo"][f"{name}|beta={beta}|ls={smoothing}"]["per_example"]
    # exo has two terms of size 7 that nearly cancel and TRL took their difference: 1e-9 all the same.
    assert OURS[name](beta).tolist() == pytest.approx(golden, rel=0, abs=1e-9)


@pytest.mark.parametrize("beta", [0.1, 0.5])
@pytest.mark.parametrize("flip_prob", [0.0, 0.1])
def test_robust_and_both_sorted_losses_equal_the_golden_numbers_of_trl(beta: float, flip_prob: float):
    golden = GOLDEN["dpo"]
    key = f"beta={beta}|ls={flip_prob}"
    robust = pairs.robust(beta * ELL_W, beta * ELL_L, None, flip_prob=flip_prob)
    assert robust.tolist() == pytest.approx(golden[f"robust|{key}"]["per_example"], rel=0, abs=1e-9)
    reference = beta * (VALUES["ref_chosen"] - VALUES["ref_rejected"])
    paired = sorted_pairs.aot(
        beta * VALUES["chosen"], beta * VALUES["rejected"], None, reference, flip_prob=flip_prob
    )
    assert paired.mean().item() == pytest.approx(golden[f"aot|{key}"]["batch_mean"], rel=0, abs=1e-9)
    apart = sorted_pairs.aot_unpaired(beta * ELL_W, beta * ELL_L, None, flip_prob=flip_prob)
    assert apart.mean().item() == pytest.approx(golden[f"aot_unpaired|{key}"]["batch_mean"], rel=0, abs=1e-9)


@pytest.mark.parametrize("kind", ["forward_kl", "js_divergence"])
def test_the_f_divergences_equal_the_golden_numbers_of_trl(kind: str):
    golden = pytest.approx(GOLDEN["dpo"][f"sigmoid|{kind}|beta=0.1"], rel=0, abs=1e-9)
    name = kind.removesuffix("_divergence")
    w, losing = (0.1 * divergence_scores(ell, name) for ell in (ELL_W, ELL_L))
    assert pairs.bradley_terry(w, losing, None).mean().item() == golden
    assert f_dpo(0.1 * ELL_W, 0.1 * ELL_L, None, divergence=name, beta=0.1).mean().item() == golden


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_labels_of_one_say_the_same_as_no_labels(name: str):
    a, b = torch.randn(2, 9, dtype=torch.float64)
    loss = PAIR_LOSSES[name]
    torch.testing.assert_close(loss(a, b, torch.ones_like(a)), loss(a, b, None))


@pytest.mark.parametrize("name", [n for n in PAIR_LOSSES if n != "exo"])
def test_a_soft_label_mixes_the_losses_of_the_two_orders(name: str):
    a, b = torch.randn(2, 9, dtype=torch.float64)
    y = torch.rand(9, dtype=torch.float64)
    loss = PAIR_LOSSES[name]
    torch.testing.assert_close(loss(a, b, y), y * loss(a, b, None) + (1 - y) * loss(b, a, None))


@pytest.mark.parametrize("name", PAIR_LOSSES)
@settings(max_examples=12, deadline=None)
@given(
    a=st.floats(-50, 50, width=32),
    b=st.floats(-50, 50, width=32),
    y=st.floats(0, 1, width=32),
    by=st.floats(-5, 5),
)
def test_a_swapped_pair_with_a_turned_label_loses_the_same(
    name: str, a: float, b: float, y: float, by: float
):
    first, second, label = (torch.tensor([x], dtype=torch.float64) for x in (a, b, y))
    loss = PAIR_LOSSES[name]
    torch.testing.assert_close(loss(first, second, label), loss(second, first, 1 - label))
    if name in UNMOVED_BY_A_SHIFT:
        torch.testing.assert_close(loss(first + by, second + by, label), loss(first, second, label))


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_losses_of_a_batch_are_those_of_its_pairs_in_any_order(name: str):
    a, b, y = torch.rand(3, 7, dtype=torch.float64)
    order = torch.randperm(7)
    loss = PAIR_LOSSES[name]
    torch.testing.assert_close(loss(a[order], b[order], y[order]), loss(a, b, y)[order])
    torch.testing.assert_close(loss(a[2:3], b[2:3], y[2:3]), loss(a, b, y)[2:3])


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_gradients_of_pair_losses_agree_with_finite_differences(name: str, labelled: bool):
    generator = torch.Generator().manual_seed(3)
    a, b, y = torch.rand(3, 6, dtype=torch.float64, generator=generator)
    labels = y if labelled else None
    loss = PAIR_LOSSES[name]
    arguments = (a.mul(3).requires_grad_(), b.mul(3).requires_grad_())
    assert torch.autograd.gradcheck(lambda first, second: loss(first, second, labels), arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_loss_and_gradient_stay_finite_at_a_margin_of_ten_thousand(name: str, dtype: torch.dtype):
    for labels in (None, torch.tensor([0.0, 1.0, 0.5, 0.3], dtype=dtype)):
        for far in (1e4, -1e4, 150.0, -150.0, 0.0):
            a = torch.full((4,), far / 2, dtype=dtype, requires_grad=True)
            b = torch.full((4,), -far / 2, dtype=dtype, requires_grad=True)
            losses = PAIR_LOSSES[name](a, b, labels)
            losses.sum().backward()
            assert a.grad is not None
            assert b.grad is not None
            assert losses.isfinite().all()
            assert a.grad.isfinite().all()
            assert b.grad.isfinite().all()


def test_the_loss_of_a_small_wrong_pair_keeps_its_digits_in_float32():
    a, b = torch.tensor([15.0]), torch.tensor([0.0])
    assert pairs.bradley_terry(a, b, None).item() == pytest.approx(math.log1p(math.exp(-15)), rel=1e-6)


def test_gradient_of_dpo_at_a_margin_of_seven_tenths_is_the_known_number():
    a = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    pairs.bradley_terry(a, torch.zeros_like(a), None).sum().backward()
    assert a.grad is not None
    assert a.grad.item() == pytest.approx(-0.3318122278, abs=1e-10)


def test_robust_loss_averaged_over_flips_is_the_clean_loss():
    h = torch.linspace(-8, 8, 33, dtype=torch.float64)
    zero = torch.zeros_like(h)
    for e in (0.1, 0.3, 0.45):
        true, flipped = (pairs.robust(h, zero, torch.full_like(h, y), flip_prob=e) for y in (1.0, 0.0))
        torch.testing.assert_close((1 - e) * true + e * flipped, pairs.bradley_terry(h, zero, None))


def test_conservative_loss_is_least_at_the_logit_of_the_share_of_right_labels():
    h = torch.tensor([math.log(4)], dtype=torch.float64, requires_grad=True)
    pairs.conservative(h, torch.zeros_like(h), None, flip_prob=0.2).sum().backward()
    assert h.grad is not None
    assert math.log(4) == pytest.approx(1.3862943611)
    assert h.grad.item() == pytest.approx(0, abs=1e-12)


def test_flip_probabilities_may_differ_between_pairs():
    a, b = torch.randn(2, 4, dtype=torch.float64)
    rates = torch.tensor([0.0, 0.1, 0.2, 0.4], dtype=torch.float64)
    for loss in (pairs.conservative, pairs.robust):
        each = torch.cat([loss(a[[i]], b[[i]], None, flip_prob=rates[i].item()) for i in range(4)])
        torch.testing.assert_close(loss(a, b, None, flip_prob=rates), each)


def test_binary_classification_bounds_dpo_from_above_by_the_known_gap():
    a, b = torch.randn(2, 1000, dtype=torch.float64) * 3
    gap = pairs.bco_pair(a, b, None) - pairs.bradley_terry(a, b, None)
    shared = (b - a).exp()
    torch.testing.assert_close(gap, torch.log(1 + (-a).exp() + b.exp() + shared) - torch.log(1 + shared))
    assert (gap > 0).all()


def test_ipo_is_least_where_the_log_ratios_differ_by_half_of_one_over_tau():
    ell = torch.tensor([5.0], dtype=torch.float64)
    assert pairs.ipo(ell, torch.zeros_like(ell), None, tau=0.1).item() == pytest.approx(0)


def test_exo_is_zero_where_the_probability_meets_the_soft_label():
    y = torch.tensor([0.5, 0.7, 0.2], dtype=torch.float64)
    target = 1e-3 + (1 - 2e-3) * y
    losses = pairs.exo(torch.logit(target), torch.zeros_like(y), y)
    torch.testing.assert_close(losses, torch.zeros_like(y))


def test_discopop_equals_its_formula_where_that_is_finite():
    h = torch.linspace(-3, 3, 25, dtype=torch.float64)
    mix = torch.sigmoid(h / 0.05)
    written = (1 - mix) * -F.logsigmoid(h) + mix * torch.exp(-h)
    torch.testing.assert_close(pairs.discopop(h, torch.zeros_like(h), None), written)


def test_direction_of_eurus_gives_the_published_example():
    a, b = torch.tensor([1.0], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)
    plain = pairs.bradley_terry(a, b, None)
    assert plain.item() == pytest.approx(0.4740769842, abs=1e-10)
    assert (pairs.directed(a, b, None) - plain).item() == pytest.approx(1.2873386717, abs=1e-10)


def test_biased_contrastive_loss_gives_the_measured_numbers():
    a, b = torch.tensor([0.06], dtype=torch.float64), torch.tensor([-0.06], dtype=torch.float64)
    assert pairs.contrastive(a, b, None, bias=1.0).item() == pytest.approx(0.6349461016, abs=1e-9)
    assert pairs.contrastive(a, b, None, bias=0.5).item() == pytest.approx(0.6491593390, abs=1e-9)


def test_a_margin_asks_for_a_lead_and_the_centre_pins_the_sum():
    a, b = torch.tensor([2.0]), torch.tensor([1.0])
    expected = math.log1p(math.exp(-(1.0 - 0.4))) + 0.1 * 9.0
    assert pairs.margin(a, b, None, margins=torch.tensor([0.4]), centre=0.1).item() == pytest.approx(expected)


def test_a_slower_winner_must_lead_by_what_its_time_costs():
    # SimulPL, our variant: gamma times the duration comes off each score, in whatever order the pair stands
    a, b = torch.tensor([2.0]), torch.tensor([1.5])
    slow, fast, gamma = 8.0, 5.0, 0.1
    expected = math.log1p(math.exp(-(0.5 - gamma * (slow - fast))))
    slower, faster = (
        timed(score, torch.tensor([duration]), cost_per_s=gamma) for score, duration in ((a, slow), (b, fast))
    )
    assert pairs.bradley_terry(slower, faster, None).item() == pytest.approx(expected)
    assert pairs.bradley_terry(faster, slower, torch.zeros(1)).item() == pytest.approx(expected)
    assert pairs.margin(a, b, None, margins=gamma * (slow - fast)).item() == pytest.approx(expected)
    turned = pairs.bradley_terry(b - gamma * fast, a - gamma * slow, torch.zeros(1))
    assert turned.item() == pytest.approx(expected)


def test_a_joint_preference_scores_the_contexts_as_well():
    # DOVE: the pair has two contexts, whose steps are not masked: log-ratios 0.3 + 0.2 against 0.1 - 0.4
    context, behaviour = torch.tensor([[0.3], [0.1]]), torch.tensor([[0.2], [-0.4]])
    steps = torch.cat([context, behaviour], 1)
    joint = log_ratio(steps, torch.zeros_like(steps))
    assert pairs.bradley_terry(joint[:1], joint[1:], None).item() == pytest.approx(math.log1p(math.exp(-0.8)))
    alone = log_ratio(steps, torch.zeros_like(steps), torch.tensor([[False, True]] * 2))
    assert pairs.bradley_terry(alone[:1], alone[1:], None).item() == pytest.approx(math.log1p(math.exp(-0.6)))


def test_ratings_beside_a_pair_pin_the_level_that_the_pair_leaves_open():
    a, b = torch.tensor([1.0]), torch.tensor([0.5])
    losses = pairs.bradley_terry(a, b, None)
    rated = pairs.with_ratings(losses, a, b, torch.tensor([1.0]), torch.tensor([0.25]), weight=2.0)
    points = math.log1p(math.exp(-1.0)) + math.log1p(math.exp(0.5)) - 0.25 * 0.5
    assert rated.item() == pytest.approx(losses.item() + 2.0 * points / 2)
    with pytest.raises(DataError, match=r"must lie in \[0, 1\]"):
        pairs.with_ratings(losses, a, b, torch.tensor([5.0]), torch.tensor([0.0]))


def test_a_copy_paired_with_itself_leaves_imitation_and_a_constant_at_the_reference():
    zero, nll = torch.zeros(1), torch.tensor([0.8])
    loss = pairs.proximal(zero, zero, torch.tensor([0.5]), nll, nll).item()
    assert loss == pytest.approx(3 * math.log(2) + 0.8)


def test_with_imitation_adds_the_winners_loss_and_halves_it_over_a_tie():
    got = pairs.with_imitation(
        torch.zeros(3),
        torch.tensor([1.0, 0.0, 0.5]),
        torch.tensor([2.0] * 3),
        torch.tensor([6.0] * 3),
        weight=0.5,
    )
    assert got.tolist() == [1.0, 3.0, 2.0]


@pytest.mark.parametrize("bad", [-0.1, 1.2, float("nan"), float("inf")])
def test_a_label_outside_zero_to_one_is_refused_with_its_place(bad: float):
    labels = torch.tensor([0.5, bad, 1.0])
    for loss in PAIR_LOSSES.values():
        with pytest.raises(DataError, match=r"labels must lie in \[0, 1\].* at \[1\]"):
            loss(torch.zeros(3), torch.zeros(3), labels)


def test_imitation_refuses_a_label_outside_zero_to_one():
    with pytest.raises(DataError, match=r"labels must lie in \[0, 1\].*-1 at \[1\]"):
        pairs.with_imitation(torch.zeros(2), torch.tensor([1.0, -1.0]), torch.zeros(2), torch.ones(2))


def test_an_empty_batch_is_refused():
    with pytest.raises(DataError, match="at least one example"):
        pairs.bradley_terry(torch.zeros(0), torch.zeros(0), None)


def test_options_that_make_no_sense_are_refused():
    zero = torch.zeros(2)
    for call in (
        lambda: pairs.robust(zero, zero, None, flip_prob=0.5),
        lambda: pairs.exo(zero, zero, None, flip_prob=0.0),
        lambda: pairs.ipo(zero, zero, None, tau=0.0),
        lambda: pairs.discopop(zero, zero, None, temperature=1.0),
        lambda: pairs.hinge(zero, zero, None, margin=float("nan")),
        lambda: pairs.contrastive(zero, zero, None, bias=2.0),
        lambda: pairs.margin(zero, zero, None, centre=-1.0),
        lambda: pairs.margin(zero, zero, None, margins=math.inf),
    ):
        with pytest.raises(ConfigError):
            call()


def test_sorted_losses_refuse_soft_labels():
    half = torch.full((2,), 0.5)
    with pytest.raises(DataError, match="0 or 1"):
        sorted_pairs.aot_unpaired(torch.zeros(2), torch.zeros(2), half)


COMPILE_ALL = """
import torch
from robopref.objectives import pairs
a, b, y = torch.rand(3, 8)
for name in ("bradley_terry", "conservative", "robust", "hinge", "ipo", "exo", "nca", "bco_pair", "sppo",
             "apo_zero", "apo_down", "discopop", "sigmoid_link", "margin", "contrastive", "directed"):
    torch.compiler.reset()
    loss = getattr(pairs, name)
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(a, b, y), loss(a, b, y))
"""


@pytest.mark.slow
def test_pair_losses_compile_into_one_graph_without_a_break():
    # In a process of its own: the shape checks of the tests cannot be traced.
    subprocess.run([sys.executable, "-c", COMPILE_ALL], check=True)


class CountPasses(TorchDispatchMode):
    """Counts kernels that write a whole batch."""

    passes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if (
            isinstance(result, torch.Tensor)
            and result.shape == (64,)
            and func.overloadpacket != torch.ops.aten.detach
        ):
            self.passes += 1
        return result


def test_bradley_terry_adds_three_passes_over_the_batch_soft_labels_included():
    a, b, y = torch.rand(3, 64)
    with CountPasses() as soft:
        pairs.bradley_terry(a, b, y)
    with CountPasses() as hard:
        pairs.bradley_terry(a, b, None)
    assert soft.passes == 3
    assert hard.passes <= 3
