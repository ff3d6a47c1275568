"""Calls of standard user agents: INVITE and what follows it, proxied end to end (RFC 3261, 16).

A call is admitted as a session is: name, registration, route, rules, presence. After that the
manager is a stateful proxy that stays in the way (Record-Route): it knows the two devices of a call
and hands their requests and responses on, each on the other's own connection. Bodies and fields
that it does not know pass unchanged; what names a device (P-Asserted-Identity, Hop-Security) is
its own word and never a device's.
"""

from typing import TYPE_CHECKING, Any

from keyferry_core import signalling as sig
from keyferry_core.errors import RemoteError
from keyferry_core.sip_codec import Message
from keyferry_core.sip_fields import SipError, address, split
from keyferry_manager.carriers.sip import dialect
from keyferry_manager.carriers.sip.shapes import branch_of

if TYPE_CHECKING:
    from keyferry_manager.carriers.sip.link import SipLink

# Calls that a device has made, and again those made to it; with one peer a quarter of them.
PER_DEVICE = 64
TOTAL = 20_000
# Seconds: an answered call without ACK (64*T1 and some), a call in which nobody says anything.
_NO_ACK = 64.0
_IDLE = 12 * 3600.0
# What a device says of itself, and what the manager says of it.
_OURS = (b"p-asserted-identity", b"p-preferred-identity", b"hop-security", b"content-length")

Key = tuple[str, bytes, bytes]


class Call:
    """One dialog between two devices: ``key`` is caller, Call-ID and the caller's tag."""

    __slots__ = ("answered", "callee", "callee_tag", "confirmed", "ended", "failed", "key", "until")

    def __init__(self, key: Key, callee: str, until: float) -> None:
        self.key = key
        self.callee = callee
        self.callee_tag: bytes | None = None
        self.answered = False
        self.confirmed = False
        self.ended = False
        self.until = until
        # Branches of INVITEs within the call that failed: their ACK is for us.
        self.failed: list[bytes] = []

    @property
    def caller(self) -> str:
        """Who asked."""
        return self.key[0]


