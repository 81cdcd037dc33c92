"""Diffusion and flow policies: noise, samples and scores against formulas that are worked by hand."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from robopref.errors import ConfigError, DataError
from robopref.policies.chunks import ChunkPolicy, Draw, score_candidates
from robopref.policies.diffusion import DiffusionActor, DiffusionPolicy
from robopref.policies.flow import FlowActor, FlowPolicy
from robopref.policies.saved import load_policy, save_policy
from robopref.training.devices import make_fabric
from robopref.training.loop import fit
from robopref.training.metrics import RunLog
from tests.policies.store_of import episode, numbered, store_of

TINY = {"kind": "mlp", "hidden": [16], "time_size": 8}
BACKBONES = [
    TINY,
    {"kind": "transformer", "size": 8, "layers": 1, "heads": 2},
    {"kind": "unet1d", "channels": [8, 16], "time_size": 8},
]
STATE = {"kind": "state"}
FAMILIES = [DiffusionPolicy, FlowPolicy]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def actor(family, **options):
    family_options = {"noise_steps": 50, "eta": 0.0} if family is DiffusionActor else {}
    defaults = {"horizon": 4, "execute": 2, "encoder": STATE, "backbone": TINY, "sample_steps": 5, "draws": 8}
    return family(3, 2, **{**defaults, **family_options, "seed": 0, **options})


class Known(nn.Module):
    """A network that is a formula of the noisy chunk and the time."""

    def __init__(self, formula):
        super().__init__()
        self.formula = formula
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, noisy, times, condition):
        return self.formula(noisy, times[:, None, None])


def signal_by_hand(step, steps):
    """Product of (1 - beta) of the squared-cosine schedule (Nichol and Dhariwal 2021), beta at most 0.999."""
    level = [math.cos((t / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(steps + 1)]
    betas = [min(1 - level[t + 1] / level[t], 0.999) for t in range(steps)]
    return math.prod(1 - beta for beta in betas[: step + 1])


def test_the_forward_noise_of_diffusion_is_that_of_the_formula():
    policy = actor(DiffusionActor)
    times = torch.tensor([[0.0, 0.31, 0.999]])
    draw = Draw(times, torch.randn(1, 3, 4, 2, generator=seeded()))
    actions = torch.rand(1, 3, 4, 2, generator=seeded(1))
    noisy, told, wanted = policy.path(actions, draw)
    for row, step in enumerate((0, 15, 49)):
        signal = signal_by_hand(step, 50)
        expected = math.sqrt(signal) * actions[0, row] + math.sqrt(1 - signal) * draw.noise[0, row]
        assert torch.allclose(noisy[0, row], expected, atol=1e-5)
    assert told.tolist() == [pytest.approx([0, 15 / 50, 49 / 50])]
    assert torch.equal(wanted, draw.noise)


def known_noise(mean, deviation, signals):
    """Predicts the noise best where actions are N(m, s^2): sqrt(1-a) (x - sqrt(a) m) / (a s^2 + 1 - a)."""

    def formula(noisy, times):
        a = signals[(times * len(signals)).round().long()]
        return (1 - a).sqrt() * (noisy - a.sqrt() * mean) / (a * deviation**2 + 1 - a)

    return Known(formula)


@pytest.mark.parametrize("sample_steps", [5, 50])
def test_ddim_with_the_exact_noise_of_a_gaussian_is_an_affine_map_worked_by_hand(sample_steps):
    # Where x = sqrt(a) m + d, the noise is k d with k = sqrt(1-a) / (a s^2 + 1 - a), so that one step makes
    # of d: d (sqrt(a') (1 - sqrt(1-a) k) / sqrt(a) + sqrt(1-a') k).
    mean, deviation, steps = 0.3, 0.1, 50
    signals = [signal_by_hand(step, steps) for step in range(steps)]
    policy = actor(DiffusionActor, noise_steps=steps, sample_steps=sample_steps)
    policy.network = known_noise(mean, deviation, torch.tensor(signals))
    gone = [signals[step] for step in range(0, steps, steps // sample_steps)][::-1]
    factor = 1.0
    for a, less in zip(gone, [*gone[1:], 1.0], strict=True):
        k = math.sqrt(1 - a) / (a * deviation**2 + 1 - a)
        factor *= math.sqrt(less / a) * (1 - math.sqrt(1 - a) * k) + math.sqrt(1 - less) * k
    noise = 0.5 * torch.randn(20, 4, 2, generator=seeded())
    found = policy.generate(torch.zeros(20, 3), noise, None)
    assert torch.allclose(found, mean + factor * (noise - math.sqrt(gone[0]) * mean), atol=1e-4)


def test_ddim_draws_noise_on_its_way_only_where_eta_says_so():
    signals = torch.tensor([signal_by_hand(step, 50) for step in range(50)])
    noise = torch.randn(500, 4, 2, generator=seeded())
    for eta in (0.0, 1.0):
        policy = actor(DiffusionActor, sample_steps=50, eta=eta)
        policy.network = known_noise(0.3, 0.1, signals)
        once, again = (policy.generate(torch.zeros(500, 3), noise, seeded(k)) for k in (1, 2))
        assert torch.equal(once, again) == (eta == 0)
        assert once.mean().item() == pytest.approx(0.3, abs=0.01)
        assert once.std().item() == pytest.approx(0.1, rel=0.2)


def test_flow_sampling_follows_a_known_field():
    # dx/dt = c - x from x0: x(1) = c + (x0 - c)/e; Euler with n steps has (1 - 1/n)^n instead of 1/e.
    policy = actor(FlowActor, sample_steps=20)
    policy.network = Known(lambda x, t: 0.5 - x)
    noise = torch.randn(6, 4, 2, generator=seeded())
    found = policy.generate(torch.zeros(6, 3), noise, None)
    assert torch.allclose(found, 0.5 + (noise - 0.5) * (1 - 1 / 20) ** 20, atol=1e-5)
    assert torch.allclose(found, 0.5 + (noise - 0.5) / math.e, atol=0.05)


def test_the_field_of_a_single_action_carries_all_noise_to_it():
    goal = 0.4
    policy = actor(FlowActor, sample_steps=10)
    policy.network = Known(lambda x, t: (goal - x) / (1 - t))
    samples = policy.sample(torch.zeros(2, 3), 5, generator=seeded())
    assert torch.allclose(samples, torch.full_like(samples, goal), atol=1e-5)


@pytest.mark.parametrize("family", [DiffusionActor, FlowActor])
def test_a_score_is_minus_half_the_mean_error_worked_by_hand(family):
    policy = actor(family)
    policy.network = Known(lambda x, t: torch.zeros_like(x))
    actions = torch.rand(3, 4, 2, generator=seeded(1))
    draw = policy.draw(3, generator=seeded(), draws=2)
    wanted = draw.noise if family is DiffusionActor else actions - draw.noise
    by_hand = -0.5 * wanted.square().mean((0, 2, 3))
    assert torch.allclose(policy.score(torch.zeros(3, 3), actions, draw), by_hand, atol=1e-6)
    mask = torch.tensor([[True, True, False, False]]).expand(3, 4)
    first_two = -0.5 * wanted[:, :, :2].square().mean((0, 2, 3))
    assert torch.allclose(policy.score(torch.zeros(3, 3), actions, draw, mask), first_two, atol=1e-6)


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda b: b["kind"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_backbone_acts_samples_and_scores_in_the_shapes_of_the_interface(family, backbone):
    policy = family(3, 2, horizon=5, execute=2, backbone=backbone, sample_steps=3, draws=4)
    assert isinstance(policy, ChunkPolicy)
    assert not policy.exact
    observations = torch.randn(2, 3, generator=seeded())
    assert policy.act(observations).shape == (2, 2, 2)
    samples = policy.sample(observations, 3, generator=seeded())
    assert samples.shape == (2, 3, 5, 2)
    assert samples.abs().max() <= 1
    draw = policy.draw(2, generator=seeded())
    scores = score_candidates(policy, observations, samples, draw)
    assert torch.allclose(scores[:, 1], policy.score(observations, samples[:, 1], draw), atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_point_cloud_may_come_in_any_order_and_with_a_state_behind_it(family):
    encoder = {"kind": "points", "count": 6, "channels": 3, "features": 8}
    policy = family(20, 2, horizon=2, encoder=encoder, backbone=TINY, sample_steps=2)
    observations = torch.randn(4, 20, generator=seeded())
    policy.fit_normaliser(observations)
    turned = torch.cat(
        [observations[:, :18].reshape(4, 6, 3).flip(1).reshape(4, 18), observations[:, 18:]], 1
    )
    assert torch.allclose(policy.act(observations), policy.act(turned), atol=1e-5)
    turned[:, -1] += 1
    assert not torch.allclose(policy.act(observations), policy.act(turned), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_policy_that_sees_a_picture_tells_where_a_spot_lies(family):
    encoder = {"kind": "image", "height": 16, "width": 16, "features": 8, "filters": 4}
    backbone = TINY | {"hidden": [64, 64]}
    policy = family(16 * 16 * 3 + 1, 2, horizon=1, encoder=encoder, backbone=backbone, sample_steps=2)
    pictures, places = torch.zeros(8, 16, 16, 3), torch.arange(8)
    pictures[places, 2 * places, 3] = 255  # a white spot in another row of each
    observations = torch.cat([pictures.flatten(1), torch.zeros(8, 1)], 1)
    policy.fit_normaliser(observations)
    wanted = torch.stack([places / 4 - 0.9, -places / 4 + 0.9], 1)[:, None]
    batch = {"observations": observations, "actions": wanted, "mask": torch.ones(8, 1, dtype=torch.bool)}
    optimiser = torch.optim.Adam(policy.parameter_groups(), lr=1e-2)
    batch = {key: value.repeat_interleave(8, 0) for key, value in batch.items()}
    for step in range(300):
        loss, _ = policy.loss(batch, seeded(step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        policy.after_step()
    acted = policy.act(observations)
    assert (acted - wanted).abs().mean() < 0.2  # 0.5 for one who does not look
    observations[:, -1] += 1  # the state behind the picture is read too
    assert not torch.allclose(policy.act(observations), acted, atol=1e-5)


@pytest.mark.parametrize("family", [DiffusionActor, FlowActor])
def test_shared_draws_narrow_the_margin_more_than_tenfold(family):
    # The reference, and a policy a little away from it, as after some steps of preference learning.
    reference = actor(family, draws=8)
    policy = copy.deepcopy(reference)
    with torch.no_grad():
        for parameter in policy.network.parameters():
            parameter += 0.002 * torch.randn(parameter.shape, generator=seeded(3))
    observations = torch.zeros(1, 3)
    better, worse = torch.full((1, 4, 2), 0.1), torch.full((1, 4, 2), -0.1)

    def margin(draws):
        with torch.no_grad():
            scores = [
                model.score(observations, chunk, draw)
                for (model, chunk), draw in zip(
                    [(policy, better), (reference, better), (policy, worse), (reference, worse)],
                    draws,
                    strict=True,
                )
            ]
        return float(scores[0] - scores[1] - scores[2] + scores[3])

    generator = seeded(5)
    shared = [margin([policy.draw(1, generator=generator)] * 4) for _ in range(60)]
    apart = [margin([policy.draw(1, generator=generator) for _ in range(4)]) for _ in range(60)]
    assert np.std(apart) > 10 * np.std(shared)


@pytest.mark.parametrize(("family", "clean"), [(DiffusionActor, 0.0), (FlowActor, 1.0)])
def test_a_window_of_low_noise_draws_times_near_the_action(family, clean):
    times = actor(family).draw(50, generator=seeded(), window=(0.0, 0.1)).times
    assert (times - clean).abs().max() <= 0.1
    with pytest.raises(ConfigError, match="two levels of noise"):
        actor(family).draw(5, generator=seeded(), window=(0.5, 0.5))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_policy_acts_and_scores_as_before(family, tmp_path):
    policy = family(3, 2, horizon=3, backbone=TINY, sample_steps=3, seed=4)
    policy.fit_normaliser(torch.randn(20, 3, generator=seeded()))
    save_policy(tmp_path, policy)
    loaded = load_policy(tmp_path)
    observations, actions = torch.randn(2, 3), torch.rand(2, 3, 2)
    draw = policy.draw(2, generator=seeded())
    assert torch.equal(loaded.act(observations), policy.act(observations))
    assert torch.equal(loaded.score(observations, actions, draw), policy.score(observations, actions, draw))
    assert torch.equal(copy.deepcopy(loaded).act(observations), policy.act(observations))


def train(policy, store, directory, steps, batch_size=32):
    with RunLog(directory, wandb_mode="disabled") as log:
        return fit(
            policy,
            policy.prepare_data(store, None),
            steps=steps,
            batch_size=batch_size,
            seed=0,
            fabric=make_fabric("cpu"),
            log=log,
            phase="train",
            directory=directory,
            checkpoint_every=500,
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_training_that_was_broken_off_goes_on_to_the_very_same_policy(family, tmp_path):
    store = store_of(tmp_path / "store", numbered([6, 9]))
    whole, parts = (family(2, 1, horizon=3, backbone=TINY) for _ in range(2))
    train(whole, store, tmp_path / "whole", 20)
    train(parts, store, tmp_path / "parts", 10)
    again = family(2, 1, horizon=3, backbone=TINY)
    train(again, store, tmp_path / "parts", 20)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    moved = whole.trained.network.layers[0].weight - whole.actor.network.layers[0].weight
    assert moved.abs().max() > 0  # what acts is an average of what was trained


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_it_learns_both_of_two_ways_where_a_mean_would_take_neither(family, tmp_path):
    rng = np.random.default_rng(0)
    episodes = [
        episode(rng.normal(size=(5, 1)), np.full((4, 1), side) + 0.02 * rng.normal(size=(4, 1)), np.zeros(4))
        for side in (-0.7, 0.7)
        for _ in range(10)
    ]
    backbone = {"kind": "mlp", "hidden": [64, 64], "time_size": 16}
    policy = family(1, 1, horizon=1, backbone=backbone, learning_rate=1e-2, average=0.9)
    train(policy, store_of(tmp_path / "store", episodes), tmp_path, 500, batch_size=128)
    samples = policy.sample(torch.zeros(1, 1), 200, generator=seeded()).flatten()
    assert (samples.abs() < 0.35).float().mean().item() < 0.3
    assert 0.2 < (samples > 0).float().mean().item() < 0.8


def test_a_chunk_past_the_end_of_its_episode_is_masked_and_repeats_the_last_action(tmp_path):
    policy = DiffusionPolicy(2, 1, horizon=3, backbone=TINY)
    chunks = policy.prepare_data(store_of(tmp_path, numbered([4, 2])), None)
    batch = chunks.batch(torch.arange(len(chunks)))
    assert batch["observations"].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0], [1, 1]]
    steps = (100 * batch["actions"][..., 0]).round().int().tolist()
    assert steps == [[0, 1, 2], [1, 2, 3], [2, 3, 3], [3, 3, 3], [0, 1, 1], [1, 1, 1]]
    assert batch["mask"].sum(1).tolist() == [3, 3, 2, 1, 2, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 0}, "horizon must be at least 1"),
        ({"execute": 9}, "execute must lie in 1..horizon"),
        ({"backbone": {"kind": "unet"}}, "Did you mean 'unet1d'"),
        ({"backbone": {"kind": "mlp", "width": 3}}, "cannot be built"),
        ({"encoder": {"kind": "points", "count": 9, "channels": 3}}, "does not hold 9 points of 3"),
        ({"encoder": {"kind": "image", "height": 8, "width": 9}}, "does not hold a picture of 8 x 9"),
        ({"average": 1.0}, "average must lie in"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"noise_steps": 5, "sample_steps": 10}, "sample_steps must be at most noise_steps"),
        ({"eta": 2.0}, "eta must lie in"),
    ],
)
def test_options_without_sense_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        DiffusionPolicy(3, 2, **options)


def test_scores_without_a_draw_or_with_one_of_another_batch_and_bad_observations_are_refused():
    policy = FlowPolicy(3, 2, horizon=4, backbone=TINY)
    observations, actions = torch.zeros(2, 3), torch.zeros(2, 4, 2)
    with pytest.raises(DataError, match="under a draw"):
        policy.score(observations, actions)
    with pytest.raises(DataError, match="The draw is for chunks"):
        policy.score(observations, actions, policy.draw(3, generator=seeded()))
    with pytest.raises(DataError, match="NaN or infinity in dimensions \\[1\\]"):
        policy.act(torch.tensor([[0.0, math.nan, 0.0]]))
    with pytest.raises(DataError, match=r"observations \(B, 3\)"):
        policy.act(torch.zeros(1, 4))
