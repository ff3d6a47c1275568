"""The third party that a session is for, where a gateway asked for it."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sessions", sa.Column("on_behalf_of", sa.String(63), nullable=True))
