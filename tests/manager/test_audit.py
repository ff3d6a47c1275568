"""The audit trail: nothing waits for the database, and nobody can fill it."""

import asyncio
import io
import json
import logging

import pytest

from keyferry_manager import logs
from keyferry_manager.audit import AuditTrail, BatchWriter, writer
from keyferry_manager.carriers.tls import Refusal
from keyferry_manager.registry import Session
from keyferry_manager.store import AgreementKey, AuditEntry, LinkRow, SessionRow


class Sink:
    """A store that keeps what it is given, and fails or hangs when it is told to."""

    def __init__(self):
        self.entries = []
        self.rows = []
        self.links = {}
        self.keys = []
        self.writes = 0
        self.failing = False
        self.open = asyncio.Event()
        self.open.set()

    async def write(self, *, audit, sessions, links, keys):
        await self.open.wait()
        if self.failing:
            raise OSError("the disk is full")
        self.writes += 1
        self.entries += audit
        self.rows += sessions
        self.links.update(links)
        self.keys += keys


def entry(number):
    return AuditEntry(float(number), f"event-{number}", "ok")


def row(name, messages=0):
    return SessionRow(name, "a", "b", "offered", 0.0, messages=messages)


def test_entries_are_written_together_and_in_order(monkeypatch):
    monkeypatch.setattr(writer, "_INTERVAL", 0.02)

    async def main():
        sink = Sink()
        batch = BatchWriter(sink)
        batch.start()
        for number in range(2500):
            batch.entry(entry(number))
        for count in range(5):
            batch.session(row("one", count))
        await asyncio.sleep(0.1)
        assert sink.entries == [entry(number) for number in range(2500)]
        assert sink.rows == [row("one", 4)], "only the last state of a session is written"
        assert sink.writes == 3
        await batch.stop()
        assert batch.waiting == 0

    asyncio.run(main())


def test_what_is_left_is_written_at_the_end():
    async def main():
        sink = Sink()
        batch = BatchWriter(sink)
        batch.start()
        await asyncio.sleep(0)
        for number in range(1500):
            batch.entry(entry(number))
        await batch.stop()
        assert len(sink.entries) == 1500

    asyncio.run(main())


def test_a_store_that_fails_loses_nothing_and_holds_nobody_up(monkeypatch):
    monkeypatch.setattr(writer, "_INTERVAL", 0.01)
    monkeypatch.setattr(writer, "_RETRY", 0.01)

    async def main():
        sink = Sink()
        sink.failing = True
        batch = BatchWriter(sink)
        batch.start()
        batch.entry(entry(1))
        batch.session(row("one"))
        await asyncio.sleep(0.05)
        assert batch.waiting == 2
        sink.failing = False
        await asyncio.sleep(0.05)
        assert (sink.entries, sink.rows) == ([entry(1)], [row("one")])
        await batch.stop()

    asyncio.run(main())


def test_a_session_that_changes_while_it_is_written_is_written_again(monkeypatch):
    monkeypatch.setattr(writer, "_INTERVAL", 0.01)

    async def main():
        sink = Sink()
        sink.open.clear()
        batch = BatchWriter(sink)
        batch.start()
        batch.session(row("one", 1))
        await asyncio.sleep(0.03)
        batch.session(row("one", 2))
        sink.open.set()
        await batch.stop()
        assert sink.rows == [row("one", 1), row("one", 2)]

    asyncio.run(main())


def test_waiting_entries_are_bounded_and_the_loss_is_written_down(monkeypatch):
    monkeypatch.setattr(writer, "_MAX_WAITING", 10)

    async def main():
        sink = Sink()
        batch = BatchWriter(sink)
        for number in range(25):
            batch.entry(entry(number))
        assert await batch.flush()
        batch.entry(entry(99))
        assert await batch.flush()
        assert sink.entries[:10] == [entry(number) for number in range(10)]
        assert (sink.entries[11].event, sink.entries[11].fields) == ("audit-lost", {"entries": 15})

    asyncio.run(main())


def test_links_and_keys_are_written_with_the_rest_and_kept_while_the_store_is_away():
    async def main():
        sink = Sink()
        batch = BatchWriter(sink)
        link = LinkRow("one", "pump-7", "192.0.2.1:1", 1, "0" * 32, 0.0)
        keys = [AgreementKey("pump-7", "0" * 16, bytes([n]), b"", 0.0) for n in range(2)]
        sink.failing = True
        batch.link("one", link)
        for key in keys:
            batch.key(key)
        assert not await batch.flush()
        assert batch.waiting == 2
        sink.failing = False
        assert await batch.flush()
        assert (sink.links, sink.keys, batch.waiting) == ({"one": link}, keys[1:], 0)
        batch.link("one", link)
        sink.open.clear()
        flush = asyncio.create_task(batch.flush())
        await asyncio.sleep(0)
        batch.link("one", None)  # it ended while the store was writing
        sink.open.set()
        await flush
        assert batch.waiting == 1
        await batch.flush()
        assert sink.links == {"one": None}

    asyncio.run(main())


