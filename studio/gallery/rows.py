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


def same_picture(row: Mapping[str, Any]) -> tuple[sa.ColumnElement[bool], ...]:
    """Match the picture that a new row stands for."""
    return image_table.c.job_id == row["job_id"], image_table.c.index == row["index"]


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
