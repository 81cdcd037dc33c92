"""Diffusion and flow in NumPy: closed forms, and the same numbers as torch and diffusers."""

# pyright: reportOptionalMemberAccess=false, reportMissingImports=false, reportAttributeAccessIssue=false

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch

from robopref.deploy import export as exporting
from robopref.deploy.bundle import load
from robopref.deploy.codec import pack, unpack
from robopref.deploy.denoising import Diffusion, Flow, SurrogateRatio
from robopref.deploy.runtime import Session, TimeUp
from robopref.deploy.scoring import SurrogateScorer
from robopref.deploy.selection import Selector
from robopref.deploy.server import _result
from robopref.errors import DataError
from robopref.policies.saved import load_policy, save_policy
from robopref.rewards.candidates import CandidateReward, ExplicitReward, ImplicitReward, ProductReward
from robopref.rewards.saved import save_reward
from tests.deploy.made import make_bundle

ALPHAS = np.cos(np.linspace(0.01, 1.5, 20)) ** 2
ACTION = np.array([[0.3, -0.6], [0.1, 0.9]])
CONDITION = np.zeros((5, 1), np.float32)


def diffusion(eta=0.0, timesteps=(15, 10, 5, 0), alphas=ALPHAS):
    settings = {
        "kind": "diffusion",
        "encoder": "e",
        "denoiser": "d",
        "alphas": np.asarray(alphas).tolist(),
        "timesteps": list(timesteps),
        "eta": eta,
    }
    return Diffusion(settings, "policy")


def flow(steps=4):
    return Flow({"kind": "flow", "encoder": "e", "denoiser": "d", "steps": steps}, "policy")


def noise_of(path):
    return np.random.default_rng(0).standard_normal((5, path.draws, 2, 2), np.float32)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_finds_the_action_that_the_network_knows(eta):
    def knows(noisy, time, condition):
        alpha = ALPHAS[round(time * 20)]
        return (noisy - alpha**0.5 * ACTION) / (1 - alpha) ** 0.5

    path = diffusion(eta)
    found = path.generate(knows, CONDITION, noise_of(path), lambda: None)
    assert found == pytest.approx(np.broadcast_to(ACTION, (5, 2, 2)), abs=1e-5)


def test_euler_follows_a_constant_velocity_exactly():
    path = flow()
    found = path.generate(lambda x, t, c: np.full_like(x, 0.5), CONDITION, noise_of(path), lambda: None)
    assert found == pytest.approx(noise_of(path)[:, 0] + 0.5, abs=1e-6)


def test_the_network_is_asked_at_the_times_that_training_used():
    told = []
    for path in (diffusion(), flow()):
        path.generate(lambda x, t, c: told.append(t) or 0 * x, CONDITION, noise_of(path), lambda: None)
    assert told == [15 / 20, 10 / 20, 5 / 20, 0.0, 0.0, 0.25, 0.5, 0.75]


def test_a_level_of_noise_lies_between_action_and_noise():
    noise = np.ones((2, 2), np.float32)
    noisy, time, wanted = flow().at(0.25, ACTION[None], noise)
    assert noisy[0] == pytest.approx(0.25 + 0.75 * ACTION)
    assert (time, wanted[0].tolist()) == (0.75, (ACTION - 1).tolist())
    noisy, time, wanted = diffusion().at(0.25, ACTION[None], noise)
    assert noisy[0] == pytest.approx(ALPHAS[5] ** 0.5 * ACTION + (1 - ALPHAS[5]) ** 0.5, abs=1e-6)
    assert (time, wanted[0].tolist()) == (0.25, noise.tolist())


@pytest.mark.parametrize(
    "wrong", [{"timesteps": (20,)}, {"timesteps": ()}, {"eta": 1.5}, {"alphas": [1.0, 0.5]}]
)
def test_a_schedule_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(DataError):
        diffusion(**wrong)


class Constant(Session):
    """An ONNX session that answers with one number."""

    def __init__(self, value):
        self.value, self.runs = value, 0

    def __call__(self, *outputs, **inputs):
        self.runs += 1
        return (np.full_like(inputs.get("noisy", inputs.get("observations")), self.value),)


