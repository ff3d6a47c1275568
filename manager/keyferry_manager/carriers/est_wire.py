"""What every EST server of ours does with HTTP: bounds on requests, and the form of answers."""

import asyncio
import base64
import binascii

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from fastapi import Request, Response
from starlette.exceptions import HTTPException

from keyferry_manager.carriers.tls import ChannelPeer
from keyferry_manager.enrolment import Pending, Refused

PREFIX = "/.well-known/est/"
MAX_BODY = 16384
# Seconds for a request's body to arrive.
_BODY_TIMEOUT = 10.0
# The table's 504 is for a peer that keeps silent; here it is whoever asks.
_STATUS = {"timeout": 408}

# CsrAttrs (section 4.5.2), for "an ECDSA key on P-256, signed with SHA-256":
# SEQUENCE { SEQUENCE { OID id-ecPublicKey, SET { OID prime256v1 } }, OID ecdsa-with-SHA256 }
CSR_ATTRIBUTES = bytes.fromhex(
    "3021301506072a8648ce3d0201310a06082a8648ce3d03010706082a8648ce3d040302"
)


def peer_of(request: Request) -> ChannelPeer:
    """Who is at the other end, first-hand: see carriers/http.py."""
    peer = request.scope["extensions"]["keyferry"]["peer"]
    assert isinstance(peer, ChannelPeer)
    return peer


def check_head(request: Request) -> None:
    """Refuse a body by its headers, before it is read."""
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 9 or int(length) > MAX_BODY:
        raise Refused("too-large", f"a body of {length[:20]} bytes")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/pkcs10":
        raise Refused(
            "unsupported", f"content type {kind!r}", "the content type must be application/pkcs10"
        )


async def read_body(request: Request) -> bytes:
    """The body, of MAX_BODY bytes at most: what is beyond is never held."""
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_TIMEOUT):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY:
                    raise Refused("too-large", "the body goes on beyond the limit")
    except TimeoutError:
        raise Refused("timeout", "the body did not arrive in time") from None
    return bytes(body)


def decode_request(body: bytes) -> bytes:
    """The DER request in a body."""
    # Section 4 has base64 with or without line breaks, and clients send both.
    try:
        return base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error:
        hint = "the body must be base64 of a DER request, without PEM's first and last line"
        raise Refused("malformed", "the body is not base64", hint) from None


def certificates_response(*certificates: x509.Certificate) -> Response:
    """The answer of simpleenroll and cacerts (sections 4.1.3 and 4.2.3)."""
    body = base64.b64encode(pkcs7.serialize_certificates(list(certificates), Encoding.DER))
    return encoded(body, "application/pkcs7-mime; smime-type=certs-only")


def encoded(body: bytes, media_type: str) -> Response:
    """A body that is base64 already."""
    # No line breaks: some clients fail on them.
    headers = {"Content-Transfer-Encoding": "base64", "Content-Type": media_type}
    return Response(body, headers=headers)


def error_response(refused: Refused, headers: dict[str, str]) -> Response:
    """One line of plain text (section 4.2.3)."""
    sentence = f"{refused.name}: {refused.text}"
    if refused.hint:
        sentence += f" ({refused.hint})"
    # The request's body may still be on its way. It is not read.
    headers = {**headers, "Connection": "close", "Content-Type": "text/plain; charset=utf-8"}
    status = _STATUS.get(refused.name, refused.http_status)
    return Response(sentence + "\n", status, headers)


def slow_down(wait: int) -> Response:
    """429, with the seconds until the next attempt."""
    # Neither logged nor audited: that is what makes a flood of them cheap.
    refused = Refused("too-many", hint=f"try again in {wait} s")
    return error_response(refused, {"Retry-After": str(wait)})


def ask_later(pending: Pending) -> Response:
    """Section 4.2.3: the same request, sent again later, may get its certificate."""
    headers = {"Retry-After": str(pending.retry_after), "Content-Type": "text/plain; charset=utf-8"}
    return Response("approval-pending: ask again later with the same key\n", 202, headers)


async def no_such_operation(_request: Request, error: Exception) -> Response:
    """A path or a method that there is not, in the same form as every error."""
    assert isinstance(error, HTTPException)
    refused = Refused("unsupported", hint=error.detail)
    response = error_response(refused, dict(error.headers or {}))
    response.status_code = error.status_code
    return response
