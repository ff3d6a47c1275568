"""Messages out of a device's stream, where what the device repeats is read and checked once.

The core reads and checks a message field by field. A device says nearly the same each time, so the
lines of a message that passed both are remembered for its connection, and a later line with the
same bytes has the same meaning. What differs each time is held to its grammar: the branch in Via,
the tag in From and To, Call-ID and CSeq. Only a message of nothing but such lines is taken here, if
it also keeps the rules between fields. Whatever else there is goes the core's way, whole, and gets
its answer there.
"""

from typing import Any, Final

from keyferry_core import sip_codec
from keyferry_core.sip_codec import MAX_FIELDS, MAX_HEAD, Message
from keyferry_core.sip_fields import Address, SipError, Uri, is_call_id, is_token, parse_uri
from keyferry_manager.carriers.sip.shapes import Read, Shape

# Of one connection: lines that are remembered, and bytes of one. When there are more, all are
# forgotten: a device that sends ever new ones gains nothing, and loses a little.
PER_LINK: Final = 64
LONGEST: Final = 256
# Whole heads: first lines, heads that begin with the same one, bytes of one.
SHAPES: Final = 12
ALIKE: Final = 3
LONGEST_SHAPE: Final = 1024
# May stand once: more of one goes the core's way, which says what is wrong. It has some more
# that do not matter here, since a second value of theirs is checked as a first.
_MUST = frozenset((b"via", b"from", b"to", b"call-id", b"cseq"))
_OFTEN = frozenset((b"via", b"record-route", b"hop-security"))
# Whether these are right depends on more than their own value.
_APART = frozenset((b"require", b"proxy-require"))
_VARYING = {b"Call-ID": b"call-id", b"i": b"call-id", b"CSeq": b"cseq"}

Field = tuple[bytes, bytes, bytes]


