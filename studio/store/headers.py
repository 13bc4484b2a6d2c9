"""What LoRA files say of themselves, read once for each state of a file and kept in the database."""

import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict

import sqlalchemy as sa
from pydantic import TypeAdapter, ValidationError

from pipelines.spec.errors import StorageError
from studio.database import Database, lora_header_table
from studio.store.lora_header import READING, LoraHeader

Stamp = tuple[tuple[str, int, int], int | None]
"""Of a file: path, size and time of change, as `hashes.key` returns them; when the notes beside it changed, if any."""

_HEADER = TypeAdapter(LoraHeader)


class FileHeaders:
    """Remembers headers.

    Args:
        database: where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def known(self, paths: Collection[str]) -> dict[Stamp, LoraHeader]:
        """Return what is known of some files, or of all; what an older version read is not."""
        table = lora_header_table
        statement = sa.select(table).where(table.c.reading == READING)
        if len(paths) == 1:
            statement = statement.where(table.c.path == next(iter(paths)))
        with self._database.read() as connection:
            rows = connection.execute(statement).all()
        known = {}
        for row in rows:
            with suppress(ValidationError):  # half of a surrogate pair: it is read again
                known[(row.path, row.size, row.mtime_ns), row.config_ns] = _HEADER.validate_json(row.header)
        return known

    def keep(self, headers: Mapping[Stamp, LoraHeader], *, there: Collection[str]) -> None:
        """Remember headers, and forget files that are not there any more. A database that refuses costs time only."""
        table = lora_header_table
        rows = [
            {
                "path": path,
                "size": size,
                "mtime_ns": mtime_ns,
                "config_ns": config_ns,
                "reading": READING,
                "header": json.dumps(asdict(header)),
            }
            for ((path, size, mtime_ns), config_ns), header in headers.items()
        ]
        if not rows:
            return
        with suppress(StorageError), self._database.write() as connection:
            kept = set(connection.scalars(sa.select(table.c.path)))
            stale = kept - set(there) | kept & {row["path"] for row in rows}
            if stale:
                forget = sa.delete(table).where(table.c.path == sa.bindparam("stale"))
                connection.execute(forget, [{"stale": path} for path in stale])
            connection.execute(sa.insert(table), rows)
