import pkgutil
import re
from pathlib import Path

from robopref.methods.phases.comparisons import AS_THEY_ARE
from robopref.objectives import registry
from robopref.rewards.relabel import Blend

HERE = Path(__file__).parent
FOLDERS = ("objectives", "data", "policies", "rewards", "alignment", "labeling", "cli")
ROWS = [
    [cell.strip() for cell in line.strip("|\n ").split("|")]
    for line in (HERE.parents[1] / "docs" / "systems.md").read_text().splitlines()
    if re.match(r"\| \d", line)
]


def test_the_table_has_every_system_once_and_in_order():
    assert [int(row[0]) for row in ROWS] == list(range(1, 64))


def test_every_form_that_the_table_names_exists():
    for row in ROWS:
        for code in re.findall(r"`([^`]+)`", row[2]):
            name = code.split("(")[0]
            if any(mark in name for mark in "/ =") or name in ("weights", "scores", "hindsight", "hide"):
                continue
            if name.startswith("relabel."):
                assert hasattr(Blend, name.removeprefix("relabel.")), code
                continue
            if name.startswith("training.labels."):
                assert hasattr(AS_THEY_ARE, name.removeprefix("training.labels.")), code
            elif "." in name:
                full = name if name.startswith("robopref.") else f"robopref.objectives.{name}"
                assert pkgutil.resolve_name(full), code
            else:
                assert name in registry.REGISTRY, code


def test_every_test_that_the_table_names_exists():
    for row in ROWS:
        for file, test in re.findall(r"(\w+): `(\w+)`", row[3] if len(row) > 3 else ""):
            (found,) = [path for path in HERE.parent.glob(f"*/test_{file}.py") if path.parent.name in FOLDERS]
            assert f"def {test}(" in found.read_text(), test
