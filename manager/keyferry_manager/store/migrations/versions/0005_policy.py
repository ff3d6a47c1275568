"""Applied policies, live links, and keys for the profile rpk.

Revision 0005, after 0004.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    row_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "policies",
        sa.Column("id", row_id, nullable=False),
        sa.Column("applied_at", sa.Double, nullable=False),
        sa.Column("applied_by", sa.String(255), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("restores", sa.BigInteger, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_policies"),
    )
    op.create_table(
        "links",
        sa.Column("link", sa.String(32), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("transport", sa.Integer, nullable=False),
        sa.Column("serial", sa.String(32), nullable=False),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("addresses", sa.JSON, nullable=False),
        sa.Column("registered_until", sa.Double, nullable=True),
        sa.PrimaryKeyConstraint("link", name="pk_links"),
    )
    op.create_table(
        "agreement_keys",
        sa.Column("device", sa.String(63), nullable=False),
        sa.Column("key_id", sa.String(16), nullable=False),
        sa.Column("endorsed", sa.LargeBinary, nullable=False),
        sa.Column("signer", sa.LargeBinary, nullable=False),
        sa.Column("registered_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("device", name="pk_agreement_keys"),
        sa.ForeignKeyConstraint(["device"], ["devices.name"], name="fk_agreement_keys_device"),
    )
