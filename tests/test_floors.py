"""What imports what, and what a light start costs."""

import subprocess
import sys
import time
from pathlib import Path

HEAVY = ("torch", "hydra", "metaworld", "mujoco", "wandb", "matplotlib", "ot", "sqlalchemy", "pyarrow")


def loaded_by(statement):
    code = f"import sys\n{statement}\nprint(*sorted(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_help_imports_nothing_heavy():
    assert loaded_by("from robopref.cli import main; main(['--help'])")[-1:] in ([], ["<verb>."])


def test_registering_the_environments_does_not_import_a_simulator():
    assert "mujoco" not in loaded_by("import robopref.envs")
    assert "metaworld" not in loaded_by("import robopref.envs")


def test_help_answers_in_under_a_second():
    seconds = []
    for _ in range(3):  # the fastest of three, for other tests may be running beside this one
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "robopref.cli", "--help"], capture_output=True, check=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1.0


def test_imports_keep_to_their_floors():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
