"""MuJoCo Warp on its CPU device, in an environment of its own: it and Meta-World need different MuJoCos.

    uv run pytest -n0 -m apart tests/envs/test_warp.py

The checks themselves are in warp_checks.py. Compiling their kernels takes some three minutes, the first time.
"""

import os
import sys
from pathlib import Path

import gymnasium
import pytest
from gymnasium.error import DependencyNotInstalled

from tests.apart import python_apart, run_apart

CHECKS = Path(__file__).with_name("warp_checks.py")


def run_checks(tmp_path, device):
    python = python_apart(tmp_path, "-e", f"{CHECKS.parents[2]}[gpu]", "pytest")
    options = ["-c", os.devnull, "--rootdir", tmp_path, "--noconftest", "-p", "no:cacheprovider"]
    run_apart(python, "-m", "pytest", "-q", *options, CHECKS, ROBOPREF_WARP_DEVICE=device)


@pytest.mark.apart
@pytest.mark.timeout(1800)
def test_scenes_on_warps_cpu_device_are_those_of_mujoco(tmp_path):
    run_checks(tmp_path, "cpu")


@pytest.mark.gpu
@pytest.mark.apart
@pytest.mark.timeout(1800)
def test_scenes_on_a_gpu_are_those_of_mujoco(tmp_path):
    run_checks(tmp_path, "cuda:0")


def test_without_warp_the_extra_and_the_reason_for_an_environment_of_its_own_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "warp", None)
    wanted = r"pip install 'robopref\[gpu\]', in an environment of its own"
    with pytest.raises(DependencyNotInstalled, match=wanted):
        gymnasium.make_vec(
            "robopref.envs:robopref/planar-group-v0",
            num_envs=2,
            vectorization_mode="vector_entry_point",
            device="cpu",
        )
