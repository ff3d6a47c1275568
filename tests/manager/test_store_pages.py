"""Pages of lists, and tokens of the admin API, on SQLite and on PostgreSQL."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from keyferry_manager.problems import Conflict, NotFound
from keyferry_manager.store import ApiToken, AuditEntry, Certificate, LinkRow, SessionRow, Store
from support.stores import run

NOW = int(time.time())
NAMES = [f"pump-{number}" for number in range(7)]


def certificate(number: int, device: str, issued_at: float) -> Certificate:
    digest = f"{number:064x}"
    serial = f"{number:032x}"
    return Certificate(serial, device, NOW, NOW + 9, digest, digest, b"", "token", issued_at)


async def _fill(store: Store) -> None:
    for number, name in enumerate(NAMES):
        await store.add_device(name)
        # Two in each moment, and each device has an older one: order must not depend on luck.
        for offset, age in ((0, 0), (100, 50)):
            row = certificate(number + offset, name, NOW - age + number // 2)
            assert await store.record_certificate(row)
        await store.allow(name, "valve-1")
        await store.policies.apply(f"# {number}", "0" * 64, "ann")
        await store.api_tokens.add(
            ApiToken(name, f"{number:064x}", ("realm:read",), NOW, NOW + 60, "user:ann")
        )
        await store.approvals.ask(name, f"{number:064x}", "token", "a", NOW)
    await store.write(
        audit=[AuditEntry(NOW, f"event-{number % 2}", "ok") for number in range(7)],
        sessions=[
            SessionRow(f"{number:032x}", name, "valve-1", "offered", NOW + number // 2)
            for number, name in enumerate(NAMES)
        ],
        links={
            f"{number:016x}": LinkRow(f"{number:016x}", name, "a:1", 1, "0" * 32, NOW, ("b:2",))
            for number, name in enumerate(NAMES)
        },
    )


async def pages(ask: Callable[..., Awaitable[list[Any]]], key: Callable[[Any], tuple]) -> list[Any]:
    """Every list in steps of three, and in one."""
    found: list[Any] = []
    position = None
    while page := await ask(3, position):
        assert len(page) <= 3
        found += page
        position = key(page[-1])
    assert await ask(1000, None) == found
    return [key(item) for item in found]


def test_each_list_is_whole_and_in_order(url: str):
    async def work(store: Store) -> None:
        await _fill(store)
        lists = store.pages
        assert await pages(lists.devices, lambda d: (d.name,)) == [(name,) for name in NAMES]
        found = await pages(lists.certificates, lambda c: (c.issued_at, c.serial))
        assert (len(found), found) == (14, sorted(found, reverse=True))
        found = await pages(lists.sessions, lambda s: (s.started_at, s.session))
        assert (len(found), found) == (7, sorted(found, reverse=True))
        found = await pages(lists.links, lambda row: (row.name, row.link))
        assert (len(found), found) == (7, sorted(found))
        found = await pages(lists.rules, lambda rule: (rule.initiator, rule.responder))
        assert found == [(name, "valve-1") for name in NAMES]
        found = await pages(lists.policies, lambda policy: (policy.id,))
        assert (len(found), found) == (7, sorted(found, reverse=True))
        found = await pages(lists.approvals, lambda item: (item.id,))
        assert (len(found), found) == (7, sorted(found))
        found = await pages(lists.api_tokens, lambda token: (token.name,))
        assert found == [(name,) for name in NAMES]
        newest = await pages(lists.audit, lambda entry: (entry.id,))
        assert newest == sorted(newest, reverse=True)
        assert [row.addresses for row in await lists.links(1)] == [("b:2",)]

    run(url, work)


def test_filters_and_what_belongs_to_a_page(url: str):
    async def work(store: Store) -> None:
        await _fill(store)
        lists = store.pages
        latest = await lists.latest_certificates(NAMES[:3])
        assert {name: int(item.serial, 16) for name, item in latest.items()} == {
            name: number for number, name in enumerate(NAMES[:3])
        }
        assert await lists.online([*NAMES[:2], "nobody"]) == set(NAMES[:2])
        await store.life.revoke("superseded", device=NAMES[0])
        revoked = await lists.revoked([f"{number:032x}" for number in (0, 1, 100)])
        assert set(revoked) == {f"{number:032x}" for number in (0, 100)}
        of_one = await lists.certificates(10, device=NAMES[1])
        assert [int(item.serial, 16) for item in of_one] == [1, 101]
        found = await lists.sessions(10, device=NAMES[2])
        assert [row.initiator for row in found] == [NAMES[2]]
        await store.end_open_sessions("gone")
        assert await lists.sessions(10, open_only=True) == []
        events = await lists.audit(100, (0,), event="event-1", newest_first=False)
        assert [entry.event for entry in events] == ["event-1"] * 3
        counts = await lists.counts()
        assert (counts["devices"], counts["links"], counts["open_sessions"]) == (7, 7, 0)
        assert (counts["rules"], counts["waiting_approvals"]) == (7, 6)

    run(url, work)


def test_tokens_hold_until_they_end_or_are_removed(url: str):
    async def work(store: Store) -> None:
        tokens = store.api_tokens
        one = ApiToken("one", "1" * 64, ("realm:read", "audit:read"), NOW, NOW + 60, "user:ann")
        await tokens.add(one)
        with pytest.raises(Conflict, match="called one already"):
            await tokens.add(ApiToken("one", "2" * 64, (), NOW, NOW + 60, ""))
        assert await tokens.valid("1" * 64, NOW + 59) == one
        assert await tokens.valid("1" * 64, NOW + 60) is None
        assert await tokens.valid("2" * 64, NOW) is None
        await tokens.remove("one")
        assert await tokens.valid("1" * 64, NOW) is None
        with pytest.raises(NotFound):
            await tokens.remove("one")

    run(url, work)
