"""``robopref report <run folder> ... [out=<page>]``: several runs, one table, one HTML page."""

from pathlib import Path

from robopref.cli.show import show_result
from robopref.errors import ConfigError, DataError

USAGE = """usage: robopref report <run folder> ... [out=report.html]

Gathers runs into one table and one self-contained HTML page. Runs that differ only in their seed are one row.
A single run's page goes into its folder, that of several to report.html, unless out= says otherwise."""


def report(arguments: list[str]) -> int:
    """Gather the named runs and write their page."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    options = dict(a.split("=", 1) for a in arguments if "=" in a and not Path(a).exists())
    if unknown := sorted(options.keys() - {"out"}):
        raise ConfigError(f"report knows no option {', '.join(unknown)}; it takes run folders and out=<page>")
    runs = [folder for a in arguments if "=" not in a or Path(a).exists() for folder in _runs_in(Path(a))]
    page = Path(options["out"]) if "out" in options else None
    show_result(*runs, page=page or (runs[0] / "report.html" if len(runs) == 1 else Path("report.html")))
    return 0


def _runs_in(folder: Path) -> list[Path]:
    """The folder itself if it is a run, else all runs below it."""
    if (folder / "run.json").exists():
        return [folder]
    found = sorted(path.parent for path in folder.rglob("run.json")) if folder.is_dir() else []
    if not found:
        raise DataError(f"{folder} is not a run folder and holds none: a run folder has a run.json")
    return found
