"""Handshake, throughput and memory of each board, for the report's curves. No limits here."""

import statistics

import pytest

pytestmark = pytest.mark.board(state="flashed")
HANDSHAKES = 3
RECORDS, SIZE = 40, 256
# Bytes by which the heap in use may differ after a soak: caches fill, a late event is kept.
SLACK = 4096


def test_handshake_and_throughput(boards, manager, measure):
    one, other = (board.join(manager) for board in boards(2))
    manager.allow(one.name, other.name)
    manager.allow(other.name, one.name)
    for a, b in ((one, other), (other, one)):
        speeds(a, b, measure)


def speeds(a, b, measure):
    took = []
    for _ in range(HANDSHAKES):
        there = len(b.board.app.events)
        took.append(a.connect(b)["took"])
        at = a.board.app.send("close", to=b.name)
        a.board.app.wait_for("closed", after=at)
        b.board.app.wait_for("session-over", after=there)
    measure("handshake", statistics.median(took), "ms", a)
    a.connect(b)
    at, there = len(a.board.app.events), len(b.board.app.events)
    a.board.app.send("burst", to=b.name, count=RECORDS, size=SIZE)
    a.board.app.wait_for("burst-sent", after=at)
    done = b.board.app.wait_for("burst-received", after=there)
    assert done["count"] == RECORDS
    assert done["bytes"] == RECORDS * SIZE
    measure("throughput", round(done["bytes"] / max(1, done["took"]), 2), "kB/s", b)


def test_memory_over_a_soak(boards, manager, measure, soak):
    """--soak says how long; without it this is a short one."""
    import time

    a, b = (one.join(manager) for one in boards(2))
    manager.allow(a.name, b.name)
    used: dict[str, list[int]] = {one.label: [] for one in (a, b)}
    end = time.monotonic() + soak
    rounds = 0
    while rounds < 4 or time.monotonic() < end:
        a.connect(b)
        at, there = len(a.board.app.events), len(b.board.app.events)
        a.board.app.send("burst", to=b.name, count=10, size=200)
        b.board.app.wait_for("burst-received", after=there)
        a.board.app.send("close", to=b.name)
        a.board.app.wait_for("closed", after=at)
        b.board.app.wait_for("session-over", after=there)
        for one in (a, b):
            app = one.board.app
            at = app.send("memory")
            used[one.label].append(app.wait_for("memory", after=at)["used"])
            del app.events[:-20]  # hours of them
        rounds += 1
    for one in (a, b):
        figures = used[one.label]
        measure("heap in use after a soak", figures[-1], "B", one)
        early, late = min(figures[1:3]), min(figures[-2:])
        assert late - early < SLACK, f"{one.label}: {early} to {late} bytes in {rounds} rounds"
