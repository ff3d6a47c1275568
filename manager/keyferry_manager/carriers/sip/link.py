"""The link of a device that speaks SIP: requests to the relay and its answers back.

The relay behind it is MQTT's: what a device asks for becomes a message of the signalling, and the
relay's answer becomes the response. So names, rules, routes, limits and the audit trail are the
same, and devices of both carriers reach each other. Which message becomes what is ``registrar``'s,
``sessions``' and ``calls``' to know; ``requests`` sorts what comes, ``transactions`` keeps what the
device was asked.
"""

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from keyferry_core import signalling as sig
from keyferry_core import sip_parts
from keyferry_core.errors import KeyferryError, RemoteError
from keyferry_core.names import MANAGER
from keyferry_core.sip_codec import Message
from keyferry_core.sip_fields import SipError, Uri
from keyferry_manager.carriers.sip import answers, dialect
from keyferry_manager.carriers.sip.answers import Fields
from keyferry_manager.carriers.sip.connection import Connection
from keyferry_manager.carriers.sip.registrar import Registrar
from keyferry_manager.carriers.sip.requests import Requests
from keyferry_manager.carriers.sip.sessions import Sessions
from keyferry_manager.carriers.sip.shapes import branch_of
from keyferry_manager.carriers.sip.transactions import Answered, Transactions
from keyferry_manager.carriers.tls import ChannelPeer
from keyferry_manager.relay import wire

if TYPE_CHECKING:
    from keyferry_manager.carriers.sip.endpoint import SipEndpoint, SipSettings

# Values of Route that are remembered to lead here, and bytes of one.
_ROUTES = 16
_LONGEST_ROUTE = 256
_IN_SESSION = (sig.CONNECT, sig.ACCEPT, sig.REJECT, sig.MESSAGE, sig.END)


class SipLink(Connection):
    """One device, on one connection."""

    def __init__(self, endpoint: "SipEndpoint", peer: ChannelPeer) -> None:
        super().__init__(endpoint, peer, sig.TRANSPORT_SIP_TLS)
        self._number = 0
        # Requests of the device that the relay has not answered, by number.
        self._open: dict[int, Message] = {}
        # INVITEs of the device that have no final response, by branch: how to cancel each.
        self.invited: dict[bytes, Callable[[Message], None]] = {}
        # The session of the message that the relay has right now, and what it says against it.
        self._relaying: bytes | None = None
        self._against: tuple[int, str] | None = None
        self.registrar = Registrar(self)
        self.requests = Requests(self, self._realm)
        # Both anew when it is known whose link this is.
        self.transactions = Transactions(self, self._realm)
        self.sessions = Sessions(self, {})
        # Values of Route that were found to lead to us.
        self.routes: set[bytes] = set()

    # the connection

    def _joined(self) -> None:
        self.transactions = Transactions(self, self._realm)
        self.sessions = Sessions(self, self.endpoint.dialogs(self.name))

    def _handle(self, message: Message) -> None:
        self.requests.handle(message)

    def _unreadable(self, error: SipError) -> None:
        message = error.message
        if message is not None and not message.status:
            self.respond(message, error.sip_status)

    def _overdue(self, now: float) -> str:
        self.transactions.expire(now)
        settings, binding = self._settings, self.registrar.binding
        if (
            binding is not None
            and binding.outbound
            and now - self._heard_at > settings.flow_timer + settings.flow_grace
        ):
            return "flow-timeout"
        if now > max(self._heard_at, self.registrar.until) + settings.message_timeout:
            return "not-registered"
        return ""

    def _gone(self) -> None:
        self._open.clear()
        self.invited.clear()
        self.transactions.give_up()

    @property
    def settings(self) -> "SipSettings":
        """The endpoint's, as this link has them."""
        return self._settings

    def learn(self, message: Message) -> None:
        """A message passed every check."""
        self._reader.learn(message)

    # the relay's link

    def send(self, payload: bytes) -> bool:
        """Take one message of the relay: an answer, or something from a peer. False, and nothing
        taken, when the device reads too slowly."""
        return self.take_map(wire.decode_map(payload))

    def take_map(self, message: dict[int, Any]) -> bool:
        """The same, as a map."""
        if not self._online or self._ended:
            return False
        kind = message[sig.TYPE]
        if kind == sig.SEND:
            return self.transactions.send(message)
        if kind in _IN_SESSION:
            return self.sessions.send(message)
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
        self.transactions.give_up()

    def close(self) -> None:
        """Send what can be sent, and end the link."""
        self._flush()
        self._leave()
        if self._transport is not None:
            self._transport.close()

    @property
    def unsent(self) -> int:
        """Requests to the device that it has not answered."""
        return len(self.transactions.open)

    def adopt(self) -> None:
        """The endpoint's settings have changed."""
        self._settings = self.endpoint.settings

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
            if self.registrar.binding is not None:
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
            self.registrar.registered(asked, message)
        elif kind == sig.RESOLVED:
            self.registrar.resolved(asked, message)
        elif kind == sig.CERTIFIED:
            self.registrar.certified(asked, message)
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
        self.write(answers.written(asked, status, self.address, tag, extra or (), body))

    def hand_back(self, asked: Message, answer: Message) -> None:
        """Hand on a peer's response to a request of this device."""
        if answer.status >= 200:
            self._settled(asked, answer.status)
        self.write(answers.encoded(answer))

    def begun(self, invite: Message, cancel: Callable[[Message], None]) -> None:
        """An INVITE waits for its final response, and can be cancelled."""
        self.invited[branch_of(invite)] = cancel

    def received(self, via: bytes) -> bytes:
        """A Via of the device with the address that was seen."""
        return answers.with_received(via, self.address)

    def _settled(self, asked: Message, status: int) -> None:
        self.endpoint.measures.sip_responses[str(status)] += 1
        if asked.method == b"INVITE" and self.invited:
            try:
                self.invited.pop(branch_of(asked), None)
            except SipError:
                pass

    # requests to the device

    @property
    def contact(self) -> bytes:
        """The Request-URI for the device: what it registered."""
        return self.registrar.contact or f"sip:{self.name}@{self._realm}".encode()

    def has_room(self) -> bool:
        """Whether the device can be given one more request."""
        return (
            self._online
            and not self._ended
            and not self._paused
            and len(self.transactions.open) < self._settings.open_requests
        )

    def is_here(self, uri: Uri) -> bool:
        """Whether a URI names the manager itself."""
        return uri.host == self._here or uri.host in self.endpoint.hosts

    def remember_route(self, value: bytes) -> None:
        """A value of Route leads here, and always does."""
        if len(value) <= _LONGEST_ROUTE:
            if len(self.routes) >= _ROUTES:
                self.routes.clear()
            self.routes.add(value)

    @staticmethod
    def boundary() -> bytes:
        """A new boundary for the parts of a body."""
        return secrets.token_hex(12).encode()

    def ask(self, request: Message, answered: Answered, branch: bytes = b"") -> bytes:
        """Send a request that will be answered. The branch that it got."""
        return self.transactions.ask(request, answered, branch)

    def tell(self, request: Message) -> None:
        """Send an ACK, which nobody answers."""
        self.transactions.tell(request)
