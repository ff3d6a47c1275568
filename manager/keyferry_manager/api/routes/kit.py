"""What the routes share: the service of a request, its scope, pages, and how errors are shown."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request

from keyferry_core.names import MAX_NAME
from keyferry_manager.admin.paging import MAX_CURSOR, MAX_PAGE, PAGE
from keyferry_manager.admin.scopes import SCOPES
from keyferry_manager.admin.service import Rights, Service
from keyferry_manager.api import schemas
from keyferry_manager.api.problem import CODES, MEDIA_TYPE
from keyferry_manager.problems import Forbidden

SCHEME = "token"


async def service_of(request: Request) -> Service:
    """The service, on behalf of whoever asks."""
    state = request.app.state
    return Service(state.config, state.store, request.scope["keyferry.rights"])


Asked = Annotated[Service, Depends(service_of)]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Most rows of this page.")]
Cursor = Annotated[
    str | None,
    Query(
        pattern="^[A-Za-z0-9_-]*$",
        max_length=MAX_CURSOR,
        description="`next` of the page before. Leave it out for the first.",
    ),
]
DeviceQuery = Annotated[
    str | None,
    Query(pattern=schemas.NAME_PATTERN, max_length=MAX_NAME, description="Of this device only."),
]
PathName = Annotated[
    str,
    Path(
        pattern=schemas.NAME_PATTERN,
        max_length=MAX_NAME,
        description="A device's name.",
        examples=["pump-7"],
    ),
]
PathSerial = Annotated[
    str,
    Path(
        pattern=schemas.SERIAL_PATTERN,
        description="A certificate's serial.",
        examples=["0f8a4c6e2b1d3f5a7c9e0b2d4f6a8c0e"],
    ),
]
PathNumber = Annotated[int, Path(ge=1, le=schemas.MAX_NUMBER, examples=[1])]
DEFAULT_LIMIT = PAGE


def right(scope: str, *statuses: int) -> dict[str, Any]:
    """The arguments of a route that needs ``scope`` and may answer ``statuses`` too."""
    assert scope in SCOPES
    errors = sorted({401, 403, 405, 422, 500, 503, *statuses})
    return {
        "dependencies": [Depends(_require(scope))],
        "openapi_extra": {"security": [{SCHEME: [scope]}]},
        "responses": {status: _error(status) for status in errors},
    }


def _require(scope: str) -> Callable[[Request], Awaitable[None]]:
    async def check(request: Request) -> None:
        rights: Rights = request.scope["keyferry.rights"]
        if rights.scopes is not None and scope not in rights.scopes:
            request.scope["keyferry.refused"](f"{request.method} {request.url.path}: {scope}")
            raise Forbidden(f"this needs the scope {scope}, which the token does not have.")

    return check


def _error(status: int) -> dict[str, Any]:
    code, text = CODES[status]
    shown: dict[str, Any] = {
        "description": f"`{code}`: {text}.",
        "content": {
            MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}},
        },
    }
    if status == 401:
        shown["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}, "required": True}}
    return shown
