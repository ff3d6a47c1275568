"""What signalling becomes in SIP messages (docs/sip.md): dialogs, bodies, legs, errors.

Pure functions for both ends of a link. What is not as it should be is a SipError, status 400, as in
``sip_fields``.
"""

from keyferry_core import signalling as sig
from keyferry_core.errors import KeyferryError, LocalError, code_of, name_of
from keyferry_core.sip_codec import Message
from keyferry_core.sip_fields import (
    SipError,
    media_type,
    number,
    param,
    params,
    quoted_end,
    unescape,
)

# Media types of the parts of a body.
EDHOC = b"application/edhoc+cbor-seq"  # RFC 9528, section 10.9
DATA = b"application/octet-stream"
TEXT = b"text/plain"
CERTIFICATE = b"application/pkix-cert"  # RFC 2585
ENDORSED = b"application/cose"  # RFC 9052
VOUCH = b"application/keyferry-vouch"  # docs/keys.md
REQUEST = b"application/pkcs10"  # RFC 5967
MULTIPART = b"multipart/mixed"

# Fields of our own.
HOP_SECURITY = b"Hop-Security"
KEY_PROFILE = b"Key-Profile"
MANAGER_INSTANCE = b"Manager-Instance"
TRUST_ANCHORS = b"Trust-Anchors"
PEER_TRUST = b"Peer-Trust"
ON_BEHALF_OF = b"On-Behalf-Of"

_HEX = b"0123456789abcdef"
_TYPE = b"Content-Type:"
_MAX_PARTS = 4
# What a status says that comes without the name of an error. Any other is "declined".
_NAMES = (
    "\n400 malformed\n403 access-denied\n404 unknown-name\n405 unsupported\n406 unsupported\n"
    "408 timeout\n410 device-gone\n413 too-large\n415 unsupported\n416 unsupported\n"
    "420 unsupported\n480 peer-offline\n481 unknown-session\n488 unsupported\n500 internal\n"
    "501 unsupported\n503 too-many\n505 unsupported\n513 too-large\n"
)


# -- dialogs ---------------------------------------------------------------------------------


def call_id(session_id: bytes) -> bytes:
    """The Call-ID of a session: 32 hexadecimal digits."""
    return session_id.hex().encode()


def session_of(value: bytes) -> bytes | None:
    """The session that a Call-ID is of; None when it is another dialog's."""
    if len(value) != 2 * sig.SESSION_ID_LENGTH or value.strip(_HEX):
        return None
    return bytes.fromhex(value.decode())


def tags(session_id: bytes) -> tuple[bytes, bytes]:
    """The tags of initiator and responder: halves of the session's digits."""
    digits = call_id(session_id)
    return digits[:16], digits[16:]


def octets_of(message: Message, name: bytes, length: int) -> bytes | None:
    """The bytes that the field ``name`` says in lower-case hexadecimal, None without it."""
    if not message.count(name.lower()):
        return None
    value = message.one(name.lower())
    if len(value) != 2 * length or value.strip(_HEX):
        raise SipError(400, "a field of digits")
    return bytes.fromhex(value.decode())


def state_third_party(found: dict, message: Message) -> None:
    """Put the name in On-Behalf-Of, if there is one, into the signalling ``found``."""
    if message.count(ON_BEHALF_OF.lower()):
        found[sig.ON_BEHALF_OF] = str(message.one(ON_BEHALF_OF.lower()), "utf-8")


# -- bodies ----------------------------------------------------------------------------------


def join(parts: list[tuple[bytes, bytes]], boundary: bytes) -> tuple[bytes, bytes]:
    """``(Content-Type, body)`` of ``(type, bytes)`` parts; ``(b"", b"")`` of none.

    ``boundary``: 16 to 32 random hexadecimal digits; LocalError where a part has its delimiter.
    """
    if not parts:
        return b"", b""
    if len(parts) == 1:
        return parts[0]
    out = []
    for kind, data in parts:
        if data.find(b"--" + boundary) >= 0:
            raise LocalError("bad-argument", "sip: the boundary occurs in a part")
        out.append(b"--" + boundary + b"\r\n" + _TYPE + b" " + kind + b"\r\n\r\n")
        out.append(data)
        out.append(b"\r\n")
    out.append(b"--" + boundary + b"--\r\n")
    return MULTIPART + b";boundary=" + boundary, b"".join(out)


def parts_of(message: Message) -> list[tuple[bytes, bytes]]:
    """The ``(type, bytes)`` parts of a body, none for an empty one. SipError 400, and 415 for an
    encoded body."""
    kind = message.first(b"content-type")
    if not message.body:
        return []
    if kind is None:
        raise SipError(400, "a body without Content-Type")
    if message.count(b"content-encoding"):
        raise SipError(415, "an encoded body")
    name = media_type(kind)
    if name != MULTIPART:
        return [(name, message.body)]
    boundary = param(params(kind[kind.find(b";") :]), b"boundary") or b""
    if boundary[:1] == b'"':
        boundary = boundary[1:-1]
    if not 1 <= len(boundary) <= 70:
        raise SipError(400, "multipart without a boundary")
    mark = b"\r\n--" + boundary
    # the first delimiter has no line before it
    pieces = (b"\r\n" + message.body).split(mark, _MAX_PARTS + 2)
    if len(pieces) < 3 or pieces[0] or pieces[-1].strip(b"\r\n") != b"--":
        raise SipError(400, "a multipart body that is malformed")
    found = []
    for piece in pieces[1:-1]:
        end = piece.find(b"\r\n\r\n")
        head = piece[2:end]
        if (
            piece[:2] != b"\r\n"
            or end < 2
            or head[: len(_TYPE)].lower() != _TYPE.lower()
            or head.find(b"\r") >= 0
        ):
            raise SipError(400, "a part without its Content-Type")
        found.append((media_type(head[len(_TYPE) :].strip()), piece[end + 4 :]))
    return found


