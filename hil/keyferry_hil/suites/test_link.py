"""Enrolment, link and session: what the product is for, on boards, through a real manager."""

import pytest

RECORDS = 5


@pytest.mark.board(state="flashed")
def test_enrols_by_factory_identity(board, manager):
    name = "factory-" + board.label
    files = manager.add(name, factory=True)
    board.enrolling(manager, name, files)
    board.to("enrolled")
    assert manager.serial(name)
    log = "\n".join(board.board.log.since())
    assert "bytes to /factory.key, which are not shown" in log
    assert repr(files["factory.key"])[12:32] not in log


@pytest.mark.board(state="flashed")
def test_enrols_by_token_and_forgets_it(board, manager):
    board.join(manager)
    board.board.to_prompt()
    with pytest.raises(FileNotFoundError):
        board.board.repl.read_file("/token")


@pytest.mark.board(state="flashed")
def test_a_restart_needs_no_enrolment(board, manager):
    board.join(manager)
    serial = manager.serial(board.name)
    board.board.hard_reset()
    board.to("enrolled")
    assert manager.serial(board.name) == serial


@pytest.mark.board(state="flashed")
@pytest.mark.parametrize("profile", ["cert", "rpk"])
def test_a_session_carries_records_both_ways(boards, manager, measure, profile):
    a, b = (one.join(manager, profile=profile) for one in boards(2))
    manager.allow(a.name, b.name)
    met = a.connect(b)
    measure(f"handshake {profile}", met["took"], "ms", a)
    for one, other in ((a, b), (b, a)):
        here, there = one.board.app, other.board.app
        at = here.send("send", to=other.name, count=RECORDS)
        sent = 0
        for _ in range(RECORDS):
            record = here.wait_for("record-sent", after=max(at, sent))
            sent = here.events.index(record) + 1
            there.wait_for("record-received", peer=one.name, data=record["data"])
    at = a.board.app.send("close", to=b.name)
    a.board.app.wait_for("closed", after=at)
    b.board.app.wait_for("session-over", peer=a.name, reason="session-closed")


@pytest.mark.board(state="flashed")
def test_no_session_without_a_rule(boards, manager):
    a, b = (one.join(manager) for one in boards(2))
    at = a.board.app.send("connect", to=b.name)
    refused = a.board.app.wait_for("connected", "connect-failed", after=at)
    assert refused["event"] == "connect-failed"
    assert refused["error"] == "access-denied"
    assert b.events("accepted") == []
