"""Bundles: what is refused when they are loaded, and what of an observation is refused at once."""

import json

import numpy as np
import pytest

from robopref.deploy.bundle import load
from robopref.deploy.manifest import Rules, match_keys
from robopref.deploy.scoring import EnsembleScorer
from robopref.errors import ConfigError, DataError
from robopref.scores import Scores
from tests.deploy.made import edited, linear, make_bundle, network, seen


def test_a_whole_bundle_is_loaded_and_says_what_it_is(tmp_path):
    bundle = load(make_bundle(tmp_path / "b"))
    assert bundle.keys == ["observation/arm", "observation/goal"]
    assert bundle.metadata()["task"] == "toy"
    assert bundle.metadata()["action"]["names"] == ["shoulder", "elbow"]
    assert len(bundle.fingerprint) == 64


def test_a_manifest_survives_reading_and_writing(tmp_path):
    folder = make_bundle(tmp_path / "b", rate=[1.0, 2.0], boxes=[box(), box(entries=[1], low=[0], high=[1])])
    assert load(folder).manifest.record() == json.loads((folder / "manifest.json").read_text())


def box(**changes):
    return {"name": "table", "entries": [0, 1], "low": [-1.0, -1.0], "high": [1.0, 1.0], **changes}


def without(name):
    return lambda record: record.pop(name)


def put(path, value):
    def edit(record):
        *parents, last = path.split(".")
        for key in parents:
            record = record[int(key)] if isinstance(record, list) else record[key]
        record[int(last) if isinstance(record, list) else last] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (put("schema", 2), "schema 2; this robopref reads schema 1"),
        (put("format", "zip"), "not the manifest of a robopref bundle"),
        (put("limts", {}), "No field is called 'limts'. Did you mean 'limits'"),
        (without("control_hz"), "lacks 'control_hz'"),
        (put("control_hz", 0), "control_hz must be positive"),
        (put("control_hz", "fast"), "control_hz must be a number"),
        (put("observation", []), "names that differ"),
        (put("observation.0.size", 3), "policy.onnx|do not fit|fields|must be 3 numbers"),
        (put("observation.0.low", [10, 10]), r"low lies above high in entries \[0, 1\]"),
        (put("observation.0.low", [1e39, 0]), "must be 2 numbers"),
        (put("observation.1.size", 10**12), "do not fit together"),
        (without("versions"), "lacks 'versions'"),
        (put("versions", []), "versions must be a JSON object"),
        (put("source", None), "source must be a JSON object"),
        (put("networks.reward.dtype", "float16"), "dtype must be float32"),
        (put("observation.1.name", "observation/arm"), "names that differ"),
        (put("action.names", ["shoulder"]), "must be 1 numbers"),
        (put("action.low", [1.0, 1.0]), "low must lie below high"),
        (put("action.hold", [0.0]), "action.hold must be 2 numbers"),
        (put("action.hold", [0.0, 1.5]), r"action.hold \[0.0, 1.5\] leaves the limits of entry 1"),
        (put("action.home", [-2.0, 0.0]), r"action.home \[-2.0, 0.0\] leaves the limits of entry 0"),
        (put("limits.boxes", [box(low=[0.1, 0.1])]), r"action.hold .* leaves the workspace 'table'"),
        (put("limits.boxes", [box(low=[2, 2], high=[3, 3])]), "leave no value for entries"),
        (put("action.execute", 2), "execute must be at most the horizon 1"),
        (put("limits.low", [float("nan"), 0]), "limits.low must be 2 numbers"),
        (put("limits.low", [1.0, 1.0]), "low must lie below high, but does not in entries"),
        (put("limits.rate_per_s", [0.0, 1.0]), "rate_per_s must be positive"),
        (put("limits.boxes", [box(entries=[2, 0])]), "entries must lie in 0..1"),
        (put("policy.kind", "gausian"), "Did you mean 'gaussian'"),
        (put("policy.network", "polcy"), "Did you mean 'policy'"),
        (put("policy.deviation", [1.0]), "policy.deviation must be 2 numbers"),
        (put("policy.noise", 1), "No field is called 'noise'"),
        (put("scorer", {"kind": "product", "factors": []}), "scorer.factors must hold one scorer or more"),
        (put("scorer.kind", "ensembel"), "Did you mean 'ensemble'"),
        (put("networks.policy.file", "../policy.onnx"), "must lie in the bundle itself"),
        (put("networks.policy.file", "poliçy.onnx"), "cannot be read: No such file"),
        (put("networks.policy.sha256", "0" * 64), "is not what was exported: its SHA-256"),
        (put("networks.policy.inputs.observations", [4]), "takes .* but the manifest says"),
        (put("networks.policy.outputs.mean", [1, 3]), "gives .* but the manifest says"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused_at_load(tmp_path, edit, sentence):
    folder = edited(make_bundle(tmp_path / "b"), edit)
    with pytest.raises(DataError, match=sentence):
        load(folder)


def test_no_threads_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="threads must be 1 or more, got 0"):
        load(make_bundle(tmp_path / "b"), threads=0)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path):
    with pytest.raises(DataError, match=r"manifest.json is missing. robopref export makes one"):
        load(tmp_path)


def test_a_missing_network_is_refused_at_load(tmp_path):
    folder = make_bundle(tmp_path / "b")
    (folder / "reward.onnx").unlink()
    with pytest.raises(DataError, match=r"reward.onnx, which the manifest lists, cannot be read"):
        load(folder)


def test_a_bundle_without_its_parity_report_or_with_another_is_refused(tmp_path):
    folder = make_bundle(tmp_path / "b")
    (folder / "parity.json").write_text("{}")
    with pytest.raises(DataError, match=r"parity.json is not what was exported"):
        load(folder)
    load(edited(folder, without("parity")))  # one of before
    (folder / "parity.json").unlink()
    with pytest.raises(DataError, match=r"parity.json, which is part of every bundle, cannot be read"):
        load(folder)


