"""What a connection remembers of its messages changes nothing: the core is the oracle.

Every stream is read twice, by the core's Reader and ``sip_check``, and by a LinkReader that has
seen the samples before. Both must take the same messages, with the same fields and the same names
in them, and refuse the same.
"""

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyferry_core import sip_check, sip_codec
from keyferry_core.sip_codec import Message
from keyferry_core.sip_fields import SipError
from keyferry_manager.carriers.sip.reading import LONGEST, PER_LINK, LinkReader
from keyferry_manager.carriers.sip.shapes import Read, branch_of

TORTURE = sorted((Path(__file__).parent.parent / "vectors" / "rfc4475").glob("*.dat"))
HEAD = (
    b"Via: SIP/2.0/TLS 127.0.0.1:50123;branch=z9hG4bK%(n)d;rport\r\n"
    b"Max-Forwards: 70\r\n"
    b"From: <sip:pump-7@plant.example>;tag=t%(n)d\r\n"
    b"To: <sip:valve-2@plant.example>%(to)s\r\n"
    b"Call-ID: call-%(n)d@pump-7\r\n"
    b"CSeq: %(n)d %(method)s\r\n"
)
LEG = b'Hop-Security: addr="127.0.0.1:50123";leg=1;transport=tls;auth=mutual\r\n'


def sample(start: bytes, method: bytes, n: int, extra: bytes = b"", body: bytes = b"") -> bytes:
    to = b";tag=callee" if start.startswith(b"SIP") else b""
    head = HEAD % {b"n": n, b"method": method, b"to": to}
    return b"%b\r\n%b%bContent-Length: %d\r\n\r\n%b" % (start, head, extra, len(body), body)


def samples(n: int) -> list[bytes]:
    uri = b"sip:valve-2@plant.example"
    sdp = (
        b"Contact: <sip:pump-7@127.0.0.1:50123;transport=tls>\r\nContent-Type: application/sdp\r\n"
    )
    second = b"Via: SIP/2.0/TLS plant.example;branch=z9hG4bKabc%d\r\n" % n
    return [
        sample(b"MESSAGE " + uri + b" SIP/2.0", b"MESSAGE", n, LEG, b"x" * (n % 50)),
        sample(b"INVITE " + uri + b" SIP/2.0", b"INVITE", n, LEG + sdp, b"v=0"),
        sample(b"REGISTER sip:plant.example SIP/2.0", b"REGISTER", n, b"Expires: 600\r\n"),
        sample(b"SIP/2.0 200 OK", b"MESSAGE", n),
        sample(b"SIP/2.0 200 OK", b"INVITE", n, second + sdp, b"v=0"),
        sample(b"SIP/2.0 480 Temporarily Unavailable", b"INVITE", n, b'Warning: 399 a "b"\r\n'),
        sample(b"OPTIONS sip:plant.example SIP/2.0", b"OPTIONS", n, b"Accept: text/plain\r\n"),
        # for the manager itself no hop need be left
        sample(b"OPTIONS sip:plant.example SIP/2.0", b"OPTIONS", n).replace(b": 70", b": 0"),
    ]


def shown(message: Message) -> tuple[Any, ...]:
    """All that somebody could act on."""
    parties = []
    for party in (message.from_(), message.to()):
        parties.append((party.display, party.raw, party.uri.user, party.uri.host, party.params))
    first = [message.first(name) for name, _, _ in message.fields]
    counts = [message.count(name) for name, _, _ in message.fields]
    start = message.method, message.uri, message.status, message.reason
    rest = message.cseq(), branch_of(message), message.body
    return start, list(message.fields), parties, first, counts, rest


def outcome(reader: Any, learns: bool) -> list[Any]:
    """Every message that ``reader`` has, up to the first that breaks the stream."""
    found: list[Any] = []
    try:
        while (message := reader.next_message()) is not None:
            try:
                if not isinstance(message, Read):
                    sip_check.check(message, (b"outbound",), False)
                    if learns:
                        reader.learn(message)
                found.append(shown(message))
            except SipError as error:
                found.append((error.sip_status, error.detail))
    except SipError as error:
        found.append(("broken", error.sip_status, error.detail))
    return found


def taught() -> LinkReader:
    """A reader that knows all samples."""
    reader = LinkReader(16384)
    for n in (1, 2, 3):
        for data in samples(n):
            reader.feed(data)
            assert len(outcome(reader, True)) == 1
    return reader


def expected(*pieces: bytes) -> list[Any]:
    core = sip_codec.Reader(max_body=16384)
    found: list[Any] = []
    for piece in pieces:
        core.feed(piece)
        found += outcome(core, False)
    return found


