"""Hashes of model files, which take seconds to compute."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Keep the hashes of a file as it is at a size and a time of change."""
    op.create_table(
        "file_hash",
        sa.Column("path", sa.Text, primary_key=True),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("mtime_ns", sa.BigInteger, nullable=False),
        sa.Column("file_sha256", sa.String(64), nullable=False),
        sa.Column("tensors_sha256", sa.String(64), nullable=False),
    )
