"""SIP to signalling and back: pure functions between messages and maps, no state and no I/O.

A request that cannot become signalling is a SipError with the status that answers it, or a Refused
where the answer and the audit trail need more words.
"""

import functools
import hashlib
import secrets
from typing import Any

from keyferry_core import signalling as sig
from keyferry_core import sip_codec, sip_fields, sip_parts
from keyferry_core.errors import DecodeError
from keyferry_core.names import MANAGER, check_name
from keyferry_core.sip_codec import Message
from keyferry_core.sip_fields import Address, SipError, Uri
from keyferry_manager.carriers.sip.shapes import uri_of

ALLOW = b"REGISTER, INVITE, ACK, CANCEL, BYE, OPTIONS, MESSAGE"
ACCEPT = b"text/plain, application/octet-stream, application/edhoc+cbor-seq, application/sdp"
# Of a message without a session.
PLAIN = (sip_parts.TEXT, sip_parts.DATA)
TEXT_UTF8 = b"text/plain;charset=utf-8"
SUPPORTED = b"outbound"
# Seconds of the shortest registration (423 below it), and of one that names no time.
MIN_EXPIRES = 60
DEFAULT_EXPIRES = 3600
SIPS_PORT = 5061


class Refused(Exception):
    """A request is answered with ``status`` and a Warning, and written to the audit trail."""

    def __init__(self, status: int, event: str, warning: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.event = event
        self.warning = warning
        self.detail = detail


def is_ours(uri: Uri, realm: str) -> bool:
    """Whether a URI is in our domain. A port in it says where to reach it, not whose it is."""
    return uri.scheme in (b"sip", b"sips") and uri.host == realm.encode()


def check_sender(message: Message, name: str, realm: str) -> None:
    """From names the channel's identity, and nothing beside it. Raises Refused, status 403.

    REGISTER is for oneself, so there To is held to it as well: no third-party registration.
    """
    fields = [("From", message.from_())]
    if message.method == b"REGISTER":
        fields.append(("To", message.to()))
    for what, found in fields:
        uri = found.uri
        same = is_ours(uri, realm) and uri.user == name.encode() and uri.password is None
        if not same or uri.headers:
            said = found.raw.decode()
            raise Refused(
                403,
                "identity-mismatch",
                f"{what} is not the name this connection was authenticated for",
                f"{what} says {said[:80]}",
            )


def target(message: Message, realm: str) -> str:
    """The device that a request is for; "" when it is for the manager. SipError 404."""
    uri = uri_of(message)
    if not is_ours(uri, realm):
        raise SipError(404, "another domain than ours")  # this is no open relay
    if not uri.user:
        return ""
    try:
        return check_name(uri.user.decode())
    except DecodeError:
        raise SipError(404, "not the name of a device") from None


def route(message: Message) -> list[list[Any]] | None:
    """The one leg that a device may state in Hop-Security, None when it states none."""
    value = message.first(b"hop-security")
    if value is None:
        return None
    if len(value) <= _SHORT and b"," not in value and message.count(b"hop-security") == 1:
        return [list(_leg(value))]
    return sip_parts.legs_of(message, False)


# Values that repeat are read once. Only short ones, so that what is kept is bounded.
_SHORT = 128


@functools.lru_cache(1024)
def _leg(value: bytes) -> tuple[Any, ...]:
    return tuple(sip_parts.read_leg(value, 1, False))


@functools.lru_cache(256)
def _short_media_type(value: bytes) -> bytes:
    return sip_fields.media_type(value)


def _media_type(value: bytes) -> bytes:
    return (_short_media_type if len(value) <= _SHORT else sip_fields.media_type)(value)


def hop_security(legs: list[list[Any]]) -> list[tuple[bytes, bytes]]:
    """A field for each leg that the relay has checked."""
    return [
        (sip_parts.HOP_SECURITY, sip_parts.leg_value(leg, number))
        for number, leg in enumerate(legs, 1)
    ]


def is_session(message: Message) -> bool:
    """Whether a request is of a session of the signalling, and not of a call of user agents."""
    if message.method == b"INVITE":
        kind = message.first(b"content-type")
        return kind is not None and kind.lower().startswith(sip_parts.EDHOC)
    return sip_parts.session_of(message.first(b"call-id") or b"") is not None


def is_call(message: Message) -> bool:
    """Whether a request of user agents is handed on, so that its Require is not for us."""
    if message.method == b"INVITE":
        return True
    to = message.first(b"to") or b""
    return message.method != b"REGISTER" and b"tag=" in to


_KNOWN = {
    name: name.decode()
    for name in (
        b"REGISTER OPTIONS MESSAGE INVITE ACK CANCEL BYE UPDATE SUBSCRIBE NOTIFY PUBLISH INFO "
        b"PRACK REFER"
    ).split()
}


def method_name(method: bytes) -> str:
    """A method for the metrics: what a stranger may invent is one of them."""
    return _KNOWN.get(method, "other")


class Binding:
    """What a REGISTER asks for: ``seconds`` 0 removes it, None only asks what there is."""

    def __init__(self, message: Message) -> None:
        self.contacts: list[Address] = []
        self.seconds: int | None = None
        values = message.values(b"contact")
        header = message.first(b"expires")
        default = DEFAULT_EXPIRES if header is None else sip_fields.number(header, 0xFFFFFFFF)
        if values == [b"*"]:
            self.seconds = 0
            return
        if len(values) > sig.MAX_ADDRESSES:
            raise SipError(403, f"more than {sig.MAX_ADDRESSES} contacts")
        times = set()
        for value in values:
            contact = sip_fields.address(value)
            if contact.uri.scheme not in (b"sip", b"sips"):
                raise SipError(416, "contact: no SIP address")
            if contact.uri.headers:
                contact.uri.headers = b""  # RFC 4475, 3.3.14: not used towards the device
            expires = contact.get(b"expires")
            times.add(default if expires is None else sip_fields.number(expires, 0xFFFFFFFF))
            self.contacts.append(contact)
        if not times:
            return
        if len(times) > 1:
            raise SipError(400, "contact: several expiry times; one connection has one")
        seconds = self.seconds = times.pop()
        if 0 < seconds < MIN_EXPIRES:
            raise SipError(423, "a registration that is too short")

    @property
    def outbound(self) -> bool:
        """A flow of RFC 5626: ``reg-id`` and an instance."""
        return any(
            contact.get(b"reg-id") is not None and contact.get(b"+sip.instance") is not None
            for contact in self.contacts
        )

    def fields(self, seconds: int) -> list[bytes]:
        """Contact's values for the answer: as they came, with the time that was granted."""
        found = []
        for contact in self.contacts:
            value = b"<" + contact.raw + b">"
            for key, text in contact.params:
                if key != b"expires":
                    value += b";" + key + (b"" if text is None else b"=" + text)
            found.append(value + b";expires=" + str(seconds).encode())
        return found

    def addresses(self) -> list[str]:
        """``HOST:PORT`` of each contact that can be reached directly."""
        found = []
        for contact in self.contacts:
            if contact.uri.host.endswith(b".invalid"):
                continue  # RFC 2606: of a device that has no address
            text = f"{contact.uri.host.decode()}:{contact.uri.port or SIPS_PORT}"
            if len(text) > 64:
                raise SipError(400, "contact: an address of more than 64 characters")
            found.append(text)
        return found


def register(message: Message, binding: Binding, name: str, number: int) -> dict[int, Any]:
    """REGISTER as the relay has it. A device keeps its Call-ID until it starts anew (section
    10.2.4), so that is its instance."""
    assert binding.seconds
    instance = hashlib.sha256(message.one(b"call-id")).digest()[: sig.INSTANCE_LENGTH]
    found: dict[int, Any] = {
        sig.TYPE: sig.REGISTER,
        sig.FROM: name,
        sig.TO: MANAGER,
        sig.ID: number,
        sig.INSTANCE: instance,
        sig.ADDRESSES: binding.addresses(),
        sig.EXPIRES: binding.seconds,
    }
    held = sip_parts.octets_of(message, sip_parts.TRUST_ANCHORS, sig.ANCHORS_LENGTH)
    if held is not None:
        found[sig.ANCHORS] = held
    if message.count(sip_parts.PEER_TRUST.lower()):
        mode = message.one(sip_parts.PEER_TRUST.lower())
        found[sig.TRUST] = sip_fields.number(mode, sig.TRUST_PINNED, "peer-trust")
    stated = route(message)
    if stated is not None:
        found[sig.ROUTE] = stated
    keys = ((sip_parts.ENDORSED, sig.PUBLIC_KEY), (sip_parts.VOUCH, sig.VOUCH))
    sip_parts.fill(found, sip_parts.parts_of(message), keys)
    return found


def certify(message: Message, name: str, number: int) -> dict[int, Any]:
    """REGISTER without Contact and with a PKCS#10 request."""
    found: dict[int, Any] = {
        sig.TYPE: sig.CERTIFY,
        sig.FROM: name,
        sig.TO: MANAGER,
        sig.ID: number,
    }
    keys = ((sip_parts.REQUEST, sig.REQUEST),)
    sip_parts.fill(found, sip_parts.parts_of(message), keys)
    return found


def resolve(wanted: str, name: str, number: int) -> dict[int, Any]:
    """OPTIONS for a device: where it is."""
    return {
        sig.TYPE: sig.RESOLVE,
        sig.FROM: name,
        sig.TO: MANAGER,
        sig.ID: number,
        sig.NAME: wanted,
    }


def send(message: Message, peer: str, name: str, number: int) -> dict[int, Any]:
    """MESSAGE (RFC 3428). SipError 415 for a body of another type, 513 for one too large."""
    kind = message.first(b"content-type")
    if message.body and kind is None:
        raise SipError(400, "a body without Content-Type")
    if kind is not None and _media_type(kind) not in PLAIN:
        raise SipError(415, "a body of another type")
    if message.count(b"content-encoding"):
        raise SipError(415, "an encoded body")
    if len(message.body) > sig.MAX_PLAIN:
        raise SipError(513, f"a message of more than {sig.MAX_PLAIN} bytes")
    found: dict[int, Any] = {
        sig.TYPE: sig.SEND,
        sig.FROM: name,
        sig.TO: peer,
        sig.ID: number,
        sig.DATA: message.body,
    }
    stated = route(message)
    if stated is not None:
        found[sig.ROUTE] = stated
    return found


def kind_of(data: bytes) -> bytes:
    """Content-Type of a plain message, b"" without data."""
    if not data:
        return b""
    if data.isascii():
        return TEXT_UTF8
    try:
        data.decode()
    except UnicodeDecodeError:
        return sip_parts.DATA
    return TEXT_UTF8


def message_to(
    payload: dict[int, Any], name: str, realm: str, contact: bytes, mark: bytes
) -> Message:
    """The MESSAGE for a device that a plain message of the relay becomes, without Via. ``mark``:
    16 characters of a token, new for each."""
    sender = f"<sip:{payload[sig.FROM]}@{realm}>".encode()
    data = payload[sig.DATA]
    fields = [
        (b"Max-Forwards", b"70"),
        (b"From", sender + b";tag=" + mark),
        (b"To", f"<sip:{name}@{realm}>".encode()),
        (b"Call-ID", mark + b"@" + realm.encode()),
        (b"CSeq", b"1 MESSAGE"),
        (b"P-Asserted-Identity", sender),
        *hop_security(payload[sig.ROUTE]),
    ]
    kind = kind_of(data)
    if kind:
        fields.append((b"Content-Type", kind))
    return sip_codec.request(b"MESSAGE", contact, fields, data)


def notice(code: int, text: str, name: str, realm: str, contact: bytes) -> Message:
    """The MESSAGE for an error that answers no request, without Via."""
    mark = secrets.token_hex(8).encode()
    fields = [
        (b"Max-Forwards", b"70"),
        (b"From", f"<sip:{realm}>;tag=".encode() + mark),
        (b"To", f"<sip:{name}@{realm}>".encode()),
        (b"Call-ID", mark + b"@" + realm.encode()),
        (b"CSeq", b"1 MESSAGE"),
        (b"Reason", sip_parts.reason(code, text)),
    ]
    return sip_codec.request(b"MESSAGE", contact, fields)
