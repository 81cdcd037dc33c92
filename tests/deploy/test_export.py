"""From saved policies and rewards to a bundle: the same numbers as torch's, or no bundle at all."""

# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalOperand=false

import json
import shutil
from typing import Any

import numpy as np
import pytest
import torch

from robopref.cli.export import export as command
from robopref.data.store import TrajectoryStore
from robopref.deploy import export as exporting
from robopref.deploy import parity
from robopref.deploy.bundle import load
from robopref.deploy.export import description, networks
from robopref.deploy.export.inputs import recorded_inputs
from robopref.deploy.manifest import Manifest
from robopref.deploy.selection import Selector
from robopref.errors import ConfigError, DataError
from robopref.policies.bc import BehaviourCloning
from robopref.policies.iql import ImplicitQLearning
from robopref.policies.preference import PreferencePolicy
from robopref.policies.rebrac import ReBRAC
from robopref.policies.saved import load_policy, save_policy
from robopref.rewards.bradley_terry import BradleyTerryReward
from robopref.rewards.candidates import CandidateReward
from robopref.rewards.gaussian import GaussianReward
from robopref.rewards.saved import load_reward, save_reward
from tests.policies.store_of import episode, store_of

SEEN, A = 5, 2


def observations(rows, seed=0):
    return np.random.default_rng(seed).normal(3.0, 2.0, (rows, SEEN)).astype(np.float32)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    rng = np.random.default_rng(0)
    episodes = []
    for length in (8, 12):
        actions = np.clip(np.cumsum(rng.normal(0, 0.05, (length, A)), 0), -1, 1)
        episodes.append(episode(observations(length + 1), actions, rng.normal(size=length)))
    with store_of(tmp_path_factory.mktemp("store") / "s", episodes) as made:
        yield made


def made_policy(kind):
    policy = kind(observation_size=SEEN, action_size=A, hidden=(16,))
    torch.manual_seed(1)
    for parameter in policy.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    for actor in (policy.actor, *([policy.reference] if isinstance(policy, PreferencePolicy) else [])):
        actor.normaliser.fit(torch.from_numpy(observations(64)))
    return policy


def made_reward(kind, **options):
    reward = kind(observation_size=SEEN, action_size=A, hidden=(16,), **options)
    reward.fit_normaliser(torch.from_numpy(observations(64)))
    return reward


@pytest.fixture(scope="module")
def folders(tmp_path_factory, store):
    """A saved policy of every kind, a reward of every kind, and a bundle of the first of each."""
    root = tmp_path_factory.mktemp("saved")
    for kind in (BehaviourCloning, ImplicitQLearning, PreferencePolicy, ReBRAC):
        save_policy(root / kind.kind, made_policy(kind))
    save_reward(root / "gaussian", made_reward(GaussianReward))
    save_reward(root / "bradley_terry", made_reward(BradleyTerryReward, bound="none", members=2))
    exporting.export(root / "bc", root / "bundle", reward_dir=root / "gaussian", data=store.path)
    return root


def test_a_bundle_decides_as_torch_does(folders):
    bundle, policy = load(folders / "bundle"), load_policy(folders / "bc")
    seen = observations(6, seed=9)
    expected = policy.act(torch.from_numpy(seen))
    for row, wanted in zip(seen, expected, strict=True):
        sent = Selector(bundle, candidates=1).decide(row, index=0).actions
        assert sent == pytest.approx(wanted.numpy(), abs=1e-5)


def test_candidates_are_scored_as_torch_scores_them(folders):
    bundle, reward = load(folders / "bundle"), load_reward(folders / "gaussian")
    (seen,) = observations(1, seed=4)
    decision = Selector(bundle, candidates=32, pessimism=0.7).decide(seen, index=0)
    mean, aleatoric, epistemic = reward.predict_parts(
        torch.from_numpy(seen).expand(32, -1), torch.from_numpy(decision.candidates[:, 0])
    )
    assert decision.scores.mean == pytest.approx(mean.numpy(), abs=1e-5)
    assert decision.scores.epistemic == pytest.approx(epistemic.numpy(), abs=1e-5)
    assert decision.scores.aleatoric == pytest.approx(aleatoric.numpy(), abs=1e-5)
    assert decision.chosen == int((mean - 0.7 * epistemic).argmax())


