"""A device of docs/sip.md for tests: its dialogs by sipmessage, its bodies by Python's email."""

import email
import email.policy
import os
from typing import Any

import sipmessage

from support.manager_kit import REALM
from support.sip_client import SipClient

EDHOC = "application/edhoc+cbor-seq"
RECORD = "application/octet-stream"
CERTIFICATE = "application/pkix-cert"
ENDORSED = "application/cose"


def parts(message: sipmessage.Request | sipmessage.Response) -> list[tuple[str, bytes]]:
    """The parts of a body."""
    if not message.body:
        return []
    kind = message.headers["Content-Type"]
    if not kind.startswith("multipart/"):
        return [(kind.split(";")[0], message.body)]
    head = f"MIME-Version: 1.0\r\nContent-Type: {kind}\r\n\r\n".encode()
    found = email.message_from_bytes(head + message.body, policy=email.policy.HTTP)
    assert found.is_multipart()
    assert not found.defects
    # email's parser takes bodies as text: cut the bytes out by the boundary that it found
    boundary = b"--" + str(found.get_boundary()).encode()
    pieces = (b"\r\n" + message.body).split(b"\r\n" + boundary)[1:-1]
    bodies = [piece.partition(b"\r\n\r\n")[2] for piece in pieces]
    kinds = [part.get_content_type() for part in found.iter_parts()]
    return list(zip(kinds, bodies, strict=True))


def joined(*found: tuple[str, bytes]) -> tuple[str, bytes]:
    """Content-Type and body of parts."""
    if len(found) == 1:
        return found[0]
    mark = os.urandom(8).hex()
    out = b"".join(
        f"--{mark}\r\nContent-Type: {kind}\r\n\r\n".encode() + data + b"\r\n"
        for kind, data in found
    )
    return f"multipart/mixed;boundary={mark}", out + f"--{mark}--\r\n".encode()


class SipDevice(SipClient):
    """One connection of a device that has sessions."""

    def inside(
        self,
        method: str,
        peer: str,
        session: bytes,
        *found: tuple[str, bytes],
        initiator: bool = True,
        number: int | None = None,
        **fields: Any,
    ) -> sipmessage.Request:
        """A request in the dialog of a session."""
        kind, body = joined(*found) if found else ("", b"")
        request = self.request(method, peer, body, **fields)
        digits = session.hex()
        mine, other = digits[:16], digits[16:]
        if not initiator:
            mine, other = other, mine
        request.headers.set("From", f"{self.identity};tag={mine}")
        to = f"<sip:{peer}@{REALM}>"
        request.headers.set("To", to if method in ("INVITE", "CANCEL") else f"{to};tag={other}")
        request.headers.set("Call-ID", digits)
        if number is not None:
            request.headers.set("CSeq", f"{number} {method}")
        if kind:
            request.headers.set("Content-Type", kind)
        return request

    def invite(
        self, peer: str, message_1: bytes = b"message_1", session: bytes = b"", **fields: Any
    ) -> tuple[bytes, sipmessage.Request]:
        """Ask for a session; 100 has come."""
        session = session or os.urandom(16)
        fields.setdefault("contact", f"<sip:{self.name}@{self.address};transport=tls>")
        request = self.inside("INVITE", peer, session, (EDHOC, message_1), **fields)
        self.send(request)
        return session, request

    def final(self) -> sipmessage.Response:
        """The next final response."""
        while True:
            found = self.answer()
            if found.code >= 200:
                return found

    def respond(
        self,
        request: sipmessage.Request,
        code: int = 200,
        phrase: str = "OK",
        found: tuple[tuple[str, bytes], ...] = (),
        tag: str = "",
        **fields: Any,
    ) -> None:
        """Answer a request."""
        kind, body = joined(*found) if found else ("", b"")
        response = sipmessage.Response(code, phrase, body=body)
        for key in ("Via", "From", "To", "Call-ID", "CSeq", "Record-Route"):
            values = request.headers.getlist(key)
            if values:
                response.headers.setlist(key, values)
        to = request.headers["To"]
        if "tag=" not in to and code > 100:
            call_id = request.headers["Call-ID"]
            ours = call_id[16:] if len(call_id) == 32 and "@" not in call_id else "callee"
            response.headers.set("To", f"{to};tag={tag or ours}")
        for key, value in fields.items():
            response.headers.set(key.replace("_", "-").title(), value)
        if kind:
            response.headers.set("Content-Type", kind)
        response.headers.set("Content-Length", str(len(body)))
        self.send(response)

    def next(self, method: str) -> sipmessage.Request:
        """The next message, which is this request."""
        found = self.receive()
        assert isinstance(found, sipmessage.Request), found
        assert found.method == method, bytes(found)
        return found
