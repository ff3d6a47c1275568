"""From the first release to this one: what was there is there, and a manager goes on from it."""

import asyncio
import json
import time
from pathlib import Path

import pytest
from alembic import command as alembic
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import Connection, text

from keyferry_core import signalling as sig
from keyferry_manager.authority import certificate_key, fingerprint, record
from keyferry_manager.store import Store
from keyferry_manager.store.chain import Chain
from keyferry_manager.store.engine import WRITES, open_engine
from keyferry_manager.store.migrate import alembic_config
from keyferry_manager.tokens import new_token, token_hash
from support.est_client import EstClient, csr
from support.manager_kit import Credentials, Home, PahoDevice

NOW = int(time.time())


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.needs("postgres"))])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    if request.param == "sqlite":
        return Home(tmp_path / "home")
    return Home(tmp_path / "home", database=request.getfixturevalue("server"))


def first_release(connection: Connection) -> None:
    """The tables of the first release, and nothing in them."""
    config = alembic_config()
    config.attributes["connection"] = connection
    alembic.upgrade(config, "0001")


async def emptied(url: str) -> None:
    engine = open_engine(url).execution_options(**{WRITES: True})
    async with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            await connection.execute(text("DROP SCHEMA public CASCADE"))
            await connection.execute(text("CREATE SCHEMA public"))
        else:
            for kind, name in await tables(connection):
                await connection.execute(text(f"DROP {kind} IF EXISTS {name}"))
        await connection.run_sync(first_release)
    await engine.dispose()


async def tables(connection):
    query = "SELECT type, name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    await connection.execute(text("PRAGMA defer_foreign_keys = ON"))
    return [tuple(row) for row in (await connection.execute(text(query))).all()]


async def filled(url: str, rows: dict[str, list[dict]]) -> None:
    engine = open_engine(url).execution_options(**{WRITES: True})
    async with engine.begin() as connection:
        for table, values in rows.items():
            columns = ", ".join(values[0])
            marks = ", ".join(f":{column}" for column in values[0])
            await connection.execute(
                text(f"INSERT INTO {table} ({columns}) VALUES ({marks})"), values
            )
    await engine.dispose()


def test_a_database_of_the_first_release_goes_on(home: Home):
    url = home.config.database_url
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = home.authority.issue_device("pump-7", key.public_key())
    row = record(certificate, "token", NOW)
    credentials = home.saved(key, certificate)
    factory = home.factory("valve-2")
    found = x509.load_der_x509_certificate(factory.der)
    secret = new_token()
    asyncio.run(emptied(url))
    asyncio.run(
        filled(
            url,
            {
                "devices": [
                    {"name": name, "created_at": NOW} for name in ("pump-7", "valve-2", "third")
                ],
                "certificates": [
                    {
                        "serial": row.serial, "device": "pump-7", "not_before": row.not_before,
                        "not_after": row.not_after, "fingerprint": row.fingerprint,
                        "key": row.key, "der": row.der, "admission": "token", "issued_at": NOW,
                    }
                ],
                "factory_identities": [
                    {
                        "fingerprint": fingerprint(found),
                        "serial": f"{found.serial_number:032x}", "device": "valve-2",
                        "not_after": NOW + 10**6, "created_at": NOW,
                    }
                ],
                "tokens": [
                    {"device": "third", "hash": token_hash(secret), "created_at": NOW,
                     "expires_at": NOW + 3600}
                ],
                "allow_rules": [
                    {"initiator": "pump-7", "responder": "valve-2", "created_at": NOW}
                ],
                "sessions": [
                    {"session": "ab" * 16, "initiator": "pump-7", "responder": "valve-2",
                     "state": "established", "started_at": NOW - 9.5, "ended_at": None,
                     "end_reason": "", "messages": 7, "octets": 99}
                ],
                "audit": [
                    {"at": NOW + number / 4, "event": "link-up", "outcome": "ok",
                     "name": "pump-7", "address": "192.0.2.1:9", "detail": "é",
                     "fields": json.dumps({"n": number})}
                    for number in range(30)
                ],
            },
        )
    )  # fmt: skip
    with home.running() as running:
        pump = PahoDevice(running, "pump-7", credentials)
        with pump:
            assert not pump.connect().is_failure, "its certificate is as good as it was"
            pump.register()
            valve = enrolled(home, running, EstClient(home, running.manager.est_port, factory))
            with PahoDevice(running, "valve-2", valve) as valve_2:
                assert not valve_2.connect().is_failure
                valve_2.register()
                pump.offer("valve-2")
                assert valve_2.receive(sig.CONNECT)[sig.FROM] == "pump-7", "the rule is in force"
        plain = EstClient(home, running.manager.est_port)
        assert plain.enroll(csr(), basic=("third", secret)).certificates
        assert plain.enroll(csr(), basic=("third", secret)).status == 401

    async def look(store: Store) -> None:
        assert [device.name for device in await store.devices()] == ["pump-7", "third", "valve-2"]
        (session,) = [one for one in await store.sessions() if one.session == "ab" * 16]
        assert (session.end_reason, session.messages) == ("manager-restarted", 7)
        chain = Chain()
        for entry in await store.audit_chain():
            chain.follow(entry)
        assert chain.entries > 35
        first = (await store.audit_chain(limit=1))[0]
        assert (first.detail, dict(first.fields)) == ("é", {"n": 0})
        assert certificate_key(certificate) == (await store.certificates("pump-7"))[0].key
        await store.life.revoke("superseded", device="pump-7")
        assert await store.life.revoked(serial=row.serial) is not None

    home.store(look)


def enrolled(home: Home, running, client: EstClient) -> Credentials:
    key = ec.generate_private_key(ec.SECP256R1())
    (certificate,) = client.enroll(csr(key, "valve-2")).certificates
    return home.saved(key, certificate)
