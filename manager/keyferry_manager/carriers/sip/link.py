"""One TLS connection that speaks SIP: framing, identity, answers, time.

The relay behind it is MQTT's: a request becomes a message of the signalling (``dialect``), and the
relay's answer, which carries the same number, becomes the response. So names, rules, routes,
limits and the audit trail are the same, and devices of both carriers reach each other.
"""

import asyncio
import logging
import secrets
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from keyferry_core import signalling as sig
from keyferry_core import sip_check, sip_codec
from keyferry_core.errors import RemoteError, code_of
from keyferry_core.names import MANAGER
from keyferry_core.sip_codec import Message
from keyferry_core.sip_fields import SipError, split
from keyferry_manager.carriers.mqtt import Host
from keyferry_manager.carriers.sip import dialect
from keyferry_manager.carriers.tls import ChannelPeer
from keyferry_manager.identity import IdentityRefused
from keyferry_manager.logs import log
from keyferry_manager.relay import wire

_LOG = logging.getLogger("keyferry.sip")
_PER_TURN = 32
_NO_ANSWER = (b"ACK",)


@dataclass(frozen=True, slots=True)
class SipSettings:
    """Bounds. Times in seconds, sizes in bytes."""

    requests_per_second: int = 2000
    # From a message's first byte to its last, and from the handshake to the first message.
    message_timeout: float = 32.0
    # Timer F (section 17.1.2.2): what a device did not answer by then, it will not.
    transaction: float = 32.0
    # Flow-Timer (RFC 5626, section 4.4.1). A registered flow that is silent for longer is dead.
    flow_timer: int = 120
    flow_grace: float = 30.0
    open_requests: int = 64
    waiting_per_certificate: int = 8
    max_body: int = 16 * 1024


class SipEndpoint:
    """Makes the protocols for a TlsListener, and holds what its links have in common."""

    def __init__(self, host: Host, realm: str, settings: SipSettings | None = None) -> None:
        self.host = host
        self.realm = realm
        self.settings = settings or SipSettings()
        self.waiting: Counter[bytes] = Counter()
        self.tasks: set[asyncio.Task[None]] = set()

    def __call__(self, peer: ChannelPeer) -> asyncio.Protocol:
        """The protocol for one verified connection."""
        return SipLink(self, peer)

    async def stop(self) -> None:
        """Give up identifications under way."""
        for task in list(self.tasks):
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks)


