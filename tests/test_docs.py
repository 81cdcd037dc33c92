"""The Python examples of docs/extending.md, run in their order; and the files that the docs name."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from robopref.data.store import TrajectoryStore
from tests.deploy.made import make_bundle
from tests.deploy.running import Running

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "extending.md"


def blocks(language):
    text = PAGE.read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_the_examples_for_extending_run(tmp_path):
    first, *others = blocks("python")
    (tmp_path / "my_lab").mkdir()
    (tmp_path / "my_lab" / "reach.py").write_text(first)
    (tmp_path / "examples.py").write_text("\n\n".join(others))
    done = subprocess.run(  # of its own: the examples register objectives and environments
        [sys.executable, "examples.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_examples_of_objectives_in_python_run():
    text = (ROOT / "docs" / "objectives-python.md").read_text()
    examples = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(examples) >= 8
    exec("\n".join(examples), {})


def test_a_task_of_ones_own_is_collected_from_the_command_line(tmp_path):
    (tmp_path / "my_lab").mkdir()
    (tmp_path / "my_lab" / "reach.py").write_text(blocks("python")[0])
    (tmp_path / "my_conf" / "env").mkdir(parents=True)
    (tmp_path / "my_conf" / "env" / "reach.yaml").write_text(blocks("yaml")[0])
    command = re.search(r"^    (robopref collect --config-dir .*)$", PAGE.read_text(), re.MULTILINE)
    assert command is not None
    _, *arguments = shlex.split(command[1])
    done = subprocess.run(
        [Path(sys.executable).with_name("robopref"), *arguments, "episodes=4", "workers=0"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(TrajectoryStore.open(tmp_path / "outputs" / "data" / "reach")) == 4


def test_the_loops_of_the_deployment_page_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_bundle(tmp_path / "bundle")
    text = (ROOT / "docs" / "deploy.md").read_text()
    local, remote = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    local = local.replace("Safety(bundle.manifest,", "Safety(bundle.manifest, stale_s=30.0, watchdog_s=60.0,")
    remote = remote.replace("Safety(rules,", "Safety(rules, stale_s=30.0, watchdog_s=60.0,")
    namespace: dict[str, Any] = {"__name__": "docs"}
    exec(compile(local, "docs/deploy.md", "exec"), namespace)
    assert (namespace["driven"].steps, namespace["driven"].state) == (20, "running")
    assert len((tmp_path / "decisions.jsonl").read_text().splitlines()) == 20
    with Running(namespace["selector"]) as running:
        there = remote.replace("ws://127.0.0.1:8000", running.address)
        exec(compile(there, "docs/deploy.md", "exec"), namespace)
    assert (namespace["driven"].steps, namespace["driven"].held) == (20, 0)


PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md")))


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_a_page_links_to_exists(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert ((ROOT / page).parent / target).exists(), target
    assert "RESULT" not in text
