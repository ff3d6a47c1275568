"""Heads of messages that differ only where each message must, matched as a whole.

A head that was read line by line, and passed every check, becomes a shape: the bytes that stay, and
between them the pieces that are new each time. Where a later head has the same bytes, only those
pieces are left to check: a token for a branch or a tag, Call-ID, the number of CSeq, the body's
length. No piece can hold what ends it, so there is one way to cut a head, and it is the core's.
"""

from typing import Final

from keyferry_core.sip_codec import Message
from keyferry_core.sip_fields import Address, Uri, is_call_id, is_token, parse_uri

# Bytes of a piece; a longer one is read line by line.
_LONGEST: Final = 256

_BRANCH, _LOWER_BRANCH, _FROM_TAG, _TO_TAG, _CALL_ID, _NUMBER, _LENGTH = range(7)


class Read(Message):
    """A message that passed ``sip_check`` as it was read, and what was parsed for that."""

    def __init__(self, method: bytes, uri: bytes, status: int, reason: bytes) -> None:
        super().__init__(method, uri, status, reason)
        # Where the first field of a name is.
        self.places: dict[bytes, int] = {}
        self.request_uri: Uri | None = None
        # From and To; a tag that is given beside one is the field's only parameter.
        self.sender: Address | None = None
        self.sender_tag = b""
        self.recipient: Address | None = None
        self.recipient_tag = b""
        self.sequence: tuple[int, bytes] = (0, b"")
        self.branch = b""

    def first(self, name: bytes) -> bytes | None:
        place = self.places.get(name)
        return None if place is None else self.fields[place][2]

    def from_(self) -> Address:
        assert self.sender is not None
        return with_tag(self.sender, self.sender_tag) if self.sender_tag else self.sender

    def to(self) -> Address:
        assert self.recipient is not None
        tag = self.recipient_tag
        return with_tag(self.recipient, tag) if tag else self.recipient

    def cseq(self) -> tuple[int, bytes]:
        return self.sequence


def branch_of(message: Message) -> bytes:
    """The branch in the top Via, b"" without one."""
    if isinstance(message, Read):
        return message.branch
    return message.top_via().get(b"branch") or b""


def uri_of(message: Message) -> Uri:
    """The Request-URI in its parts. SipError."""
    if isinstance(message, Read) and message.request_uri is not None:
        return message.request_uri
    return parse_uri(message.uri)


def with_tag(before: Address, tag: bytes) -> Address:
    """The same address with a tag; parsed already."""
    found = Address.__new__(Address)
    found.display = before.display
    found.raw = before.raw
    found.uri = before.uri
    params: list[tuple[bytes, bytes | None]] = [(b"tag", tag)]
    found.params = params
    return found


class Shape:
    """One head. ``match`` reads another like it."""

    def __init__(self, start: bytes, example: Read) -> None:
        # What every message of this shape has, as an object keeps it.
        self._same = vars(example).copy()
        self._fields = example.fields.copy()
        self._method = example.sequence[1]
        # The bytes that stay, and what each piece between them is: its kind, the field that it is
        # in, that field's name, what is before and behind it there, and what follows in the head.
        literals: list[bytes] = []
        pieces: list[tuple[int, int, bytes, bytes, bytes, bytes]] = []
        literal = start
        for index, (name, written, value) in enumerate(example.fields):
            literal += b"\r\n" + written + b": "
            kind, before, after = _cut(name, value, example.places[name] == index)
            if kind < 0:
                literal += value
            else:
                literals.append(literal + before)
                pieces.append((kind, index, name, written, before, after))
                literal = after
        literals.append(literal + b"\r\n\r\n")
        self._first = literals[0]
        self._pieces = [
            (*piece, literal, len(literal))
            for piece, literal in zip(pieces, literals[1:], strict=True)
        ]

    def match(self, data: bytes, at: int) -> tuple[Read, int, int] | None:
        """The message whose head begins at ``at``, where its body begins, and how long that is;
        None for a head of another shape."""
        if not data.startswith(self._first, at):
            return None
        at += len(self._first)
        message = Read.__new__(Read)
        message.__dict__.update(self._same)
        fields = message.fields = self._fields.copy()
        length = 0
        for kind, index, name, written, before, after, literal, size in self._pieces:
            end = data.find(literal, at, at + _LONGEST + size)
            if end <= at:
                return None
            piece = data[at:end]
            at = end + size
            if kind <= _TO_TAG:
                if not is_token(piece):
                    return None
                if kind == _FROM_TAG:
                    message.sender_tag = piece
                elif kind == _TO_TAG:
                    message.recipient_tag = piece
                elif piece.lower() == b"z9hg4bk":
                    return None
                elif kind == _BRANCH:
                    message.branch = piece
            elif kind == _CALL_ID:
                if not is_call_id(piece):
                    return None
            elif not piece.isdigit() or len(piece) > 9:  # so it is below 2**31
                return None
            elif kind == _NUMBER:
                message.sequence = int(piece), self._method
            else:
                length = int(piece)
            fields[index] = (name, written, before + piece + after)
        return message, at, length


def _cut(name: bytes, value: bytes, top: bool) -> tuple[int, bytes, bytes]:
    """The piece of a value that is new each time: what it is, and what is around it. -1: none."""
    if name == b"via":
        head, mark, rest = value.partition(b";branch=")
        _, semicolon, tail = rest.partition(b";")
        return _BRANCH if top else _LOWER_BRANCH, head + mark, semicolon + tail
    if name in (b"from", b"to"):
        head, mark, _ = value.rpartition(b";tag=")
        kind = _FROM_TAG if name == b"from" else _TO_TAG
        return (kind, head + mark, b"") if mark and head.endswith(b">") else (-1, b"", b"")
    if name == b"call-id":
        return _CALL_ID, b"", b""
    if name == b"cseq":
        _, space, method = value.partition(b" ")
        return _NUMBER, b"", space + method
    if name == b"content-length":
        return _LENGTH, b"", b""
    return -1, b"", b""
