"""The shapes of requests and answers: the source of the OpenAPI document's schemas."""

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from keyferry_core.names import FOR, MAX_NAME
from keyferry_manager.admin.policies import MAX_CHANGES
from keyferry_manager.admin.scopes import SCOPES
from keyferry_manager.policy.document import MAX_FILE
from keyferry_manager.store.records import Admission, ApprovalState, Outcome, Reason, SessionState

_Item = TypeVar("_Item")

_LABEL = "[a-z0-9]([a-z0-9-]*[a-z0-9])?"
NAME_PATTERN = rf"^{_LABEL}(\.{_LABEL})*$"
SUBJECT_PATTERN = rf"^{_LABEL}(\.{_LABEL})*({FOR}{_LABEL}(\.{_LABEL})*)?$"
SERIAL_PATTERN = "^[0-9a-f]{32}$"
DIGEST_PATTERN = "^[0-9a-f]{64}$"
TOKEN_PATTERN = "^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$"
# What one line can be: no control characters, and no surrogates, which no text can hold.
LINE_PATTERN = r"^[^\x00-\x1f\x7f]*$"
MAX_NUMBER = 2**53
MAX_TIME = 253_402_300_799  # the end of the year 9999, as certificates have it

Moment = Annotated[
    str,
    WithJsonSchema(
        {
            "type": "string",
            "format": "date-time",
            "description": "RFC 3339, UTC, whole seconds.",
            "examples": ["2026-11-24T10:00:00Z"],
        }
    ),
]
Name = Annotated[
    str,
    Field(
        pattern=NAME_PATTERN,
        max_length=MAX_NAME,
        description="A device's name; `manager` is reserved.",
        examples=["pump-7"],
    ),
]
Subject = Annotated[
    str,
    Field(
        pattern=SUBJECT_PATTERN,
        max_length=2 * MAX_NAME + len(FOR),
        description="A device's name, or `GATEWAY for NAME` where it acts for a third party.",
        examples=["pump-7", "gw-1 for alice"],
    ),
]
Serial = Annotated[
    str,
    Field(
        pattern=SERIAL_PATTERN,
        description="A certificate's serial: 32 lower-case hexadecimal digits.",
        examples=["0f8a4c6e2b1d3f5a7c9e0b2d4f6a8c0e"],
    ),
]
Digest = Annotated[
    str,
    Field(
        pattern=DIGEST_PATTERN,
        description="SHA-256, 64 lower-case hexadecimal digits.",
        examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"],
    ),
]
What = Literal["session", "message", "resolve"]
ScopeName = Annotated[
    str, WithJsonSchema({"type": "string", "enum": list(SCOPES), "examples": ["devices:read"]})
]


class Shape(BaseModel):
    """Exactly these members."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, strict=True)


class Page(Shape, Generic[_Item]):
    """A part of a list. Ask again with `cursor` set to `next`; null is the end."""

    items: list[_Item]
    next: str | None = Field(description="The cursor of the next page.")


class FieldProblem(Shape):
    """A value of a request, and what is wrong with it."""

    where: str = Field(examples=["body.name"])
    detail: str = Field(examples=["String should match pattern '^[0-9a-f]{32}$'"])


class ProblemDetails(Shape):
    """RFC 9457 problem details."""

    type: Literal["about:blank"]
    title: str = Field(description="The HTTP status in words.", examples=["Not Found"])
    status: int = Field(examples=[404])
    code: str = Field(description="The error for programs.", examples=["not-found"])
    detail: str = Field(
        description="The error for people, and what to do next.",
        examples=["no device is called pump-8: 'keyferry device list' shows those there are."],
    )
    errors: list[FieldProblem] | None = None


class Realm(Shape):
    """The state of the realm in numbers."""

    realm: str = Field(examples=["plant.example"])
    devices: int
    links: int = Field(description="Devices that are connected.")
    open_sessions: int
    waiting_approvals: int
    rules: int = Field(description="Pairs of `keyferry allow`.")
    policy: int | None = Field(description="The policy in force; null when none was applied.")
    policy_rules: int = Field(description="Rules of that policy.")
    admission: Literal["automatic", "approve"]


DeviceState = Literal["waiting", "enrolled", "expired", "revoked"]


class DeviceLine(Shape):
    """A device in a list."""

    name: Name
    added: Moment
    state: DeviceState = Field(description="What its newest certificate makes of it.")
    online: bool
    serial: Serial | None
    expires: Moment | None


class Certificate(Shape):
    """A certificate that was issued to a device."""

    serial: Serial
    not_before: Moment
    expires: Moment
    issued: Moment
    admission: Admission
    fingerprint: Digest
    revoked: Moment | None
    reason: Reason | None


class CertificateLine(Certificate):
    """The same, with its device."""

    name: Name


class CertificateDetails(CertificateLine):
    """The same, with the certificate itself."""

    der: str = Field(description="DER, in base64.")


class NewEndorsement(Shape):
    """What the realm's owner signed for a device, with a key that the manager does not have."""

    model_config = ConfigDict(extra="forbid")

    endorsement: str = Field(
        min_length=4,
        max_length=512,
        pattern=r"^[A-Za-z0-9+/]+={0,2}$",
        description="A COSE_Sign1, in base64.",
    )