def fill(message: dict, found: list[tuple[bytes, bytes]], keys: tuple) -> None:
    """Put ``found`` into the signalling ``message`` under ``keys``, ``(type, key)`` in order.

    Each may be left out, none may come twice or out of order: SipError 415 for what is left over.
    """
    at = 0
    for kind, data in found:
        while at < len(keys) and keys[at][0] != kind:
            at += 1
        if at == len(keys):
            raise SipError(415, "a body of another type")
        message[keys[at][1]] = data
        at += 1


# -- legs ------------------------------------------------------------------------------------


def leg_value(leg: list, position: int) -> bytes:
    """Hop-Security's value for a leg of the signalling, which may have been checked."""
    name = "tls" if leg[1] == sig.TRANSPORT_SIP_TLS else "mqtts"
    text = 'addr="' + leg[0] + '";leg=' + str(position) + ";transport=" + name
    text += ";auth=mutual" if leg[2] else ";auth=none"
    if len(leg) > 3:
        text += ";verified=yes" if leg[3] else ";verified=no"
    return text.encode()


def read_leg(value: bytes, position: int, checked: bool) -> list:
    """One leg out of Hop-Security. ``checked``: by the manager, which says so."""
    found = params(b";" + value)
    address = param(found, b"addr") or b""
    inside = address[1:-1]
    if len(address) < 3 or address[:1] != b'"' or inside.strip(_ADDRESS):
        raise SipError(400, 'hop-security: addr="IP:PORT"')
    if param(found, b"leg") != str(position).encode():
        raise SipError(400, "hop-security: another leg than it should be")
    transport = param(found, b"transport")
    leg = [str(inside, "utf-8"), 0, param(found, b"auth") == b"mutual"]
    if transport == b"tls":
        leg[1] = sig.TRANSPORT_SIP_TLS
    elif transport == b"mqtts" and checked:
        leg[1] = sig.TRANSPORT_MQTT_TLS
    else:
        raise SipError(400, "hop-security: another transport")
    if checked:
        leg.append(param(found, b"verified") == b"yes")
    return leg


_ADDRESS = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:[]%"


def legs_of(message: Message, checked: bool) -> list | None:
    """The route that a message states: one leg from a device, two checked ones from the manager;
    None when it states none."""
    values = message.values(b"hop-security")
    if not values:
        return None
    if len(values) != (2 if checked else 1):
        raise SipError(400, "hop-security: more legs than one, or fewer than two")
    return [read_leg(value, at + 1, checked) for at, value in enumerate(values)]


# -- errors ----------------------------------------------------------------------------------


def status_of(code: int) -> int:
    """The SIP status for an error's code; 500 for one that is not known here."""
    return KeyferryError(name_of(code)).sip_status


def _said(code: int, text: str) -> str:
    name = name_of(code)
    text = text.replace("\\", "/").replace('"', "'").replace("\r", " ").replace("\n", " ")
    return '"' + name + (": " + text if text else "") + '"'


def warning(realm: str, code: int, text: str = "") -> bytes:
    """Warning's value for an error."""
    return ("399 " + realm + " " + _said(code, text)).encode()


def reason(code: int, text: str = "", reject: bool = False) -> bytes:
    """Reason's value for an error (RFC 3326)."""
    found = "SIP;cause=" + str(status_of(code)) + ";text=" + _said(code, text)
    return (found + (";reject" if reject else "")).encode()


def _read(quoted: bytes, status: int) -> tuple[int, str]:
    said = str(quoted[1:-1], "utf-8")
    colon = said.find(":")
    try:
        code = code_of(said if colon < 0 else said[:colon])
        text = "" if colon < 0 else said[colon + 1 :].strip()
    except KeyError:
        start = _NAMES.find("\n" + str(status) + " ")
        name = "declined" if start < 0 else _NAMES[start + 5 : _NAMES.find("\n", start + 1)]
        code, text = code_of(name), said
    return code, text[:200]


def error_of(response: Message) -> tuple[int, str]:
    """``(code, text)`` of a final response from 300 on."""
    value = response.first(b"warning")
    quoted = b'""'
    if value is not None:
        start = value.find(b'"')
        if start >= 0:
            quoted = value[start : quoted_end(value, start)]
    return _read(quoted, response.status)


def reason_of(request: Message) -> tuple[int, str, bool] | None:
    """``(code, text, reject)`` of a request's Reason; None when it has none that is SIP's."""
    for value in request.values(b"reason"):
        semicolon = value.find(b";")
        if value[:semicolon].strip() != b"SIP":
            continue
        found = params(value[semicolon:])
        cause = param(found, b"cause")
        status = 0 if cause is None else number(cause, 699, "the cause")
        code, text = _read(param(found, b"text") or b'""', status)
        return code, text, param(found, b"reject") is not None
    return None


def asserted(message: Message, realm: str) -> str:
    """The name in P-Asserted-Identity that the manager sets: "" when it speaks itself."""
    value = message.first(b"p-asserted-identity") or b""
    at = value.find(b"@" + realm.encode() + b">")
    if value[:5] != b"<sip:" or at < 5:
        return ""
    return str(unescape(value[5:at]), "utf-8")