def ratio(policy, reference, draws=8):
    settings = {
        "kind": "surrogate",
        "encoder": "e",
        "denoiser": "policy",
        "reference_encoder": "e",
        "reference_denoiser": "reference",
        "beta": 2.0,
        "draws": draws,
        "window": [0.0, 1.0],
    }
    sessions = {"e": Constant(0.0), "policy": policy, "reference": reference}
    return SurrogateRatio(settings, diffusion(), sessions)


def test_equal_networks_score_every_candidate_exactly_zero():
    chunks = np.random.default_rng(1).uniform(-1, 1, (5, 2, 2)).astype(np.float32)
    scorer = ratio(Constant(0.3), Constant(0.3))
    found = scorer.ratios(np.zeros(3, np.float32), chunks, np.random.default_rng(0), lambda: None)
    assert found.shape == (8, 5)
    assert (found == 0).all()


def test_the_ratio_is_half_the_difference_of_squared_errors():
    chunks = np.zeros((5, 2, 2), np.float32)
    found = ratio(Constant(0.5), Constant(0.0), 400).ratios(
        np.zeros(3, np.float32), chunks, np.random.default_rng(0), lambda: None
    )
    assert (found == found[:, :1]).all()  # one noise for all candidates
    # 2 * -1/2 * (mean (0.5 - n)^2 - mean n^2) = mean n - 0.25, whose mean is -0.25
    assert found.mean() == pytest.approx(-0.25, abs=4 * 0.5 / 400**0.5)


def test_with_too_little_time_fewer_draws_are_used():
    left = iter(range(7))

    def pause():
        if next(left, None) is None:
            raise TimeUp

    chunks = np.zeros((5, 2, 2), np.float32)
    scorer = ratio(Constant(0.5), Constant(0.0))
    found = scorer.ratios(np.zeros(3, np.float32), chunks, np.random.default_rng(0), pause)
    assert found.shape == (2, 5)  # two encoders, two draws of two networks, and a half
    with pytest.raises(TimeUp):
        scorer.ratios(np.zeros(3, np.float32), chunks, np.random.default_rng(0), pause)


def test_the_error_of_a_single_draw_is_not_known_and_says_so(tmp_path):
    settings = {"kind": "surrogate", "beta": 2.0, "draws": 1, "window": [0.0, 1.0], "encoder": "e"}
    settings |= {"denoiser": "policy", "reference_encoder": "e", "reference_denoiser": "reference"}
    sessions = {"e": Constant(0.0), "policy": Constant(0.5), "reference": Constant(0.0)}
    bundle = load(make_bundle(tmp_path / "b"))
    policy = {"kind": "flow", "encoder": "e", "denoiser": "policy", "steps": 2}
    manifest = dataclasses.replace(bundle.manifest, policy=policy)
    object.__setattr__(bundle, "scorer", SurrogateScorer(settings, manifest, sessions))
    decision = Selector(bundle, candidates=4).decide(np.zeros(3, np.float32), index=0)
    assert np.isnan(decision.scores.error).all()
    assert decision.chosen == np.argmax(decision.scores.mean)  # by what is known
    log = json.loads(json.dumps(decision.record(), allow_nan=False))
    assert log["scores"]["error"] == [None] * 4
    answer = unpack(pack(_result(decision, 1.0, None)))
    assert answer["score_parts"]["error"] == [None] * 4


# --- against torch ------------------------------------------------------------------------------------------

SPEC = {"task": "toy", "control_hz": 10.0}
ENCODERS = {
    "state": {"kind": "state"},
    "points": {"kind": "points", "count": 4, "channels": 3},
    "image": {"kind": "image", "height": 9, "width": 8, "channels": 3, "filters": 4},
}
SEEN = {"state": 14, "points": 14, "image": 9 * 8 * 3 + 2}


