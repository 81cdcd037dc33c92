import json

import pytest
import torch
from torch import nn

from robopref.errors import ConfigError, DataError
from robopref.nets.checkpoint import load_module, read_config, save_module
from robopref.nets.mlp import EnsembleMLP

CONFIG = {"members": 2, "inputs": 3, "outputs": 1, "hidden": [4]}
KINDS = {"mlp": EnsembleMLP}


@pytest.fixture
def saved(tmp_path):
    module = EnsembleMLP(**CONFIG, generator=torch.Generator().manual_seed(0))
    save_module(tmp_path / "m", module, kind="mlp", config=CONFIG, extra={"task": "drawer-open"})
    return tmp_path / "m", module


def test_round_trip_gives_the_same_numbers(saved):
    directory, module = saved
    loaded = load_module(directory, KINDS)
    x = torch.randn(5, 3)
    assert torch.equal(loaded(x), module(x))
    assert not loaded.training
    assert read_config(directory)["extra"] == {"task": "drawer-open"}


def test_only_the_two_files_remain(saved):
    directory, _ = saved
    assert sorted(p.name for p in directory.iterdir()) == ["config.json", "model.safetensors"]


def test_a_failed_write_leaves_the_old_files(saved, monkeypatch):
    directory, module = saved
    before = {p.name: p.read_bytes() for p in directory.iterdir()}

    def no_space(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with torch.no_grad():
        module.weights[0].zero_()
    with pytest.raises(DataError, match="No space left"):
        save_module(directory, module, kind="mlp", config=CONFIG)
    assert {p.name: p.read_bytes() for p in directory.iterdir()} == before


def test_missing_directory(tmp_path):
    with pytest.raises(DataError, match=r"config\.json is missing"):
        load_module(tmp_path / "nowhere", KINDS)


def test_missing_weights(saved):
    (saved[0] / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"no model\.safetensors"):
        load_module(saved[0], KINDS)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights(saved, keep):
    path = saved[0] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="truncated"):
        load_module(saved[0], KINDS)


def test_truncated_config(saved):
    path = saved[0] / "config.json"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match="not readable JSON"):
        load_module(saved[0], KINDS)


@pytest.mark.parametrize("content", ["[]", "{}", '{"format": "other"}'])
def test_foreign_json(saved, content):
    (saved[0] / "config.json").write_text(content)
    with pytest.raises(DataError, match="does not describe"):
        load_module(saved[0], KINDS)


def rewrite(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_another_version(saved):
    rewrite(saved[0], version=99)
    with pytest.raises(DataError, match="version 99"):
        load_module(saved[0], KINDS)


def test_config_without_its_parts(saved):
    rewrite(saved[0], config=None)
    with pytest.raises(DataError, match="lacks 'config'"):
        load_module(saved[0], KINDS)


def test_unknown_kind_names_the_nearest(saved):
    rewrite(saved[0], kind="mpl")
    with pytest.raises(DataError, match="Did you mean 'mlp'"):
        load_module(saved[0], KINDS)


@pytest.mark.parametrize("config", [{"nonsense": 1}, CONFIG | {"members": 0}])
def test_config_that_does_not_fit_its_constructor(saved, config):
    rewrite(saved[0], config=config)
    with pytest.raises(DataError, match="does not fit a mlp"):
        load_module(saved[0], KINDS)


def test_weights_of_another_size_are_named(saved):
    rewrite(saved[0], config=CONFIG | {"inputs": 5})
    with pytest.raises(DataError, match=r"weights\.0 is \(2, 4, 3\), not \(2, 4, 5\)"):
        load_module(saved[0], KINDS)


def test_weights_of_another_module_are_named(saved, tmp_path):
    save_module(tmp_path / "other", nn.Linear(3, 1), kind="mlp", config=CONFIG)
    with pytest.raises(DataError, match=r"missing .*weights\.0.*not expected .*'bias', 'weight'"):
        load_module(tmp_path / "other", KINDS)


def test_config_that_json_cannot_hold_is_refused_before_writing(tmp_path):
    with pytest.raises(ConfigError, match="JSON values only"):
        save_module(tmp_path / "m", nn.Linear(1, 1), kind="mlp", config={"a": torch.zeros(1)})
    assert not (tmp_path / "m").exists()
