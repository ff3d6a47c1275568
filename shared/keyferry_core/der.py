"""DER (ITU-T X.690, the distinguished rules only), as far as certificates and requests need it.

Every length is definite and shortest, every tag one byte, every integer minimal, and ``finish``
refuses what is left over: what was read has exactly one encoding. Raises DecodeError and nothing
else. Nothing recurses, so depth is bounded by the caller's own grammar.
"""

from keyferry_core.errors import DecodeError

BOOLEAN = 0x01
INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
OID = 0x06
UTF8_STRING = 0x0C
PRINTABLE_STRING = 0x13
IA5_STRING = 0x16
UTC_TIME = 0x17
GENERALIZED_TIME = 0x18
SEQUENCE = 0x30
SET = 0x31

# AlgorithmIdentifier of ecdsa-with-SHA256 (RFC 5758, section 3.2): no parameters, so one encoding.
ECDSA_SHA256 = b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02"
# The object identifier of P-256 (RFC 5480, section 2.1.1.1), with tag and length.
P256 = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"
# SubjectPublicKeyInfo of an uncompressed P-256 key (RFC 5480, section 2) up to the 65 key bytes.
_SPKI = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01" + P256 + b"\x03\x42\x00"
_DAYS = b"\x1f\x1c\x1f\x1e\x1f\x1e\x1f\x1f\x1e\x1f\x1e\x1f"


class Reader:
    """Reads one structure of ``data`` from ``pos`` to ``end``, element by element."""

    def __init__(self, data: bytes, pos: int = 0, end: int = -1) -> None:
        self.data = data
        self.pos = pos
        self.end = len(data) if end < 0 else end

    def more(self) -> bool:
        """Whether bytes are left."""
        return self.pos < self.end

    def peek(self) -> int:
        """The tag of the next element, -1 when no bytes are left."""
        return self.data[self.pos] if self.pos < self.end else -1

    def _content(self, tag: int) -> int:
        """Where the content of the next element starts; ``self.pos`` moves to where it stops.

        Tag 0 stands for any.
        """
        data = self.data
        pos = self.pos
        if self.end - pos < 2:
            raise DecodeError("der: cut short")
        found = data[pos]
        if found & 0x1F == 0x1F or not found:
            raise DecodeError("der: a tag of more than one byte, or the end mark of BER")
        if tag and found != tag:
            raise DecodeError("der: another tag than expected")
        length = data[pos + 1]
        pos += 2
        if length >= 0x80:
            size = length & 0x7F
            if not 1 <= size <= 4:
                raise DecodeError("der: an indefinite or huge length")
            if size > self.end - pos:
                raise DecodeError("der: cut short")
            length = int.from_bytes(data[pos : pos + size], "big")
            if length < 0x80 or not length >> (8 * (size - 1)):
                raise DecodeError("der: a length longer than needed")
            pos += size
        if length > self.end - pos:
            raise DecodeError("der: cut short")
        self.pos = pos + length
        return pos

    def enter(self, tag: int) -> "Reader":
        """A reader of the next element's content."""
        start = self._content(tag)
        return Reader(self.data, start, self.pos)

    def take(self, tag: int) -> bytes:
        """The content of the next element."""
        start = self._content(tag)
        return bytes(self.data[start : self.pos])

    def raw(self, tag: int) -> bytes:
        """The next element whole, with tag and length."""
        start = self.pos
        self._content(tag)
        return bytes(self.data[start : self.pos])

    def skip(self) -> int:
        """Pass over the next element, whatever it is. Its tag."""
        tag = self.peek()
        self._content(0)
        return tag

    def match(self, encoded: bytes) -> bool:
        """Whether the next bytes are ``encoded``, an element written out; if so, pass over it."""
        stop = self.pos + len(encoded)
        if stop > self.end or self.data[self.pos : stop] != encoded:
            return False
        self.pos = stop
        return True

    def finish(self) -> None:
        """Nothing may be left."""
        if self.pos != self.end:
            raise DecodeError("der: bytes left over")

    def integer(self, largest: int = 20) -> int:
        """A non-negative INTEGER of at most ``largest`` content bytes."""
        start = self._content(INTEGER)
        data = self.data
        if not 1 <= self.pos - start <= largest:
            raise DecodeError("der: an empty or huge integer")
        if data[start] >= 0x80:
            raise DecodeError("der: a negative integer")
        if not data[start] and self.pos - start > 1 and data[start + 1] < 0x80:
            raise DecodeError("der: an integer longer than needed")
        return int.from_bytes(data[start : self.pos], "big")

    def true(self) -> bool:
        """The value of a BOOLEAN DEFAULT FALSE. DER leaves a default out, so there it is TRUE."""
        if self.peek() != BOOLEAN:
            return False
        if self.take(BOOLEAN) != b"\xff":
            raise DecodeError("der: a boolean that is not TRUE where FALSE is the default")
        return True

    def oid(self) -> bytes:
        """The content of an OBJECT IDENTIFIER, at most 32 bytes."""
        content = self.take(OID)
        if not 1 <= len(content) <= 32:
            raise DecodeError("der: an empty or huge object identifier")
        first = True
        for byte in content:
            if first and byte == 0x80:
                raise DecodeError("der: an object identifier longer than needed")
            first = byte < 0x80
        if not first:
            raise DecodeError("der: an object identifier cut short")
        return content

    def octets_of_bits(self) -> bytes:
        """The content of a BIT STRING that is made of whole bytes."""
        content = self.take(BIT_STRING)
        if not content or content[0]:
            raise DecodeError("der: a bit string that is not made of whole bytes")
        return content[1:]

    def flags(self) -> int:
        """A BIT STRING of at most 16 named bits as an integer: named bit n is 1 << n."""
        content = self.take(BIT_STRING)
        if not 2 <= len(content) <= 3 or content[0] > 7:
            raise DecodeError("der: named bits that are empty or too many")
        # DER: the last bit is a one, and the unused bits after it are zeros (X.690, 11.2).
        if content[-1] & ((2 << content[0]) - 1) != 1 << content[0]:
            raise DecodeError("der: named bits longer than needed")
        value = 0
        for n in range(8 * (len(content) - 1)):
            if content[1 + (n >> 3)] & (0x80 >> (n & 7)):
                value |= 1 << n
        return value

    def time(self) -> int:
        """A Time (RFC 5280, section 4.1.2.5) in seconds since 1970, negative before.

        UTCTime for 1950 to 2049 and GeneralizedTime from 2050 on, both to the second and in UTC.
        """
        tag = self.peek()
        size = 12
        if tag == GENERALIZED_TIME:
            size = 14
        elif tag != UTC_TIME:
            raise DecodeError("der: expected a time")
        text = self.take(tag)
        if len(text) != size + 1 or text[size] != 0x5A:  # Z
            raise DecodeError("der: a time is written to the second and in UTC")
        for byte in text[:size]:
            if not 0x30 <= byte <= 0x39:
                raise DecodeError("der: a time of other characters than digits")
        year = int(text[: size - 10])
        if tag == GENERALIZED_TIME:
            if year < 2050:
                raise DecodeError("der: GeneralizedTime for a year that UTCTime can say")
        else:
            year += 2000 if year < 50 else 1900
        field = [int(text[i : i + 2]) for i in range(size - 10, size, 2)]
        return seconds(year, field[0], field[1], field[2], field[3], field[4])


