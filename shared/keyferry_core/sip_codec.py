"""SIP messages (RFC 3261, section 7): out of a stream or a datagram, and built.

``Reader`` cuts a stream into messages by their Content-Length (section 18.3); ``parse`` reads one
datagram. Both give a ``Message`` with start line, fields and body, and look into no field's value
but Content-Length: ``sip_check.check`` holds a message to the grammar and to what a request must
have, and ``Message`` parses a single field when it is asked for it.

Every refusal is a SipError with the status that answers it. After one of Reader's, nothing of the
stream can be trusted: answer if the error has a message, and close.

``request``, ``response`` and ``encode`` build. Field values are bytes; what could end a line early
is a LocalError.
"""

from keyferry_core import utf8
from keyferry_core.errors import LocalError
from keyferry_core.sip_fields import Address, SipError, Via, address, cseq, is_token, number, split

# Bounds: bytes of the start line and all fields, bytes of a body, fields, lines.
MAX_HEAD = 16384
MAX_BODY = 16384
MAX_FIELDS = 128

_PLAIN = bytes(range(0x20, 0x7F)) + b"\t\r\n"
_LWS = b" \t"
_COMPACT = (
    (b"a", b"accept-contact"),
    (b"b", b"referred-by"),
    (b"c", b"content-type"),
    (b"d", b"request-disposition"),
    (b"e", b"content-encoding"),
    (b"f", b"from"),
    (b"i", b"call-id"),
    (b"j", b"reject-contact"),
    (b"k", b"supported"),
    (b"l", b"content-length"),
    (b"m", b"contact"),
    (b"o", b"event"),
    (b"r", b"refer-to"),
    (b"s", b"subject"),
    (b"t", b"to"),
    (b"u", b"allow-events"),
    (b"v", b"via"),
    (b"x", b"session-expires"),
    (b"y", b"identity"),
)
# One text and not a dict: on a board it stays in flash.
_REASONS = """
100 Trying
180 Ringing
200 OK
202 Accepted
400 Bad Request
401 Unauthorized
403 Forbidden
404 Not Found
405 Method Not Allowed
406 Not Acceptable
408 Request Timeout
413 Request Entity Too Large
414 Request-URI Too Long
415 Unsupported Media Type
416 Unsupported URI Scheme
420 Bad Extension
421 Extension Required
423 Interval Too Brief
430 Flow Failed
440 Max-Breadth Exceeded
480 Temporarily Unavailable
481 Call/Transaction Does Not Exist
482 Loop Detected
483 Too Many Hops
486 Busy Here
487 Request Terminated
488 Not Acceptable Here
491 Request Pending
500 Server Internal Error
501 Not Implemented
503 Service Unavailable
504 Server Time-out
505 Version Not Supported
513 Message Too Large
600 Busy Everywhere
603 Decline
"""


def reason_phrase(status: int) -> str:
    """The phrase that the standard has for a status; "" for one that is not known here."""
    start = _REASONS.find("\n" + str(status) + " ")
    if start < 0:
        return ""
    return _REASONS[start + 5 : _REASONS.find("\n", start + 1)]


