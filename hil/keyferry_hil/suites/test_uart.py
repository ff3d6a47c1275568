"""Boards without a network: the computer holds their TLS links, and sees only ciphertext.

The application runs with neither ``socket`` nor ``tls``, also on boards that have them.
"""

import random

import pytest

pytestmark = pytest.mark.board(state="flashed")
RECORDS = 5


def exchange(one, other, count=RECORDS) -> list[str]:
    """Records from one to the other; what was in them."""
    here, there = one.board.app, other.board.app
    at, since = here.send("send", to=other.name, count=count), len(there.events)
    contents = []
    for _ in range(count):
        record = here.wait_for("record-sent", after=at)
        at = here.events.index(record) + 1
        there.wait_for("record-received", after=since, peer=one.name, data=record["data"])
        contents.append(record["data"])
    return contents


@pytest.mark.parametrize("profile", ["cert", "rpk"])
def test_introduction_and_records_over_serial_lines(boards, manager, measure, profile):
    a, b = (one.join(manager, serial=True, profile=profile) for one in boards(2))
    manager.allow(a.name, b.name)
    met = a.connect(b)
    measure(f"handshake {profile} over serial", met["took"], "ms", a)
    contents = exchange(a, b) + exchange(b, a)
    for one in (a, b):
        assert one.events("network-used") == []
        assert len(one.board.carried) < (one.board.carried.maxlen or 0), "all of it"
        carried = b"".join(one.board.carried)
        assert one.name.encode() in carried, "it carried the signalling"
        for text in contents:
            assert text.encode() not in carried
            assert text[-24:].encode() not in carried
            assert bytes.fromhex(text[-24:]) not in carried
        assert met["fingerprint"].encode() not in carried
        assert bytes.fromhex(met["fingerprint"]) not in carried


def test_a_board_without_a_network_meets_one_with(boards, manager):
    a, b = boards(2)
    a.join(manager, serial=True)
    b.join(manager)
    manager.allow(b.name, a.name)
    b.connect(a)
    exchange(a, b)
    exchange(b, a)


def test_renews_and_comes_back_over_its_serial_line(board, manager):
    board.join(manager, serial=True, factory=True)
    serial = manager.serial(board.name)
    at = board.board.app.send("renew", new_key=True)
    assert board.board.app.wait_for("renewed", "renew-failed", after=at)["event"] == "renewed"
    board.board.app.wait_for("registered", after=at)
    assert manager.serial(board.name) != serial
    renewed = manager.serial(board.name)
    board.restart()
    manager.wait_online(board.name)
    assert manager.serial(board.name) == renewed


def test_torn_frames_and_noise_cost_time_only(boards, manager):
    a, b = (one.join(manager, serial=True) for one in boards(2))
    manager.allow(a.name, b.name)
    a.connect(b)
    dice = random.Random(a.name)
    for _ in range(3):
        # no control characters: a Ctrl-C stops a board, and a line end makes a command
        noise = bytes(dice.choice(range(0x20, 0x100)) for _ in range(40))
        for one in (a, b):
            one.board.line.write(b"~" + noise + b"~~}\n")
        exchange(a, b, 1)
        exchange(b, a, 1)
