"""What a command prints: one line an event while it works, a table and the page's address at its end."""

from pathlib import Path

from rich.console import Console

console = Console(highlight=False)


def say(text: str) -> None:
    """Print one line."""
    console.print(text, markup=False)


def show_result(*runs: Path, page: Path | None = None) -> None:
    """Write the HTML page of some runs and print their table."""
    from robopref.report.gather import gather
    from robopref.report.page import write_page
    from robopref.report.table import table

    page = page or runs[0] / "report.html"
    gathered = gather(runs)
    write_page(gathered, page)
    console.print(table(gathered))
    say(f"Report: {page}")
