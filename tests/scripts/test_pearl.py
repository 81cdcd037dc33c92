"""All of PEARL's page as one command: parts that exist, in order, kept, gone on with and stopped."""

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.bench import pearl

BENCH = Path(__file__).parents[2] / "scripts" / "bench"


def options(script: Path) -> set[str]:
    """Names of the arguments that a script's parser takes."""
    calls = (node for node in ast.walk(ast.parse(script.read_text())) if isinstance(node, ast.Call))
    names = (c.args[0] for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr == "add_argument")
    return {str(name.value) for name in names if isinstance(name, ast.Constant)}


@pytest.mark.parametrize("name", pearl.PARTS)
def test_a_part_is_a_script_that_takes_its_arguments_or_a_run(name):
    words = pearl.PARTS[name].command(1.0, Path("page.md"))
    scripts = [Path(word) for word in words if word.endswith(".py")]
    if not scripts:
        assert words[1:4] == ["-m", "robopref.cli", "run"]
        return
    (script,) = scripts
    taken = words[words.index(str(script)) + 1 :]
    assert {word for word in taken if word.startswith("--")} <= options(BENCH / script.name)


def test_every_script_that_the_page_names_is_a_part():
    page = (BENCH / "../../docs/results/pearl.md").read_text()
    commands = " ".join(part.words for part in pearl.PARTS.values())
    missing = {
        path.name
        for path in BENCH.glob("*.py")
        if f"scripts/bench/{path.name}" in page and path.name not in commands
    }
    assert missing == {"pearl.py"}


def test_what_the_page_says_of_the_tasks_of_development_are_parts_that_run_to_their_end_and_write_nothing():
    parts = {part.words.split()[0]: part for part in pearl.PARTS.values() if "--development" in part.words}
    assert parts.keys() == {"transfer.py", "unequal_rates.py"}
    for part in parts.values():
        words = part.command(1.0, Path("page.md"))
        assert words[-2:] == ["--minutes", "inf"]
        assert "--page" not in words


def test_what_a_part_printed_is_kept_and_it_is_not_run_again(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pearl, "run", lambda command: "numbers\n")
    pearl.main(["--only", "couplings"])
    kept = tmp_path / "outputs/bench/pearl/couplings.txt"
    assert kept.read_text() == "numbers\n"
    pearl.main(["--only", "couplings"])
    assert capfd.readouterr().out == "== couplings\n"


def test_without_minutes_only_tables_of_what_was_measured_are_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs/bench").mkdir(parents=True)
    (tmp_path / "outputs/bench/unequal-rates.jsonl").touch()
    run = []
    monkeypatch.setattr(pearl, "run", lambda command: run.append(command) or "")
    pearl.main(["--minutes", "0", "--page", "page.md"])
    assert [Path(c[1]).name for c in run] == ["unequal_rates.py", "pearl_pictures.py"]
    assert run[0][2:] == ["--minutes", "0.0", "--page", "page.md"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_what_runs_and_keeps_nothing_of_it(tmp_path, number):
    (tmp_path / "part.py").write_text("import time\nprint('begun')\ntime.sleep(60)\n")
    program = (
        "from pathlib import Path; from scripts.bench import pearl; pearl.HERE = Path();"
        "pearl.PARTS = {'part': pearl.Part('part.py')}; pearl.main([])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(BENCH.parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert [child.stdout.readline() for _ in range(2)] == ["== part\n", "begun\n"]
        child.send_signal(number)
        _, said = child.communicate(timeout=20)
    assert said.endswith("Stopped. The same command goes on.\n")
    assert child.returncode == 1
    assert not (tmp_path / "outputs").exists()
