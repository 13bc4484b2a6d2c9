"""Trainings are jobs too."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Say what a job does, and how far a training is. All that are there make pictures."""
    op.add_column("job", sa.Column("kind", sa.String(10), nullable=False, server_default="generate"))
    op.add_column("job", sa.Column("loss", sa.Float))
    op.add_column("job", sa.Column("seconds_left", sa.Float))