class Message:
    """A request (``method``, ``uri``) or a response (``status``, ``reason``; ``method`` is empty).

    ``fields`` has ``(name, written, value)`` in order: the name in lower case and never compact,
    the name as it was written, the value unfolded and without white space around it.
    """

    def __init__(self, method: bytes, uri: bytes, status: int = 0, reason: bytes = b"") -> None:
        self.method = method
        self.uri = uri
        self.status = status
        self.reason = reason
        self.fields: list[tuple[bytes, bytes, bytes]] = []
        self.body: bytes = b""

    def first(self, name: bytes) -> bytes | None:
        """The value of the first field ``name`` (lower case), None when there is none."""
        for field in self.fields:
            if field[0] == name:
                return field[2]
        return None

    def count(self, name: bytes) -> int:
        """How many fields ``name`` there are."""
        found = 0
        for field in self.fields:
            if field[0] == name:
                found += 1
        return found

    def values(self, name: bytes) -> list[bytes]:
        """All values of all fields ``name``, comma lists taken apart. Raises SipError."""
        found = []
        for field in self.fields:
            if field[0] == name:
                found += split(field[2], b",")
        return found

    def one(self, name: bytes) -> bytes:
        """The value of the only field ``name``. SipError when there is none, or more than one."""
        if self.count(name) != 1:
            raise SipError(400, "a field that is missing, or there more than once")
        return self.first(name) or b""

    def from_(self) -> Address:
        """The From field."""
        return address(self.one(b"from"))

    def to(self) -> Address:
        """The To field."""
        return address(self.one(b"to"))

    def cseq(self) -> tuple[int, bytes]:
        """Number and method of CSeq."""
        return cseq(self.one(b"cseq"))

    def top_via(self) -> Via:
        """The first value of the first Via."""
        value = self.first(b"via")
        if value is None:
            raise SipError(400, "no Via")
        return Via(split(value, b",")[0])

    def add(self, written: bytes, value: bytes) -> None:
        """Add a field at the end."""
        self.fields.append((_name(written), written, value))


def _name(written: bytes) -> bytes:
    name = written.lower()
    if len(name) == 1:
        for short, long in _COMPACT:
            if name == short:
                return long
    return name


# -- reading ---------------------------------------------------------------------------------


def _check_text(head: bytes) -> None:
    """Lines end in CRLF only; controls stand behind a backslash; the rest is UTF-8."""
    if head.strip(_PLAIN):
        pos = 0
        for byte in head:
            # NUL and others may be written in a quoted string, after a backslash (section 25.1)
            if (byte < 0x20 and byte not in b"\t\r\n") or byte == 0x7F:
                if not pos or head[pos - 1] != 0x5C:
                    raise SipError(400, "a control character")
            pos += 1
        if not utf8.is_valid(head):
            raise SipError(400, "not UTF-8")
    if head.find(b"\r") >= 0 or head.find(b"\n") >= 0:
        lines = head.count(b"\r\n")
        if head.count(b"\r") != lines or head.count(b"\n") != lines:
            raise SipError(400, "CR without LF, or LF without CR")


def _start_line(line: bytes) -> Message:
    words = line.split(b" ")
    if line[:8].upper() == b"SIP/2.0 ":
        # the reason may be empty, the space before it may not be missing
        if len(words) < 3 or len(words[1]) != 3:
            raise SipError(400, "a malformed status line")
        status = number(words[1], 699, "the status")
        if status < 100:
            raise SipError(400, "no such status")
        return Message(b"", b"", status, line[12:])
    if len(words) != 3 or not is_token(words[0]) or not words[1]:
        raise SipError(400, "a malformed start line")
    version = words[2].upper()
    if version != b"SIP/2.0":
        digits = version[4:].split(b".")
        if version[:4] == b"SIP/" and len(digits) == 2:
            if digits[0] and digits[1] and not (digits[0] + digits[1]).strip(b"0123456789"):
                raise SipError(505, "another version of SIP")
        raise SipError(400, "a malformed start line")
    return Message(words[0], words[1])


def _parse_head(head: bytes) -> Message:
    """Start line and fields of ``head``, which ends before the empty line."""
    _check_text(head)
    lines = head.split(b"\r\n", 2 * MAX_FIELDS + 1)
    if len(lines) > 2 * MAX_FIELDS:
        raise SipError(513, "too many lines")
    message = None
    error = None
    try:
        message = _start_line(lines[0])
    except SipError as wrong:
        error = wrong  # the fields are read all the same: an answer repeats them
        message = Message(b"", b"")
    unfolded: list[bytes] = []
    for line in lines[1:]:
        if line[:1] == b" " or line[:1] == b"\t":
            if not unfolded:
                raise SipError(400, "a folded line without a field")
            unfolded[-1] += b" " + line.strip(_LWS)
        else:
            unfolded.append(line)
    if len(unfolded) > MAX_FIELDS:
        raise SipError(513, "too many fields")
    for line in unfolded:
        colon = line.find(b":")
        written = line[:colon].rstrip(_LWS)
        if colon < 1 or not is_token(written):
            raise SipError(400, "a line that is no field")
        message.add(written, line[colon + 1 :].strip(_LWS))
    if error is not None:
        error.message = message
        raise error
    return message


