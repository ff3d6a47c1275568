"""Text from bytes, held to RFC 3629 by hand.

MicroPython's own decoder lets overlong forms, surrogates and code points above U+10FFFF pass, and
CPython's does not. One check for both keeps a name from having two spellings.
"""

from keyferry_core.errors import DecodeError


def is_valid(data: bytes) -> bool:
    """True when ``data`` is well-formed UTF-8 (RFC 3629, section 4). The empty text is."""
    more = 0  # continuation bytes still to come
    low = 0x80  # range of the next one: the first after a lead byte has a narrower one
    high = 0xBF
    for byte in data:
        if more:
            if not low <= byte <= high:
                return False
            low = 0x80
            high = 0xBF
            more -= 1
        elif byte >= 0x80:
            if 0xC2 <= byte <= 0xDF:  # C0 and C1 could only start an overlong form
                more = 1
            elif 0xE0 <= byte <= 0xEF:
                more = 2
                if byte == 0xE0:
                    low = 0xA0  # below: overlong
                elif byte == 0xED:
                    high = 0x9F  # above: surrogates
            elif 0xF0 <= byte <= 0xF4:
                more = 3
                if byte == 0xF0:
                    low = 0x90  # below: overlong
                elif byte == 0xF4:
                    high = 0x8F  # above: past U+10FFFF
            else:
                return False
    return not more


def decode(data: bytes) -> str:
    """The text of ``data``; DecodeError when it is not well-formed UTF-8."""
    if not is_valid(data):
        raise DecodeError("text: not valid UTF-8")
    return str(data, "utf-8")
