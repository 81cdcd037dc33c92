import json

import numpy as np
import pytest
import torch

from robopref.errors import ConfigError, DataError
from robopref.policies.chunks import ChunkPolicy
from robopref.policies.vla.actions import ActionBins, ActionRange
from robopref.policies.vla.lora import Adapter
from robopref.policies.vla.saved import load_vla, save_vla
from robopref.policies.vla.seeing import shifted
from tests.policies.vla.conftest import tiny


def test_bins_come_back_from_their_centres():
    bins = ActionBins("uniform")
    every = torch.arange(256)
    assert torch.equal(bins.encode(bins.decode(every)), every)
    assert bins.decode(torch.tensor([0, 255])).tolist() == pytest.approx([-1 + 1 / 256, 1 - 1 / 256])


def test_the_published_table_is_numpys_digitize():
    """OpenVLA: 256 edges from -1 to 1, token V - digitize(a), decoded as the centre of the bin below."""
    values = np.array([-2.0, -1.0, -0.9999, -0.3, 0.0, 0.004, 0.7, 0.99999, 1.0, 3.0])
    edges = np.linspace(-1, 1, 256)
    digits = np.digitize(np.clip(values, -1, 1), edges)
    bins = ActionBins("openvla")
    got = bins.encode(torch.from_numpy(values))
    assert got.tolist() == (digits - 1).tolist()
    centres = (edges[:-1] + edges[1:]) / 2
    expected = centres[np.clip(digits - 1, 0, 254)]
    assert bins.decode(got).tolist() == pytest.approx(expected.tolist())


def test_actions_are_scaled_by_their_percentiles_and_back():
    ranges = ActionRange(3)
    ranges.set(torch.tensor([0.0, -2.0, 5.0]), torch.tensor([1.0, 2.0, 5.0]), torch.tensor([1, 1, 0]))
    actions = torch.tensor([[0.0, 2.0, 0.3], [0.5, -1.0, -1.0]])
    assert ranges.to_bins(actions).tolist() == [[-1.0, 1.0, pytest.approx(0.3)], [0.0, -0.5, -1.0]]
    assert torch.allclose(ranges.from_bins(ranges.to_bins(actions)), actions)
    with pytest.raises(DataError, match="below the upper one"):
        ranges.set(torch.ones(3), torch.ones(3))


def test_it_is_a_chunk_policy(policy):
    assert isinstance(policy, ChunkPolicy)


def test_token_log_probabilities_are_a_softmax_by_hand(policy, seen, chunks):
    """Each token's distribution, from a forward pass that stops before it."""
    frames, words = policy.parts(policy.see(*seen))
    tokens = policy.targets(chunks)
    got = policy.token_log_probs(frames, words, tokens)
    for place in range(tokens.shape[1]):
        logits = policy.token_logits(frames, words, tokens[:, : place + 1])[:, -1].double()
        for row in range(3):
            weights = [float(np.exp(x)) for x in logits[row].tolist()]
            by_hand = np.log(weights[int(tokens[row, place])] / sum(weights))
            assert float(got[row, place].detach()) == pytest.approx(by_hand, abs=1e-5)
    assert torch.allclose(policy.score(policy.see(*seen), chunks), got.sum(-1))


def test_a_tokens_probability_does_not_depend_on_later_ones(policy, seen, chunks):
    frames, words = policy.parts(policy.see(*seen))
    tokens = policy.targets(chunks)
    other = tokens.clone()
    other[:, -1] = (other[:, -1] + 100) % 256
    before, after = (policy.token_log_probs(frames, words, t)[:, :-1] for t in (tokens, other))
    assert torch.equal(before, after)


def test_writing_with_a_cache_takes_the_tokens_that_one_pass_finds_likeliest(policy, seen):
    frames, words = policy.parts(policy.see(*seen))
    written = policy.model.generate(policy.pixels(frames), words, 4, policy.padding)
    assert torch.equal(policy.token_logits(frames, words, written).argmax(-1), written)


def test_padding_an_instruction_changes_nothing(seen):
    frames = seen[0]
    short, long = tiny(length=3), tiny(length=9)
    tokens = short.targets(torch.zeros(3, 2, 2))
    found = [p.token_logits(*p.parts(p.see(frames, ["open the door"] * 3)), tokens) for p in (short, long)]
    assert torch.allclose(found[0], found[1], atol=1e-5)