def seconds(year: int, month: int, day: int, hour: int, minute: int, second: int) -> int:
    """Seconds since 1970-01-01T00:00:00Z of a date in the Gregorian calendar, without leap seconds.

    DecodeError when there is no such date.
    """
    if not 1 <= month <= 12 or hour > 23 or minute > 59 or second > 59:
        raise DecodeError("der: no such time")
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if not 1 <= day <= (29 if leap and month == 2 else _DAYS[month - 1]):
        raise DecodeError("der: no such day")
    # Years that start in March have their leap day at the end. 719468: days from 0000-03-01 on.
    if month < 3:
        year -= 1
        month += 12
    days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * month - 457) // 5 + day - 1
    return (((days - 719468) * 24 + hour) * 60 + minute) * 60 + second


def read_public_key(reader: Reader) -> bytes:
    """The key of a SubjectPublicKeyInfo, ``04 || x || y`` (65 bytes), P-256 and uncompressed.

    Such a structure has one encoding, so all but the key is compared byte for byte. Whether the
    point is on the curve is for the cryptography to say that uses it.
    """
    info = reader.raw(SEQUENCE)
    if len(info) != len(_SPKI) + 65 or info[: len(_SPKI)] != _SPKI or info[len(_SPKI)] != 4:
        raise DecodeError("der: not an uncompressed P-256 key", "key-not-allowed")
    return info[len(_SPKI) :]


def public_key_info(public: bytes) -> bytes:
    """SubjectPublicKeyInfo (91 bytes) of a key ``04 || x || y``."""
    return _SPKI + public


def raw_signature(encoded: bytes) -> bytes:
    """``r || s`` (64 bytes) of an ECDSA-Sig-Value (RFC 3279, section 2.2.3).

    Whether r and s are in range is for the verification to say.
    """
    outer = Reader(encoded)
    inner = outer.enter(SEQUENCE)
    outer.finish()
    pair = b""
    for _ in range(2):
        number = inner.integer(33)
        if number >> 256:
            raise DecodeError("der: a signature of more than 256 bits")
        pair += number.to_bytes(32, "big")
    inner.finish()
    return pair


def encode_signature(raw: bytes) -> bytes:
    """ECDSA-Sig-Value of ``r || s`` (64 bytes)."""
    return wrap(SEQUENCE, _unsigned(raw[:32]), _unsigned(raw[32:]))


def _unsigned(number: bytes) -> bytes:
    """INTEGER of a big-endian number that is not negative."""
    start = 0
    while start < len(number) - 1 and not number[start]:
        start += 1
    return wrap(INTEGER, b"\x00" if number[start] >= 0x80 else b"", number[start:])


def wrap(tag: int, *parts: bytes) -> bytes:
    """An element: tag, the shortest length (below 65536), and the parts in a row."""
    content = b"".join(parts)
    length = len(content)
    if length < 0x80:
        head = bytes((tag, length))
    elif length < 0x100:
        head = bytes((tag, 0x81, length))
    else:
        head = bytes((tag, 0x82)) + length.to_bytes(2, "big")
    return head + content
