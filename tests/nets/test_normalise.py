import pytest
import torch

from robopref.errors import ConfigError, DataError
from robopref.nets.normalise import Normaliser


def test_worked_by_hand():
    normaliser = Normaliser(2)
    normaliser.fit(torch.tensor([[0.0, 10.0], [2.0, 30.0]]))
    assert normaliser.mean.tolist() == [1, 20]
    assert normaliser.deviation.tolist() == [1, 10]
    assert normaliser(torch.tensor([3.0, 15.0])).tolist() == [2, -0.5]


def test_unfitted_changes_nothing_but_clips():
    normaliser = Normaliser(2, clip=5.0)
    assert not normaliser.fitted
    assert normaliser(torch.tensor([1.5, -9.0])).tolist() == [1.5, -5]


def test_fitted_data_have_mean_zero_and_deviation_one():
    x = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0)) * 3 + 100
    normaliser = Normaliser(4)
    normaliser.fit(x)
    assert normaliser.fitted
    torch.testing.assert_close(normaliser(x).mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(normaliser(x).std(0, unbiased=False), torch.ones(4), atol=1e-4, rtol=0)


def test_rows_beyond_one_chunk_count_too(monkeypatch):
    monkeypatch.setattr("robopref.nets.normalise._ROWS_AT_ONCE", 3)
    x = torch.arange(20.0).reshape(10, 2)
    normaliser = Normaliser(2)
    normaliser.fit(x)
    torch.testing.assert_close(normaliser.mean, x.mean(0))
    torch.testing.assert_close(normaliser.deviation, x.std(0, unbiased=False))


def test_a_constant_dimension_is_divided_by_the_floor_and_clipped():
    normaliser = Normaliser(1, floor=0.01, clip=10.0)
    normaliser.fit(torch.full((5, 1), 0.3))
    assert normaliser(torch.tensor([0.3])).item() == 0
    assert normaliser(torch.tensor([0.32])).item() == pytest.approx(2, rel=1e-4)
    assert normaliser(torch.tensor([1.0])).item() == 10


def test_leading_axes_are_kept():
    assert Normaliser(3)(torch.zeros(2, 5, 3)).shape == (2, 5, 3)


def test_state_travels_with_the_state_dict():
    fitted = Normaliser(2)
    fitted.fit(torch.tensor([[0.0, 10.0], [2.0, 30.0]]))
    other = Normaliser(2)
    other.load_state_dict(fitted.state_dict())
    assert other.fitted
    assert other.mean.tolist() == [1, 20]


def test_nan_is_refused_by_dimension_and_nothing_is_changed():
    normaliser = Normaliser(3)
    x = torch.ones(4, 3)
    x[2, 0], x[1, 2] = float("nan"), float("inf")
    with pytest.raises(DataError, match=r"Dimensions \[0, 2\]"):
        normaliser.fit(x)
    assert not normaliser.fitted
    assert normaliser.mean.tolist() == [0, 0, 0]


def test_wrong_width_and_zero_rows_are_refused():
    with pytest.raises(DataError, match="rows of 3"):
        Normaliser(3).fit(torch.ones(4, 2))
    with pytest.raises(DataError, match="zero rows"):
        Normaliser(3).fit(torch.ones(0, 3))


@pytest.mark.parametrize("options", [{"size": 0}, {"floor": 0.0}, {"clip": 0.0}, {"floor": float("nan")}])
def test_bad_options_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        Normaliser(**{"size": 2} | options)
