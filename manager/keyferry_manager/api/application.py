"""The API as an ASGI application, and its OpenAPI document."""

import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from sqlalchemy.exc import IntegrityError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from keyferry_manager.admin.scopes import SCOPES
from keyferry_manager.api import schemas
from keyferry_manager.api.problem import answer, status_of
from keyferry_manager.api.routes import ROUTERS
from keyferry_manager.api.routes.kit import SCHEME
from keyferry_manager.problems import Problem

VERSION = "1.0"
DOCUMENT = "/v1/openapi.json"
_DESCRIPTION = """\
What an operator can ask of a Keyferry manager and order it to do. Errors are RFC 9457 problem
details. Lists come in pages: ask again with `cursor` set to the answer's `next`.

Over TCP each request carries a token (`keyferry token add`) with the scope that the operation
names. Over the Unix socket in the manager's home none is needed.
"""
_TAGS = {
    "realm": "the realm as a whole",
    "devices": "names, and how they enrol",
    "certificates": "what was issued, and its end",
    "links": "who is connected",
    "sessions": "who has keys with whom",
    "policy": "who may do what with whom",
    "approvals": "first enrolments that wait for a person",
    "audit": "what happened",
    "tokens": "who may use this API over TCP",
}


def application(config: Any, store: Any) -> FastAPI:
    """The application on a store. It asks nobody who they are: guard.py does."""
    app = FastAPI(
        title="Keyferry admin API",
        version=VERSION,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.config = config
    app.state.store = store
    for router in ROUTERS:
        app.include_router(router)
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(IntegrityError, _conflict)
    app.add_exception_handler(Exception, _internal)
    described = document(app)
    app.state.methods = [
        (re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), [name.upper() for name in methods])
        for path, methods in described["paths"].items()
    ]

    @app.get(DOCUMENT, include_in_schema=False)
    async def openapi() -> Response:
        return JSONResponse(described)

    return app


def document(app: FastAPI | None = None) -> dict[str, Any]:
    """The OpenAPI 3.1 document; of a new application where none is given."""
    app = app or application(None, None)
    made = get_openapi(
        title=app.title,
        version=app.version,
        description=_DESCRIPTION,
        routes=app.routes,
        tags=[{"name": name, "description": text} for name, text in _TAGS.items()],
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    components = made.setdefault("components", {})
    problem = schemas.ProblemDetails.model_json_schema(ref_template="#/components/schemas/{model}")
    components["schemas"].update(problem.pop("$defs"))
    components["schemas"]["ProblemDetails"] = problem
    for unused in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(unused, None)
    listed = "\n".join(f"- `{scope}`: {text}" for scope, text in SCOPES.items())
    components["securitySchemes"] = {
        SCHEME: {
            "type": "http",
            "scheme": "bearer",
            "description": f"A token of `keyferry token add`, with scopes:\n\n{listed}",
        }
    }
    return made


async def _problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return answer(status_of(error), str(error))


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(item["type"] == "json_invalid" for item in found):
        return answer(400)
    # Where and what; never the value, which may be a secret.
    errors = [
        {"where": ".".join(str(part) for part in item["loc"])[:200], "detail": item["msg"][:300]}
        for item in found[:20]
    ]
    return answer(422, errors=errors)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        # All that can be done to it: each route by itself names only its own method.
        for path, methods in request.app.state.methods:
            if path.fullmatch(request.url.path):
                headers["Allow"] = ", ".join(methods)
    return answer(error.status_code, headers=headers)


async def _conflict(_request: Request, _error: Exception) -> Response:
    return answer(409, "something else has this already.")


async def _internal(_request: Request, _error: Exception) -> Response:
    return answer(500)  # guard.py gets the exception too, for the log
