"""Judgements as rows of the label store's tables, and how rows are added, counted and read as arrays."""

import json
from collections.abc import Container, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import numpy as np
import sqlalchemy as sa

from robopref.data.judgement import PAIR_ANSWERS, SOURCES, Judgement, Source, tool_version
from robopref.data.label_tables import data, judgements, retractions
from robopref.data.preferences import Preferences
from robopref.errors import DataError, hide_passwords, unknown_name

SEGMENT = [f"{side}_{name}" for side in "ab" for name in ("episode", "start", "length")]
_CHUNK = 500  # below SQLite's limit on the number of bound parameters
_PLAIN = [
    *SEGMENT,
    "source",
    "annotator",
    "confidence",
    "created_at",
    "response_time_s",
    "shown_left",
    "note",
    "decided_start",
    "decided_length",
    "list_uid",
    "tool_version",
    "uid",
]


def row_of(judgement: Judgement) -> dict[str, Any]:
    """Return a judgement as a row to store now."""
    row = {name: getattr(judgement, name) for name in _PLAIN}
    answer = judgement.answer if isinstance(judgement.answer, str) else "soft"
    members = None if judgement.list_members is None else json.dumps(judgement.list_members)
    now = datetime.now(UTC)
    return row | {"answer": answer, "label": judgement.label, "list_members": members, "stored_at": now}


def judgement_of(row: Mapping[str, Any]) -> Judgement:
    """Return a stored row as a judgement."""
    values = {name: row[name] for name in _PLAIN}
    members = row["list_members"] and tuple(map(tuple, json.loads(row["list_members"])))
    answer = row["label"] if row["answer"] == "soft" else row["answer"]
    return Judgement(**values, list_members=members, answer=answer)


def rows_of(preferences: Preferences, source: Source, annotator: str) -> list[dict[str, Any]]:
    """Return many comparisons of one origin as rows to store now.

    Labels of exactly 1, 0 and 0.5 become ``a``, ``b`` and ``equal``, others soft.

    Raises:
        DataError: The source is unknown or the annotator has no name.
    """
    if source not in SOURCES:
        raise DataError(unknown_name("source", str(source), SOURCES))
    if not annotator:
        raise DataError("The annotator needs a name.")
    names = {value: name for name, value in PAIR_ANSWERS.items()}
    columns = [getattr(getattr(preferences, name[0]), name[2:]).tolist() for name in SEGMENT]
    now = datetime.now(UTC)
    common = {"source": source, "annotator": annotator, "created_at": now, "stored_at": now}
    common["tool_version"] = tool_version()
    return [
        dict(zip(SEGMENT, segment, strict=True))
        | {"uid": uuid4().hex, "answer": names.get(label, "soft"), "label": label, "confidence": sure}
        | common
        for *segment, label, sure in zip(
            *columns, preferences.label.tolist(), preferences.confidence.tolist(), strict=True
        )
    ]


def insert(
    connection: sa.Connection,
    rows: Sequence[dict[str, Any]],
    fingerprint: str,
    episodes: int,
    known: Container[str] = (),
) -> dict[str, int]:
    """Add the rows whose uid is not known, in order; return their ids, by uid.

    Args:
        connection: To write by.
        rows: What is added.
        fingerprint: Of the data that they speak of.
        episodes: How many episodes that fingerprint covers.
        known: Uids that are there.

    Raises:
        DataError: A row names an episode outside the data, or the labels here speak of other data.
    """
    for side in ("a_episode", "b_episode"):
        highest = max((row[side] for row in rows if row[side] is not None), default=-1)
        if highest >= episodes:
            raise DataError(
                f"A judgement names episode {highest}, but the data it speaks of has {episodes} episodes."
            )
    number = _data_id(connection, fingerprint, episodes)
    fresh = {row["uid"]: row | {"data_id": number} for row in rows if row["uid"] not in known}
    if len(fresh) == 1:
        (uid,) = fresh
        (id,) = connection.execute(sa.insert(judgements), fresh[uid]).inserted_primary_key or (0,)
        return {uid: id}
    if fresh:
        connection.execute(sa.insert(judgements), list(fresh.values()))
    return ids(connection, list(fresh))


def _data_id(connection: sa.Connection, fingerprint: str, episodes: int) -> int:
    """Return the row of ``data`` that says which episodes are meant; add it if it is new."""
    known = connection.execute(sa.select(data).where(data.c.episodes == episodes)).mappings().all()
    for row in known:
        if row["fingerprint"] != fingerprint:
            name = hide_passwords(connection.engine.url.render_as_string(hide_password=False))
            raise DataError(
                f"{name} holds labels of other data: its {episodes} episodes have fingerprint "
                f"{row['fingerprint'][:12]}, these have {fingerprint[:12]}. Use another label store."
            )
        return int(row["id"])
    values = {"fingerprint": fingerprint, "episodes": episodes}
    key = connection.execute(sa.insert(data).values(values)).inserted_primary_key
    return int(key[0]) if key else 0


def ids(connection: sa.Connection, uids: Sequence[str]) -> dict[str, int]:
    """Return the ids of the judgements that are there already, by uid."""
    found: dict[str, int] = {}
    for start in range(0, len(uids), _CHUNK):
        some = judgements.c.uid.in_(uids[start : start + _CHUNK])
        query = sa.select(judgements.c.uid, judgements.c.id).where(some)
        found |= {row.uid: row.id for row in connection.execute(query)}
    return found


def retracted() -> sa.ColumnElement[bool]:
    """Return the condition that a judgement was taken back."""
    return sa.exists().where(retractions.c.judgement_uid == judgements.c.uid)


def counting(
    query: sa.Select[Any], source: str | Sequence[str] | None, annotator: str | Sequence[str] | None
) -> sa.Select[Any]:
    """Restrict a query to judgements that were not taken back, and to a source or an annotator."""
    query = query.where(~retracted())
    for column, wanted in ((judgements.c.source, source), (judgements.c.annotator, annotator)):
        if wanted is not None:
            query = query.where(column.in_([wanted] if isinstance(wanted, str) else list(wanted)))
    return query


def table(connection: sa.Connection, query: sa.Select[Any], names: Sequence[str]) -> np.ndarray:
    """Return columns of the judgements that a query leaves as numbers, (rows, columns), in stored order."""
    chosen = query.with_only_columns(*(judgements.c[name] for name in names)).order_by(judgements.c.id)
    rows = connection.execute(chosen).fetchall()
    return np.array([tuple(row) for row in rows], np.float64).reshape(-1, len(names))
