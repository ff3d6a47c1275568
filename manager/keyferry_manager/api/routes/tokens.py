"""Tokens of this API."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Response

from keyferry_manager.api import schemas
from keyferry_manager.api.routes.kit import DEFAULT_LIMIT, Asked, Cursor, Limit, right

router = APIRouter(tags=["tokens"])


@router.get(
    "/v1/tokens",
    response_model=schemas.Page[schemas.Token],
    operation_id="list_tokens",
    summary="List tokens, by name; never themselves",
    **right("tokens:read"),
)
async def tokens(asked: Asked, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> Any:
    return await asked.api_tokens(limit, cursor)


@router.post(
    "/v1/tokens",
    response_model=schemas.MadeToken,
    status_code=201,
    operation_id="add_token",
    summary="Make a token, with no more rights than one's own",
    **right("tokens:write", 409, 400, 413),
)
async def add_token(asked: Asked, response: Response, token: schemas.NewToken) -> Any:
    made = await asked.add_api_token(token.name, token.scopes, token.seconds)
    response.headers["Cache-Control"] = "no-store"
    return made


@router.delete(
    "/v1/tokens/{name}",
    status_code=204,
    response_class=Response,
    operation_id="remove_token",
    summary="End a token, but not the one that asks",
    **right("tokens:write", 404, 409),
)
async def remove_token(
    asked: Asked,
    name: Annotated[
        str,
        Path(
            pattern=schemas.TOKEN_PATTERN,
            max_length=63,
            description="A token's name.",
            examples=["ci-deploy"],
        ),
    ],
) -> Response:
    await asked.remove_api_token(name)
    return Response(status_code=204)
