"""Answers to requests: what every one repeats and adds, whoever gives it."""

import functools
from collections.abc import Sequence

from keyferry_core import sip_codec
from keyferry_core.errors import LocalError
from keyferry_core.sip_codec import Message
from keyferry_core.sip_fields import SipError, split
from keyferry_manager.carriers.sip import dialect

Fields = Sequence[tuple[bytes, bytes]]


_REPEATED = frozenset((b"from", b"call-id", b"cseq", b"timestamp"))


def written(
    asked: Message, status: int, address: str, tag: bytes, extra: Fields = (), body: bytes = b""
) -> bytes:
    """The bytes of a response to ``asked``, which came from ``address`` (RFC 3261, 8.2.6.2).

    ``tag`` is for a To without one; what ``asked`` lacks is left out, as of a message that could
    not be read as a whole. LocalError for a line break inside a field.
    """
    lines = [_start(status)]
    top = True
    for name, as_written, value in asked.fields:
        if name == b"via":
            if top:
                value = with_received(value, address)
                top = False
        elif name == b"to":
            if tag and not _has_tag(asked):
                value += b";tag=" + tag
        elif name not in _REPEATED:
            continue
        lines.append(as_written + b": " + value)
    for as_written, value in extra:
        lines.append(as_written + b": " + value)
    lines.append(b"Content-Length: %d" % len(body))
    return _joined(lines, body)


def encoded(message: Message) -> bytes:
    """What ``sip_codec.encode`` says, faster. LocalError."""
    if message.method:
        if b" " in message.method or b" " in message.uri:
            raise LocalError("bad-argument", "sip: bad method or URI")
        lines = [b"%b %b SIP/2.0" % (message.method, message.uri)]
    else:
        lines = [b"SIP/2.0 %d %b" % (message.status, message.reason)]
    lines += [
        as_written + b": " + value
        for name, as_written, value in message.fields
        if name != b"content-length"
    ]
    lines.append(b"Content-Length: %d" % len(message.body))
    return _joined(lines, message.body)


def _joined(lines: list[bytes], body: bytes) -> bytes:
    head = b"\r\n".join(lines)
    breaks = len(lines) - 1
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks:
        raise LocalError("bad-argument", "sip: a line break inside a field")
    return b"%b\r\n\r\n%b" % (head, body)


@functools.lru_cache(64)
def _start(status: int) -> bytes:
    return b"SIP/2.0 %d %b" % (status, sip_codec.reason_phrase(status).encode())


def _has_tag(asked: Message) -> bool:
    try:
        return asked.to().get(b"tag") is not None
    except SipError:
        return True  # unreadable: leave it as it came


def with_received(via: bytes, address: str) -> bytes:
    """The top Via with the address seen, and the port where it is asked for (RFC 3581)."""
    host, _, port = address.rpartition(":")
    received = b";received=" + host.strip("[]").encode()
    if b'"' not in via and b"," not in via and b"received" not in via:
        head, mark, tail = via.partition(b";rport")  # what nearly every one looks like
        if not mark:
            return via + received
        if not tail or tail[:1] == b";":
            return head + b";rport=" + port.encode() + tail + received
    try:
        first, *rest = split(via, b",")
        parts = split(first, b";")
    except SipError:
        return via
    kept = [part for part in parts if part.split(b"=")[0].strip().lower() != b"received"]
    out = []
    for part in kept:
        bare = part.lower() == b"rport"
        out.append(b"rport=" + port.encode() if bare else part)
    return b", ".join([b";".join(out) + received, *rest])


def capabilities() -> Fields:
    """What the manager itself offers."""
    return [
        (b"Allow", dialect.ALLOW),
        (b"Accept", dialect.ACCEPT),
        (b"Supported", dialect.SUPPORTED),
    ]


def extra(error: SipError) -> Fields:
    """What a status must bring along."""
    if error.sip_status == 405:
        return [(b"Allow", dialect.ALLOW)]
    if error.sip_status == 415:
        return [(b"Accept", dialect.ACCEPT)]
    if error.sip_status == 420:
        return [(b"Unsupported", error.unsupported)]
    if error.sip_status == 421:
        return [(b"Require", dialect.SUPPORTED)]
    if error.sip_status == 423:
        return [(b"Min-Expires", str(dialect.MIN_EXPIRES).encode())]
    if error.sip_status == 503:
        return [(b"Retry-After", b"1")]
    return []