def test_candidates_have_the_policy_s_spread(folders):
    bundle, policy = load(folders / "bundle"), load_policy(folders / "bc")
    rng = np.random.default_rng(0)
    noise = bundle.sampler.noise(rng, 4000)
    (seen,) = observations(1)
    chunks = bundle.sampler.sample(seen, noise, lambda: None)[:, 0]
    drawn = policy.actor.sample(
        torch.from_numpy(seen)[None], 4000, generator=torch.Generator().manual_seed(0)
    )[0, :, 0].numpy()
    assert chunks.mean(0) == pytest.approx(drawn.mean(0), abs=0.06)
    assert chunks.std(0) == pytest.approx(drawn.std(0), abs=0.06)


def made_denoiser(family, horizon=3):
    from robopref.policies.diffusion import DiffusionPolicy
    from robopref.policies.flow import FlowPolicy

    kind = {"diffusion": DiffusionPolicy, "flow": FlowPolicy}[family]
    policy = kind(SEEN, A, horizon=horizon, backbone={"kind": "mlp", "hidden": [8]})
    policy.fit_normaliser(torch.from_numpy(observations(64)))
    return policy


@pytest.mark.parametrize("family", ["diffusion", "flow"])
def test_a_denoiser_is_compared_on_recorded_chunks_at_all_levels_of_noise(store, family):
    policy = made_denoiser(family)
    part = networks.policy_parts(policy)[1]["denoiser"]
    (found,) = recorded_inputs(part, store, 3, np.random.default_rng(0))
    episodes = [store.episode(i) for i in range(2)]
    chunks = [  # an episode's last action is repeated
        episode.actions[np.minimum(np.arange(t, t + 3), len(episode.actions) - 1)]
        for episode in episodes
        for t in range(len(episode.actions))
    ]
    shapes = {name: value.shape for name, value in found.items()}
    assert shapes == {"noisy": (20, 3, A), "times": (20,), "condition": (20, policy.actor.encoder.size)}
    level = found["times"] if family == "diffusion" else 1 - found["times"]
    assert np.sort(level) == pytest.approx(np.linspace(0, 1, 20), abs=0.011)  # of 100 steps, or exactly
    clean, noised = level.argmin(), level.argmax()
    assert found["noisy"][clean] == pytest.approx(chunks[clean], abs=0.1)
    assert np.abs(found["noisy"][noised] - chunks[noised]).max() > 0.5
    rows = np.concatenate([episode.observations[:-1] for episode in episodes])
    expected = policy.actor.encoder(torch.from_numpy(rows)).detach().numpy()
    assert found["condition"] == pytest.approx(expected, abs=1e-6)


def test_a_reward_of_chunks_is_compared_on_recorded_chunks(store):
    reward = CandidateReward(SEEN, A, horizon=3, hidden=(8,))
    part = networks.scorer_parts(made_denoiser("flow"), reward, "reward")[1]["reward"]
    (found,) = recorded_inputs(part, store, 3, np.random.default_rng(0))
    assert found["actions"][4] == pytest.approx(store.episode(0).actions[4:7].ravel())
    assert found["observations"][4] == pytest.approx(store.episode(0).observations[4])


@pytest.mark.slow
def test_every_network_of_a_denoiser_and_its_ranking_has_random_and_recorded_parity(store, tmp_path):
    backbone = {"kind": "mlp", "hidden": [8]}
    policy = PreferencePolicy(SEEN, A, actor={"kind": "flow", "horizon": 3, "backbone": backbone})
    policy.start_from(made_denoiser("flow"))
    save_policy(tmp_path / "p", policy)
    save_reward(tmp_path / "r", CandidateReward(SEEN, A, horizon=3, hidden=(8,)))
    options: dict[str, Any] = {"reward_dir": tmp_path / "r", "scorer": "product", "data": store.path}
    made = exporting.export(tmp_path / "p", tmp_path / "b", **options)
    assert set(made.parity) == {"encoder", "denoiser", "reference_encoder", "reference_denoiser", "reward"}
    for kinds in made.parity.values():
        assert kinds["recorded"]["rows"] == 20
        assert max(kinds[kind]["relative_difference"] for kind in ("random", "recorded")) <= 1e-5


def deformpam_run(run, policy):
    """What such a run leaves behind, its policy far from its reference."""
    torch.manual_seed(3)
    for parameter in policy.actor.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    save_policy(run / "policy", policy)
    (run / "run.json").write_text(json.dumps({"method": "deformpam", "task": "toy"}))
    gate = {"collapsed": True, "reason": "samples miss preferred actions"}
    (run / "policy" / "metrics.json").write_text(json.dumps({"gate": gate}))
    return run


