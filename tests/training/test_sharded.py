"""Two real processes, joined by gloo, that share out the weights of one policy."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from robopref.errors import ConfigError
from robopref.training.devices import check_processes, make_fabric
from tests.policies.vla.toy_openvla import write_checkpoint

CHILD = "tests.training.sharded_child"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What one process learned from two pairs, and what two learned from one each."""
    folders = [tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("both")]
    checkpoint = write_checkpoint(tmp_path_factory.mktemp("published"))
    both = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    for processes, start, folder in zip((1, 2), ((), both), folders, strict=True):
        done = subprocess.run(
            [sys.executable, *start, "-m", CHILD, str(folder), str(processes), str(checkpoint)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    return folders


def assert_equal(found, expected, *, within=1e-5):
    found, expected = load_file(found / "final.safetensors"), load_file(expected / "final.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, rtol=10 * within, atol=within), name


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["adapter", "whole"])
def test_two_processes_with_half_of_the_pairs_each_learn_what_one_learns_from_all(trained, weights):
    alone, both = trained
    assert_equal(both / weights, alone / weights)


@pytest.mark.slow
def test_two_processes_share_out_a_published_checkpoint_in_half_precision(trained):
    alone, both = trained
    assert_equal(both / "published", alone / "published", within=5e-3)


@pytest.mark.slow
def test_a_shared_training_goes_on_from_its_checkpoint_which_holds_the_adapter_alone(trained):
    _, both = trained
    assert_equal(both / "broken", both / "adapter")
    with safe_open(both / "broken" / "last.safetensors", framework="pt") as file:
        kept = {name for name in file.keys() if name.startswith("model/")}  # noqa: SIM118
    assert {name for name in kept if "lora_" not in name} == {"model/baseline", "model/baseline_batches"}


def test_processes_that_were_not_started_are_refused_with_the_command_that_starts_them():
    with pytest.raises(ConfigError, match="torchrun --standalone --nproc-per-node 4"):
        make_fabric("cpu", processes=4)
    with pytest.raises(ConfigError, match="one of 1"):
        check_processes(0)
