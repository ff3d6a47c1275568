"""The manager as a whole: starting, stopping, and changing under way."""

import asyncio
import json
import os
import socket
import stat
import time

import pytest

from keyferry_core import signalling as sig
from keyferry_core.errors import code_of
from keyferry_manager.app import Manager
from keyferry_manager.problems import ConfigProblem
from keyferry_manager.store import SessionRow
from support.manager_kit import PAUSE, Home, PahoDevice, until


def established(pump, valve):
    session = pump.offer("valve-2")
    valve.accept(valve.receive(sig.CONNECT))
    pump.receive(sig.ACCEPT)
    return session


def test_a_port_that_is_taken_is_told_and_nothing_is_left_behind(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        home = Home(tmp_path / "home", mqtt_port=taken.getsockname()[1])

        async def main():
            manager = Manager(home.folder)
            with pytest.raises(ConfigProblem, match=r"listen\.mqtt_port"):
                await manager.start()
            await asyncio.sleep(0)
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main())


def test_stopping_closes_the_links_and_writes_everything_down(home):
    with home.running() as running:
        pump, valve = running.device("pump-7"), running.device("valve-2")
        session = established(pump, valve)
        for number in range(20):
            pump.say("valve-2", session, b"%d" % number)
        for _ in range(20):
            valve.receive(sig.MESSAGE)
    for device in (pump, valve):
        assert device.lost.wait(PAUSE)
        assert device.inbox.empty(), "the session may go on in the next run"
        device.client.loop_stop()
    (row,) = home.store(lambda store: store.sessions(10))
    assert (row.session, row.state, row.messages) == (session.hex(), "established", 22)
    assert {entry.name for entry in home.audit("link-down", "manager-stopped")} == {
        "pump-7",
        "valve-2",
    }


def test_what_a_killed_manager_left_open_is_ended_at_the_next_start(home):
    left = SessionRow("00" * 16, "pump-7", "valve-2", "established", time.time())
    home.store(lambda store: store.write(sessions=[left]))
    with home.running():
        pass
    assert home.session(bytes(16)).end_reason == "manager-restarted"


def test_devices_come_back_to_a_manager_that_was_restarted(home):
    with home.running() as running:
        pump = running.device("pump-7")
    pump.client.loop_stop()
    with home.running() as running, running.device("pump-7") as pump:
        assert "pump-7" in running.links()


def test_a_rule_taken_away_ends_the_session_at_once(home):
    with home.running() as running:
        pump, valve = running.device("pump-7"), running.device("valve-2")
        with pump, valve:
            session = established(pump, valve)
            home.store(lambda store: store.disallow("pump-7", "valve-2"))
            for device in (pump, valve):
                message = device.receive(sig.END)
                assert message[sig.SESSION] == session
                assert message[sig.ERROR_CODE] == code_of("access-denied")
            pump.offer("valve-2")
            pump.refusal("access-denied")


def test_our_own_certificate_is_renewed_without_a_restart(home):
    with home.running() as running:
        before = _server_serial(home, running)
        with running.device("pump-7"):
            home.authority.server_file.unlink()  # as if it were due
            running.wait(running.manager._upkeep.renew())
            assert _server_serial(home, running) != before
            assert "pump-7" in running.links(), "links that are there go on"
    assert home.audit("server-certificate-renewed", "absent")


def _server_serial(home, running):
    with running.raw(home.device("valve-2")) as client:
        return client.socket.getpeercert()["serialNumber"]


def test_the_trace_has_what_the_manager_saw_and_only_its_owner_reads_it(home, tmp_path):
    path = tmp_path / "trace.jsonl"
    with home.running(trace=path) as running:
        pump, valve = running.device("pump-7"), running.device("valve-2")
        with pump, valve:
            session = established(pump, valve)
            pump.say("valve-2", session, b"\xffciphertext")
            valve.receive(sig.MESSAGE)
            pump.say("nobody", session, b"x")
            pump.refusal("peer-offline")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["type"] for line in lines] == [
        "register", "register", "connect", "accept", "message", "message",
    ]  # fmt: skip
    assert [line["outcome"] for line in lines[-3:]] == ["relayed", "relayed", "peer-offline"]
    message = lines[4]
    assert (message["from"], message["to"], message["session"]) == (
        "pump-7",
        "valve-2",
        session.hex(),
    )
    assert message["sizes"] == {"session": 16, "record": 11}
    assert b"\xffciphertext".hex() in message["seen"]
    assert message["sent"] == message["seen"]
    assert [step for step, _ in message["checks"]][:4] == ["name", "registered", "peer", "session"]


def test_a_trace_that_cannot_be_written_is_told(home, tmp_path):
    async def main():
        with pytest.raises(ConfigProblem, match="trace"):
            await Manager(home.folder, trace=tmp_path / "no" / "folder").start()

    asyncio.run(main())


def test_a_full_manager_answers_so(tmp_path):
    home = Home(tmp_path / "home", max_links=1)
    with home.running() as running, running.device("pump-7"):
        second = PahoDevice(running, "valve-2", home.device("valve-2"))
        assert second.connect().getName() == "Server unavailable"
        until(lambda: list(running.links()) == ["pump-7"])


def test_a_database_that_is_away_makes_devices_wait_and_harms_no_link(home, monkeypatch):
    with home.running() as running:
        pump, valve = running.device("pump-7"), running.device("valve-2")
        with pump, valve:
            session = established(pump, valve)

            async def away(*_):
                raise OSError("gone")

            monkeypatch.setattr(running.manager.store, "certificate_by_serial", away)
            monkeypatch.setattr(running.manager.store, "data_version", away)
            third = PahoDevice(running, "third", home.device("third"))
            assert third.connect().getName() == "Server unavailable"
            time.sleep(1.2)
            pump.say("valve-2", session, b"goes on")
            assert valve.receive(sig.MESSAGE)[sig.RECORD] == b"goes on"
            monkeypatch.undo()
