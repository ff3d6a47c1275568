"""Enrolment (EST, RFC 7030) from the client's side: HTTP/1.1 without a socket, and EST's bodies.

``request`` makes the bytes of a request, ``ResponseReader`` takes those of its answer as they
come. Messages are held to RFC 9112 with no leniency: whatever two readers could take for two
different messages is refused.
"""

import binascii

from keyferry_core import der
from keyferry_core.errors import DecodeError, LocalError, StateError

# Of one answer: bytes of all lines, trailers and chunk sizes included; header fields; interim
# answers (1xx) before the final one.
MAX_LINES = 4096
MAX_FIELDS = 32
MAX_INTERIM = 4

# Six while a CA rolls over: two roots, each with an issuing CA, and certified by the other.
MAX_CERTIFICATES = 8
# Characters of a certs-only body: as many certificates of 1 KiB, their wrapping, line breaks.
MAX_CERTS_BODY = 12288

PKCS10 = "application/pkcs10"

# ContentType pkcs7-signedData and pkcs7-data (RFC 5652, sections 5.1 and 4), whole OIDs.
_SIGNED_DATA = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02"
_DATA = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01"

_STATUS, _HEADER, _LENGTH, _CHUNK_SIZE, _CHUNK, _CHUNK_END, _TRAILER, _TO_END, _DONE = range(9)
_TOKEN = b"!#$%&'*+-.^_`|~"
# Said twice, these could be read in two ways; other fields may come as several lines.
_ONCE = ("content-length", "transfer-encoding", "content-type", "location", "retry-after")


def basic(name: str, token: str) -> str:
    """The value of ``Authorization`` for a name and its one-time token (RFC 7617)."""
    if ":" in name:
        raise LocalError("bad-argument", "est: a name with ':'")
    return "Basic " + str(binascii.b2a_base64((name + ":" + token).encode())[:-1], "utf-8")


def request(
    method: str,
    path: str,
    host: str,
    body: bytes = b"",
    content_type: str = "",
    authorization: str = "",
    accept: str = "",
) -> bytes:
    """The bytes of one request. The connection stays open for the next one.

    LocalError for a value with a character that would change the message around it.
    """
    for value in (method, path, host):
        if not value or " " in value:
            raise LocalError("bad-argument", "http: a method, path or host that is not one word")
    lines = [method + " " + path + " HTTP/1.1", "Host: " + host]
    if accept:
        lines.append("Accept: " + accept)
    if authorization:
        lines.append("Authorization: " + authorization)
    if content_type:
        lines.append("Content-Type: " + content_type)
    if content_type == PKCS10:
        # RFC 8951, section 3.1, drops this line; servers after RFC 7030 may still insist on it.
        lines.append("Content-Transfer-Encoding: base64")
    if body or method == "POST":
        lines.append("Content-Length: " + str(len(body)))
    for line in lines:
        for char in line:
            if not " " <= char <= "~":
                raise LocalError("bad-argument", "http: a character that a header cannot have")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


