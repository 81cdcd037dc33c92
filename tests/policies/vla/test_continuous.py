import numpy as np
import pytest
import torch

from robopref.errors import ConfigError
from robopref.policies.chunks import ChunkPolicy
from robopref.policies.vla.saved import load_vla, save_vla
from tests.policies.vla.conftest import continuous


@pytest.mark.parametrize("head", ["gaussian", "flow"])
def test_it_is_a_chunk_policy_that_is_saved_whole(head, seen, chunks, tmp_path):
    policy = continuous(head)
    assert isinstance(policy, ChunkPolicy)
    observations = policy.see(*seen)
    drawn = policy.sample(observations, 4, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (3, 4, 2, 2)
    assert float(drawn.abs().max()) <= 1
    assert torch.equal(policy.act(observations), policy.act(observations))
    draw = policy.draw(3, generator=torch.Generator().manual_seed(1))
    assert (draw is None) == policy.exact
    save_vla(tmp_path, policy)
    again = load_vla(tmp_path)
    assert torch.equal(again.score(observations, chunks, draw), policy.score(observations, chunks, draw))


def test_a_gaussians_score_is_the_density_of_all_its_numbers(seen, chunks):
    policy = continuous("gaussian", deviation=0.5)
    observations = policy.see(*seen)
    expected = torch.distributions.Normal(policy.act(observations).flatten(1), 0.5)
    each = expected.log_prob(chunks.flatten(1)).unflatten(1, (2, 2)).sum(2)
    assert torch.allclose(policy.score(observations, chunks), each.sum(1), atol=1e-4)
    mask = torch.tensor([[True, True], [True, False], [True, False]])
    masked = policy.score(observations, chunks, None, mask)
    assert torch.allclose(masked, (each * mask).sum(1), atol=1e-4)


def test_what_was_never_done_counts_nothing_in_the_score_of_a_flow(seen, chunks):
    policy = continuous("flow")
    observations, draw = policy.see(*seen), policy.draw(3, generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[True, True], [True, False], [True, True]])
    whole, part = policy.score(observations, chunks, draw), policy.score(observations, chunks, draw, mask)
    assert torch.equal(part == whole, torch.tensor([True, False, True]))


def test_a_gaussian_learns_a_chunk_per_instruction():
    policy = continuous("gaussian", learning_rate=1e-2)
    frames = np.full((2, 16, 16, 3), 100, np.uint8)
    seen = policy.see(frames, ["open the drawer", "close the drawer"])
    pixels, words = policy.parts(seen)
    chunks = torch.tensor([[[0.5, -0.5], [0.1, 0.2]], [[-0.5, 0.9], [-0.3, 0.4]]])
    batch = {"frames": pixels, "words": words, "targets": policy.targets(chunks)}
    optimiser = torch.optim.Adam(policy.parameter_groups())
    for step in range(80):
        loss, _ = policy.loss(batch, torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    policy.eval()
    assert (
        float((policy.act(seen) - chunks).square().mean()) < 0.03
    )  # it began at 0.2, the chunks' own square


def test_an_unknown_head_is_refused():
    with pytest.raises(ConfigError, match="No head is called 'mixture'"):
        continuous("mixture")