def first_tokens(policy, count):
    """First token of ``count`` draws for one frame, and the distribution that the policy says it has."""
    with torch.no_grad():
        policy.model.language_model.lm_head.weight.mul_(40)
    seen = policy.see(np.zeros((1, 16, 16, 3), np.uint8), ["open"])
    drawn = policy.sample(seen, count, generator=torch.Generator().manual_seed(0))
    logits = policy.token_logits(*policy.parts(seen), torch.zeros(1, 2, dtype=torch.long))[0, 0]
    return policy.targets(drawn[0])[:, 0], torch.softmax(logits, -1).detach()


def test_samples_have_the_frequencies_that_the_score_says():
    tokens, expected = first_tokens(tiny(horizon=1, width=8), 4000)
    share = torch.bincount(tokens, minlength=256) / 4000
    assert float((share - expected).abs().max()) < 4 * (0.25 / 4000) ** 0.5


def test_central_samples_have_the_frequencies_between_the_quartiles():
    tokens, chances = first_tokens(tiny(horizon=1, width=8, central=0.5), 4000)
    up_to = np.concatenate([[0], np.cumsum(chances.double().numpy())]).clip(0.25, 0.75)
    expected = torch.tensor(np.diff(up_to) / 0.5)
    share = torch.bincount(tokens, minlength=256) / 4000
    assert float((share - expected).abs().max()) < 4 * (0.25 / 4000) ** 0.5
    assert not bool((share[expected == 0] > 0).any())
    assert len(share.nonzero()) > 20  # a part of the distribution, not a point


def test_the_narrowest_central_samples_are_the_medians(seen):
    narrow = tiny(central=1e-6)
    median = narrow.act(narrow.see(*seen), deterministic=True)
    drawn = narrow.sample(narrow.see(*seen), 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn, median[:, None].expand_as(drawn))


@pytest.mark.parametrize("central", [0.0, -0.5, 1.5])
def test_a_central_share_that_is_none_is_refused(central):
    with pytest.raises(ConfigError, match=f"a share, above 0 and at most 1, got {central}"):
        tiny(central=central)


def drawn_of_even_chances(noise):
    """64 chunks of eight actions with two entries; every bin is as likely as any other."""
    even = tiny(horizon=8, noise=noise)
    with torch.no_grad():
        even.model.language_model.lm_head.weight.zero_()
    seen = even.see(np.zeros((1, 16, 16, 3), np.uint8), ["open"])
    return even.sample(seen, 64, generator=torch.Generator().manual_seed(0))[0]


def test_noise_of_a_chunk_moves_all_its_actions_alike():
    drawn = drawn_of_even_chances("chunk")
    assert torch.equal(drawn, drawn[:, :1].expand_as(drawn))
    assert len(drawn[:, 0].unique(dim=0)) > 50  # chunks differ
    assert abs(float(torch.corrcoef(drawn[:, 0].T)[0, 1])) < 0.4  # and so do the entries of an action


def test_noise_of_a_token_moves_each_alone():
    drawn = drawn_of_even_chances("token")
    assert abs(float(torch.corrcoef(drawn[:, :2, 0].T)[0, 1])) < 0.4


def test_shared_noise_leaves_the_first_action_as_it_is_and_moves_those_that_follow(seen):
    drawn = {}
    for noise in ("token", "chunk"):
        policy = tiny(noise=noise, seed=1)
        drawn[noise] = policy.sample(policy.see(*seen), 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn["chunk"][:, :, 0], drawn["token"][:, :, 0])
    assert not torch.equal(drawn["chunk"][:, :, 1], drawn["token"][:, :, 1])


def test_a_saved_policy_keeps_its_noise_and_one_from_before_has_that_of_tokens(tmp_path):
    save_vla(tmp_path, tiny(noise="chunk"))
    assert load_vla(tmp_path).noise == "chunk"
    about = json.loads((tmp_path / "config.json").read_text())
    del about["config"]["noise"]
    (tmp_path / "config.json").write_text(json.dumps(about))
    assert load_vla(tmp_path).noise == "token"


def test_an_unknown_noise_is_refused():
    with pytest.raises(ConfigError, match="noise"):
        tiny(noise="episode")


def test_frame_and_instruction_both_matter(policy, seen):
    frames, texts = seen
    tokens = policy.targets(torch.zeros(3, 2, 2))
    plain = policy.token_logits(*policy.parts(policy.see(frames, texts)), tokens)
    assert not torch.equal(plain, policy.token_logits(*policy.parts(policy.see(255 - frames, texts)), tokens))
    other = policy.see(frames, ["open the door"] * 3)
    assert not torch.equal(plain, policy.token_logits(*policy.parts(other), tokens))


