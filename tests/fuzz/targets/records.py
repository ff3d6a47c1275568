"""Records in any order, lost, repeated and forged, against a model of what must be let in.

Input: steps, each a byte and what it needs.
"""

from fuzz.kit import Source, attempt, crypto, edit
from keyferry_core import records
from keyferry_core._compat import sha256
from keyferry_core.errors import AuthenticationError, LocalError

_STEPS = 48
_PRK_OUT = sha256(b"prk_out")
_CONTEXT = sha256(b"context")


def _state(box: records.Records) -> tuple:
    return (
        box.sent,
        box.received,
        box._highest,
        box._seen,
        box._send.generation,
        box._receive.generation,
        box._previous and box._previous.generation,
    )


class _Model:
    """What the sender has sent: record -> (number, generation, kind, data)."""

    def __init__(self) -> None:
        backend = crypto(b"records")
        self.sender = records.Records(backend, _PRK_OUT, b"\x0a", b"\x0b", _CONTEXT)
        self.receiver = records.Records(backend, _PRK_OUT, b"\x0b", b"\x0a", _CONTEXT)
        self.sent = {}
        self.order = []
        self.accepted = {}

    def send(self, data: bytes, kind: int) -> None:
        number = self.sender.sent
        if number >= records.MAX_RECORDS - (kind == records.DATA):
            before = _state(self.sender)
            try:
                self.sender.protect(data, kind)
            except LocalError:
                assert _state(self.sender) == before
                return
            raise AssertionError("a record past the end of the keys")
        record = self.sender.protect(data, kind)
        assert record not in self.sent
        assert len(record) <= len(data) + 22
        self.sent[record] = (number, self.sender._send.generation, kind, data)
        self.order.append(record)

    def expected(self, record: bytes) -> bool:
        if record not in self.sent:
            return False
        number, generation, _, _ = self.sent[record]
        if number in self.accepted:
            return False
        if self.accepted and number <= max(self.accepted) - records.WINDOW:
            return False
        current = self.receiver._receive.generation
        previous = self.receiver._previous
        if generation == current or (previous and generation == previous.generation):
            return True
        # whole generations may be lost, but two bits of each are all that a record shows
        if previous and not (generation - previous.generation) & 3:
            return False
        return current < generation <= current + 3

    def elapse(self, seconds: int) -> None:
        for box in (self.sender, self.receiver):
            generation = box._send.generation
            assert box.elapse(seconds) == (box.age < records.MAX_SECONDS)
            assert box._send.generation - generation in (0, 1)
        if seconds >= records.KEEP_SECONDS:
            late = self.receiver.age - self.receiver._followed_at
            assert self.receiver._previous is None or late < records.KEEP_SECONDS

    def deliver(self, record: bytes) -> None:
        expected = self.expected(record)
        before = _state(self.receiver)
        forged = self.receiver.forged
        good, result = attempt(self.receiver.unprotect, record)
        assert good == expected
        if good:
            number, generation, kind, data = self.sent[record]
            assert result == (kind, data)
            assert self.receiver.forged == forged
            assert self.receiver._receive.generation >= generation
            self.accepted[number] = True
            assert self.receiver.received == len(self.accepted)
            assert self.receiver._seen < 1 << records.WINDOW
        else:
            assert _state(self.receiver) == before
            wrong = isinstance(result, AuthenticationError)
            assert self.receiver.forged == forged + (1 if wrong else 0)


def _run(data: bytes) -> None:
    source = Source(data)
    model = _Model()
    for _ in range(_STEPS):
        if not source.more():
            return
        choice = source.byte()
        step = choice & 7
        if step == 0:
            model.send(bytes(source.byte()), records.DATA)
        elif step == 1:
            model.send(bytes((choice >> 3,)), records.CLOSE if choice & 128 else records.DATA)
            if model.order:
                model.deliver(model.order[-1])
        elif step == 2 and model.order:
            model.deliver(model.order[source.byte() % len(model.order)])
        elif step == 3 and model.order:
            model.deliver(edit(model.order[source.byte() % len(model.order)], source, 3))
        elif step == 4:
            model.deliver(source.take(choice >> 3))
        elif step == 5 and choice & 8:
            model.elapse(source.byte() * 900)
        elif step == 5:
            model.sender.update_keys()
        elif step == 6:  # records that were lost on the way
            ahead = model.sender.sent + (source.byte() << (choice >> 3 & 15))
            model.sender.sent = min(ahead, records.MAX_RECORDS)
        elif step == 7:  # a frame made up around a number ahead
            head = bytes((choice >> 3 | 1,)) + source.take((choice >> 3 & 7) | 1)
            model.deliver(head + bytes(16 + (source.byte() & 15)))


def decode(data: bytes) -> object:
    return _run(data)


def one_input(data: bytes) -> None:
    _run(data)


def seeds() -> list:
    found = [
        bytes((1, 9, 17, 2, 0, 2, 1, 2, 2)),  # in order, then again
        bytes((0, 5, 0, 6, 0, 7, 2, 2, 2, 1, 2, 0, 2, 1)),  # backwards
        bytes((0, 9, 1, 5, 1, 2, 0, 5, 1, 2, 0, 1)),  # new keys, an old record late
        bytes((0, 1, 5, 0, 1, 5, 0, 1, 2, 2, 2, 1, 2, 0)),  # two new keys in flight
        bytes((1, 0, 3, 6, 100, 1, 2, 1, 3, 0, 1, 0, 0, 5, 1)),  # a leap, a forgery
        bytes((0, 0, 6 | 15 << 3, 30, 1, 2, 0, 4 | 31 << 3)) + bytes(31),
        bytes((5, 5, 1, 5, 5, 5, 5, 1, 0, 1)),
        bytes((0, 9, 1, 13, 97, 0, 5, 1, 2, 0)),  # a day, an old record late
        bytes((0, 9, 1, 13, 97, 0, 5, 1, 13, 5, 2, 1)),  # and an hour too late
        bytes((1, 5, 0, 5, 0, 5, 1, 1, 2, 1, 2, 0)),  # whole generations lost
        bytes((0, 7, 3, 0, 1, 0, 0, 0, 16, 2, 0)),
    ]
    # at the near end of the window and past it
    found += [bytes((0, 9, 6, ahead, 1, 2, 0)) for ahead in (62, 63, 64)]
    found += [bytes((0, 9, 5, 6, ahead, 1, 1, 2, 0)) for ahead in (61, 62, 63)]
    return found + [found[2] + found[4] + found[1], found[0] + found[3]]
