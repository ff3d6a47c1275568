"""The same operations as ``Service``, asked of a running manager over its API.

Over the socket in its home, without a token: the kernel says who asks.
"""

import contextlib
import socket
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from keyferry_core.errors import DecodeError
from keyferry_core.names import check_name
from keyferry_manager.admin.paging import PAGE
from keyferry_manager.api.address import SOCKET_NAME, short_path
from keyferry_manager.policy.document import FILE_NAME
from keyferry_manager.problems import NotFound, Problem

# Seconds for an answer; a policy of a megabyte takes some.
_SECONDS = 90.0
_MAX_PAIRS = 20_000


class Gone(Problem):
    """The manager does not answer any more."""


class Remote:
    """A client of one manager. ``connected`` makes one, where a manager serves the home."""

    def __init__(self, client: httpx.AsyncClient, stack: contextlib.ExitStack) -> None:
        self._client = client
        self._stack = stack

    @classmethod
    def connected(cls, home: Path) -> Self | None:
        """A client over the socket of ``home``; None when nobody listens there."""
        path = home.absolute() / SOCKET_NAME
        with contextlib.ExitStack() as stack:
            name = stack.enter_context(short_path(path))
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                    probe.settimeout(5.0)
                    probe.connect(name)
            except OSError:
                return None
            transport = httpx.AsyncHTTPTransport(uds=name)
            # The host only names the manager in HTTP's own header: the socket is the address.
            client = httpx.AsyncClient(
                transport=transport, base_url="http://manager", timeout=_SECONDS, trust_env=False
            )
            return cls(client, stack.pop_all())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.aclose()
        self._stack.close()

    # the realm

    async def realm(self) -> dict[str, Any]:
        return await self._get("/v1/realm")

    # devices

    async def devices(self, limit: int = PAGE, cursor: str | None = None) -> dict[str, Any]:
        return await self._get("/v1/devices", limit=limit, cursor=cursor)

    async def device(self, name: str) -> dict[str, Any]:
        return await self._get(f"/v1/devices/{name}")

    async def add_device(
        self,
        name: str,
        *,
        again: bool = False,
        seconds: int | None = None,
        token_sha256: str | None = None,
        factory: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        body = {
            "name": name,
            "again": again,
            "seconds": seconds,
            "token_sha256": token_sha256,
            "factory": factory,
        }
        return await self._send("POST", "/v1/devices", body)

    async def endorse(self, name: str, endorsement: str) -> dict[str, Any]:
        body = {"endorsement": endorsement}
        return await self._send("PUT", f"/v1/devices/{name}/endorsement", body)

    # certificates

    async def certificates(
        self, limit: int = PAGE, cursor: str | None = None, *, device: str | None = None
    ) -> dict[str, Any]:
        return await self._get("/v1/certificates", limit=limit, cursor=cursor, device=device)

    async def certificate(self, serial: str) -> dict[str, Any]:
        return await self._get(f"/v1/certificates/{serial}")

    async def revoke(
        self, reason: str, *, device: str = "", serial: str = "", remove: bool = False
    ) -> dict[str, Any]:
        if remove:
            return await self._send("DELETE", f"/v1/devices/{device}", None, reason=reason)
        what = f"certificates/{serial}" if serial else f"devices/{device}"
        return await self._send("POST", f"/v1/{what}/revocation", {"reason": reason})

    async def revocation(self, number: int) -> dict[str, Any]:
        return await self._get(f"/v1/revocations/{number}")

    # what happens now

    async def links(self, limit: int = PAGE, cursor: str | None = None) -> dict[str, Any]:
        return await self._get("/v1/links", limit=limit, cursor=cursor)

    async def sessions(
        self,
        limit: int = PAGE,
        cursor: str | None = None,
        *,
        device: str | None = None,
        open_only: bool = False,
    ) -> dict[str, Any]:
        only = "true" if open_only else None
        return await self._get("/v1/sessions", limit=limit, cursor=cursor, device=device, open=only)

    async def audit(
        self,
        limit: int = PAGE,
        cursor: str | None = None,
        *,
        device: str | None = None,
        event: str | None = None,
        after: int | None = None,
    ) -> dict[str, Any]:
        return await self._get(
            "/v1/audit", limit=limit, cursor=cursor, device=device, event=event, after=after
        )

    async def approvals(self, limit: int = PAGE, cursor: str | None = None) -> dict[str, Any]:
        return await self._get("/v1/approvals", limit=limit, cursor=cursor)

    async def decide(self, which: str, approve: bool) -> dict[str, Any]:
        try:
            check_name(which)  # a number is one too; what is none must not become a path
        except DecodeError:
            raise NotFound(
                f"nothing of {which} waits for approval: 'keyferry approvals list' shows what does."
            ) from None
        return await self._send("POST", f"/v1/approvals/{which}/decision", {"approve": approve})

    # rules

    async def rules(self, limit: int = PAGE, cursor: str | None = None) -> dict[str, Any]:
        return await self._get("/v1/rules", limit=limit, cursor=cursor)

    async def allow(self, initiator: str, responder: str) -> dict[str, Any]:
        return await self._send("PUT", f"/v1/rules/{initiator}/{responder}")

    async def disallow(self, initiator: str, responder: str) -> dict[str, Any]:
        return await self._send("DELETE", f"/v1/rules/{initiator}/{responder}")

    # the policy

    async def policy(self, number: int | None = None) -> dict[str, Any]:
        return await self._get("/v1/policy" if number is None else f"/v1/policy/history/{number}")

    async def policy_history(self, limit: int = PAGE, cursor: str | None = None) -> dict[str, Any]:
        return await self._get("/v1/policy/history", limit=limit, cursor=cursor)

    async def policy_check(self, text: str, source: str = FILE_NAME) -> dict[str, Any]:
        return await self._send("POST", "/v1/policy/check", {"text": text, "source": source})

    async def policy_diff(
        self, text: str, source: str = FILE_NAME, *, pairs: int = _MAX_PAIRS
    ) -> dict[str, Any]:
        body = {"text": text, "source": source, "pairs": pairs}
        return await self._send("POST", "/v1/policy/diff", body)

    async def policy_apply(
        self,
        text: str,
        source: str = FILE_NAME,
        *,
        note: str | None = None,
        pairs: int = _MAX_PAIRS,
    ) -> dict[str, Any]:
        body = {"text": text, "source": source, "note": note, "pairs": pairs}
        return await self._send("PUT", "/v1/policy", body)

    async def policy_rollback(
        self, number: int | None = None, *, note: str | None = None, pairs: int = _MAX_PAIRS
    ) -> dict[str, Any]:
        body = {"id": number, "note": note, "pairs": pairs}
        return await self._send("POST", "/v1/policy/rollback", body)

    async def policy_explain(
        self, initiator: str, responder: str, text: str | None = None, source: str = FILE_NAME
    ) -> dict[str, Any]:
        body = {"from": initiator, "to": responder, "text": text, "source": source}
        return await self._send("POST", "/v1/policy/explain", body)

    # tokens of the API

    async def api_tokens(self, limit: int = PAGE, cursor: str | None = None) -> dict[str, Any]:
        return await self._get("/v1/tokens", limit=limit, cursor=cursor)

    async def add_api_token(
        self, name: str, scopes: Iterable[str], seconds: int | None = None
    ) -> dict[str, Any]:
        body = {"name": name, "scopes": list(scopes), "seconds": seconds}
        return await self._send("POST", "/v1/tokens", body)

    async def remove_api_token(self, name: str) -> None:
        await self._send("DELETE", f"/v1/tokens/{name}")

    # inside

    async def _get(self, path: str, **query: Any) -> Any:
        return await self._send("GET", path, None, **query)

    async def _send(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        asked = {key: value for key, value in query.items() if value is not None}
        try:
            response = await self._client.request(method, path, params=asked, json=body)
        except httpx.TimeoutException:
            raise Problem(
                "the manager did not answer in time: its log says what it does."
            ) from None
        except httpx.TransportError:
            raise Gone("the manager stopped while it was asked: try again.") from None
        if response.is_success:
            return response.json() if response.content else None
        raise Problem(_sentence(response))


def _sentence(response: httpx.Response) -> str:
    """What a problem says, in one sentence with the values that it is about."""
    try:
        value = response.json()
        detail = str(value["detail"])
        errors = [f"{item['where']}: {item['detail']}" for item in value.get("errors") or []]
    except (ValueError, KeyError, TypeError):
        return f"the manager answered {response.status_code}: its log may say more."
    return f"{detail}: {'; '.join(errors)}." if errors else detail