def test_a_store_that_is_away_for_long_costs_links_too(monkeypatch):
    monkeypatch.setattr(writer, "_MAX_WAITING", 2)
    batch = BatchWriter(Sink())
    for number in range(5):
        batch.link(str(number), None)
    assert batch.waiting == 2


def test_a_store_that_hangs_does_not_keep_the_manager_from_stopping(monkeypatch):
    monkeypatch.setattr(writer, "_LAST", 0.1)

    async def main():
        sink = Sink()
        batch = BatchWriter(sink)
        batch.entry(entry(1))
        batch.start()
        sink.open.clear()
        await asyncio.wait_for(batch.stop(), 2)
        assert sink.entries == []

    asyncio.run(main())


class Kept:
    def __init__(self):
        self.entries = []
        self.rows = []

    def entry(self, entry):
        self.entries.append(entry)

    def session(self, row):
        self.rows.append(row)


@pytest.fixture
def trail():
    kept = Kept()
    clock = [1000.0]
    trail = AuditTrail(kept, now=lambda: clock[0], wall=lambda: 5.0)
    trail.kept, trail.clock = kept, clock
    return trail


def events(trail):
    return [(entry.event, entry.name, entry.fields) for entry in trail.kept.entries]


def test_a_kind_of_refusal_of_one_source_is_written_a_few_times_and_counted(trail):
    for _ in range(25):
        trail.refused("access-denied", "pump-7", "192.0.2.1:1")
    trail.refused("access-denied", "valve-2", "192.0.2.1:2")
    trail.refused("malformed", "pump-7", "192.0.2.1:1")
    assert [name for _, name, _ in events(trail)] == ["pump-7"] * 10 + ["valve-2", "pump-7"]
    trail.kept.entries.clear()
    trail.clock[0] += 61
    trail.tick()
    assert events(trail) == [("access-denied", "pump-7", {"suppressed": 15})]
    trail.refused("access-denied", "pump-7", "192.0.2.1:1")
    assert len(events(trail)) == 2


def test_strangers_count_by_address_whatever_their_port(trail):
    for port in range(20):
        trail.connection_refused(Refusal("mqtt", f"192.0.2.1:{port}", "unknown-ca", "x"))
    trail.connection_refused(Refusal("mqtt", "[2001:db8::1]:5", "unknown-ca", "x"))
    trail.connection_refused(Refusal("mqtt", "192.0.2.1:5", "abandoned", ""))
    assert len(events(trail)) == 11
    assert events(trail)[0][2] == {"reason": "unknown-ca", "listener": "mqtt"}


def test_many_strangers_do_not_grow_the_manager(trail, monkeypatch):
    monkeypatch.setattr("keyferry_manager.audit.trail._MAX_SOURCES", 50)
    for number in range(1000):
        trail.connection_refused(Refusal("mqtt", f"192.0.2.1-{number}:1", "unknown-ca", "x"))
    assert len(events(trail)) == 50 + 10
    trail.finish()
    assert events(trail)[-1] == ("connection-refused", "", {"suppressed": 940})


def test_links_that_come_and_go_fast_are_counted_too(trail):
    for _ in range(100):
        trail.ok("link-up", "pump-7", "192.0.2.1:1")
    assert len(events(trail)) == 60
    trail.finish()
    assert events(trail)[-1] == ("link-up", "pump-7", {"suppressed": 40})
    assert {entry.outcome for entry in trail.kept.entries} == {"ok"}


def test_a_session_is_passed_on_once_a_tick(trail):
    session = Session(b"\x01" * 16, "a", "b", 4.0, 0.0)
    for _ in range(5):
        session.messages += 1
        trail.session(session)
    assert trail.kept.rows == []
    trail.tick()
    trail.tick()
    assert trail.kept.rows == [SessionRow("01" * 16, "a", "b", "offered", 4.0, messages=5)]


def test_a_line_of_the_log_for_a_person_and_for_a_program():
    logger = logging.getLogger(logs.ROOT)
    before = logger.handlers[:], logger.level, logger.propagate
    try:
        for as_json in (False, True):
            stream = io.StringIO()
            logs.configure(stream, as_json)
            child = logging.getLogger("keyferry.test")
            logs.log(child, logging.DEBUG, "unseen")
            logs.log(child, logging.WARNING, "event", name="pump-7", detail='a "b"\nc', empty="")
            lines = stream.getvalue().splitlines()
            assert len(lines) == 1, "a stranger's text cannot begin a line of its own"
            if as_json:
                said = json.loads(lines[0])
                assert said["event"] == "event"
                assert said["level"] == "warning"
                assert said["detail"] == 'a "b"\nc'
                assert said["time"].endswith("Z")
            else:
                assert lines[0].endswith(r'warning event name=pump-7 detail="a \"b\"\nc" empty=""')
    finally:
        logger.handlers[:], logger.level, logger.propagate = before
