"""Labels for other tools, with a card that says what they are: Parquet, CSV or JSON lines, and README.md."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from robopref import files
from robopref.data.judgement import Judgement, tool_version
from robopref.data.label_parquet import FORMAT, SCHEMA, VERSION, write_labels
from robopref.data.label_store import LabelStore
from robopref.errors import ConfigError, DataError, hide_passwords, unknown_name
from robopref.labeling.agreement import Estimate
from robopref.labeling.agreement_report import AgreementReport, agreement_report

CARD = "README.md"
COLUMNS = tuple(SCHEMA.names)
COLUMNS_SAID = """\
- `a_*`, `b_*`: the segments; b is empty where a was judged alone.
- `answer`: a, b, equal, skip; up, down; rest (all that is not yet ordered is equal); soft (see `label`).
- `label`: chance that a is preferred, or good; empty where skipped.
- `shown_left`: which of the two was on the left, drawn at random.
- `decided_*`: the part that decided, counted from the start of both segments.
- `list_uid`, `list_members`: the list that is ranked; its answers, in order, are the ranking.
- `retracted`: taken back, does not count."""


def export_labels(labels: LabelStore, folder: Path, formats: Sequence[str] = ("parquet",)) -> int:
    """Write every judgement, retracted ones marked, and a data card; return how many.

    Args:
        labels: The label store.
        folder: Where to write ``labels.<format>`` and ``README.md``; what is there is replaced.
        formats: Some of :data:`FORMATS`.

    Raises:
        ConfigError: A format is unknown.
        DataError: There are no labels, or the folder cannot be written.
    """
    for name in formats:
        if name not in FORMATS:
            raise ConfigError(unknown_name("format", name, FORMATS))
    rows = labels.rows()
    if not rows:
        raise DataError(f"{hide_passwords(labels.url)} holds no labels to export.")
    for name in formats:
        FORMATS[name](folder / f"labels.{name}", rows)
    files.write_text(folder / CARD, data_card(labels, rows))
    return len(rows)


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with files.replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(map(_plain, rows))


def _write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with files.replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(_plain(row), ensure_ascii=False) + "\n" for row in rows)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    values = {name: row[name] for name in COLUMNS}
    return {
        name: value.isoformat() if isinstance(value, datetime) else value for name, value in values.items()
    }


FORMATS: dict[str, Callable[[Path, Sequence[dict[str, Any]]], None]] = {
    "parquet": write_labels,
    "csv": _write_csv,
    "jsonl": _write_jsonl,
}


def data_card(labels: LabelStore, rows: Sequence[dict[str, Any]]) -> str:
    """Describe labels in Markdown: how many, by whom, of which data, and how far they agree."""
    given = list(labels.judgements().values())
    dates = sorted(row["created_at"] for row in rows)
    versions = sorted({row["tool_version"] or "not stored" for row in rows})
    prints = sorted({(row["episodes"], row["fingerprint"]) for row in rows})
    retracted = sum(row["retracted"] for row in rows)
    parts = [
        "# Preference labels",
        f"{len(given)} judgements that count and {retracted} that were taken back, given between "
        f"{dates[0]:%Y-%m-%d} and {dates[-1]:%Y-%m-%d} (UTC). Format `{FORMAT}`, version {VERSION}; "
        f"exported by robopref {tool_version()}, collected by: {', '.join(versions)}.",
        "## Data",
        "Segments are named by episode, first step and number of actions, in trajectory stores whose first "
        "episodes have these fingerprints:",
        _table(["episodes", "fingerprint"], [[str(n), f"`{fingerprint}`"] for n, fingerprint in prints]),
        "## Answers",
        _answers(given),
        *_agreement(labels, given),
        "## Columns",
        COLUMNS_SAID,
    ]
    return "\n\n".join(parts) + "\n"


def _answers(given: Sequence[Judgement]) -> str:
    kinds = ["a", "b", "equal", "rest", "up", "down", "soft", "skip"]
    counts = Counter(
        (j.source, j.annotator, j.feedback, j.answer if isinstance(j.answer, str) else "soft") for j in given
    )
    rows = [
        [source, who, feedback, *(str(counts[source, who, feedback, kind] or "") for kind in kinds)]
        for source, who, feedback in sorted({key[:3] for key in counts})
    ]
    return _table(["source", "annotator", "feedback", *kinds], rows)


def _agreement(labels: LabelStore, given: Sequence[Judgement]) -> list[str]:
    """Report on people's pairs and on their thumbs, where they gave any."""
    parts: list[str] = []
    for singles, title in ((False, "Agreement about pairs"), (True, "Agreement about single clips")):
        answered = [
            j for j in given if (j.b is None) == singles and j.source == "human" and j.label is not None
        ]
        if answered:
            parts += [f"## {title}", *_reported(agreement_report(labels, singles=singles))]
    return parts


def _reported(report: AgreementReport) -> list[str]:
    nominal, ordinal = _said(report.alpha_nominal), _said(report.alpha_ordinal)
    alpha = f"Krippendorff's alpha: {nominal} (nominal), {ordinal} (ordinal)"
    rows = [
        [
            person.annotator,
            str(person.answers),
            _said(person.repeated),
            _said(person.mirrored),
            _said(person.position.left),
            _said(person.gold),
            "" if person.flip_rate is None else f"{person.flip_rate:.2f}",
            "" if person.response_time_s is None else f"{person.response_time_s:.1f}",
        ]
        for person in report.annotators
    ]
    names = [
        "annotator",
        "answers",
        "same again",
        "same mirrored",
        "left",
        "checks right",
        "flip rate",
        "median s",
    ]
    return [
        f"{alpha}, on {report.shared_pairs} of {report.pairs} that two or more answered.",
        _table(names, rows),
    ]


def _said(found: Estimate) -> str:
    if found.value is None:
        return "undefined"
    reach = "" if found.low is None else f" [{found.low:.2f}, {found.high:.2f}]"
    return f"{found.value:.2f}{reach}"


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [names, ["---"] * len(names), *([_cell(each) for each in row] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
