import numpy as np
import pytest

from robopref.alignment.speakers import between


def test_orders_are_compared_where_both_know_two_episodes():
    up, down, end = (
        np.array([1.0, 2, 3, 4]),
        np.array([np.nan, 3, 2, 1]),
        np.array([np.nan, np.nan, np.nan, 1]),
    )
    assert between("orders", [up, down, end]) == {"between orders": pytest.approx(-1)}
    assert between("orders", [up, up, down]) == {"between orders": pytest.approx((1 - 1 - 1) / 3)}
    assert between("orders", [up, end]) == between("orders", [up]) == {}