def test_a_run_of_deformpam_ranks_what_its_reference_proposes(folders, tmp_path, capsys):
    run, spec = tmp_path / "run", tmp_path / "spec.json"
    reference = made_policy(BehaviourCloning)
    policy = PreferencePolicy(observation_size=SEEN, action_size=A, hidden=(16,))
    policy.start_from(reference)
    run = deformpam_run(run, policy)
    spec.write_text(json.dumps({"task": "toy", "control_hz": 20.0}))
    assert command([f"run={run}", f"target={tmp_path / 'b'}", f"spec={spec}"]) == 0
    assert "COLLAPSED" not in capsys.readouterr().out
    bundle, (seen,) = load(tmp_path / "b"), observations(1, seed=9)
    assert bundle.manifest.scorer["kind"] == "implicit"
    chunks = bundle.sampler.sample(seen, np.zeros((1, 1, A), np.float32), lambda: None)
    rows = torch.from_numpy(seen)[None]
    assert chunks[0] == pytest.approx(reference.act(rows)[0].numpy(), abs=1e-5)
    assert np.abs(chunks[0] - policy.act(rows)[0].numpy()).max() > 0.01


def test_to_sample_a_collapsed_policy_is_noted(tmp_path):
    run = deformpam_run(tmp_path / "run", PreferencePolicy(SEEN, A, hidden=(4,)))
    (note,) = exporting._collapsed(run / "policy")
    assert note.startswith(
        "COLLAPSED: candidates are samples of a policy that must not act by itself: samples"
    )


def test_a_denoiser_without_a_reference_cannot_sample_from_one():
    with pytest.raises(ConfigError, match="a FlowPolicy has none; sampler=policy"):
        networks.policy_parts(made_denoiser("flow"), "reference")
    with pytest.raises(ConfigError, match="Did you mean 'reference'"):
        networks.policy_parts(made_denoiser("flow"), "refrence")


@pytest.mark.slow
def test_candidates_of_a_deformpam_bundle_are_those_of_its_reference(store, tmp_path):
    backbone = {"kind": "mlp", "hidden": [8]}
    policy = PreferencePolicy(SEEN, A, actor={"kind": "diffusion", "horizon": 3, "backbone": backbone})
    reference = made_denoiser("diffusion")
    policy.start_from(reference)
    run = deformpam_run(tmp_path / "run", policy)
    save_policy(tmp_path / "r", reference)
    found = exporting.find_in_run(run)
    assert found["sampler"] == "reference"
    for name, folder, sampler in (("b", run / "policy", "reference"), ("own", tmp_path / "r", "policy")):
        exporting.export(folder, tmp_path / name, sampler=sampler, data=store.path)
    (seen,) = observations(1, seed=9)
    bundles = [load(tmp_path / name) for name in ("b", "own")]
    noise = bundles[0].sampler.noise(np.random.default_rng(0), 8)
    ours, theirs = (bundle.sampler.sample(seen, noise, lambda: None) for bundle in bundles)
    assert ours == pytest.approx(theirs, abs=1e-6)
    assert bundles[0].manifest.scorer["kind"] == "surrogate"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "reward", "ranking", "scorer"),
    [
        ("iql", "bradley_terry", "reward", "ensemble"),
        ("preference", None, "reference", "implicit"),
        ("preference", "gaussian", "reward", "ensemble"),
        ("rebrac", None, None, None),  # it has nothing to rank by
    ],
)
def test_every_kind_is_exported_within_the_tolerance(
    folders, store, tmp_path, policy, reward, ranking, scorer
):
    made = exporting.export(
        folders / policy,
        tmp_path / "b",
        reward_dir=None if reward is None else folders / reward,
        data=store.path,
    )
    report = json.loads((tmp_path / "b" / "parity.json").read_text())
    assert report["networks"] == made.parity
    assert set(made.parity) == {"policy", ranking} - {None}
    for kinds in made.parity.values():
        assert kinds["recorded"]["rows"] == 20
        assert kinds["random"]["rows"] == 1 + 7 + 256
        assert max(k["relative_difference"] for k in kinds.values()) <= 1e-5
    assert (load(tmp_path / "b").manifest.scorer or {}).get("kind") == scorer


@pytest.mark.slow
def test_the_implicit_score_is_beta_times_the_log_ratio(folders, store, tmp_path):
    exporting.export(folders / "preference", tmp_path / "b", data=store.path)
    policy: Any = load_policy(folders / "preference")
    (seen,) = observations(1, seed=2)
    decision = Selector(load(tmp_path / "b"), candidates=16).decide(seen, index=0)
    rows, chunks = torch.from_numpy(seen).expand(16, -1), torch.from_numpy(decision.candidates)
    with torch.no_grad():
        ratio = policy.actor.score(rows, chunks) - policy.reference.score(rows, chunks)
    assert decision.scores.mean == pytest.approx(policy.preference.beta * ratio.numpy(), abs=1e-4)