def test_a_reward_s_outputs_are_told_apart_by_name(tmp_path):
    def turned(record):
        outputs = record["networks"]["reward"]["outputs"]
        record["networks"]["reward"]["outputs"] = dict(reversed(outputs.items()))

    scores = []
    for edit in (lambda record: None, turned):
        bundle = load(edited(make_bundle(tmp_path / edit.__name__, gap=0.5), edit))
        assert bundle.scorer is not None
        chunks = np.array([[[1.0, 0.0]], [[0.5, 0.5]]], np.float32)
        scores.append(bundle.scorer.score(np.zeros(3, np.float32), chunks, np.random.default_rng(0), print))
    assert [column.tolist() for column in scores[0]] == [column.tolist() for column in scores[1]]
    assert scores[0].mean.tolist() == [1.0, 0.625]  # members say a0, and a0 + a1 / 2


def test_a_reward_whose_outputs_have_other_names_is_refused_at_load(tmp_path):
    folder = make_bundle(tmp_path / "b")
    ports = {"observations": (3,), "actions": (2,)}
    weights = [("actions", np.ones((2, 2))), ("actions", np.zeros((2, 2)))]
    linear(folder / "reward.onnx", ports, weights, {"mean": (2,), "spread": (2,)})
    record = network(folder, "reward", {k: list(v) for k, v in ports.items()}, {"mean": [2], "spread": [2]})
    with pytest.raises(DataError, match="do not fit together: No output is called 'deviation'"):
        load(edited(folder, put("networks.reward", record)))


def test_a_scorer_that_gives_another_number_of_scores_is_named(tmp_path, monkeypatch):
    def three(self, observation, chunks, rng, pause):
        return Scores(*[np.zeros(3)] * 4)

    monkeypatch.setattr(EnsembleScorer, "score", three)
    with pytest.raises(DataError, match=r"The scorer of .* gives scores .* of two candidates"):
        load(make_bundle(tmp_path / "b"))


def test_one_changed_byte_is_noticed(tmp_path):
    folder = make_bundle(tmp_path / "b")
    data = bytearray((folder / "policy.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "policy.onnx").write_bytes(data)
    with pytest.raises(DataError, match="is not what was exported"):
        load(folder)


def test_a_network_of_another_shape_with_a_right_hash_is_refused_at_load(tmp_path):
    folder = make_bundle(tmp_path / "b")
    linear(
        folder / "policy.onnx", {"observations": (5,)}, [("observations", np.ones((5, 2)))], {"mean": (2,)}
    )
    digest = network(folder, "policy", {}, {})["sha256"]
    with pytest.raises(DataError, match="but the manifest says"):
        load(edited(folder, put("networks.policy.sha256", digest)))


def test_what_is_no_onnx_file_is_refused_at_load(tmp_path):
    folder = make_bundle(tmp_path / "b")
    (folder / "policy.onnx").write_bytes(b"not a network")
    digest = network(folder, "policy", {}, {})["sha256"]
    with pytest.raises(DataError, match="ONNX Runtime cannot load"):
        load(edited(folder, put("networks.policy.sha256", digest)))


def test_keys_are_checked_before_the_first_decision(tmp_path):
    keys = load(make_bundle(tmp_path / "b")).keys
    match_keys(["observation/arm", "observation/goal", "prompt"], keys, ignored=["prompt"])
    with pytest.raises(DataError, match=r"'observation/amr'\. Did you mean 'observation/arm'"):
        match_keys(["observation/amr", "observation/goal"], keys, ignored=[])
    with pytest.raises(DataError, match="lacks observation/goal"):
        match_keys(["observation/arm"], keys, ignored=[])


def test_rules_take_the_ignored_keys_and_no_notice_of_what_a_newer_server_adds(tmp_path):
    metadata = load(make_bundle(tmp_path / "b")).metadata(ignored=["prompt"])
    assert Rules.read({**metadata, "mood": "good"}).ignored == ("prompt",)
    del metadata["ignored"]
    assert Rules.read(metadata).ignored == ()
    with pytest.raises(DataError, match="ignored must be a list"):
        Rules.read({**metadata, "ignored": "prompt"})


def test_parts_are_put_together_in_the_manifest_s_order(tmp_path):
    bundle = load(make_bundle(tmp_path / "b"))
    flat = bundle.flatten({"observation/goal": [3], "observation/arm": np.array([1, 2], np.int8)})
    assert flat.dtype == np.float32
    assert flat.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (np.zeros(3), r"must be of shape \(2,\), got \(3,\)"),
        (np.zeros((1, 2)), r"must be of shape \(2,\), got \(1, 2\)"),
        (np.array(["a", "b"]), "must be numbers"),
        ("no array", "must be numbers"),
        (None, "must be numbers"),
        ([[1], [1, 2]], "is no array of numbers"),
        ([np.nan, 0], r"NaN or infinity in entries \[0\]"),
        ([0, np.inf], r"NaN or infinity in entries \[1\]"),
        ([0, 1e300], "NaN or infinity"),
        ([0, 9.5], r"observation/arm\[1\] is 9.5, above 9: the policy was never shown"),
        ([-9.5, 0], r"is -9.5, below -9"),
    ],
)
def test_an_observation_that_is_not_what_the_policy_knows_is_refused(tmp_path, value, sentence):
    bundle = load(make_bundle(tmp_path / "b"))
    with pytest.raises(DataError, match=sentence):
        bundle.flatten({**seen(), "observation/arm": value})
