"""What a realm's owner signed for a device, on a machine that is not this one."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "endorsements",
        sa.Column("device", sa.String(63), nullable=False),
        sa.Column("endorsement", sa.LargeBinary, nullable=False),
        sa.Column("added_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("device", name="pk_endorsements"),
        sa.ForeignKeyConstraint(["device"], ["devices.name"], name="fk_endorsements_device"),
    )
