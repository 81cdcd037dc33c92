"""The Python examples of docs/extending.md, run in their order; and the files that the docs name."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def blocks(language):
    text = (ROOT / "docs" / "extending.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_the_examples_for_extending_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    first, *others = blocks("python")
    (tmp_path / "my_lab").mkdir()
    (tmp_path / "my_lab" / "reach.py").write_text(first)
    namespace = {"__name__": "docs"}
    try:
        for block in others:
            exec(compile(block, "docs/extending.md", "exec"), namespace)
    finally:
        sys.modules.pop("my_lab.reach", None)
        sys.modules.pop("my_lab", None)


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md", "docs/extending.md"])
def test_every_path_that_a_page_links_to_exists(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert ((ROOT / page).parent / target).exists(), target