def test_the_manifest_says_what_the_data_and_the_normaliser_say(folders, store):
    manifest = load(folders / "bundle").manifest
    assert manifest.task == "toy"
    assert manifest.control_hz == store.control_hz
    assert [p.size for p in manifest.observation] == [SEEN]
    data = observations(64)
    assert manifest.observation[0].low == pytest.approx(data.mean(0) - 10 * data.std(0), rel=1e-4)
    changes = np.concatenate([np.abs(np.diff(store.episode(i).actions, axis=0)) for i in range(2)])
    assert manifest.limits.rate == pytest.approx(changes.max(0) * store.control_hz)


def test_a_spec_says_what_only_a_person_knows(folders, store):
    spec = {
        "task": "stack",
        "observation": [
            {"name": "observation/joints", "size": 3, "units": "rad", "frame": "joints"},
            {"name": "observation/cup", "size": 2, "units": "m", "frame": "base"},
        ],
        "action": {
            "names": ["x", "y"],
            "units": ["m", "m"],
            "low": [0.0, -0.5],
            "high": [1.0, 0.5],
            "hold": "last",
            "home": [0.5, 0.0],
        },
    }
    record = description.describe(load_policy(folders / "bc"), store, spec)
    manifest = Manifest.read({**record, **REST}, "spec")
    assert [part.name for part in manifest.observation] == ["observation/joints", "observation/cup"]
    assert manifest.task == "stack"
    assert manifest.limits.high.tolist() == [1.0, 0.5]  # limits follow the action's units
    unit = load(folders / "bundle").manifest.limits.rate
    assert manifest.limits.rate == pytest.approx(unit / 2)  # a range of 1 instead of 2
    assert manifest.action.physical(np.array([-1.0, 1.0])).tolist() == [0.0, 0.5]
    assert manifest.action.hold is None
    assert manifest.action.home.tolist() == [0.5, 0.0]


@pytest.mark.parametrize(
    ("limits", "rate"),
    [
        ({"boxes": [{"name": "b", "entries": [0], "low": [0.25], "high": [0.3]}]}, None),
        ({"rate_per_s": [0.5, 0.5]}, [0.5, 0.5]),
        ({"high": [0.35, 1.0]}, None),
    ],
)
def test_what_a_spec_does_not_say_of_limits_still_follows_the_action_s_units(folders, store, limits, rate):
    action = {"low": [0.2, -1.0], "high": [0.4, 1.0], "hold": "last"}
    record = description.describe(load_policy(folders / "bc"), store, {"action": action, "limits": limits})
    found = Manifest.read({**record, **REST}, "spec").limits
    unit = load(folders / "bundle").manifest.limits.rate
    assert found.low.tolist() == [0.2, -1.0]
    assert found.high.tolist() == limits.get("high", [0.4, 1.0])
    assert found.rate == pytest.approx(rate or unit * [0.1, 1.0])  # a range of 0.2 instead of 2
    assert len(found.boxes) == len(limits.get("boxes", []))


REST = {"policy": {"kind": "gaussian"}, "scorer": None, "networks": {}, "source": {}}


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"limts": {}}, "Did you mean 'limits'"),
        ({"action": {"name": []}}, "Did you mean 'names'"),
        ({"action": []}, "action must be a JSON object"),
        ({"action": {"names": ["x"]}}, "must be 1 numbers"),
        ({"limits": {"boxes": [{"name": "b"}]}}, "lacks 'entries'"),
        (
            {"observation": [{"name": "x", "size": 4, "units": "m", "frame": "base"}]},
            r"must be \(5, 2, 1\) for this policy, got \(4, 2, 1\)",
        ),
    ],
)
def test_a_spec_that_makes_no_sense_leaves_nothing_behind(folders, store, tmp_path, spec, sentence):
    with pytest.raises((ConfigError, DataError), match=sentence):
        exporting.export(folders / "bc", tmp_path / "b", data=store.path, spec=spec)
    assert list(tmp_path.iterdir()) == []


