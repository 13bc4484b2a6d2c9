"""The size of a picture's file: of one that was repainted in parts, it is not the size that was painted."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the size, first as it was painted. `studio gallery rebuild` reads it from the files."""
    for name in ("width", "height"):
        op.add_column("image", sa.Column(name, sa.Integer, nullable=False, server_default="0"))
    connection = op.get_bind()
    integers = (sa.column(name, sa.Integer) for name in ("sequence", "width", "height"))
    image = sa.table("image", *integers, sa.column("record", sa.Text))
    for row in connection.execute(sa.select(image.c.sequence, sa.cast(image.c.record, sa.Text).label("record"))).all():
        if size := _painted(row.record):
            connection.execute(sa.update(image).where(image.c.sequence == row.sequence).values(size))


def _painted(record: str) -> dict[str, int] | None:
    """Return width and height of what was painted; None where the row is damaged."""
    try:
        request = json.loads(record)["request"]
        return {"width": int(request["width"]), "height": int(request["height"])}
    except (ValueError, TypeError, KeyError):
        return None
