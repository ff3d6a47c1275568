"""EDHOC on the wire: connection identifiers, EAD, credential identifiers, errors (RFC 9528).

Items that enter a transcript are kept as the bytes that were received, never encoded again.
"""

from keyferry_core import cbor
from keyferry_core.errors import DecodeError, RemoteError
from keyferry_core.iana import (
    AES_CCM_16_64_128,
    AES_CCM_16_128_128,
    EAD_PADDING,
    EDHOC_UNSPECIFIED_ERROR,
    EDHOC_WRONG_SUITE,
    KID,
)

# Cipher suites (RFC 9528, section 10.2): suite -> (AEAD, its tag and the MAC in bytes).
# Both: SHA-256, P-256, ES256, and AES-CCM-16-64-128 as application AEAD, which Keyferry's records
# replace by AES-CCM-16-128-128.
SUITES = {2: (AES_CCM_16_64_128, 8), 3: (AES_CCM_16_128_128, 16)}

# Bounds on what a stranger can make this side hold, in items and bytes.
MAX_SUITES = 8
MAX_EAD = 4
MAX_MESSAGE = 2048
MAX_IDENTIFIER = 16


class EdhocError(RemoteError):
    """The exchange is over. ``message`` is the EDHOC error message for the peer (section 6)."""

    def __init__(self, detail: str, code: int = EDHOC_UNSPECIFIED_ERROR, info: object = None):
        super().__init__("key-exchange-failed", detail)
        # ERR_INFO of an unspecified error is a text for people: ours says nothing about why
        self.message = cbor.encode(code) + cbor.encode("failed" if info is None else info)


class WrongSuite(EdhocError):
    """The selected cipher suite is not the one to use; the error message carries SUITES_R."""

    def __init__(self, suites_r: tuple):
        info = suites_r[0] if len(suites_r) == 1 else list(suites_r)
        super().__init__("wrong selected cipher suite", EDHOC_WRONG_SUITE, info)


def parse_error(data: bytes) -> tuple[int, object]:
    """``(ERR_CODE, ERR_INFO)`` of an error message. DecodeError for anything else."""
    items = cbor.decode_sequence(data, 2)
    if len(items) != 2 or not _is_int(items[0]):
        raise DecodeError("edhoc: error is (ERR_CODE, ERR_INFO)")
    return items[0], items[1]


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_one_byte_int(identifier: bytes) -> bool:
    # The encodings of -24..23: 0x20..0x37 and 0x00..0x17
    return len(identifier) == 1 and identifier[0] & 0xDF < 0x18


def encode_identifier(identifier: bytes) -> bytes:
    """A connection identifier or kid: a one-byte integer stands for itself (section 3.3.2)."""
    return identifier if _is_one_byte_int(identifier) else cbor.encode(identifier)


def decode_identifier(data: bytes, position: int) -> tuple[bytes, int]:
    """``(identifier, end)`` at ``position``. The one-byte form is required where it exists."""
    value, end = cbor.decode_item(data, position)
    if _is_int(value) and end == position + 1:
        return data[position:end], end
    if not isinstance(value, bytes) or len(value) > MAX_IDENTIFIER or _is_one_byte_int(value):
        raise DecodeError("edhoc: identifier")
    return value, end


def encode_ead(items: tuple | list) -> bytes:
    """``[(label, value or None)]`` as a CBOR sequence. A negative label is critical."""
    return b"".join(
        [
            cbor.encode(label) + (b"" if value is None else cbor.encode(value))
            for label, value in items
        ]
    )


def decode_ead(data: bytes, known: tuple) -> list:
    """``[(label, value or None)]`` without padding. A critical item must be in ``known``."""
    items = []
    position = 0
    while position < len(data):
        if len(items) == MAX_EAD:
            raise DecodeError("edhoc: more EAD items than are accepted")
        label, position = cbor.decode_item(data, position)
        if not _is_int(label):
            raise DecodeError("edhoc: ead_label is an integer")
        value = None
        if position < len(data) and data[position] >> 5 == 2:
            value, position = cbor.decode_item(data, position)
        if label < 0 and -label not in known:
            raise EdhocError("critical EAD item " + str(label) + " is not known here")
        items.append((label, value))
    return [item for item in items if item[0] != EAD_PADDING]


