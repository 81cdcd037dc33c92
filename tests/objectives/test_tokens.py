import pytest
import torch
import torch.nn.functional as F

from robopref.errors import DataError
from robopref.objectives import pairs, tokens

W = torch.tensor([0.06, 0.04, -0.1], dtype=torch.float64)
L = torch.tensor([-0.06, 0.02, 0.15], dtype=torch.float64)
KL_W = torch.tensor([0.2, 0.1, 0.4], dtype=torch.float64)
KL_L = torch.tensor([0.5, 0.05, 0.3], dtype=torch.float64)
DPO = pairs.bradley_terry(W, L, None)


def test_token_level_losses_equal_the_numbers_of_the_authors_functions():
    first = tokens.tdpo1(W, L, None, KL_W, KL_L)
    second = tokens.tdpo2(W, L, None, KL_W, KL_L)
    refined = tokens.rrpo(W, L, None, KL_W, KL_L)
    assert first.tolist() == pytest.approx([0.649159339, 0.6807253035, 0.8203299666], abs=1e-9)
    assert second.tolist() == pytest.approx([0.6420246729, 0.6819604605, 0.8231316147], abs=1e-9)
    assert refined.tolist() == pytest.approx([0.6449461016, 0.6881971797, 0.8459394199], abs=1e-9)


def test_without_kl_every_token_level_loss_is_dpo():
    zero = torch.zeros(3, dtype=torch.float64)
    torch.testing.assert_close(tokens.tdpo1(W, L, None, zero, zero), DPO)
    torch.testing.assert_close(tokens.tdpo2(W, L, None, zero, zero), DPO)
    torch.testing.assert_close(tokens.tdpo2(W, L, None, KL_W, KL_L, kl_weight=0.0), DPO)
    torch.testing.assert_close(tokens.rrpo(W, L, None, KL_W, KL_L, kl_weight=0.0), DPO)


def test_the_second_form_sends_no_gradient_through_the_winners_kl():
    kl_w, kl_l = KL_W.clone().requires_grad_(), KL_L.clone().requires_grad_()
    for labels, winner, loser in (
        (None, kl_w, kl_l),
        (torch.ones_like(W), kl_w, kl_l),
        (torch.zeros_like(W), kl_l, kl_w),
    ):
        kl_w.grad = kl_l.grad = None
        tokens.tdpo2(W, L, labels, kl_w, kl_l).sum().backward()
        assert winner.grad is None or winner.grad.abs().max() == 0
        assert loser.grad is not None
        assert loser.grad.abs().min() > 0


@pytest.mark.parametrize("loss", [tokens.tdpo1, tokens.tdpo2, tokens.rrpo])
def test_swapping_a_pair_and_its_label_changes_nothing(loss):
    y = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    torch.testing.assert_close(loss(W, L, y, KL_W, KL_L), loss(L, W, 1 - y, KL_L, KL_W))


@pytest.mark.parametrize("loss", [tokens.tdpo1, tokens.tdpo2, tokens.rrpo])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_token_level_losses_stay_finite_far_out(loss, dtype: torch.dtype):
    a = torch.tensor([1e4, -1e4, 1e4], dtype=dtype, requires_grad=True)
    kl = torch.tensor([1e4, 0.0, 1.0], dtype=dtype, requires_grad=True)
    losses = loss(a, -a, torch.tensor([0.0, 1.0, 0.5], dtype=dtype), kl, 2 * kl)
    losses.sum().backward()
    assert losses.isfinite().all()
    assert a.grad is not None
    assert kl.grad is not None
    assert a.grad.isfinite().all()
    assert kl.grad.isfinite().all()


def test_gradients_of_token_level_losses_agree_with_finite_differences():
    leaves = [x.clone().requires_grad_() for x in (W, L)]
    y = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    for loss in (tokens.tdpo1, tokens.tdpo2, tokens.rrpo):
        assert torch.autograd.gradcheck(lambda a, b, loss=loss: loss(a, b, y, KL_W, KL_L), leaves)


def test_gates_of_one_make_sparse_po_the_second_token_level_loss():
    generator = torch.Generator().manual_seed(0)
    ratios_a, ratios_b, kl_a, kl_b = torch.rand(4, 3, 5, dtype=torch.float64, generator=generator)
    y = torch.tensor([1.0, 0.0, 0.4], dtype=torch.float64)
    one = torch.ones(3, 5, dtype=torch.float64)
    got = tokens.sparse_po(ratios_a, ratios_b, y, kl_a, kl_b, (one, one), (one, one))
    whole = [x.sum(-1) for x in (ratios_a, ratios_b, kl_a, kl_b)]
    torch.testing.assert_close(got, tokens.tdpo2(0.1 * whole[0], 0.1 * whole[1], y, whole[2], whole[3]))
    sparse = tokens.sparse_po(ratios_a, ratios_b, y, kl_a, kl_b, (one, one), (one, one), sparsity=0.2)
    torch.testing.assert_close(sparse - got, torch.full_like(got, 0.2))


def test_closed_gates_and_padding_hide_their_tokens():
    ratios = torch.tensor([[0.5, 9.0, float("nan")]])
    gates = torch.tensor([[1.0, 0.0, 1.0]])
    mask = torch.tensor([[True, True, False]])
    zero = torch.zeros(1, 3)
    got = tokens.sparse_po(ratios, zero, None, zero, zero, (gates, gates), (gates, gates), mask, mask)
    expected = pairs.bradley_terry(torch.tensor([0.05]), torch.zeros(1), None)
    torch.testing.assert_close(got, expected)


def test_kl_of_gaussians_agrees_with_torch_and_with_the_closed_form_for_equal_spread():
    generator = torch.Generator().manual_seed(0)
    mean, reference = torch.randn(2, 3, 4, 2, generator=generator)
    spread, other = torch.rand(2, 3, 4, 2, generator=generator) + 0.2
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(reference, other), torch.distributions.Normal(mean, spread)
    ).sum(-1)
    torch.testing.assert_close(tokens.gaussian_kl(reference, other, mean, spread), expected)
    equal = tokens.gaussian_kl(reference, spread, mean, spread)
    torch.testing.assert_close(equal, ((reference - mean).square() / (2 * spread.square())).sum(-1))


def test_kl_over_a_vocabulary_is_summed_exactly_and_forgives_barred_tokens():
    logits, reference = torch.tensor([[[0.0, 1.0, -torch.inf]]]), torch.tensor([[[0.5, 0.2, -torch.inf]]])
    logits.requires_grad_()
    got = tokens.categorical_kl(reference, logits)
    p, q = F.softmax(reference[..., :2], -1), F.softmax(logits[..., :2], -1)
    torch.testing.assert_close(got, (p * (p / q).log()).sum(-1))
    got.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_a_gaussian_without_spread_is_refused():
    one = torch.ones(1, 1, 2)
    with pytest.raises(DataError, match="above 0"):
        tokens.gaussian_kl(one, one, one, torch.zeros_like(one))
