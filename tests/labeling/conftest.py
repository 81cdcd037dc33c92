"""The application of the tests that ask one, and the browser of those that need one."""

import shutil

import pytest

from tests.labeling.lab import opened_lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with opened_lab(tmp_path_factory.mktemp("lab")) as opened:
        yield opened


@pytest.fixture
def client(lab):
    return lab()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield launched
        launched.close()
