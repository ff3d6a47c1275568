"""A CA that stands apart: the managers that it signs for, and whom each of them introduced."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "registration_authorities",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("hosts", sa.JSON, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_registration_authorities"),
        sa.ForeignKeyConstraint(
            ["name"], ["devices.name"], name="fk_registration_authorities_name"
        ),
    )
    op.create_table(
        "introduced",
        sa.Column("device", sa.String(63), nullable=False),
        sa.Column("authority", sa.String(63), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("device", name="pk_introduced"),
        sa.ForeignKeyConstraint(["device"], ["devices.name"], name="fk_introduced_device"),
        sa.ForeignKeyConstraint(
            ["authority"], ["registration_authorities.name"], name="fk_introduced_authority"
        ),
    )