class Endorsed(Shape):
    """The owner's endorsement of a device's key, as it is delivered from now on."""

    name: Name
    key: Digest
    expires: Moment | None


class FactoryLine(Shape):
    """A factory certificate that admits a device to enrolment."""

    serial: Serial
    expires: Moment


class TokenLine(Shape):
    """What became of a one-time token."""

    state: Literal["waiting", "used", "expired"]
    expires: Moment
    used: Moment | None


class DeviceDetails(Shape):
    """A device."""

    name: Name
    identity: str = Field(examples=["sip:pump-7@plant.example"])
    added: Moment
    state: DeviceState
    online: bool
    certificates: list[Certificate]
    factory: list[FactoryLine]
    tokens: list[TokenLine]
    agreement_key: str | None = Field(description="The kid of its key for the profile rpk.")
    may_ask: list[Name]
    asked_by: list[Name]


class Factory(Shape):
    """A factory certificate of this realm's factory CA, already made."""

    fingerprint: Digest
    serial: Serial
    not_after: int = Field(ge=0, le=MAX_TIME, description="Unix time.")


class NewDevice(Shape):
    """A device to add. It enrols with the token of the answer, unless another way is given."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"name": "pump-7", "seconds": 86400}]}
    )

    name: Name
    again: bool = Field(
        False, description="For a device that exists: its earlier ways to enrol end."
    )
    seconds: int | None = Field(
        None, ge=60, le=31 * 86400, description="Life of the token. Default: the settings'."
    )
    token_sha256: Digest | None = Field(
        None, description="SHA-256 of a token that you made; the answer has none then."
    )
    factory: Factory | None = Field(None, description="A factory identity in place of a token.")


class AddedDevice(Shape):
    """What was added."""

    name: Name
    expires: Moment
    token: str | None = Field(description="The one-time token: shown here, and never again.")


class RevocationOrder(Shape):
    """Why."""

    reason: Reason = Field("unspecified", description="Of RFC 5280.")


class Revocation(Shape):
    """An order to revoke. `done` is when the last link and session was closed."""

    id: int
    name: Name
    reason: Reason
    certificates: int
    ordered: Moment
    done: Moment | None
    links: int
    sessions: int
    seconds: float | None = Field(description="From the order to the last close.")


class Link(Shape):
    """A live link: the name that its certificate proved, and where from."""

    name: Name
    link: str
    address: str = Field(examples=["192.0.2.7:49152"])
    transport: str = Field(examples=["mqtt"])
    serial: Serial
    since: Moment
    addresses: list[str]
    registered_until: Moment | None


class Session(Shape):
    """A session, as the relay sees it."""

    session: str
    from_: Name = Field(alias="from")
    to: Name
    state: SessionState
    started: Moment
    ended: Moment | None
    reason: str
    messages: int
    bytes: int
    on_behalf_of: Name | None = Field(description="The third party that a gateway asked for.")


class Approval(Shape):
    """A first enrolment that waits, or waited, for a person."""

    which: int
    name: Name
    state: ApprovalState
    admission: Admission
    address: str
    asked: Moment
    decided: Moment | None
    key: Digest


class Decision(Shape):
    """A person's word."""

    approve: bool


class RuleLine(Shape):
    """A pair of `keyferry allow`."""

    from_: Name = Field(alias="from")
    to: Name
    since: Moment


class Rule(Shape):
    """A pair, and what its change means."""

    from_: Name = Field(alias="from")
    to: Name
    allowed: bool
    changed: bool
    unknown: list[Name] = Field(description="Names that no device has yet.")
    broken: list[str] = Field(description="Tests of the policy that are not kept any more.")