def _too_large(head: bytes) -> SipError:
    """The error for a head without an end, with the lines before the one that is cut off."""
    error = SipError(513, "a head that is too large")
    try:
        error.message = _parse_head(head[: head.rfind(b"\r\n")])
    except SipError:
        pass
    return error


def _content_length(message: Message, max_body: int, stream: bool) -> int:
    """The body's length, -1 for "up to the end of the datagram"."""
    found = message.count(b"content-length")
    if found > 1:
        raise SipError(400, "Content-Length twice")
    if not found:
        if stream:
            raise SipError(400, "no Content-Length on a stream")  # section 18.3
        return -1
    length = number(message.first(b"content-length") or b"", 0xFFFFFFFF, "Content-Length")
    if length > max_body and stream:
        raise SipError(513, "a body that is too large")
    return length


def parse(data: bytes, max_body: int = MAX_BODY) -> Message:
    """One message in one datagram (section 18.3). Bytes behind its body are dropped."""
    start = 0
    while data[start : start + 2] == b"\r\n":
        start += 2  # section 7.5
    end = data.find(b"\r\n\r\n", start)
    if end < 0 or end - start > MAX_HEAD:
        if len(data) - start > MAX_HEAD:
            raise SipError(513, "a head that is too large")
        if end < 0:
            raise SipError(400, "no empty line behind the fields")
    message = _parse_head(data[start:end])
    try:
        length = _content_length(message, max_body, False)
        body = data[end + 4 :]
        if length > len(body):
            raise SipError(400, "Content-Length beyond the end")
        if length >= 0:
            body = body[:length]
        if len(body) > max_body:
            raise SipError(513, "a body that is too large")
    except SipError as error:
        error.message = message
        raise
    message.body = body
    return message


class Reader:
    """Messages out of a stream, however it is cut.

    It holds at most ``max_head`` and ``max_body`` bytes of an unfinished message. ``pings`` counts
    the double CRLFs between messages, each of which wants a CRLF back (RFC 5626, section 3.5.1);
    single ones are passed over. After an error every further call raises that error again.
    """

    def __init__(self, max_head: int = MAX_HEAD, max_body: int = MAX_BODY) -> None:
        self._max_head = max_head
        self._max_body = max_body
        self._data = bytearray()
        self._seen = 0  # bytes in which no end of the head was found
        self._message: Message | None = None  # its body has not come yet
        self._length = 0
        self._error: SipError | None = None
        self.pings = 0

    def feed(self, data: bytes) -> None:
        """Take what came. Never raises; call ``next_message`` until None."""
        if self._error is None:
            self._data.extend(data)

    def next_message(self) -> Message | None:
        """The next whole message, or None until more is fed. Raises SipError."""
        if self._error is not None:
            raise self._error
        try:
            return self._next()
        except SipError as error:
            self._error = error
            if error.message is None:
                error.message = self._message
            self._message = None
            self._data = bytearray()
            raise

    @property
    def waiting(self) -> bool:
        """Whether a message has begun that has not ended."""
        return self._message is not None or len(self._data) > 0

    @property
    def missing(self) -> int:
        """Bytes of a body that have not come yet; 0 while its head has not."""
        return 0 if self._message is None else self._length - len(self._data)

    def without_body(self) -> Message | None:
        """Give up the body that is coming: its head. The next ``missing`` bytes, as they were
        before this call, must not be fed."""
        message, self._message = self._message, None
        self._data = bytearray()
        return message

    def _drop(self, count: int) -> None:
        # MicroPython has no del of a slice
        self._data = bytearray(memoryview(self._data)[count:])
        self._seen = 0

    def _skip_lines(self) -> bool:
        """Pass over CRLFs before a message. False when more must come to go on."""
        pos = 0
        data = self._data
        while pos < len(data) and data[pos] == 13:
            if pos + 1 == len(data):
                break
            if data[pos + 1] != 10:
                raise SipError(400, "CR without LF")
            if data[pos + 2 : pos + 4] == b"\r\n":
                self.pings += 1
                pos += 2
            elif pos + 3 >= len(data):  # it may still become two
                break
            pos += 2
        if pos:
            self._drop(pos)
        return len(self._data) > 0 and self._data[0] != 13

    def _next(self) -> Message | None:
        if self._message is None:
            if not self._seen and not self._skip_lines():
                return None
            data = self._data
            start = max(0, self._seen - 3)
            end = bytes(memoryview(data)[start:]).find(b"\r\n\r\n")  # a bytearray cannot on boards
            if end >= 0:
                end += start
            if end > self._max_head or (end < 0 and len(data) > self._max_head + 3):
                raise _too_large(bytes(memoryview(data)[: self._max_head]))
            if end < 0:
                self._seen = len(data)
                return None
            self._message = _parse_head(bytes(memoryview(data)[:end]))
            self._length = _content_length(self._message, self._max_body, True)
            self._drop(end + 4)
        if len(self._data) < self._length:
            return None
        message = self._message
        message.body = bytes(memoryview(self._data)[: self._length])
        self._message = None
        self._drop(self._length)
        return message

    def __iter__(self) -> "Reader":
        return self

    def __next__(self) -> Message:
        message = self.next_message()
        if message is None:
            raise StopIteration
        return message


