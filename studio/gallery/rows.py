"""What the index says about a picture: its row, and whether that is what the file says."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from studio.database import image_table
from studio.metadata import Record

_RECORD = sa.cast(image_table.c.record, sa.Text).label("record")  # read in `record_of`: one damaged row hurts no other
COLUMNS = [*(column for column in image_table.columns if column.name != "record"), _RECORD]


def record_of(row: sa.Row[Any]) -> Record | None:
    """Return what a row says about its picture, or None if the row is damaged."""
    try:
        return Record.from_json(json.loads(row.record))
    except (ValueError, TypeError):
        return None


def agrees(listed: sa.Row[Any], row: Mapping[str, Any]) -> bool:
    """Whether a listed row says what its file says; the version that wrote it may differ."""
    said = record_of(listed)
    is_same = all(listed._mapping[name] == row[name] for name in ("job_id", "index", "sha256", "width", "height"))
    return is_same and said == Record.from_json(row["record"])


def put_row(connection: sa.Connection, row: Mapping[str, Any]) -> None:
    """Write a row in the place of one of the same picture or the same file."""
    connection.execute(_DELETE, {f"old_{name}": row[name] for name in ("job_id", "index", "path")})
    connection.execute(_INSERT, row)


def row_of(record: Record, name: str, data: bytes, *, size: tuple[int, int]) -> dict[str, Any]:
    """Return the row of a picture.

    Args:
        record: what its file says of itself.
        name: the file's path in `images/`.
        data: the file.
        size: width and height in pixels.
    """
    width, height = size
    return {
        "job_id": record.job_id,
        "index": record.index,
        "path": name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "record": record.to_json(),
        "width": width,
        "height": height,
        "created_at": record.created_at,
    }


_DELETE = sa.delete(image_table).where(
    (image_table.c.job_id == sa.bindparam("old_job_id")) & (image_table.c.index == sa.bindparam("old_index"))
    | (image_table.c.path == sa.bindparam("old_path"))
)
_INSERT = sa.insert(image_table)