def test_what_repeats_is_read_from_memory() -> None:
    reader = taught()
    for data in samples(77):
        reader.feed(data)
        message = reader.next_message()
        assert isinstance(message, Read), data
        assert [shown(message)] == expected(data)
        assert reader.next_message() is None
        assert not reader.waiting


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 333, 5000])
def test_however_a_stream_is_cut(size: int) -> None:
    stream = b"".join(data for n in (8, 9, 10) for data in samples(n))
    stream += b"\r\n\r\n" + samples(11)[0] + b"\r\n" + samples(12)[3]
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    reader = taught()
    found: list[Any] = []
    for piece in pieces:
        reader.feed(piece)
        found += outcome(reader, True)
    assert found == expected(stream)
    assert len(found) == 3 * len(samples(1)) + 2
    assert reader.pings == 1


@pytest.mark.parametrize("path", TORTURE, ids=lambda path: path.stem)
def test_torture(path: Path) -> None:
    data = path.read_bytes()
    reader = taught()
    for _ in range(3):  # at first unknown, then perhaps from memory
        reader.feed(data)
        assert outcome(reader, True) == expected(data)
        reader = taught() if reader.waiting or expected(data)[-1:] else reader


_BYTES = [*b';,:<>"@ \t\r\n=*%/\\.0a\x00\x7f\xc3', None]
_WORDS = [
    b";tag=x", b";branch=z9hG4bK", b";branch=", b"\r\n ", b"\r\nRequire: gruu",
    b"\r\nFrom: <sip:a@b>",
    b"\r\nf: <sip:mallory@plant.example>;tag=1", b"\r\nTo: <sip:a@b>", b"\r\nContent-Length: 0",
    b"\r\nl: 3", b"\r\nCSeq: 1 ACK", b"\r\nCall-ID: b", b"\r\nMax-Forwards: 0", b"\r\nContact: *",
    b"\r\nVia: SIP/2.0/TLS x;branch=z9hG4bKq", b"\r\n\r\n", b"9999999999", b"-1", b'"', b"?a=b",
    b"\r\nHop-Security: x", b"\r\nExpires: -", b"SIP/3.0", b"sips:", b"tel:1", b"",
    b"valve-3", b"0",
]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_change_anywhere_has_the_core_s_outcome(data: st.DataObject) -> None:
    reader = taught()
    for number in range(3):
        whole = data.draw(st.sampled_from(samples(20 + number)))
        for _ in range(data.draw(st.integers(0, 2))):
            at = data.draw(st.integers(0, len(whole)))
            cut = data.draw(st.sampled_from([0, 0, 1, 2, 8]))
            word = data.draw(st.sampled_from(_WORDS))
            whole = whole[:at] + word + whole[at + cut :]
        reader.feed(whole)
        found, wanted = outcome(reader, True), expected(whole)
        assert found == wanted
        if reader.waiting or (wanted and wanted[-1][0] == "broken"):
            reader = taught()


def test_changes_at_random() -> None:
    chance = random.Random(5)
    reader = taught()
    for _ in range(4000):
        whole = bytearray(chance.choice(samples(chance.randrange(100))))
        for _ in range(chance.randrange(3)):
            at = chance.randrange(len(whole))
            byte = chance.choice(_BYTES)
            if byte is None:
                del whole[at]
            else:
                whole[at] = byte
        reader.feed(bytes(whole))
        found, wanted = outcome(reader, True), expected(bytes(whole))
        assert found == wanted, bytes(whole)
        if reader.waiting or (wanted and wanted[-1][0] == "broken"):
            reader = taught()


def test_the_memory_is_bounded() -> None:
    reader = LinkReader(16384)
    for n in range(3 * PER_LINK):
        extra = b"X-%d: %b\r\n" % (n, b"y" * (n % (2 * LONGEST)))
        data = sample(b"MESSAGE sip:d-%d@plant.example SIP/2.0" % n, b"MESSAGE", n, extra)
        for _ in range(2):
            reader.feed(data.replace(b"pump-7@", b"pump-%d@" % n))
            assert len(outcome(reader, True)) == 1
    memories = [reader._lines, reader._starts, reader._vias, reader._parties, reader._shapes]
    assert all(0 < len(memory) <= PER_LINK for memory in memories)
    assert all(len(line) <= LONGEST for line in reader._lines)


@pytest.mark.parametrize("which", range(len(samples(1))))
def test_known_lines_where_they_do_not_belong(which: int) -> None:
    """Each line that is remembered, once more and in place of each other one."""
    known = [line for data in samples(3) for line in data.partition(b"\r\n\r\n")[0].split(b"\r\n")]
    reader = taught()
    head, mark, body = samples(30)[which].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    for at in range(1, len(lines) + 1):
        for line in set(known):
            for end in (at, at + 1):
                whole = b"\r\n".join([*lines[:at], line, *lines[end:]]) + mark + body
                reader.feed(whole)
                wanted = expected(whole)
                assert outcome(reader, False) == wanted, whole
                if reader.waiting or (wanted and wanted[-1][0] == "broken"):
                    reader = taught()
