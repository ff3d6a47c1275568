"""What other libraries say to the same bytes. CPython only."""

import base64
import binascii
import datetime
import io
import urllib.parse
from typing import Any

import cbor2
import h11
import sipmessage
from cryptography import x509 as x509_reference
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, pkcs7

from keyferry_core import cbor as core_cbor
from keyferry_core import signalling as core_signalling
from keyferry_core.errors import DecodeError
from keyferry_manager.relay import wire


class _Tags(dict[int, Any]):
    """Every tag as the core has it, none with a meaning of cbor2's own."""

    def __missing__(self, tag: int) -> Any:
        return lambda value, _immutable: core_cbor.Tag(tag, value)


_TAGS = _Tags()


class _Outside(Exception):
    """Well-formed CBOR, but not of the subset."""


def _encode(value: object, depth: int, left: list[int]) -> bytes:
    """The deterministic encoding of RFC 8949, section 4.2.1, with heads by cbor2."""
    left[0] -= 1
    if left[0] < 0:
        raise _Outside
    if value is None or type(value) in (bool, int, bytes, str):
        if type(value) is int and not -(1 << 64) <= value < 1 << 64:
            raise _Outside
        return cbor2.dumps(value)
    if not depth:
        raise _Outside
    if type(value) is core_cbor.Tag:
        # a tag's head is an integer's head with another major type
        head = cbor2.dumps(value.tag)
        return bytes([head[0] | 0xC0]) + head[1:] + _encode(value.value, depth - 1, left)
    if type(value) is list:
        head = cbor2.dumps(len(value))
        parts = [_encode(item, depth - 1, left) for item in value]
        return bytes([head[0] | 0x80]) + head[1:] + b"".join(parts)
    if type(value) is dict:
        pairs = []
        for key, item in value.items():
            if type(key) not in (int, bytes, str):
                raise _Outside
            pairs.append((_encode(key, 0, left), _encode(item, depth - 1, left)))
        head = cbor2.dumps(len(value))
        return bytes([head[0] | 0xA0]) + head[1:] + b"".join(a + b for a, b in sorted(pairs))
    raise _Outside


def cbor(data: bytes, good: bool, value: object) -> None:
    """The core accepts exactly what cbor2 decodes to the subset and what encodes to it again."""
    found: Any = None
    try:
        found = cbor2.loads(
            data, allow_indefinite=False, allow_duplicate_keys=False, semantic_decoders=_TAGS
        )
        same = _encode(found, core_cbor.MAX_DEPTH, [core_cbor.MAX_ITEMS]) == data
    except (cbor2.CBORError, _Outside, ValueError, TypeError):
        same = False
    assert good == same, (good, found)
    if good:
        assert found == value


def text(data: bytes, good: bool, value: object) -> None:
    """CPython's own decoder is strict."""
    try:
        found = data.decode()
    except UnicodeDecodeError:
        assert not good
        return
    assert good
    assert found == value


def signalling(data: bytes, good: bool, message: object) -> None:
    """The manager's decoder takes what the core takes, and sees the same in it."""
    too_large = len(data) > core_signalling.MAX_MESSAGE  # in a device, MQTT's reader says so
    try:
        found = wire.decode(data)
    except DecodeError:
        assert not good or too_large
        return
    assert good
    assert not too_large
    assert found == message
    assert repr(found) == repr(message)  # which also tells True from 1
    assert wire.encode(found) == data


def seconds(text: str, value: int) -> None:
    """Two-digit years are 1950 to 2049."""
    if len(text) == 13:
        text = ("20" if text < "5" else "19") + text
    when = datetime.datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=datetime.UTC)
    assert int(when.timestamp()) == value


def certificate(data: bytes, found: Any) -> None:
    """``cryptography`` reads every certificate that the core takes, and reads the same in it."""
    reference = x509_reference.load_der_x509_certificate(data)
    assert reference.serial_number == found.serial
    assert reference.tbs_certificate_bytes == found.tbs
    assert int(reference.not_valid_before_utc.timestamp()) == found.not_before
    assert int(reference.not_valid_after_utc.timestamp()) == found.not_after
    try:
        public = reference.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        assert public == found.public_key
    except ValueError:
        pass  # not a point of the curve, which the core finds out where it uses the key
    try:
        extensions = reference.extensions
    except ValueError:
        return  # one that the core does not look into
    uris = []
    is_ca = False
    for extension in extensions:
        if isinstance(extension.value, x509_reference.SubjectAlternativeName):
            uris = extension.value.get_values_for_type(x509_reference.UniformResourceIdentifier)
        elif isinstance(extension.value, x509_reference.BasicConstraints):
            is_ca = extension.value.ca
    assert uris == list(found.uris)
    assert is_ca == found.is_ca


def certificates(encoded: bytes, found: list[bytes]) -> None:
    """The same certificates, when all of them can be read."""
    try:
        wanted = [x509_reference.load_der_x509_certificate(each) for each in found]
        seen = pkcs7.load_der_pkcs7_certificates(bytes(encoded))
    except ValueError:
        return
    assert seen == wanted


def base64_text(text: bytes, decoded: bytes | None) -> None:
    """The standard library, in its strict mode, decodes the same."""
    packed = b"".join(text.split())
    try:
        wanted = base64.b64decode(packed, validate=True)
    except binascii.Error:
        wanted = None
    if wanted is not None and base64.b64encode(wanted) != packed:
        wanted = None  # bits past the end that are not zero
    assert decoded == wanted


def answer(data: bytes, status: int, headers: dict[str, str], body: bytes) -> None:
    """h11 finds the same status and body in an answer that the core took to its end."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 16)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    connection.receive_data(b"")
    seen = io.BytesIO()
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            if "transfer-encoding" not in headers:
                raise AssertionError("h11 refuses this answer") from error
            # It has no white space before a chunk's extension (RFC 9112, section 7.1.1: BWS), and
            # looks into trailers, which the core drops.
            return
        if isinstance(event, h11.Response):
            assert event.status_code == status
        elif isinstance(event, h11.Data):
            seen.write(event.data)
        elif isinstance(event, h11.EndOfMessage | h11.PAUSED | h11.ConnectionClosed):
            break
    assert seen.getvalue() == body


def sip(message: Any) -> None:
    """sipmessage finds the same sender and callee in what the core took, or refuses it."""
    for field in (b"from", b"to"):
        value = message.first(field)
        found = message.from_() if field == b"from" else message.to()
        try:
            other = sipmessage.Address.parse(value.decode())
        except (ValueError, IndexError):
            continue  # it knows no other schemes, no white space around '=', and no IPv6 in params
        assert other.uri.scheme == found.uri.scheme.decode()
        if found.uri.host:
            assert (other.uri.user or "") == urllib.parse.unquote(found.uri.user.decode())
            assert other.uri.host.lower().encode() == found.uri.host