def test_it_learns_a_chunk_per_instruction():
    policy = tiny(learning_rate=1e-2)
    frames = np.full((2, 16, 16, 3), 100, np.uint8)
    seen = policy.see(frames, ["open the drawer", "close the drawer"])
    pixels, words = policy.parts(seen)
    chunks = torch.tensor([[[0.5, -0.5], [0.1, 0.2]], [[-0.5, 0.9], [-0.3, 0.4]]])
    batch = {"frames": pixels, "words": words, "targets": policy.targets(chunks)}
    optimiser = torch.optim.Adam(policy.parameter_groups())
    losses = []
    for _ in range(40):
        loss, _ = policy.loss(batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(np.log(256), abs=0.1)  # it starts from a uniform distribution
    assert losses[-1] < 0.3
    assert torch.allclose(policy.act(seen), chunks, atol=1 / 256)


def test_saved_and_loaded_it_scores_the_same(policy, seen, chunks, tmp_path):
    save_vla(tmp_path, policy)
    again = load_vla(tmp_path)
    assert torch.equal(again.score(again.see(*seen), chunks), policy.score(policy.see(*seen), chunks))


def test_what_is_no_frame_or_no_instruction_is_refused(policy, seen):
    frames, texts = seen
    with pytest.raises(DataError, match="width=16"):
        policy.see(frames[:, :8, :8], texts)
    with pytest.raises(DataError, match="at least one word"):
        policy.see(frames, ["open", "", "close"])
    with pytest.raises(DataError, match="at most 4 words"):
        policy.see(frames[:1], ["open the drawer the door"])
    with pytest.raises(DataError, match="pixels and words"):
        policy.act(torch.zeros(1, 39))
    bad = policy.see(frames, texts)
    bad[0, 0] = float("nan")
    with pytest.raises(DataError, match="from 0 to 255"):
        policy.act(bad)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="as many patches"):
        tiny(patch=8)
    with pytest.raises(ConfigError, match="must divide"):
        tiny(patch=5)


@pytest.mark.parametrize("options", [{"learning_rate": float("inf")}, {"shift": 16}, {"shift": -1}])
def test_an_endless_step_and_a_shift_that_leaves_nothing_of_the_frame_are_refused(options):
    with pytest.raises(ConfigError, match=f"{next(iter(options))} must be"):
        tiny(**options)
    assert tiny(shift=15).shift == 15


def test_without_an_adapter_there_is_no_reference_to_switch_to(policy):
    with pytest.raises(ConfigError, match="no adapter"), policy.frozen():
        pass


def test_an_alignment_by_another_adapter_than_the_policys_own_is_refused(policy):
    policy.refuse_another({"rank": 8})  # it has none yet
    policy.adapter = Adapter(rank=2)
    for same in (None, {"rank": 2}, {"rank": 2, "alpha": None}):
        policy.refuse_another(same)
    with pytest.raises(ConfigError, match=r"Adapter\(rank=2.*the alignment asks for Adapter\(rank=8"):
        policy.refuse_another({"rank": 8})


def test_a_shift_moves_pixels_and_repeats_the_border():
    frames = torch.arange(25, dtype=torch.uint8).reshape(1, 5, 5, 1).expand(40, -1, -1, 3)
    moved = shifted(frames, 1, torch.Generator().manual_seed(0))
    centres = {int(frame[2, 2, 0]) for frame in moved}
    assert centres == {6, 7, 8, 11, 12, 13, 16, 17, 18}
    assert torch.equal(shifted(frames, 0, torch.Generator()), frames)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, float("nan"), "numbers from 0 to 255"),
        (0, 256.0, "numbers from 0 to 255"),
        (-1, float("nan"), "words of an observation must be numbers of tokens, 0 to"),
        (-1, -1.0, "words of an observation must be numbers of tokens, 0 to"),
        (-1, 1e6, "words of an observation must be numbers of tokens, 0 to"),
    ],
)
def test_observations_that_no_frame_and_instruction_make_are_refused(policy, place, value, message):
    observations = policy.see(np.zeros((1, 16, 16, 3), np.uint8), ["open the drawer"])
    observations[0, place] = value
    with pytest.raises(DataError, match=message):
        policy.act(observations)
