"""The HTTP answers of enrolment: read the same however they are cut, and as h11 reads them.

Input: the choice of a largest body, two sizes of pieces, then the stream; its end follows it.
"""

from fuzz.kit import pieces
from keyferry_core._compat import CPYTHON
from keyferry_core.errors import DecodeError, StateError
from keyferry_core.est_codec import MAX_FIELDS, MAX_LINES, ResponseReader

second_opinion = None
if CPYTHON:
    from fuzz import second_opinion

_LIMITS = (64, 0, 1024, 16384)
_ONCE = (b"content-length:", b"transfer-encoding:", b"content-type:", b"retry-after:")


def _read(parts: list, limit: int) -> tuple:
    reader = ResponseReader(limit)
    try:
        for part in parts:
            reader.feed(part)
            assert len(reader._line) <= MAX_LINES
            assert len(reader._parts) <= limit
        reader.eof()
    except DecodeError as error:
        for call, arguments in ((reader.feed, (b"x",)), (reader.eof, ())):
            try:
                call(*arguments)
            except StateError:
                continue
            raise AssertionError("a reader that goes on after an error")
        return (error.name, error.detail)
    assert reader.done
    return reader.status, reader.headers, reader.body, reader.reusable


def decode(data: bytes) -> object:
    return _read([data[3:]], _LIMITS[3])


def one_input(data: bytes) -> None:
    if len(data) < 3:
        return
    limit = _LIMITS[data[0] & 3]
    stream = data[3:]
    whole = _read([stream], limit)
    assert _read(pieces(stream, b"\x00"), limit) == whole
    assert _read(pieces(stream, data[1:3]), limit) == whole
    if len(whole) == 2:
        return
    status, headers, body, _ = whole
    assert 200 <= status <= 599
    assert len(headers) <= MAX_FIELDS
    assert len(body) <= limit
    if stream.count(b"HTTP/1.") == 1:  # no interim answer before it
        lines = stream[: stream.find(b"\r\n\r\n")].lower().split(b"\r\n")
        for name in _ONCE:
            assert len([line for line in lines if line.startswith(name)]) <= 1
    if second_opinion:
        second_opinion.answer(stream, status, headers, body)


def seeds() -> list:
    answers = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/pkcs7-mime\r\nContent-Length: 4\r\n\r\nMIIB",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nMIIB\r\nA;x=y\r\n0123456789"
        b"\r\n0\r\nTrailer: t\r\n\r\n",
        b"HTTP/1.1 202 Accepted\r\nRetry-After: 120\r\nContent-Length: 0\r\n\r\n",
        b'HTTP/1.1 401 \r\nWWW-Authenticate: Basic realm="a"\r\nConnection: close\r\n\r\nto the '
        b"end",
        b"HTTP/1.0 404 Not Found\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\nSet-Cookie: a\r\n"
        b"Set-Cookie: b\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded: a\r\n\r\n",
        b"HTTP/1.1 202 Accepted\r\nRetry-After: 1\r\nretry-after: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n",
    )
    found = [b"\x03\x02\x07" + answer for answer in answers]
    # bodies at the smallest limit and past it
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\n" + b"x" * 32 + b"\r\n"
    for extra in (b"", b"y"):
        found.append(b"\x00\x02\x07HTTP/1.1 200 OK\r\n\r\n" + b"x" * 64 + extra)
        last = b"2" + (b"1" if extra else b"0") + b"\r\n" + b"x" * 32 + extra
        found.append(b"\x00\x02\x07" + chunked + last + b"\r\n0\r\n\r\n")
        found.append(b"\x01\x02\x07HTTP/1.1 200 OK\r\n\r\n" + extra)
    return found
