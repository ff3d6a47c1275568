"""The admin API: what it answers, and what it writes down."""

import datetime
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keyferry_manager.admin.paging import MAX_PAGE
from keyferry_manager.admin.scopes import SCOPES
from keyferry_manager.api import guard
from keyferry_manager.store import SessionRow
from support.api_client import local, pages, problem, remote, token
from support.manager_kit import PAUSE, Home, Running, until


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", api_listen="127.0.0.1:0")


def test_lists_come_in_pages_whatever_changes_meanwhile(home: Home, running: Running):
    names = [f"pump-{number:03d}" for number in range(25)]
    home.add(*names)
    for name in names:
        home.device(name)
        home.allow(name, "valve-1")
    rows = [
        SessionRow(f"{number:032x}", names[number], "valve-1", "established", 1000.0 + number // 2)
        for number in range(25)
    ]
    home.store(lambda store: store.write(sessions=rows))
    for number, name in enumerate(names):
        key = f"{number:064x}"
        home.store(lambda s, n=name, k=key: s.approvals.ask(n, k, "token", "a", time.time()))
    for number in range(25):
        token(home, "realm:read", name=f"robot-{number:03d}")
    home.store(lambda store: _policies(store, 25))
    identities: dict[str, Callable[[dict[str, Any]], Any]] = {
        "/v1/devices": lambda item: item["name"],
        "/v1/certificates": lambda item: item["serial"],
        "/v1/sessions": lambda item: item["session"],
        "/v1/approvals": lambda item: item["which"],
        "/v1/rules": lambda item: (item["from"], item["to"]),
        "/v1/tokens": lambda item: item["name"],
        "/v1/policy/history": lambda item: item["id"],
    }
    with local(home) as client:
        for path, identity in identities.items():
            whole = [identity(item) for item in client.get(path).json()["items"]]
            assert len(whole) == 25, path
            for limit in (1, 7, 25, MAX_PAGE):
                assert [identity(item) for item in pages(client, path, limit)] == whole
        newest = [item["id"] for item in pages(client, "/v1/audit", 10)]
        oldest = [item["id"] for item in pages(client, "/v1/audit?after=0", 10)]
        assert newest == sorted(newest, reverse=True)
        assert oldest[: len(newest)] == newest[::-1]
        # A row that comes before the cursor shifts nothing.
        first = client.get("/v1/devices", params={"limit": 3}).json()
        home.add("a-new-one")
        then = client.get("/v1/devices", params={"limit": 3, "cursor": first["next"]}).json()
        assert [item["name"] for item in then["items"]] == names[3:6]


async def _policies(store: Any, count: int) -> None:
    for number in range(count):
        await store.policies.apply(f"# {number}\n", "0" * 64, "ann")


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "AAAA",
        "bnVsbA",
        "W10",
        "WzFd",
        "W251bGxd",
        "WyJhIiwiYiJd",
        "W05hTl0",
        "W3RydWVd",
        "W1tdXQ",
    ],
)
def test_a_cursor_of_nobody_is_refused(home: Home, running: Running, cursor: str):
    with local(home) as client:
        paths = ["/v1/devices", "/v1/sessions", "/v1/audit", "/v1/links", "/v1/approvals"]
        refused = [client.get(path, params={"cursor": cursor}).status_code for path in paths]
        # [1] and ["a","b"] are positions of lists that are ordered so, and of theirs alone.
        known = {"WzFd": {"/v1/audit", "/v1/approvals"}, "WyJhIiwiYiJd": {"/v1/links"}}
        good = known.get(cursor, set())
        assert refused == [200 if path in good else 422 for path in paths]


