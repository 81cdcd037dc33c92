"""What a command prints: one line an event while it works, a table and the page's address at its end."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

console = Console(highlight=False)


def say(text: str) -> None:
    """Print one line."""
    console.print(text, markup=False)


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
