"""Records of the store as the JSON values that the command line and the admin API show."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from keyferry_manager.store.records import (
    AllowRule,
    ApiToken,
    AppliedPolicy,
    Approval,
    AuditEntry,
    Certificate,
    LinkRow,
    Revocation,
    Revoked,
    SessionRow,
    Token,
)

_TRANSPORTS = {1: "mqtt", 2: "sip"}


def utc(seconds: float | None) -> str | None:
    """A time for scripts: RFC 3339, UTC, whole seconds."""
    if seconds is None:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def seconds(text: str | None) -> float | None:
    """The Unix time of such a text."""
    if text is None:
        return None
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()


def state(certificate: Certificate | None, now: float, revoked: Mapping[str, Revoked]) -> str:
    """What a device's newest certificate makes of it."""
    if certificate is None:
        return "waiting"
    if certificate.serial in revoked:
        return "revoked"
    return "enrolled" if certificate.not_after > now else "expired"


def device(
    name: str,
    added: float,
    latest: Certificate | None,
    now: float,
    revoked: Mapping[str, Revoked],
    online: bool,
) -> dict[str, Any]:
    """A line of the list of devices."""
    return {
        "name": name,
        "added": utc(added),
        "state": state(latest, now, revoked),
        "online": online,
        "serial": latest.serial if latest else None,
        "expires": utc(latest.not_after if latest else None),
    }


def certificate(item: Certificate, revoked: Revoked | None) -> dict[str, Any]:
    """A certificate of a device that is named already."""
    return {
        "serial": item.serial,
        "not_before": utc(item.not_before),
        "expires": utc(item.not_after),
        "issued": utc(item.issued_at),
        "admission": item.admission,
        "fingerprint": item.fingerprint,
        "revoked": utc(revoked.revoked_at) if revoked else None,
        "reason": revoked.reason if revoked else None,
    }


def enrolment_token(item: Token, now: float) -> dict[str, Any]:
    """A one-time token of a device: what became of it, never itself."""
    state = "used" if item.used_at else "expired" if item.expires_at <= now else "waiting"
    return {"state": state, "expires": utc(item.expires_at), "used": utc(item.used_at)}


def revocation(order: Revocation) -> dict[str, Any]:
    """An order to revoke, and what became of it."""
    done = order.done_at
    return {
        "id": order.id,
        "name": order.device,
        "reason": order.reason,
        "certificates": order.certificates,
        "ordered": utc(order.ordered_at),
        "done": utc(done),
        "links": order.links,
        "sessions": order.sessions,
        "seconds": None if done is None else round(max(0.0, done - order.ordered_at), 3),
    }


def link(row: LinkRow) -> dict[str, Any]:
    """A live link."""
    return {
        "name": row.name,
        "link": row.link,
        "address": row.address,
        "transport": _TRANSPORTS.get(row.transport, str(row.transport)),
        "serial": row.serial,
        "since": utc(row.since),
        "addresses": list(row.addresses),
        "registered_until": utc(row.registered_until),
    }


def session(row: SessionRow) -> dict[str, Any]:
    """A session, as the relay sees it."""
    return {
        "session": row.session,
        "from": row.initiator,
        "to": row.responder,
        "state": row.state,
        "started": utc(row.started_at),
        "ended": utc(row.ended_at),
        "reason": row.end_reason,
        "messages": row.messages,
        "bytes": row.octets,
        "on_behalf_of": row.on_behalf_of,
    }


def approval(item: Approval) -> dict[str, Any]:
    """A first enrolment that waits, or waited."""
    return {
        "which": item.id,
        "name": item.device,
        "state": item.state,
        "admission": item.admission,
        "address": item.address,
        "asked": utc(item.asked_at),
        "decided": utc(item.decided_at),
        "key": item.key,
    }


def rule(item: AllowRule) -> dict[str, Any]:
    """A pair of ``keyferry allow``."""
    return {"from": item.initiator, "to": item.responder, "since": utc(item.created_at)}


def audit(entry: AuditEntry) -> dict[str, Any]:
    """A line of the audit trail."""
    return {
        "id": entry.id,
        "at": utc(entry.at),
        "event": entry.event,
        "outcome": entry.outcome,
        "name": entry.name,
        "address": entry.address,
        "detail": entry.detail,
        "fields": dict(entry.fields),
    }


def applied(policy: AppliedPolicy) -> dict[str, Any]:
    """An entry of the policy's history, without its text."""
    return {
        "id": policy.id,
        "applied": utc(policy.applied_at),
        "by": policy.applied_by,
        "sha256": policy.sha256,
        "restores": policy.restores,
    }


def api_token(token: ApiToken, now: float) -> dict[str, Any]:
    """A token of the admin API, never itself."""
    return {
        "name": token.name,
        "scopes": list(token.scopes),
        "state": "valid" if token.expires_at > now else "expired",
        "created": utc(token.created_at),
        "expires": utc(token.expires_at),
        "by": token.created_by,
    }
