"""The tables of the label store; how its database is opened, told from foreign ones, kept from blocking."""

import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc

from robopref.data.label_migration import migrate_from_1
from robopref.errors import ConfigError, DataError, hide_passwords

FORMAT = "robopref-labels"
VERSION = 2
_WRITERS = 0x726F626F  # the number of PostgreSQL's lock that writers queue at
_PATIENCE_S = 30.0  # how long a writer waits for the others


class UtcTime(sa.TypeDecorator[datetime]):
    """A moment in UTC, also in databases that forget time zones."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Convert to UTC on the way in."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Attach UTC on the way out."""
        return value if value is None or value.tzinfo else value.replace(tzinfo=UTC)


METADATA = sa.MetaData()

about = sa.Table(
    "robopref_about",
    METADATA,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.String(256), nullable=False),
)

data = sa.Table(
    "robopref_data",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("episodes", sa.Integer, nullable=False, unique=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
)

judgements = sa.Table(
    "robopref_judgements",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("uid", sa.String(64), nullable=False, unique=True),
    sa.Column("data_id", sa.ForeignKey(data.c.id), nullable=False),
    *(
        sa.Column(f"{side}_{name}", sa.Integer, nullable=side == "b")  # one clip alone has no b
        for side in "ab"
        for name in ("episode", "start", "length")
    ),
    sa.Column("answer", sa.String(8), nullable=False),
    sa.Column("label", sa.Double),  # the chance that a is preferred, or good; NULL where skipped
    sa.Column("confidence", sa.Double, nullable=False),
    sa.Column("source", sa.String(16), nullable=False),
    sa.Column("annotator", sa.String(256), nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("stored_at", UtcTime, nullable=False),
    sa.Column("response_time_s", sa.Double),
    sa.Column("shown_left", sa.String(1)),
    sa.Column("note", sa.Text),
    sa.Column("decided_start", sa.Integer),
    sa.Column("decided_length", sa.Integer),
    sa.Column("list_uid", sa.String(64), index=True),
    sa.Column("list_members", sa.Text),  # JSON: episode, start and length of each clip that is ranked
    sa.Column("tool_version", sa.String(64)),
    sa.Index("robopref_judgements_by_origin", "source", "annotator"),
    sa.Index("robopref_judgements_by_pair", "a_episode", "b_episode"),
)

retractions = sa.Table(
    "robopref_retractions",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("judgement_uid", sa.ForeignKey(judgements.c.uid), nullable=False, index=True),
    sa.Column("annotator", sa.String(256)),
    sa.Column("stored_at", UtcTime, nullable=False),
)

tokens = sa.Table(
    "robopref_tokens",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("annotator", sa.String(256), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),  # SHA-256; the token itself is not kept
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("revoked_at", UtcTime),
)

leases = sa.Table(
    "robopref_leases",
    METADATA,
    sa.Column("plan", sa.String(64), primary_key=True),
    sa.Column("annotator", sa.String(256), primary_key=True),
    sa.Column("item", sa.Integer, nullable=False),
    sa.Column("until", sa.Double, nullable=False),  # seconds since 1970
)


def open_engine(url: str) -> sa.Engine:
    """Connect, make the tables in an empty database, and refuse a foreign one.

    Raises:
        ConfigError: The URL cannot be read, or its driver is not installed.
        DataError: The database cannot be reached, is damaged, foreign, or of another schema version.
    """
    try:
        engine = sa.create_engine(_with_driver(url), **_options(url))
    except (exc.ArgumentError, exc.NoSuchModuleError) as error:
        raise ConfigError(
            f"{hide_passwords(url)!r} is no database URL ({str(error).replace(url, hide_passwords(url))}). "
            "Right would be: sqlite:///labels.sqlite"
        ) from error
    except ImportError as error:
        extra = " pip install 'robopref[postgres]'" if url.startswith("postgresql") else ""
        raise ConfigError(f"The driver for {url.split(':')[0]} is not installed: {error}.{extra}") from error
    name = hide_passwords(url)
    if engine.dialect.name == "sqlite":
        _prepare_sqlite(engine)
    elif engine.dialect.name == "postgresql":
        _prepare_postgresql(engine)
    try:
        with explained(name), engine.connect() as connection:
            _check_sqlite_pages(connection, name)
            connection.execution_options(robopref_writes=True)
            with connection.begin():
                _make_or_check(connection, name)
    except BaseException:
        engine.dispose()
        raise
    return engine


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn a database error into a sentence that names the database (``DataError``)."""
    try:
        yield
    except exc.IntegrityError as error:
        raise DataError(f"{name} refused a row that contradicts the others: {error.orig}.") from error
    except exc.SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error)
        cures = {
            "not a database": "this is not a SQLite file, or it is damaged",
            "malformed": "the file is damaged or truncated; restore it from a copy or a Parquet export",
            "full": "the disk is full; nothing that was stored is lost",
            "locked": f"others kept writing for {_PATIENCE_S:.0f} s; try again",
            "unable to open": "the directory does not exist or may not be written",
            "readonly": "the file may not be written",
        }
        cure = next((f" ({cure})" for key, cure in cures.items() if key in reason), "")
        raise DataError(f"The label store {name} failed: {reason}{cure}.") from error


@contextmanager
def writing(engine: sa.Engine, name: str, *, durable: bool = True) -> Iterator[sa.Connection]:
    """Give a connection that alone may write, and is committed at the end; its errors are explained.

    Args:
        engine: Of :func:`open_engine`.
        name: What the database is called in sentences.
        durable: Whether what was written survives a power failure; else it may be lost then, never torn.
    """
    with explained(name), engine.connect() as connection:
        connection.execution_options(robopref_writes=True, robopref_durable=durable)
        with connection.begin():
            yield connection


def _with_driver(url: str) -> str:
    """Let ``postgresql://`` mean psycopg 3, which the extra installs, and not SQLAlchemy's older default."""
    return (
        url.replace("postgresql://", "postgresql+psycopg://", 1) if url.startswith("postgresql://") else url
    )


def _options(url: str) -> dict[str, Any]:
    return {"connect_args": {"timeout": _PATIENCE_S}} if url.startswith("sqlite") else {"pool_pre_ping": True}


def _prepare_sqlite(engine: sa.Engine) -> None:
    """Let transactions begin where SQLAlchemy says so, and writers queue instead of failing.

    A transaction that reads first and writes later fails at once when another process wrote in between, so
    writers take SQLite's write lock when they begin.

    What is written into a file that was deleted, or into its log, is gone with it, though SQLite says
    nothing: so nobody begins or commits once the file at the path, or the log beside it, is another one. (A
    database in memory has no file, nor do we look for the one of a ``file:`` name.)
    """
    path = Path(engine.url.database or "").absolute()
    target = path.resolve()  # SQLite follows symbolic links, and keeps its log beside what they point to
    log = target.with_name(f"{target.name}-wal")
    held: dict[Path, tuple[int, int]] = {}  # which files they were when they were opened first

    def check(writes: bool) -> None:
        parts = (path, log) if writes else (path,)
        if held and any(_file(part) is None or _file(part) != held.get(part) for part in parts):
            raise DataError(
                f"The label store {path} was deleted or replaced while it was in use: nothing more is "
                "stored. Put it back as it was, or start again for a new one."
            )

    def hold(part: Path) -> None:
        if (found := _file(part)) is not None:
            held.setdefault(part, found)

    @event.listens_for(engine, "connect")
    def connect(raw: Any, record: object) -> None:
        raw.isolation_level = None
        raw.execute("PRAGMA foreign_keys=ON")
        hold(path)

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        options = connection.get_execution_options()
        writes = options.get("robopref_writes", False)
        if writes:
            durable = options.get("robopref_durable", True)
            connection.exec_driver_sql(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
        if writes and held:
            hold(log)  # which is there from the first time that somebody writes
        check(writes)

    @event.listens_for(engine, "commit")
    def commit(connection: sa.Connection) -> None:
        if connection.get_execution_options().get("robopref_writes", False):
            check(writes=True)


def _file(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from others, or None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def _prepare_postgresql(engine: sa.Engine) -> None:
    """Let writers queue, as SQLite's do: what is there already is looked up before it is added."""

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        options = connection.get_execution_options()
        if options.get("robopref_writes", False):
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITERS})")
            if not options.get("robopref_durable", True):
                connection.exec_driver_sql("SET LOCAL synchronous_commit = off")


def _check_sqlite_pages(connection: sa.Connection, name: str) -> None:
    """Refuse a damaged file before anything is read from it, then switch it to the write-ahead log."""
    if connection.dialect.name != "sqlite":
        return
    raw: Any = connection.connection.dbapi_connection
    try:
        found = raw.execute("PRAGMA quick_check(1)").fetchone()[0]
        path = raw.execute("PRAGMA database_list").fetchone()[2]
        tables = {row[0] for row in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except raw.DatabaseError as error:
        raise DataError(
            f"The label store {name} cannot be read: {error}. It is damaged, truncated, or no SQLite "
            "file; restore it from a copy or a Parquet export."
        ) from error
    if found != "ok":
        raise DataError(
            f"The label store {name} is damaged or truncated: {found}. Restore it from a copy or a Parquet "
            "export."
        )
    if tables and about.name not in tables:
        raise DataError(
            f"{name} is a SQLite database, but not a label store: it has tables {sorted(tables)[:5]}."
        )
    if path and Path(path).exists():
        _use_write_ahead_log(raw, name)


def _use_write_ahead_log(raw: Any, name: str) -> None:
    """Switch to WAL; SQLite may refuse at once while another process does the same: try for a while."""
    deadline = time.monotonic() + _PATIENCE_S
    while raw.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            raw.execute("PRAGMA journal_mode=WAL")
        except raw.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise DataError(f"The label store {name} cannot be opened for writing: {error}.") from error
            time.sleep(0.02)


def _make_or_check(connection: sa.Connection, name: str) -> None:
    if sa.inspect(connection).has_table(about.name):
        known = {row.name: row.value for row in connection.execute(sa.select(about))}
        if known.get("format") != FORMAT:
            raise DataError(f"{name} is a database, but not a label store of robopref.")
        if known.get("version") == "1":
            migrate_from_1(connection, METADATA)
            connection.execute(sa.update(about).where(about.c.name == "version").values(value=str(VERSION)))
        elif known.get("version") != str(VERSION):
            got = known.get("version")
            raise DataError(
                f"The label store {name} has schema version {got}; this robopref reads {VERSION}."
            )
        leases.create(connection, checkfirst=True)  # which a store of version 2 may lack: no label is in it
        return
    METADATA.create_all(connection)
    connection.execute(
        sa.insert(about), [{"name": "format", "value": FORMAT}, {"name": "version", "value": str(VERSION)}]
    )
