"""The tables of transferred labels: when and where their cells were measured, and with which settings."""

import importlib
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "scripts" / "bench"


@pytest.fixture
def transfer(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))  # the benchmarks import each other by their bare names
    return importlib.import_module("transfer")


def test_a_table_says_between_which_dates_and_where_its_cells_were_measured(transfer):
    cells = [
        {"date": date, "machine": machine}
        for date, machine in (("2026-11-23", "b"), ("2026-11-21", "a"), ("2026-11-22", "a"))
    ]
    assert transfer.run_on(cells, "x.py") == (
        "Run on 2026-11-21 to 2026-11-23 with `scripts/bench/x.py` on a or b"
    )
    assert transfer.run_on(cells[1:2], "x.py") == "Run on 2026-11-21 with `scripts/bench/x.py` on a"


def test_cells_of_other_settings_are_refused(transfer):
    auto = transfer.AutoAlignment
    cell = {"target": "push", "seed": 3, "settings": transfer.settings_of(auto())}
    transfer.check_settings([cell])
    other = cell | {"settings": transfer.settings_of(auto(anchor_precision=10.0))}
    with pytest.raises(SystemExit, match=r"push \(seed 3\) .*'anchor_precision': 10.0"):
        transfer.check_settings([cell, other])


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("transfer", ["--development", "--seeds", "0", "1"]),
        ("transfer", ["--transfers", "reach"]),
        ("unequal_rates", ["--development"]),
    ],
)
def test_the_tasks_of_development_never_replace_the_table_of_the_page(
    transfer, script, words, monkeypatch, tmp_path, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [script, *words, "--minutes", "0", "--page", "page.md"])
    with pytest.raises(SystemExit):
        importlib.import_module(script).main()
    assert "have no place on the page" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
