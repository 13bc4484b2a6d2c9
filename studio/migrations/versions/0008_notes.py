"""What a job says beside its steps."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Make room for it: what is painted during a training, and what could not be."""
    op.add_column("job", sa.Column("note", sa.Text))
