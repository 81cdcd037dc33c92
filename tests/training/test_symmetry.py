"""Turned and mirrored batches: everything in a row moves alike, and nothing but places moves."""

import numpy as np
import pytest
import torch

from robopref.data.candidates import Candidates
from robopref.errors import ConfigError
from robopref.policies.candidates import CandidateLists, CandidatePairs
from robopref.training.symmetry import SymmetricSampler, Symmetry, in_all_views


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class One:
    """A sampler of one transition: a point at (1, 2, 3), a number 7 behind it, and an action there."""

    def __len__(self):
        return 1

    def sample(self, batch_size, generator):
        return {
            "observations": torch.tensor([[1.0, 2, 3, 7]]).repeat(batch_size, 1),
            "actions": torch.tensor([[[1.0, 2]]]).repeat(batch_size, 1, 1),
            "mask": torch.ones(batch_size, 1, dtype=torch.bool),
        }


def test_a_point_and_the_place_of_an_action_on_it_go_through_all_eight_views_together():
    batch = SymmetricSampler(One(), Symmetry(points=1)).sample(200, seeded())
    assert torch.equal(batch["observations"][:, :2], batch["actions"][:, 0])
    assert set(map(tuple, batch["observations"].tolist())) == {
        (x, y, 3.0, 7.0) for x, y in [(1, 2), (-2, 1), (-1, -2), (2, -1), (1, -2), (2, 1), (-1, 2), (-2, -1)]
    }


@pytest.mark.parametrize(
    ("options", "views"),
    [
        ({"turns": False}, {(1, 2), (1, -2)}),
        ({"mirror": False}, {(1, 2), (-2, 1), (-1, -2), (2, -1)}),
        ({"turns": False, "mirror": False}, {(1, 2)}),
    ],
)
def test_turns_and_mirrors_can_be_left_out(options, views):
    batch = SymmetricSampler(One(), Symmetry(points=1, **options)).sample(100, seeded())
    assert set(map(tuple, batch["actions"][:, 0].tolist())) == views


@pytest.mark.parametrize("make", [CandidatePairs, CandidateLists])
def test_candidates_of_one_state_are_turned_alike(make):
    chunks = np.tile(np.array([0.1, 0.2, 0.3, 0.4], np.float32), (2, 3, 1, 1))
    chunks[:, 1] *= 2
    grades = np.tile(np.array([0.0, 1.0, np.nan]), (2, 1))
    seen = np.ones((2, 6), np.float32)
    candidates = Candidates(seen, chunks, grades, np.zeros(2, int), np.zeros(2, int))
    batch = in_all_views(make(candidates), Symmetry(points=2)).sample(64, seeded())
    if make is CandidatePairs:
        assert torch.allclose(batch["actions_a"], 2 * batch["actions_b"])
        assert torch.equal(batch["observations_a"], batch["observations_b"])
    else:
        lists = batch["actions"].unflatten(0, (64, 3))
        assert torch.allclose(lists[:, 1], 2 * lists[:, 0])
        assert len(lists[:, 0].unique(dim=0)) == 8


def test_what_is_not_made_of_places_is_refused():
    with pytest.raises(ConfigError, match="at least 1"):
        Symmetry(points=0)
    with pytest.raises(ConfigError, match="needs 6 numbers in an observation, there are 4"):
        SymmetricSampler(One(), Symmetry(points=2)).sample(1, seeded())
    with pytest.raises(ConfigError, match="places x, y, not 3 numbers"):
        Symmetry(points=1).actions(torch.zeros(1, 1, 3), torch.eye(2)[None])
