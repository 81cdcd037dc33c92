"""``robopref report <run folder> ... [out=<page>]``: several runs, one table, one HTML page."""

from pathlib import Path

from robopref.cli.show import show_report
from robopref.errors import ConfigError

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
    runs = [Path(a) for a in arguments if "=" not in a or Path(a).exists()]
    single = len(runs) == 1 and (runs[0] / "run.json").exists()
    show_report(runs, Path(options.get("out", runs[0] / "report.html" if single else "report.html")))
    return 0
