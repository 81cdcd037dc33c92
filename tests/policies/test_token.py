"""A token policy of states, by its probabilities and by what it learns."""

import numpy as np
import pytest
import torch

from robopref.data.preferences import Preferences, Segments
from robopref.errors import ConfigError, DataError
from robopref.objectives.description import TOKENS
from robopref.objectives.registry import REGISTRY
from robopref.policies.preference import PreferencePolicy
from robopref.policies.saved import load_policy, save_policy
from robopref.policies.token import StateTokenPolicy, TokenActor
from robopref.rewards.dataset import preference_tensors
from tests.policies.store_of import episode, store_of

TOKEN = {"kind": "token", "bins": 5, "hidden": [16]}
FITTING = [name for name, objective in REGISTRY.items() if not objective.refusal(TOKENS)]


def test_the_probabilities_of_all_actions_sum_to_one():
    actor = TokenActor(2, 2, bins=3, hidden=(8,), generator=torch.Generator().manual_seed(0))
    centres = actor.decode(torch.arange(3))
    actions = torch.cartesian_prod(centres, centres)[:, None]
    scores = actor.score(torch.randn(1, 2).expand(9, 2), actions)
    assert scores.exp().sum().item() == pytest.approx(1, rel=1e-5)
    assert (scores < 0).all()


def test_an_entry_depends_on_those_before_it_and_on_none_after():
    actor = TokenActor(1, 3, bins=4, hidden=(8,), generator=torch.Generator().manual_seed(0))
    state, tokens = torch.zeros(1, 1), torch.tensor([[0, 1, 2]])
    first = actor.logits(state, tokens)
    later = actor.logits(state, torch.tensor([[0, 1, 3]]))
    torch.testing.assert_close(first, later)
    earlier = actor.logits(state, torch.tensor([[3, 1, 2]]))
    torch.testing.assert_close(first[:, 0], earlier[:, 0])
    assert (first[:, 1:] != earlier[:, 1:]).all()


def test_a_bin_is_found_again_from_its_centre_and_the_ends_belong_to_the_outermost():
    actor = TokenActor(1, 1, bins=7)
    bins = torch.arange(7)[:, None]
    assert torch.equal(actor.encode(actor.decode(bins)), bins)
    assert actor.encode(torch.tensor([[-3.0], [-1.0], [1.0], [3.0]])).flatten().tolist() == [0, 0, 6, 6]


def test_drawn_actions_follow_the_probabilities():
    actor = TokenActor(1, 1, bins=2, hidden=(), generator=torch.Generator().manual_seed(0))
    state = torch.zeros(1, 1)
    share = actor.score(state, torch.tensor([[[0.5]]])).exp().item()
    drawn = actor.sample(state, 4000, generator=torch.Generator().manual_seed(1))
    assert drawn.shape == (1, 4000, 1, 1)
    assert (drawn == 0.5).float().mean().item() == pytest.approx(share, abs=0.03)
    assert actor.act(state).item() == (0.5 if share > 0.5 else -0.5)


def test_senseless_sizes_and_states_are_refused():
    with pytest.raises(ConfigError, match="bins at least 2"):
        TokenActor(1, 1, bins=1)
    with pytest.raises(DataError, match="NaN or infinity"):
        TokenActor(1, 1).act(torch.tensor([[float("nan")]]))
    with pytest.raises(ConfigError, match="Did you mean 'token'"):
        PreferencePolicy(1, 1, actor={"kind": "tokens"})


@pytest.fixture
def preferred_right(tmp_path):
    """Episodes that go right or left, with labels that prefer right."""
    rng = np.random.default_rng(0)
    directions = np.where(np.arange(12) % 2, 0.5, -0.5)
    episodes = [
        episode(rng.normal(size=(5, 2)), np.clip(d + 0.2 * rng.normal(size=(4, 2)), -1, 1), np.zeros(4))
        for d in directions
    ]
    a, b = np.nonzero(directions[:, None] > directions[None])
    side_a, side_b = (Segments(x, np.zeros(len(x), np.int64), np.full(len(x), 4)) for x in (a, b))
    ones = np.ones(len(a), np.float32)
    preferences = Preferences(side_a, side_b, ones, ones)
    with store_of(tmp_path / "store", episodes) as store:
        yield store, preferences


def steps_of(learner, sampler, count):
    optimiser = torch.optim.Adam(learner.parameter_groups())
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        optimiser.zero_grad()
        learner.loss(sampler.sample(16, generator), generator)[0].backward()
        optimiser.step()


@pytest.mark.parametrize("name", ["orpo", "unlikelihood", "tdpo2", "sparse_po", "cpl"])
def test_preferences_turn_a_clone_to_the_right(preferred_right, tmp_path, name):
    store, preferences = preferred_right
    policy = PreferencePolicy(2, 2, objective=name, actor=TOKEN, learning_rate=1e-2)
    clone = policy.cloner()
    assert isinstance(clone, StateTokenPolicy)
    steps_of(clone, clone.prepare_data(store, None), 50)
    policy.start_from(clone)
    right, state = torch.full((40, 1, 2), 0.4), torch.randn(40, 2)
    torch.testing.assert_close(policy.score(state, right), clone.score(state, right))
    pairs = preference_tensors(store, preferences)
    steps_of(policy, pairs, 40)
    assert policy.score(state, right).mean() > clone.score(state, right).mean() + 0.3
    found = policy.diagnose(pairs.batches(64))
    assert found["accuracy"] > 0.9
    assert policy.verdict(found)["collapsed"] is False
    save_policy(tmp_path / "saved", policy)
    torch.testing.assert_close(load_policy(tmp_path / "saved").act(state), policy.act(state))


def test_every_objective_that_fits_has_a_finite_gradient(preferred_right):
    store, preferences = preferred_right
    batch = preference_tensors(store, preferences, demonstrations=preferences.a).batch(torch.arange(6))
    for name in FITTING:
        policy = PreferencePolicy(2, 2, objective=name, actor=TOKEN)
        policy.loss(batch)[0].backward()
        gradients = [p.grad for p in policy.actor.parameters()]
        assert all(g is not None and g.isfinite().all() for g in gradients), name
