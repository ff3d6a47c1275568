"""Errors of the API: RFC 9457 problem details. Nothing of the inside is in them."""

import json
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from keyferry_manager.policy import PolicyProblem
from keyferry_manager.problems import Conflict, Forbidden, Invalid, NotFound, Problem

MEDIA_TYPE = "application/problem+json"
# What each status means here; the code is for programs, and never changes.
CODES = {
    400: ("malformed", "the body is not JSON"),
    401: ("token-required", "a token is needed, and this is none that holds"),
    403: ("forbidden", "the token does not have this scope"),
    404: ("not-found", "there is no such thing"),
    405: ("no-such-method", "this cannot be done to it"),
    409: ("conflict", "what is there stands against it"),
    413: ("too-large", "the body is larger than this takes"),
    422: ("invalid", "a value is not what it should be"),
    500: ("internal", "an error inside; the manager's log says more"),
    503: ("unavailable", "too much at once, or the database is away: try again"),
}


def status_of(problem: Problem) -> int:
    """The HTTP status that a problem of the services means."""
    if isinstance(problem, NotFound):
        return 404
    if isinstance(problem, Forbidden):
        return 403
    if isinstance(problem, Conflict):
        return 409
    if isinstance(problem, (Invalid, PolicyProblem)):
        return 422
    return 503


def answer(
    status: int,
    detail: str = "",
    *,
    errors: Iterable[Mapping[str, str]] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem details response. ``errors`` name values and what is wrong with them."""
    code, default = CODES.get(status, ("error", ""))
    value: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail or default,
    }
    listed = [dict(item) for item in errors]
    if listed:
        value["errors"] = listed
    sent = dict(headers or {})
    if status == 401:
        sent["WWW-Authenticate"] = 'Bearer realm="keyferry"'
    body = json.dumps(value, ensure_ascii=True).encode()
    return Response(body, status, sent, media_type=MEDIA_TYPE)
