"""Make-believe runs for the tests of the report; the numbers in them are set by hand."""

import importlib.util
from pathlib import Path

import pytest


def _load_synthetic():
    spec = importlib.util.spec_from_file_location("synthetic", Path(__file__).with_name("synthetic.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def synthetic():
    return _load_synthetic()


@pytest.fixture(scope="session")
def make_run(synthetic):
    """Write a small run without films."""

    def make(directory, **options):
        return synthetic.make_run(directory, **({"film": False, "n": 12} | options))

    return make


@pytest.fixture(scope="session")
def filmed_run(synthetic, tmp_path_factory):
    """One whole run with films; read only."""
    return synthetic.make_run(tmp_path_factory.mktemp("runs") / "filmed", n=16)