def encode_id_cred(id_cred: bytes) -> bytes:
    """ID_CRED for a plaintext: a map of only a kid shrinks to the kid (section 3.5.3.2)."""
    if id_cred[:2] == b"\xa1\x04":
        kid = cbor.decode(id_cred)[KID]
        if isinstance(kid, bytes):
            return encode_identifier(kid)
    return id_cred


def decode_id_cred(data: bytes, position: int) -> tuple[bytes, int]:
    """``(ID_CRED as its map's bytes, end)``."""
    if position < len(data) and data[position] >> 5 == 5:
        value, end = cbor.decode_item(data, position)
        if not value or (len(value) == 1 and KID in value):
            raise DecodeError("edhoc: ID_CRED of only a kid is sent as the kid")
        return data[position:end], end
    kid, end = decode_identifier(data, position)
    return b"\xa1\x04" + cbor.encode(kid), end


def _check_length(data: bytes, what: str) -> None:
    if len(data) > MAX_MESSAGE:
        raise DecodeError("edhoc: " + what + " is too long", "too-large")


def encode_message_1(method: int, suites: tuple, g_x: bytes, c_i: bytes, ead_1: bytes) -> bytes:
    """``(METHOD, SUITES_I, G_X, C_I, ? EAD_1)``; the last of ``suites`` is the selected one."""
    suites_i = suites[0] if len(suites) == 1 else list(suites)
    return (
        cbor.encode(method)
        + cbor.encode(suites_i)
        + cbor.encode(g_x)
        + encode_identifier(c_i)
        + ead_1
    )


def decode_message_1(data: bytes) -> tuple[int, list, bytes, bytes, bytes]:
    """``(METHOD, SUITES_I as a list, G_X, C_I, EAD_1 as received)``."""
    _check_length(data, "message_1")
    method, position = cbor.decode_item(data, 0)
    suites, position = cbor.decode_item(data, position)
    if isinstance(suites, list):
        if not 2 <= len(suites) <= MAX_SUITES:
            raise DecodeError("edhoc: SUITES_I of one suite is an integer")
    else:
        suites = [suites]
    g_x, position = cbor.decode_item(data, position)
    for value in suites + [method]:
        if not _is_int(value):
            raise DecodeError("edhoc: METHOD and SUITES_I are integers")
    # G_X of a suite that this side does not have is as long as that suite's curve says
    length = 32 if suites[-1] in SUITES else 66
    if not isinstance(g_x, bytes) or not (len(g_x) == 32 if length == 32 else len(g_x) <= length):
        raise DecodeError("edhoc: G_X")
    c_i, position = decode_identifier(data, position)
    return method, suites, g_x, c_i, data[position:]


def decode_bstr(data: bytes, smallest: int, what: str) -> bytes:
    """The one byte string that message_2, message_3 and message_4 consist of."""
    _check_length(data, what)
    value, end = cbor.decode_item(data, 0)
    if end != len(data) or not isinstance(value, bytes) or len(value) < smallest:
        raise DecodeError("edhoc: " + what + " is one byte string")
    return value


def decode_plaintext(data: bytes, position: int, length: int) -> tuple[bytes, bytes, bytes]:
    """``(ID_CRED, Signature_or_MAC, EAD as received)``; ``length`` is that of the second."""
    id_cred, position = decode_id_cred(data, position)
    signature_or_mac, position = cbor.decode_item(data, position)
    if not isinstance(signature_or_mac, bytes) or len(signature_or_mac) != length:
        raise DecodeError("edhoc: Signature_or_MAC has the wrong length")
    return id_cred, signature_or_mac, data[position:]
