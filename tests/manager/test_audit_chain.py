"""The chain of the audit trail, on SQLite and PostgreSQL: what was done to it is found."""

import asyncio
import json
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command as alembic
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from keyferry_manager.config import FILE_NAME, Config
from keyferry_manager.store import AuditEntry, Store
from keyferry_manager.store.chain import START, Chain, entry_hash
from keyferry_manager.store.engine import WRITES, open_engine
from keyferry_manager.store.migrate import alembic_config
from support.command import answer, command
from support.manager_kit import Home
from support.stores import execute

ENTRIES = 12


def tamper(url: str, *statements: str) -> None:
    if url.startswith("sqlite"):
        off = ["DROP TRIGGER IF EXISTS audit_no_update", "DROP TRIGGER IF EXISTS audit_no_delete"]
    else:
        off = ["ALTER TABLE audit DISABLE TRIGGER ALL"]
    execute(url, *off, *statements)


@pytest.fixture
def home(url: str, tmp_path: Path) -> Path:
    """A home whose trail has ENTRIES entries, and the signed head of them."""
    settings = {} if url.startswith("sqlite") else {"database": url}
    made = Home(tmp_path / "home", **settings)
    url = made.config.database_url

    async def main() -> None:
        async with Store.open(url) as store:
            for number in range(ENTRIES // 2):
                entries = [
                    AuditEntry(1.5 + number, "link-up", "ok", "pump-7", "192.0.2.1:1", "é\0\ud800"),
                    AuditEntry(0.1 * number, "enrolled", "ok", fields={"n": number, "a": (1, 2.5)}),
                ]
                await store.write(audit=entries)

    asyncio.run(main())
    return made.folder


def address(home: Path) -> str:
    return Config.load(home).database_url


def refused(home: Path, *arguments: object) -> str:
    result = command(home, "audit", "verify", *arguments, code=1)
    return " ".join(result.stderr.split())


def test_a_whole_trail_is_verified_and_each_entry_holds_the_hash_of_the_one_before(home: Path):
    found = answer(home, "audit", "verify")
    assert (found["entries"], found["last"]) == (ENTRIES, ENTRIES)

    async def main() -> None:
        async with Store.open(address(home)) as store:
            before = START
            for entry in await store.audit_chain():
                assert (entry.previous, entry.hash) == (before, entry_hash(entry))
                before = entry.hash
            assert before == found["head"]

    asyncio.run(main())
    assert found["head"] in command(home, "audit", "head").stdout
    assert f"{ENTRIES} entries, unbroken" in command(home, "audit", "verify").stdout


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE audit SET event = 'link-down' WHERE id = 5",
        "UPDATE audit SET at = at + 0.0000001 WHERE id = 5",
        "UPDATE audit SET name = '' WHERE id = 5",
        "UPDATE audit SET detail = detail || ' ' WHERE id = 5",
        """UPDATE audit SET fields = '{"n": 3}' WHERE id = 5""",
        f"UPDATE audit SET hash = '{'1' * 64}' WHERE id = 5",
    ],
)
def test_a_changed_entry_is_found(home: Path, change: str):
    tamper(address(home), change)
    assert "entry 5 of the audit trail is not what was written" in refused(home)


def test_a_removed_entry_is_found(home: Path):
    tamper(address(home), "DELETE FROM audit WHERE id = 5")
    assert "entry 6 of the audit trail does not follow entry 4" in refused(home)


def test_a_removed_beginning_is_found(home: Path):
    tamper(address(home), "DELETE FROM audit WHERE id < 3")
    assert "entry 3 of the audit trail does not follow the start" in refused(home)


def test_entries_in_another_order_are_found(home: Path):
    tamper(
        address(home),
        "UPDATE audit SET id = 100 WHERE id = 5",
        "UPDATE audit SET id = 5 WHERE id = 6",
        "UPDATE audit SET id = 6 WHERE id = 100",
    )
    assert "entry 5 of the audit trail is not what was written" in refused(home)


