"""What there is and what happens: the realm, links, sessions, approvals, the audit trail."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from keyferry_core.names import MAX_NAME
from keyferry_manager.api import schemas
from keyferry_manager.api.routes.kit import (
    DEFAULT_LIMIT,
    Asked,
    Cursor,
    DeviceQuery,
    Limit,
    right,
)

router = APIRouter()


@router.get(
    "/v1/realm",
    response_model=schemas.Realm,
    operation_id="get_realm",
    summary="The state of the realm in numbers",
    tags=["realm"],
    **right("realm:read"),
)
async def realm(asked: Asked) -> Any:
    return await asked.realm()


@router.get(
    "/v1/links",
    response_model=schemas.Page[schemas.Link],
    operation_id="list_links",
    summary="List live links, by name; at most a second late",
    tags=["links"],
    **right("links:read"),
)
async def links(asked: Asked, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> Any:
    return await asked.links(limit, cursor)


@router.get(
    "/v1/sessions",
    response_model=schemas.Page[schemas.Session],
    operation_id="list_sessions",
    summary="List sessions, newest first",
    tags=["sessions"],
    **right("sessions:read"),
)
async def sessions(
    asked: Asked,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
    device: DeviceQuery = None,
    open: Annotated[bool, Query(description="Only those that have not ended.")] = False,
) -> Any:
    return await asked.sessions(limit, cursor, device=device, open_only=open)


@router.get(
    "/v1/audit",
    response_model=schemas.Page[schemas.AuditLine],
    operation_id="list_audit",
    summary="Read the audit trail: newest first, or onwards from an entry",
    tags=["audit"],
    **right("audit:read"),
)
async def audit(
    asked: Asked,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
    device: DeviceQuery = None,
    event: Annotated[
        str | None,
        Query(
            pattern="^[a-z0-9-]+$",
            max_length=64,
            description="Only this event.",
            examples=["device-added"],
        ),
    ] = None,
    after: Annotated[
        int | None,
        Query(ge=0, le=schemas.MAX_NUMBER, description="Oldest first, from behind this entry."),
    ] = None,
) -> Any:
    return await asked.audit(limit, cursor, device=device, event=event, after=after)


@router.get(
    "/v1/approvals",
    response_model=schemas.Page[schemas.Approval],
    operation_id="list_approvals",
    summary="List first enrolments that wait, or waited, for a person; oldest first",
    tags=["approvals"],
    **right("approvals:read"),
)
async def approvals(asked: Asked, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> Any:
    return await asked.approvals(limit, cursor)


@router.post(
    "/v1/approvals/{which}/decision",
    response_model=schemas.Approval,
    operation_id="decide_approval",
    summary="Approve or deny a first enrolment",
    tags=["approvals"],
    **right("approvals:write", 404, 409, 400, 413),
)
async def decide(
    asked: Asked,
    which: Annotated[
        str,
        Path(
            pattern=schemas.NAME_PATTERN,
            max_length=MAX_NAME,
            description="Number of the request, or the device that has only one.",
            examples=["1"],
        ),
    ],
    decision: schemas.Decision,
) -> Any:
    return await asked.decide(which, decision.approve)
