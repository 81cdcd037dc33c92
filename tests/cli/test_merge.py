"""Merging saved models from the command line."""

import json

import pytest
import torch
from safetensors.torch import load

from robopref.cli import main
from robopref.nets.checkpoint import save_tensors
from robopref.policies.bc import BehaviourCloning
from robopref.policies.saved import load_policy, save_policy
from robopref.training.merging import merge


@pytest.fixture
def two(tmp_path, monkeypatch):
    """Two policies from one start, of which the second did three times as well."""
    monkeypatch.chdir(tmp_path)
    for name, value, accuracy in (("a", 1.0, 0.25), ("b", 3.0, 0.75)):
        policy = BehaviourCloning(1, 1, hidden=())
        with torch.no_grad():
            policy.actor.network.biases[0].fill_(value)
        save_policy(name, policy)
        (tmp_path / name / "metrics.json").write_text(json.dumps({"held_out/accuracy": accuracy}))
    return tmp_path


def bias(folder):
    return load_policy(folder).actor.network.biases[0].item()


def test_a_soup_is_the_mean(two):
    assert main(["merge", "a", "b", "to=soup"]) == 0
    assert bias("soup") == pytest.approx(2.0)
    assert main(["merge", "a", "a", "to=same"]) == 0
    assert bias("same") == 1.0


def test_a_better_metric_weighs_more(two):
    assert main(["merge", "a", "b", "to=weighed", "metric=held_out/accuracy"]) == 0
    assert bias("weighed") == pytest.approx(0.25 * 1 + 0.75 * 3)
    assert main(["merge", "a", "b", "to=by-hand", "weights=0.9,0.1"]) == 0
    assert bias("by-hand") == pytest.approx(1.2)


def test_adapters_are_averaged_as_what_they_add(tmp_path):
    # up @ down = (-up) @ (-down): the factors' own means would be nothing
    down, up = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0], [5.0]])
    for name, sign in (("a", 1.0), ("b", -1.0)):
        tensors = {"layer.lora_A.default.weight": sign * down, "layer.lora_B.default.weight": sign * up}
        save_tensors(tmp_path / name, tensors, {"kind": "any", "config": {}, "extra": None})
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "merged")
    found = load((tmp_path / "merged" / "model.safetensors").read_bytes())
    product = found["layer.lora_B.default.weight"] @ found["layer.lora_A.default.weight"]
    torch.testing.assert_close(product, up @ down)
    assert found["layer.lora_A.default.weight"].shape == down.shape


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a", "to=new"], "two folders or more"),
        (["a", "b"], "needs to="),
        (["a", "b", "to=a"], "exists already"),
        (["a", "b", "to=new", "weights=1,2"], "must sum to one"),
        (["a", "b", "to=new", "weights=x,2"], "must be a number"),
        (["a", "b", "to=new", "metric=accuracy"], "it holds held_out/accuracy"),
        (["a", "b", "to=new", "wieghts=1,2"], "Did you mean 'weights'"),
        (["a", "nowhere", "to=new"], "no saved module"),
    ],
)
def test_what_cannot_be_merged_is_refused(two, capfd, arguments, sentence):
    assert main(["merge", *arguments]) == 1
    assert sentence in "".join(capfd.readouterr())
    assert not (two / "new").exists()
