"""Frames on a serial line that also carries text: HDLC-like framing (RFC 1662).

Octet-stuffed as in section 4.2 with the default map of all control characters, and FCS-32
(appendix C.3), without address and control fields. So no frame has a control character in it: not
the Ctrl-C that stops a board, no XON or XOFF, no line end that a console would translate. And a
control character ends what only looked like a frame, so text and noise cost one line at most.
"""

from binascii import crc32

FLAG = 0x7E
_ESCAPE = 0x7D
_FLIP = 0x20
_CHECK = 4


def encode(payload: bytes) -> bytes:
    """One frame, with both flags: at most twice the payload and 10 bytes."""
    out = bytearray((FLAG,))
    for part in (payload, crc32(payload).to_bytes(_CHECK, "little")):
        for byte in part:
            if byte < _FLIP or byte == FLAG or byte == _ESCAPE:
                out.append(_ESCAPE)
                byte ^= _FLIP
            out.append(byte)
    out.append(FLAG)
    return bytes(out)


class Decoder:
    """Takes the bytes of a line as they come, and tells frames from the rest.

    ``limit``: bytes of the longest payload. It holds twice as many bytes at most, and raises
    nothing: what is no frame is text.
    """

    def __init__(self, limit: int) -> None:
        self._most = 2 * (limit + _CHECK)
        self._limit = limit
        self._raw: bytearray | None = None  # since a flag; None between frames

    def feed(self, data: bytes) -> list:
        """``[(True, payload) or (False, text)]`` in the order in which they came."""
        found: list[tuple[bool, bytes]] = []
        text = bytearray()
        for byte in data:
            raw = self._raw
            if raw is None:
                if byte == FLAG:
                    self._raw = bytearray()
                else:
                    text.append(byte)
            elif byte == FLAG:
                payload = self._payload(raw)
                if payload is not None:
                    if text:
                        found.append((False, bytes(text)))
                        text = bytearray()
                    found.append((True, payload))
                    self._raw = None
                else:
                    if raw:
                        text.append(FLAG)
                        text.extend(raw)
                    self._raw = bytearray()  # an end that was none may be a beginning
            elif byte < _FLIP or len(raw) >= self._most:
                text.append(FLAG)
                text.extend(raw)
                text.append(byte)
                self._raw = None
            else:
                raw.append(byte)
        if text:
            found.append((False, bytes(text)))
        return found

    def _payload(self, raw: bytearray) -> bytes | None:
        """What is in a frame whose check is right, else None."""
        plain = bytearray()
        escaped = False
        for byte in raw:
            if byte == _ESCAPE:
                if escaped:
                    return None
                escaped = True
            else:
                plain.append(byte ^ _FLIP if escaped else byte)
                escaped = False
        end = len(plain) - _CHECK
        if escaped or not 0 < end <= self._limit:
            return None
        payload = bytes(plain[:end])
        if crc32(payload).to_bytes(_CHECK, "little") != bytes(plain[end:]):
            return None
        return payload