def made(family, size=14, **options):
    from robopref.policies.diffusion import DiffusionPolicy
    from robopref.policies.flow import FlowPolicy

    policy = {"diffusion": DiffusionPolicy, "flow": FlowPolicy}[family](size, 3, horizon=8, **options)
    policy.fit_normaliser(torch.randn(64, size, generator=torch.Generator().manual_seed(0)) * 2 + 1)
    return policy


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["mlp", "transformer", "unet1d"])
@pytest.mark.parametrize(
    ("family", "encoder"), [("diffusion", "state"), ("flow", "points"), ("diffusion", "image")]
)
def test_candidates_are_those_of_torch_and_diffusers(tmp_path, family, encoder, backbone):
    save_policy(
        tmp_path / "p", made(family, SEEN[encoder], encoder=ENCODERS[encoder], backbone={"kind": backbone})
    )
    exported = exporting.export(tmp_path / "p", tmp_path / "b", spec=SPEC)
    assert set(exported.parity) == {"encoder", "denoiser"}
    bundle = load(tmp_path / "b")
    actor: Any = load_policy(tmp_path / "p").actor
    seen = torch.randn(1, SEEN[encoder], generator=torch.Generator().manual_seed(1))
    noise = bundle.sampler.noise(np.random.default_rng(0), 6)
    with torch.no_grad():
        condition = actor._condition(seen).repeat_interleave(6, 0)
        wanted = actor.generate(condition, torch.from_numpy(noise[:, 0]), None).clamp(-1, 1).numpy()
    assert bundle.sampler.sample(seen[0].numpy(), noise, lambda: None) == pytest.approx(wanted, abs=2e-5)
    assert Selector(bundle, candidates=2).decide(seen[0].numpy(), index=0).actions.shape == (8, 3)


@pytest.mark.slow
def test_a_policy_of_preferences_ranks_by_its_own_reference_and_as_the_lab_does(tmp_path, monkeypatch):
    from robopref.policies.chunks import Draw
    from robopref.policies.preference import PreferencePolicy

    options: dict[str, Any] = {"actor": {"kind": "diffusion", "horizon": 8}}
    policy: Any = PreferencePolicy(14, 3, **options)
    policy.start_from(made("diffusion"))
    for parameter in policy.actor.network.parameters():
        parameter.data += 0.01
    save_policy(tmp_path / "p", policy)
    reward = CandidateReward(14, 3, horizon=8, encoder=ENCODERS["points"])  # which takes a mean, too
    save_reward(tmp_path / "r", reward)
    exported = exporting.export(
        tmp_path / "p", tmp_path / "b", reward_dir=tmp_path / "r", scorer="product", spec=SPEC
    )
    references = {"reference_encoder", "reference_denoiser"}
    assert set(exported.parity) == {"encoder", "denoiser", "reward", *references}
    bundle = load(tmp_path / "b")
    seen, chunks = np.ones(14, np.float32), np.random.default_rng(0).uniform(-1, 1, (5, 8, 3))
    chunks = chunks.astype(np.float32)
    found = bundle.scorer.score(seen, chunks, np.random.default_rng(3), lambda: None)
    rng, draws = np.random.default_rng(3), 16  # the same draws, by hand
    levels = (np.arange(draws) + rng.random(draws)) / draws
    noise = rng.standard_normal((draws, 1, 8, 3), np.float32)
    draw = Draw(
        torch.from_numpy(np.repeat(levels[:, None], 5, 1)).float(), torch.from_numpy(np.repeat(noise, 5, 1))
    )
    rows = torch.from_numpy(seen).expand(5, -1)
    with torch.no_grad():
        ratio = policy.actor.score(rows, torch.from_numpy(chunks), draw)
        ratio -= policy.reference.score(rows, torch.from_numpy(chunks), draw)
    implicit = policy.preference.beta * ratio
    explicit, epistemic, _ = reward.doubt(rows[:1], torch.from_numpy(chunks)[None])
    assert found.mean == pytest.approx((implicit + explicit[0]).numpy(), rel=1e-3, abs=1e-3)
    assert found.epistemic == pytest.approx(epistemic[0].numpy(), abs=1e-4)

    monkeypatch.setattr(
        policy.actor, "draw", lambda batch_size, **options: Draw(draw.times[:, :1], draw.noise[:, :1])
    )
    implicit_of_lab, explicit_of_lab = ImplicitReward(policy, draws=draws), ExplicitReward(reward)
    of_lab = (ProductReward(explicit_of_lab, implicit_of_lab), explicit_of_lab, implicit_of_lab)
    for lab, robot in zip(of_lab, (bundle.scorer, *bundle.scorer._factors), strict=True):
        expected = lab.score(rows[:1], torch.from_numpy(chunks)[None], generator=torch.Generator())
        found = robot.score(seen, chunks, np.random.default_rng(3), lambda: None)
        for column, wanted in zip(found, expected, strict=True):
            assert column == pytest.approx(wanted[0].numpy(), rel=1e-3, abs=1e-4)
        order = np.argsort(-found.value(0.7))
        assert order.tolist() == expected.value(0.7)[0].argsort(descending=True).tolist()
