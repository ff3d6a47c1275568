"""The admin API: who may ask, where, and what it costs."""

import contextlib
import os
import socket
import sqlite3
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from keyferry_manager.admin.scopes import SCOPES
from keyferry_manager.admin.service import Service
from keyferry_manager.api import guard, listeners
from keyferry_manager.problems import ConfigProblem
from support.api_client import local, problem, remote, token
from support.manager_kit import PAUSE, Home, Running, until

NOBODY = 65534


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", api_listen="127.0.0.1:0")


# who may ask


def test_the_socket_is_private_and_goes_with_the_manager(home: Home):
    path = home.folder / "api.sock"
    with home.running():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with local(home) as client:
            assert client.get("/v1/realm").json()["realm"] == "plant.example"
    assert not path.exists()


def test_another_user_of_the_machine_is_refused(
    home: Home, running: Running, monkeypatch: pytest.MonkeyPatch
):
    path = home.folder / "api.sock"
    if os.geteuid() == 0:
        # Even where the modes would let somebody through, the kernel says who it is.
        home.folder.chmod(0o711)
        path.chmod(0o666)
        program = (
            "import os, socket\n"
            f"os.chdir({str(home.folder)!r}); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
            "s = socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect('api.sock')\n"
            "try:\n"
            "    s.sendall(b'GET /v1/realm HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')\n"
            "    print(s.recv(100))\n"
            "except ConnectionError: print(b'')\n"
        )
        said = subprocess.run(
            # Without site: 'make coverage' would start there, and could not write as this user.
            [sys.executable, "-S", "-c", program],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (said.stdout, said.stderr) == ("b''\n", "")
    else:
        monkeypatch.setattr(listeners.os, "geteuid", lambda: NOBODY)
        with local(home) as client, pytest.raises(httpx.TransportError):
            client.get("/v1/realm")
        monkeypatch.undo()
    assert home.audit("api-refused", "is not the manager's")


def test_over_tcp_nothing_is_said_without_a_token(home: Home, running: Running):
    paths = ["/v1/realm", "/v1/devices", "/v1/openapi.json", "/nothing/here", "/"]
    good = token(home, "realm:read")
    expired = token(home, "realm:read", name="old", seconds=60)
    home.store(lambda store: _expire(store, "old"))
    wrong = [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {good}"},
        # One of 16 tokens ends with A.
        {"Authorization": f"Bearer {good[:-1]}{'E' if good.endswith('A') else 'A'}"},
        {"Authorization": f"Bearer {good} {good}"},
        {"Authorization": "Bearer kfa_" + "A" * 43},
        {"Authorization": "Bearer " + "x" * 8000},
        {"Authorization": f"Bearer {expired}"},
    ]
    with remote(running) as client:
        for path in paths:
            for headers in wrong:
                answer = client.get(path, headers=headers)
                problem(answer, 401, "token-required")
                assert answer.headers["www-authenticate"].startswith("Bearer")
        assert client.get(paths[0], headers={"Authorization": f"Bearer {good}"}).is_success
    assert home.audit("api-refused", "no token that holds")


async def _expire(store: Any, name: str) -> None:
    from sqlalchemy import update

    from keyferry_manager.store import tables

    table = tables.api_tokens
    async with store._writing.begin() as connection:
        await connection.execute(
            update(table).where(table.c.name == name).values(expires_at=int(time.time()))
        )


def test_a_token_opens_what_its_scope_says_and_nothing_else(home: Home, running: Running):
    reads = {
        "realm:read": "/v1/realm",
        "devices:read": "/v1/devices",
        "certificates:read": "/v1/certificates",
        "links:read": "/v1/links",
        "sessions:read": "/v1/sessions",
        "policy:read": "/v1/rules",
        "approvals:read": "/v1/approvals",
        "audit:read": "/v1/audit",
        "tokens:read": "/v1/tokens",
    }
    assert set(reads) == {scope for scope in SCOPES if scope.endswith(":read")}
    for number, scope in enumerate(reads):
        with remote(running, token(home, scope, name=f"reader-{number}")) as client:
            for other, path in reads.items():
                answer = client.get(path)
                if other == scope:
                    assert answer.status_code == 200
                else:
                    assert other in problem(answer, 403, "forbidden")["detail"]
    writes: list[tuple[str, str, str, Any]] = [
        ("devices:write", "POST", "/v1/devices", {"name": "pump-7"}),
        ("certificates:revoke", "DELETE", "/v1/devices/pump-7", None),
        ("certificates:revoke", "POST", "/v1/devices/pump-7/revocation", {}),
        ("policy:write", "PUT", "/v1/policy", {"text": ""}),
        ("policy:write", "PUT", "/v1/rules/a/b", None),
        ("policy:write", "DELETE", "/v1/rules/a/b", None),
        ("approvals:write", "POST", "/v1/approvals/1/decision", {"approve": True}),
        ("tokens:write", "POST", "/v1/tokens", {"name": "more", "scopes": ["audit:read"]}),
        ("tokens:write", "DELETE", "/v1/tokens/reader-0", None),
    ]
    assert {scope for scope, *_ in writes} == set(SCOPES) - set(reads)
    with remote(running, token(home, *reads, name="all-reads")) as client:
        for scope, method, path, body in writes:
            answer = client.request(method, path, json=body)
            assert scope in problem(answer, 403, "forbidden")["detail"]
    assert home.store(lambda store: store.devices()) == []
    assert home.audit("api-refused", "GET /v1/audit: audit:read")


def test_a_token_is_shown_once_and_kept_nowhere(
    home: Home, running: Running, capfd: pytest.CaptureFixture[str]
):
    secret = token(home, "devices:read")
    with remote(running, secret) as client:
        assert client.get("/v1/devices").is_success
    with local(home) as client:
        listed = client.get("/v1/tokens")
        (line,) = listed.json()["items"]
    assert (line["name"], line["state"], line["scopes"]) == ("robot", "valid", ["devices:read"])
    assert secret not in listed.text
    for path in home.folder.glob("keyferry.db*"):
        assert secret.encode() not in path.read_bytes()
    with contextlib.closing(sqlite3.connect(home.folder / "keyferry.db")) as connection:
        ((kept,),) = connection.execute("SELECT hash FROM api_tokens")
    assert len(kept) == 64
    assert secret not in "".join(capfd.readouterr())


def test_a_removed_token_is_good_for_nothing(home: Home, running: Running):
    with remote(running, token(home, "devices:read")) as client, local(home) as operator:
        assert client.get("/v1/devices").is_success
        assert operator.delete("/v1/tokens/robot").status_code == 204
        problem(client.get("/v1/devices"), 401, "token-required")
        problem(operator.delete("/v1/tokens/robot"), 404, "not-found")


def test_a_token_passes_on_no_more_than_it_has(home: Home, running: Running):
    with remote(running, token(home, "tokens:write", "devices:read", seconds=3600)) as client:
        wanted = {"name": "child", "scopes": ["devices:write"]}
        problem(client.post("/v1/tokens", json=wanted), 403, "forbidden")
        answer = client.post("/v1/tokens", json={"name": "child", "scopes": ["devices:read"]})
        assert answer.status_code == 201
        assert answer.headers["cache-control"] == "no-store"
        with local(home) as operator:
            lines = {item["name"]: item for item in operator.get("/v1/tokens").json()["items"]}
        assert lines["child"]["expires"] == lines["robot"]["expires"]
        assert lines["child"]["by"] == "token:robot"
        problem(client.delete("/v1/tokens/robot"), 409, "conflict")
        assert client.delete("/v1/tokens/child").status_code == 204


# what it costs


def test_a_large_body_is_refused_before_it_is_held(home: Home, running: Running):
    with local(home) as client:
        answer = client.post("/v1/devices", content=b" " * 70_000)
        problem(answer, 413, "too-large")

        def endless() -> Iterator[bytes]:
            for _ in range(5000):
                yield b" " * 1000

        with contextlib.suppress(httpx.WriteError):  # it is cut off when it is refused
            problem(client.put("/v1/policy", content=endless()), 413, "too-large")
        assert client.get("/v1/realm").is_success


def test_a_body_that_does_not_come_ends(
    home: Home, running: Running, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(guard, "_BODY_SECONDS", 0.2)
    head = b"POST /v1/devices HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
    with raw(home) as sock:
        sock.sendall(head + b"{")
        assert b"did not arrive in time" in read_all(sock)


def test_requests_beyond_the_bound_are_told_to_come_again(
    home: Home, running: Running, monkeypatch: pytest.MonkeyPatch
):
    release = threading.Event()
    held = threading.Semaphore(0)

    async def slow(_self: Service) -> dict[str, Any]:
        import asyncio

        held.release()
        while not release.is_set():
            await asyncio.sleep(0.01)
        raise RuntimeError("over")

    monkeypatch.setattr(Service, "realm", slow)
    secret = token(home, *SCOPES)
    answers: list[int] = []

    def ask() -> None:
        with local(home) as client:
            answers.append(client.get("/v1/realm").status_code)

    threads = [threading.Thread(target=ask) for _ in range(guard._AT_ONCE)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert held.acquire(timeout=PAUSE)
    try:
        with local(home) as client:
            answer = client.get("/v1/devices")
            problem(answer, 503, "unavailable")
            assert answer.headers["retry-after"] == "1"
        with remote(running, secret) as client:  # each listener has its own bound
            assert client.get("/v1/devices").is_success
    finally:
        release.set()
        for thread in threads:
            thread.join(PAUSE)
    assert answers == [500] * guard._AT_ONCE


def test_connections_beyond_the_bound_are_closed(home: Home, running: Running):
    with contextlib.ExitStack() as stack:
        for _ in range(listeners._CONNECTIONS):
            stack.enter_context(raw(home))
        # Each is counted when the manager has taken it; the one after them is closed at once.
        until(lambda: running.look(lambda m: len(m._api._unix._connections._open)) == 64)
        late = stack.enter_context(raw(home))
        assert read_all(late) == b""
    until(lambda: running.look(lambda m: len(m._api._unix._connections._open)) == 0)
    with local(home) as client:
        assert client.get("/v1/realm").is_success


def test_what_goes_wrong_inside_stays_inside(
    home: Home, running: Running, monkeypatch: pytest.MonkeyPatch
):
    async def broken(_self: Service) -> dict[str, Any]:
        raise RuntimeError("the secret is 42")

    monkeypatch.setattr(Service, "realm", broken)
    with local(home) as client:
        answer = client.get("/v1/realm")
        problem(answer, 500, "internal")
        assert "42" not in answer.text
        assert "Traceback" not in answer.text


def test_a_wrong_value_is_named_and_not_repeated(home: Home, running: Running):
    with local(home) as client:
        body = {"name": "pump-7", "token_sha256": "MY-SECRET", "extra": "ANOTHER-SECRET"}
        answer = client.post("/v1/devices", json=body)
        value = problem(answer, 422, "invalid")
        assert [item["where"] for item in value["errors"]] == ["body.token_sha256", "body.extra"]
        assert "SECRET" not in answer.text


# where it listens


def test_beyond_this_machine_there_is_tls_or_nothing(tmp_path: Path):
    home = Home(tmp_path / "home", api_listen="0.0.0.0:0")
    with pytest.raises(ConfigProblem, match=r'set api\.tls = "server"'), home.running():
        pass
    assert not (home.folder / "api.sock").exists()


@pytest.mark.parametrize("where", ["127.0.0.1:0", "0.0.0.0:0"])
def test_with_tls_it_shows_the_managers_certificate(tmp_path: Path, where: str):
    home = Home(tmp_path / "home", api_listen=where, api_tls="server")
    with home.running() as running:
        secret = token(home, "realm:read")
        context = ssl.create_default_context(cafile=home.folder / "ca" / "root.pem")
        with remote(running, secret, verify=context) as client:
            assert client.get("/v1/realm").json()["realm"] == "plant.example"
            running.look(lambda manager: manager._api.renew())
            assert client.get("/v1/realm").is_success
        with remote(running, secret) as client, pytest.raises(httpx.TransportError):
            client.get("/v1/realm")  # in the clear


@pytest.mark.parametrize(
    "text", ["8442", "127.0.0.1", "127.0.0.1:99999", "::1:80", "a b:1", "[x]:1"]
)
def test_an_address_must_be_one(tmp_path: Path, text: str):
    with pytest.raises(ConfigProblem, match=r"api\.listen"):
        Home(tmp_path / "home", api_listen=text)


def test_one_manager_serves_a_home(home: Home, running: Running):
    second = Running(home)
    second._thread.start()
    with pytest.raises(ConfigProblem, match="another manager serves"):
        second.wait(second.manager.start())
    second.stop()
    with local(home) as client:
        assert client.get("/v1/realm").is_success


def test_what_a_killed_manager_left_is_no_hindrance(home: Home):
    path = home.folder / "api.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert path.exists()
    with home.running(), local(home) as client:
        assert client.get("/v1/realm").is_success


def test_a_file_in_the_sockets_place_is_left_alone(home: Home):
    path = home.folder / "api.sock"
    path.write_text("mine")
    with pytest.raises(ConfigProblem, match=r"cannot listen on .*api\.sock"), home.running():
        pass
    assert path.read_text() == "mine"


def test_a_home_may_have_a_long_path(tmp_path: Path):
    folder = tmp_path / ("a" * 60) / ("b" * 60)
    folder.mkdir(parents=True)
    home = Home(folder / "home")
    from support.command import answer, command

    with home.running():
        assert stat.S_ISSOCK((home.folder / "api.sock").stat().st_mode)
        assert answer(home.folder, "device", "list") == []
        assert "asking the manager" in command(home.folder, "-v", "device", "list").stderr


# by hand


@contextlib.contextmanager
def raw(home: Home) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PAUSE)
        sock.connect(str(home.folder / "api.sock"))
        yield sock


def read_all(sock: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := sock.recv(4096):
            data += chunk
    return data