class LinkReader:
    """The core's Reader for one connection, with a memory. ``learn`` feeds it."""

    def __init__(self, max_body: int) -> None:
        self._core = sip_codec.Reader(max_body=max_body)
        self._max_body = max_body
        # What came and was not read, from ``_pos`` on. The core has the stream while it has an
        # unfinished message, and from the moment that something could not be read here.
        self._data = b""
        self._pos = 0
        # How often the message at ``_pos`` was found unfinished. After the second time the core
        # gets it, so that of a device that sends byte by byte nothing is read again and again.
        self._begun = 0
        self._broken = False
        self._fed = False
        self._starts: dict[bytes, tuple[bytes, bytes, int, bytes, Uri | None]] = {}
        self._lines: dict[bytes, tuple[Field, Address | int | None]] = {}
        self._vias: dict[tuple[bytes, bytes], Field] = {}
        self._parties: dict[bytes, tuple[Field, Address]] = {}
        # Whole heads, by their first line.
        self._shapes: dict[bytes, list[Shape]] = {}

    def feed(self, data: bytes) -> None:
        """Take what came. Never raises; call ``next_message`` until None."""
        if self._core.waiting or self._broken:
            self._core.feed(data)
        elif self._begun > 1:
            self._core.feed(self._data[self._pos :] + data)
            self._data, self._pos, self._begun = b"", 0, 0
        elif self._pos < len(self._data):
            self._data, self._pos = self._data[self._pos :] + data, 0
        else:
            self._data, self._pos = data, 0
        self._fed = True

    @property
    def waiting(self) -> bool:
        """Whether a message has begun that has not ended."""
        return self._core.waiting or self._pos < len(self._data)

    @property
    def pings(self) -> int:
        """Double CRLFs since ``ponged``."""
        return self._core.pings

    def ponged(self) -> None:
        """They are answered."""
        self._core.pings = 0

    def next_message(self) -> Message | None:
        """The next whole message, or None until more is fed. Raises SipError, for ever then.

        It is a ``Read`` where it passed ``sip_check``; else it was not held to it yet.
        """
        if not self._fed:
            return None
        if self._pos < len(self._data) and not self._core.waiting:
            begun = self._begun
            message = self._take()
            if message is not None:
                self._begun = 0
                return message
            if self._begun > begun:
                self._fed = False
                return None
            self._core.feed(self._data[self._pos :])
            self._data, self._pos, self._begun = b"", 0, 0
        try:
            message = self._core.next_message()
        except SipError:
            self._broken = True
            raise
        if message is None:
            self._fed = False
        return message

    def _take(self) -> Read | None:
        data, pos = self._data, self._pos
        first = data[pos : data.find(b"\r\n", pos)]
        for shape in self._shapes.get(first, ()):
            matched = shape.match(data, pos)
            if matched is not None:
                return self._with_body(*matched)
        end = data.find(b"\r\n\r\n", pos)
        if end < 0:
            # The core says when it is too long.
            if len(data) - pos <= MAX_HEAD and data[pos] != 13:
                self._begun += 1
            return None
        lines = data[pos:end].split(b"\r\n")
        start = self._starts.get(lines[0])
        if start is None or len(lines) > MAX_FIELDS or end - pos > MAX_HEAD:
            return None
        method, uri, status, reason, parsed = start
        message = Read(method, uri, status, reason)
        message.request_uri = parsed
        places, fields = message.places, message.fields
        length, hops = -1, 70
        known = self._lines
        for line in lines[1:]:
            found = known.get(line)
            if found is not None:
                field, value = found
                name = field[0]
                if name in places and name not in _OFTEN:
                    return None
                if value is None:
                    pass
                elif name == b"content-length":
                    assert isinstance(value, int)
                    length = value
                elif name == b"max-forwards":
                    assert isinstance(value, int)
                    hops = value
                elif name == b"from":
                    assert isinstance(value, Address)
                    message.sender = value
                else:
                    assert isinstance(value, Address)
                    message.recipient = value
            else:
                varying = self._varying(line, message)
                if varying is None:
                    return None
                field = varying
                name = field[0]
                if name in places and name not in _OFTEN:
                    return None
            if name not in places:
                places[name] = len(fields)
            fields.append(field)
        if length < 0 or not places.keys() >= _MUST:
            return None
        if parsed is not None:
            if message.sequence[1] != method or (parsed.user and not hops):
                return None
            if method == b"REGISTER" and (parsed.user or not _is_sip(message.to().uri)):
                return None
        if len(data[pos:end]) <= LONGEST_SHAPE:
            self._learn_shape(lines[0], message)
        return self._with_body(message, end + 4, length)

    def _with_body(self, message: Read, start: int, length: int) -> Read | None:
        stop = start + length
        if length > self._max_body:
            return None
        if stop > len(self._data):
            self._begun += 1
            return None
        message.body = self._data[start:stop]
        self._pos = stop
        return message

    def _learn_shape(self, start: bytes, message: Read) -> None:
        if len(self._shapes) >= SHAPES and start not in self._shapes:
            self._shapes.clear()
        known = self._shapes.setdefault(start, [])
        known.insert(0, Shape(start, message))
        del known[ALIKE:]

    def _varying(self, line: bytes, message: Read) -> Field | None:
        """A line of those that differ each time; None where only the core can tell."""
        head, mark, rest = line.partition(b";branch=")
        if mark:
            branch, semicolon, tail = rest.partition(b";")
            via = self._vias.get((head, semicolon + tail))
            if via is None or not is_token(branch) or branch.lower() == b"z9hg4bk":
                return None
            if not message.branch and b"via" not in message.places:
                message.branch = branch
            return via[0], via[1], via[2] + mark + branch + semicolon + tail
        head, mark, tag = line.rpartition(b";tag=")
        if mark:
            party = self._parties.get(head)
            if party is None or not is_token(tag):
                return None
            (name, written, value), before = party
            if name == b"from":
                message.sender, message.sender_tag = before, tag
            else:
                message.recipient, message.recipient_tag = before, tag
            return name, written, value + mark + tag
        written, _, value = line.partition(b": ")
        name = _VARYING.get(written)
        if name == b"call-id":
            return (name, written, value) if is_call_id(value) else None
        if name == b"cseq":
            number, _, method = value.partition(b" ")
            # up to 9 digits are below 2**31, whatever they are
            if not number.isdigit() or len(number) > 9 or not is_token(method):
                return None
            message.sequence = (int(number), method)
            return name, written, value
        return None

    def learn(self, message: Message) -> None:
        """Remember the lines of a message that passed ``sip_check``, as they are mostly written."""
        if isinstance(message, Read):
            return
        try:
            self._learn(message)
        except SipError:
            pass  # what it cannot parse alone it does not remember

    def _learn(self, message: Message) -> None:
        if message.method:
            start = message.method + b" " + message.uri + b" SIP/2.0"
            uri = parse_uri(message.uri)
            if uri.headers or not _is_sip(uri):
                return
        else:
            start, uri = b"SIP/2.0 %d %b" % (message.status, message.reason), None
        if len(start) <= LONGEST:
            _bounded(self._starts)
            self._starts[start] = message.method, message.uri, message.status, message.reason, uri
        for field in message.fields:
            name, written, value = field
            line = written + b": " + value
            if len(line) > LONGEST or name in _APART or name in _VARYING.values():
                continue
            parsed: Address | int | None = None
            if name == b"via":
                self._learn_via(field)
                continue
            if name in (b"from", b"to"):
                head, mark, _ = value.rpartition(b";tag=")
                found = sip_codec.address(head if mark else value)
                if mark:
                    # Behind '>' stand parameters and nothing else, and here there is one.
                    if head.endswith(b">") and not found.params:
                        _bounded(self._parties)
                        self._parties[written + b": " + head] = (name, written, head), found
                    continue
                parsed = found
            elif name in (b"content-length", b"max-forwards"):
                parsed = int(value)
            elif name == b"contact" and b"*" in value:
                continue
            _bounded(self._lines)
            self._lines[line] = field, parsed

    def _learn_via(self, field: Field) -> None:
        name, written, value = field
        head, mark, rest = value.partition(b";branch=")
        _, semicolon, tail = rest.partition(b";")
        # One value without quoted strings: a branch that is a token cannot end elsewhere.
        if mark and not any(byte in value for byte in (b'"', b",", b"<")):
            _bounded(self._vias)
            self._vias[written + b": " + head, semicolon + tail] = name, written, head


def _is_sip(uri: Uri) -> bool:
    return uri.scheme in (b"sip", b"sips")


def _bounded(memory: dict[Any, Any]) -> None:
    if len(memory) >= PER_LINK:
        memory.clear()
