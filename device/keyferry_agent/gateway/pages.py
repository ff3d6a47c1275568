"""What the gateway answers by HTTP, with Microdot.

    GET /                             the page
    GET /v1/destinations              {"third_party": …, "destinations": […]}
    GET /v1/NAME/data/PATH            the answer of a destination
    GET /v1/NAME/events/PATH          its stream, as server-sent events
    CONNECT NAME:PORT                 opaque.py

Errors are {"error": name, "text": sentence} with the status of docs/errors.md. Requests have no
body, and none changes anything at the gateway.
"""

import asyncio
import binascii
import gc

from microdot.microdot import (  # pyright: ignore[reportMissingImports]
    Microdot,
    Request,
    Response,
)

from keyferry_agent.gateway.exchange import ASK, TYPES, WATCH, Channel, check_path
from keyferry_agent.gateway.gateway import SESSION_SECONDS, Gateway, Refused
from keyferry_agent.gateway.listen import REQUEST_SECONDS, Connection
from keyferry_core.errors import KeyferryError, RemoteError
from keyferry_core.names import check_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

# Seconds without an event until a comment says that the stream lives.
HEARTBEAT = 15
# Seconds in which a stream's refusal is still an answer's status; later it is an event.
SOON = 2

_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


def server(gateway: Gateway) -> "Callable[[Connection], Awaitable[Any]]":
    """``serve(connection)`` for listen.Listener."""
    Request.max_content_length = 0
    Request.max_body_length = 0
    app = _application(gateway)

    async def serve(connection: Connection) -> None:
        gc.collect()
        try:
            making = Request.create(app, connection, connection, (connection.address, 0), "https")
            request = await asyncio.wait_for(making, REQUEST_SECONDS)
        except asyncio.TimeoutError:
            return
        except (ValueError, IndexError):
            await _failure(RemoteError("malformed")).write(connection)
            return
        if request is None:
            return
        try:
            if request.method == "CONNECT":
                await _opaque(gateway, connection, request)
            else:
                await (await app.dispatch_request(request)).write(connection)
        except KeyferryError:
            pass  # a reader that reads nothing, or a session that ended in the middle
        finally:
            if connection.channel is not None:
                await connection.channel.give_up()

    return serve


def _application(gateway: Gateway) -> "Any":
    app = Microdot()

    @app.get("/")
    async def index(request: "Any") -> "Any":
        from keyferry_agent.gateway import page

        answer = _answer(page.page(), "text/html; charset=utf-8")
        answer.headers["Content-Security-Policy"] = page.policy()
        request.sock[0].waiting = False
        return answer

    @app.get("/v1/destinations")
    async def destinations(request: "Any") -> "Any":
        try:
            party = _who(gateway, request)
        except KeyferryError as error:
            return _failure(error)
        found = Response({"third_party": party.name, "destinations": party.to})
        found.headers.update(_HEADERS)
        return found

    @app.get("/v1/<name>/data/<path:path>")
    async def data(request: "Any", name: str, path: str) -> "Any":
        try:
            channel = await _ask(gateway, request, name, path, ASK)
            kind = await _opened(channel)
        except KeyferryError as error:
            return _failure(error)
        answer = _answer(_Pieces(channel), TYPES[kind])
        if channel.length is not None:  # so that an answer that breaks off is seen to
            answer.headers["Content-Length"] = str(channel.length)
        return answer

    @app.get("/v1/<name>/events/<path:path>")
    async def events(request: "Any", name: str, path: str) -> "Any":
        try:
            channel = await _ask(gateway, request, name, path, WATCH)
            try:
                await asyncio.wait_for(channel.opened(), SOON)
            except asyncio.TimeoutError:
                pass  # a stream may have nothing to say yet
        except KeyferryError as error:
            return _failure(error)
        return _answer(_Events(channel), "text/event-stream")

    @app.errorhandler(404)
    async def missing(request: "Any") -> "Any":
        return _failure(RemoteError("unknown-name", "no such page"))

    @app.errorhandler(413)
    async def body(request: "Any") -> "Any":
        return _failure(RemoteError("too-large", "requests have no body"))

    return app


def _who(gateway: Gateway, request: "Any") -> "Any":
    # A browser shows a client certificate to any page's request, but says whose request it is.
    if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        raise Refused("access-denied", "a request of another site")
    return gateway.authenticate(request.sock[0], request.headers.get("Authorization", ""))


async def _ask(gateway: Gateway, request: "Any", name: str, path: str, kind: int) -> Channel:
    party = _who(gateway, request)
    check_name(name)
    check_path(path)
    gateway.permit(party, name)
    channel = await gateway.channel(party, name, kind, path.encode())
    request.sock[0].channel = channel
    return channel


async def _opened(channel: Channel) -> int:
    try:
        return await asyncio.wait_for(channel.opened(), SESSION_SECONDS)
    except asyncio.TimeoutError:
        raise RemoteError("timeout", "the destination does not answer") from None


class _Pieces:
    """The body of an answer: one piece at a time, so a slow reader holds up the destination."""

    def __init__(self, channel: Channel) -> None:
        self.channel: Any = channel

    def __aiter__(self) -> "_Pieces":
        return self

    async def __anext__(self) -> bytes:
        data = await self.channel.recv()
        if data is None:
            raise StopAsyncIteration
        return data

    async def aclose(self) -> None:
        await self.channel.give_up()


class _Events(_Pieces):
    """The body of a stream, as server-sent events (the HTML standard, section 9.2)."""

    async def __anext__(self) -> bytes:
        if self.channel is None:
            raise StopAsyncIteration
        try:
            await asyncio.wait_for(self.channel.wait(), HEARTBEAT)
            data = await self.channel.recv()
        except asyncio.TimeoutError:
            return b": \n\n"
        except KeyferryError as error:
            self.channel = None
            return b"event: error\ndata: " + error.name.encode() + b"\n\n"
        if data is None:
            raise StopAsyncIteration
        return event(data)

    async def aclose(self) -> None:
        if self.channel is not None:
            await self.channel.give_up()


def event(data: bytes) -> bytes:
    """``data`` as one event: text line by line, else ``event: bytes`` with it as hex."""
    try:
        data.decode()
    except UnicodeError:
        return b"event: bytes\ndata: " + binascii.hexlify(data) + b"\n\n"
    data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return b"data: " + data.replace(b"\n", b"\ndata: ") + b"\n\n"


def _answer(body: "Any", kind: str) -> "Any":
    answer = Response(body, 200, _HEADERS)
    answer.headers["Content-Type"] = kind
    return answer


def _failure(error: KeyferryError) -> "Any":
    """What a third party is told; the detail is for the gateway's own log."""
    status = 401 if error.name == "bad-credentials" else error.http_status
    answer = Response({"error": error.name, "text": error.text}, status, _HEADERS, error.name)
    answer.headers["Content-Type"] = "application/json"
    if status == 401:
        answer.headers["WWW-Authenticate"] = "Bearer"
    wait = getattr(error, "wait", 0)
    if wait:
        answer.headers["Retry-After"] = str(wait)
    return answer


async def _opaque(gateway: Gateway, connection: Connection, request: "Any") -> None:
    from keyferry_agent.gateway import opaque

    try:
        await opaque.connect(gateway, connection, request)
    except KeyferryError as error:
        answer = _failure(error)
        if answer.status_code == 401:  # RFC 9110, section 15.5.8
            answer.status_code = 407
            answer.headers["Proxy-Authenticate"] = 'Basic realm="gateway"'
        await answer.write(connection)
