"""One TLS connection that speaks SIP: framing, identity, transactions, time.

The relay behind it is MQTT's: what a device asks for becomes a message of the signalling, and the
relay's answer becomes the response. So names, rules, routes, limits and the audit trail are the
same, and devices of both carriers reach each other. Which message becomes what is ``registrar``'s,
``sessions``' and ``calls``' to know.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from keyferry_core import signalling as sig
from keyferry_core import sip_check, sip_parts
from keyferry_core.errors import KeyferryError, RemoteError, code_of
from keyferry_core.names import MANAGER
from keyferry_core.sip_codec import Message
from keyferry_core.sip_fields import SipError, Uri
from keyferry_manager.carriers.sip import answers, dialect
from keyferry_manager.carriers.sip.answers import Fields
from keyferry_manager.carriers.sip.letters import Letters
from keyferry_manager.carriers.sip.reading import LinkReader
from keyferry_manager.carriers.sip.registrar import Registrar
from keyferry_manager.carriers.sip.sessions import Sessions
from keyferry_manager.carriers.sip.shapes import Read, branch_of
from keyferry_manager.carriers.tls import ChannelPeer
from keyferry_manager.identity import IdentityRefused
from keyferry_manager.logs import log
from keyferry_manager.relay import wire

if TYPE_CHECKING:
    from keyferry_manager.carriers.sip.endpoint import SipEndpoint

_LOG = logging.getLogger("keyferry.sip")
_PER_TURN = 32
# Request-URIs of a device whose meaning is remembered; each has at most 1024 bytes.
_TARGETS = 16
_LONGEST_ROUTE = 256
_IN_SESSION = (sig.CONNECT, sig.ACCEPT, sig.REJECT, sig.MESSAGE, sig.END)
_OTHERS = (b"UPDATE", b"SUBSCRIBE", b"NOTIFY", b"PUBLISH", b"INFO", b"PRACK", b"REFER")

# Gets each response to a request of ours, or 408 when none came, 430 when the connection ended.
Answered = Callable[[Message | int], None]


class _Sent:
    """A request of ours that has no final response."""

    __slots__ = ("answered", "request", "until")

    def __init__(self, request: Message | None, answered: Answered, until: float) -> None:
        self.request = request
        self.answered = answered
        self.until = until


class SipLink(asyncio.Protocol):
    """One connection: first whoever connected, then the link of a device."""

    def __init__(self, endpoint: "SipEndpoint", peer: ChannelPeer) -> None:
        self.endpoint = endpoint
        self.host = endpoint.host
        self._realm = endpoint.realm
        self._settings = endpoint.settings
        self._peer = peer
        self._loop = asyncio.get_running_loop()
        self._reader = LinkReader(self._settings.max_body)
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
        # What is written at the end of this turn of the loop.
        self._out: list[bytes] = []
        # Requests of the device that the relay has not answered, by number.
        self._open: dict[int, Message] = {}
        # INVITEs of the device that have no final response, by branch: how to cancel each.
        self._invited: dict[bytes, Callable[[Message], None]] = {}
        # Ours, by method and branch.
        self._sent: dict[tuple[bytes, bytes], _Sent] = {}
        # The session of the message that the relay has right now, and what it says against it.
        self._relaying: bytes | None = None
        self._against: tuple[int, str] | None = None
        self._registrar = Registrar(self)
        self._sessions: Sessions | None = None
        self._letters = Letters("", self._realm)
        # The URI in From that was found to be the device's, as the reader remembers it; and what
        # the Request-URIs of its messages mean.
        self._own_uri: Uri | None = None
        self._targets: dict[bytes, str] = {}
        # Values of Route that were found to lead to us.
        self.routes: set[bytes] = set()
        self.name = ""
        self.address = peer.address
        self.transport = sig.TRANSPORT_SIP_TLS
        self.certificate_der = peer.certificate_der or b""
        # What Record-Route says of us on this side.
        self.own_route = b""
        self._here = b""

    # the transport's protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for its first word: whoever says nothing costs no look-up and takes nobody's
        place."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        host, port = transport.get_extra_info("sockname")[:2]
        self._here = (f"[{host}]" if ":" in host else host).encode()
        self.own_route = b"<sip:" + self._here + f":{port};transport=tls;lr>".encode()
        waiting = self.endpoint.waiting
        if waiting[self.certificate_der] >= self._settings.waiting_per_certificate:
            self._ended = True
            self.refused("too-many", "connections of one certificate that wait")
            transport.abort()
            return
        waiting[self.certificate_der] += 1
        self._counted = True
        self._timer = self._loop.call_later(self._settings.message_timeout, self._silent)

    def _silent(self) -> None:
        self._timer = None
        self.refused("not-registered", "nothing came")
        self._close("not-registered")

    def _begin(self) -> None:
        """Look up who it is; nothing is handled before that is known."""
        assert self._transport is not None
        self._transport.pause_reading()
        task = self._loop.create_task(self._identify(), name="sip-identify")
        self._task = task
        self.endpoint.tasks.add(task)
        task.add_done_callback(self.endpoint.tasks.discard)

    async def _identify(self) -> None:
        try:
            identity = await self.host.identify(self._peer)
        except IdentityRefused as refusal:
            self.name = refusal.name
            self.refused(refusal.reason, refusal.detail)
            self._close(refusal.reason)
            return
        if self._ended:
            return
        self.name = identity.name
        now = self._loop.time()
        # A certificate opens the link, so the link ends with it.
        self._certificate_ends = now + identity.expires_at - time.time()
        try:
            self.host.link_up(self)
        except RemoteError as error:
            self.refused(error.name, error.detail)
            self._close(error.name)
            return
        self._letters = Letters(self.name, self._realm)
        self._sessions = Sessions(self, self.endpoint.dialogs(self.name))
        self._online = True
        self._count_out()
        self._heard_at = self._begun_at = now
        if self._timer is not None:
            self._timer.cancel()
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
        if self._task is None:
            self._begin()
        elif self._online and self._resume is None:
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
        return self.take(wire.decode_map(payload))

    def take(self, message: dict[int, Any]) -> bool:
        """The same, as a map."""
        if not self._online or self._ended:
            return False
        kind = message[sig.TYPE]
        if kind == sig.SEND:
            return self._send_message(message)
        if kind in _IN_SESSION:
            assert self._sessions is not None
            return self._sessions.send(message)
        number = message.get(sig.ID)
        if kind == sig.ERROR and number is None:
            self._told(message)
            return True
        asked = None if number is None else self._open.pop(number, None)
        if asked is not None:
            self._answer(asked, message)
        return True

    def give_up(self) -> None:
        """The manager stops: whoever waits for an answer of this device gets one, while all links
        are still there, and a device that rings is told to stop."""
        sent, self._sent = self._sent, {}
        for entry in sent.values():
            entry.answered(430)

    def close(self) -> None:
        """Send what can be sent, and end the link."""
        self._flush()
        self._leave()
        if self._transport is not None:
            self._transport.close()

    @property
    def unsent(self) -> int:
        """Requests to the device that it has not answered."""
        return len(self._sent)

    def adopt(self) -> None:
        """The endpoint's settings have changed."""
        self._settings = self.endpoint.settings

    # what the device sends

    def _handle_messages(self) -> None:
        turn = _PER_TURN
        while not self._ended and not self._paused:
            try:
                message = self._reader.next_message()
            except SipError as error:
                self._broken(error)
                return
            if self._reader.pings:
                self._reader.ponged()
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
        self.refused("sip-malformed", error.detail)
        message = error.message
        if message is not None and not message.status:
            self.respond(message, error.sip_status)
        self._close("sip-malformed")

    def _handle(self, message: Message) -> None:
        method = message.method
        try:
            session = dialect.is_session(message)
            if not isinstance(message, Read):
                called = not session and dialect.is_call(message)
                sip_check.check(message, (b"outbound",), called)
                self._reader.learn(message)
            if message.status:
                self._on_response(message)
                return
            self.endpoint.measures.sip_requests[dialect.method_name(method)] += 1
            self._check_sender(message)
            self._on_request(message, session)
        except dialect.Refused as refusal:
            self.refused(refusal.event, refusal.detail)
            if method != b"ACK":
                said = sip_parts.warning(self._realm, code_of(refusal.event), refusal.warning)
                self.respond(message, refusal.status, [(b"Warning", said)])
        except SipError as error:
            if message.status or method == b"ACK":
                log(_LOG, logging.DEBUG, "dropped", address=self.address, detail=error.detail)
                return
            if error.sip_status == 400:
                self.refused("malformed", error.detail)
            self.respond(message, error.sip_status, answers.extra(error))
        except RemoteError as error:
            if method != b"ACK":
                self.fail(message, error)

    def _check_sender(self, message: Message) -> None:
        if not isinstance(message, Read) or message.method == b"REGISTER":
            dialect.check_sender(message, self.name, self._realm)
            return
        uri = message.from_().uri
        if uri is not self._own_uri:
            dialect.check_sender(message, self.name, self._realm)
            self._own_uri = uri

    def _target(self, message: Message) -> str:
        wanted = self._targets.get(message.uri)
        if wanted is None:
            wanted = dialect.target(message, self._realm)
            if len(self._targets) >= _TARGETS:
                self._targets.clear()
            self._targets[message.uri] = wanted
        return wanted

    def _on_request(self, message: Message, session: bool) -> None:
        method = message.method
        if method == b"CANCEL":
            cancel = self._invited.get(branch_of(message))
            if cancel is None:
                raise SipError(481, "no INVITE that waits")
            cancel(message)
            return
        if method != b"REGISTER" and message.to().get(b"tag") is not None:
            self._within(message, session)
            return
        wanted = self._target(message)
        if method == b"REGISTER":
            self._registrar.register(message)
        elif method == b"OPTIONS":
            if wanted:
                self.put(message, dialect.resolve(wanted, self.name, self.next_number()))
            else:
                self.respond(message, 200, answers.capabilities())
        elif method == b"MESSAGE":
            if not wanted:
                raise SipError(404, "the manager reads no messages")
            self.put(message, dialect.send(message, wanted, self.name, self.next_number()))
        elif method == b"INVITE":
            self._invite(message, session, wanted)
        elif method in (b"BYE", b"ACK"):
            raise SipError(481, "no such dialog")
        elif method in _OTHERS:
            raise SipError(405, "only within a call")
        else:
            raise SipError(501, "an unknown method")

    def _invite(self, message: Message, session: bool, wanted: str) -> None:
        if not wanted:
            raise SipError(404, "the manager takes no calls")
        branch = branch_of(message)
        if branch in self._invited:
            return  # sent again
        if len(self._invited) >= self._settings.open_requests:
            raise SipError(503, "too many INVITEs without an answer")
        if session:
            assert self._sessions is not None
            found = sip_parts.session_of(message.one(b"call-id"))
            self._sessions.invite(message, found, wanted)
        else:
            self.endpoint.calls.invite(self, message, wanted)

    def _within(self, message: Message, session: bool) -> None:
        """A request within a dialog."""
        if not session:
            self.endpoint.calls.within(self, message)
            return
        assert self._sessions is not None
        found = sip_parts.session_of(message.one(b"call-id")) or b""
        if message.method == b"ACK":
            self._sessions.ack(message, found)
        elif message.method == b"MESSAGE":
            self._sessions.message(message, found)
        elif message.method == b"BYE":
            self._sessions.bye(message, found)
        else:
            raise SipError(405, "not in a session")

    # the relay

    def next_number(self) -> int:
        """A number for a message that the relay answers by it."""
        self._number = (self._number + 1) & 0xFFFFFFFF
        return self._number

    def put(self, asked: Message, request: dict[int, Any]) -> None:
        """Give the relay a message with a number. Its answer, mostly within this call, answers
        ``asked``."""
        if len(self._open) >= self._settings.open_requests:
            raise SipError(503, "too many requests without an answer")
        self._open[request[sig.ID]] = asked
        if request[sig.TYPE] == sig.SEND:
            self.host.take(self, request)
        else:
            self.host.receive(self, wire.encode(request))

    def relay(self, message: dict[int, Any]) -> tuple[int, str] | None:
        """Give the relay a message of a session: what it says against it, None when it is taken."""
        before = self._relaying, self._against
        self._relaying, self._against = message[sig.SESSION], None
        self.host.receive(self, wire.encode(message))
        found = self._against
        self._relaying, self._against = before
        return found

    def _told(self, message: dict[int, Any]) -> None:
        """An error without a number: of the session that is being relayed, or of no request."""
        said = message[sig.ERROR_CODE], message.get(sig.TEXT, "")
        session = message.get(sig.SESSION)
        if session is None:
            if self._registrar.binding is not None:
                self.ask(
                    dialect.notice(*said, self.name, self._realm, self.contact), lambda answer: None
                )
        elif session == self._relaying:
            self._against = said

    def come_again(self) -> None:
        """Be a new link that has not registered."""
        try:
            self.host.link_up(self)
        except RemoteError as error:  # somebody else took the room
            self._online = False
            self.refused(error.name, error.detail)
            self._close(error.name)

    def _answer(self, asked: Message, message: dict[int, Any]) -> None:
        """The relay's answer to a request of the device."""
        kind = message[sig.TYPE]
        code = message.get(sig.ERROR_CODE)
        if code is not None:
            self._respond_error(asked, code, message.get(sig.TEXT, ""), message[sig.FROM])
        elif kind == sig.REGISTERED:
            self._registrar.registered(asked, message)
        elif kind == sig.RESOLVED:
            self._registrar.resolved(asked, message)
        elif kind == sig.CERTIFIED:
            self._registrar.certified(asked, message)
        else:
            self.respond(asked, 200)

    # responses

    def fail(self, asked: Message, error: KeyferryError) -> None:
        """Answer a request with an error of the table."""
        self._respond_error(asked, error.code, error.text, MANAGER)

    def _respond_error(self, asked: Message, code: int, text: str, who: str) -> None:
        status = sip_parts.status_of(code)
        fields = [(b"Warning", sip_parts.warning(self._realm, code, text))]
        if who != MANAGER:
            fields.append((b"P-Asserted-Identity", f"<sip:{who}@{self._realm}>".encode()))
        if status == 503:
            fields.append((b"Retry-After", b"1"))
        self.respond(asked, status, fields)

    def respond(
        self,
        asked: Message,
        status: int,
        extra: Fields | None = None,
        body: bytes = b"",
        tag: bytes = b"",
    ) -> None:
        """Answer a request of this device."""
        if not asked.count(b"via"):
            return  # nobody would know it as an answer
        if status >= 200:
            self._settled(asked, status)
            tag = tag or secrets.token_hex(8).encode()
        self._write(answers.written(asked, status, self.address, tag, extra or (), body))

    def hand_back(self, asked: Message, answer: Message) -> None:
        """Hand on a peer's response to a request of this device."""
        if answer.status >= 200:
            self._settled(asked, answer.status)
        self._write(answers.encoded(answer))

    def begun(self, invite: Message, cancel: Callable[[Message], None]) -> None:
        """An INVITE waits for its final response, and can be cancelled."""
        self._invited[branch_of(invite)] = cancel

    def received(self, via: bytes) -> bytes:
        """A Via of the device with the address that was seen."""
        return answers.with_received(via, self.address)

    def _settled(self, asked: Message, status: int) -> None:
        self.endpoint.measures.sip_responses[str(status)] += 1
        if asked.method == b"INVITE" and self._invited:
            try:
                self._invited.pop(branch_of(asked), None)
            except SipError:
                pass

    # requests to the device

    @property
    def now(self) -> float:
        """The loop's clock."""
        return self._loop.time()

    @property
    def contact(self) -> bytes:
        """The Request-URI for the device: what it registered."""
        return self._registrar.contact or f"sip:{self.name}@{self._realm}".encode()

    def has_room(self) -> bool:
        """Whether the device can be given one more request."""
        return (
            self._online
            and not self._ended
            and not self._paused
            and len(self._sent) < self._settings.open_requests
        )

    def is_here(self, uri: Uri) -> bool:
        """Whether a URI names the manager itself."""
        return uri.host == self._here or uri.host in self.endpoint.hosts

    def remember_route(self, value: bytes) -> None:
        """A value of Route leads here, and always does."""
        if len(value) <= _LONGEST_ROUTE:
            if len(self.routes) >= _TARGETS:
                self.routes.clear()
            self.routes.add(value)

    @staticmethod
    def boundary() -> bytes:
        """A new boundary for the parts of a body."""
        return secrets.token_hex(12).encode()

    def ask(self, request: Message, answered: Answered, branch: bytes = b"") -> bytes:
        """Send a request that will be answered. The branch that it got."""
        branch = branch or b"z9hG4bK" + secrets.token_hex(12).encode()
        until = self._loop.time() + self._settings.transaction
        self._sent[request.method, branch] = _Sent(request, answered, until)
        self._write_request(request, branch)
        return branch

    def tell(self, request: Message) -> None:
        """Send an ACK, which nobody answers."""
        self._write_request(request, b"z9hG4bK" + secrets.token_hex(12).encode())

    def _write_request(self, request: Message, branch: bytes) -> None:
        via = b"SIP/2.0/TLS " + self._realm.encode() + b";branch=" + branch
        request.fields.insert(0, (b"via", b"Via", via))
        self._write(answers.encoded(request))

    def _send_message(self, message: dict[int, Any]) -> bool:
        if not self.has_room():
            return False
        branch, letter = self._letters.write(message, self.contact)
        sender, number = message[sig.FROM], message[sig.ID]

        def answered(answer: Message | int) -> None:
            if isinstance(answer, int):
                return  # the relay has told the sender before this
            report: dict[int, Any] = {
                sig.TYPE: sig.DELIVERED,
                sig.FROM: self.name,
                sig.TO: sender,
                sig.ID: number,
            }
            if answer.status >= 300:
                report[sig.ERROR_CODE] = sip_parts.error_of(answer)[0]
            self.host.take(self, report)

        until = self._loop.time() + self._settings.transaction
        self._sent[b"MESSAGE", branch] = _Sent(None, answered, until)
        self._write(letter)
        return True

    def _on_response(self, message: Message) -> None:
        """The device answers one of our requests; what answers none is dropped."""
        key = message.cseq()[1], branch_of(message)
        sent = self._sent.get(key)
        if sent is None:
            return
        if message.status < 200:
            if key[0] == b"INVITE":
                sent.until = self._loop.time() + self._settings.ringing
                sent.answered(message)
            return
        del self._sent[key]
        if key[0] == b"INVITE" and message.status >= 300 and sent.request is not None:
            self._acknowledge(sent.request, message)
        sent.answered(message)

    def _acknowledge(self, invite: Message, answer: Message) -> None:
        """ACK for a final response that is no 2xx: of this hop, in the same transaction."""
        ack = Message(b"ACK", invite.uri)
        for field in invite.fields:
            name = field[0]
            if name == b"to":
                ack.fields.append((name, field[1], answer.one(b"to")))
            elif name == b"cseq":
                number = field[2].split()[0]
                ack.fields.append((name, field[1], number + b" ACK"))
            elif name in (b"from", b"call-id", b"max-forwards") or (
                name == b"via" and not ack.fields
            ):
                ack.fields.append(field)
        self._write(answers.encoded(ack))

    # time and end

    def _check_times(self) -> None:
        """Once a second: what has waited too long."""
        self._timer = None
        now = self._loop.time()
        settings = self._settings
        for key, sent in list(self._sent.items()):
            if now > sent.until and self._sent.pop(key, None) is not None:
                sent.answered(408)
        self.endpoint.tick(now)
        binding = self._registrar.binding
        reason = ""
        if now >= self._certificate_ends:
            reason = "certificate-expired"
        elif self._reader.waiting and now - self._begun_at > settings.message_timeout:
            reason = "message-timeout"
        elif (
            binding is not None
            and binding.outbound
            and now - self._heard_at > settings.flow_timer + settings.flow_grace
        ):
            reason = "flow-timeout"
        elif now > max(self._heard_at, self._registrar.until) + settings.message_timeout:
            reason = "not-registered"
        if reason:
            self.refused(reason, "the connection is closed")
            self._close(reason)
            return
        if not self._ended:
            self._timer = self._loop.call_later(1.0, self._check_times)

    def _write(self, data: bytes) -> None:
        """All that one turn of the loop has for this device goes out at once."""
        if self._ended:
            return
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out and self._transport is not None:
            self._transport.write(b"".join(out))

    def refused(self, event: str, detail: str) -> None:
        """Write down something that the device must not do."""
        self.host.refused(event, self.name, self.address, detail)

    def _close(self, reason: str) -> None:
        self._flush()
        self._end(reason)
        if self._transport is not None:
            self._transport.close()

    def _end(self, reason: str) -> None:
        online = self._online
        self._leave()
        if online:
            self.host.link_down(self, False, reason)

    def _leave(self) -> None:
        self._online = False
        self._ended = True
        self._count_out()
        for timer in (self._timer, self._resume):
            if timer is not None:
                timer.cancel()
        self._timer = None
        self._open.clear()
        self._invited.clear()
        self._out.clear()
        sent, self._sent = self._sent, {}
        for entry in sent.values():
            entry.answered(430)

    def _count_out(self) -> None:
        if not self._counted:
            return
        self._counted = False
        waiting = self.endpoint.waiting
        waiting[self.certificate_der] -= 1
        if waiting[self.certificate_der] <= 0:
            del waiting[self.certificate_der]
