"""The audit trail becomes a chain, and nobody changes or removes an entry.

Revision 0006, after 0005. Entries that are there are chained in the order of their numbers.
"""

import hashlib
import json

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_PAGE = 1000


def upgrade() -> None:
    connection = op.get_bind()
    op.add_column("audit", sa.Column("previous", sa.String(64), nullable=True))
    op.add_column("audit", sa.Column("hash", sa.String(64), nullable=True))
    _chain(connection)
    with op.batch_alter_table("audit") as batch:
        batch.alter_column("previous", existing_type=sa.String(64), nullable=False)
        batch.alter_column("hash", existing_type=sa.String(64), nullable=False)
        batch.create_unique_constraint("uq_audit_previous", ["previous"])
    if connection.dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ "
            "BEGIN RAISE EXCEPTION 'the audit trail is append-only'; END $$"
        )
        for event in ("UPDATE", "DELETE", "TRUNCATE"):
            op.execute(
                f"CREATE TRIGGER audit_no_{event.lower()} BEFORE {event} ON audit "
                "FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()"
            )
    else:
        for event in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER audit_no_{event.lower()} BEFORE {event} ON audit "
                "BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only'); END"
            )


def _chain(connection: sa.Connection) -> None:
    audit = sa.table(
        "audit",
        sa.column("id", sa.BigInteger),
        sa.column("at", sa.Double),
        sa.column("event", sa.String),
        sa.column("outcome", sa.String),
        sa.column("name", sa.String),
        sa.column("address", sa.String),
        sa.column("detail", sa.Text),
        sa.column("fields", sa.JSON),
        sa.column("previous", sa.String),
        sa.column("hash", sa.String),
    )
    names = ("id", "at", "event", "outcome", "name", "address", "detail", "fields")
    fill = (
        sa.update(audit)
        .where(audit.c.id == sa.bindparam("entry"))
        .values(previous=sa.bindparam("before"), hash=sa.bindparam("own"))
    )
    head, last = "0" * 64, 0
    while True:
        query = sa.select(*(audit.c[name] for name in names)).where(audit.c.id > last)
        rows = connection.execute(query.order_by(audit.c.id).limit(_PAGE)).all()
        if not rows:
            return
        values = []
        for row in rows:
            before = head
            text = json.dumps([before, *row], sort_keys=True, separators=(",", ":"))
            head = hashlib.sha256(text.encode("ascii")).hexdigest()
            values.append({"entry": row.id, "before": before, "own": head})
            last = row.id
        connection.execute(fill, values)
