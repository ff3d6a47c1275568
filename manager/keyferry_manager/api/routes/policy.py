"""Who may do what with whom: pairs of ``keyferry allow``, and the policy."""

import asyncio
import json
from typing import Any

from fastapi import APIRouter, Response

from keyferry_manager.api import schemas
from keyferry_manager.api.routes.kit import (
    DEFAULT_LIMIT,
    Asked,
    Cursor,
    Limit,
    PathName,
    PathNumber,
    right,
)

router = APIRouter(tags=["policy"])


async def _written(value: dict[str, Any]) -> Response:
    """An answer that may have thousands of pairs, written apart from the loop."""
    text = await asyncio.to_thread(_json, value)
    return Response(text, media_type="application/json")


def _json(value: dict[str, Any]) -> str:
    # One item at a time: the encoder lets no other thread go on while it writes a text.
    members = []
    for key, inner in value.items():
        if isinstance(inner, list):
            text = "[" + ",".join([json.dumps(item) for item in inner]) + "]"
        else:
            text = json.dumps(inner)
        members.append(f"{json.dumps(key)}:{text}")
    return "{" + ",".join(members) + "}"


@router.get(
    "/v1/rules",
    response_model=schemas.Page[schemas.RuleLine],
    operation_id="list_rules",
    summary="List the pairs of `keyferry allow`, by names",
    **right("policy:read"),
)
async def rules(asked: Asked, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> Any:
    return await asked.rules(limit, cursor)


@router.put(
    "/v1/rules/{initiator}/{responder}",
    response_model=schemas.Rule,
    operation_id="allow",
    summary="Let one device ask for another",
    **right("policy:write", 409),
)
async def allow(asked: Asked, initiator: PathName, responder: PathName) -> Any:
    return await asked.allow(initiator, responder)


@router.delete(
    "/v1/rules/{initiator}/{responder}",
    response_model=schemas.Rule,
    operation_id="disallow",
    summary="Take a pair away",
    **right("policy:write", 404, 409),
)
async def disallow(asked: Asked, initiator: PathName, responder: PathName) -> Any:
    return await asked.disallow(initiator, responder)


@router.get(
    "/v1/policy",
    response_model=schemas.PolicyInForce,
    operation_id="get_policy",
    summary="The policy in force",
    **right("policy:read", 404),
)
async def policy(asked: Asked) -> Any:
    return await asked.policy()


@router.put(
    "/v1/policy",
    response_model=schemas.PolicyApplied,
    operation_id="apply_policy",
    summary="Bring a policy into force, when it keeps its own tests",
    **right("policy:write", 409, 400, 413),
)
async def apply(asked: Asked, change: schemas.PolicyChange) -> Any:
    return await _written(
        await asked.policy_apply(change.text, change.source, note=change.note, pairs=change.pairs)
    )


@router.post(
    "/v1/policy/check",
    response_model=schemas.PolicyCheck,
    operation_id="check_policy",
    summary="Try a policy and the tests inside it",
    **right("policy:read", 400, 413),
)
async def check(asked: Asked, policy: schemas.PolicyText) -> Any:
    return await asked.policy_check(policy.text, policy.source)


@router.post(
    "/v1/policy/diff",
    response_model=schemas.PolicyDifference,
    operation_id="diff_policy",
    summary="Which pairs a policy would give access or take it from",
    **right("policy:read", 400, 413),
)
async def diff(asked: Asked, policy: schemas.PolicyCandidate) -> Any:
    return await _written(await asked.policy_diff(policy.text, policy.source, pairs=policy.pairs))


@router.post(
    "/v1/policy/rollback",
    response_model=schemas.PolicyRolledBack,
    operation_id="roll_back_policy",
    summary="Bring an earlier policy back into force, as a new entry of the history",
    **right("policy:write", 409, 400, 413),
)
async def rollback(asked: Asked, order: schemas.RollbackOrder) -> Any:
    return await _written(await asked.policy_rollback(order.id, note=order.note, pairs=order.pairs))


@router.get(
    "/v1/policy/history",
    response_model=schemas.Page[schemas.AppliedPolicy],
    operation_id="list_policies",
    summary="List the policies that were applied, newest first",
    **right("policy:read"),
)
async def history(asked: Asked, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> Any:
    return await asked.policy_history(limit, cursor)


@router.get(
    "/v1/policy/history/{number}",
    response_model=schemas.PolicyInForce,
    operation_id="get_applied_policy",
    summary="An applied policy with its text",
    **right("policy:read", 404),
)
async def applied(asked: Asked, number: PathNumber) -> Any:
    return await asked.policy(number)


@router.post(
    "/v1/policy/explain",
    response_model=schemas.Explanation,
    operation_id="explain_policy",
    summary="What one device may do with another, and which rule decides",
    **right("policy:read", 400, 413),
)
async def explain(asked: Asked, question: schemas.Question) -> Any:
    return await asked.policy_explain(question.from_, question.to, question.text, question.source)
