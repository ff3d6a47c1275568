"""In front of every request: who asks, and what it may cost. An ASGI application around another.

A token is looked up before anything else is read, so that a stranger's bytes are never held.
"""

import asyncio
import logging
import os
import pwd
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import DBAPIError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from keyferry_manager.admin.service import Rights, api_token_hash, is_api_token
from keyferry_manager.api.problem import answer
from keyferry_manager.carriers.tls import ChannelPeer
from keyferry_manager.logs import log
from keyferry_manager.policy.document import MAX_FILE
from keyferry_manager.store.api_tokens import ApiTokens

_LOG = logging.getLogger("keyferry.api")
# Bytes of a body; a policy in JSON has most of its characters once, some twice.
_MAX_BODY = 64 * 1024
_MAX_POLICY = 2 * MAX_FILE + 4096
# Requests under way at once on one listener, and the seconds that one may take: until its body is
# there, and in all.
_AT_ONCE = 16
_BODY_SECONDS = 15.0
_SECONDS = 60.0

Refused = Callable[[str, str, str, str], None]


@dataclass(frozen=True, slots=True)
class LocalPeer(ChannelPeer):
    """A process on this machine, as the kernel named it."""

    uid: int = -1

    @property
    def user(self) -> str:
        """The user's name."""
        return user_name(self.uid)


def user_name(uid: int | None = None) -> str:
    """The name of a user of this machine; ours without ``uid``."""
    number = os.geteuid() if uid is None else uid
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


class _TooLarge(Exception):
    pass


class _TooSlow(Exception):
    pass


class Guard:
    """``refused(event, name, address, detail)`` hears of requests without a right."""

    def __init__(self, app: ASGIApp, tokens: ApiTokens, refused: Refused) -> None:
        self._app = app
        self._tokens = tokens
        self._refused = refused
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        if self._running >= _AT_ONCE:
            busy = answer(503, "too many requests at once.", headers={"Retry-After": "1"})
            await busy(scope, receive, send)
            return
        self._running += 1
        try:
            async with asyncio.timeout(_SECONDS):
                response = await self._guarded(scope, receive, sending)
        except TimeoutError:
            log(_LOG, logging.WARNING, "api-timeout", path=scope["path"])
            response = answer(503, "the answer took too long.")
        except (DBAPIError, OSError) as error:
            log(_LOG, logging.ERROR, "api-database", path=scope["path"], error=type(error).__name__)
            response = answer(503, "the database did not answer: try again.")
        except Exception:  # whatever it was: the operator's log has it, the client has not
            _LOG.exception("api-failed")
            response = answer(500)
        finally:
            self._running -= 1
        if response is not None and not started:
            await response(scope, receive, send)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> Any:
        peer = scope["extensions"]["keyferry"]["peer"]
        rights = await self._rights(peer, scope)
        if rights is None:
            self._refused("api-refused", "", peer.address, "no token that holds")
            return answer(401)
        scope["keyferry.rights"] = rights
        scope["keyferry.refused"] = lambda detail: self._refused(
            "api-refused", rights.actor, peer.address, detail
        )
        limit = _MAX_POLICY if scope["path"].startswith("/v1/policy") else _MAX_BODY
        try:
            body = await _body(scope, receive, limit)
        except _TooLarge:
            return answer(413, f"the body is larger than {limit} bytes.")
        except _TooSlow:
            return answer(503, "the body did not arrive in time.")
        if body is None:
            return None
        await self._app(scope, _replayed(body, receive), send)
        return None

    async def _rights(self, peer: ChannelPeer, scope: Scope) -> Rights | None:
        if isinstance(peer, LocalPeer):
            return Rights(f"user:{peer.user}")
        stated = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(stated) != 1:
            return None
        match = re.fullmatch(rb"(?i:bearer) +([\x21-\x7e]+)", stated[0])
        if match is None or not is_api_token(text := match[1].decode()):
            return None
        # Looked up by its hash: how long that takes says nothing of a token that somebody lacks.
        token = await self._tokens.valid(api_token_hash(text))
        if token is None:
            return None
        return Rights(f"token:{token.name}", frozenset(token.scopes), token.expires_at)


async def _body(scope: Scope, receive: Receive, limit: int) -> bytes | None:
    """The whole body; None when the client went away."""
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > limit:
            raise _TooLarge
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    return None
                body += message.get("body", b"")
                if len(body) > limit:
                    raise _TooLarge
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise _TooSlow from None


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