def test_a_cut_end_is_found_by_a_head_that_was_kept(home: Path, tmp_path: Path):
    head = answer(home, "audit", "verify")["head"]
    kept = tmp_path / "head.json"
    kept.write_text(command(home, "audit", "head", "--json").stdout)
    command(home, "audit", "verify", "--head", head, "--kept", kept)
    tamper(address(home), f"DELETE FROM audit WHERE id > {ENTRIES - 2}")
    command(home, "audit", "verify")  # nothing shows without a head
    for option in (("--head", head), ("--kept", kept)):
        assert f"ends with entry {ENTRIES - 2} and does not contain" in refused(home, *option)
    # What is written since hides nothing.
    Home.existing(home).store(lambda store: store.audit("made", "pump-7"))
    command(home, "audit", "verify")
    assert "does not contain the head" in refused(home, "--head", head)


def test_a_trail_that_was_written_anew_is_found_by_a_head(home: Path):
    head = answer(home, "audit", "verify")["head"]
    tamper(address(home), "DELETE FROM audit")
    Home.existing(home).store(lambda store: store.audit("made", "pump-7"))
    command(home, "audit", "verify")
    assert "does not contain the head" in refused(home, "--head", head)


def test_the_manager_signs_a_head_into_its_home(home: Path):
    at_home = Home.existing(home)
    with at_home.running():
        pass
    kept = home / "audit-head.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert answer(home, "audit", "verify")["heads_checked"] == 1
    document = json.loads(kept.read_text())
    last = document["entry"]
    tamper(address(home), f"DELETE FROM audit WHERE id = {last}")
    assert "does not contain the head" in refused(home)
    # A head for what is left would need the manager's key.
    document["entry"], document["hash"] = last - 1, answer_head(home)
    kept.write_text(json.dumps(document))
    assert "does not hold" in refused(home)


def answer_head(home: Path) -> str:
    return re.findall(r"[0-9a-f]{64}", command(home, "audit", "head").stdout)[0]


def test_a_device_cannot_sign_a_head(home: Path, tmp_path: Path):
    at_home = Home.existing(home)
    device = at_home.device("pump-7")
    from keyferry_manager.audit.heads import Head, sign

    both = tmp_path / "device.pem"
    both.write_bytes(device.key.read_bytes() + device.certificate.read_bytes())
    os.chmod(both, 0o600)
    document = sign(Head(ENTRIES, answer_head(home), 1.0), "plant.example", both)
    chain = document["certificates"]
    if chain.count("BEGIN CERTIFICATE") == 1:
        document["certificates"] += (home / "ca" / "issuing.pem").read_text()
    kept = tmp_path / "head.json"
    kept.write_text(json.dumps(document))
    assert "was not signed by a manager" in refused(home, "--kept", kept)


def test_the_database_refuses_to_change_or_remove(home: Path):
    statements = ["UPDATE audit SET name = 'x' WHERE id = 1", "DELETE FROM audit WHERE id = 1"]
    if not address(home).startswith("sqlite"):
        statements.append("TRUNCATE audit")
    for statement in statements:
        with pytest.raises(DBAPIError, match="append-only"):
            execute(address(home), statement)
    assert answer(home, "audit", "verify")["entries"] == ENTRIES


def test_an_export_is_verified_alone(home: Path, tmp_path: Path):
    file, root = tmp_path / "trail.jsonl", home / "ca" / "root.pem"
    assert f"{ENTRIES} entries" in command(home, "audit", "export", file).stdout
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "cannot be made" in command(home, "audit", "export", file, code=1).stderr
    elsewhere = tmp_path / "elsewhere"
    alone = ("--file", file)
    found = answer(elsewhere, "audit", "verify", *alone, "--root", root)
    assert (found["entries"], found["signatures_checked"]) == (ENTRIES, True)
    assert "no root CA" in command(elsewhere, "audit", "verify", *alone).stderr
    # Standard output has the same lines; the head is signed anew.
    assert (
        command(home, "audit", "export").stdout.splitlines()[:-1]
        == (file.read_text().splitlines()[:-1])
    )
    lines = file.read_text().splitlines()
    assert json.loads(lines[0])["hash"] == json.loads(lines[1])["previous"]

    def changed(*kept: str) -> str:
        file.write_text("".join(line + "\n" for line in kept))
        return refused(elsewhere, *alone, "--root", root)

    assert "entry 3 of the audit trail is not what was" in changed(
        *lines[:2], lines[2].replace("link-up", "link-ok"), *lines[3:]
    )
    assert "entry 4 of the audit trail does not follow entry 2" in changed(*lines[:2], *lines[3:])
    assert "entry 4 of the audit trail does not follow" in changed(
        *lines[:2], lines[3], lines[2], *lines[4:]
    )
    assert "ends without a head" in changed(*lines[:-1])
    assert "entries at its end were removed" in changed(*lines[:-2], lines[-1])
    assert "there is more after the head" in changed(*lines, lines[0])
    assert "is no JSON" in changed(*lines[:2], "{", *lines[3:])
    assert "is not an entry" in changed(lines[0].replace('"id": 1', '"id": "1"'), *lines[1:])


