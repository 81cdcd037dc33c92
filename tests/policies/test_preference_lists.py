"""A policy that learns from ranked lists; what is worked by hand for pairs is in test_preference."""

import pytest
import torch

from robopref.errors import DataError
from tests.policies.test_preference import MEAN, constant, padded, pair


def ranking(*segments, grades, items=None):
    """A batch of one list."""
    grades = torch.tensor([grades])
    there = torch.ones_like(grades, dtype=torch.bool) if items is None else torch.tensor([items])
    longest = max(map(len, segments))
    return {"labels": grades, "items": there, "weights": torch.ones(1)} | padded(segments, longest)


def test_a_list_of_two_is_the_pair():
    expected, logged = constant().loss(pair([0.5, 0.5], [-0.5, 0.5]))
    for name in ("ranknet", "plackett_luce", "lipo_lambda"):
        got, also = constant(objective=name).loss(ranking([0.5, 0.5], [-0.5, 0.5], grades=[1.0, 0.0]))
        assert got.item() == pytest.approx(expected.item(), rel=1e-5)
        of_a_pair = constant(objective=name).loss(pair([0.5, 0.5], [-0.5, 0.5]))[0]
        assert of_a_pair.item() == pytest.approx(expected.item(), rel=1e-5)
        for key in ("accuracy", "margin", "chosen_change", "rejected_change", "kl", "chosen_log_prob"):
            assert also[key].item() == pytest.approx(logged[key].item(), rel=1e-5), key


def test_what_a_list_does_not_hold_changes_nothing():
    policy = constant(objective="plackett_luce")
    short, logged = policy.loss(ranking([0.5], [-0.5], [0.1], grades=[2.0, 0.0, 1.0]))
    filled = ranking([0.5], [-0.5], [0.1], [0.9], grades=[2.0, 0.0, 1.0, 7.0], items=[True] * 3 + [False])
    longer, also = policy.loss(filled)
    assert longer.item() == pytest.approx(short.item(), rel=1e-6)
    assert {k: v.item() for k, v in also.items()} == pytest.approx({k: v.item() for k, v in logged.items()})
    assert logged["accuracy"].item() == 1
    assert logged["rejected_change"].item() == pytest.approx(((-0.5 + 0.1) * MEAN - 0.04) / 2, rel=1e-5)


def test_an_objective_of_pairs_refuses_lists():
    with pytest.raises(DataError, match="dpo learns from soft pairs, and got lists"):
        constant().loss(ranking([0.5], [-0.5], grades=[1.0, 0.0]))
