import math

import pytest
import torch
from torch import nn

from robopref.errors import ConfigError, DataError
from robopref.nets.mlp import ACTIVATIONS, EnsembleMLP


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def linear_twin(ensemble, index):
    """The same network from torch's own layers, weights copied one by one."""
    layers = []
    for weight, bias in zip(ensemble.weights, ensemble.biases, strict=True):
        linear = nn.Linear(weight.shape[2], weight.shape[1])
        linear.weight.data.copy_(weight[index])
        linear.bias.data.copy_(bias[index, 0])
        layers += [linear, ensemble.activation]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_ensemble_equals_a_loop_of_linear_layers(activation):
    ensemble = EnsembleMLP(3, 5, 2, (7, 6), activation, generator=seeded())
    x = torch.randn(4, 5, generator=seeded(1))
    out = ensemble(x)
    assert out.shape == (3, 4, 2)
    for k in range(3):
        torch.testing.assert_close(out[k], linear_twin(ensemble, k)(x))


def test_each_member_may_get_its_own_input():
    ensemble = EnsembleMLP(3, 5, 2, (7,), generator=seeded())
    x = torch.randn(3, 4, 5, generator=seeded(1))
    out = ensemble(x)
    for k in range(3):
        torch.testing.assert_close(out[k], linear_twin(ensemble, k)(x[k]))


def test_gradients_equal_those_of_the_linear_layers():
    ensemble = EnsembleMLP(2, 3, 1, (4,), generator=seeded())
    x = torch.randn(5, 3, generator=seeded(1))
    ensemble(x).square().sum().backward()
    for k in range(2):
        twin = linear_twin(ensemble, k)
        twin(x).square().sum().backward()
        gradients = [p.grad for p in twin.parameters()]
        torch.testing.assert_close(ensemble.weights[0].grad[k], gradients[0])
        torch.testing.assert_close(ensemble.biases[0].grad[k, 0], gradients[1])
        torch.testing.assert_close(ensemble.weights[1].grad[k], gradients[2])


def test_rows_in_blocks_equal_rows_at_once(monkeypatch):
    ensemble = EnsembleMLP(3, 5, 2, (7,), generator=seeded())
    x = torch.randn(10, 5, generator=seeded(1))
    results = []
    for rows in (1000, 4):
        monkeypatch.setattr("robopref.nets.mlp.CPU_ROWS", rows)
        out = ensemble(x)
        results.append([out.detach(), *torch.autograd.grad(out.square().sum(), list(ensemble.parameters()))])
    for whole, blocks in zip(*results, strict=True):
        torch.testing.assert_close(whole, blocks)


def test_without_hidden_layers_it_is_a_linear_map():
    ensemble = EnsembleMLP(1, 3, 2, (), generator=seeded())
    x = torch.randn(6, 3, generator=seeded(1)).double()
    ensemble.double()
    expected = x @ ensemble.weights[0][0].T + ensemble.biases[0][0]
    torch.testing.assert_close(ensemble(x)[0], expected)


def test_member_shares_memory_with_the_ensemble():
    ensemble = EnsembleMLP(3, 5, 2, (7,), generator=seeded())
    x = torch.randn(4, 5, generator=seeded(1))
    member = ensemble.member(1)
    torch.testing.assert_close(member(x), ensemble(x)[1])
    with torch.no_grad():
        ensemble.weights[0][1].zero_()
    torch.testing.assert_close(member(x), ensemble(x)[1])


def test_starting_weights_have_the_spread_of_torch_linear():
    # uniform on [-b, b] with b = 1 / sqrt(fan in): its deviation is b / sqrt(3)
    ensemble = EnsembleMLP(4, 100, 1, (400,), generator=seeded())
    weight = ensemble.weights[0].detach()
    assert weight.abs().max() <= 0.1
    assert weight.std().item() == pytest.approx(0.1 / math.sqrt(3), rel=0.01)
    torch.manual_seed(0)
    assert nn.Linear(100, 400).weight.std().item() == pytest.approx(weight.std().item(), rel=0.02)


def test_members_start_apart_and_one_seed_gives_one_start():
    first, again = (EnsembleMLP(2, 3, 1, (4,), generator=seeded(5)) for _ in range(2))
    assert not torch.equal(first.weights[0][0], first.weights[0][1])
    assert torch.equal(first.weights[0], again.weights[0])


@pytest.mark.parametrize("shape", [(4, 6), (2, 4, 5)])
def test_input_of_another_shape_is_refused(shape):
    with pytest.raises(DataError, match=r"must be \(B, 5\) or \(3, B, 5\)"):
        EnsembleMLP(3, 5, 2, (7,))(torch.zeros(shape))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"members": 0}, "at least one member"),
        ({"hidden": (8, 0)}, "width of at least one"),
        ({"activation": "rleu"}, "Did you mean 'relu'"),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        EnsembleMLP(**{"members": 2, "inputs": 3, "outputs": 1} | options)


def test_layer_normalisation_follows_each_activation_as_in_torch():
    ensemble = EnsembleMLP(2, 5, 3, (7, 6), layer_norm=True, generator=seeded())
    with torch.no_grad():
        for parameter in (*ensemble.scales, *ensemble.shifts):
            parameter.uniform_(-1, 1, generator=seeded(2))
    x = torch.randn(4, 5, generator=seeded(1))
    for k in range(2):
        seen = x
        for layer in range(3):
            seen = nn.functional.linear(seen, ensemble.weights[layer][k], ensemble.biases[layer][k, 0])
            if layer < 2:
                spread = (seen.relu().var(1, correction=0, keepdim=True) + 1e-6).sqrt()
                seen = (seen.relu() - seen.relu().mean(1, keepdim=True)) / spread
                seen = seen * ensemble.scales[layer][k] + ensemble.shifts[layer][k]
        torch.testing.assert_close(ensemble(x)[k], seen)
        torch.testing.assert_close(ensemble.member(k)(x), seen)
