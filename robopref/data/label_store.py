"""The label store: every judgement ever given about a trajectory store, in SQLite or any SQL database.

Comparisons of pairs, thumbs for single segments and the steps of rankings lie in one table. Nothing is
changed or deleted: taking a judgement back is a new row that speaks of the old one. Any number of processes
may write at once. Each judgement remembers the fingerprint of the data that it speaks of.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from robopref.data.judgement import Judgement, Source
from robopref.data.label_rows import (
    SEGMENT,
    counting,
    ids,
    insert,
    judgement_of,
    retracted,
    row_of,
    rows_of,
    table,
)
from robopref.data.label_tables import data, explained, judgements, open_engine, retractions, writing
from robopref.data.preferences import Preferences, Ratings, Segments
from robopref.data.ranking import RankedList, ranked_lists
from robopref.data.store import TrajectoryStore
from robopref.errors import DataError, hide_passwords


@dataclass(frozen=True)
class Mark:
    """How much of a label store was seen: the highest ids of its judgements and its retractions."""

    judgement: int = 0
    retraction: int = 0


class LabelStore:
    """Judgements in a database; made where there is none.

    Args:
        url: Any SQLAlchemy URL: ``sqlite:///outputs/drawer-open/labels.sqlite``, ``postgresql://...``.

    Raises:
        ConfigError: The URL cannot be read, or its driver is not installed.
        DataError: The database cannot be reached, is damaged, foreign, or of another schema version.
    """

    def __init__(self, url: str):
        self.url = url
        self._engine = open_engine(url)

    @classmethod
    def beside(cls, store: TrajectoryStore) -> "LabelStore":
        """Open the default label store of a trajectory store: ``labels.sqlite`` in its directory."""
        return cls(f"sqlite:///{Path(store.path) / 'labels.sqlite'}")

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def __enter__(self) -> "LabelStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- writing -------------------------------------------------------------------------------------------

    def add(
        self,
        given: Sequence[Judgement],
        *,
        data_fingerprint: str,
        episodes: int,
        connection: sa.Connection | None = None,
    ) -> list[int]:
        """Store judgements in one transaction; return their ids, in order.

        A judgement whose ``uid`` is there already is not stored again: its first id is returned.

        Args:
            given: The judgements.
            data_fingerprint: ``store.fingerprint(episodes)`` of the data that they speak of.
            episodes: How many episodes that fingerprint covers.
            connection: Of :meth:`writing`, to store them in its transaction; None for one of their own.

        Raises:
            DataError: A judgement names an episode outside the data, or the labels here speak of other data.
        """
        rows = [row_of(judgement) for judgement in given]
        with self.writing() if connection is None else nullcontext(connection) as writing:
            known = ids(writing, [row["uid"] for row in rows])
            known |= insert(writing, rows, data_fingerprint, episodes, known)
        return [known[row["uid"]] for row in rows]

    def add_preferences(
        self,
        preferences: Preferences,
        *,
        source: Source,
        annotator: str,
        data_fingerprint: str,
        episodes: int,
    ) -> int:
        """Store many judgements of one origin in one transaction; return how many.

        Labels of exactly 1, 0 and 0.5 are stored as ``a``, ``b`` and ``equal``, others as soft.

        Raises:
            DataError: As :meth:`add`; the source is unknown or the annotator has no name.
        """
        rows = rows_of(preferences, source, annotator)
        with self.writing() as connection:
            return len(insert(connection, rows, data_fingerprint, episodes))

    def retract(
        self, id: int, *, annotator: str | None = None, connection: sa.Connection | None = None
    ) -> None:
        """Take a judgement back: from now on it does not count. Taking it back twice changes nothing.

        Args:
            id: Its id.
            annotator: Who takes it back.
            connection: Of :meth:`writing`, to do it in its transaction; None for one of its own.

        Raises:
            DataError: There is no such judgement.
        """
        with self.writing() if connection is None else nullcontext(connection) as writing:
            uid = writing.scalar(sa.select(judgements.c.uid).where(judgements.c.id == id))
            if uid is None:
                raise DataError(f"{self._name} has no judgement {id}.")
            event = {"judgement_uid": uid, "annotator": annotator, "stored_at": datetime.now(UTC)}
            writing.execute(sa.insert(retractions), event)

    # -- reading -------------------------------------------------------------------------------------------

    def preferences(
        self,
        *,
        source: str | Sequence[str] | None = None,
        annotator: str | Sequence[str] | None = None,
        decided: bool = False,
    ) -> Preferences:
        """Return the comparisons that count, in the order they were stored, without skipped pairs.

        After them come the pairs that rankings decide, also those that follow from others; thumbs for single
        segments are :meth:`ratings`.

        Args:
            source: Only of this source, or these.
            annotator: Only by this annotator, or these.
            decided: Cut a pair down to the part that decided, where the person marked it.
        """
        cut = ("decided_start", "decided_length") if decided else ()
        query = counting(sa.select(judgements), source, annotator).where(
            judgements.c.label.is_not(None),
            judgements.c.b_episode.is_not(None),
            judgements.c.list_uid.is_(None),
        )
        with self.reading() as connection:
            found = table(connection, query, (*SEGMENT, "label", "confidence", *cut))
        a, b = (Segments(*found[:, first : first + 3].astype(np.int64).T) for first in (0, 3))
        if decided:
            marked = np.flatnonzero(~np.isnan(found[:, 8]))
            part = found[marked, 8:].astype(np.int64).T
            a, b = a.cut(marked, *part), b.cut(marked, *part)
        pairs = Preferences(a, b, found[:, 6], found[:, 7])
        ranked = [ranking.preferences() for ranking in self.rankings(source=source, annotator=annotator)]
        return Preferences.concatenate([pairs, *ranked]) if ranked else pairs

    def ratings(
        self, *, source: str | Sequence[str] | None = None, annotator: str | Sequence[str] | None = None
    ) -> Ratings:
        """Return the thumbs for single segments that count, in the order they were stored."""
        query = counting(sa.select(judgements), source, annotator)
        query = query.where(judgements.c.label.is_not(None), judgements.c.b_episode.is_(None))
        with self.reading() as connection:
            found = table(connection, query, (*SEGMENT[:3], "label", "confidence"))
        return Ratings(Segments(*found[:, :3].astype(np.int64).T), found[:, 3], found[:, 4])

    def rankings(
        self, *, source: str | Sequence[str] | None = None, annotator: str | Sequence[str] | None = None
    ) -> list[RankedList]:
        """Return every list that somebody ranks or ranked, as far as it goes, the first begun first.

        Raises:
            DataError: The answers about a list are not those of a ranking.
        """
        query = counting(sa.select(judgements), source, annotator)
        query = query.where(judgements.c.list_uid.is_not(None)).order_by(judgements.c.id)
        with self.reading() as connection:
            rows = connection.execute(query).fetchall()
        return ranked_lists(judgement_of(row._asdict()) for row in rows)

    def judgements(
        self, *, source: str | Sequence[str] | None = None, annotator: str | Sequence[str] | None = None
    ) -> dict[int, Judgement]:
        """Return the judgements that count with all that is known of them, skipped ones too, by id."""
        query = counting(sa.select(judgements), source, annotator).order_by(judgements.c.id)
        with self.reading() as connection:
            return {row.id: judgement_of(row._asdict()) for row in connection.execute(query)}

    def retracted(self) -> set[str]:
        """Return the uids of the judgements that were taken back."""
        with self.reading() as connection:
            return set(connection.scalars(sa.select(retractions.c.judgement_uid)))

    def count(
        self, *, source: str | Sequence[str] | None = None, annotator: str | Sequence[str] | None = None
    ) -> int:
        """Return the number of judgements that count, skipped ones included."""
        query = counting(sa.select(sa.func.count()).select_from(judgements), source, annotator)
        with self.reading() as connection:
            return int(connection.scalar(query) or 0)

    def check_data(self, store: TrajectoryStore) -> None:
        """Compare what the labels speak of with a trajectory store.

        Raises:
            DataError: The labels speak of other data, or of more episodes than the store has.
        """
        with self.reading() as connection:
            known = connection.execute(sa.select(data.c.episodes, data.c.fingerprint)).all()
        for episodes, fingerprint in known:
            if episodes > len(store):
                raise DataError(
                    f"The labels in {self._name} speak of {episodes} episodes, but {store.path} has only "
                    f"{len(store)}."
                )
            if store.fingerprint(episodes) != fingerprint:
                raise DataError(
                    f"The labels in {self._name} speak of other data than {store.path}: the first {episodes} "
                    "episodes are not the same."
                )

    # -- several processes ---------------------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Give a connection whose errors are explained (``DataError``)."""
        with explained(self._name), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[sa.Connection]:
        """Give a connection that alone may write, and is committed at the end.

        Args:
            durable: Whether what was written survives a power failure; else it may be lost then, never torn.
        """
        with writing(self._engine, self._name, durable=durable) as connection:
            yield connection

    def news(
        self, seen: "Mark", *, source: Source, connection: sa.Connection | None = None
    ) -> tuple[dict[int, Judgement], list[str], "Mark"]:
        """Return what was stored since an earlier call, by any process.

        Args:
            seen: What the earlier call returned; ``Mark()`` for everything.
            source: Judgements of this source alone.
            connection: Of :meth:`reading` or :meth:`writing`; None for one of its own.

        Returns:
            Judgements of that source by id, also retracted ones; the uids that were retracted; and the mark
            to give next time.
        """
        last = [sa.select(sa.func.max(table.c.id)).scalar_subquery() for table in (judgements, retractions)]
        with self.reading() if connection is None else nullcontext(connection) as reading:
            now = Mark(*(number or 0 for number in reading.execute(sa.select(*last)).one()))
            given: dict[int, Judgement] = {}
            taken_back: list[str] = []
            if now.judgement > seen.judgement:
                new = (judgements.c.id > seen.judgement) & (judgements.c.id <= now.judgement)
                query = sa.select(judgements).where(new, judgements.c.source == source)
                rows = reading.execute(query.order_by(judgements.c.id))
                given = {row.id: judgement_of(row._asdict()) for row in rows}
            if now.retraction > seen.retraction:
                new = (retractions.c.id > seen.retraction) & (retractions.c.id <= now.retraction)
                query = sa.select(retractions.c.judgement_uid).where(new).order_by(retractions.c.id)
                taken_back = list(reading.scalars(query))
        return given, taken_back, now

    # -- Parquet -------------------------------------------------------------------------------------------

    def rows(self) -> list[dict[str, Any]]:
        """Return every judgement as it is stored, with the data it speaks of; retracted ones are marked."""
        query = (
            sa.select(judgements, data.c.episodes, data.c.fingerprint, retracted().label("retracted"))
            .join(data, data.c.id == judgements.c.data_id)
            .order_by(judgements.c.id)
        )
        with self.reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def export_parquet(self, path: str | Path) -> int:
        """Write every judgement, retracted ones marked, to a Parquet file; return how many.

        The file's metadata holds the format, its schema version and the data's fingerprints.
        """
        from robopref.data.label_parquet import write_labels

        rows = self.rows()
        write_labels(Path(path), rows)
        return len(rows)

    def import_parquet(self, path: str | Path) -> int:
        """Add the judgements of an exported file that are not here yet; return how many were new.

        Raises:
            DataError: The file is missing, damaged, of another format, or speaks of other data.
        """
        from robopref.data.label_parquet import read_labels

        now = datetime.now(UTC)
        rows = read_labels(Path(path))
        taken_back = {row["uid"] for row in rows if row.pop("retracted")}
        groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for row in rows:
            of = groups.setdefault((row.pop("fingerprint"), row.pop("episodes")), [])
            of.append(row | {"stored_at": now})
        added = 0
        with self.writing() as connection:
            for (fingerprint, episodes), group in groups.items():
                known = ids(connection, [row["uid"] for row in group])
                added += len(insert(connection, group, fingerprint, episodes, known))
            already = set(connection.scalars(sa.select(retractions.c.judgement_uid)))
            events = [{"judgement_uid": uid, "stored_at": now} for uid in sorted(taken_back - already)]
            if events:
                connection.execute(sa.insert(retractions), events)
        return added

    # -- small parts ---------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return hide_passwords(self.url)
