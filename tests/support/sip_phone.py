"""A user agent for tests that calls and is called, by sipmessage. CPython only."""

import itertools
from typing import Any

import sipmessage

from support.sip_device import SipDevice

SDP = b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nt=0 0\r\n"
_IDS = itertools.count(1)


class Phone(SipDevice):
    """A user agent that follows Record-Route and Contact as RFC 3261 says (section 12)."""

    def call(self, to: str = "pump-7", **fields: Any) -> sipmessage.Request:
        """Send an INVITE with SDP."""
        fields.setdefault("contact", f"<sip:{self.name}@{self.address};transport=tls>")
        fields.setdefault("content_type", "application/sdp")
        invite = self.request("INVITE", to, SDP, **fields)
        if "call_id" not in fields:
            invite.headers.set("Call-ID", f"call-{next(_IDS)}@{self.name}")
        self.send(invite)
        return invite

    def inside_call(
        self, method: str, first: Any, number: int, body: bytes = b"", mine: str = "From"
    ) -> sipmessage.Request:
        """A request in the dialog that ``first`` made: an INVITE taken, or its 200."""
        route = first.headers.getlist("Record-Route")
        target = str(first.contact[0].uri)
        request = self.request(method, "", body, uri=target)
        theirs = "To" if mine == "From" else "From"
        me = first.headers[mine] + ("" if mine == "From" else ";tag=callee")
        request.headers.set("From", me)
        request.headers.set("To", first.headers[theirs])
        request.headers.set("Call-ID", first.headers["Call-ID"])
        request.headers.set("CSeq", f"{number} {method}")
        if route:
            request.headers.setlist("Route", route)
        if body:
            request.headers.set("Content-Type", "application/sdp")
        return request

    def take(self, invite: sipmessage.Request, code: int = 200, **fields: Any) -> None:
        """Answer an INVITE, with the tag ``callee``."""
        fields.setdefault("contact", f"<sip:{self.name}@{self.address};transport=tls>")
        found = (("application/sdp", SDP),) if code == 200 else ()
        self.respond(invite, code, "Whatever", found, tag="callee", **fields)
