"""Clients of the admin API, and what holds its answers to their form."""

import contextlib
from collections.abc import Iterator
from typing import Any

import httpx

from keyferry_manager.api.problem import MEDIA_TYPE
from support.manager_kit import PAUSE, Home, Running


@contextlib.contextmanager
def local(home: Home) -> Iterator[httpx.Client]:
    """A client over the socket."""
    transport = httpx.HTTPTransport(uds=str(home.folder / "api.sock"))
    with httpx.Client(transport=transport, base_url="http://manager", timeout=PAUSE) as client:
        yield client


@contextlib.contextmanager
def remote(running: Running, token: str = "", **arguments: Any) -> Iterator[httpx.Client]:
    """A client over TCP."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    scheme = "https" if "verify" in arguments else "http"
    url = f"{scheme}://127.0.0.1:{running.manager.api_port}"
    with httpx.Client(base_url=url, headers=headers, timeout=PAUSE, **arguments) as client:
        yield client


def token(home: Home, *scopes: str, name: str = "robot", **body: Any) -> str:
    with local(home) as client:
        answer = client.post("/v1/tokens", json={"name": name, "scopes": list(scopes), **body})
        assert answer.status_code == 201, answer.text
        return answer.json()["token"]


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """A problem details answer, held to RFC 9457."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == MEDIA_TYPE
    value = answer.json()
    assert value["status"] == status
    assert value["code"] == code
    assert value["type"] == "about:blank"
    assert value["detail"]
    return value


def pages(client: httpx.Client, path: str, limit: int) -> Iterator[dict[str, Any]]:
    cursor = None
    for _ in range(1000):
        query = {"limit": limit} | ({"cursor": cursor} if cursor else {})
        page = client.get(path, params={**httpx.URL(path).params, **query}).json()
        assert len(page["items"]) <= limit
        yield from page["items"]
        cursor = page["next"]
        if cursor is None:
            return
    raise AssertionError("pages without end")
