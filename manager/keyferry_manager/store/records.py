"""What the store gives and takes: plain values, so that nothing outside it touches a database.

Times are Unix seconds (UTC), with a fraction where order within a second matters. Serials are
32 lower-case hexadecimal digits, fingerprints the SHA-256 of the whole DER certificate, keys the
SHA-256 of the SubjectPublicKeyInfo; both are 64 such digits.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# "registration": at a CA, for a device that one of its managers introduced.
Admission = Literal["factory", "token", "renewal", "registration"]
Outcome = Literal["ok", "refused", "failed"]
SessionState = Literal["offered", "established", "ended"]
ApprovalState = Literal["waiting", "approved", "denied"]
# RFC 5280, section 5.3.1, without those of CAs, and without the hold: a revocation stands.
Reason = Literal[
    "unspecified",
    "keyCompromise",
    "affiliationChanged",
    "superseded",
    "cessationOfOperation",
    "privilegeWithdrawn",
]


@dataclass(frozen=True, slots=True)
class Device:
    """A name that this manager knows. ``removed_at``: it is kept for its certificates only."""

    name: str
    created_at: int
    removed_at: int | None = None


@dataclass(frozen=True, slots=True)
class FactoryIdentity:
    """A factory certificate that admits its device to enrolment."""

    fingerprint: str
    serial: str
    device: str
    not_after: int
    created_at: int


@dataclass(frozen=True, slots=True)
class Certificate:
    """A device certificate that this manager issued."""

    serial: str
    device: str
    not_before: int
    not_after: int
    fingerprint: str
    key: str
    der: bytes = field(repr=False)
    admission: Admission
    issued_at: float


@dataclass(frozen=True, slots=True)
class Revocation:
    """An order to revoke, and what became of it: ``done_at`` is when the last link and session
    that it ended was closed, None until a manager has seen to it."""

    id: int
    device: str
    reason: Reason
    ordered_at: float
    certificates: int
    done_at: float | None = None
    links: int = 0
    sessions: int = 0


@dataclass(frozen=True, slots=True)
class Revoked:
    """A certificate that was revoked. Any other certificate for its ``key`` is revoked with it."""

    serial: str
    device: str
    key: str
    reason: Reason
    revoked_at: float
    not_after: int


@dataclass(frozen=True, slots=True)
class Approval:
    """A first enrolment that waits, or waited, for a person: a device, and the key it made."""

    id: int
    device: str
    key: str
    admission: Admission
    address: str
    asked_at: float
    state: ApprovalState
    decided_at: float | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """A one-time enrolment token: its SHA-256, never itself."""

    id: int
    device: str
    hash: str = field(repr=False)
    created_at: int
    expires_at: int
    used_at: int | None
    used_serial: str | None


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A token of the admin API: its SHA-256, never itself, and what it is good for."""

    name: str
    hash: str = field(repr=False)
    scopes: tuple[str, ...]
    created_at: int
    expires_at: int
    created_by: str


@dataclass(frozen=True, slots=True)
class RegistrationAuthority:
    """A manager that this CA signs for. ``hosts`` may stand in its own certificate."""

    name: str
    hosts: tuple[str, ...]
    created_at: int


@dataclass(frozen=True, slots=True)
class AllowRule:
    """``initiator`` may ask for a session with ``responder``."""

    initiator: str
    responder: str
    created_at: int


@dataclass(frozen=True, slots=True)
class AppliedPolicy:
    """A policy file as it was brought into force. The one with the highest ``id`` is in force.

    ``restores`` is the id of the one that a rollback brought back, 0 for the time before any.
    """

    id: int
    applied_at: float
    applied_by: str
    sha256: str
    text: str = field(repr=False)
    restores: int | None = None


@dataclass(frozen=True, slots=True)
class LinkRow:
    """A live link: which name is bound to which connection. ``since`` is Unix time, and
    ``registered_until`` too; None while the device has not registered."""

    link: str
    name: str
    address: str
    transport: int
    serial: str
    since: float
    addresses: tuple[str, ...] = ()
    registered_until: float | None = None


@dataclass(frozen=True, slots=True)
class AgreementKey:
    """A device's key for the profile rpk, endorsed by its certificate's key.

    ``signer`` is the 65-byte public key that endorsed it, ``key_id`` its kid in hexadecimal.
    """

    device: str
    key_id: str
    endorsed: bytes = field(repr=False)
    signer: bytes = field(repr=False)
    registered_at: float


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A session as the relay sees it: who, when, how much; nothing of its content."""

    session: str
    initiator: str
    responder: str
    state: SessionState
    started_at: float
    ended_at: float | None = None
    end_reason: str = ""
    messages: int = 0
    octets: int = 0
    # the third party that the initiator, a gateway, acts for
    on_behalf_of: str | None = None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line of the audit trail. ``name`` is empty where nobody was authenticated.

    ``id``, ``previous`` and ``hash`` are given when it is written: store/chain.py.
    """

    at: float
    event: str
    outcome: Outcome
    name: str = ""
    address: str = ""
    detail: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    id: int = 0
    previous: str = ""
    hash: str = ""
