"""Revocation and approvals in the store, on SQLite and on PostgreSQL: the same tests on both."""

import asyncio
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from keyferry_manager.problems import StoreProblem
from keyferry_manager.store import Certificate, FactoryIdentity, Store
from support.manager_kit import Home
from support.stores import emptied, run

NOW = int(time.time())


def certificate(number: int, device: str = "pump-7", key: int = 0) -> Certificate:
    return Certificate(
        serial=f"{number:032x}",
        device=device,
        not_before=NOW,
        not_after=NOW + 1000,
        fingerprint=f"{number:064x}",
        key=f"{key or number:064x}",
        der=b"der",
        admission="token",
        issued_at=NOW,
    )


def test_an_order_from_its_beginning_to_its_end(url: str):
    async def work(store: Store) -> None:
        await store.add_device("pump-7")
        await store.add_device("valve-2")
        for number, device, key in ((1, "pump-7", 9), (2, "pump-7", 9), (3, "pump-7", 3)):
            assert await store.record_certificate(certificate(number, device, key))
        assert await store.record_certificate(certificate(4, "valve-2"))
        version = await store.data_version()
        order = await store.life.revoke("superseded", serial=f"{1:032x}", now=NOW)
        assert (order.device, order.certificates, order.done_at) == ("pump-7", 2, None)
        assert await store.data_version() == version + 1
        assert await store.life.open_revocations() == [order]
        found = await store.life.all_revoked()
        assert [(item.serial, item.reason) for item in found] == [
            (f"{1:032x}", "superseded"),
            (f"{2:032x}", "superseded"),
        ]
        assert await store.life.revoked(serial=f"{2:032x}") == found[1]
        assert await store.life.revoked(key=f"{9:064x}") is not None
        assert await store.life.revoked(serial=f"{3:032x}", key=f"{3:064x}") is None
        # the rest of the device; what is revoked keeps its first reason
        rest = await store.life.revoke("keyCompromise", device="pump-7")
        assert rest.certificates == 1
        assert {item.reason for item in await store.life.all_revoked()} == {
            "superseded",
            "keyCompromise",
        }
        assert (await store.life.revoke("keyCompromise", device="pump-7")).certificates == 0
        await store.life.finish_revocation(order.id, NOW + 0.25, 1, 2)
        assert await store.life.revocation(order.id) == replace(
            order, done_at=NOW + 0.25, links=1, sessions=2
        )
        assert await store.life.revocation(order.id + 99) is None
        assert await store.life.all_revoked(NOW + 1001) == []
        assert await store.life.revoked(serial=f"{4:032x}", key=f"{4:064x}") is None

    run(url, work)


def test_a_removed_device_and_its_return(url: str):
    async def work(store: Store) -> None:
        factory = FactoryIdentity("a" * 64, "b" * 32, "pump-7", NOW + 5, NOW)
        await store.add_device("pump-7", factory=factory)
        await store.allow("pump-7", "valve-2")
        await store.allow("valve-2", "pump-7")
        await store.allow("valve-2", "third")
        assert await store.record_certificate(certificate(1))
        await store.life.revoke("cessationOfOperation", device="pump-7", remove=True)
        assert await store.device("pump-7") is None
        assert await store.devices() == []
        assert await store.factory_identities("pump-7") == []
        assert [(rule.initiator, rule.responder) for rule in await store.rules()] == [
            ("valve-2", "third")
        ]
        with pytest.raises(StoreProblem, match="no device is called"):
            await store.life.revoke("unspecified", device="pump-7")
        assert not await store.record_certificate(certificate(2))
        again = await store.add_device("pump-7", now=NOW + 7)
        assert again.created_at == NOW + 7
        assert await store.device("pump-7") == again
        assert await store.record_certificate(certificate(2))
        assert not await store.record_certificate(certificate(3, key=1))

    run(url, work)


def test_of_a_revocation_and_enrolments_at_once_nothing_good_is_left(url: str):
    """Renewals that carry on while their device is revoked: each is either refused, or revoked."""

    async def work(store: Store) -> None:
        await store.add_device("pump-7")
        assert await store.record_certificate(certificate(1))
        renewals = [
            store.record_certificate(
                replace(certificate(number), admission="renewal"), presented=f"{1:032x}"
            )
            for number in range(2, 12)
        ]
        *written, _ = await asyncio.gather(
            *renewals, store.life.revoke("keyCompromise", device="pump-7")
        )
        good = []
        for item in await store.certificates("pump-7"):
            if await store.life.revoked(serial=item.serial, key=item.key) is None:
                good.append(item.serial)
        assert good == []
        assert len(await store.certificates("pump-7")) == 1 + sum(written)

    for _ in range(3):
        run(url, work)
        if url.startswith("postgres"):
            emptied(url)
        else:
            Path(url.removeprefix("sqlite:///")).unlink()


def test_numbers_of_lists_only_grow(url: str):
    async def work(store: Store) -> None:
        numbers = await asyncio.gather(*(store.life.next_crl_number() for _ in range(5)))
        assert sorted(numbers) == [1, 2, 3, 4, 5]

    run(url, work)


def test_the_queue_for_approval(url: str):
    async def work(store: Store) -> None:
        approvals = store.approvals
        await store.add_device("pump-7")
        await store.add_device("valve-2")
        key = "1" * 64
        assert await approvals.of_key("pump-7", key) is None
        asked = [approvals.ask("pump-7", key, "token", "192.0.2.1:5", NOW) for _ in range(3)]
        assert all(await asyncio.gather(*asked))
        (waiting,) = await approvals.all()
        assert (waiting.device, waiting.key, waiting.state) == ("pump-7", key, "waiting")
        assert await approvals.of_key("pump-7", key) == waiting
        assert not await approvals.ask("valve-2", key, "token", "192.0.2.1:5", NOW)
        for which in ("valve-2", "99", "9" * 30):
            with pytest.raises(StoreProblem, match="waits for approval"):
                await approvals.decide(which, True)
        approved = await approvals.decide(str(waiting.id), True)
        assert approved.state == "approved"
        assert await approvals.of_key("pump-7", key) == approved
        # what is issued leaves the queue
        assert await store.record_certificate(certificate(1, key=int(key, 16)))
        assert await approvals.all() == []
        # and so does what nobody decided on
        assert await approvals.ask("pump-7", "2" * 64, "token", "", NOW - 8 * 86400)
        assert await approvals.ask("pump-7", "3" * 64, "token", "", NOW)
        assert [item.key for item in await approvals.all()] == ["3" * 64]

    run(url, work)


def test_rules_and_devices_that_are_written_at_once_all_come_through(tmp_path: Path):
    """The commands are separate processes: each decides on what it read, and again if need be."""
    home = Home(tmp_path / "home")
    pairs = [(f"pump-{number}", f"valve-{number}") for number in range(4)]
    commands = [("allow", *pair) for pair in pairs]
    commands += [("device", "add", name, "--token") for pair in pairs for name in pair]
    environment = {**os.environ, "KEYFERRY_HOME": str(home.folder)}
    program = [sys.executable, "-m", "keyferry_manager"]
    running = [
        subprocess.Popen([*program, *command], env=environment, stdout=subprocess.DEVNULL)
        for command in commands
    ]
    assert [process.wait(60) for process in running] == [0] * len(commands)
    rules = home.store(lambda store: store.rules())
    assert [(rule.initiator, rule.responder) for rule in rules] == pairs
