"""Judgements as a Parquet file, for other tools and other machines."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from robopref.data.label_rows import judgement_of
from robopref.errors import DataError
from robopref.files import replacing

FORMAT = "robopref-labels"
VERSION = 2
_KEY = b"robopref"
_INTEGERS = [f"{side}_{name}" for side in "ab" for name in ("episode", "start", "length")]

SCHEMA = pa.schema(
    [
        pa.field("uid", pa.string(), nullable=False),
        *(pa.field(name, pa.int64(), nullable=name.startswith("b")) for name in _INTEGERS),
        pa.field("answer", pa.string(), nullable=False),
        pa.field("label", pa.float64()),
        pa.field("confidence", pa.float64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("annotator", pa.string(), nullable=False),
        pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("response_time_s", pa.float64()),
        pa.field("shown_left", pa.string()),
        pa.field("note", pa.string()),
        pa.field("decided_start", pa.int64()),
        pa.field("decided_length", pa.int64()),
        pa.field("list_uid", pa.string()),
        pa.field("list_members", pa.string()),  # JSON
        pa.field("tool_version", pa.string()),
        pa.field("episodes", pa.int64(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("retracted", pa.bool_(), nullable=False),
    ]
)


_SINCE_2 = ("decided_start", "decided_length", "list_uid", "list_members", "tool_version")


def write_labels(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows to ``path`` so that the file appears whole or not at all.

    Raises:
        DataError: The file cannot be written.
    """
    prints = sorted({(row["episodes"], row["fingerprint"]) for row in rows})
    about = {
        "format": FORMAT,
        "version": VERSION,
        "data": [{"episodes": n, "fingerprint": f} for n, f in prints],
    }
    table = pa.Table.from_pylist(
        [{name: row[name] for name in SCHEMA.names} for row in rows],
        schema=SCHEMA.with_metadata({_KEY: json.dumps(about).encode()}),
    )
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def read_labels(path: Path) -> list[dict[str, Any]]:
    """Read what :func:`write_labels` wrote, and check every judgement.

    Raises:
        DataError: The file is missing, damaged, foreign, or of a schema version not known here.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}.") from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is no Parquet file, or it is damaged: {error}.") from error
    try:
        about = json.loads((table.schema.metadata or {})[_KEY])
    except (KeyError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is a Parquet file, but not one of robopref's labels.") from error
    versions = {1: pa.schema([f for f in SCHEMA if f.name not in _SINCE_2]), VERSION: SCHEMA}
    if not isinstance(about, dict) or about.get("format") != FORMAT or about.get("version") not in versions:
        got = f"{about.get('format')} {about.get('version')}" if isinstance(about, dict) else repr(about)
        raise DataError(f"{path} holds {got}; this robopref reads {FORMAT} {VERSION}.")
    version = about["version"]
    expected = versions[version]
    if table.column_names != expected.names or table.schema.types != expected.types:
        raise DataError(f"{path} is damaged: its columns are not those of {FORMAT} {version}.")
    rows = [dict.fromkeys(_SINCE_2) | row for row in table.to_pylist()]
    for number, row in enumerate(rows):
        try:
            _check(row)
        except DataError as error:
            raise DataError(f"{path}, row {number}: {error}") from error
    return rows


def _check(row: dict[str, Any]) -> None:
    if judgement_of(row).label != row["label"]:
        raise DataError(f"answer {row['answer']!r} and label {row['label']} contradict each other.")
