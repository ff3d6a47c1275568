"""The store, on SQLite and on PostgreSQL: the same tests on both."""

import asyncio
import os
import sqlite3
import stat
import time
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from keyferry_manager.problems import StoreProblem
from keyferry_manager.store import (
    AgreementKey,
    AuditEntry,
    Certificate,
    FactoryIdentity,
    LinkRow,
    SessionRow,
    Store,
)
from keyferry_manager.store.engine import open_engine
from keyferry_manager.store.tables import metadata
from support.stores import run

NOW = int(time.time())


def certificate(number: int, device: str = "pump-7", issued_at: float = NOW) -> Certificate:
    return Certificate(
        serial=f"{number:032x}",
        device=device,
        not_before=NOW,
        not_after=NOW + 1000,
        fingerprint=f"{number:064x}",
        key=f"{number:064x}",
        der=bytes([0, 1, 255]),
        admission="token",
        issued_at=issued_at,
    )


def identity(number: int, device: str = "pump-7") -> FactoryIdentity:
    return FactoryIdentity(f"{number:064x}", f"{number:032x}", device, NOW + 5, NOW)


def test_migrations_make_the_tables_that_the_code_has(url: str):
    async def main() -> None:
        async with Store.open(url) as store:
            await store.migrate()
            await store.migrate()  # nothing to do the second time
        engine = open_engine(url)
        async with engine.connect() as connection:
            options = {"compare_type": True, "compare_server_default": True}
            difference = await connection.run_sync(
                lambda sync: compare_metadata(
                    MigrationContext.configure(sync, opts=options), metadata
                )
            )
        await engine.dispose()
        assert difference == []

    asyncio.run(main())


def test_two_managers_may_migrate_at_once(url: str):
    async def main() -> None:
        async with Store.open(url) as one, Store.open(url) as two:
            await asyncio.gather(one.migrate(), two.migrate())
            assert await one.data_version() == await two.data_version() == 1

    asyncio.run(main())


def test_a_database_of_a_newer_version_is_left_alone(url: str):
    async def work(store: Store) -> None:
        engine = open_engine(url)
        async with engine.begin() as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        await engine.dispose()
        with pytest.raises(StoreProblem, match="of a newer Keyferry"):
            await store.migrate()

    run(url, work)


def test_devices(url: str):
    async def work(store: Store) -> None:
        before = await store.data_version()
        device = await store.add_device("pump-7", factory=identity(1), now=NOW)
        assert await store.device("pump-7") == device
        assert await store.device("pump-8") is None
        assert await store.devices() == [device]
        assert await store.data_version() > before
        found = await store.factory_identity(identity(1).fingerprint)
        assert found == identity(1)
        assert await store.factory_identities("pump-7") == [found]

    run(url, work)


def test_a_device_is_not_added_twice_by_accident(url: str):
    async def work(store: Store) -> None:
        first = await store.add_device("pump-7", factory=identity(1), now=NOW)
        version = await store.data_version()
        with pytest.raises(StoreProblem, match="exists already"):
            await store.add_device("pump-7", factory=identity(2))
        assert await store.factory_identity(identity(2).fingerprint) is None
        assert await store.data_version() == version
        # --again: the earlier ways to enrol end, the device stays
        again = await store.add_device(
            "pump-7", token_hash="a" * 64, token_expires_at=NOW + 9, again=True, now=NOW + 1
        )
        assert again == first
        assert await store.factory_identities("pump-7") == []
        await store.add_device(
            "pump-7", token_hash="b" * 64, token_expires_at=NOW + 9, again=True, now=NOW + 1
        )
        assert [token.hash for token in await store.tokens("pump-7")] == ["b" * 64]

    run(url, work)


def test_a_token_is_used_once_however_many_come_at_once(url: str):
    async def work(store: Store) -> None:
        await store.add_device("pump-7", token_hash="a" * 64, token_expires_at=NOW + 9, now=NOW)
        (token,) = await store.tokens("pump-7")
        entry = AuditEntry(NOW, "enrolled", "ok", "pump-7")
        done = await asyncio.gather(
            *(
                store.record_certificate(certificate(n), token=token.id, audit=entry)
                for n in range(1, 9)
            )
        )
        assert sorted(done) == [False] * 7 + [True]
        (kept,) = await store.certificates("pump-7")
        (used,) = await store.tokens("pump-7")
        assert used.used_serial == kept.serial
        assert used.used_at == NOW
        assert len(await store.audit_entries()) == 1

    run(url, work)


