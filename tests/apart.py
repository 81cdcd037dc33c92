"""Environments of their own, for packages that do not go with robopref's: made by uv, thrown away."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def python_apart(folder: Path, *wanted: str) -> Path:
    """Return the Python of a new environment with these packages; skip the test where they cannot be had."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv, which makes environments, is not installed")
    made, python = folder / "apart", folder / "apart" / "bin" / "python"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    steps = [uv, "venv", "--python", version, made], [uv, "pip", "install", "--python", python, *wanted]
    for step in steps:
        done = subprocess.run(step, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"cannot install {' '.join(wanted)}: {done.stderr.strip()[-300:]}")
    return python


def run_apart(python: Path, *arguments: str | Path, **variables: str) -> str:
    """Run a command there, which must succeed; return what it said."""
    left = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "VIRTUAL"))}
    done = subprocess.run(
        [python, *arguments],
        env=left | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout
