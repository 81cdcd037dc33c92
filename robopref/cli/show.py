"""What a command prints: one line an event while it works, a table and the page's address at its end."""

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from robopref.errors import RoboprefError, hide_passwords

console = Console(highlight=False)


def say(text: str) -> None:
    """Print one line."""
    console.print(text, markup=False)


def verb(function: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """End the process with one sentence where robopref itself refuses, and with a traceback elsewhere."""

    @functools.wraps(function)
    def guarded(config: DictConfig) -> Any:
        try:
            return function(config)
        except RoboprefError as error:
            name = function.__name__.replace("_", "-")
            print(f"\nrobopref {name}: {hide_passwords(str(error))}", file=sys.stderr)
            raise SystemExit(1) from error

    return guarded


def show_report(runs: Sequence[Path | str], page: Path) -> None:
    """Write the HTML page of some runs and print their table."""
    from robopref.report.groups import gather
    from robopref.report.page import write_report
    from robopref.report.table import results_table

    report = gather(runs)
    written = write_report(report, page)
    console.print(results_table(report))
    for note in written.notes:
        say(note)
    say(f"Report: {page}")