class ResponseReader:
    """Reads the answer to one request; never for HEAD or CONNECT, whose answers differ.

    ``done`` turns True when all of it is there; then ``status`` (200 to 599), ``headers`` (names
    in lower case; the lines of a field that came several times are joined by a comma) and
    ``body`` hold it. ``reusable``: the connection can carry another request.

    DecodeError for anything else than a well-formed answer, ``too-large`` when it is larger than
    ``max_body`` bytes or has more lines than there is room for. The reader is of no use after it.
    """

    def __init__(self, max_body: int = 16384) -> None:
        self.done = False
        self.reusable = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self._max_body = max_body
        self._failed = False
        self._begin()
        self._interim = 0
        self._room = MAX_LINES

    def _begin(self) -> None:
        self._state = _STATUS
        self._line = bytearray()
        self._fields = 0
        self._left = 0
        self._parts = bytearray()
        self._old = False
        self.headers = {}

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the connection, as many as there are."""
        self._guard()
        pos = 0
        while pos < len(data):
            state = self._state
            if state == _DONE:
                raise DecodeError("http: bytes after the answer")
            if state in (_LENGTH, _CHUNK, _TO_END):
                pos = self._take(data, pos)
            else:
                pos = self._take_line(data, pos)
        self._failed = False

    def eof(self) -> None:
        """The connection has ended. DecodeError when the answer has not."""
        self._guard()
        if self._state == _TO_END:
            self._finish()
        elif self._state != _DONE:
            raise DecodeError("http: the answer was cut short")
        self.reusable = False
        self._failed = False

    def _guard(self) -> None:
        """Until the call has come to its end, it counts as one that failed."""
        if self._failed:
            raise StateError("http: this reader has refused its answer")
        self._failed = True

    def _take(self, data: bytes, pos: int) -> int:
        count = len(data) - pos
        if self._state == _TO_END:
            if count > self._max_body - len(self._parts):
                raise DecodeError("http: a body that is too large", "too-large")
        elif count > self._left:
            count = self._left
        self._parts.extend(data[pos : pos + count])
        if self._state != _TO_END:
            self._left -= count
            if not self._left:
                if self._state == _LENGTH:
                    self._finish()
                else:
                    self._state = _CHUNK_END
        return pos + count

    def _take_line(self, data: bytes, pos: int) -> int:
        line = self._line
        while pos < len(data):
            byte = data[pos]
            pos += 1
            if not self._room:
                raise DecodeError("http: too many or too long lines", "too-large")
            self._room -= 1
            if line and line[-1] == 13:
                if byte != 10:
                    raise DecodeError("http: CR without LF")
                self._line = bytearray()
                self._end_line(bytes(line[:-1]))
                break
            if (byte < 0x20 and byte != 9 and byte != 13) or byte == 0x7F:
                raise DecodeError("http: a control character, or LF without CR")
            line.append(byte)
        return pos

    def _end_line(self, line: bytes) -> None:
        state = self._state
        if state == _STATUS:
            self._status_line(line)
        elif state == _HEADER or state == _TRAILER:
            if line:
                self._fields += 1
                if self._fields > MAX_FIELDS:
                    raise DecodeError("http: too many header fields", "too-large")
                name, value = _field(line)
                if state == _HEADER:  # trailers are checked and dropped
                    self._add(name, value)
            elif state == _HEADER:
                self._end_headers()
            else:
                self._finish()
        elif state == _CHUNK_SIZE:
            self._left = _chunk_size(line)
            if self._left > self._max_body - len(self._parts):
                raise DecodeError("http: a body that is too large", "too-large")
            self._state = _CHUNK if self._left else _TRAILER
        else:
            if line:
                raise DecodeError("http: a chunk longer than it said")
            self._state = _CHUNK_SIZE

    def _status_line(self, line: bytes) -> None:
        """RFC 9112, section 4: HTTP/1.1, three digits, and a reason that nobody reads."""
        if line[:8] != b"HTTP/1.1" and line[:8] != b"HTTP/1.0":
            raise DecodeError("http: not an answer of HTTP/1.1")
        if line[8:9] != b" " or line[12:13] != b" ":
            raise DecodeError("http: a malformed status line")
        self._old = line[7] == 0x30
        self.status = _number(line[9:12])
        if not 100 <= self.status <= 599:
            raise DecodeError("http: no such status")
        self._state = _HEADER

    def _add(self, name: str, value: str) -> None:
        if name in self.headers:
            if name in _ONCE:
                raise DecodeError("http: " + name + " twice")
            value = self.headers[name] + ", " + value
        self.headers[name] = value

    def _end_headers(self) -> None:
        """How long the body is: RFC 9112, section 6.3."""
        if self.status < 200:
            self._interim += 1
            if self.status == 101 or self._interim > MAX_INTERIM:
                raise DecodeError("http: an interim answer that was not asked for")
            # It has no body, so it must not speak of one (RFC 9110, section 8.6; RFC 9112, 6.1):
            # whoever believes it would take the final answer for that body.
            if "content-length" in self.headers or "transfer-encoding" in self.headers:
                raise DecodeError("http: an interim answer with a body")
            self._begin()
            return
        headers = self.headers
        length = headers.get("content-length")
        coding = headers.get("transfer-encoding")
        options = [option.strip() for option in headers.get("connection", "").lower().split(",")]
        self.reusable = not self._old and "close" not in options
        size = 0
        if length is not None:
            size = _number(length.encode())
        if coding is not None:
            if length is not None or self._old or self.status == 204:
                raise DecodeError("http: Transfer-Encoding where it cannot be")
            if coding.lower() != "chunked":
                raise DecodeError("http: a transfer coding other than chunked", "unsupported")
        if self.status in (204, 304):
            self._finish()
        elif coding is not None:
            self._state = _CHUNK_SIZE
        elif length is None:
            self.reusable = False
            self._state = _TO_END
        elif size > self._max_body:
            raise DecodeError("http: a body that is too large", "too-large")
        elif size:
            self._left = size
            self._state = _LENGTH
        else:
            self._finish()

    def _finish(self) -> None:
        self.body = bytes(self._parts)
        self._parts = bytearray()
        self._state = _DONE
        self.done = True


def _number(text: bytes) -> int:
    """Decimal digits, one to nine, and nothing else."""
    if not 1 <= len(text) <= 9:
        raise DecodeError("http: expected a number")
    for byte in text:
        if not 0x30 <= byte <= 0x39:
            raise DecodeError("http: expected a number")
    return int(text)


def _chunk_size(line: bytes) -> int:
    """RFC 9112, section 7.1: up to seven hex digits; extensions are to be ignored."""
    line = line.split(b";")[0].rstrip(b" \t")
    if not 1 <= len(line) <= 7:
        raise DecodeError("http: a malformed chunk size")
    size = 0
    for byte in line:
        digit = b"0123456789abcdefABCDEF".find(bytes((byte,)))
        if digit < 0:
            raise DecodeError("http: a malformed chunk size")
        size = size << 4 | (digit if digit < 16 else digit - 6)
    return size


def _field(line: bytes) -> tuple[str, str]:
    """Name, in lower case, and value of a header line (RFC 9112, section 5). No line folding."""
    colon = line.find(b":")
    if colon < 1:
        raise DecodeError("http: a line without a name")
    for byte in line[:colon]:
        if not (0x30 <= byte <= 0x39 or 0x41 <= byte & 0xDF <= 0x5A or byte in _TOKEN):
            raise DecodeError("http: a malformed header name")
    # Bytes above 127 have no agreed meaning (section 5.5 of RFC 9110): kept one by one.
    value = "".join([chr(byte) for byte in line[colon + 1 :].strip(b" \t")])
    return str(line[:colon], "utf-8").lower(), value


def encode_request(encoded: bytes) -> bytes:
    """The body for a request in DER: base64 without line breaks (RFC 8951, section 3.1)."""
    return binascii.b2a_base64(encoded)[:-1]


def parse_certs(body: bytes) -> list[bytes]:
    """The certificates, each DER, of a base64 certs-only body (RFC 7030, sections 4.1.3, 4.2.3).

    One to MAX_CERTIFICATES, none of them looked into. They are a set: their order says nothing
    about who issued whom. White space in the base64 is let pass; DecodeError for everything else.
    """
    if len(body) > MAX_CERTS_BODY:
        raise DecodeError("est: too much for a few certificates", "too-large")
    return parse_pkcs7(_unbase64(body))


def _unbase64(text: bytes) -> bytearray:
    # The decoders of both runtimes skip what is not base64. So it is encoded again and compared,
    # in pieces: a small heap has no room for the lines, nor for a result that grows.
    size = len(text)
    for space in b" \t\n\r\x0b\x0c":
        size -= text.count(bytes((space,)))
    out = bytearray(max(size // 4 * 3 - text.count(b"="), 0))
    at = 0
    rest = b""
    for start in range(0, len(text), 256):
        rest += b"".join(text[start : start + 256].split())
        whole = len(rest) // 4 * 4
        piece = rest[:whole]
        rest = rest[whole:]
        try:
            data = binascii.a2b_base64(piece)
        except ValueError:
            raise DecodeError("est: not base64") from None
        if binascii.b2a_base64(data)[:-1] != piece or (piece and at % 3):
            raise DecodeError("est: not base64")
        end = at + len(data)
        if end > len(out):
            raise DecodeError("est: not base64")
        out[at:end] = data
        at = end
    if rest or at != len(out):
        raise DecodeError("est: not base64")
    return out


def parse_pkcs7(encoded: bytes | bytearray) -> list[bytes]:
    """The certificates of a degenerate SignedData in DER (RFC 5652, section 5): nothing signed.

    Revocation lists beside them are passed over: EST clients are to ignore them.
    """
    outer = der.Reader(encoded)
    info = outer.enter(der.SEQUENCE)
    outer.finish()
    if not info.match(_SIGNED_DATA):
        raise DecodeError("est: not PKCS#7 signed data")
    explicit = info.enter(0xA0)
    info.finish()
    signed = explicit.enter(der.SEQUENCE)
    explicit.finish()
    if signed.integer(1) != 1:
        raise DecodeError("est: another version of signed data")
    signed.enter(der.SET).finish()
    content = signed.enter(der.SEQUENCE)
    if not content.match(_DATA):
        raise DecodeError("est: signed data with content")
    content.finish()
    certificates = []
    each = signed.enter(0xA0)
    while each.more() or not certificates:
        if len(certificates) == MAX_CERTIFICATES:
            raise DecodeError("est: too many certificates", "too-large")
        certificates.append(each.raw(der.SEQUENCE))
    if signed.peek() == 0xA1:
        signed.skip()
    signed.enter(der.SET).finish()
    signed.finish()
    return certificates
