"""``/metrics``, ``/healthz`` and ``/readyz``, over plain HTTP on a listener of their own.

It tells numbers and words, of no device. Its address is this machine's by default: whoever opens it
to a network puts a proxy with TLS, or a firewall, before it.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
# Seconds for which an answer about readiness stands: whoever asks fast asks the database no faster.
_READY_FOR = 1.0

# Reasons why the manager is not ready; an empty list when it is.
Ready = Callable[[], Awaitable[list[str]]]


class ObserveApp:
    """The ASGI application."""

    def __init__(self, metrics: Callable[[], bytes], ready: Ready) -> None:
        self._metrics = metrics
        self._ready = ready
        self._asked_at = -1e9
        self._reasons: list[str] = []
        self._asking = asyncio.Lock()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        path, method = scope["path"], scope["method"]
        status, kind, extra = 200, b"application/json", []
        if path not in ("/metrics", "/healthz", "/readyz"):
            status, body = 404, _json({"error": "not-found"})
        elif method not in ("GET", "HEAD"):
            status, body, extra = 405, _json({"error": "method"}), [(b"allow", b"GET, HEAD")]
        elif path == "/metrics":
            kind, body = METRICS_TYPE, self._metrics()
        elif path == "/healthz":
            body = _json({"alive": True})
        else:
            reasons = await self._reasons_now()
            status = 503 if reasons else 200
            body = _json({"ready": not reasons, "reasons": reasons})
        headers = [
            (b"content-type", kind),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
            *extra,
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})

    async def _reasons_now(self) -> list[str]:
        async with self._asking:
            if time.monotonic() - self._asked_at >= _READY_FOR:
                self._reasons = await self._ready()
                self._asked_at = time.monotonic()
            return self._reasons


class Counted:
    """An ASGI application around another one: says path, status and seconds of each request."""

    def __init__(self, app: Any, count: Callable[[str, int, float], None]) -> None:
        self._app = app
        self._count = count

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass one request on."""
        began, status = time.perf_counter(), 0

        async def sending(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            self._count(scope.get("path", ""), status, time.perf_counter() - began)


def _json(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"
