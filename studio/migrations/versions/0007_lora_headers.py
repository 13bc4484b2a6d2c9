"""What LoRA files say of themselves, which takes seconds to read for hundreds."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Keep the header of a file as it is at a size and a time of change, and by which version it was read."""
    op.create_table(
        "lora_header",
        sa.Column("path", sa.Text, primary_key=True),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("mtime_ns", sa.BigInteger, nullable=False),
        sa.Column("config_ns", sa.BigInteger),
        sa.Column("reading", sa.Integer, nullable=False),
        sa.Column("header", sa.Text, nullable=False),
    )
