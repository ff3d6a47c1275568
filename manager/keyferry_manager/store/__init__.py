"""The store: devices, certificates, tokens, rules, sessions and the audit trail.

``Store`` itself is imported when it is first asked for: SQLAlchemy takes most of a second, and
``keyferry --help`` and shell completion do not need it.
"""

from typing import TYPE_CHECKING, Any

from keyferry_manager.store.records import (
    Admission,
    AgreementKey,
    AllowRule,
    ApiToken,
    AppliedPolicy,
    Approval,
    ApprovalState,
    AuditEntry,
    Certificate,
    Device,
    FactoryIdentity,
    LinkRow,
    Outcome,
    Reason,
    RegistrationAuthority,
    Revocation,
    Revoked,
    SessionRow,
    SessionState,
    Token,
)

if TYPE_CHECKING:
    from keyferry_manager.store.store import Store

__all__ = [
    "Admission",
    "AgreementKey",
    "AllowRule",
    "ApiToken",
    "AppliedPolicy",
    "Approval",
    "ApprovalState",
    "AuditEntry",
    "Certificate",
    "Device",
    "FactoryIdentity",
    "LinkRow",
    "Outcome",
    "Reason",
    "RegistrationAuthority",
    "Revocation",
    "Revoked",
    "SessionRow",
    "SessionState",
    "Store",
    "Token",
]


def __getattr__(name: str) -> Any:
    if name == "Store":
        from keyferry_manager.store.store import Store

        return Store
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