def test_managers_that_write_at_once_make_one_chain(url: str):
    async def main() -> None:
        async with Store.open(url) as one, Store.open(url) as two:
            await one.migrate()
            await asyncio.gather(
                *(
                    store.write(audit=[AuditEntry(float(n), "link-up", "ok", name)] * 3)
                    for n in range(15)
                    for store, name in ((one, "a"), (two, "b"))
                )
            )
            chain = Chain()
            for entry in await one.audit_chain():
                chain.follow(entry)
            assert chain.entries == chain.last == 90

    asyncio.run(main())


def test_entries_of_an_earlier_version_are_chained(url: str):
    async def main() -> None:
        engine = open_engine(url)
        writing = engine.execution_options(**{WRITES: True})
        rows = [
            {"id": n, "at": n / 3, "detail": "é" * n, "fields": json.dumps({"b": n, "a": [1.5]})}
            for n in (*range(1, 1500), 2000)  # PostgreSQL leaves gaps where a transaction failed
        ]
        insert = text(
            "INSERT INTO audit (id, at, event, outcome, name, address, detail, fields) "
            "VALUES (:id, :at, 'link-up', 'ok', '', '', :detail, :fields)"
        )
        async with writing.begin() as connection:
            await connection.run_sync(upgrade, "0005")
            await connection.execute(insert, rows)
        async with Store.open(url) as store:
            await store.migrate()
            await store.audit("made")
            chain, last = Chain(), 0
            while entries := await store.audit_chain(last):
                for entry in entries:
                    chain.follow(entry)
                last = chain.last
            assert (chain.entries, chain.last) == (1501, 2001)
        await engine.dispose()

    asyncio.run(main())


def upgrade(connection: Connection, revision: str) -> None:
    config = alembic_config()
    config.attributes["connection"] = connection
    alembic.upgrade(config, revision)


def test_tail_shows_the_newest_and_follows(home: Path):
    assert [entry["id"] for entry in answer(home, "audit", "tail", "-n", "2")] == [11, 12]
    shown = answer(home, "audit", "tail", "--device", "pump-7", "--event", "link-up", "-n", "1")
    assert [entry["id"] for entry in shown] == [11]
    assert answer(home, "audit", "-n", "3") == answer(home, "audit", "tail", "-n", "3")


def test_tail_follows_what_is_written(tmp_path: Path):
    made = Home(tmp_path / "home")
    program = [sys.executable, "-m", "keyferry_manager", "audit", "tail", "--follow", "--json"]
    process = subprocess.Popen(
        [*program, "--home", str(made.folder), "--event", "made"],
        stdout=subprocess.PIPE,
        # what started the tests may ignore Ctrl-C, and a child would go on ignoring it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout is not None
        made.store(lambda store: store.audit("made", "pump-7"))
        assert json.loads(process.stdout.readline())["name"] == "pump-7"
        made.store(lambda store: store.audit("unmade", "pump-8"))
        made.store(lambda store: store.audit("made", "pump-9"))
        assert json.loads(process.stdout.readline())["name"] == "pump-9"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


def test_a_hash_that_is_none_is_wrong_usage(home: Path):
    assert "is no hash" in command(home, "audit", "verify", "--head", "12", code=2).stderr


def test_the_sqlite_file_itself_shows_the_triggers(tmp_path: Path):
    made = Home(tmp_path / "home")
    made.store(lambda store: store.audit("made"))
    connection = sqlite3.connect(made.folder / "keyferry.db")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute("DELETE FROM audit")
    connection.close()
    assert (made.folder / FILE_NAME).exists()
