import subprocess
import sys

import pytest
import torch

from robopref.errors import ConfigError, DeviceError
from robopref.nets.devices import resolve_device
from robopref.training.devices import make_fabric


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_an_error_with_a_cure(no_gpu, device):
    with pytest.raises(DeviceError, match=rf"device={device} was asked for.*Use device=cpu or device=auto"):
        make_fabric(device)


def test_auto_takes_the_gpu_if_there_is_one(two_gpus):
    assert resolve_device("auto") == torch.device("cuda", 0)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)


def test_a_gpu_beyond_the_last_is_an_error_that_lists_them(two_gpus):
    with pytest.raises(DeviceError, match=r"sees 2 CUDA GPU\(s\): use cuda:0, cuda:1"):
        resolve_device("cuda:2")


def test_auto_falls_to_the_cpu_where_there_is_no_gpu(no_gpu):
    assert make_fabric("auto").device == torch.device("cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "", "CPU"])
def test_an_unknown_device_is_refused(device):
    with pytest.raises(ConfigError, match="No device is called"):
        resolve_device(device)


def test_unknown_precision_and_no_threads_are_refused():
    with pytest.raises(ConfigError, match="Did you mean '32-true'"):
        make_fabric("cpu", "32-tru")
    with pytest.raises(ConfigError, match="threads must be at least 1"):
        make_fabric("cpu", threads=0)


def test_a_slurm_job_does_not_change_what_is_made(monkeypatch):
    for name, value in {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "x", "SLURM_PROCID": "2"}.items():
        monkeypatch.setenv(name, value)
    fabric = make_fabric("cpu")
    assert (fabric.world_size, fabric.is_global_zero) == (1, True)


def test_fabric_and_wandb_are_imported_only_when_they_are_used():
    code = (
        "import sys, robopref.training.loop, robopref.training.devices, robopref.training.metrics;"
        "print([m for m in ('lightning_fabric', 'wandb', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.gpu
def test_a_gpu_is_used_where_there_is_one():
    assert make_fabric("auto").device.type == "cuda"
