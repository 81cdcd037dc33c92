import itertools

import pytest
import torch
from torch import nn

from robopref.nets.quantised import LEVELS, Int4Linear, packed_weights, quantise, unpacked_weights


def unpacked(layer):
    size = (layer.out_features, layer.in_features)
    return unpacked_weights(layer.qweight, layer.scales, size, torch.float32)


def test_weights_at_the_levels_come_back_exactly():
    weight = 0.5 * torch.tensor(LEVELS).repeat(8).reshape(4, 32)
    assert torch.equal(unpacked_weights(*packed_weights(weight), (4, 32), torch.float32), weight)


def test_others_miss_by_at_most_half_the_widest_gap_of_levels():
    weight = torch.randn(10, 7, generator=torch.Generator().manual_seed(0))  # 70 numbers: a block and a bit
    packed, scales = packed_weights(weight)
    assert packed.numel() == 64  # two blocks of 32 bytes
    widest = max(b - a for a, b in itertools.pairwise(LEVELS))
    error = (unpacked_weights(packed, scales, (10, 7), torch.float32) - weight).abs().flatten()
    assert float(error[:64].max()) <= widest / 2 * float(scales[0]) + 1e-6
    assert float(error[64:].max()) <= widest / 2 * float(scales[1]) + 1e-6


def test_it_multiplies_and_differentiates_as_its_unpacked_weights_do():
    layer = Int4Linear(nn.Linear(6, 5))
    x = torch.randn(3, 6, requires_grad=True)
    layer(x).square().sum().backward()
    got, x.grad = x.grad, None
    assert got is not None
    nn.functional.linear(x, unpacked(layer), layer.bias).square().sum().backward()
    assert x.grad is not None
    assert torch.allclose(got, x.grad, atol=1e-6)


def test_only_the_named_layers_are_rounded_and_nothing_learns_any_more():
    module = nn.ModuleDict({"q_proj": nn.Linear(4, 4), "other": nn.Linear(4, 4)})
    assert quantise(module, ("q_proj",)) == 1
    assert isinstance(module["q_proj"], Int4Linear)
    assert type(module["other"]) is nn.Linear
    assert not any(p.requires_grad for p in module.parameters())
    assert module["q_proj"](torch.zeros(1, 4)).shape == (1, 4)


def test_zeros_stay_zero():
    zero = nn.Linear(4, 4)
    with torch.no_grad():
        zero.weight.zero_()
    assert float(unpacked(Int4Linear(zero)).abs().max()) == pytest.approx(0, abs=1e-12)
