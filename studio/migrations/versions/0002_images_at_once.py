"""Several images of a job are denoised at once."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Say how many images the progress of a job is of."""
    op.add_column("job", sa.Column("images_at_once", sa.Integer, nullable=False, server_default="1"))