def test_without_data_the_task_and_the_rate_must_be_given(folders, tmp_path):
    with pytest.raises(ConfigError, match="must say its task"):
        exporting.export(folders / "bc", tmp_path / "b")
    record = description.describe(load_policy(folders / "bc"), None, {"task": "t", "control_hz": 20.0})
    notes = exporting._notes(Manifest.read({**record, **REST}, "spec"), None)
    assert [note.split(":")[0] for note in notes] == [
        "no recorded episodes (data=)",
        "no limit to how fast actions change",
    ]


def test_an_empty_store_proves_no_parity(folders, tmp_path):
    sizes = {"observation_size": SEEN, "action_size": A, "keypoints": ()}
    TrajectoryStore.create(tmp_path / "s", **sizes, control_hz=20.0).close()
    with TrajectoryStore.open(tmp_path / "s") as empty:
        record = description.describe(load_policy(folders / "bc"), empty, {"task": "t", "control_hz": 20.0})
        notes = exporting._notes(Manifest.read({**record, **REST}, "spec"), empty)
    assert notes[0].startswith("no recorded episodes")


def test_to_hold_by_zeros_is_noted_where_the_spec_does_not_say_how():
    (note,) = exporting._assumed({"action": {"names": ["x"]}})
    assert "for positions or primitives (rope, pile) give action.hold" in note
    assert exporting._assumed({"action": {"hold": "last"}}) == ()


def test_a_network_that_differs_is_not_let_out(folders, tmp_path, monkeypatch):
    def wrong(self, observations):
        mean = self.actor.mean_of(self.actor.normaliser(observations)).unsqueeze(1)
        return mean if torch.onnx.is_in_onnx_export() or torch.compiler.is_compiling() else mean + 1e-3

    monkeypatch.setattr(networks._Mean, "forward", wrong)
    with pytest.raises(DataError, match=r"'policy' differs between torch and ONNX Runtime by .* Nothing"):
        exporting.export(folders / "bc", tmp_path / "b", spec={"task": "t", "control_hz": 20.0})
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_together_is_refused(folders, tmp_path, store):
    spec = {"task": "t", "control_hz": 20.0}
    save_reward(tmp_path / "other", GaussianReward(observation_size=SEEN, action_size=3, hidden=(4,)))
    bad: list[tuple[dict[str, Any], str]] = [
        ({"scorer": "reward"}, "needs reward="),
        ({"scorer": "implicit"}, "a BehaviourCloning has none"),
        ({"scorer": "implict"}, "Did you mean 'implicit'"),
        ({"reward_dir": tmp_path / "other"}, "they are of different tasks"),
        ({"reward_dir": folders / "bc"}, "No kind of module is called 'bc'"),
    ]
    for options, sentence in bad:
        with pytest.raises((ConfigError, DataError), match=sentence):
            exporting.export(folders / "bc", tmp_path / "b", spec=spec, **options)
    with pytest.raises(ConfigError, match="exists already"):
        exporting.export(folders / "bc", folders / "bundle", spec=spec)
    save_policy(tmp_path / "small", BehaviourCloning(observation_size=3, action_size=A, hidden=(4,)))
    with pytest.raises(DataError, match="holds observations of 5 numbers, the policy takes 3"):
        exporting.export(tmp_path / "small", tmp_path / "b", data=store.path)
    save_policy(tmp_path / "wide", BehaviourCloning(observation_size=SEEN, action_size=3, hidden=(4,)))
    with pytest.raises(DataError, match="holds actions of 2 numbers, the policy takes 3"):
        exporting.export(tmp_path / "wide", tmp_path / "b", data=store.path)


def test_a_run_is_searched_for_policy_reward_and_data(folders, store, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(DataError, match="holds no policy"):
        exporting.find_in_run(run)
    shutil.copytree(folders / "bc", run / "policy")
    assert exporting.find_in_run(run) == {"policy": run / "policy"}
    shutil.copytree(folders / "gaussian", run / "reward")
    (run / "phases").mkdir()
    (run / "run.json").write_text(json.dumps({"task": "toy"}))
    (run / "phases" / "collect-toy.json").write_text(json.dumps({"settings": {"data": str(store.path)}}))
    assert exporting.find_in_run(run) == {
        "policy": run / "policy",
        "reward": run / "reward",
        "data": store.path,
    }


def test_the_relative_difference_is_in_units_of_the_largest_value():
    assert parity.relative_difference(np.array([1.0, -4.0]), np.array([1.0, -4.4])) == pytest.approx(0.1)
    assert parity.relative_difference(np.zeros(2), np.zeros(2)) == 0
    assert parity.relative_difference(np.zeros(2), np.zeros(3)) == float("inf")
    assert parity.relative_difference(np.ones(1), np.array([np.nan])) == float("inf")