class Calls:
    """All calls of one manager."""

    def __init__(self, realm: str) -> None:
        self.realm = realm
        self.calls: dict[Key, Call] = {}
        self._counts: dict[tuple[str, str], int] = {}

    def __len__(self) -> int:
        return len(self.calls)

    # requests

    def invite(self, link: "SipLink", message: Message, callee: str) -> None:
        """A new call. SipError, or RemoteError where it is not admitted."""
        tag = message.from_().get(b"tag")
        if not tag:
            raise SipError(400, "from: no tag")
        key = (link.name, message.one(b"call-id"), tag)
        if key in self.calls:
            raise SipError(482, "a call that is there")
        asked: dict[int, Any] = {sig.TYPE: sig.CONNECT, sig.FROM: link.name, sig.TO: callee}
        stated = dialect.route(message)
        if stated is not None:
            asked[sig.ROUTE] = stated
        found, legs = link.host.admit(link, asked)
        peer = link.endpoint.link(found)
        if peer is None:
            raise RemoteError("unsupported", "the peer's carrier has no calls")
        self._check_room(link.name, callee)
        if not peer.has_room():
            raise RemoteError("too-many", f"requests to {callee}")
        out = self._forward(link, message, peer, peer.contact)
        call = self._add(Call(key, callee, link.now + _NO_ACK))
        link.respond(message, 100)
        out.fields += _fields(dialect.hop_security(legs))
        _Invite(self, call, link, message, peer, out, stated is not None)
        link.host.note("call-asked", link, to=callee)

    def within(self, link: "SipLink", message: Message) -> None:
        """A request or an ACK of a call. SipError 481 where there is none."""
        call = self._find(link, message)
        method = message.method
        if call is None:
            raise SipError(481, "no such call")
        if not link.host.allowed(call.caller, call.callee):
            self.drop(call)
            raise RemoteError("access-denied", "no rule lets these two talk any more")
        other = call.callee if link.name == call.caller else call.caller
        found = link.host.link_of(other)
        peer = None if found is None else link.endpoint.link(found)
        if method == b"ACK":
            branch = branch_of(message)
            if branch in call.failed:
                call.failed.remove(branch)
            elif peer is not None:
                call.confirmed = True
                call.until = link.now + _IDLE
                peer.tell(self._forward(link, message, peer, message.uri))
            return
        if peer is None:
            raise SipError(430, "the peer's flow is gone")
        if not peer.has_room():
            raise RemoteError("too-many", f"requests to {other}")
        if call.confirmed:
            call.until = link.now + _IDLE
        out = self._forward(link, message, peer, message.uri)
        if method == b"INVITE":
            link.respond(message, 100)
            _Invite(self, call, link, message, peer, out, False)
            return

        def answered(answer: Message | int) -> None:
            status = answer if isinstance(answer, int) else answer.status
            if status >= 200 and (method == b"BYE" or status in (408, 481)):
                self.drop(call)
                link.host.note("call-ended", link, to=other)
            self._return(link, message, answer, peer)

        peer.ask(out, answered)

    # inside

    def _find(self, link: "SipLink", message: Message) -> Call | None:
        call_id = message.one(b"call-id")
        mine = message.from_().get(b"tag") or b""
        to = message.to()
        theirs = to.get(b"tag") or b""
        call = self.calls.get((link.name, call_id, mine))
        if call is not None:
            return call if call.callee_tag == theirs else None
        call = self.calls.get(((to.uri.user or b"").decode(), call_id, theirs))
        if call is None or call.callee != link.name or call.callee_tag != mine:
            return None
        return call

    def _forward(self, link: "SipLink", message: Message, peer: "SipLink", uri: bytes) -> Message:
        """The request as the peer gets it, without our Via (section 16.6)."""
        out = Message(message.method, uri)
        fields = out.fields
        hops = b"70"
        seen = False
        for field in message.fields:
            name = field[0]
            if name in _OURS:
                continue
            if name == b"via" and not seen:
                seen = True
                fields.append((name, field[1], link.received(field[2])))
            elif name == b"max-forwards":
                left = int(field[2])
                if not left:
                    raise SipError(483, "no hop left")
                hops = str(left - 1).encode()
            elif name == b"route":
                self._check_route(field[2], link)
            else:
                fields.append(field)
        fields.append((b"max-forwards", b"Max-Forwards", hops))
        identity = f"<sip:{link.name}@{self.realm}>".encode()
        fields.append((b"p-asserted-identity", b"P-Asserted-Identity", identity))
        if message.method == b"INVITE":
            fields.insert(0, (b"record-route", b"Record-Route", peer.own_route))
        out.body = message.body
        return out

    def _check_route(self, value: bytes, link: "SipLink") -> None:
        """A Route leads to us, for no other hop is behind this connection (RFC 3261, 16.4)."""
        if value in link.routes:
            return
        for part in split(value, b","):
            uri = address(part).uri
            if not link.is_here(uri):
                link.refused("bad-route", f"Route: {part[:80].decode()}")
                raise RemoteError("bad-route", "Route leads elsewhere")
        link.remember_route(value)

    def _return(
        self, link: "SipLink", asked: Message, answer: Message | int, peer: "SipLink"
    ) -> None:
        """Hand a response of ``peer`` on to the link that asked (section 16.7).

        Our own entry in Record-Route is written as this side reaches us (step 8).
        """
        if isinstance(answer, int):
            code = "timeout" if answer == 408 else "peer-gone"
            link.fail(asked, RemoteError(code))
            return
        ours = peer.own_route
        out = Message(b"", b"", answer.status, answer.reason)
        out.body = answer.body
        popped = False
        for field in answer.fields:
            name = field[0]
            if name in _OURS:
                continue
            if name == b"via" and not popped:
                popped = True
                rest = split(field[2], b",")[1:]
                if rest:
                    out.fields.append((name, field[1], b", ".join(rest)))
            elif name == b"record-route":
                out.fields.append((name, field[1], field[2].replace(ours, link.own_route)))
            else:
                out.fields.append(field)
        if not any(field[0] == b"via" for field in out.fields):
            return  # not the answer to what we sent
        identity = f"<sip:{peer.name}@{self.realm}>".encode()
        out.fields.append((b"p-asserted-identity", b"P-Asserted-Identity", identity))
        link.hand_back(asked, out)

    def _check_room(self, caller: str, callee: str) -> None:
        if len(self.calls) >= TOTAL:
            raise RemoteError("too-many", "calls in all")
        for pair, most in (
            ((caller, ""), PER_DEVICE),
            (("", callee), PER_DEVICE),
            ((caller, callee), PER_DEVICE // 4),
        ):
            if self._counts.get(pair, 0) >= most:
                raise RemoteError("too-many", f"calls of {pair[0] or 'all'} to {pair[1] or 'all'}")

    def _add(self, call: Call) -> Call:
        self.calls[call.key] = call
        for pair in _pairs(call):
            self._counts[pair] = self._counts.get(pair, 0) + 1
        return call

    def drop(self, call: Call) -> None:
        """A call is over."""
        if self.calls.get(call.key) is not call:
            return
        del self.calls[call.key]
        for pair in _pairs(call):
            left = self._counts[pair] - 1
            if left:
                self._counts[pair] = left
            else:
                del self._counts[pair]

    def expire(self, now: float) -> None:
        """Forget the calls that nobody goes on with. Called about once a minute."""
        for call in list(self.calls.values()):
            if call.until <= now and (call.answered or call.ended):
                self.drop(call)


class _Invite:
    """The transaction of one INVITE, from caller to callee and back."""

    def __init__(
        self,
        calls: Calls,
        call: Call,
        link: "SipLink",
        asked: Message,
        peer: "SipLink",
        out: Message,
        routed: bool,
    ) -> None:
        self._calls = calls
        self._call = call
        self._link = link
        self._asked = asked
        self._peer = peer
        self._out = out
        self._routed = routed
        self._first = call.callee_tag is None
        self._trying = False
        self._cancelled = False
        link.begun(asked, self._cancel)
        self._branch = peer.ask(out, self._answered)

    def _answered(self, answer: Message | int) -> None:
        calls, call, link = self._calls, self._call, self._link
        status = answer if isinstance(answer, int) else answer.status
        if status < 200:
            if not self._trying:
                self._trying = True
                if self._cancelled:
                    self._send_cancel()
            if status > 100 and isinstance(answer, Message) and not self._cancelled:
                self._learn(answer)
                calls._return(link, self._asked, answer, self._peer)
            return
        if isinstance(answer, int) and self._trying and self._peer.has_room():
            self._send_cancel()  # Timer C, or the manager stops
        if status >= 300 or isinstance(answer, int):
            if self._first:
                calls.drop(call)
            else:
                branch = branch_of(self._asked)
                call.failed = [*call.failed[-7:], branch]
                if status in (408, 481):
                    calls.drop(call)
        else:
            self._learn(answer)
            if self._first:
                call.answered = True
                call.until = link.now + _NO_ACK
                link.host.note("call-accepted", self._peer, to=call.caller)
                if self._routed:
                    leg = link.host.leg(self._peer, _stated(answer))
                    onward = [link.address, link.transport, True, True]
                    values = dialect.hop_security([leg, onward])
                    answer.fields = [f for f in answer.fields if f[0] != b"hop-security"]
                    answer.fields += [(b"x", name, value) for name, value in values]
        calls._return(link, self._asked, answer, self._peer)

    def _learn(self, answer: Message) -> None:
        if not self._first:
            return
        tag = answer.to().get(b"tag")
        if tag:
            self._call.callee_tag = tag

    def _cancel(self, cancel: Message) -> None:
        self._link.respond(cancel, 200)
        if self._cancelled:
            return
        self._cancelled = True
        if self._trying:
            self._send_cancel()

    def _send_cancel(self) -> None:
        out = Message(b"CANCEL", self._out.uri)
        for field in self._out.fields:
            if field[0] in (b"from", b"to", b"call-id", b"max-forwards"):
                out.fields.append(field)
        number = self._out.cseq()[0]
        out.fields.append((b"cseq", b"CSeq", str(number).encode() + b" CANCEL"))
        self._peer.ask(out, lambda answer: None, self._branch)


def _stated(answer: Message) -> list[Any] | None:
    try:
        stated = dialect.route(answer)
    except SipError:
        return None
    return None if stated is None else stated[0]


def _fields(values: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes, bytes]]:
    return [(name.lower(), name, value) for name, value in values]


def _pairs(call: Call) -> tuple[tuple[str, str], ...]:
    return (call.caller, ""), ("", call.callee), (call.caller, call.callee)
