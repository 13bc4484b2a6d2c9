"""Tables, connections and migrations. Short transactions only; SQLite by default, PostgreSQL by URL."""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import sqlalchemy as sa

from pipelines.spec.errors import StorageError

HEAD = "0008"
"""The newest revision in studio/migrations/versions."""

metadata = sa.MetaData()

job_table = sa.Table(
    "job",
    metadata,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(16), nullable=False, unique=True),
    sa.Column("kind", sa.String(10), nullable=False, server_default="generate"),
    sa.Column("state", sa.String(10), nullable=False),
    sa.Column("request", sa.JSON, nullable=False),
    sa.Column("idempotency_key", sa.String(200), unique=True),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("started_at", sa.Float),
    sa.Column("finished_at", sa.Float),
    sa.Column("device", sa.String(32)),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
    sa.Column("worker_deaths", sa.Integer, nullable=False, server_default="0"),
    sa.Column("cancel_requested", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("image_index", sa.Integer, nullable=False, server_default="0"),
    sa.Column("images_at_once", sa.Integer, nullable=False, server_default="1"),
    sa.Column("step", sa.Integer, nullable=False, server_default="0"),
    sa.Column("num_steps", sa.Integer, nullable=False, server_default="0"),
    sa.Column("loss", sa.Float),
    sa.Column("seconds_left", sa.Float),
    sa.Column("note", sa.Text),
    sa.Column("preview", sa.LargeBinary),
    sa.Column("error", sa.Text),
    sa.Index("job_by_state", "state", "sequence"),
    sqlite_autoincrement=True,
)

image_table = sa.Table(
    "image",
    metadata,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("job_id", sa.String(16), nullable=False),
    sa.Column("index", sa.Integer, nullable=False),
    sa.Column("path", sa.Text, nullable=False, unique=True),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("record", sa.JSON, nullable=False),
    sa.Column("width", sa.Integer, nullable=False, server_default="0"),
    sa.Column("height", sa.Integer, nullable=False, server_default="0"),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.UniqueConstraint("job_id", "index"),
    sa.Index("image_by_created_at", "created_at"),
)

