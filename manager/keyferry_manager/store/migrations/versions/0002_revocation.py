"""Revocation, and devices that were removed.

Revision 0002, after 0001.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    row_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.add_column("devices", sa.Column("removed_at", sa.BigInteger, nullable=True))
    op.create_table(
        "revocations",
        sa.Column("id", row_id, nullable=False),
        sa.Column("device", sa.String(63), nullable=False),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.Column("ordered_at", sa.Double, nullable=False),
        sa.Column("certificates", sa.BigInteger, nullable=False),
        sa.Column("done_at", sa.Double, nullable=True),
        sa.Column("links", sa.BigInteger, nullable=False),
        sa.Column("sessions", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_revocations"),
        sa.ForeignKeyConstraint(["device"], ["devices.name"], name="fk_revocations_device"),
    )
    op.create_index("ix_revocations_device", "revocations", ["device"])
    op.create_index("ix_revocations_done_at", "revocations", ["done_at"])
    op.create_table(
        "revoked",
        sa.Column("serial", sa.String(32), nullable=False),
        sa.Column("device", sa.String(63), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.Column("revoked_at", sa.Double, nullable=False),
        sa.Column("not_after", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("serial", name="pk_revoked"),
        sa.ForeignKeyConstraint(["serial"], ["certificates.serial"], name="fk_revoked_serial"),
    )
    op.create_index("ix_revoked_key", "revoked", ["key"])
    op.create_index("ix_revoked_not_after", "revoked", ["not_after"])
