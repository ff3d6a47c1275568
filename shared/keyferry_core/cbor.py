"""CBOR, the deterministic subset (RFC 8949, section 4.2.1) that the project speaks.

Integers of 64 bits (-2**64 to 2**64 - 1), bytes, text, lists, maps, tags, True, False and None.
Nothing else exists here: no floats, no indefinite lengths, no other simple values. Every value has
exactly one encoding, and ``decode`` refuses all others, so bytes that were signed or hashed can be
compared without asking who encoded them.

Map keys are integers, bytes or text. Other keys are refused: a dict takes True and 1 for the same
key, and would lose one of the two.

Two passes: ``item_end`` holds the bytes to all rules and allocates next to nothing; only then are
values built. What hostile bytes can cost is bounded by their length, MAX_DEPTH and MAX_ITEMS.
"""

from keyferry_core import utf8
from keyferry_core.errors import DecodeError, LocalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Arrays, maps and tags inside one another.
MAX_DEPTH = 8
# Items in one decoded item, itself and all inside it. An empty list is one byte on the wire and
# up to 72 bytes in memory: this bounds that to some 36 KB.
MAX_ITEMS = 512

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_FALSE = 20
_TRUE = 21
_NULL = 22


class Tag:
    """A tagged item (major type 6): ``tag`` 0 to 2**64 - 1, and its ``value``."""

    def __init__(self, tag: int, value: object) -> None:
        self.tag = tag
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tag) and self.tag == other.tag and self.value == other.value

    def __repr__(self) -> str:
        return "Tag(" + repr(self.tag) + ", " + repr(self.value) + ")"


def encode(value: object) -> bytes:
    """The one encoding of ``value``. LocalError for what the subset does not have.

    Tuples are encoded as lists, bytearrays and memoryviews as bytes.
    """
    out = bytearray()
    _encode(value, out, MAX_DEPTH)
    return bytes(out)


def bytes_head(length: int) -> bytes:
    """What stands before ``length`` bytes of a byte string, so that its parts need no joining."""
    out = bytearray()
    _encode_head(out, _BYTES, length)
    return bytes(out)


def _encode_head(out: bytearray, major: int, argument: int) -> None:
    major <<= 5
    if argument < 24:
        out.append(major | argument)
    elif argument < 0x100:
        out.append(major | 24)
        out.append(argument)
    elif argument < 0x10000:
        out.append(major | 25)
        out.extend(argument.to_bytes(2, "big"))
    elif argument < 0x100000000:
        out.append(major | 26)
        out.extend(argument.to_bytes(4, "big"))
    elif argument < 0x10000000000000000:
        out.append(major | 27)
        out.extend(argument.to_bytes(8, "big"))
    else:
        raise LocalError("bad-argument", "cbor: an integer of more than 64 bits")


def _encode_text(out: bytearray, value: str) -> None:
    try:
        data = value.encode()
    except UnicodeError:  # CPython, for a lone surrogate; MicroPython would encode it
        data = b"\xff"
    if not utf8.is_valid(data):
        raise LocalError("bad-argument", "cbor: a text with a lone surrogate")
    _encode_head(out, _TEXT, len(data))
    out.extend(data)


def _encode(value: object, out: bytearray, depth: int) -> None:
    if isinstance(value, bool):  # before int: the runtimes differ on whether a bool is one
        out.append(_SIMPLE << 5 | (_TRUE if value else _FALSE))
    elif isinstance(value, int):
        if value >= 0:
            _encode_head(out, _UNSIGNED, value)
        else:
            _encode_head(out, _NEGATIVE, -1 - value)
    elif isinstance(value, (bytes, bytearray, memoryview)):
        value = bytes(value)
        _encode_head(out, _BYTES, len(value))
        out.extend(value)
    elif isinstance(value, str):
        _encode_text(out, value)
    elif value is None:
        out.append(_SIMPLE << 5 | _NULL)
    else:
        if depth <= 0:
            raise LocalError("bad-argument", "cbor: nested too deeply")
        if isinstance(value, (list, tuple)):
            _encode_head(out, _ARRAY, len(value))
            for item in value:
                _encode(item, out, depth - 1)
        elif isinstance(value, dict):
            _encode_map(value, out, depth - 1)
        elif isinstance(value, Tag):
            if value.tag < 0:
                raise LocalError("bad-argument", "cbor: a negative tag")
            _encode_head(out, _TAG, value.tag)
            _encode(value.value, out, depth - 1)
        else:
            raise LocalError("bad-argument", "cbor: no encoding for " + str(type(value)))


def _encode_map(value: dict, out: bytearray, depth: int) -> None:
    pairs = []
    for key in value:
        if isinstance(key, bool) or not isinstance(key, (int, bytes, str)):
            raise LocalError("bad-argument", "cbor: a key is an integer, bytes or text")
        encoded = bytearray()
        _encode(key, encoded, 0)
        pairs.append((bytes(encoded), key))
    # By encoded key alone: keys of different types cannot be compared with each other.
    pairs.sort(key=_first)
    _encode_head(out, _MAP, len(pairs))
    for encoded, key in pairs:
        out.extend(encoded)
        _encode(value[key], out, depth)