def test_an_expired_token_and_another_devices_token_write_nothing(url: str):
    async def work(store: Store) -> None:
        await store.add_device("pump-7", token_hash="a" * 64, token_expires_at=NOW, now=NOW)
        await store.add_device("pump-8", token_hash="b" * 64, token_expires_at=NOW + 9, now=NOW)
        (expired,) = await store.tokens("pump-7")
        (other,) = await store.tokens("pump-8")
        assert not await store.record_certificate(certificate(1), token=expired.id)
        assert not await store.record_certificate(certificate(1), token=other.id)
        assert await store.certificates("pump-7") == []
        tokens = [*await store.tokens("pump-7"), *await store.tokens("pump-8")]
        assert [token.used_at for token in tokens] == [None, None]

    run(url, work)


def test_certificates(url: str):
    async def work(store: Store) -> None:
        await store.add_device("pump-7", now=NOW)
        await store.add_device("pump-8", now=NOW)
        first, second = certificate(1, issued_at=NOW + 0.25), certificate(2, issued_at=NOW + 0.5)
        other = certificate(3, "pump-8", NOW - 7200)
        for item in (second, first, other):
            assert await store.record_certificate(item)
        assert await store.certificate_by_serial(first.serial) == first
        assert await store.certificate_by_serial("0" * 32) is None
        assert await store.certificates("pump-7") == [second, first]
        assert await store.latest_certificates() == {"pump-7": second, "pump-8": other}
        assert await store.issued_since("pump-7", NOW) == 2
        assert await store.issued_since("pump-8", NOW) == 0
        assert await store.owner_of_key(other.key) == "pump-8"
        assert await store.owner_of_key("f" * 64) is None

    run(url, work)


def test_a_certificate_needs_its_device(url: str):
    async def work(store: Store) -> None:
        with pytest.raises(IntegrityError):
            await store.record_certificate(certificate(1, "nobody"))

    run(url, work)


def test_rules(url: str):
    async def work(store: Store) -> None:
        before = await store.data_version()
        assert await store.allow("hmi-1", "pump-7")
        assert not await store.allow("hmi-1", "pump-7")
        added = await store.data_version()
        assert added == before + 1
        assert [(rule.initiator, rule.responder) for rule in await store.rules()] == [
            ("hmi-1", "pump-7")
        ]
        assert not await store.disallow("pump-7", "hmi-1")
        assert await store.disallow("hmi-1", "pump-7")
        assert await store.rules() == []
        assert await store.data_version() == added + 1

    run(url, work)


def test_another_process_sees_a_change(url: str):
    async def work(store: Store) -> None:
        before = await store.data_version()
        async with Store.open(url) as other:
            await other.allow("hmi-1", "pump-7")
        assert await store.data_version() == before + 1
        await store.audit("nothing-to-reload-for")
        assert await store.data_version() == before + 1

    run(url, work)


def test_sessions_take_their_last_state(url: str):
    async def work(store: Store) -> None:
        row = SessionRow("a" * 32, "hmi-1", "pump-7", "offered", NOW + 0.5)
        ended = SessionRow(
            "a" * 32, "hmi-1", "pump-7", "ended", NOW + 0.5, NOW + 9.5, "peer-gone", 12, 3400
        )
        other = SessionRow("b" * 32, "pump-8", "hmi-1", "established", NOW + 1.5)
        await store.write(sessions=[row, other])
        await store.write(sessions=[row, ended])
        assert await store.sessions() == [other, ended]
        assert await store.sessions(open_only=True) == [other]
        assert await store.sessions(device="pump-7") == [ended]
        assert await store.sessions(1) == [other]
        assert await store.end_open_sessions("manager-restarted") == 1
        assert [item.state for item in await store.sessions()] == ["ended", "ended"]

    run(url, work)


def test_audit(url: str):
    async def work(store: Store) -> None:
        await store.audit("enrolled", "pump-7", "192.0.2.1:5", serial="7f")
        await store.audit("enrolment-refused", "", "192.0.2.1:5", "refused", "x\0" * 2000)
        await store.write(audit=[AuditEntry(NOW, "enrolled", "ok", "pump-8")])
        first, second, third = await store.audit_entries()
        assert (first.event, first.fields, first.outcome) == ("enrolled", {"serial": "7f"}, "ok")
        assert len(second.detail) == 1000
        assert "\0" not in second.detail
        assert third.at == NOW
        assert await store.audit_entries(1) == [third]
        assert await store.audit_entries(name="pump-7") == [first]
        assert await store.audit_entries(event="enrolled") == [first, third]
        assert await store.audit_entries(after=first.id) == [second, third]
        await store.write()

    run(url, work)


def test_writers_wait_for_each_other(url: str):
    async def work(store: Store) -> None:
        async with Store.open(url) as other:
            await asyncio.gather(
                *(
                    target.add_device(f"{name}-{number}", now=NOW)
                    for number in range(20)
                    for target, name in ((store, "pump"), (other, "hmi"))
                )
            )
        assert len(await store.devices()) == 40
        assert await store.data_version() == 41

    run(url, work)


def test_the_file_is_private(tmp_path: Path):
    path = tmp_path / "keyferry.db"
    before = os.umask(0)
    try:

        async def work(store: Store) -> None:
            await store.audit("made")
            modes = {stat.S_IMODE(item.stat().st_mode) for item in tmp_path.iterdir()}
            assert len(list(tmp_path.iterdir())) > 1  # the write-ahead log beside it
            assert modes == {0o600}

        run(f"sqlite:///{path}", work)
    finally:
        os.umask(before)
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mysql://a/b", "'mysql' is not supported"),
        ("sqlite://", "is not supported"),
        ("sqlite:///:memory:", "is not supported"),
        ("what is this", "is not a URL"),
        ("sqlite:////proc/none/keyferry.db", "cannot be made"),
    ],
)
def test_wrong_urls(url: str, expected: str):
    with pytest.raises(StoreProblem, match=expected):
        Store.open(url)


def test_what_is_no_database_is_said(tmp_path: Path):
    path = tmp_path / "keyferry.db"
    path.write_bytes(b"not a database at all, but long enough to be read as one" * 20)

    async def main() -> None:
        async with Store.open(f"sqlite:///{path}") as store:
            with pytest.raises(StoreProblem, match="cannot be opened"):
                await store.migrate()
        async with Store.open("postgresql://nobody@127.0.0.1:1/none") as store:
            with pytest.raises(StoreProblem, match="cannot be opened"):
                await store.migrate()

    asyncio.run(main())


def test_policies_are_kept_in_order_and_the_newest_is_in_force(url: str):
    async def work(store: Store) -> None:
        assert await store.policies.get() is None
        assert await store.policies.history() == []
        before = await store.data_version()
        first = await store.policies.apply("# one", "1" * 64, "ann", expected=before)
        assert await store.data_version() == before + 1
        assert (first.id, first.applied_by, first.restores) == (1, "ann", None)
        with pytest.raises(StoreProblem, match="try again"):
            await store.policies.apply("# two", "2" * 64, "bob", expected=before)
        second = await store.policies.apply("# two", "2" * 64, "b" * 300, restores=0)
        assert second.applied_at >= first.applied_at
        assert await store.policies.get(1) == first
        found = await store.policies.get()
        assert found is not None
        assert (found.text, found.applied_by, found.restores) == ("# two", "b" * 255, 0)
        assert await store.policies.get(9) is None
        assert [item.sha256[0] for item in await store.policies.history()] == ["2", "1"]
        assert [item.sha256[0] for item in await store.policies.history(1)] == ["2"]

    run(url, work)


def test_links_come_change_and_go(url: str):
    async def work(store: Store) -> None:
        first = LinkRow("a" * 16, "pump-7", "192.0.2.1:1", 1, "0" * 32, 1.5)
        second = LinkRow("b" * 16, "cam", "[2001:db8::1]:1", 2, "1" * 32, 2.5, ("h:1", "h:2"), 9.5)
        await store.write(links={first.link: first, second.link: second})
        assert await store.presences.links() == [second, first]
        now = LinkRow("a" * 16, "pump-7", "192.0.2.1:1", 1, "0" * 32, 1.5, ("x:1",), 99.5)
        await store.write(links={first.link: now, second.link: None, "c" * 16: None})
        assert await store.presences.links() == [now]
        assert await store.presences.forget_links() == 1
        assert await store.presences.links() == []

    run(url, work)


def test_keys_of_devices_that_there_are(url: str):
    async def work(store: Store) -> None:
        await store.add_device("pump-7")
        old = AgreementKey("pump-7", "0" * 16, b"old", b"signer", 1.0)
        new = AgreementKey("pump-7", "1" * 16, b"new", b"signer", 2.0)
        await store.write(keys=[old, AgreementKey("nobody", "2" * 16, b"x", b"y", 1.0)])
        assert await store.presences.keys() == [old]
        await store.write(keys=[old, new])
        assert await store.presences.keys() == [new]

    run(url, work)