class SipLink(asyncio.Protocol):
    """One connection: first whoever connected, then the link of a device."""

    def __init__(self, endpoint: SipEndpoint, peer: ChannelPeer) -> None:
        self._endpoint = endpoint
        self._host = endpoint.host
        self._realm = endpoint.realm
        self._settings = endpoint.settings
        self._peer = peer
        self._loop = asyncio.get_running_loop()
        self._reader = sip_codec.Reader(max_body=self._settings.max_body)
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._resume: asyncio.TimerHandle | None = None
        self._online = False
        self._ended = False
        self._counted = False
        self._paused = False
        self._heard_at = self._begun_at = self._loop.time()
        self._bucket = float(self._settings.requests_per_second)
        self._bucket_at = self._heard_at
        self._certificate_ends = 0.0
        self._number = 0
        # Requests of the device that the relay has not answered, by number.
        self._open: dict[int, Message] = {}
        # Our requests that the device has not answered: branch to sender, its number, when.
        self._sent: dict[bytes, tuple[str, int, float]] = {}
        self._registered_until = 0.0
        self._register: tuple[bytes, int] = (b"", -1)  # Call-ID and CSeq of the last one
        self._asked: dialect.Binding | None = None
        self._binding: dialect.Binding | None = None
        self.name = ""
        self.address = peer.address
        self.transport = sig.TRANSPORT_SIP_TLS
        self.certificate_der = peer.certificate_der or b""

    # the transport's protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Look up who it is; nothing is read before that is known."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        waiting = self._endpoint.waiting
        if waiting[self.certificate_der] >= self._settings.waiting_per_certificate:
            self._ended = True
            self._refused("too-many", "connections of one certificate that wait")
            transport.abort()
            return
        waiting[self.certificate_der] += 1
        self._counted = True
        transport.pause_reading()
        task = self._loop.create_task(self._identify(), name="sip-identify")
        self._task = task
        self._endpoint.tasks.add(task)
        task.add_done_callback(self._endpoint.tasks.discard)

    async def _identify(self) -> None:
        try:
            identity = await self._host.identify(self._peer)
        except IdentityRefused as refusal:
            self.name = refusal.name
            self._refused(refusal.reason, refusal.detail)
            self._close(refusal.reason)
            return
        if self._ended:
            return
        self.name = identity.name
        now = self._loop.time()
        # A certificate opens the link, so the link ends with it.
        self._certificate_ends = now + identity.expires_at - time.time()
        try:
            self._host.link_up(self)
        except RemoteError as error:
            self._refused(error.name, error.detail)
            self._close(error.name)
            return
        self._online = True
        self._count_out()
        self._heard_at = self._begun_at = now
        self._timer = self._loop.call_later(1.0, self._check_times)
        self._resume_reading()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the device."""
        if self._ended:
            return
        self._heard_at = self._loop.time()
        if not self._reader.waiting:
            self._begun_at = self._heard_at
        self._reader.feed(data)
        if self._online and self._resume is None:
            self._handle_messages()

    def eof_received(self) -> bool | None:
        """The device closed; the transport does the rest."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        if self._task is not None:
            self._task.cancel()
        self._end("lost" if exc is None else f"lost: {exc}")

    def pause_writing(self) -> None:
        """The device reads too slowly: take nothing more from it, and no messages for it."""
        self._paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The transport has room."""
        self._paused = False
        self._resume_reading()

    # the relay's link

    def send(self, payload: bytes) -> bool:
        """Take one message of the relay: an answer, or something from a peer. False, and nothing
        taken, when the device reads too slowly."""
        if not self._online or self._ended:
            return False
        message = wire.decode_map(payload)
        kind = message[sig.TYPE]
        if kind == sig.SEND:
            return self._send_message(message)
        if kind == sig.CONNECT:
            # The relay opens the session behind this call, and only then it can be refused.
            self._loop.call_soon(self._reject, message)
            return True
        number = message.get(sig.ID)
        asked = None if number is None else self._open.pop(number, None)
        if asked is not None:
            self._answer(asked, message)
        return True

    def close(self) -> None:
        """Send what can be sent, and end the link."""
        self._leave()
        if self._transport is not None:
            self._transport.close()

    # requests

    def _handle_messages(self) -> None:
        turn = _PER_TURN
        while not self._ended and not self._paused:
            try:
                message = self._reader.next_message()
            except SipError as error:
                self._broken(error)
                return
            if self._reader.pings:
                self._reader.pings = 0
                self._write(b"\r\n")
            if message is None:
                return
            self._begun_at = self._loop.time()
            self._handle(message)
            turn -= 1
            self._bucket -= 1.0
            if self._bucket < 1.0:
                now = self._loop.time()
                rate = self._settings.requests_per_second
                self._bucket = min(float(rate), self._bucket + (now - self._bucket_at) * rate)
                self._bucket_at = now
            if turn <= 0 or self._bucket < 1.0:
                # Others first. What is in the reader stays there; no more is read meanwhile.
                wait = 0.0 if self._bucket >= 1.0 else 32.0 / self._settings.requests_per_second
                if self._transport is not None:
                    self._transport.pause_reading()
                self._resume = self._loop.call_later(wait, self._continue)
                return

    def _continue(self) -> None:
        self._resume = None
        self._resume_reading()

    def _resume_reading(self) -> None:
        if not self._online or self._ended or self._paused or self._resume is not None:
            return
        self._handle_messages()
        if self._transport is not None and not self._ended and self._resume is None:
            self._transport.resume_reading()

    def _broken(self, error: SipError) -> None:
        """What follows cannot be framed: answer what can be answered, and close."""
        self._refused("sip-malformed", error.detail)
        message = error.message
        if message is not None and not message.status:
            self._respond(message, error.sip_status)
        self._close("sip-malformed")

    def _handle(self, message: Message) -> None:
        try:
            sip_check.check(message, (b"outbound",))
            if message.status:
                self._on_response(message)
                return
            if message.method in _NO_ANSWER:
                return
            dialect.check_sender(message, self.name, self._realm)
            self._on_request(message)
        except dialect.Refused as refusal:
            self._refused(refusal.event, refusal.detail)
            self._respond(message, refusal.status, warning=refusal.warning)
        except SipError as error:
            if message.status or message.method in _NO_ANSWER:
                log(_LOG, logging.DEBUG, "dropped", address=self.address, detail=error.detail)
                return
            if error.sip_status == 400:
                self._refused("malformed", error.detail)
            self._respond(message, error.sip_status, _extra(error))

    def _on_request(self, message: Message) -> None:
        method = message.method
        wanted = dialect.target(message, self._realm)
        if method in (b"CANCEL", b"BYE"):
            raise SipError(481, "no such transaction or dialog")
        if method == b"REGISTER":
            self._on_register(message)
        elif method == b"OPTIONS":
            if wanted:
                self._ask(message, dialect.resolve(wanted, self.name, self._next()))
            else:
                self._respond(message, 200, _capabilities())
        elif method == b"MESSAGE":
            if not wanted:
                raise SipError(404, "the manager reads no messages")
            self._ask(message, dialect.send(message, wanted, self.name, self._next()))
        elif method in (b"INVITE", b"UPDATE", b"SUBSCRIBE", b"NOTIFY", b"PUBLISH", b"INFO"):
            raise SipError(405, "this method is not offered here")
        else:
            raise SipError(501, "an unknown method")

    def _on_register(self, message: Message) -> None:
        binding = dialect.Binding(message)
        call_id, number = message.one(b"call-id"), message.cseq()[0]
        if call_id == self._register[0] and number <= self._register[1]:
            raise SipError(500, "CSeq is not higher than before")  # section 10.3, step 7
        self._register = (call_id, number)
        if binding.seconds is None:
            self._respond(message, 200, self._bindings())
        elif binding.seconds:
            self._asked = binding
            self._ask(message, dialect.register(message, binding, self.name, self._next()))
        else:
            # It takes leave. The link stays, as a new one that has not registered.
            self._binding = None
            self._host.link_down(self, True, "unregistered")
            self._respond(message, 200)
            try:
                self._host.link_up(self)
            except RemoteError as error:  # somebody else took the room
                self._online = False
                self._refused(error.name, error.detail)
                self._close(error.name)

    def _ask(self, asked: Message, request: dict[int, Any]) -> None:
        """Give the relay a message. Its answer comes to ``send``, mostly within this call."""
        if len(self._open) >= self._settings.open_requests:
            raise SipError(503, "too many requests without an answer")
        self._open[request[sig.ID]] = asked
        self._host.receive(self, wire.encode(request))

    def _next(self) -> int:
        self._number = (self._number + 1) & 0xFFFFFFFF
        return self._number

    # answers

    def _answer(self, asked: Message, message: dict[int, Any]) -> None:
        """The relay's answer to a request of the device."""
        error = dialect.error_of(message)
        if error is not None:
            extra = [(b"Retry-After", b"1")] if error.sip_status == 503 else []
            self._respond(asked, error.sip_status, extra, error.text)
        elif message[sig.TYPE] == sig.REGISTERED:
            self._registered(asked, message)
        elif message[sig.TYPE] == sig.RESOLVED:
            self._resolved(asked, message)
        else:
            self._respond(asked, 200)

    def _registered(self, asked: Message, message: dict[int, Any]) -> None:
        binding = self._binding = self._asked
        assert binding is not None
        self._registered_until = self._loop.time() + message[sig.EXPIRES]
        extra = self._bindings()
        if binding.outbound:
            timer = str(self._settings.flow_timer).encode()
            extra += [(b"Require", b"outbound"), (b"Flow-Timer", timer)]
        self._respond(asked, 200, extra)

    def _bindings(self) -> list[tuple[bytes, bytes]]:
        left = int(self._registered_until - self._loop.time() + 0.5)
        if self._binding is None or left <= 0:
            return []
        return [(b"Contact", value) for value in self._binding.fields(left)]

    def _resolved(self, asked: Message, message: dict[int, Any]) -> None:
        wanted = message[sig.NAME]
        if not message[sig.ONLINE]:
            self._respond(asked, 480, warning="the device is known but has no link")
            return
        extra = []
        for address in message[sig.ADDRESSES]:
            extra.append((b"Contact", f"<sip:{wanted}@{address};transport=tls>".encode()))
        body = b""
        accept = asked.first(b"accept")
        certificate = b"application/pkix-cert"
        if accept is not None and certificate in accept.lower():
            body = message[sig.CREDENTIAL]
            extra.append((b"Content-Type", certificate))
        self._respond(asked, 200, extra, body=body)

    def _respond(
        self,
        asked: Message,
        status: int,
        extra: list[tuple[bytes, bytes]] | None = None,
        warning: str = "",
        body: bytes = b"",
    ) -> None:
        if not asked.count(b"via"):
            return  # nobody would know it as an answer
        answer = sip_codec.response(asked, status, secrets.token_hex(8).encode(), body=body)
        for index, (name, written, value) in enumerate(answer.fields):
            if name == b"via":
                answer.fields[index] = (name, written, self._with_received(value))
                break
        for name, value in extra or []:
            answer.add(name, value)
        if warning:
            text = warning.replace("\\", "/").replace('"', "'")
            answer.add(b"Warning", f'399 {self._realm} "{text}"'.encode())
        self._write(sip_codec.encode(answer))

    def _with_received(self, via: bytes) -> bytes:
        """The top Via with the address seen, and the port where it is asked for (RFC 3581)."""
        try:
            first, *rest = split(via, b",")
            parts = split(first, b";")
        except SipError:
            return via
        host, _, port = self.address.rpartition(":")
        kept = [part for part in parts if part.split(b"=")[0].strip().lower() != b"received"]
        out = []
        for part in kept:
            bare = part.lower() == b"rport"
            out.append(b"rport=" + port.encode() if bare else part)
        out.append(b"received=" + host.strip("[]").encode())
        return b", ".join([b";".join(out), *rest])

    # towards the device

    def _send_message(self, message: dict[int, Any]) -> bool:
        if self._paused or len(self._sent) >= self._settings.open_requests:
            return False
        branch = b"z9hG4bK" + secrets.token_hex(12).encode()
        contact = f"sip:{self.name}@{self._realm}".encode()
        if self._binding is not None and self._binding.contacts:
            contact = self._binding.contacts[0].raw.split(b"?")[0]
        request = dialect.message_to(message, self.name, self._realm, contact, branch)
        self._sent[branch] = (message[sig.FROM], message[sig.ID], self._loop.time())
        self._write(sip_codec.encode(request))
        return True

    def _on_response(self, message: Message) -> None:
        """The device answers one of our requests; what answers none is dropped."""
        branch = message.top_via().get(b"branch") or b""
        if message.status < 200 or message.cseq()[1] != b"MESSAGE":
            return
        sent = self._sent.pop(branch, None)
        if sent is None:
            return
        report: dict[int, Any] = {
            sig.TYPE: sig.DELIVERED,
            sig.FROM: self.name,
            sig.TO: sent[0],
            sig.ID: sent[1],
        }
        if message.status >= 300:
            report[sig.ERROR_CODE] = code_of(dialect.error_name(message.status))
        self._host.receive(self, wire.encode(report))

    def _reject(self, offered: dict[int, Any]) -> None:
        """Sessions are not offered on this carrier: say so at once, for the peer waits."""
        if not self._online or self._ended or offered[sig.FROM] == MANAGER:
            return
        answer = {
            sig.TYPE: sig.REJECT,
            sig.FROM: self.name,
            sig.TO: offered[sig.FROM],
            sig.SESSION: offered[sig.SESSION],
            sig.ERROR_CODE: code_of("unsupported"),
        }
        self._host.receive(self, wire.encode(answer))

    # time and end

    def _check_times(self) -> None:
        """Once a second: what has waited too long."""
        self._timer = None
        now = self._loop.time()
        settings = self._settings
        for branch, (_, _, since) in list(self._sent.items()):
            if now - since > settings.transaction:
                del self._sent[branch]  # the relay has told the sender before this
        reason = ""
        if now >= self._certificate_ends:
            reason = "certificate-expired"
        elif self._reader.waiting and now - self._begun_at > settings.message_timeout:
            reason = "message-timeout"
        elif (
            self._binding is not None
            and self._binding.outbound
            and now - self._heard_at > settings.flow_timer + settings.flow_grace
        ):
            reason = "flow-timeout"
        elif now > max(self._heard_at, self._registered_until) + settings.message_timeout:
            reason = "not-registered"
        if reason:
            self._refused(reason, "the connection is closed")
            self._close(reason)
            return
        self._timer = self._loop.call_later(1.0, self._check_times)

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._ended:
            self._transport.write(data)

    def _refused(self, event: str, detail: str) -> None:
        self._host.refused(event, self.name, self.address, detail)

    def _close(self, reason: str) -> None:
        self._end(reason)
        if self._transport is not None:
            self._transport.close()

    def _end(self, reason: str) -> None:
        online = self._online
        self._leave()
        if online:
            self._host.link_down(self, False, reason)

    def _leave(self) -> None:
        self._online = False
        self._ended = True
        self._count_out()
        for timer in (self._timer, self._resume):
            if timer is not None:
                timer.cancel()
        self._timer = None
        self._open.clear()
        self._sent.clear()

    def _count_out(self) -> None:
        if not self._counted:
            return
        self._counted = False
        waiting = self._endpoint.waiting
        waiting[self.certificate_der] -= 1
        if waiting[self.certificate_der] <= 0:
            del waiting[self.certificate_der]


def _capabilities() -> list[tuple[bytes, bytes]]:
    return [
        (b"Allow", dialect.ALLOW),
        (b"Accept", dialect.ACCEPT),
        (b"Supported", dialect.SUPPORTED),
    ]


def _extra(error: SipError) -> list[tuple[bytes, bytes]]:
    """What a status must bring along."""
    if error.sip_status == 405:
        return [(b"Allow", dialect.ALLOW)]
    if error.sip_status == 415:
        return [(b"Accept", dialect.ACCEPT)]
    if error.sip_status == 420:
        return [(b"Unsupported", error.unsupported)]
    if error.sip_status == 423:
        return [(b"Min-Expires", str(dialect.MIN_EXPIRES).encode())]
    if error.sip_status == 503:
        return [(b"Retry-After", b"1")]
    return []