def _first(pair: tuple) -> bytes:
    return pair[0]


def decode(data: bytes) -> "Any":
    """The value of ``data``, which is exactly one item. DecodeError for anything else."""
    value, end = decode_item(data, 0)
    if end != len(data):
        raise DecodeError("cbor: trailing bytes")
    return value


def decode_item(data: bytes, pos: int, depth: int = MAX_DEPTH) -> "tuple[Any, int]":
    """The value of the item that starts at ``pos``, and the position after it.

    ``depth`` is how many levels of arrays, maps and tags may stand inside one another.
    """
    item_end(data, pos, depth)
    return _build(data, pos)


def decode_sequence(data: bytes, limit: int = 16) -> list:
    """The values of a CBOR sequence (RFC 8742) of at most ``limit`` items; none is fine too."""
    values = []
    pos = 0
    while pos < len(data):
        if len(values) == limit:
            raise DecodeError("cbor: too many items in the sequence")
        value, pos = decode_item(data, pos)
        values.append(value)
    return values


def item_end(data: bytes, pos: int, depth: int = MAX_DEPTH) -> int:
    """The position after the item that starts at ``pos``, checked as strictly as by ``decode``.

    With it the raw bytes of an item can be kept as they came, instead of being encoded anew.
    """
    return _check(data, pos, depth, [MAX_ITEMS])


def _head(data: bytes, pos: int) -> tuple[int, int, int]:
    """Major type, argument and the position after the head (RFC 8949, section 3)."""
    if pos >= len(data):
        raise DecodeError("cbor: cut short")
    major = data[pos] >> 5
    argument = data[pos] & 31
    pos += 1
    if major == _SIMPLE:
        if 25 <= argument <= 27:
            raise DecodeError("cbor: floats are not in the subset")
        if not _FALSE <= argument <= _NULL:
            raise DecodeError("cbor: this simple value is not in the subset")
    elif argument >= 24:
        if argument > 27:
            raise DecodeError("cbor: an indefinite or reserved length")
        size = 1 << (argument - 24)
        if size > len(data) - pos:
            raise DecodeError("cbor: cut short")
        argument = int.from_bytes(data[pos : pos + size], "big")
        pos += size
        # The largest that fits the next smaller head: 23, or what half the bytes can hold.
        if argument < (24 if size == 1 else 1 << (size * 4)):
            raise DecodeError("cbor: a head longer than needed")
    return major, argument, pos


def _check(data: bytes, pos: int, depth: int, left: list) -> int:
    left[0] -= 1
    if left[0] < 0:
        raise DecodeError("cbor: too many items")
    major, argument, pos = _head(data, pos)
    if major <= _NEGATIVE or major == _SIMPLE:
        return pos
    if major == _BYTES or major == _TEXT:
        end = pos + argument
        if end > len(data):
            raise DecodeError("cbor: cut short")
        if major == _TEXT and not utf8.is_valid(data[pos:end]):
            raise DecodeError("cbor: text is not valid UTF-8")
        return end
    if depth <= 0:
        raise DecodeError("cbor: nested too deeply")
    if major == _TAG:
        return _check(data, pos, depth - 1, left)
    if argument > len(data) - pos:  # each item takes at least one byte
        raise DecodeError("cbor: cut short")
    if major == _ARRAY:
        for _ in range(argument):
            pos = _check(data, pos, depth - 1, left)
        return pos
    last = b""
    for _ in range(argument):
        end = _check(data, pos, 0, left)
        key = data[pos:end]
        if key[0] >> 5 > _TEXT:
            raise DecodeError("cbor: a key is an integer, bytes or text")
        if key <= last:
            raise DecodeError("cbor: keys out of order or repeated")
        last = key
        pos = _check(data, end, depth - 1, left)
    return pos


def _build(data: bytes, pos: int) -> tuple[object, int]:
    """Value and end of an item that ``_check`` has passed."""
    major, argument, pos = _head(data, pos)
    if major == _UNSIGNED:
        return argument, pos
    if major == _NEGATIVE:
        return -1 - argument, pos
    if major == _SIMPLE:
        return (None if argument == _NULL else argument == _TRUE), pos
    if major == _BYTES:
        return bytes(data[pos : pos + argument]), pos + argument
    if major == _TEXT:
        return str(data[pos : pos + argument], "utf-8"), pos + argument
    if major == _TAG:
        value, pos = _build(data, pos)
        return Tag(argument, value), pos
    if major == _ARRAY:
        items = []
        for _ in range(argument):
            value, pos = _build(data, pos)
            items.append(value)
        return items, pos
    pairs = {}
    for _ in range(argument):
        key, pos = _build(data, pos)
        value, pos = _build(data, pos)
        pairs[key] = value
    return pairs, pos
