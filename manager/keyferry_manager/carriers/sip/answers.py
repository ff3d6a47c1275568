"""Answers to requests: what every one repeats and adds, whoever gives it."""

from keyferry_core import sip_codec
from keyferry_core.sip_codec import Message
from keyferry_core.sip_fields import SipError, split
from keyferry_manager.carriers.sip import dialect

Fields = list[tuple[bytes, bytes]]


def answer(asked: Message, status: int, address: str, tag: bytes, body: bytes = b"") -> Message:
    """A response to ``asked``, which came from ``address``; ``tag`` is for a To without one."""
    found = sip_codec.response(asked, status, tag, body=body)
    for index, (name, written, value) in enumerate(found.fields):
        if name == b"via":
            found.fields[index] = (name, written, with_received(value, address))
            break
    return found


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
