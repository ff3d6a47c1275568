"""The database is gone for a while, or has no room: clear answers, nothing acknowledged is lost."""

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyferry_core import signalling as sig
from keyferry_manager.tokens import new_token, token_hash
from support.command import answer
from support.est_client import EstClient, csr, new_key
from support.manager_kit import Home, until
from support.postgres import postgres
from support.stores import execute_each

LATER = 4_000_000_000


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres() as url:
        yield url


def with_token(home: Home, name: str) -> str:
    token = new_token()
    home.store(
        lambda store: store.add_device(name, token_hash=token_hash(token), token_expires_at=LATER)
    )
    return token


@pytest.mark.needs("postgres")
def test_links_go_on_without_a_database_and_all_is_well_when_it_is_back(server, tmp_path: Path):
    execute_each(server, "CREATE DATABASE away")
    home = Home(tmp_path / "home", database=server.replace("/postgres?", "/away?"))
    home.allow("pump-1", "valve-1")
    token = with_token(home, "late-1")
    late = home.device("late-2")
    with home.running() as running:
        pump, valve = running.device("pump-1"), running.device("valve-1")
        until(lambda: running.look(lambda m: m.relay.rules.decide("pump-1", "valve-1").allowed))
        execute_each(
            server,
            "ALTER DATABASE away ALLOW_CONNECTIONS false",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'away'",
        )
        # What is there goes on: a whole key exchange, and records.
        session = pump.offer("valve-1")
        valve.accept(valve.receive(sig.CONNECT))
        pump.receive(sig.ACCEPT)
        pump.say("valve-1", session, b"without a database")
        assert valve.receive(sig.MESSAGE)[sig.RECORD] == b"without a database"
        # What needs it is told to come again, and nothing is used up.
        client = EstClient(home, running.manager.est_port)
        refused = client.enroll(csr(new_key(), "late-1"), basic=("late-1", token))
        assert refused.status in (500, 503)
        with running.raw(late) as raw:
            assert raw.connect("late-2") == 3  # MQTT: server unavailable
        until(lambda: running.look(lambda m: m.store.errors.total() > 0))
        execute_each(server, "ALTER DATABASE away ALLOW_CONNECTIONS true")
        done = client.enroll(csr(new_key(), "late-1"), basic=("late-1", token))
        assert done.status == 200
        with running.raw(late) as raw:
            assert raw.connect("late-2") == 0
        pump.close()
        valve.close()
    assert home.audit("exchange-asked", session=session.hex())
    assert answer(home.folder, "audit", "verify")["heads_checked"] == 1


def test_a_full_disk_acknowledges_nothing_and_loses_nothing(tmp_path: Path):
    home = Home(tmp_path / "home")
    token = with_token(home, "late-1")
    program = [sys.executable, "-m", "keyferry_manager", "serve", "--json"]
    process = subprocess.Popen(
        [*program, "--home", str(home.folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        client = EstClient(home, ready["est_port"])
        # No file of this process may grow any more, as on a disk without room.
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        refused = client.enroll(csr(new_key(), "late-1"), basic=("late-1", token))
        assert refused.status in (500, 503)
        assert home.store(lambda store: store.certificates("late-1")) == []
        assert home.store(lambda store: store.tokens("late-1"))[0].used_at is None
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, unlimited)
        done = client.enroll(csr(new_key(), "late-1"), basic=("late-1", token))
        assert done.status == 200
        assert len(home.store(lambda store: store.certificates("late-1"))) == 1
        # What was refused meanwhile was not lost with it.
        assert home.audit("enrolment-refused")[0].name == "late-1"
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()
    assert answer(home.folder, "audit", "verify")["heads_checked"] == 1


def test_a_clock_that_jumps_ends_no_link_and_no_session(tmp_path: Path, monkeypatch):
    home = Home(tmp_path / "home")
    home.allow("pump-1", "valve-1")
    with home.running() as running:
        pump, valve = running.device("pump-1"), running.device("valve-1")
        until(lambda: running.look(lambda m: m.relay.rules.decide("pump-1", "valve-1").allowed))
        session = pump.offer("valve-1")
        valve.accept(valve.receive(sig.CONNECT))
        pump.receive(sig.ACCEPT)
        real = running.manager.relay.wall
        for jump in (86400.0 * 400, -86400.0 * 400):
            running.look(
                lambda m, jump=jump: (
                    setattr(m.relay, "wall", lambda: real() + jump),
                    setattr(m.trail, "_wall", lambda: real() + jump),
                    m.relay.tick(),
                )
            )
            pump.say("valve-1", session, b"still")
            assert valve.receive(sig.MESSAGE)[sig.RECORD] == b"still"
        pump.close()
        valve.close()
    # Entries stay in the order in which they were written, whatever the clock said.
    assert answer(home.folder, "audit", "verify")["entries"] > 5
