"""A manager that lies. With the realm's own key it can disturb; not read, forge or repeat."""

import pytest

from keyferry_core import signalling as s
from keyferry_hil.liar import Liar
from keyferry_hil.problems import BenchProblem

pytestmark = pytest.mark.board(state="flashed")
RECORDS = 3


def join(boards, manager, liar):
    a, b = (one.join(manager, mqtt_port=liar.port) for one in boards(2))
    return a, b


def alive(one) -> None:
    at = one.board.app.send("ping")
    one.board.app.wait_for("pong", after=at)


def data_of(one, event) -> list[str]:
    return [record["data"] for record in one.events(event)]


def is_record(message) -> bool:
    return s.RECORD in message


def send(a, b, count=RECORDS) -> list[str]:
    at = a.board.app.send("send", to=b.name, count=count)
    after = at
    for _ in range(count):
        record = a.board.app.wait_for("record-sent", after=after)
        after = a.board.app.events.index(record) + 1
    return [event["data"] for event in a.board.app.all("record-sent", at)]


def test_an_honest_one_first(boards, manager, liar):
    """What the lies below are compared with."""
    a, b = join(boards, manager, liar)
    a.connect(b)
    for data in send(a, b):
        b.board.app.wait_for("record-received", data=data)
    text = b"".join(repr(message).encode() for message in liar.seen)
    assert not any(data.encode() in text for data in data_of(a, "record-sent"))


def test_another_ca(board, manager):
    with Liar(manager, own_ca=True) as liar:
        files = manager.add("tricked-" + board.label, mqtt_port=liar.port)
        board.enrolling(manager, "tricked-" + board.label, {})
        board.give(files, wipe=True)
        app = board.board.start_app()
        app.wait_for("link-down", error="authentication-failed")
        assert not app.all("registered")
        assert liar.seen == []


def test_repeated_records_arrive_once(boards, manager, liar):
    a, b = join(boards, manager, liar)
    a.connect(b)
    liar.meddle = lambda message: [(0.0, message)] * (3 if is_record(message) else 1)
    sent = send(a, b)
    b.board.app.wait_for("record-received", data=sent[-1])
    alive(b)
    b.board.app.pump(0.5)
    assert data_of(b, "record-received") == sent


def test_a_whole_exchange_again_is_no_session(boards, manager, liar):
    a, b = join(boards, manager, liar)
    a.connect(b)
    first = [message for message in liar.seen if message[s.TO] == b.name]
    accepted = len(b.events("accepted"))
    for message in first:
        liar.deliver(b.name, message)
    alive(b)
    assert len(b.events("accepted")) == accepted


def test_records_in_another_order(boards, manager, liar):
    a, b = join(boards, manager, liar)
    a.connect(b)
    held = []

    def meddle(message):
        if not is_record(message):
            return [(0.0, message)]
        held.append(message)
        return [(0.0, one) for one in reversed(held)] if len(held) == RECORDS else []

    liar.meddle = meddle
    sent = send(a, b)
    b.board.app.wait_for("record-received", data=sent[-1])
    alive(b)
    received = data_of(b, "record-received")
    assert len(set(received)) == len(received)
    assert set(received) <= set(sent)


@pytest.mark.parametrize("how", ["cut", "changed", "longer"])
def test_damaged_records_are_lost_and_nothing_else(boards, manager, liar, how):
    a, b = join(boards, manager, liar)
    a.connect(b)

    def meddle(message):
        if is_record(message):
            record = message[s.RECORD]
            changed = bytes([record[-1] ^ 1])
            whole = {"cut": record[:-1], "changed": record[:-1] + changed, "longer": record + b"x"}
            message[s.RECORD] = whole[how]
        return [(0.0, message)]

    liar.meddle = meddle
    send(a, b, 1)
    alive(b)
    assert b.events("record-received") == []
    liar.meddle = lambda message: [(0.0, message)]
    b.board.app.pump(0.3)
    a.connect(b)
    for data in send(a, b, 1):
        b.board.app.wait_for("record-received", data=data)


@pytest.mark.parametrize("part", ["MESSAGE_1", "MESSAGE_2", "MESSAGE_3"])
@pytest.mark.parametrize("how", ["cut", "changed"])
def test_damaged_key_exchange_is_no_session(boards, manager, liar, part, how):
    a, b = join(boards, manager, liar)
    key = getattr(s, part)

    def meddle(message):
        if key in message:
            whole = message[key]
            message[key] = whole[: len(whole) // 2] if how == "cut" else _flipped(whole)
        return [(0.0, message)]

    liar.meddle = meddle
    at = a.board.app.send("connect", to=b.name)
    a.board.app.wait_for("connect-failed", "connected", after=at)
    a.board.app.pump(0.3)
    prints = {one["fingerprint"] for one in a.events("connected")}
    assert not prints & {one["fingerprint"] for one in b.events("accepted")}
    assert b.events("accepted") == [], "it takes nobody for the other board"
    liar.meddle = lambda message: [(0.0, message)]
    alive(a)
    alive(b)


def _flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def test_anothers_certificate_is_no_session(boards, manager, liar):
    """The liar puts itself between: it answers with the certificate of the board that asks."""
    a, b = join(boards, manager, liar)
    certificates = {}

    def meddle(message):
        if s.CREDENTIAL in message:
            certificates[message[s.FROM]] = message[s.CREDENTIAL]
            message[s.CREDENTIAL] = certificates[a.name]
        return [(0.0, message)]

    liar.meddle = meddle
    with pytest.raises(BenchProblem, match="no session"):
        a.connect(b)
    alive(b)


def test_late_messages(boards, manager, liar):
    a, b = join(boards, manager, liar)
    liar.meddle = lambda message: [(0.4, message)]
    a.connect(b)
    sent = send(a, b, 1)
    b.board.app.wait_for("record-received", data=sent[0])
