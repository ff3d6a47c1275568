"""The tables. A change here needs a migration; a test compares both."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

# Names of constraints are fixed, so that a migration can name them on both databases.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows by itself only for a key of type INTEGER.
_RowId = BigInteger().with_variant(Integer, "sqlite")
_Name = String(63)
_Serial = String(32)
_Digest = String(64)

devices = Table(
    "devices",
    metadata,
    Column("name", _Name, primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    # A removed device stays for as long as its certificates must be known as revoked.
    Column("removed_at", BigInteger, nullable=True),
)

factory_identities = Table(
    "factory_identities",
    metadata,
    Column("fingerprint", _Digest, primary_key=True),
    Column("serial", _Serial, nullable=False, unique=True),
    Column("device", _Name, ForeignKey("devices.name"), nullable=False, index=True),
    Column("not_after", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

certificates = Table(
    "certificates",
    metadata,
    Column("serial", _Serial, primary_key=True),
    Column("device", _Name, ForeignKey("devices.name"), nullable=False),
    Column("not_before", BigInteger, nullable=False),
    Column("not_after", BigInteger, nullable=False),
    Column("fingerprint", _Digest, nullable=False, unique=True),
    Column("key", _Digest, nullable=False, index=True),
    Column("der", LargeBinary, nullable=False),
    Column("admission", String(16), nullable=False),
    Column("issued_at", Double, nullable=False),
    # the latest of a device, and how many it got within the hour
    Index("ix_certificates_device", "device", "issued_at"),
)

revocations = Table(
    "revocations",
    metadata,
    Column("id", _RowId, primary_key=True),
    Column("device", _Name, ForeignKey("devices.name"), nullable=False, index=True),
    Column("reason", String(32), nullable=False),
    Column("ordered_at", Double, nullable=False),
    Column("certificates", BigInteger, nullable=False),
    Column("done_at", Double, nullable=True, index=True),
    Column("links", BigInteger, nullable=False),
    Column("sessions", BigInteger, nullable=False),
)

revoked = Table(
    "revoked",
    metadata,
    Column("serial", _Serial, ForeignKey("certificates.serial"), primary_key=True),
    Column("device", _Name, nullable=False),
    Column("key", _Digest, nullable=False, index=True),
    Column("reason", String(32), nullable=False),
    Column("revoked_at", Double, nullable=False),
    Column("not_after", BigInteger, nullable=False, index=True),
)

approvals = Table(
    "approvals",
    metadata,
    Column("id", _RowId, primary_key=True),
    Column("device", _Name, ForeignKey("devices.name"), nullable=False, index=True),
    Column("key", _Digest, nullable=False, unique=True),
    Column("admission", String(16), nullable=False),
    Column("address", String(64), nullable=False),
    Column("asked_at", Double, nullable=False),
    Column("state", String(16), nullable=False),
    Column("decided_at", Double, nullable=True),
)

# In the home of a CA: the managers (registration authorities) that it signs for. Each is in
# ``devices`` too, so that its own certificates are recorded, renewed and revoked like any other.
registration_authorities = Table(
    "registration_authorities",
    metadata,
    Column("name", _Name, ForeignKey("devices.name"), primary_key=True),
    # The names and addresses that its certificate may carry, besides those that all have.
    Column("hosts", JSON, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

# Which of them introduced a device: nobody else renews or revokes it.
introduced = Table(
    "introduced",
    metadata,
    Column("device", _Name, ForeignKey("devices.name"), primary_key=True),
    Column("authority", _Name, ForeignKey("registration_authorities.name"), nullable=False),
    Column("at", Double, nullable=False),
)

# Numbers that only grow, by name.
counters = Table(
    "counters",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", _RowId, primary_key=True),
    Column("device", _Name, ForeignKey("devices.name"), nullable=False, index=True),
    Column("hash", _Digest, nullable=False, unique=True),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("used_at", BigInteger, nullable=True),
    Column("used_serial", _Serial, ForeignKey("certificates.serial"), nullable=True),
)

allow_rules = Table(
    "allow_rules",
    metadata,
    # Not foreign keys: a rule may be written before its devices are added.
    Column("initiator", _Name, primary_key=True),
    Column("responder", _Name, primary_key=True),
    Column("created_at", BigInteger, nullable=False),
)

# Append-only: a rollback is a new row. The newest is in force.
policies = Table(
    "policies",
    metadata,
    Column("id", _RowId, primary_key=True),
    Column("applied_at", Double, nullable=False),
    Column("applied_by", String(255), nullable=False),
    Column("sha256", _Digest, nullable=False),
    Column("text", Text, nullable=False),
    Column("restores", BigInteger, nullable=True),
)

# What is connected now, as the manager last wrote it. Nothing in it decides anything.
links = Table(
    "links",
    metadata,
    Column("link", String(32), primary_key=True),
    Column("name", _Name, nullable=False),
    Column("address", String(64), nullable=False),
    Column("transport", Integer, nullable=False),
    Column("serial", _Serial, nullable=False),
    Column("since", Double, nullable=False),
    Column("addresses", JSON, nullable=False),
    Column("registered_until", Double, nullable=True),
)

agreement_keys = Table(
    "agreement_keys",
    metadata,
    Column("device", _Name, ForeignKey("devices.name"), primary_key=True),
    Column("key_id", String(16), nullable=False),
    Column("endorsed", LargeBinary, nullable=False),
    Column("signer", LargeBinary, nullable=False),
    Column("registered_at", Double, nullable=False),
)

# Which CA certificates a device said over its link that it holds: keyferry_core.anchors.
anchors = Table(
    "anchors",
    metadata,
    Column("device", _Name, ForeignKey("devices.name"), primary_key=True),
    Column("digest", String(16), nullable=False),
    Column("stated_at", Double, nullable=False),
)

# What the realm's owner signed for a device's key: keyferry_core.owner. The peers verify it.
endorsements = Table(
    "endorsements",
    metadata,
    Column("device", _Name, ForeignKey("devices.name"), primary_key=True),
    Column("endorsement", LargeBinary, nullable=False),
    Column("added_at", Double, nullable=False),
)

# Who may use the admin API over TCP, and for what.
api_tokens = Table(
    "api_tokens",
    metadata,
    Column("name", _Name, primary_key=True),
    Column("hash", _Digest, nullable=False, unique=True),
    Column("scopes", JSON, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("created_by", String(255), nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    Column("session", String(32), primary_key=True),
    Column("initiator", _Name, nullable=False),
    Column("responder", _Name, nullable=False),
    Column("state", String(16), nullable=False),
    Column("started_at", Double, nullable=False, index=True),
    Column("ended_at", Double, nullable=True, index=True),
    Column("end_reason", String(64), nullable=False),
    Column("messages", BigInteger, nullable=False),
    Column("octets", BigInteger, nullable=False),
    Column("on_behalf_of", _Name, nullable=True),
)

# Append-only, and each entry holds the hash of the one before: chain.py. Triggers refuse changes.
audit = Table(
    "audit",
    metadata,
    Column("id", _RowId, primary_key=True),
    Column("at", Double, nullable=False, index=True),
    Column("event", String(64), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("name", String(255), nullable=False, index=True),
    Column("address", String(64), nullable=False),
    Column("detail", Text, nullable=False),
    Column("fields", JSON, nullable=False),
    Column("previous", _Digest, nullable=False, unique=True),
    Column("hash", _Digest, nullable=False),
)

# At most one row: what a manager that was stopped in order leaves for the next run.
parked = Table(
    "parked",
    metadata,
    Column("only", Integer, primary_key=True, autoincrement=False),
    Column("at", Double, nullable=False),
    Column("document", JSON, nullable=False),
)

# One row. Its number grows with each change of devices, rules or policy, in the same transaction,
# so that a running manager sees what the command line did, on SQLite and PostgreSQL alike.
revision = Table(
    "revision",
    metadata,
    Column("only", Integer, primary_key=True, autoincrement=False),
    Column("number", BigInteger, nullable=False),
)