Source = Annotated[
    str,
    Field(
        pattern=LINE_PATTERN,
        max_length=4096,
        description="What the text is called in sentences.",
    ),
]
Note = Annotated[
    str,
    Field(
        pattern=LINE_PATTERN,
        min_length=1,
        max_length=255,
        description="Who or why, for the history.",
    ),
]
Pairs = Annotated[
    int, Field(ge=0, le=MAX_CHANGES, description="Most changed pairs that are answered.")
]


class PolicyText(Shape):
    """A policy file (docs/policy.md)."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"text": '[[allow]]\nfrom = "pump-*"\nto = "valve-1"\n'}],
        },
    )

    text: str = Field(max_length=MAX_FILE)
    source: Source = "policy.toml"


class PolicyCandidate(PolicyText):
    """A policy to compare with the one in force."""

    pairs: Pairs = 1000


class PolicyChange(PolicyCandidate):
    """A policy to bring into force."""

    note: Note | None = None


class PolicyCheck(Shape):
    """A policy that keeps its tests."""

    rules: int
    tests: int
    sha256: Digest
    unknown: list[Name] = Field(description="Names that no device has yet.")


class ChangedPair(Shape):
    """A pair that gains or loses access."""

    from_: Subject = Field(alias="from")
    to: Name
    gains: list[What]
    loses: list[What]


class EndingSession(Shape):
    """A session that loses its access."""

    session: str
    from_: Subject = Field(alias="from")
    to: Name


class PolicyDifference(Shape):
    """What a policy would change."""

    pairs: list[ChangedPair]
    more_pairs: bool
    sessions_ending: list[EndingSession]


class AppliedPolicy(Shape):
    """An entry of the policy's history."""

    id: int
    applied: Moment
    by: str
    sha256: Digest
    restores: int | None = Field(description="What a rollback brought back; 0 is no policy.")


class PolicyInForce(AppliedPolicy):
    """The same, with its text."""

    text: str


class PolicyApplied(AppliedPolicy):
    """What was applied, and what that changed."""

    changed: bool
    pairs: list[ChangedPair]
    more_pairs: bool
    sessions_ending: list[EndingSession]
    unknown: list[Name]


class RollbackOrder(Shape):
    """Where to go back to."""

    id: int | None = Field(
        None, ge=0, le=MAX_NUMBER, description="Of the history; 0 is none. Null: the one before."
    )
    note: Note | None = None
    pairs: Pairs = 1000


class PolicyRolledBack(AppliedPolicy):
    """What is in force again, and what that changed."""

    pairs: list[ChangedPair]
    more_pairs: bool
    sessions_ending: list[EndingSession]
    broken: list[str] = Field(description="Tests of that policy that are not kept today.")


class Question(Shape):
    """What may one do with the other?"""

    from_: Subject = Field(alias="from")
    to: Name
    text: str | None = Field(
        None, max_length=MAX_FILE, description="As if this were the policy in force."
    )
    source: Source = "policy.toml"


class Answer(Shape):
    """One decision, and why."""

    allowed: bool
    reason: str


class Explanation(Shape):
    """Every decision about two devices."""

    from_: Subject = Field(alias="from")
    to: Name
    decisions: dict[What, Answer]
    rules: list[str]
    unknown: list[Name]


class AuditLine(Shape):
    """A line of the audit trail."""

    id: int
    at: Moment
    event: str = Field(examples=["device-added"])
    outcome: Outcome
    name: str
    address: str
    detail: str
    fields: dict[str, Any] = Field(
        description="What else is known; `actor` is who changed something: `user:NAME` of the "
        "manager's machine, or `token:NAME`."
    )


TokenName = Annotated[
    str,
    Field(
        pattern=TOKEN_PATTERN,
        max_length=63,
        description="A token's name; it stands in the audit trail.",
        examples=["ci-deploy"],
    ),
]


class NewToken(Shape):
    """A token to make."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"name": "dashboard", "scopes": ["devices:read", "links:read"]}]
        },
    )

    name: TokenName
    scopes: list[ScopeName] = Field(min_length=1, max_length=len(SCOPES))
    seconds: int | None = Field(
        None, ge=60, le=366 * 86400, description="Its life. Default: 90 days."
    )


class Token(Shape):
    """A token, never itself."""

    name: TokenName
    scopes: list[ScopeName]
    state: Literal["valid", "expired"]
    created: Moment
    expires: Moment
    by: str = Field(description="Who made it.", examples=["user:ann"])


class MadeToken(Token):
    """A new token."""

    token: str = Field(description="The token: shown here, and never again.")