def test_what_is_not_there_and_what_cannot_be_done(home: Home, running: Running):
    with local(home) as client:
        for path in ("/v1/devices/nobody", f"/v1/certificates/{'0' * 32}", "/v1/revocations/9"):
            problem(client.get(path), 404, "not-found")
        problem(client.get("/v1/elsewhere"), 404, "not-found")
        answer = client.put("/v1/devices", json={})
        problem(answer, 405, "no-such-method")
        assert set(answer.headers["allow"].split(", ")) == {"GET", "POST"}
        assert client.post("/v1/devices", json={"name": "pump-7"}).status_code == 201
        answer = client.post("/v1/devices", json={"name": "pump-7"})
        assert "exists already" in problem(answer, 409, "conflict")["detail"]
        problem(client.post("/v1/devices", json={"name": "manager"}), 422, "invalid")
        for body in (b"\xff", b"{", b"[" * 50_000):
            headers = {"Content-Type": "application/json"}
            answer = client.post("/v1/devices", content=body, headers=headers)
            problem(answer, 400, "malformed")
        half = client.post(
            "/v1/policy/check",
            content=b'{"text": "\\ud800"}',
            headers={"Content-Type": "application/json"},
        )
        problem(half, 422, "invalid")
        bad = {"text": "[[allow]]\nfrom = 1\n"}
        problem(client.put("/v1/policy", json=bad), 422, "invalid")


def test_each_change_is_written_down_with_who_did_it(home: Home, running: Running):
    home.store(lambda s: _ask(s))
    with remote(running, token(home, *SCOPES)) as client:
        made = client.post("/v1/devices", json={"name": "pump-7"})
        assert made.json()["token"].startswith("kft_")
        assert made.headers["location"] == "/v1/devices/pump-7"
        assert client.put("/v1/rules/pump-7/valve-1").is_success
        assert client.delete("/v1/rules/pump-7/valve-1").is_success
        assert client.put("/v1/policy", json={"text": "# mine\n"}).json()["by"] == "token:robot"
        assert client.post("/v1/policy/rollback", json={"id": 0}).is_success
        decided = client.post("/v1/approvals/valve-1/decision", json={"approve": False})
        assert decided.json()["state"] == "denied"
        assert client.post("/v1/devices/pump-7/revocation", json={}).status_code == 202
        order = client.delete("/v1/devices/pump-7").json()
        until(lambda: client.get(f"/v1/revocations/{order['id']}").json()["done"] is not None)
        wanted = {"name": "child", "scopes": ["realm:read"]}
        assert client.post("/v1/tokens", json=wanted).status_code == 201
        assert client.delete("/v1/tokens/child").status_code == 204
    for event in (
        "device-added",
        "rule-added",
        "rule-removed",
        "policy-applied",
        "policy-rolled-back",
        "approval-denied",
        "device-revoked",
        "device-removed",
        "api-token-added",
        "api-token-removed",
    ):
        assert home.audit(event, actor="token:robot"), event
    assert home.audit("api-token-added", actor=f"user:{guard.user_name()}", token="robot")


def test_settings_that_are_reloaded_hold_for_the_api_too(home: Home, running: Running):
    file = home.folder / "keyferry.toml"
    text = file.read_text()
    assert "token_hours = 24" in text
    with local(home) as client:
        assert client.get("/v1/realm").json()["admission"] == "automatic"
        text = text.replace('admission = "automatic"', 'admission = "approve"')
        file.write_text(text.replace("token_hours = 24", "token_hours = 1"))
        running.look(lambda manager: manager.reconfigure())
        assert client.get("/v1/realm").json()["admission"] == "approve"
        before = time.time()
        made = client.post("/v1/devices", json={"name": "pump-7"}).json()
        ends = datetime.datetime.fromisoformat(made["expires"]).timestamp()
        assert before + 3590 < ends < time.time() + 3610


async def _ask(store: Any) -> None:
    await store.add_device("valve-1")
    assert await store.approvals.ask("valve-1", "0" * 64, "token", "192.0.2.1:1", time.time())


def test_a_link_that_is_revoked_over_the_api_ends(home: Home, running: Running):
    device = running.device("pump-7")
    with local(home) as client:
        until(lambda: [item["name"] for item in pages(client, "/v1/links", 10)] == ["pump-7"])
        until(lambda: client.get("/v1/devices/pump-7").json()["online"])
        assert client.get("/v1/realm").json()["links"] == 1
        serial = client.get("/v1/devices/pump-7").json()["certificates"][0]["serial"]
        order = client.post(
            f"/v1/certificates/{serial}/revocation", json={"reason": "keyCompromise"}
        ).json()
        assert device.lost.wait(PAUSE)
        path = f"/v1/revocations/{order['id']}"
        until(lambda: client.get(path).json()["done"] is not None)
        assert client.get(path).json()["links"] == 1
        found = client.get(f"/v1/certificates/{serial}").json()
        assert (found["reason"], found["name"]) == ("keyCompromise", "pump-7")
