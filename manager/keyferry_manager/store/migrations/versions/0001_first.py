"""The first tables.

Revision 0001, after nothing. Written out by hand: a migration must not change when the tables
in the code move on.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    row_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "devices",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_devices"),
    )
    op.create_table(
        "factory_identities",
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("serial", sa.String(32), nullable=False),
        sa.Column("device", sa.String(63), nullable=False),
        sa.Column("not_after", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name="pk_factory_identities"),
        sa.UniqueConstraint("serial", name="uq_factory_identities_serial"),
        sa.ForeignKeyConstraint(["device"], ["devices.name"], name="fk_factory_identities_device"),
    )
    op.create_index("ix_factory_identities_device", "factory_identities", ["device"])
    op.create_table(
        "certificates",
        sa.Column("serial", sa.String(32), nullable=False),
        sa.Column("device", sa.String(63), nullable=False),
        sa.Column("not_before", sa.BigInteger, nullable=False),
        sa.Column("not_after", sa.BigInteger, nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("der", sa.LargeBinary, nullable=False),
        sa.Column("admission", sa.String(16), nullable=False),
        sa.Column("issued_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("serial", name="pk_certificates"),
        sa.UniqueConstraint("fingerprint", name="uq_certificates_fingerprint"),
        sa.ForeignKeyConstraint(["device"], ["devices.name"], name="fk_certificates_device"),
    )
    op.create_index("ix_certificates_key", "certificates", ["key"])
    op.create_index("ix_certificates_device", "certificates", ["device", "issued_at"])
    op.create_table(
        "tokens",
        sa.Column("id", row_id, nullable=False),
        sa.Column("device", sa.String(63), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("used_at", sa.BigInteger, nullable=True),
        sa.Column("used_serial", sa.String(32), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("hash", name="uq_tokens_hash"),
        sa.ForeignKeyConstraint(["device"], ["devices.name"], name="fk_tokens_device"),
        sa.ForeignKeyConstraint(
            ["used_serial"], ["certificates.serial"], name="fk_tokens_used_serial"
        ),
    )
    op.create_index("ix_tokens_device", "tokens", ["device"])
    op.create_table(
        "allow_rules",
        sa.Column("initiator", sa.String(63), nullable=False),
        sa.Column("responder", sa.String(63), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("initiator", "responder", name="pk_allow_rules"),
    )
    op.create_table(
        "sessions",
        sa.Column("session", sa.String(32), nullable=False),
        sa.Column("initiator", sa.String(63), nullable=False),
        sa.Column("responder", sa.String(63), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("ended_at", sa.Double, nullable=True),
        sa.Column("end_reason", sa.String(64), nullable=False),
        sa.Column("messages", sa.BigInteger, nullable=False),
        sa.Column("octets", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("session", name="pk_sessions"),
    )
    op.create_index("ix_sessions_started_at", "sessions", ["started_at"])
    op.create_index("ix_sessions_ended_at", "sessions", ["ended_at"])
    op.create_table(
        "audit",
        sa.Column("id", row_id, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("event", sa.String(64), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("fields", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_index("ix_audit_at", "audit", ["at"])
    op.create_index("ix_audit_name", "audit", ["name"])
    revision_table = op.create_table(
        "revision",
        sa.Column("only", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("only", name="pk_revision"),
    )
    op.bulk_insert(revision_table, [{"only": 1, "number": 1}])
