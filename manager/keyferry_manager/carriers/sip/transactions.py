"""What the manager asks of a device: its requests, until each has a final response."""

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from keyferry_core import signalling as sig
from keyferry_core import sip_parts
from keyferry_core.sip_codec import Message
from keyferry_manager.carriers.sip import answers
from keyferry_manager.carriers.sip.letters import Letters
from keyferry_manager.carriers.sip.shapes import branch_of

if TYPE_CHECKING:
    from keyferry_manager.carriers.sip.link import SipLink

# Gets each response to a request of ours, or 408 when none came, 430 when the connection ended.
Answered = Callable[[Message | int], None]


class _Sent:
    """A request of ours that has no final response."""

    __slots__ = ("answered", "request", "until")

    def __init__(self, request: Message | None, answered: Answered, until: float) -> None:
        self.request = request
        self.answered = answered
        self.until = until


class Transactions:
    """The requests to the device at the end of ``link`` that are open, by method and branch."""

    def __init__(self, link: "SipLink", realm: str) -> None:
        self._link = link
        self._realm = realm
        self._letters = Letters(link.name, realm)
        self.open: dict[tuple[bytes, bytes], _Sent] = {}

    def ask(self, request: Message, answered: Answered, branch: bytes = b"") -> bytes:
        """Send a request that will be answered. The branch that it got."""
        branch = branch or b"z9hG4bK" + secrets.token_hex(12).encode()
        until = self._link.now + self._link.settings.transaction
        self.open[request.method, branch] = _Sent(request, answered, until)
        self._write_request(request, branch)
        return branch

    def tell(self, request: Message) -> None:
        """Send an ACK, which nobody answers."""
        self._write_request(request, b"z9hG4bK" + secrets.token_hex(12).encode())

    def _write_request(self, request: Message, branch: bytes) -> None:
        via = b"SIP/2.0/TLS " + self._realm.encode() + b";branch=" + branch
        request.fields.insert(0, (b"via", b"Via", via))
        self._link.write(answers.encoded(request))

    def send(self, message: dict[int, Any]) -> bool:
        if not self._link.has_room():
            return False
        branch, letter = self._letters.write(message, self._link.contact)
        sender, number = message[sig.FROM], message[sig.ID]

        def answered(answer: Message | int) -> None:
            if isinstance(answer, int):
                return  # the relay has told the sender before this
            report: dict[int, Any] = {
                sig.TYPE: sig.DELIVERED,
                sig.FROM: self._link.name,
                sig.TO: sender,
                sig.ID: number,
            }
            if answer.status >= 300:
                report[sig.ERROR_CODE] = sip_parts.error_of(answer)[0]
            self._link.host.take(self._link, report)

        until = self._link.now + self._link.settings.transaction
        self.open[b"MESSAGE", branch] = _Sent(None, answered, until)
        self._link.write(letter)
        return True

    def answered(self, message: Message) -> None:
        """The device answers one of our requests; what answers none is dropped."""
        key = message.cseq()[1], branch_of(message)
        sent = self.open.get(key)
        if sent is None:
            return
        if message.status < 200:
            if key[0] == b"INVITE":
                sent.until = self._link.now + self._link.settings.ringing
                sent.answered(message)
            return
        del self.open[key]
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
        self._link.write(answers.encoded(ack))

    def expire(self, now: float) -> None:
        """Timers B, C and F."""
        for key, sent in list(self.open.items()):
            if now > sent.until and self.open.pop(key, None) is not None:
                sent.answered(408)

    def give_up(self) -> None:
        """No answer can come any more."""
        sent, self.open = self.open, {}
        for entry in sent.values():
            entry.answered(430)