# -- building --------------------------------------------------------------------------------


def encode(message: Message) -> bytes:
    """The bytes of a message, with the Content-Length of its body."""
    if message.method:
        lines = [message.method + b" " + message.uri + b" SIP/2.0"]
        if not is_token(message.method) or message.uri.find(b" ") >= 0:
            raise LocalError("bad-argument", "sip: bad method or URI")
    else:
        lines = [b"SIP/2.0 " + str(message.status).encode() + b" " + message.reason]
        if not 100 <= message.status <= 699:
            raise LocalError("bad-argument", "sip: bad status")
    for name, written, value in message.fields:
        if name != b"content-length":
            lines.append(written + b": " + value)
    lines.append(b"Content-Length: " + str(len(message.body)).encode())
    for line in lines:
        if line.find(b"\r") >= 0 or line.find(b"\n") >= 0:
            raise LocalError("bad-argument", "sip: a line break inside a field")
    lines.append(b"")
    lines.append(message.body)
    return b"\r\n".join(lines)


def request(
    method: bytes, uri: bytes, fields: list[tuple[bytes, bytes]], body: bytes = b""
) -> Message:
    """A request of ``(name, value)`` fields in this order. Content-Length is ``encode``'s."""
    message = Message(method, uri)
    for written, value in fields:
        if not is_token(written):
            raise LocalError("bad-argument", "sip: bad field name")
        message.add(written, value)
    message.body = body
    return message


def response(
    to: Message, status: int, tag: bytes = b"", reason: str = "", body: bytes = b""
) -> Message:
    """An answer to the request ``to`` (section 8.2.6.2): its Via, From, To, Call-ID and CSeq.

    ``tag`` goes to a To without one. Fields beyond these are added by the caller. ``to`` may be the
    message of a SipError: what it lacks is left out.
    """
    message = Message(b"", b"", status, (reason or reason_phrase(status)).encode())
    for name, written, value in to.fields:
        if name in (b"via", b"from", b"call-id", b"cseq", b"timestamp"):
            message.fields.append((name, written, value))
        elif name == b"to":
            if tag and not _has_tag(value):
                value += b";tag=" + tag
            message.fields.append((name, written, value))
    message.body = body
    return message


def _has_tag(value: bytes) -> bool:
    try:
        return address(value).get(b"tag") is not None
    except SipError:
        return True  # unreadable: leave it as it came
