"""The table of PEARL's policies: what only some runs have is shown over those, and said to be."""

import importlib
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "scripts" / "bench"
RUN = {
    "sources": ["button-press"],
    "alignment": "AutoAlignment",
    "episodes": 104,
    "pairs": None,
    "cloning": 1,
    "preferences": 1,
    "tried": 50,
    "threads": 1,
    "processor": "a clock",
}


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))  # the benchmarks import each other by their bare names
    return importlib.import_module("pearl_policies")


def test_a_row_that_some_runs_lack_is_of_the_others(page):
    targets = ("drawer-open", "window-close")
    cells = [
        {
            "target": target,
            "seed": seed,
            "steps": 3000,
            "rates": dict.fromkeys(page.ROWS, 0.5),
            "date": "2026-11-22",
            "run": RUN,
            "rewards": dict.fromkeys(page.REWARDS, 0.9),
        }
        for target in targets
        for seed in (0, 1)
    ]
    late = "best-quarter-oracle-labels"
    cells[0]["rates"][late] = cells[2]["rates"][late] = 1.0
    for cell in cells[1], cells[3]:
        del cell["rates"][late]
    lines = page.section(cells).splitlines()
    assert f"| {page.ROWS[late]} (2 of 4 runs) | 100 | 100 | 100 |" in lines
    assert f"| {page.ROWS['PEARL']} | 50 ± 0 | 50 ± 0 | 50 ± 0 |" in lines
    for cell in cells:
        cell["rates"].pop(late, None)
    assert page.ROWS[late] not in page.section(cells)
