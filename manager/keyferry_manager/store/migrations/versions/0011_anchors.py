"""Which CA certificates each device said that it holds: a roll-over waits for it."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "anchors",
        sa.Column("device", sa.String(63), nullable=False),
        sa.Column("digest", sa.String(16), nullable=False),
        sa.Column("stated_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("device", name="pk_anchors"),
        sa.ForeignKeyConstraint(["device"], ["devices.name"], name="fk_anchors_device"),
    )