file_hash_table = sa.Table(
    "file_hash",
    metadata,
    sa.Column("path", sa.Text, primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("mtime_ns", sa.BigInteger, nullable=False),
    sa.Column("file_sha256", sa.String(64), nullable=False),
    sa.Column("tensors_sha256", sa.String(64), nullable=False),
)

lora_header_table = sa.Table(
    "lora_header",
    metadata,
    sa.Column("path", sa.Text, primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("mtime_ns", sa.BigInteger, nullable=False),
    sa.Column("config_ns", sa.BigInteger),
    sa.Column("reading", sa.Integer, nullable=False),
    sa.Column("header", sa.Text, nullable=False),
)

outputs_table = sa.Table(
    "outputs",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("path", sa.Text, nullable=False),
)
"""The one outputs folder whose files the rows name."""


class Database:
    """Opens the database, migrates it and hands out transactions.

    Args:
        url: a SQLAlchemy URL.
        is_only_read: make and change nothing, not even tables of an older version.

    Raises:
        StorageError: the file is damaged, or its folder cannot be written.
    """

    def __init__(self, url: str, *, is_only_read: bool = False) -> None:
        try:
            self._url = sa.make_url(url)
        except (sa.exc.ArgumentError, ValueError) as error:
            shown = "(not shown: there may be a password in it)" if "@" in url else url
            raise StorageError(f"database {shown}: this is no URL; {_SUCH_AS}") from error
        try:
            self._engine = sa.create_engine(self._url, json_serializer=partial(json.dumps, ensure_ascii=False))
        except (sa.exc.ArgumentError, ImportError) as error:
            raise StorageError(f"database {self._shown_url}: {error}; {_SUCH_AS}") from error
        if self._is_sqlite:
            sa.event.listen(self._engine, "connect", _look_only if is_only_read else _configure_sqlite)
            sa.event.listen(self._engine, "begin", _begin_sqlite)
        try:
            if self._is_sqlite and (self.exists() or not is_only_read):
                self._check_sqlite()
            if not is_only_read:
                self._migrate()
        except StorageError:
            self.close()
            raise

    @property
    def place(self) -> str:
        """Where it is, without a password: a file, or a name on a server."""
        return (self._url.database or "") if self._is_sqlite else self._shown_url

    def exists(self) -> bool:
        """Whether there is a database: a SQLite file is made by whoever opens it."""
        return not self._is_sqlite or Path(self._url.database or "").is_file()

    def revision(self) -> str | None:
        """Return the revision of its tables; None if there are none yet."""
        with self.read() as connection:
            if not sa.inspect(connection).has_table("alembic_version"):
                return None
            return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Open a transaction that only reads."""
        with self._explaining(), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Open a transaction that holds the write lock from its first moment; commits unless the block raises."""
        with self._explaining(), self._engine.connect().execution_options(write=True) as connection, connection.begin():
            yield connection

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _check_sqlite(self) -> None:
        with self.read() as connection:
            verdict = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
        if verdict != "ok":
            raise StorageError(f"database {self.place}: {verdict}; {_DAMAGED}")

    def _migrate(self) -> None:
        """Bring the schema to HEAD. Alembic is imported only when there is something to do."""
        version = self.revision()
        if version == HEAD:
            return
        if version is not None and version > HEAD:
            sentence = f"was made by a newer version (revision {version}, this one knows {HEAD}); use that version"
            raise StorageError(f"database {self.place} {sentence}")
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        config.set_main_option("path_separator", "os")
        with self.write() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """Turn what the driver says, or a row that cannot be decoded, into a sentence with the way out."""
        try:
            yield
        except sa.exc.DBAPIError as error:
            reason = str(error.orig)
            advice = [advice for sign, advice in _ADVICE.items() if sign in reason][:1]
            sentence = "; ".join([f"{reason}{self._room(reason)}", *advice])
            raise StorageError(f"database {self.place}: {sentence}") from error
        except sa.exc.TimeoutError as error:
            raise StorageError(f"database {self.place}: too many ask at once; try again") from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise StorageError(f"database {self.place}: {error}; {_DAMAGED}") from error

    def _room(self, reason: str) -> str:
        """Say how much room is left, where that is the reason and can be known: beside a SQLite file."""
        if _FULL not in reason or not self._is_sqlite:
            return ""
        free = shutil.disk_usage(Path(self._url.database or ".").absolute().parent).free
        return f" ({free / 2**20:.1f} MiB free)"

    @property
    def _is_sqlite(self) -> bool:
        return self._url.get_backend_name() == "sqlite"

    @property
    def _shown_url(self) -> str:
        """The URL without a password, which may stand among its options too."""
        return self._url.set(query={}).render_as_string(hide_password=True)


_SUCH_AS = "give a URL such as sqlite:///studio.db"
_DAMAGED = "it is damaged; move the file away and run `studio gallery rebuild`: every picture carries its own record"
_FULL = "full"
_ADVICE = {
    "malformed": _DAMAGED,
    "not a database": _DAMAGED,
    _FULL: "this was not written; free some disk space and try again",
    "unable to open": "check that the folder exists and can be written",
    "readonly": "check that the folder can be written",
    "attempt to write": "check that the folder can be written",
    "locked": "another program holds it; try again",
    "disk I/O error": "the disk reports an error; check its health and space",
}


def wal_is_safe(version: tuple[int, int, int]) -> bool:
    """Whether this SQLite is free of the WAL-reset bug: 3.51.3 and later, 3.50.7+, 3.44.6+ (sqlite.org/wal.html)."""
    return version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)


def _configure_sqlite(connection: sqlite3.Connection, _: object) -> None:
    """Pragmas of every connection. The driver's own transaction handling is off; `_begin_sqlite` begins."""
    connection.isolation_level = None
    connection.execute("PRAGMA busy_timeout = 30000")
    connection.execute(f"PRAGMA journal_mode = {'WAL' if wal_is_safe(sqlite3.sqlite_version_info) else 'DELETE'}")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _look_only(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA busy_timeout = 30000")
    connection.execute("PRAGMA query_only = ON")


def _begin_sqlite(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
